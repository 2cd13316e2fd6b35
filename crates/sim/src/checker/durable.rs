//! Subscribers whose cursor outlives a run: nothing is skipped between runs, and repeated only if it was not confirmed.

use std::collections::{BTreeMap, BTreeSet};

use redeliver_protocol::frame::Window;
use redeliver_protocol::history::{Cursor, Gap};
use redeliver_protocol::name::{SubscriberName, TopicName};
use redeliver_protocol::seq::{Epoch, Nth, Position, Seq};

use super::owner::{DurableKey, Owner};
use super::truth::{Branch, Truth};
use super::withheld::Withheld;
use super::{Case, Rule};
use crate::history::{Keeper, Origin, Run, Snapshot};

#[derive(Debug, Default)]
pub(super) struct Durables {
    all: BTreeMap<DurableKey, Durable>,
    snapshots: BTreeMap<Snapshot, BTreeMap<DurableKey, Durable>>,
    owners: BTreeMap<(SubscriberName, TopicName), u64>,
    grants: BTreeMap<(SubscriberName, TopicName, u64), usize>,
    written: BTreeMap<DurableKey, Cursor>,
}

/// What is known of one cursor over all runs.
#[derive(Clone, Debug, Default)]
struct Durable {
    begun: bool,
    window: u32,
    /// Streams that began since something was last confirmed: each may hand over more.
    streams: u32,
    /// Handled, told as gone, or before its first start: what a run need not give.
    done: BTreeSet<(Epoch, Seq)>,
    /// To which run an event was handed last, and when that run's stream had begun.
    handed: BTreeMap<(Epoch, Seq), (Run, usize)>,
    confirmed: BTreeSet<(Epoch, Seq)>,
    /// Readers that move the cursor and have not been told yet that they did.
    rewinding: BTreeSet<Run>,
    /// When the cursor was moved last, as the number of the entry.
    moved_at: usize,
    /// What comes again because the cursor was moved.
    again: BTreeSet<(Epoch, Seq)>,
    /// Where the cursor was ever about to be written, and when it was written first.
    places: BTreeSet<Nth>,
    written_since: Option<usize>,
    /// A move that is in a commit, and perhaps not durable.
    staged_move: Option<Nth>,
}

impl Durables {
    pub(super) fn begin(
        &mut self,
        keeper: &Keeper,
        (run, topic, window): (Run, &TopicName, Window),
        rewinds: bool,
    ) -> Option<DurableKey> {
        let owner = match keeper {
            Keeper::Nobody => return None,
            Keeper::Server(subscriber) => Owner::Server(subscriber.clone()),
            Keeper::Client(client) => Owner::Client(*client),
        };
        let key = (owner, topic.clone());
        let durable = self.all.entry(key.clone()).or_default();
        durable.window = durable.window.max(window.events);
        if rewinds {
            durable.rewinding.insert(run);
        }
        Some(key)
    }

    /// How many events a run may be given again. What was not acknowledged, and what was but is not saved yet, is a window
    /// each; and each stream that began while nothing could be saved had a window of its own.
    pub(super) fn repeats_max(&self, key: &DurableKey) -> u32 {
        self.all.get(key).map_or(0, |durable| durable.window.saturating_mul(2).saturating_mul(durable.streams.max(1)))
    }

    pub(super) fn stream_began(&mut self, key: &DurableKey) {
        if let Some(durable) = self.all.get_mut(key) {
            durable.streams += 1;
        }
    }

    /// Judges where a run starts: nothing before it may be owed, nothing after it confirmed.
    pub(super) fn started(
        &mut self,
        case: &mut Case,
        branch: &Branch,
        key: &DurableKey,
        (run, nth, begun): (Run, Nth, usize),
        (gap, excuse): (Option<&Gap>, Nth),
    ) {
        // Where a reader stands that was displaced before it heard of its own beginning is of the past.
        let is_displaced = matches!(&key.0, Owner::Server(subscriber)
            if self.latest_grant(subscriber, &key.1).is_some_and(|latest| latest > begun));
        let Some(durable) = self.all.get_mut(key) else { return };
        let topic = &key.1;
        let before = branch.keys_between(topic, Nth::ZERO, nth);
        if durable.rewinding.remove(&run) {
            // It starts where it says, which is judged by itself.
            durable.begun = true;
            durable.done.extend(before);
            return;
        }
        if durable.begun && nth > excuse && begun >= durable.moved_at {
            let told = gap.map_or(0, |gap| gap.count);
            let owed: Vec<_> = before.iter().filter(|key| !durable.done.contains(key)).collect();
            case.must(owed.len() as u64 <= told, Rule::Complete, || {
                format!("{run:?} of {key:?} starts after nth {nth}: {owed:?} were never handled")
            });
        }
        durable.begun = true;
        durable.done.extend(before);
        let after = branch.keys_between(topic, nth, Nth(u64::MAX));
        let again = after.iter().find(|key| durable.confirmed.contains(key));
        case.must(again.is_none() || is_displaced, Rule::AckAfterHandler, || {
            format!("{run:?} of {key:?} starts after nth {nth}, though {again:?} is confirmed: the cursor went back")
        });
    }

