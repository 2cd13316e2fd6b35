//! Several subscriptions read as one row. What a read of one of them finds waits here until all the others are known up
//! to there. Never sends an event before one with a lower seq of another topic of the group, and none twice.
//!
//! Every member is a subscription like any other, with its own place, window and cursor: here is nothing but the order.
//! No more waits than one batch of each member, and all of a group's batches together are as large as one.

use std::collections::{BTreeMap, BTreeSet};

use super::super::fault;
use super::super::outputs::Outputs;
use super::super::subscription::OpenSubscription;
use super::Deliveries;
use crate::codec;
use crate::error::{Close, DecodeError};
use crate::frame::Subscribe;
use crate::history::Batch;
use crate::limits::Limits;
use crate::seq::{Seq, SubscriptionId};

/// The groups of a session.
#[derive(Clone, Debug, Default)]
pub(in crate::server) struct Groups {
    groups: BTreeMap<u32, Group>,
    /// The one whose subscriptions are being named.
    in_the_making: Option<u32>,
    /// Those in which something may go on.
    due: BTreeSet<u32>,
    /// The number of the newest read of a member.
    reads: u64,
}

#[derive(Clone, Debug, Default)]
struct Group {
    members: Vec<SubscriptionId>,
    /// All of them have their places: they may be read.
    stands: bool,
}

/// What a subscription has as one of a group.
#[derive(Clone, Debug)]
pub(in crate::server) struct Merged {
    group: u32,
    /// Into how many parts the group divides a batch. None before the group stands.
    share: Option<usize>,
    found: Option<Found>,
    /// The number of the last read that found the topic's end.
    end_read: u64,
}

/// What was read and not sent yet.
#[derive(Clone, Debug)]
struct Found {
    /// The number of the read.
    read: u64,
    /// The seq of its first event.
    seq: Seq,
    batch: Batch,
}

/// The beginning of what was found.
#[derive(Clone, Copy, Debug)]
struct Part {
    count: u32,
    bytes: usize,
    last_seq: Seq,
}

impl Groups {
    /// A subscription is made as one of a group.
    pub(in crate::server) fn join(&mut self, group: u32, id: SubscriptionId) -> Box<Merged> {
        self.groups.entry(group).or_default().members.push(id);
        Box::new(Merged { group, share: None, found: None, end_read: 0 })
    }

    /// It is one of it no longer.
    pub(in crate::server) fn leave(&mut self, group: u32, id: SubscriptionId) {
        if let Some(members) = self.groups.get_mut(&group).map(|group| &mut group.members) {
            members.retain(|member| *member != id);
        }
        self.look(group);
    }

    /// Something may go on in a group.
    pub(in crate::server) fn look(&mut self, group: u32) {
        self.due.insert(group);
    }

    /// Most sessions have none, and are not to pay for those that do.
    pub(in crate::server) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// A read begins. Returns into how many parts its batch is divided.
    pub(in crate::server) fn reading(&mut self, merged: Option<&Merged>) -> usize {
        let Some(merged) = merged else { return 1 };
        self.reads += 1;
        merged.share.unwrap_or(1)
    }
}

impl Merged {
    pub(in crate::server) fn group(&self) -> u32 {
        self.group
    }

    /// Whether a read has somewhere to put what it finds.
    pub(in crate::server) fn may_be_read(&self) -> bool {
        self.share.is_some() && self.found.is_none()
    }
}

impl Deliveries {
    /// Takes a request to follow a topic as one of a group.
    pub(in crate::server) fn subscribe_merged(
        &mut self,
        group: u32,
        request: Subscribe,
        limits: &Limits,
        out: &mut Outputs,
    ) -> Result<(), Close> {
        match self.groups.in_the_making {
            Some(other) if other != group => {
                return Err(fault::unexpected(format!("group {group} came before BeginMerged of group {other}")));
            }
            None if self.groups.groups.contains_key(&group) => {
                return Err(fault::unexpected(format!("group {group} is in use")));
            }
            Some(_) | None => self.groups.in_the_making = Some(group),
        }
        self.subscribe_as(Some(group), request, limits, out)
    }

