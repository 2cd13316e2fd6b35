//! Reading and sending, in rounds: whoever may have more stands in a queue, one read is under way at a time, and the
//! socket's progress sets the pace.
//!
//! Nothing is ever sent but what a read after the subscription's place has found. A wake that comes while a read is under
//! way causes another one.

use std::collections::BTreeSet;

use super::super::outputs::Outputs;
use super::super::{Output, fault};
use super::{Deliveries, Reading};
use crate::codec;
use crate::config::ServerConfig;
use crate::error::Close;
use crate::event::{NewEvent, RecordKind, VolatileEmit};
use crate::features::Features;
use crate::frame::{ServerFrame, Volatile};
use crate::history::{Batch, Gap, ReadOutcome};
use crate::name::TopicName;
use crate::seq::SubscriptionId;

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
        let ids: Vec<_> = self.subscriptions.keys().copied().collect();
        ids.into_iter().for_each(|id| self.grew(id));
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
            let group = subscription.merged.as_ref().map(|merged| merged.group());
            let is_told = group.is_some_and(|group| !told.get_or_insert_with(BTreeSet::new).insert(group));
            if keeps_up && !is_told && subscription.announced().is_some() {
                let NewEvent { name, kind, payload, .. } = event.event.clone();
                out.send_volatile(Volatile { id: *id, time: event.time, name, kind, payload });
            }
        }
    }

    /// Whether this connection follows one of the topics whose readers are not to get an event.
    fn is_withheld(&self, except: &[TopicName]) -> bool {
        except.iter().any(|topic| self.topics.contains_key(topic))
    }

    /// Begins the next read, if none is under way, somebody may have more and the socket keeps up.
    pub(in crate::server) fn begin_read(&mut self, config: &ServerConfig, out: &mut Outputs) {
        while self.reading.is_none() && out.undrained_bytes() < config.output_bytes_max.max(1) {
            let Some(id) = self.queue.pop_front() else { return };
            let Some(subscription) = self.subscriptions.get_mut(&id) else { continue };
            let topic = subscription.request.topic.clone();
            let is_ending = subscription.is_ending;
            let Some(place) = subscription.announced() else { continue };
            place.is_queued = false;
            // Whoever has no room comes back with the ack (or the save) that makes it.
            let Some((events_max, bytes)) = place.room().filter(|_| !is_ending) else { continue };
            place.may_have_more = false;
            self.reading = Some(Reading { id, events_max, is_wanted: true });
            let (after, nth) = (place.in_flight.sent().seq, place.in_flight.sent_nth());
            let share = self.groups.reading(subscription.merged.as_deref());
            out.push(Output::Read {
                id,
                topic,
                after,
                nth,
                events_max,
                bytes_max: bytes.min(config.batch_bytes_max / share).max(1),
            });
        }
    }

    /// Takes what a read found.
    pub(in crate::server) fn read(
        &mut self,
        id: SubscriptionId,
        outcome: ReadOutcome,
        out: &mut Outputs,
    ) -> Result<(), Close> {
        let Some(reading) = self.reading.take_if(|reading| reading.id == id) else {
            return Err(fault::internal("a read was answered that is not under way"));
        };
        if !reading.is_wanted {
            return Ok(());
        }
        match outcome {
            ReadOutcome::Batch(batch) if self.is_merged(id) => self.keep(id, batch),
            ReadOutcome::Batch(batch) => self.send_batch(id, batch, reading.events_max, out)?,
            ReadOutcome::Gap(gap) => self.send_gap(id, gap, out)?,
            ReadOutcome::End => {
                self.found_end(id);
                self.tell_caught_up(id, true, out);
            }
        }
        self.save_if_due(id, out);
        self.queue_up(id);
        Ok(())
    }

    /// Puts a subscription into the queue if it may have more and there is room for it.
    pub(in crate::server) fn queue_up(&mut self, id: SubscriptionId) {
        if !self.groups.is_empty()
            && let Some(merged) = self.subscriptions.get(&id).and_then(|subscription| subscription.merged.as_ref())
        {
            self.groups.look(merged.group());
        }
        self.enqueue(id);
    }

    /// The same, when its group is looked at already.
    pub(in crate::server) fn enqueue(&mut self, id: SubscriptionId) {
        let Some(subscription) = self.subscriptions.get_mut(&id).filter(|subscription| !subscription.is_ending) else {
            return;
        };
        if subscription.merged.as_ref().is_some_and(|merged| !merged.may_be_read()) {
            return;
        }
        let is_reading = self.reading.as_ref().is_some_and(|reading| reading.id == id);
        let Some(place) = subscription.announced() else { return };
        if place.may_have_more && !place.is_queued && !is_reading && place.room().is_some() {
            place.is_queued = true;
            self.queue.push_back(id);
        }
    }

    pub(in crate::server) fn send_batch(
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
        place.in_flight.sent_batch(&batch);
        // A wake that came during the read has set it already: then the end has moved.
        place.may_have_more |= !batch.is_end;
        let is_end = batch.is_end;
        // Records with marks come alone.
        let is_marked = || codec::peek_record_kind(&batch.records).is_ok_and(RecordKind::is_marked);
        if batch.count == 1 && !self.features.has(Features::EXCEPT) && is_marked() {
            batch.records = codec::without_marks(&batch.records).map_err(|error| fault::internal(error.to_string()))?;
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

    pub(in crate::server) fn tell_caught_up(&mut self, id: SubscriptionId, at_end: bool, out: &mut Outputs) {
        let place = self.subscriptions.get_mut(&id).and_then(|subscription| subscription.announced());
        if let Some(seq) = place.and_then(|place| place.take_caught_up(at_end)) {
            out.send(ServerFrame::CaughtUp { id, seq });
        }
    }
}
