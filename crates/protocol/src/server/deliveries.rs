//! The subscriptions of one session, from Subscribe to Unsubscribed: claims, openings, acks, saves.
//!
//! The reader's place is durable before it is told, and no event is told before the place. How events are read and sent
//! is `scheduling`'s business.

mod groups;
mod merging;
mod registry;
mod scheduling;

use std::collections::BTreeMap;

use self::groups::Groups;
use self::registry::Registry;
use self::scheduling::Scheduler;
use super::durable_cursor::{Ending, LateAck, Save};
use super::in_flight::AckKind;
use super::marks::Reader;
use super::outputs::Outputs;
use super::subscription::{OpenSubscription, Stage, Subscription};
use super::{Output, fault};
use crate::error::{Close, RefusalCode};
use crate::features::Features;
use crate::frame::{ServerFrame, Subscribe, Window};
use crate::history::Opened;
use crate::limits::{EARLIER_EPOCHS_MAX, Limits};
use crate::name::SubscriberName;
use crate::redelivery::DeliveredThrough;
use crate::seq::{InstanceId, Nth, Seq, SubscriptionId};

/// All subscriptions of a session.
#[derive(Clone, Debug)]
pub(super) struct Deliveries {
    /// Boxed, for a map has room for eleven where most readers have one.
    subscriptions: BTreeMap<SubscriptionId, Box<Subscription>>,
    registry: Registry,
    scheduler: Scheduler,
    groups: Groups,
    instance: InstanceId,
    subscriber: Option<SubscriberName>,
    /// What Hello named.
    features: Features,
    /// Which subscription is about to go on, and what was given to it and before.
    resuming: Option<(SubscriptionId, DeliveredThrough)>,
}

impl Deliveries {
    pub(super) fn new(instance: InstanceId, subscriber: Option<SubscriberName>, features: Features) -> Deliveries {
        Deliveries {
            subscriptions: BTreeMap::new(),
            registry: Registry::default(),
            scheduler: Scheduler::default(),
            groups: Groups::default(),
            instance,
            subscriber,
            features,
            resuming: None,
        }
    }

    /// The subscription that comes next goes on with one of an earlier connection.
    pub(super) fn resuming(&mut self, id: SubscriptionId, nth: Nth) {
        self.resuming = Some((id, DeliveredThrough(nth)));
    }

    /// Takes a request to follow a topic.
    pub(super) fn subscribe(&mut self, request: Subscribe, limits: &Limits, out: &mut Outputs) -> Result<(), Close> {
        self.subscribe_as(None, request, limits, out)
    }

    /// The same, perhaps as one of a group.
    pub(super) fn subscribe_as(
        &mut self,
        group: Option<u32>,
        request: Subscribe,
        limits: &Limits,
        out: &mut Outputs,
    ) -> Result<(), Close> {
        let id = request.id;
        let resumes = self.resuming.take().filter(|(of, _)| *of == id).map(|(_, through)| through);
        if self.subscriptions.contains_key(&id) || self.registry.is_spent(id) {
            return Err(fault::unexpected(format!("subscription {id} is in use")));
        }
        if request.start.known().is_some_and(|known| known.earlier.len() > EARLIER_EPOCHS_MAX) {
            let words = format!("a position names at most {EARLIER_EPOCHS_MAX} earlier epochs");
            return Err(fault::limit_broken(words));
        }
        self.registry.used(id);
        let stage = match self.admit(&request, limits) {
            Ok(stage) => stage,
            Err((code, words)) => {
                let reason = words.unwrap_or_else(|| code.description()).to_owned();
                out.send(ServerFrame::SubscribeRefused { id, code, reason });
                return Ok(());
            }
        };
        if request.durable {
            self.registry.hold(request.topic.clone(), id);
        }
        let window_max = Window::new(limits.window_events_max, limits.window_bytes_max);
        self.registry.follow(&request.topic);
        if let Some(group) = group {
            self.groups.join(group, id, request.topic.clone());
        }
        let mut subscription = Subscription::new(request, window_max, stage);
        (subscription.group, subscription.resumes) = (group, resumes);
        self.subscriptions.insert(id, Box::new(subscription));
        self.start(id, out);
        Ok(())
    }

