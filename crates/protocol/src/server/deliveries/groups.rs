//! The groups of a session: which subscriptions are read as one, what was read of each and not sent yet, and up to where
//! the others are known to have nothing. It decides whose turn it is, and never sends anything itself.
//!
//! Each event costs the logarithm of the members that have something. A member that has nothing is neither read nor looked
//! at for the events of others: one question to the log ([`Output::FindGrown`](crate::server::Output::FindGrown)) says of
//! all members at once which have grown, and up to which seq the others have not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::super::fault;
use crate::codec;
use crate::error::{Close, DecodeError};
use crate::history::Batch;
use crate::name::TopicName;
use crate::seq::{Seq, SubscriptionId};

/// The groups of a session.
#[derive(Clone, Debug, Default)]
pub(super) struct Groups {
    groups: BTreeMap<u32, Group>,
    /// The one whose subscriptions are being named.
    being_named: Option<u32>,
    /// Those in which something may go on.
    due: BTreeSet<u32>,
    /// Those that need to know which of their members have grown.
    looks: BTreeSet<u32>,
    /// How many groups there have been.
    begun: u64,
}

#[derive(Clone, Debug)]
struct Group {
    /// Tells it from earlier groups of the same number.
    serial: u64,
    members: BTreeMap<SubscriptionId, Member>,
    /// How many members have their places.
    ready: usize,
    /// All members have their places: they may be read.
    stands: bool,
    /// The first event of each batch that is held.
    heads: BTreeSet<(Seq, SubscriptionId)>,
    /// Members of which nothing is held although they may have events up to `quiet_through`: until they are read, nothing
    /// is sent.
    unread: BTreeSet<SubscriptionId>,
    // Invariant: a member that is neither in `heads` nor in `unread` has nothing behind its place up to this seq.
    quiet_through: Seq,
    /// What is asked of the log. May name members that have left.
    topics: Option<Arc<[(SubscriptionId, TopicName)]>>,
}

#[derive(Clone, Debug)]
struct Member {
    topic: TopicName,
    is_ready: bool,
    held: Option<HeldBatch>,
}

/// What was read and not sent yet.
#[derive(Clone, Debug)]
struct HeldBatch {
    /// The seq of its first event.
    seq: Seq,
    batch: Batch,
}

/// The beginning of what is held.
#[derive(Clone, Copy, Debug)]
struct BatchPart {
    count: u32,
    bytes: usize,
    last_seq: Seq,
}

/// What is to be sent next in a group.
#[derive(Clone, Debug)]
pub(super) struct Turn {
    /// The member whose batch begins with the lowest seq.
    pub(super) id: SubscriptionId,
    /// What of its batch lies before this may be sent; its first event in any case.
    pub(super) before: Seq,
    /// The others whose batches begin with the same event.
    pub(super) doubles: Vec<SubscriptionId>,
}

/// A group that asks, and not a later one of the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GroupSerial {
    number: u32,
    serial: u64,
}

/// A question to the log: which of these topics have grown behind a seq.
#[derive(Clone, Debug)]
pub(super) struct Look {
    pub(super) asker: GroupSerial,
    pub(super) topics: Arc<[(SubscriptionId, TopicName)]>,
    pub(super) after: Seq,
}

impl Groups {
    /// Most sessions have none, and are not to pay for those that do.
    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// A subscription of this group is named: either the first, or one behind another of the group.
    pub(super) fn name(&mut self, group: u32) -> Result<(), Close> {
        match self.being_named {
            Some(other) if other != group => {
                Err(fault::unexpected(format!("group {group} came before BeginMerged of group {other}")))
            }
            None if self.groups.contains_key(&group) => Err(fault::unexpected(format!("group {group} is in use"))),
            Some(_) | None => {
                self.being_named = Some(group);
                Ok(())
            }
        }
    }

    /// A subscription that was named is admitted.
    pub(super) fn join(&mut self, group: u32, id: SubscriptionId, topic: TopicName) {
        let member = Member { topic, is_ready: false, held: None };
        let group = self.groups.entry(group).or_insert_with(|| {
            self.begun += 1;
            Group::new(self.begun)
        });
        group.members.insert(id, member);
    }

    /// All subscriptions of a group are named. Returns the members that are to be read now.
    pub(super) fn begin(&mut self, group: u32) -> Result<Vec<SubscriptionId>, Close> {
        if self.being_named != Some(group) {
            return Err(fault::unexpected(format!("BeginMerged of group {group}, which is not in the making")));
        }
        self.being_named = None;
        Ok(self.stand(group))
    }

