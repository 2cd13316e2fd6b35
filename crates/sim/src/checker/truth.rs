//! The reference model of the log: what must be in it, by branch. A branch is a line of history that a store went along;
//! a wiped or restored store begins another.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use redeliver_protocol::event::Record;
use redeliver_protocol::name::TopicName;
use redeliver_protocol::seq::{Epoch, Nth, Position, Seq};
use redeliver_protocol::time::{Instant, Timestamp};

use super::emitted::Emitted;
use super::{Case, Rule};
use crate::history::{Dumped, DumpedTopic, EmitKey, Kept, Opening, Origin, Process, Snapshot};

/// All branches that there were.
#[derive(Debug, Default)]
pub(super) struct Truth {
    pub(super) kept: Kept,
    branches: Vec<Branch>,
    snapshots: BTreeMap<Snapshot, Branch>,
    openings: BTreeMap<Opening, usize>,
    connected: BTreeMap<Process, usize>,
    clock_sets: Vec<usize>,
    ever: BTreeMap<(Epoch, Seq), EmitKey>,
    times: BTreeMap<(Epoch, Seq), Timestamp>,
}

/// One line of history.
#[derive(Clone, Debug, Default)]
pub(super) struct Branch {
    pub(super) line: usize,
    eras: Vec<Era>,
    pub(super) events: Vec<Logged>,
    topics: BTreeMap<TopicName, Vec<Seq>>,
    floors: BTreeMap<TopicName, Nth>,
    pub(super) keys: BTreeMap<EmitKey, Seq>,
    publishers: BTreeMap<u32, u64>,
    /// The publishers that were known when the line began.
    pub(super) remembered: BTreeSet<u32>,
    pub(super) acked_through: Seq,
}

#[derive(Clone, Copy, Debug)]
struct Era {
    epoch: Epoch,
    after: Seq,
    entry: usize,
    at: Instant,
    /// Whether nobody has set the clock since the opening before: then the time in between counts as it was.
    is_time_sure: bool,
}

/// An event that is in a branch.
#[derive(Clone, Debug)]
pub(super) struct Logged {
    pub(super) epoch: Epoch,
    bytes: u64,
    at: Instant,
    /// In which commit, and during which opening it was written.
    pub(super) commit: usize,
    opening: usize,
    /// Whoever follows one of these topics is not to get it.
    pub(super) except: Vec<TopicName>,
}

impl Branch {
    pub(super) fn head(&self) -> Seq {
        Seq(self.events.len() as u64)
    }

    /// Whether a position belongs to this line.
    pub(super) fn has(&self, position: Position) -> bool {
        self.reach(position.epoch).is_some_and(|(after, last)| after <= position.seq && position.seq <= last)
    }

    /// The bounds of an epoch: after which seq it began, and its last.
    pub(super) fn reach(&self, epoch: Epoch) -> Option<(Seq, Seq)> {
        let at = self.eras.iter().position(|era| era.epoch == epoch)?;
        let last = self.eras.get(at + 1).map_or(self.head(), |next| next.after);
        Some((self.eras[at].after, last))
    }

    pub(super) fn seqs(&self, topic: &TopicName) -> &[Seq] {
        self.topics.get(topic).map_or(&[], Vec::as_slice)
    }

    /// The nth of the topic's last event at or before this seq.
    pub(super) fn nth_at(&self, topic: &TopicName, seq: Seq) -> Nth {
        Nth(self.seqs(topic).partition_point(|s| *s <= seq) as u64)
    }

    pub(super) fn last_nth(&self, topic: &TopicName) -> Nth {
        Nth(self.seqs(topic).len() as u64)
    }

    pub(super) fn floor(&self, topic: &TopicName) -> Nth {
        self.floors.get(topic).copied().unwrap_or_default()
    }

    /// Epoch and seq of the topic's events after one nth and up to another.
    pub(super) fn keys_between(&self, topic: &TopicName, after: Nth, through: Nth) -> Vec<(Epoch, Seq)> {
        let seqs = self.seqs(topic);
        let end = usize::try_from(through.0).unwrap_or(usize::MAX).min(seqs.len());
        let begin = usize::try_from(after.0).unwrap_or(usize::MAX).min(end);
        seqs[begin..end].iter().filter_map(|seq| self.logged(*seq).map(|event| (event.epoch, *seq))).collect()
    }

    pub(super) fn logged(&self, seq: Seq) -> Option<&Logged> {
        self.events.get(usize::try_from(seq.0.checked_sub(1)?).ok()?)
    }