    /// The subscription owns its topic.
    pub(super) fn claimed(&mut self, id: SubscriptionId, out: &mut Outputs) {
        let Some(subscription) = self.subscriptions.get_mut(&id) else {
            self.registry.answered(id);
            return;
        };
        if matches!(subscription.stage, Stage::Claiming) {
            subscription.stage = Stage::Opening;
            let opening = self.opening(id);
            out.extend(opening);
        }
    }

    /// The subscription has a place, or may not have one.
    pub(super) fn opened(
        &mut self,
        id: SubscriptionId,
        result: Result<Opened, (RefusalCode, String)>,
        out: &mut Outputs,
    ) {
        let Some(subscription) = self.subscriptions.get_mut(&id) else {
            self.registry.answered(id);
            return;
        };
        // Whoever may not follow the topic claims it from nobody.
        let is_asked = matches!(subscription.stage, Stage::Opening)
            || (result.is_err() && matches!(subscription.stage, Stage::Claiming));
        if !is_asked {
            return;
        }
        let opened = match result {
            Ok(opened) if !subscription.is_ending => opened,
            Ok(_) => return self.finish(id, ServerFrame::Unsubscribed { id }, out),
            Err(_) if subscription.is_ending => return self.finish(id, ServerFrame::Unsubscribed { id }, out),
            Err((code, reason)) => {
                return self.finish(id, ServerFrame::SubscribeRefused { id, code, reason }, out);
            }
        };
        let reader = reader_of(subscription, self.instance, self.features);
        let mut place = OpenSubscription::new(&subscription.request, &opened, reader);
        let initial = match &mut place.cursor {
            Some(cursor) => cursor.initial_save(&place.in_flight),
            None => None,
        };
        subscription.stage = Stage::Open(Box::new(place));
        match initial {
            Some(save) => self.push_save(id, save, out),
            None => self.announce(id, out),
        }
    }

    /// A cursor is durable.
    pub(super) fn cursor_saved(&mut self, id: SubscriptionId, seq: Seq, out: &mut Outputs) {
        let Some(subscription) = self.subscriptions.get_mut(&id) else { return };
        let Stage::Open(place) = &mut subscription.stage else { return };
        let Some(cursor) = &mut place.cursor else { return };
        if let Some(seq) = cursor.saved(seq) {
            out.acked(id, seq);
        }
        if subscription.is_ending {
            return self.end(id, out);
        }
        if place.announcement.is_some() {
            return self.announce(id, out);
        }
        self.save_if_due(id, out);
        self.queue_up(id);
    }

    /// The reader names what it is about to deliver, up to here.
    pub(super) fn taking(&mut self, id: SubscriptionId, nth: Nth, out: &mut Outputs) -> Result<(), Close> {
        let Some(subscription) = self.subscriptions.get_mut(&id) else { return self.unknown(id) };
        if let Stage::Open(place) = &mut subscription.stage
            && let Some(mark) = place.name(nth)
        {
            self.note(id, mark, Some(nth), out);
        }
        Ok(())
    }

    /// Has it noted what the reader may have been given.
    pub(super) fn note(&self, id: SubscriptionId, mark: DeliveredThrough, nth: Option<Nth>, out: &mut Outputs) {
        if let (Some(subscriber), Some(subscription)) = (&self.subscriber, self.subscriptions.get(&id)) {
            let (subscriber, topic) = (subscriber.clone(), subscription.request.topic.clone());
            out.push(Output::Taking { id, subscriber, topic, mark, nth });
        }
    }

