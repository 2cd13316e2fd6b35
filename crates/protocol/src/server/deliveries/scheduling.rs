//! Reading and sending, in rounds: whoever may have more stands in a queue, one read is under way at a time, and the
//! socket's progress sets the pace.
//!
//! Nothing is ever sent but what a read after the subscription's place has found. A wake that comes while a read is under
//! way causes another one.

use std::collections::{BTreeSet, VecDeque};

use super::super::outputs::Outputs;
use super::super::{Output, fault};
use super::Deliveries;
use super::groups::GroupSerial;
use crate::codec;
use crate::config::ServerConfig;
use crate::error::Close;
use crate::event::{NewEvent, RecordKind, VolatileEmit};
use crate::features::Features;
use crate::frame::{ServerFrame, Volatile};
use crate::history::{Batch, Gap, ReadOutcome};
use crate::name::TopicName;
use crate::seq::SubscriptionId;

/// Who is served next, and the one read that is under way.
#[derive(Clone, Debug, Default)]
pub(super) struct Scheduler {
    /// Who may have more and has room for it, in the order in which they are served. May name subscriptions that have
    /// ended.
    queue: VecDeque<SubscriptionId>,
    reading: Option<Reading>,
}

/// What is asked of the log and not answered yet.
#[derive(Clone, Copy, Debug)]
enum Reading {
    /// [`Output::Read`]. Not wanted if its subscription has ended meanwhile.
    Topic { id: SubscriptionId, events_max: u32, is_wanted: bool },
    /// [`Output::FindGrown`] for this group.
    Group(GroupSerial),
}

impl Scheduler {
    /// A subscription has ended.
    pub(super) fn forget(&mut self, gone: SubscriptionId) {
        if let Some(Reading::Topic { id, is_wanted, .. }) = &mut self.reading
            && *id == gone
        {
            *is_wanted = false;
        }
    }

    /// A question of a group was answered. Returns the group.
    pub(super) fn end_look(&mut self) -> Result<GroupSerial, Close> {
        match self.reading.take() {
            Some(Reading::Group(asker)) => Ok(asker),
            Some(Reading::Topic { .. }) | None => {
                Err(fault::internal("a look at a group was answered that is not under way"))
            }
        }
    }

    /// A read was answered. Returns how many events it may have found; none if nobody wants them any more.
    fn end_read(&mut self, answered: SubscriptionId) -> Result<Option<u32>, Close> {
        match self.reading.take() {
            Some(Reading::Topic { id, events_max, is_wanted }) if id == answered => Ok(is_wanted.then_some(events_max)),
            Some(_) | None => Err(fault::internal("a read was answered that is not under way")),
        }
    }

    fn is_reading(&self, asked: SubscriptionId) -> bool {
        matches!(self.reading, Some(Reading::Topic { id, is_wanted: true, .. }) if id == asked)
    }
}

impl Deliveries {
    /// A topic may have grown.
    pub(in crate::server) fn grew(&mut self, id: SubscriptionId) {
        if let Some(place) = self.subscriptions.get_mut(&id).and_then(|subscription| subscription.announced()) {
            place.may_have_more = true;
        }
        self.queue_up(id);
    }

    /// Every subscription may have missed a wake.
    pub(in crate::server) fn look_at_all(&mut self) {
        let alone = self.subscriptions.iter().filter(|(_, subscription)| subscription.group.is_none());
        let ids: Vec<_> = alone.map(|(id, _)| *id).collect();
        ids.into_iter().for_each(|id| self.grew(id));
        self.groups.look_at_all();
    }

    /// Passes an event on that is not logged, if the reader keeps up; else it is lost.
    pub(in crate::server) fn volatile(
        &mut self,
        ids: &[SubscriptionId],
        event: &VolatileEmit,
        config: &ServerConfig,
        out: &mut Outputs,
    ) {
        if !self.features.has(Features::VOLATILE) || self.is_withheld(&event.event.except) {
            return;
        }
        let mut told = None;
        for id in ids {
            let keeps_up = out.undrained_bytes() < config.output_bytes_max.max(1) && !out.is_crowded();
            let Some(subscription) = self.subscriptions.get_mut(id).filter(|found| !found.is_ending) else { continue };
            // A group gets it once, whichever of its topics the event has.
            let is_told = subscription.group.is_some_and(|group| !told.get_or_insert_with(BTreeSet::new).insert(group));
            if keeps_up && !is_told && subscription.announced().is_some() {
                let NewEvent { name, kind, payload, .. } = event.event.clone();
                out.send_volatile(Volatile { id: *id, time: event.time, name, kind, payload });
            }
        }
    }

    /// Whether this connection follows one of the topics whose readers are not to get an event.
    fn is_withheld(&self, except: &[TopicName]) -> bool {
        self.registry.follows_any(except)
    }

    /// Begins the next read, if none is under way, somebody may have more and the socket keeps up.
    pub(in crate::server) fn begin_read(&mut self, config: &ServerConfig, out: &mut Outputs) {
        while self.scheduler.reading.is_none() && out.undrained_bytes() < config.output_bytes_max.max(1) {
            if let Some(look) = self.groups.next_look() {
                self.scheduler.reading = Some(Reading::Group(look.asker));
                out.push(Output::FindGrown { topics: look.topics, after: look.after });
                return;
            }
            let Some(id) = self.scheduler.queue.pop_front() else { return };
            let Some(subscription) = self.subscriptions.get_mut(&id) else { continue };
            let topic = subscription.request.topic.clone();
            let (is_ending, group) = (subscription.is_ending, subscription.group);
            let Some(place) = subscription.announced() else { continue };
            place.is_queued = false;
            // Whoever has no room comes back with the ack (or the save) that makes it.
            let room = place.room().filter(|_| !is_ending && place.may_have_more);
            let Some((events_max, bytes)) = room else { continue };
            place.may_have_more = false;
            self.scheduler.reading = Some(Reading::Topic { id, events_max, is_wanted: true });
            let (after, nth) = (place.in_flight.sent().seq, place.in_flight.sent_nth());
            let share = group.map_or(1, |group| self.groups.share(group, id));
            let bytes_max = bytes.min(config.batch_bytes_max / share).max(1);
            out.push(Output::Read { id, topic, after, nth, events_max, bytes_max });
        }
    }