    /// Judges a run that goes on behind events that it was not given.
    pub(super) fn overtaken(
        &mut self,
        case: &mut Case,
        branch: &Branch,
        key: &DurableKey,
        (run, from, to): (Run, Nth, Nth),
        (begun, excuse): (usize, Nth),
    ) {
        let is_past = |durable: &Durable| to <= excuse || begun < durable.moved_at;
        let Some(durable) = self.all.get(key).filter(|durable| !is_past(durable)) else { return };
        let owed = branch.keys_between(&key.1, from, to).into_iter().find(|event| !durable.done.contains(event));
        case.must(owed.is_none(), Rule::Complete, || {
            format!("{run:?} of {key:?} goes on after nth {to} instead of {from}: {owed:?} was never handled")
        });
    }

    /// All but these may be given again: their reader was told that the history is another. A log may be put back, and
    /// later forth again.
    pub(super) fn anew(&mut self, key: &DurableKey, kept: &[(Epoch, Seq)]) {
        if let Some(durable) = self.all.get_mut(key) {
            durable.handed.retain(|event, _| kept.contains(event));
            durable.confirmed.retain(|event| kept.contains(event));
        }
    }

    /// Up to which nth of this line everything is done, by whichever reader.
    pub(super) fn done_through(&self, branch: &Branch, key: &DurableKey) -> Nth {
        let Some(durable) = self.all.get(key) else { return Nth::ZERO };
        let all = branch.keys_between(&key.1, Nth::ZERO, Nth(u64::MAX));
        Nth(all.iter().take_while(|event| durable.done.contains(event)).count() as u64)
    }

    /// Judges an event handed to a run; says whether it is a repeat of another run's.
    pub(super) fn handed(
        &mut self,
        case: &mut Case,
        key: &DurableKey,
        (run, position, begun): (Run, Position, usize),
        redelivered: bool,
    ) -> bool {
        let Some(durable) = self.all.get_mut(key) else { return false };
        let event = (position.epoch, position.seq);
        // What is under way to a reader that was displaced meanwhile nobody can mark any more.
        let later = durable.handed.get(&event).is_some_and(|(_, theirs)| *theirs > begun);
        if later {
            return false;
        }
        let earlier = durable.handed.insert(event, (run, begun)).map(|(run, _)| run).filter(|earlier| *earlier != run);
        case.must(redelivered || earlier.is_none(), Rule::OnceOrMarked, || {
            format!("{run:?} of {key:?} is given {position} again after {earlier:?}, not marked")
        });
        case.must(!durable.confirmed.contains(&event) || earlier.is_none(), Rule::OnceOrMarked, || {
            format!("{run:?} of {key:?} is given {position} again after {earlier:?}, though it was confirmed")
        });
        earlier.is_some() && !durable.again.remove(&event)
    }

    /// Where a reader of this name may go on that began before the cursor was moved, by what it knows itself.
    pub(super) fn moved_at(&self, key: &DurableKey) -> usize {
        self.all.get(key).map_or(0, |durable| durable.moved_at)
    }

    /// Judges a first start: it is the first only if the cursor was never written. Says whether it is.
    pub(super) fn is_first_start(&self, key: &DurableKey, begun: usize) -> bool {
        self.all.get(key).is_none_or(|durable| durable.written_since.is_none_or(|since| since >= begun))
    }

    /// Whether the cursor was ever about to be written there.
    pub(super) fn was_at(&self, key: &DurableKey, nth: Nth) -> bool {
        self.all.get(key).is_some_and(|durable| durable.places.contains(&nth))
    }

    /// These were passed over by a reader from which they are withheld.
    pub(super) fn passed_over(&mut self, branch: &Branch, key: &DurableKey, through: Nth, withheld: &Withheld) {
        let Some(durable) = self.all.get_mut(key) else { return };
        let events = branch.keys_between(&key.1, Nth::ZERO, through);
        let open = events.into_iter().filter(|event| !durable.done.contains(event));
        let passed: Vec<_> = open.filter(|(_, seq)| withheld.may_be_of(branch, key, *seq)).collect();
        durable.done.extend(passed);
    }

    pub(super) fn handled(&mut self, key: &DurableKey, event: (Epoch, Seq)) {
        if let Some(durable) = self.all.get_mut(key) {
            durable.done.insert(event);
        }
    }

    pub(super) fn covered(&mut self, key: &DurableKey, events: Vec<(Epoch, Seq)>) {
        if let Some(durable) = self.all.get_mut(key) {
            durable.done.extend(events);
        }
    }

    pub(super) fn confirmed(&mut self, key: &DurableKey, event: (Epoch, Seq), begun: usize) {
        // What a reader had acknowledged before the cursor was moved says nothing about where it is now.
        if let Some(durable) = self.all.get_mut(key).filter(|durable| begun >= durable.moved_at) {
            durable.confirmed.insert(event);
            durable.streams = 1;
        }
    }