    /// How much more time than there was, in microseconds, an event of this opening may seem to have passed.
    fn time_passed_over(&self, opening: usize, now: Instant) -> u128 {
        let later = self.eras.iter().enumerate().skip(opening).filter(|(_, era)| !era.is_time_sure);
        let steps = later.map(|(at, era)| {
            let end = self.eras.get(at + 1).map_or(now, |next| next.at);
            if end.since(era.at) >= STANDS { AWAY_MICROS } else { AGE_STEP_MICROS }
        });
        steps.sum()
    }

    /// Whether the time that a server counts is the time that there was. A time away that it does not believe yet makes
    /// what it writes look younger.
    fn is_time_sure(&self) -> bool {
        self.eras.iter().all(|era| era.is_time_sure)
    }

    fn append(&mut self, case: &mut Case, emitted: &Emitted, (key, position): (EmitKey, Position)) {
        let Some(emit) = emitted.known(key) else {
            case.must(false, Rule::NothingInvented, || {
                format!("{key:?} is in the log at {position}, nobody emitted it")
            });
            return;
        };
        case.must(position.seq == self.head().next(), Rule::NoHoles, || {
            format!("{key:?} was stored at {position}, the head was {}", self.head())
        });
        case.must(self.eras.last().is_some_and(|era| era.epoch == position.epoch), Rule::OneContent, || {
            format!("{key:?} was stored at {position}, which is not the running epoch")
        });
        if let Some(earlier) = self.keys.insert(key, position.seq) {
            case.must(false, Rule::NothingInvented, || {
                format!("{key:?} is stored twice: {earlier} and {}", position.seq)
            });
        }
        let last = self.publishers.insert(key.publisher, key.index).unwrap_or(0);
        case.must(last < key.index, Rule::Order, || format!("{key:?} was stored after number {last} of its publisher"));
        case.must(!emit.refused, Rule::AcknowledgedIsStored, || format!("{key:?} is stored though it was refused"));
        let (line, bound) = emit.acked_before;
        case.must(line != self.line || position.seq > bound, Rule::Order, || {
            format!("{key:?} has {}, but {bound} was acknowledged before it was emitted", position.seq)
        });
        for topic in &emit.event.topics {
            self.topics.entry(topic.clone()).or_default().push(position.seq);
        }
        let bytes = emit.event.size_bytes() as u64;
        let opening = self.eras.len();
        let except = emit.event.except.clone();
        self.events.push(Logged { epoch: position.epoch, bytes, at: case.at, commit: case.entry, opening, except });
    }
}

impl Truth {
    /// The line that the running server is on.
    pub(super) fn current(&self) -> Option<&Branch> {
        self.branches.last()
    }

    /// The line of the server that a process was last connected to.
    pub(super) fn of(&self, process: Process) -> Option<&Branch> {
        self.connected.get(&process).and_then(|at| self.branches.get(*at))
    }

    /// What was ever published at this position.
    pub(super) fn at(&self, position: Position) -> Option<EmitKey> {
        self.ever.get(&(position.epoch, position.seq)).copied()
    }

    pub(super) fn connected(&mut self, process: Process, opening: Opening) {
        if let Some(branch) = self.openings.get(&opening) {
            self.connected.insert(process, *branch);
        }
    }

    /// The server's wall clock was set.
    pub(super) fn clock_set(&mut self, entry: usize) {
        self.clock_sets.push(entry);
    }

    pub(super) fn acknowledged(&mut self, process: Process, seq: Seq) {
        if let Some(branch) = self.connected.get(&process).and_then(|at| self.branches.get_mut(*at)) {
            branch.acked_through = branch.acked_through.max(seq);
        }
    }

    pub(super) fn snapshot(&mut self, snapshot: Snapshot) {
        if let Some(branch) = self.branches.last() {
            self.snapshots.insert(snapshot, branch.clone());
        }
    }

    pub(super) fn opened(
        &mut self,
        case: &mut Case,
        emitted: &Emitted,
        (opening, origin, epoch, head): (Opening, Origin, Epoch, Seq),
        dump: &[DumpedTopic],
    ) {
        match origin {
            Origin::Continued if !self.branches.is_empty() => {}
            Origin::Continued | Origin::Wiped => self.branches.push(Branch::default()),
            Origin::Restored(snapshot) => {
                let mut branch = self.snapshots.get(&snapshot).cloned().unwrap_or_default();
                branch.acked_through = Seq::ZERO;
                self.branches.push(branch);
            }
        }
        let line = self.branches.len() - 1;
        self.openings.insert(opening, line);
        let Some(mut branch) = self.branches.pop() else { return };
        if origin != Origin::Continued {
            branch.line = line;
            branch.remembered = branch.publishers.keys().copied().collect();
        }
        case.must(branch.head() <= head, Rule::NothingTakenBack, || {
            format!("the log opened with head {head}, it had published up to {}", branch.head())
        });
        self.adopt(case, emitted, &mut branch, head, dump);
        let is_time_sure = branch.eras.last().is_none_or(|before| {
            origin == Origin::Continued && self.clock_sets.last().is_none_or(|set| *set < before.entry)
        });
        branch.eras.push(Era { epoch, after: branch.head(), entry: case.entry, at: case.at, is_time_sure });
        self.branches.push(branch);
        self.dumped(case, head, dump);
    }