    /// All subscriptions of a group are named.
    pub(in crate::server) fn begin_merged(&mut self, group: u32) -> Result<(), Close> {
        if self.groups.in_the_making != Some(group) {
            return Err(fault::unexpected(format!("BeginMerged of group {group}, which is not in the making")));
        }
        self.groups.in_the_making = None;
        self.groups.look(group);
        Ok(())
    }

    pub(in crate::server) fn is_merged(&self, id: SubscriptionId) -> bool {
        !self.groups.is_empty() && self.subscriptions.get(&id).is_some_and(|subscription| subscription.merged.is_some())
    }

    /// Takes what a read of a member has found. It is sent when its turn has come.
    pub(in crate::server) fn keep(&mut self, id: SubscriptionId, batch: Batch) {
        let read = self.groups.reads;
        if let Some(merged) = self.merged(id) {
            // A batch that cannot be read is refused when it is to be sent.
            let seq = codec::peek_record(&batch.records).map_or(Seq::ZERO, |(seq, ..)| seq);
            merged.found = Some(Found { read, seq, batch });
        }
    }

    /// Takes that a read has found the end.
    pub(in crate::server) fn found_end(&mut self, id: SubscriptionId) {
        if self.groups.is_empty() {
            return;
        }
        let read = self.groups.reads;
        if let Some(merged) = self.merged(id) {
            merged.end_read = read;
        }
    }

    /// Sends what can be sent in the groups in which something has changed, and has read what is needed for more.
    pub(in crate::server) fn merge_due(&mut self, out: &mut Outputs) -> Result<(), Close> {
        while let Some(group) = self.groups.due.pop_first() {
            if self.stands(group) {
                self.merge(group, out)?;
            }
        }
        Ok(())
    }

    /// Whether all members of a group have their places, and none is still to be named.
    fn stands(&mut self, number: u32) -> bool {
        if self.groups.in_the_making == Some(number) {
            return false;
        }
        let Some(group) = self.groups.groups.get_mut(&number) else { return false };
        if group.stands && !group.members.is_empty() {
            return true;
        }
        let members = group.members.clone();
        if members.is_empty() {
            self.groups.groups.remove(&number);
            return false;
        }
        if members.iter().any(|id| self.place(*id).is_none()) {
            return false;
        }
        if let Some(group) = self.groups.groups.get_mut(&number) {
            group.stands = true;
        }
        for id in &members {
            if let Some(merged) = self.merged(*id) {
                merged.share = Some(members.len());
            }
            self.enqueue(*id);
        }
        true
    }

    fn merge(&mut self, group: u32, out: &mut Outputs) -> Result<(), Close> {
        let Some(members) = self.groups.groups.get(&group).map(|group| group.members.clone()) else { return Ok(()) };
        loop {
            let head = |id: &SubscriptionId| Some((self.merged(*id)?.found.as_ref()?.seq, *id));
            let mut heads: Vec<(Seq, SubscriptionId)> = members.iter().filter_map(head).collect();
            heads.sort_unstable();
            let Some(&(seq, id)) = heads.first() else { return Ok(()) };
            let doubles: Vec<_> = heads[1..].iter().take_while(|head| head.0 == seq).map(|head| head.1).collect();
            let before = match heads.get(1) {
                Some(_) if !doubles.is_empty() => seq.saturating_add(1),
                Some(next) => next.0,
                None => Seq(u64::MAX),
            };
            if !self.is_known_behind(id, &members) || !self.send_head(id, before, &doubles, out)? {
                return Ok(());
            }
        }
    }

    /// Whether nothing unknown of the others can lie before what was found for `id`: where nothing was found, the end was,
    /// and later than that. Whoever was looked at too early is read once more.
    fn is_known_behind(&mut self, id: SubscriptionId, members: &[SubscriptionId]) -> bool {
        let read = self.merged(id).and_then(|merged| merged.found.as_ref()).map_or(0, |found| found.read);
        let mut is_known = true;
        for other in members {
            if self.merged(*other).is_some_and(|other| other.found.is_none() && other.end_read <= read) {
                is_known = false;
                if let Some(place) = self.place(*other) {
                    place.may_have_more = true;
                }
                self.enqueue(*other);
            }
        }
        is_known
    }

