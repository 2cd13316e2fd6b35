//! A merged subscription: several topics of a client read as one, across its connections. Each member is a subscription
//! like any other, with its own proof of completeness, its own cursor and its own acks on the wire; here is the order in
//! which they hand over, and what an ack in that order means for each of them.
//!
//! The server sends in the order of the log, so whatever has arrived and has the lowest seq is next. Where an event belongs
//! to several of the topics, it comes by one of them and the others are told a skip just before it: the skips are handed
//! over first and acknowledged with the event, so that neither a cut nor a crash has it come by another topic once more.
//!
//! Nothing here may cost more for each event than the logarithm of the number of members.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};

use super::StreamItem;
use super::inbox::Misfit;
use super::merged_place::MergedPlace;
use super::outputs::Outputs;
use super::subscription::{Due, Handed, Subscription};
use crate::seq::{Nth, Position, Seq, SubscriptionId};

/// Subscriptions that are read as one.
#[derive(Debug)]
pub(super) struct Merged {
    id: SubscriptionId,
    members: Vec<SubscriptionId>,
    /// How many members have not ended.
    remaining: usize,
    /// How many members' streams stand on the present connection.
    open: usize,
    is_leaving: bool,
    /// How many events and gaps were handed over.
    handed: u64,
    /// The seq of the last event that has arrived, and whether a skip has come since.
    arrived: (Seq, bool),
    /// When each member that holds something is due. Invariant: whoever holds something has an entry that is not later than
    /// what it holds. (It may be earlier, or of one that holds nothing any more: whoever takes it out looks again.)
    due: BinaryHeap<Reverse<(Due, SubscriptionId)>>,
    /// Who was handed something, oldest first, as far as it is not acknowledged.
    in_hand: VecDeque<(u64, SubscriptionId)>,
    standing: Standing,
    place: MergedPlace,
    unconfirmed: Unconfirmed,
}

/// What the members have told of their streams: it is told once for all of them.
#[derive(Debug, Default)]
struct Standing {
    subscribed: usize,
    after: Position,
    pending: u64,
    caught_up: usize,
    head: Seq,
}

/// Acks in the order of the whole that are not confirmed by all members whom they concern.
#[derive(Debug, Default)]
struct Unconfirmed {
    /// Oldest first: the seq that the app named, and for how many members' confirmations it waits.
    acks: VecDeque<(Seq, usize)>,
    /// The number of the first of them; they are counted from the beginning.
    first: u64,
    /// What each member has to confirm, for which ack.
    of_member: BTreeMap<SubscriptionId, VecDeque<(Seq, u64)>>,
}

impl Merged {
    pub(super) fn new(id: SubscriptionId, members: Vec<SubscriptionId>, place: MergedPlace) -> Merged {
        Merged {
            id,
            remaining: members.len(),
            members,
            open: 0,
            is_leaving: false,
            handed: 0,
            arrived: (Seq::ZERO, false),
            due: BinaryHeap::new(),
            in_hand: VecDeque::new(),
            standing: Standing::default(),
            place,
            unconfirmed: Unconfirmed::default(),
        }
    }

    pub(super) fn members(&self) -> &[SubscriptionId] {
        &self.members
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.is_leaving
    }

    /// Hands over nothing more.
    pub(super) fn leave(&mut self) {
        self.is_leaving = true;
    }

    /// All streams are gone: what comes next belongs to new ones.
    pub(super) fn streams_gone(&mut self) {
        self.open = 0;
        self.arrived = (Seq::ZERO, false);
        self.due.clear();
        self.standing = Standing::default();
    }

    /// One member's stream stands.
    pub(super) fn stream_opened(&mut self) {
        self.open += 1;
    }

    /// A member that held nothing holds something now.
    pub(super) fn is_due(&mut self, member: SubscriptionId, due: Due) {
        self.due.push(Reverse((due, member)));
    }

    /// A member has ended. Returns whether it was the last.
    pub(super) fn member_gone(&mut self, was_open: bool) -> bool {
        self.open -= usize::from(was_open).min(self.open);
        self.remaining -= usize::from(self.remaining > 0);
        self.remaining == 0
    }

    /// Events arrive by one of the members. They must follow on what came by the others.
    pub(super) fn events_arrive(&mut self, first: Seq) -> Result<(), Misfit> {
        self.follows(first)?;
        self.arrived = (first, false);
        Ok(())
    }

    /// The events that arrived ended with this seq.
    pub(super) fn events_arrived(&mut self, last: Seq) {
        self.arrived.0 = self.arrived.0.max(last);
    }

    /// A skip arrives. Returns whether an event has come since the last one, so that the two stand apart.
    pub(super) fn skip_arrives(&mut self, through: Seq) -> Result<bool, Misfit> {
        self.follows(through)?;
        Ok(!std::mem::replace(&mut self.arrived.1, true))
    }

    fn follows(&self, seq: Seq) -> Result<(), Misfit> {
        if self.is_leaving {
            return Ok(());
        }
        if self.open < self.members.len() {
            return Err(Misfit::Hole("a merged subscription began before all its topics had their places"));
        }
        if seq <= self.arrived.0 {
            return Err(Misfit::Hole("a merged subscription's seq does not rise"));
        }
        Ok(())
    }