    /// Takes over what was written but not yet published when the server before ended: that may be there or not.
    fn adopt(&mut self, case: &mut Case, emitted: &Emitted, branch: &mut Branch, head: Seq, dump: &[DumpedTopic]) {
        let mut extra: BTreeMap<Seq, (&Dumped, Vec<&TopicName>)> = BTreeMap::new();
        for topic in dump {
            for event in topic.events.iter().filter(|event| event.position.seq > branch.head()) {
                extra.entry(event.position.seq).or_insert((event, Vec::new())).1.push(&topic.topic);
            }
        }
        for (event, topics) in extra.into_values() {
            let Some(key) = emitted.key_of(&event.payload) else {
                case.must(false, Rule::NothingInvented, || {
                    format!("nobody emitted what the log has at {}", event.position)
                });
                return;
            };
            let known: Vec<&TopicName> =
                emitted.known(key).map(|emit| emit.event.topics.iter().collect()).unwrap_or_default();
            let complete = known.len() == topics.len() && known.iter().all(|topic| topics.contains(topic));
            case.must(complete, Rule::NoHoles, || format!("{key:?} is in topics {topics:?} of {known:?} only"));
            branch.append(case, emitted, (key, event.position));
            // It was written at some time since the server before was seen to do something.
            let before = branch.events.iter().rev().nth(1).map(|event| event.at);
            let earliest = before.max(branch.eras.last().map(|era| era.at));
            if let (Some(earliest), Some(event)) = (earliest, branch.events.last_mut()) {
                event.at = earliest;
            }
            self.ever.insert((event.position.epoch, event.position.seq), key);
        }
        case.must(branch.head() >= head, Rule::NoHoles, || {
            format!("the log's head is {head}, its end {}", branch.head())
        });
    }

    pub(super) fn committed(&mut self, case: &mut Case, emitted: &Emitted, events: &[(EmitKey, Position)]) {
        for (key, position) in events {
            let earlier = self.ever.insert((position.epoch, position.seq), *key);
            case.must(earlier.is_none_or(|earlier| earlier == *key), Rule::OneContent, || {
                format!("{position} was {earlier:?} and is now {key:?}")
            });
            if let Some(branch) = self.branches.last_mut() {
                branch.append(case, emitted, (*key, *position));
            }
        }
    }

    /// Holds what a separate reader found against what must be there.
    pub(super) fn dumped(&mut self, case: &mut Case, head: Seq, dump: &[DumpedTopic]) {
        for topic in dump {
            // A copy that trims nothing may still show what the server hides already.
            let known = self.current().map_or(Nth::ZERO, |branch| branch.floor(&topic.topic));
            self.floor(case, &topic.topic, topic.floor.max(known));
        }
        let Some(branch) = self.branches.last() else { return };
        case.must(head == branch.head(), Rule::NothingTakenBack, || {
            format!("head {head}, should be {}", branch.head())
        });
        let mut times: BTreeMap<Seq, Timestamp> = BTreeMap::new();
        for topic in dump {
            let name = &topic.topic;
            let mut nth = topic.floor;
            for event in &topic.events {
                case.must(event.nth == nth.next(), Rule::NoHoles, || {
                    format!("{name}: nth {} follows {nth}", event.nth)
                });
                nth = event.nth;
                let there = branch.seqs(name).get(usize::try_from(nth.0 - 1).unwrap_or(0)).copied();
                let logged = branch.logged(event.position.seq);
                let same = there == Some(event.position.seq) && logged.is_some_and(|e| e.epoch == event.position.epoch);
                case.must(same, Rule::OneContent, || {
                    format!("{name}: nth {nth} is at {} in the log, should be at seq {there:?}", event.position)
                });
                times.insert(event.position.seq, event.time);
                self.times.insert((event.position.epoch, event.position.seq), event.time);
            }
            case.must(nth == branch.last_nth(name), Rule::NothingTakenBack, || {
                format!("{name} ends with nth {nth}, should have {}", branch.last_nth(name))
            });
        }
        // Only a clock that was set back by more than a correction may show.
        let pairs = times.values().zip(times.values().skip(1));
        let goes_back = pairs.clone().any(|(a, b)| a > b && a.since(*b) <= TIME_CLAMP);
        case.must(!goes_back, Rule::NothingTakenBack, || "the events' times go back by a little".to_owned());
    }