    /// A member has its place. `head` is the end of the log at which it had `has_more` events behind the place, or none.
    /// Returns the members that are to be read now.
    pub(super) fn ready(&mut self, number: u32, id: SubscriptionId, head: Seq, has_more: bool) -> Vec<SubscriptionId> {
        let Some(group) = self.groups.get_mut(&number) else { return Vec::new() };
        let Some(member) = group.members.get_mut(&id).filter(|member| !member.is_ready) else { return Vec::new() };
        member.is_ready = true;
        group.ready += 1;
        group.quiet_through = group.quiet_through.min(head);
        if has_more {
            group.unread.insert(id);
        }
        self.stand(number)
    }

    /// A member is none any longer. Returns the members that are to be read now.
    pub(super) fn leave(&mut self, number: u32, id: SubscriptionId) -> Vec<SubscriptionId> {
        let Some(group) = self.groups.get_mut(&number) else { return Vec::new() };
        let Some(gone) = group.members.remove(&id) else { return Vec::new() };
        group.ready -= usize::from(gone.is_ready);
        group.unread.remove(&id);
        if let Some(held) = gone.held {
            group.heads.remove(&(held.seq, id));
        }
        if group.topics.as_ref().is_some_and(|topics| topics.len() > 2 * group.members.len()) {
            group.topics = None;
        }
        self.stand(number)
    }

    /// Lets a group stand once all its members are named and have their places, and ends one that nobody is left in.
    fn stand(&mut self, number: u32) -> Vec<SubscriptionId> {
        self.due.insert(number);
        if self.being_named == Some(number) {
            return Vec::new();
        }
        let Some(group) = self.groups.get_mut(&number) else { return Vec::new() };
        if group.members.is_empty() {
            self.groups.remove(&number);
            self.looks.remove(&number);
            return Vec::new();
        }
        if group.stands || group.ready < group.members.len() {
            return Vec::new();
        }
        group.stands = true;
        // What was emitted between a member's opening and its watch came without a wake.
        self.looks.insert(number);
        group.unread.iter().copied().collect()
    }

    /// Something may go on in a group.
    pub(super) fn touch(&mut self, group: u32) {
        self.due.insert(group);
    }

    /// The next group in which something may go on.
    pub(super) fn next_due(&mut self) -> Option<u32> {
        self.due.pop_first()
    }

    /// All groups are to ask what has grown: wakes may be lost.
    pub(super) fn look_at_all(&mut self) {
        let standing = self.groups.iter().filter(|(_, group)| group.stands).map(|(number, _)| *number);
        self.looks.extend(standing);
    }

    /// The next question to the log.
    pub(super) fn next_look(&mut self) -> Option<Look> {
        while let Some(number) = self.looks.pop_first() {
            let Some(group) = self.groups.get_mut(&number) else { continue };
            let topics = group
                .topics
                .get_or_insert_with(|| group.members.iter().map(|(id, member)| (*id, member.topic.clone())).collect());
            let asker = GroupSerial { number, serial: group.serial };
            return Some(Look { asker, topics: Arc::clone(topics), after: group.quiet_through });
        }
        None
    }

    /// The answer to a question: `grown` are the members whose topics have events behind `quiet_through`, each with the seq
    /// of the last. `sent` gives a member's place. Returns the members that are to be read now.
    pub(super) fn grown(
        &mut self,
        asker: GroupSerial,
        through: Seq,
        grown: Vec<(SubscriptionId, Seq)>,
        sent: impl Fn(SubscriptionId) -> Option<Seq>,
    ) -> Vec<SubscriptionId> {
        let GroupSerial { number, serial } = asker;
        let Some(group) = self.groups.get_mut(&number).filter(|group| group.serial == serial) else {
            return Vec::new();
        };
        let mut unread = Vec::new();
        for (id, last_seq) in grown {
            let Some(member) = group.members.get_mut(&id) else { continue };
            match &mut member.held {
                Some(held) => held.batch.is_end &= held.batch.last_seq >= last_seq,
                None if sent(id).is_some_and(|sent| sent < last_seq) => {
                    group.unread.insert(id);
                    unread.push(id);
                }
                None => {}
            }
        }
        group.quiet_through = group.quiet_through.max(through);
        self.due.insert(number);
        unread
    }

    /// Whether a read of this member has somewhere to put what it finds.
    pub(super) fn may_be_read(&self, group: u32, id: SubscriptionId) -> bool {
        let Some(group) = self.groups.get(&group).filter(|group| group.stands) else { return false };
        group.members.get(&id).is_some_and(|member| member.held.is_none())
    }

    /// Into how many parts a batch is divided that is read for this member: all batches that are held together are about
    /// as large as one.
    pub(super) fn share(&self, group: u32, id: SubscriptionId) -> usize {
        self.groups.get(&group).map_or(1, |group| {
            let others = group.heads.len() + group.unread.len() - usize::from(group.unread.contains(&id));
            others + 1
        })
    }