    pub(super) fn owned(&mut self, case: &Case, (subscriber, topic): (&SubscriberName, &TopicName), connection: u64) {
        self.owners.insert((subscriber.clone(), topic.clone()), connection);
        self.grants.insert((subscriber.clone(), topic.clone(), connection), case.entry);
    }

    /// When the server gave a connection the topic, as the number of the entry.
    pub(super) fn granted(&self, key: &DurableKey, connection: u64) -> Option<usize> {
        let (Owner::Server(subscriber), topic) = key else { return None };
        self.grants.get(&(subscriber.clone(), topic.clone(), connection)).copied()
    }

    fn latest_grant(&self, subscriber: &SubscriberName, topic: &TopicName) -> Option<usize> {
        let from = (subscriber.clone(), topic.clone(), 0);
        let to = (subscriber.clone(), topic.clone(), u64::MAX);
        self.grants.range(from..=to).map(|(_, entry)| *entry).max()
    }

    pub(super) fn cursor_staged(&mut self, case: &mut Case, key: &DurableKey, connection: u64, cursor: &Cursor) {
        if let (Owner::Server(subscriber), topic) = key {
            let owner = self.owners.get(&(subscriber.clone(), topic.clone())).copied();
            case.must(owner == Some(connection), Rule::OneOwner, || {
                format!(
                    "connection {connection} wrote the cursor of {subscriber} in {topic}, which belongs to {owner:?}"
                )
            });
        }
        let earlier = self.written.get(key).map(|earlier| earlier.place.nth);
        let Some(durable) = self.all.get_mut(key) else { return };
        durable.places.insert(cursor.place.nth);
        if !durable.rewinding.is_empty() && earlier.is_some_and(|earlier| earlier > cursor.place.nth) {
            durable.staged_move = Some(cursor.place.nth);
        }
    }

    /// A cursor is durable, whoever keeps it.
    pub(super) fn cursor_written(&mut self, case: &mut Case, truth: &Truth, key: &DurableKey, cursor: &Cursor) {
        let Some(branch) = truth.current() else { return };
        let earlier = self.written.insert(key.clone(), cursor.clone());
        let Some(durable) = self.all.get_mut(key) else { return };
        durable.places.insert(cursor.place.nth);
        durable.written_since.get_or_insert(case.entry);
        durable.staged_move = None;
        if !branch.has(cursor.place.position) {
            return;
        }
        let nth = cursor.place.nth;
        let is_moving = !durable.rewinding.is_empty();
        if is_moving {
            durable.done.extend(branch.keys_between(&key.1, Nth::ZERO, nth));
        }
        let Some(earlier) = earlier else { return };
        let fell = branch.has(earlier.place.position) && earlier.place.position.seq > cursor.place.position.seq;
        case.must(!fell || is_moving, Rule::AckAfterHandler, || {
            format!("the cursor of {key:?} went back from {earlier:?} to {cursor:?}")
        });
        let is_elsewhere = !branch.has(earlier.place.position);
        if is_moving && (fell || is_elsewhere) {
            durable.moved(branch, &key.1, nth, case.entry);
            let after = branch.keys_between(&key.1, nth, Nth(u64::MAX));
            durable.done.retain(|event| !after.contains(event));
        }
    }

    pub(super) fn snapshot(&mut self, snapshot: Snapshot) {
        self.snapshots.insert(snapshot, self.all.clone());
    }

    /// A server that opened anew has no owners; one on another store has that store's cursors.
    pub(super) fn opened(&mut self, case: &Case, truth: &Truth, origin: Origin) {
        self.owners.clear();
        if origin != Origin::Continued {
            self.written.retain(|(owner, _), _| !owner.is_server());
        }
        if let Some(branch) = truth.current() {
            for ((_, topic), durable) in self.all.iter_mut().filter(|((owner, _), _)| owner.is_server()) {
                // Whether that cursor came to be durable nobody has said.
                if let Some(nth) = durable.staged_move.take() {
                    durable.moved(branch, topic, nth, case.entry);
                }
            }
        }
        let before = match origin {
            Origin::Continued => return,
            Origin::Wiped => BTreeMap::new(),
            Origin::Restored(snapshot) => self.snapshots.get(&snapshot).cloned().unwrap_or_default(),
        };
        for (key, durable) in self.all.iter_mut().filter(|((owner, _), _)| matches!(owner, Owner::Server(_))) {
            let old = before.get(key).cloned().unwrap_or_default();
            durable.begun = old.begun;
            durable.handed = old.handed;
            durable.confirmed = old.confirmed;
            durable.done.extend(old.done);
            (durable.places, durable.written_since) = (old.places, old.written_since);
            (durable.again, durable.moved_at) = (old.again, case.entry);
        }
    }
}

impl Durable {
    /// The cursor goes back: what lies behind it comes again.
    fn moved(&mut self, branch: &Branch, topic: &TopicName, nth: Nth, entry: usize) {
        let after = branch.keys_between(topic, nth, Nth(u64::MAX));
        self.moved_at = entry;
        self.confirmed.retain(|event| !after.contains(event));
        self.again.extend(after.into_iter().filter(|event| self.handed.contains_key(event)));
    }
}