    /// Takes what a read found.
    pub(in crate::server) fn read(
        &mut self,
        id: SubscriptionId,
        outcome: ReadOutcome,
        out: &mut Outputs,
    ) -> Result<(), Close> {
        let Some(events_max) = self.scheduler.end_read(id)? else { return Ok(()) };
        let group = self.group_of(id);
        match (outcome, group) {
            (ReadOutcome::Batch(batch), Some(group)) => self.groups.hold(group, id, batch),
            (ReadOutcome::Batch(batch), None) => self.send_batch(id, batch, events_max, out)?,
            (ReadOutcome::Gap(gap), _) => self.send_gap(id, gap, out)?,
            (ReadOutcome::End, group) => {
                if let Some(group) = group {
                    self.groups.found_end(group, id);
                }
                self.tell_caught_up(id, true, out);
            }
        }
        self.save_if_due(id, out);
        self.queue_up(id);
        Ok(())
    }

    /// Puts a subscription into the queue if it may have more and there is room for it, and lets its group go on.
    pub(super) fn queue_up(&mut self, id: SubscriptionId) {
        if let Some(group) = self.group_of(id) {
            self.groups.touch(group);
        }
        self.enqueue(id);
    }

    /// Puts a subscription into the queue if it may have more and there is room for it.
    pub(super) fn enqueue(&mut self, id: SubscriptionId) {
        let Some(subscription) = self.subscriptions.get_mut(&id).filter(|subscription| !subscription.is_ending) else {
            return;
        };
        if subscription.group.is_some_and(|group| !self.groups.may_be_read(group, id)) {
            return;
        }
        let is_reading = self.scheduler.is_reading(id);
        let Some(place) = subscription.announced() else { return };
        if place.may_have_more && !place.is_queued && !is_reading && place.room().is_some() {
            place.is_queued = true;
            self.scheduler.queue.push_back(id);
        }
    }

    fn group_of(&self, id: SubscriptionId) -> Option<u32> {
        if self.groups.is_empty() {
            return None;
        }
        self.subscriptions.get(&id)?.group
    }

    pub(super) fn send_batch(
        &mut self,
        id: SubscriptionId,
        mut batch: Batch,
        events_max: u32,
        out: &mut Outputs,
    ) -> Result<(), Close> {
        let is_withheld = batch.except.as_ref().is_some_and(|except| self.is_withheld(except));
        let Some(place) = self.subscriptions.get_mut(&id).and_then(|subscription| subscription.announced()) else {
            return Ok(());
        };
        if !place.is_next(&batch) || batch.count > events_max {
            let words = format!(
                "{} events from nth {} on were read after nth {} of subscription {id}",
                batch.count,
                batch.first_nth,
                place.in_flight.sent_nth()
            );
            return Err(fault::internal(words));
        }
        if is_withheld {
            let is_end = batch.is_end;
            place.may_have_more |= !is_end;
            place.needs_bytes = 0;
            place.in_flight.sent_skip(&batch);
            out.send_skip(id, &batch);
            self.tell_caught_up(id, is_end, out);
            return Ok(());
        }
        if !place.in_flight.fits(batch.records.len()) {
            place.may_have_more = true;
            place.needs_bytes = batch.records.len();
            return Ok(());
        }
        place.needs_bytes = 0;
        let mark = place.mark_before(&batch);
        place.in_flight.sent_batch(&batch);
        // A wake that came during the read has set it already: then the end has moved.
        place.may_have_more |= !batch.is_end;
        let is_end = batch.is_end;
        // Records with marks come alone.
        let is_marked = || codec::peek_record_kind(&batch.records).is_ok_and(RecordKind::is_marked);
        if batch.count == 1 && !self.features.has(Features::EXCEPT) && is_marked() {
            batch.records = codec::without_marks(&batch.records).map_err(|error| fault::internal(error.to_string()))?;
        }
        if let Some(mark) = mark {
            self.note(id, mark, None, out);
        }
        out.send_events(id, batch);
        self.tell_caught_up(id, is_end, out);
        Ok(())
    }

    fn send_gap(&mut self, id: SubscriptionId, gap: Gap, out: &mut Outputs) -> Result<(), Close> {
        let Some(place) = self.subscriptions.get_mut(&id).and_then(|subscription| subscription.announced()) else {
            return Ok(());
        };
        if !place.is_next_gap(&gap) {
            return Err(fault::internal(format!("a gap of subscription {id} ends before it begins")));
        }
        place.may_have_more = true;
        place.needs_bytes = 0;
        place.in_flight.sent_gap(&gap);
        out.send(ServerFrame::Gap { id, gap });
        self.tell_caught_up(id, false, out);
        Ok(())
    }

    pub(super) fn tell_caught_up(&mut self, id: SubscriptionId, at_end: bool, out: &mut Outputs) {
        let place = self.subscriptions.get_mut(&id).and_then(|subscription| subscription.announced());
        if let Some(seq) = place.and_then(|place| place.take_caught_up(at_end)) {
            out.send(ServerFrame::CaughtUp { id, seq });
        }
    }
}
