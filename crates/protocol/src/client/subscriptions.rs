//! All subscriptions of a client, across its connections: their numbers on the wire, the merged ones, what the app and the
//! server say of each. Decides nothing that concerns a single one of them alone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::fault::Fault;
use super::inbox::Misfit;
use super::merged::Merged;
use super::merged_place::MergedPlace;
use super::outputs::{Outputs, Timer};
use super::subscription::{Subscription, Urgency};
use super::wires::Wires;
use super::{Output, SubscribeRequest, SubscriptionEnd};
use crate::backoff::Backoff;
use crate::codec::Records;
use crate::error::RefusalCode;
use crate::features::Features;
use crate::frame::{ClientFrame, Events, SubscribeMerged};
use crate::seq::{Nth, Position, Seq, SubscriptionId};
use crate::time::Instant;

/// The subscriptions of a client.
#[derive(Debug)]
pub(super) struct Subscriptions {
    subscriptions: BTreeMap<SubscriptionId, Subscription>,
    merged: BTreeMap<SubscriptionId, Merged>,
    /// Which merged subscription a subscription is a member of.
    merged_of: BTreeMap<SubscriptionId, SubscriptionId>,
    wires: Wires,
    /// The last number of a group on the present connection: given upwards and never twice.
    last_group: u32,
    /// Subscriptions with acks that wait for company.
    gathering: BTreeSet<SubscriptionId>,
    retries: Backoff,
    ack_delay: Duration,
    /// With what the present connection is spoken, if there is one.
    features: Option<Features>,
    /// No more are taken: the client is shutting down.
    closed: bool,
}