    /// It is noted what the reader delivers. It waits for that: the answer overtakes the events on their way.
    pub(super) fn taken(&mut self, id: SubscriptionId, nth: Nth, out: &mut Outputs) {
        if self.subscriptions.contains_key(&id) {
            out.send_first(ServerFrame::Taken { id, nth });
        }
    }

    /// Another connection owns the topic: what waits to be sent must not reach this reader, for its successor was told
    /// already what may have been delivered. The end of the subscription, or of the connection, is on its way.
    pub(super) fn not_owner(&mut self, id: SubscriptionId, out: &mut Outputs) {
        if let Some(Stage::Open(place)) = self.subscriptions.get_mut(&id).map(|subscription| &mut subscription.stage) {
            place.is_fenced = true;
            out.drop_events(id);
        }
    }

    /// The reader has handled everything up to here.
    pub(super) fn ack(&mut self, id: SubscriptionId, seq: Seq, nth: Nth, out: &mut Outputs) -> Result<(), Close> {
        let Some(subscription) = self.subscriptions.get_mut(&id) else { return self.unknown(id) };
        if subscription.is_ending {
            return Err(fault::unexpected(format!("an ack of subscription {id} came behind its Unsubscribe")));
        }
        let Some(place) = subscription.announced() else {
            return Err(fault::unexpected(format!("an ack of subscription {id} came before its Subscribed")));
        };
        let forged = || fault::limit_broken(format!("seq {seq}, nth {nth} of subscription {id} was not sent"));
        let cursor = &mut place.cursor;
        let kind = place.in_flight.ack(seq, nth, |position, nth| {
            if let Some(cursor) = cursor {
                cursor.acked(position, nth);
            }
        });
        let is_confirmed = match (kind, &mut place.cursor) {
            (AckKind::Forged, _) => return Err(forged()),
            (AckKind::New | AckKind::Old, None) => true,
            (AckKind::New, Some(cursor)) => cursor.is_durable(seq),
            (AckKind::Old, Some(cursor)) => match cursor.acked_late(seq, nth) {
                LateAck::Confirmed => true,
                LateAck::Taken => false,
                LateAck::Forged => return Err(forged()),
            },
        };
        if is_confirmed {
            out.acked(id, seq);
        }
        self.save_if_due(id, out);
        self.queue_up(id);
        Ok(())
    }

    /// The reader is done with a topic.
    pub(super) fn unsubscribe(&mut self, id: SubscriptionId, out: &mut Outputs) -> Result<(), Close> {
        let Some(subscription) = self.subscriptions.get_mut(&id) else {
            self.unknown(id)?;
            // It was refused or taken over while this was under way.
            out.send(ServerFrame::Unsubscribed { id });
            return Ok(());
        };
        if subscription.is_ending {
            return Err(fault::unexpected(format!("subscription {id} is already ending")));
        }
        subscription.is_ending = true;
        if let Some(group) = subscription.group.take() {
            let unread = self.groups.leave(group, id);
            self.enqueue_all(unread);
        }
        let Some(subscription) = self.subscriptions.get(&id) else { return Ok(()) };
        match &subscription.stage {
            Stage::Behind(_) => self.finish(id, ServerFrame::Unsubscribed { id }, out),
            Stage::Claiming => {
                // It may be granted just now.
                self.registry.spend(id);
                self.finish(id, ServerFrame::Unsubscribed { id }, out);
            }
            // Its answer is waited for.
            Stage::Opening => {}
            Stage::Open(place) => {
                if place.announcement.is_none() {
                    out.push(Output::Unwatch { id });
                }
                self.end(id, out);
            }
        }
        Ok(())
    }