    /// Hands over what is due, as far as the windows and the keepers of the cursors allow.
    pub(super) fn hand_over(&mut self, subscriptions: &mut BTreeMap<SubscriptionId, Subscription>, out: &mut Outputs) {
        // Before all streams stand, nobody knows whether what has arrived comes first.
        if self.is_leaving || self.open < self.members.len() {
            return;
        }
        while let Some(Reverse((due, member))) = self.due.pop() {
            let Some(subscription) = subscriptions.get_mut(&member) else { continue };
            match subscription.next_due() {
                None => continue,
                Some(actual) if actual != due => {
                    self.is_due(member, actual);
                    continue;
                }
                Some(_) => {}
            }
            // On from the same one as long as it is first: a run of one topic does not touch the heap.
            while let Some(next) = subscription.next_due() {
                if self.due.peek().is_some_and(|Reverse(other)| *other < (next, member)) {
                    self.is_due(member, next);
                    break;
                }
                let Some(handed) = subscription.hand_next(self.handed + 1, out) else {
                    // It must wait, and everything that comes after it with it.
                    self.is_due(member, next);
                    return;
                };
                self.handed_over(member, handed, out);
            }
        }
    }

    fn handed_over(&mut self, member: SubscriptionId, handed: Handed, out: &mut Outputs) {
        match handed {
            Handed::InHand(item) => {
                self.handed += 1;
                self.in_hand.push_back((self.handed, member));
                out.deliver(member, self.place.show(member, item));
            }
            Handed::Skip { is_more_in_hand: true } => self.in_hand.push_back((self.handed + 1, member)),
            Handed::Skip { is_more_in_hand: false } => {}
            Handed::News(item) => {
                if let Some(item) = self.standing.told(item, self.members.len()) {
                    out.deliver(self.id, item);
                }
            }
        }
    }

    /// Takes out which members hold something unacknowledged that was handed over up to then.
    pub(super) fn take_in_hand(&mut self, order: u64) -> BTreeSet<SubscriptionId> {
        let count = self.in_hand.partition_point(|(handed, _)| *handed <= order);
        self.in_hand.drain(..count).map(|(_, member)| member).collect()
    }

    /// The app has acknowledged up to `seq`; these members have to confirm it, each up to a seq of its own.
    pub(super) fn acknowledged(&mut self, seq: Seq, waits_for: &[(SubscriptionId, Seq)]) {
        self.unconfirmed.add(seq, waits_for);
    }

    /// A member's acks are confirmed up to this seq. Returns up to where that confirms acks of the whole.
    pub(super) fn confirmed(&mut self, member: SubscriptionId, seq: Seq) -> Option<Seq> {
        self.unconfirmed.confirmed(member, seq)
    }
}

impl Standing {
    /// One of `members` tells this. Returns what is told of all, once the last has.
    fn told(&mut self, item: StreamItem, members: usize) -> Option<StreamItem> {
        match item {
            StreamItem::Subscribed { after, pending, .. } => {
                self.subscribed += 1;
                self.pending = self.pending.saturating_add(pending);
                if self.subscribed == 1 || after.seq >= self.after.seq {
                    self.after = after;
                }
                let (after, pending) = (self.after, self.pending);
                (self.subscribed == members).then_some(StreamItem::Subscribed { after, nth: Nth::ZERO, pending })
            }
            StreamItem::CaughtUp { seq } => {
                self.caught_up += 1;
                // Each topic was opened at a moment of its own. Only up to the earliest of their heads is all of it delivered.
                self.head = if self.caught_up == 1 { seq } else { self.head.min(seq) };
                (self.caught_up >= members).then_some(StreamItem::CaughtUp { seq: self.head })
            }
            StreamItem::Event { .. } | StreamItem::Gap { .. } | StreamItem::Volatile { .. } => Some(item),
        }
    }
}

impl Unconfirmed {
    fn add(&mut self, seq: Seq, waits_for: &[(SubscriptionId, Seq)]) {
        if waits_for.is_empty() {
            return;
        }
        let is_full = self.acks.len() >= UNCONFIRMED_MAX;
        match self.acks.back_mut().filter(|_| is_full) {
            // One entry then stands for two acks: confirmed a little later than could be said.
            Some(last) => *last = (seq, last.1 + waits_for.len()),
            None => self.acks.push_back((seq, waits_for.len())),
        }
        let number = self.first + self.acks.len() as u64 - 1;
        for (member, seq) in waits_for {
            self.of_member.entry(*member).or_default().push_back((*seq, number));
        }
    }

    fn confirmed(&mut self, member: SubscriptionId, seq: Seq) -> Option<Seq> {
        let waiting = self.of_member.get_mut(&member)?;
        // When the log has gone back, a later ack may have a lower seq: an exact match says more than the order of seqs.
        let exact = waiting.iter().rposition(|(waits_for, _)| *waits_for == seq);
        let count = match exact {
            Some(at) => at + 1,
            None => waiting.iter().take_while(|(waits_for, _)| *waits_for <= seq).count(),
        };
        for (_, number) in waiting.drain(..count) {
            let at = usize::try_from(number.saturating_sub(self.first)).unwrap_or(usize::MAX);
            if let Some((_, waits)) = self.acks.get_mut(at) {
                *waits = waits.saturating_sub(1);
            }
        }
        if waiting.is_empty() {
            self.of_member.remove(&member);
        }
        let done = self.acks.iter().take_while(|(_, waits)| *waits == 0).count();
        self.first += done as u64;
        self.acks.drain(..done).next_back().map(|(seq, _)| seq)
    }
}

/// Most acks of a merged subscription that are told apart until they are confirmed.
const UNCONFIRMED_MAX: usize = 1024;