impl Subscriptions {
    pub(super) fn new(ack_delay: Duration, retries: Backoff) -> Subscriptions {
        Subscriptions {
            subscriptions: BTreeMap::new(),
            merged: BTreeMap::new(),
            merged_of: BTreeMap::new(),
            wires: Wires::default(),
            last_group: 0,
            gathering: BTreeSet::new(),
            retries,
            ack_delay,
            features: None,
            closed: false,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.subscriptions.is_empty()
    }

    /// How many events have arrived and wait for room in a window.
    pub(super) fn inbox_events(&self) -> usize {
        self.subscriptions.values().map(Subscription::inbox_events).sum()
    }

    // What the app says.

    pub(super) fn subscribe(&mut self, id: SubscriptionId, request: SubscribeRequest, out: &mut Outputs) {
        if self.closed {
            return out.push(Output::Unsubscribed { id, why: SubscriptionEnd::ClientEnded });
        }
        self.subscriptions.insert(id, Subscription::new(id, request, None));
        self.send_subscribe(id, out);
    }

    pub(super) fn subscribe_merged(
        &mut self,
        id: SubscriptionId,
        mut members: Vec<(SubscriptionId, SubscribeRequest)>,
        out: &mut Outputs,
    ) {
        if self.closed || members.is_empty() {
            return out.push(Output::Unsubscribed { id, why: SubscriptionEnd::ClientEnded });
        }
        let place = MergedPlace::asked_of(&mut members);
        self.merged.insert(id, Merged::new(id, members.iter().map(|(member, _)| *member).collect(), place));
        let size = members.len();
        for (member, request) in members {
            self.merged_of.insert(member, id);
            self.subscriptions.insert(member, Subscription::new(member, request, Some(size)));
        }
        self.send_subscribe_merged(id, out);
    }

    /// The app is done with a subscription, or with a merged one.
    pub(super) fn unsubscribe(&mut self, id: SubscriptionId, out: &mut Outputs) {
        let whole = self.merged_of.get(&id).copied().unwrap_or(id);
        let Some(merged) = self.merged.get_mut(&whole) else { return self.leave(id, out) };
        merged.leave();
        for member in merged.members().to_vec() {
            self.leave(member, out);
        }
    }

    /// Takes no more subscriptions, and ends those that there are.
    pub(super) fn close(&mut self, out: &mut Outputs) {
        self.closed = true;
        self.merged.values_mut().for_each(Merged::leave);
        for id in self.ids() {
            self.leave(id, out);
        }
    }

    fn leave(&mut self, id: SubscriptionId, out: &mut Outputs) {
        if let Some(subscription) = self.subscriptions.get_mut(&id) {
            subscription.leave();
            self.go_on(id, out);
        }
    }

    /// The app has handled everything up to here; in a merged subscription, everything that was handed over before it.
    pub(super) fn ack(&mut self, id: SubscriptionId, position: Position, nth: Nth, now: Instant, out: &mut Outputs) {
        match self.merged_of.get(&id).copied() {
            Some(whole) => self.ack_merged(whole, id, position, nth, now, out),
            None => self.ack_one(id, now, out, |subscription, out| subscription.ack(position, nth, out)),
        }
    }

    fn ack_merged(
        &mut self,
        whole: SubscriptionId,
        id: SubscriptionId,
        position: Position,
        nth: Nth,
        now: Instant,
        out: &mut Outputs,
    ) {
        let subscription = self.subscriptions.get(&id);
        let Some(order) = subscription.and_then(|member| member.order_of(position, nth)) else { return };
        let Some(merged) = self.merged.get_mut(&whole) else { return };
        let mut waits_for = Vec::new();
        for member in merged.take_in_hand(order) {
            let subscription = self.subscriptions.get(&member).filter(|member| !member.is_leaving());
            let Some((last, nth)) = subscription.and_then(|member| member.last_through(order)) else { continue };
            waits_for.push((member, last.seq));
            self.ack_one(member, now, out, |subscription, out| subscription.ack(last, nth, out));
        }
        if let Some(merged) = self.merged.get_mut(&whole) {
            merged.acknowledged(position.seq, &waits_for);
        }
    }

    /// The app asks for more, and has taken so many events and gaps.
    pub(super) fn wanted(&mut self, id: SubscriptionId, taken: u64, now: Instant, out: &mut Outputs) {
        if let Some(subscription) = self.subscriptions.get_mut(&id) {
            subscription.wanted(taken, now, out);
        }
    }

    /// The client's store has a cursor.
    pub(super) fn cursor_saved(&mut self, id: SubscriptionId, seq: Seq, now: Instant, out: &mut Outputs) {
        self.ack_one(id, now, out, |subscription, out| subscription.cursor_saved(seq, out));
    }

    fn ack_one(
        &mut self,
        id: SubscriptionId,
        now: Instant,
        out: &mut Outputs,
        take: impl FnOnce(&mut Subscription, &mut Outputs) -> Urgency,
    ) {
        let Some(subscription) = self.subscriptions.get_mut(&id) else { return };
        match take(subscription, out) {
            Urgency::Nothing => {}
            Urgency::Later if !self.ack_delay.is_zero() => {
                self.gathering.insert(id);
                out.set_timer_if_clear(Timer::FlushAcks, now + self.ack_delay);
            }
            Urgency::Later | Urgency::Now => subscription.flush_acks(out),
        }
        self.go_on(id, out);
    }

    /// Sends the acks that were gathered.
    pub(super) fn flush_acks(&mut self, out: &mut Outputs) {
        for id in std::mem::take(&mut self.gathering) {
            if let Some(subscription) = self.subscriptions.get_mut(&id) {
                subscription.flush_acks(out);
            }
        }
    }

    // What becomes of the connection.

    /// A connection stands: everything that needs the server goes out at once.
    pub(super) fn connected(&mut self, features: Features, out: &mut Outputs) {
        self.features = Some(features);
        for id in self.ids() {
            if !self.merged_of.contains_key(&id) && self.subscriptions.get(&id).is_some_and(Subscription::needs_server)
            {
                self.send_subscribe(id, out);
            }
            self.go_on(id, out);
        }
        for id in self.merged.keys().copied().collect::<Vec<_>>() {
            self.send_subscribe_merged(id, out);
        }
    }

    /// The connection is gone.
    pub(super) fn disconnected(&mut self, out: &mut Outputs) {
        self.features = None;
        self.wires = Wires::default();
        self.last_group = 0;
        for (id, merged) in &mut self.merged {
            merged.streams_gone();
            out.clear_timer(Timer::Resubscribe(*id));
        }
        for (id, subscription) in &mut self.subscriptions {
            subscription.disconnected();
            out.clear_timer(Timer::Resubscribe(*id));
        }
    }

    /// Takes those that are to end as far as they get without a connection.
    pub(super) fn go_on_all(&mut self, out: &mut Outputs) {
        for id in self.ids() {
            self.go_on(id, out);
        }
    }

    /// The client has ended.
    pub(super) fn end(&mut self, out: &mut Outputs) {
        for id in self.ids() {
            if let Some(subscription) = self.subscriptions.get_mut(&id) {
                subscription.abandon(out);
            }
            self.remove(id, &SubscriptionEnd::ClientEnded, out);
        }
    }

    // What the server says.

    /// Events come.
    pub(super) fn events(&mut self, batch: &Events, out: &mut Outputs) -> Result<(), Fault> {
        let wire = batch.id;
        let follows = match self.merged_by(wire) {
            // A batch that cannot be read is refused by its own stream.
            Some(merged) => match Records::new(batch.records.clone()).next() {
                Some(Ok(first)) => merged.events_arrive(first.seq),
                Some(Err(_)) | None => Ok(()),
            },
            None => Ok(()),
        };
        self.on_stream(wire, out, |subscription, out| follows.and_then(|()| subscription.events(batch, out)))?;
        let id = self.wires.get(wire);
        if let Some(last) = id.and_then(|id| self.subscriptions.get(&id)).map(Subscription::arrived)
            && let Some(merged) = self.merged_by(wire)
        {
            merged.events_arrived(last);
        }
        Ok(())
    }

    /// A skip comes.
    pub(super) fn skip(
        &mut self,
        wire: SubscriptionId,
        through: Position,
        nth: Nth,
        out: &mut Outputs,
    ) -> Result<(), Fault> {
        let is_apart = self.merged_by(wire).map_or(Ok(false), |merged| merged.skip_arrives(through.seq));
        self.on_stream(wire, out, |subscription, out| subscription.skip(through, nth, is_apart?, out))
    }

    /// Something comes for a subscription, which takes it.
    pub(super) fn on_stream(
        &mut self,
        wire: SubscriptionId,
        out: &mut Outputs,
        take: impl FnOnce(&mut Subscription, &mut Outputs) -> Result<(), Misfit>,
    ) -> Result<(), Fault> {
        let Some(id) = self.wires.named(wire)? else { return Ok(()) };
        let Some(subscription) = self.subscriptions.get_mut(&id) else { return Ok(()) };
        let (was_open, was_due) = (subscription.is_open(), subscription.next_due().is_some());
        match take(subscription, out) {
            Ok(()) => {
                if let Some(merged) = self.merged_of.get(&id).and_then(|whole| self.merged.get_mut(whole)) {
                    if !was_open && subscription.is_open() {
                        merged.stream_opened();
                    }
                    if let Some(due) = subscription.next_due().filter(|_| !was_due) {
                        merged.is_due(id, due);
                    }
                }
                self.go_on(id, out);
                Ok(())
            }
            Err(Misfit::Flood) => Err(Fault::limit_broken("more came than the window allows")),
            Err(Misfit::Hole(what)) => self.begin_anew(id, what, out),
        }
    }

    /// The server has stopped a stream.
    pub(super) fn unsubscribed(&mut self, wire: SubscriptionId, out: &mut Outputs) -> Result<(), Fault> {
        let Some(id) = self.wires.named(wire)? else { return Ok(()) };
        let Some(subscription) = self.subscriptions.get_mut(&id) else { return Ok(()) };
        if !subscription.is_leaving() {
            return self.begin_anew(id, "a subscription ended that was not to end", out);
        }
        subscription.left(out);
        self.remove(id, &SubscriptionEnd::Asked, out);
        Ok(())
    }

    /// Another client has taken the durable subscriber's topic over.
    pub(super) fn taken_over(&mut self, wire: SubscriptionId, out: &mut Outputs) -> Result<(), Fault> {
        if let Some(id) = self.wires.named(wire)? {
            self.end_early(id, &SubscriptionEnd::TakenOver, out);
        }
        Ok(())
    }

    /// The server does not take a subscription.
    pub(super) fn refused(
        &mut self,
        wire: SubscriptionId,
        code: RefusalCode,
        reason: String,
        now: Instant,
        out: &mut Outputs,
    ) -> Result<(), Fault> {
        let Some(id) = self.wires.named(wire)? else { return Ok(()) };
        let Some(subscription) = self.subscriptions.get_mut(&id) else { return Ok(()) };
        if subscription.is_leaving() && !subscription.needs_server() {
            self.remove(id, &SubscriptionEnd::Asked, out);
        } else if code.is_final() {
            self.end_early(id, &SubscriptionEnd::Refused(code, reason), out);
        } else {
            subscription.put_off();
            self.wires.take_back(wire);
            let whole = self.merged_of.get(&id).copied();
            if let Some(whole) = whole {
                self.give_up_merged(whole, out);
            }
            let pause = self.retries.next_pause();
            out.set_timer(Timer::Resubscribe(whole.unwrap_or(id)), now + pause);
        }
        Ok(())
    }

    /// The server takes subscriptions: the next refusal begins with a short pause again.
    pub(super) fn taken(&mut self) {
        self.retries.reset();
    }

    // Streams.

    /// Asks again for what the server could not take.
    pub(super) fn subscribe_again(&mut self, id: SubscriptionId, out: &mut Outputs) {
        if self.merged.contains_key(&id) { self.send_subscribe_merged(id, out) } else { self.send_subscribe(id, out) }
    }

    /// Sends Subscribe under a new number, if there is a connection.
    fn send_subscribe(&mut self, id: SubscriptionId, out: &mut Outputs) {
        let (Some(features), Some(subscription)) = (self.features, self.subscriptions.get_mut(&id)) else { return };
        out.clear_timer(Timer::Resubscribe(id));
        match subscription.subscribe(self.wires.give(id), features, out) {
            Some(frame) => out.send(ClientFrame::Subscribe(frame)),
            None => self.end_early(id, &no_first_start(), out),
        }
    }

    /// Begins the streams of a merged subscription anew, all of them where they stand, if there is a connection.
    fn send_subscribe_merged(&mut self, id: SubscriptionId, out: &mut Outputs) {
        let Some(features) = self.features else { return };
        let Some(merged) = self.merged.get(&id) else { return };
        out.clear_timer(Timer::Resubscribe(id));
        let members = merged.members().to_vec();
        if merged.is_leaving() {
            // Nothing more is handed over: what is left to do concerns each of them alone.
            for member in members {
                let subscription = self.subscriptions.get(&member);
                if subscription.is_some_and(|member| member.wire().is_none() && member.needs_server()) {
                    self.send_subscribe(member, out);
                }
            }
            return;
        }
        self.give_up_merged(id, out);
        if !features.has(Features::MERGED) {
            let words = "the server does not read several topics as one".to_owned();
            return self.end_merged(id, &SubscriptionEnd::Refused(RefusalCode::UNSUPPORTED, words), out);
        }
        self.last_group += 1;
        let group = self.last_group;
        for member in members {
            let Some(subscription) = self.subscriptions.get_mut(&member) else { continue };
            let Some(request) = subscription.subscribe(self.wires.give(member), features, out) else {
                return self.end_merged(id, &no_first_start(), out);
            };
            out.send(ClientFrame::SubscribeMerged(SubscribeMerged { group, request }));
        }
        out.send(ClientFrame::BeginMerged { group });
    }

    /// Gives the streams of a merged subscription up, for now: they are begun anew later, all together.
    fn give_up_merged(&mut self, id: SubscriptionId, out: &mut Outputs) {
        let Some(merged) = self.merged.get_mut(&id) else { return };
        merged.streams_gone();
        for member in merged.members() {
            let wire = self.subscriptions.get_mut(member).and_then(|subscription| subscription.give_up(out));
            wire.into_iter().for_each(|wire| self.wires.take_back(wire));
        }
    }

    /// A stream is broken: what was handed over stands, and the rest is asked for once more.
    fn begin_anew(&mut self, id: SubscriptionId, what: &'static str, out: &mut Outputs) -> Result<(), Fault> {
        let Some(subscription) = self.subscriptions.get_mut(&id) else { return Ok(()) };
        if subscription.fault() > FAULTS_MAX {
            return Err(Fault::unexpected(what));
        }
        if let Some(whole) = self.merged_of.get(&id).copied() {
            self.send_subscribe_merged(whole, out);
            return Ok(());
        }
        if let Some(wire) = subscription.wire() {
            self.wires.take_back(wire);
            out.send(ClientFrame::Unsubscribe { id: wire });
        }
        self.send_subscribe(id, out);
        Ok(())
    }

    /// Takes a subscription that is to end as far as it gets, and hands over what a merged one has.
    fn go_on(&mut self, id: SubscriptionId, out: &mut Outputs) {
        let Some(subscription) = self.subscriptions.get_mut(&id) else { return };
        if let Some(end) = subscription.go(out) {
            return self.remove(id, &end, out);
        }
        if let Some(merged) = self.merged_of.get(&id).and_then(|whole| self.merged.get_mut(whole)) {
            merged.hand_over(&mut self.subscriptions, out);
        }
    }

    // Ends.

    /// Another than the app ends a subscription; a merged one ends as a whole.
    fn end_early(&mut self, id: SubscriptionId, why: &SubscriptionEnd, out: &mut Outputs) {
        match self.merged_of.get(&id).copied() {
            Some(whole) => self.end_merged(whole, why, out),
            None => self.remove(id, why, out),
        }
    }

    /// A merged subscription ends as a whole, because one of its topics does.
    fn end_merged(&mut self, id: SubscriptionId, why: &SubscriptionEnd, out: &mut Outputs) {
        self.give_up_merged(id, out);
        let members = self.merged.get(&id).map_or_else(Vec::new, |merged| merged.members().to_vec());
        for member in members {
            self.remove(member, why, out);
        }
    }

    /// A subscription is gone; the last member takes its merged subscription along.
    fn remove(&mut self, id: SubscriptionId, why: &SubscriptionEnd, out: &mut Outputs) {
        let Some(subscription) = self.subscriptions.remove(&id) else { return };
        subscription.wire().into_iter().for_each(|wire| self.wires.take_back(wire));
        out.clear_timer(Timer::Resubscribe(id));
        self.gathering.remove(&id);
        let Some(whole) = self.merged_of.get(&id).copied() else {
            return out.push(Output::Unsubscribed { id, why: why.clone() });
        };
        let Some(merged) = self.merged.get_mut(&whole) else { return };
        if merged.member_gone(subscription.is_open()) {
            out.clear_timer(Timer::Resubscribe(whole));
            out.push(Output::Unsubscribed { id: whole, why: why.clone() });
        }
    }

    /// What the shell is told of a merged subscription in place of what concerns one of its members.
    pub(super) fn translate(&mut self, output: Output) -> Option<Output> {
        match output {
            Output::AckConfirmed { id, seq } => {
                let Some(whole) = self.merged_of.get(&id) else { return Some(Output::AckConfirmed { id, seq }) };
                let seq = self.merged.get_mut(whole)?.confirmed(id, seq)?;
                Some(Output::AckConfirmed { id: *whole, seq })
            }
            Output::Unsubscribed { id, why } => {
                // Kept until now: confirmations of its members may have been on their way to the shell.
                if let Some(merged) = self.merged.remove(&id) {
                    for member in merged.members() {
                        self.merged_of.remove(member);
                    }
                }
                Some(Output::Unsubscribed { id, why })
            }
            Output::Connect
            | Output::SendHello(_)
            | Output::Send(_)
            | Output::Disconnect(_)
            | Output::Deliver { .. }
            | Output::AskAt { .. }
            | Output::SaveCursor { .. }
            | Output::EmitDone { .. }
            | Output::EmitsLost { .. }
            | Output::EmitsHeld { .. }
            | Output::Requested { .. }
            | Output::RequestDone { .. }
            | Output::State(_)
            | Output::Ended => Some(output),
        }
    }

    fn merged_by(&mut self, wire: SubscriptionId) -> Option<&mut Merged> {
        let id = self.wires.get(wire)?;
        self.merged.get_mut(self.merged_of.get(&id)?)
    }

    fn ids(&self) -> Vec<SubscriptionId> {
        self.subscriptions.keys().copied().collect()
    }
}

fn no_first_start() -> SubscriptionEnd {
    let words = "the server knows no first start but the earliest and the latest event".to_owned();
    SubscriptionEnd::Refused(RefusalCode::UNSUPPORTED, words)
}

/// How often a broken stream is begun anew on one connection before the connection itself is given up.
const FAULTS_MAX: u32 = 3;