    /// Another client has the topic now: nothing is sent, acknowledged or saved here any more.
    pub(super) fn taken_over(&mut self, id: SubscriptionId, out: &mut Outputs) {
        let Some(subscription) = self.subscriptions.get(&id) else { return };
        let (is_awaited, is_watching) = match &subscription.stage {
            Stage::Behind(_) => return,
            Stage::Claiming | Stage::Opening => (true, false),
            Stage::Open(place) => {
                let is_saving = place.cursor.as_ref().is_some_and(|cursor| cursor.is_saving());
                (is_saving, place.announcement.is_none() && !subscription.is_ending)
            }
        };
        if is_awaited {
            self.registry.spend(id);
        }
        if is_watching {
            out.push(Output::Unwatch { id });
        }
        out.flush_acked(id);
        out.send(ServerFrame::TakenOver { id });
        self.remove(id, out);
    }

    /// The peer may follow this topic no longer: nothing more is sent.
    pub(super) fn revoked(&mut self, id: SubscriptionId, reason: String, out: &mut Outputs) {
        let Some(subscription) = self.subscriptions.get(&id).filter(|subscription| !subscription.is_ending) else {
            return;
        };
        let Stage::Open(place) = &subscription.stage else { return };
        if place.cursor.as_ref().is_some_and(|cursor| cursor.is_saving()) {
            self.registry.spend(id);
        }
        if place.announcement.is_none() {
            out.push(Output::Unwatch { id });
        }
        self.finish(id, ServerFrame::SubscribeRefused { id, code: RefusalCode::FORBIDDEN, reason }, out);
    }

    pub(super) fn save_if_due(&mut self, id: SubscriptionId, out: &mut Outputs) {
        let place = self.subscriptions.get_mut(&id).and_then(|subscription| subscription.announced());
        let Some(OpenSubscription { in_flight, cursor: Some(cursor), .. }) = place else { return };
        if let Some(save) = cursor.next_save(in_flight) {
            self.push_save(id, save, out);
        }
    }

    /// Whether a request may stand, and with which stage it begins.
    fn admit(&self, request: &Subscribe, limits: &Limits) -> Result<Stage, (RefusalCode, Option<&'static str>)> {
        let limit = usize::try_from(limits.subscriptions_max).unwrap_or(usize::MAX);
        if self.subscriptions.len() + self.registry.spent() >= limit {
            return Err((RefusalCode::TOO_MANY_SUBSCRIPTIONS, None));
        }
        if !request.durable {
            return Ok(Stage::Opening);
        }
        if self.subscriber.is_none() {
            return Err((RefusalCode::NO_SUBSCRIBER, None));
        }
        let Some(holder) = self.registry.holder(&request.topic) else { return Ok(Stage::Claiming) };
        match self.subscriptions.get(&holder) {
            Some(subscription) if subscription.is_ending => Ok(Stage::Behind(holder)),
            Some(_) => Err((RefusalCode::INVALID, Some("this connection already follows this topic durably"))),
            None => Ok(Stage::Claiming),
        }
    }

    fn start(&mut self, id: SubscriptionId, out: &mut Outputs) {
        let Some(subscription) = self.subscriptions.get(&id) else { return };
        let request = &subscription.request;
        match (&subscription.stage, &self.subscriber) {
            (Stage::Claiming, Some(subscriber)) => out.push(Output::Claim {
                id,
                subscriber: subscriber.clone(),
                topic: request.topic.clone(),
                instance: self.instance,
                ownership: request.ownership,
            }),
            (Stage::Opening, _) => out.extend(self.opening(id)),
            (Stage::Claiming | Stage::Behind(_) | Stage::Open(_), _) => {}
        }
    }

    /// Tells the reader its place and begins to deliver.
    fn announce(&mut self, id: SubscriptionId, out: &mut Outputs) {
        let Some(subscription) = self.subscriptions.get_mut(&id) else { return };
        let Stage::Open(place) = &mut subscription.stage else { return };
        let Some(announcement) = place.announcement.take() else { return };
        let (head, has_more) = (announcement.head.seq, announcement.pending > 0);
        let group = subscription.group;
        // A group asks for all its members at once what came between the opening and the watch.
        place.may_have_more = has_more || group.is_none();
        out.send(ServerFrame::Subscribed(*announcement));
        out.push(Output::Watch { id, topic: subscription.request.topic.clone() });
        if let Some(group) = group {
            let unread = self.groups.ready(group, id, head, has_more);
            self.enqueue_all(unread);
        }
        self.tell_caught_up(id, false, out);
        self.queue_up(id);
    }