    /// Takes what a read of a member has found. It is sent when its turn has come.
    pub(super) fn hold(&mut self, number: u32, id: SubscriptionId, batch: Batch) {
        let Some(group) = self.groups.get_mut(&number) else { return };
        let Some(member) = group.members.get_mut(&id) else { return };
        // A batch that cannot be read is refused when it is to be sent.
        let seq = codec::peek_record(&batch.records).map_or(Seq::ZERO, |(seq, ..)| seq);
        member.held = Some(HeldBatch { seq, batch });
        group.heads.insert((seq, id));
        group.unread.remove(&id);
        self.due.insert(number);
    }

    /// A read of a member has found nothing more. It began no earlier than the last look, so that there is nothing up to
    /// `quiet_through` either.
    pub(super) fn found_end(&mut self, number: u32, id: SubscriptionId) {
        if let Some(group) = self.groups.get_mut(&number) {
            group.unread.remove(&id);
            self.due.insert(number);
        }
    }

    /// What may be sent now in a group. If that depends on whether quiet members have grown, they are to be looked at.
    pub(super) fn turn(&mut self, number: u32) -> Option<Turn> {
        let group = self.groups.get(&number).filter(|group| group.stands && group.unread.is_empty())?;
        let mut heads = group.heads.iter();
        let &(seq, id) = heads.next()?;
        let has_quiet = group.members.len() > group.heads.len();
        if has_quiet && seq > group.quiet_through {
            self.looks.insert(number);
            return None;
        }
        let mut doubles = Vec::new();
        let mut before = Seq(u64::MAX);
        for &(next, other) in heads {
            if next > seq {
                before = next;
                break;
            }
            doubles.push(other);
        }
        if !doubles.is_empty() {
            before = seq.saturating_add(1);
        } else if has_quiet {
            before = before.min(group.quiet_through.saturating_add(1));
        }
        Some(Turn { id, before, doubles })
    }

    /// How many bytes a turn takes of the member's window.
    pub(super) fn turn_bytes(&self, number: u32, turn: &Turn) -> Result<usize, Close> {
        let held = self.groups.get(&number).and_then(|group| group.members.get(&turn.id)?.held.as_ref());
        held.map_or(Ok(0), |held| held.first(turn.before).map(|part| part.bytes))
    }

    /// Takes what is held of a member as far as it lies before that seq, and its first event in any case. Says too whether
    /// that was all of it: then the member is to be read again, unless the batch was the topic's end.
    pub(super) fn take(
        &mut self,
        number: u32,
        id: SubscriptionId,
        before: Seq,
    ) -> Result<Option<(Batch, bool)>, Close> {
        let Some(group) = self.groups.get_mut(&number) else { return Ok(None) };
        let Some(member) = group.members.get_mut(&id) else { return Ok(None) };
        let Some(held) = member.held.take() else { return Ok(None) };
        group.heads.remove(&(held.seq, id));
        let part = held.first(before)?;
        let mut batch = held.batch;
        if part.count >= batch.count {
            if !batch.is_end {
                group.unread.insert(id);
            }
            return Ok(Some((batch, true)));
        }
        let BatchPart { count, bytes, last_seq } = part;
        let records = batch.records.split_to(bytes);
        let first = Batch { count, last_seq, records, is_end: false, ..batch.clone() };
        batch.first_nth = first.last_nth().saturating_add(1);
        batch.count -= count;
        let (seq, ..) = codec::peek_record(&batch.records).map_err(|error| unreadable(&error))?;
        member.held = Some(HeldBatch { seq, batch });
        group.heads.insert((seq, id));
        Ok(Some((first, false)))
    }
}

impl Group {
    fn new(serial: u64) -> Group {
        Group {
            serial,
            members: BTreeMap::new(),
            ready: 0,
            stands: false,
            heads: BTreeSet::new(),
            unread: BTreeSet::new(),
            quiet_through: Seq(u64::MAX),
            topics: None,
        }
    }
}

impl HeldBatch {
    /// What of it lies before that seq, but at least one event.
    fn first(&self, before: Seq) -> Result<BatchPart, Close> {
        let Batch { count, last_seq, records, .. } = &self.batch;
        if *last_seq < before {
            return Ok(BatchPart { count: *count, bytes: records.len(), last_seq: *last_seq });
        }
        let mut part = BatchPart { count: 0, bytes: 0, last_seq: Seq::ZERO };
        while part.bytes < records.len() {
            let (seq, _, _, bytes) = codec::peek_record(&records[part.bytes..]).map_err(|error| unreadable(&error))?;
            if part.count > 0 && seq >= before {
                break;
            }
            part = BatchPart { count: part.count + 1, bytes: part.bytes + bytes, last_seq: seq };
        }
        Ok(part)
    }
}

fn unreadable(error: &DecodeError) -> Close {
    fault::internal(format!("a batch of the log cannot be read: {error}"))
}