    /// Sends what was found for `id`, as far as it lies before that seq. `doubles` are the others that have its first event
    /// too: they are told a skip first, so that whoever comes back from between has the event still before it. Returns
    /// whether the window had room.
    fn send_head(
        &mut self,
        id: SubscriptionId,
        before: Seq,
        doubles: &[SubscriptionId],
        out: &mut Outputs,
    ) -> Result<bool, Close> {
        let Some(found) = self.merged(id).and_then(|merged| merged.found.as_ref()) else { return Ok(false) };
        let bytes = found.first(before)?.bytes;
        if !self.place(id).is_some_and(|place| place.in_flight.fits(bytes)) {
            return Ok(false);
        }
        for double in doubles {
            let Some(batch) = self.take_found(*double, Seq::ZERO)? else { continue };
            if let Some(place) = self.place(*double) {
                place.in_flight.sent_skip(&batch);
                out.send_skip(*double, &batch);
            }
            self.passed(*double, batch.is_end, out);
        }
        if let Some(batch) = self.take_found(id, before)? {
            let is_end = batch.is_end;
            // A part of what was found is no sign that there is more than that.
            let may_have_more = self.place(id).is_some_and(|place| place.may_have_more);
            self.send_batch(id, batch, u32::MAX, out)?;
            if let Some(place) = self.place(id) {
                place.may_have_more = may_have_more;
            }
            self.passed(id, is_end, out);
        }
        Ok(true)
    }

    /// Takes what was found as far as it lies before that seq, and its first event in any case.
    fn take_found(&mut self, id: SubscriptionId, before: Seq) -> Result<Option<Batch>, Close> {
        let Some(merged) = self.merged(id) else { return Ok(None) };
        let Some(found) = merged.found.take() else { return Ok(None) };
        let part = found.first(before)?;
        let Found { read, mut batch, .. } = found;
        if part.count >= batch.count {
            if batch.is_end {
                merged.end_read = read;
            }
            return Ok(Some(batch));
        }
        let Part { count, bytes, last_seq } = part;
        let records = batch.records.split_to(bytes);
        let first = Batch { count, last_seq, records, is_end: false, ..batch.clone() };
        batch.first_nth = first.last_nth().saturating_add(1);
        batch.count -= count;
        let (seq, ..) = codec::peek_record(&batch.records).map_err(|error| unreadable(&error))?;
        merged.found = Some(Found { read, seq, batch });
        Ok(Some(first))
    }

    /// A part of what was found is sent, or skipped. `is_end`: nothing lay behind it when it was read.
    fn passed(&mut self, id: SubscriptionId, is_end: bool, out: &mut Outputs) {
        let is_all = self.merged(id).is_some_and(|merged| merged.found.is_none());
        if let Some(place) = self.place(id) {
            place.may_have_more |= is_all && !is_end;
        }
        self.tell_caught_up(id, is_end, out);
        self.save_if_due(id, out);
        self.enqueue(id);
    }

    fn merged(&mut self, id: SubscriptionId) -> Option<&mut Merged> {
        self.subscriptions.get_mut(&id)?.merged.as_deref_mut()
    }

    fn place(&mut self, id: SubscriptionId) -> Option<&mut OpenSubscription> {
        self.subscriptions.get_mut(&id)?.announced()
    }
}

impl Found {
    /// What of it lies before that seq, but at least one event.
    fn first(&self, before: Seq) -> Result<Part, Close> {
        let Batch { count, last_seq, records, .. } = &self.batch;
        if *last_seq < before {
            return Ok(Part { count: *count, bytes: records.len(), last_seq: *last_seq });
        }
        let mut part = Part { count: 0, bytes: 0, last_seq: Seq::ZERO };
        while part.bytes < records.len() {
            let (seq, _, _, bytes) = codec::peek_record(&records[part.bytes..]).map_err(|error| unreadable(&error))?;
            if part.count > 0 && seq >= before {
                break;
            }
            part = Part { count: part.count + 1, bytes: part.bytes + bytes, last_seq: seq };
        }
        Ok(part)
    }
}

fn unreadable(error: &DecodeError) -> Close {
    fault::internal(format!("a batch of the log cannot be read: {error}"))
}