    /// Goes on with the end of an open subscription: what is acknowledged is saved first.
    fn end(&mut self, id: SubscriptionId, out: &mut Outputs) {
        let Some(subscription) = self.subscriptions.get_mut(&id) else { return };
        let Stage::Open(place) = &mut subscription.stage else { return };
        let OpenSubscription { in_flight, cursor, .. } = &mut **place;
        let ending = cursor.as_mut().map_or(Ending::Done, |cursor| cursor.end(in_flight));
        match ending {
            Ending::Save(save) => self.push_save(id, save, out),
            Ending::Wait => {}
            Ending::Done => self.finish(id, ServerFrame::Unsubscribed { id }, out),
        }
    }

    /// Ends a subscription with this last frame and gives its claim up.
    fn finish(&mut self, id: SubscriptionId, last: ServerFrame, out: &mut Outputs) {
        out.flush_acked(id);
        out.send(last);
        let subscription = self.subscriptions.get(&id);
        let has_claim = subscription.is_some_and(|subscription| match subscription.stage {
            Stage::Behind(_) => false,
            Stage::Claiming | Stage::Opening | Stage::Open(_) => subscription.request.durable,
        });
        if has_claim {
            out.push(Output::Release { id });
        }
        self.remove(id, out);
    }

    fn remove(&mut self, id: SubscriptionId, out: &mut Outputs) {
        let Some(gone) = self.subscriptions.remove(&id) else { return };
        if let Some(group) = gone.group {
            let unread = self.groups.leave(group, id);
            self.enqueue_all(unread);
        }
        self.registry.unfollow(&gone.request.topic);
        self.scheduler.forget(id);
        if !gone.request.durable {
            return;
        }
        let topic = &gone.request.topic;
        match self.registry.holder(topic) {
            Some(holder) if holder != id => {
                if let Some(next) = self.subscriptions.get_mut(&holder) {
                    next.stage = Stage::Claiming;
                }
                self.start(holder, out);
            }
            Some(_) | None => match gone.stage {
                Stage::Behind(holder) => self.registry.hold(topic.clone(), holder),
                Stage::Claiming | Stage::Opening | Stage::Open(_) => self.registry.release(topic),
            },
        }
    }

    /// What asks where a subscription starts.
    fn opening(&self, id: SubscriptionId) -> Option<Output> {
        let subscription = self.subscriptions.get(&id)?;
        let request = &subscription.request;
        Some(Output::Open {
            id,
            topic: request.topic.clone(),
            start: request.start.clone(),
            subscriber: self.subscriber.clone().filter(|_| request.durable),
            reader: reader_of(subscription, self.instance, self.features),
        })
    }

    fn push_save(&self, id: SubscriptionId, save: Save, out: &mut Outputs) {
        let Some((subscription, subscriber)) = self.subscriptions.get(&id).zip(self.subscriber.as_ref()) else {
            return;
        };
        out.push(Output::SaveCursor {
            id,
            subscriber: subscriber.clone(),
            topic: subscription.request.topic.clone(),
            cursor: save.cursor,
            urgent: save.urgent,
        });
    }

    /// A frame for a subscription that is not there: late if it was there once, and else a mistake.
    fn unknown(&self, id: SubscriptionId) -> Result<(), Close> {
        if self.registry.may_be_known(id) {
            return Ok(());
        }
        Err(fault::unexpected(format!("there is no subscription {id}")))
    }
}

fn reader_of(subscription: &Subscription, instance: InstanceId, features: Features) -> Reader {
    // Members of a group name nothing.
    let names = features.has(Features::TAKING) && subscription.group.is_none();
    Reader { instance, names, resumes: subscription.resumes }
}