    /// Everything is past its age by now, if the world has waited for it: then nothing is left.
    pub(super) fn settled(&self, case: &mut Case) {
        let (Some(branch), Some(age)) = (self.branches.last(), self.kept.age_micros) else { return };
        let Some(newest) = branch.events.last() else { return };
        let is_due = case.at.since(newest.at).as_micros() > u128::from(age) + AGE_LATE_MICROS;
        if !is_due || !branch.is_time_sure() {
            return;
        }
        for topic in branch.topics.keys() {
            let (floor, last) = (branch.floor(topic), branch.last_nth(topic));
            case.must(floor == last, Rule::TrimsAreDue, || {
                format!("{topic}: all {last} events are past their age, and only {floor} are gone")
            });
        }
    }

    /// What an event's time was seen to be must stay.
    pub(super) fn time_seen(&mut self, case: &mut Case, position: Position, time: Timestamp) {
        let earlier = self.times.insert((position.epoch, position.seq), time);
        case.must(earlier.is_none_or(|earlier| earlier == time), Rule::OneContent, || {
            format!("the time of {position} was {earlier:?} and is now {time}")
        });
    }

    pub(super) fn floor(&mut self, case: &mut Case, topic: &TopicName, nth: Nth) {
        let kept = self.kept;
        let Some(branch) = self.branches.last_mut() else { return };
        let before = branch.floor(topic);
        case.must(before <= nth, Rule::NothingTakenBack, || format!("{topic}: the floor fell from {before} to {nth}"));
        case.must(nth <= branch.last_nth(topic), Rule::TrimsAreDue, || {
            format!("{topic}: floor {nth} is above its end")
        });
        if before >= nth {
            return;
        }
        branch.floors.insert(topic.clone(), nth);
        let Some(last) = branch.keys_between(topic, before, nth).last().map(|(_, seq)| *seq) else { return };
        let newer = &branch.events[usize::try_from(last.0).unwrap_or(0)..];
        let Some(event) = branch.logged(last) else { return };
        let by_count = kept.count.is_some_and(|count| newer.len() as u64 >= count);
        // Commits go whole, several small ones together, as soon as the log holds too much with them.
        let commit = branch.events.iter().filter(|other| other.commit == event.commit).map(|other| other.bytes);
        let after = newer.iter().filter(|other| other.commit != event.commit).map(|other| other.bytes);
        let by_bytes = kept.bytes.is_some_and(|bytes| commit.chain(after).sum::<u64>() + BYTES_SLACK > bytes);
        let old = case.at.since(event.at).as_micros();
        let paced = old + branch.time_passed_over(event.opening, case.at) + AGE_SLACK_MICROS;
        let by_age = kept.age_micros.is_some_and(|bound| paced >= u128::from(bound));
        case.must(by_count || by_bytes || by_age, Rule::TrimsAreDue, || {
            format!("{topic}: nth {nth} (seq {last}, {old} µs old, {} newer) was trimmed before its time", newer.len())
        });
    }
}

/// Smaller steps back of the wall clock never show in events' times.
const TIME_CLAMP: Duration = Duration::from_secs(5);

/// How far a wall clock that is set ahead while no server runs may move the age of events at once.
const AGE_STEP_MICROS: u128 = 60_000_000;

/// A wall clock that has stood for so long after an opening is believed, up to so much.
const STANDS: Duration = Duration::from_secs(179);
const AWAY_MICROS: u128 = 366 * 24 * 3_600_000_000;

/// What is older than its age by so much is gone, if a server runs.
const AGE_LATE_MICROS: u128 = 5_000_000;

/// How many bytes of small commits may go together.
const BYTES_SLACK: u64 = 4_096;

/// Events are as old as their stage, which is a sync before they are published.
const AGE_SLACK_MICROS: u128 = 100_000;

/// Holds what was delivered against what was emitted.
pub(super) fn check_content(
    case: &mut Case,
    truth: &mut Truth,
    emitted: &Emitted,
    topic: &TopicName,
    position: Position,
    record: &Record,
) {
    let key = truth.at(position);
    let emit = key.and_then(|key| emitted.known(key));
    case.must(emit.is_some(), Rule::DurableFirst, || format!("{position} was handed over and is not published"));
    let Some(emit) = emit else { return };
    let event = &emit.event;
    let same = event.payload == record.payload && event.name == record.name && event.kind == record.kind;
    case.must(same, Rule::OneContent, || format!("{position} is {key:?} and was handed over with other content"));
    case.must(event.topics.contains(topic), Rule::NothingInvented, || format!("{key:?} leaked into {topic}"));
    truth.time_seen(case, position, record.time);
}
