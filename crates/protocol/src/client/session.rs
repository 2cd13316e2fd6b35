//! The client session: takes inputs apart, brings each to its subscription, to the outbox or to the connection, and
//! keeps what they want done in order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use super::connection::Phase;
use super::inbox::Misfit;
use super::merged::{Arrival, Rows};
use super::outbox::{Answered, Outbox};
use super::requests::Requests;
use super::subscription::{Subscription, Urgency};
use super::{ConnectionState, EmitOutcome, EmitTicket, Input, Output, SubscribeRequest, SubscriptionEnd};
use crate::backoff::{Backoff, Jitter};
use crate::codec::{FromServer, decode_from_server, features_of_close};
use crate::config::ClientConfig;
use crate::error::{CloseCode, RefusalCode};
use crate::event::NewEvent;
use crate::features::{FEATURES, Features};
use crate::frame::{ClientFrame, ServerFrame};
use crate::name::SubscriberName;
use crate::seq::{EmitNumber, InstanceId, PublisherId, SubscriptionId};
use crate::time::Instant;
use crate::timer::Timers;

/// Who a client is, for as long as it lives.
#[derive(Clone, Debug)]
pub struct Identity {
    /// This running client.
    pub instance: InstanceId,
    /// Under which identity it emits; numbers start from 1.
    pub publisher: PublisherId,
    /// The durable subscriber whose cursors it uses.
    pub subscriber: Option<SubscriberName>,
    /// Credentials.
    pub auth: Option<Bytes>,
    /// What it calls itself.
    pub client_name: String,
}

/// The client's end, across its connections.
#[derive(Debug)]
pub struct ClientSession {
    pub(super) config: ClientConfig,
    pub(super) identity: Identity,
    /// What Hello names: with these the present connection is spoken, or the next one tried.
    pub(super) features: Features,
    pub(super) phase: Phase,
    pub(super) state: ConnectionState,
    pub(super) shutting_down: bool,
    pub(super) out: VecDeque<Output>,
    pub(super) timers: Timers<Timer>,
    pub(super) reconnects: Backoff,
    emit_retries: Backoff,
    resubscribes: Backoff,
    pub(super) outbox: Outbox,
    /// When an emit was last settled by the server.
    pub(super) settled_at: Option<Instant>,
    pub(super) subscriptions: BTreeMap<SubscriptionId, Subscription>,
    /// The subscriptions by their numbers on the present connection, which are given upwards and never twice.
    pub(super) wires: BTreeMap<SubscriptionId, SubscriptionId>,
    pub(super) wire_last: u32,
    pub(super) requests: Requests,
    /// Those that are read as one.
    pub(super) rows: Rows,
    /// Subscriptions with acks that wait for company.
    gathering: BTreeSet<SubscriptionId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// The connection and Welcome take too long.
    Connect,
    Reconnect,
    Heartbeat,
    FlushAcks,
    RetryEmits,
    Requests,
    Resubscribe(SubscriptionId),
}

impl ClientSession {
    /// A client that wants to connect.
    #[must_use]
    pub fn new(config: ClientConfig, identity: Identity, mut jitter: Jitter, now: Instant) -> ClientSession {
        let mut backoff = || Backoff::new(config.backoff_first, config.backoff_max, Jitter::new(jitter.next_u64()));
        let mut session = ClientSession {
            reconnects: backoff(),
            emit_retries: backoff(),
            resubscribes: backoff(),
            features: config.features.and(FEATURES),
            config,
            identity,
            phase: Phase::Waiting,
            state: ConnectionState::default(),
            shutting_down: false,
            out: VecDeque::new(),
            timers: Timers::default(),
            outbox: Outbox::new(),
            settled_at: None,
            subscriptions: BTreeMap::new(),
            wires: BTreeMap::new(),
            wire_last: 0,
            requests: Requests::default(),
            rows: Rows::default(),
            gathering: BTreeSet::new(),
        };
        session.dial(now);
        session
    }

    /// Takes what happened.
    pub fn handle(&mut self, input: Input, now: Instant) {
        if self.phase == Phase::Ended {
            return;
        }
        match input {
            Input::Subscribe { id, request } => self.subscribe_wanted(id, request),
            Input::SubscribeMerged { id, members } => self.subscribe_merged_wanted(id, members),
            Input::Unsubscribe { id } => self.leave_all(id),
            Input::Ack { id, position, nth } if self.rows.of(id).is_some() => self.ack_row(id, position, nth, now),
            Input::Ack { id, position, nth } => self.ack(id, now, |sub, out| sub.ack(position, nth, out)),
            Input::Emit { ticket, event } => self.emit(ticket, event),
            Input::CancelEmit { ticket } => self.outbox.cancel(ticket, &mut self.out),
            Input::EmitVolatile { event } => self.emit_volatile(event),
            Input::Request { ticket, request } => self.ask(ticket, request, now),
            Input::CancelRequest { ticket } => self.cancel_ask(ticket),
            Input::Respond { key, result } => self.answered(key, result),
            Input::Shutdown => self.shut_down(),
            Input::Connected => self.connected(),
            Input::Disconnected(reason) => self.disconnected(reason, now),
            Input::Rejected(close) => self.end(Some(close)),
            Input::Message(message) => self.message(&message, now),
            Input::CursorSaved { id, seq } => self.ack(id, now, |sub, out| sub.cursor_saved(seq, out)),
            Input::Tick => self.tick(now),
        }
        self.finish_if_done();
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        // Emits are gathered until somebody looks, so that what is emitted together travels together.
        if self.out.is_empty() && self.may_send_emits() {
            if let Some(frame) = self.outbox.next_frame(self.features, &mut self.out) {
                self.out.push_back(Output::Send(frame));
            }
            self.finish_if_done();
        }
        while let Some(output) = self.out.pop_front() {
            if let Some(output) = self.in_terms_of_rows(output) {
                return Some(output);
            }
        }
        None
    }

    /// When [`Input::Tick`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Whether an event of this size (see [`NewEvent::size_bytes`]) has room in the outbox. One event always fits.
    #[must_use]
    pub fn outbox_has_room(&self, event_bytes: usize) -> bool {
        let within = self.outbox.len() < self.config.outbox_events_max
            && self.outbox.bytes().saturating_add(event_bytes) <= self.config.outbox_bytes_max;
        within || self.outbox.len() == 0
    }

    /// How many emits wait for their answer, sent or not.
    #[must_use]
    pub fn outbox_events(&self) -> usize {
        self.outbox.len()
    }

    /// Their size in bytes.
    #[must_use]
    pub fn outbox_bytes(&self) -> usize {
        self.outbox.bytes()
    }

    /// How many events have arrived and wait for room in their subscription's window.
    #[must_use]
    pub fn inbox_events(&self) -> usize {
        self.subscriptions.values().map(Subscription::inbox_events).sum()
    }

    /// The connection's state, as last told.
    #[must_use]
    pub fn state(&self) -> &ConnectionState {
        &self.state
    }

    fn subscribe_wanted(&mut self, id: SubscriptionId, request: SubscribeRequest) {
        if self.shutting_down {
            self.out.push_back(Output::Unsubscribed { id, why: SubscriptionEnd::ClientEnded });
            return;
        }
        self.subscriptions.insert(id, Subscription::new(id, request, None));
        if self.has_connection() {
            self.subscribe(id);
        }
    }

    fn leave_all(&mut self, id: SubscriptionId) {
        self.leave(id);
        for member in self.rows.members(id) {
            self.leave(member);
        }
    }

    fn leave(&mut self, id: SubscriptionId) {
        if let Some(subscription) = self.subscriptions.get_mut(&id) {
            subscription.leave();
            self.go_on(id);
        }
    }

    fn emit(&mut self, ticket: EmitTicket, event: NewEvent) {
        if self.shutting_down {
            self.out.push_back(Output::EmitDone { ticket, fate: EmitOutcome::NotSent });
        } else {
            self.outbox.push(ticket, event, &mut self.out);
        }
    }

    pub(super) fn ack(
        &mut self,
        id: SubscriptionId,
        now: Instant,
        take: impl FnOnce(&mut Subscription, &mut VecDeque<Output>) -> Urgency,
    ) {
        let Some(subscription) = self.subscriptions.get_mut(&id) else { return };
        let mut urgency = take(subscription, &mut self.out);
        if urgency == Urgency::Later && self.config.ack_delay.is_zero() {
            urgency = Urgency::Now;
        }
        match urgency {
            Urgency::Nothing => {}
            Urgency::Now => subscription.flush_acks(&mut self.out),
            Urgency::Later => {
                self.gathering.insert(id);
                self.timers.set_if_clear(Timer::FlushAcks, now + self.config.ack_delay);
            }
        }
        self.go_on(id);
    }

    fn shut_down(&mut self) {
        self.shutting_down = true;
        for id in self.subscription_ids() {
            self.leave(id);
        }
    }

    fn tick(&mut self, now: Instant) {
        while let Some(timer) = self.timers.take_due(now) {
            match timer {
                Timer::Connect => {
                    self.drop_connection(CloseCode::HeartbeatTimeout, "the server did not answer in time", now);
                }
                Timer::Reconnect => self.dial(now),
                Timer::Heartbeat => self.heartbeat(now),
                Timer::RetryEmits => self.outbox.resume(),
                Timer::Requests => self.requests_due(now),
                Timer::Resubscribe(id) => self.subscribe_all(id),
                Timer::FlushAcks => {
                    for id in std::mem::take(&mut self.gathering) {
                        if let Some(subscription) = self.subscriptions.get_mut(&id) {
                            subscription.flush_acks(&mut self.out);
                        }
                    }
                }
            }
        }
    }

    fn message(&mut self, message: &Bytes, now: Instant) {
        if !self.has_connection() {
            return;
        }
        self.heard(now);
        match decode_from_server(message) {
            Ok(FromServer::Close(close)) => self.closed(close, features_of_close(message), now),
            Ok(FromServer::Frame(ServerFrame::Welcome(welcome))) => self.welcome(&welcome, now),
            Ok(FromServer::Frame(frame)) if self.is_welcomed() => self.frame(frame, now),
            Ok(FromServer::Frame(_)) => self.drop_connection(CloseCode::Unexpected, "a frame came before Welcome", now),
            Err(error) => self.drop_connection(CloseCode::Malformed, &error.to_string(), now),
        }
    }

    fn frame(&mut self, frame: ServerFrame, now: Instant) {
        match frame {
            ServerFrame::Welcome(_) => self.drop_connection(CloseCode::Unexpected, "Welcome came twice", now),
            ServerFrame::Subscribed(answer) => {
                self.resubscribes.reset();
                self.on_stream(answer.id, now, |sub, out| sub.subscribed(answer, out));
            }
            ServerFrame::SubscribeRefused { id, code, reason } => self.subscribe_refused(id, code, reason, now),
            ServerFrame::Events(batch) => {
                self.on_row(batch.id, Arrival::Events(&batch), now, |sub, _, out| sub.events(&batch, out));
            }
            ServerFrame::CaughtUp { id, seq } => self.on_stream(id, now, |sub, out| sub.caught_up(seq, out)),
            ServerFrame::Skip { id, through, nth_through } => {
                let arrival = Arrival::Skip(through.seq);
                self.on_row(id, arrival, now, |sub, is_apart, out| sub.skip(through, nth_through, is_apart, out));
            }
            ServerFrame::Gap { id, gap } => self.on_stream(id, now, |sub, out| sub.gap(gap, out)),
            ServerFrame::Acked { id, seq } => self.on_stream(id, now, |sub, out| {
                sub.acked_by_server(seq, out);
                Ok(())
            }),
            ServerFrame::Unsubscribed { id } => self.unsubscribed(id, now),
            ServerFrame::TakenOver { id } => {
                if let Some(id) = self.named(id, now) {
                    self.end_early(id, SubscriptionEnd::TakenOver);
                }
            }
            ServerFrame::Emitted { runs } => {
                let answered = self.outbox.answered(&runs, &mut self.out);
                self.emits_answered(answered, now);
            }
            ServerFrame::OutOfOrder { expected } => self.out_of_order(expected, now),
            ServerFrame::Ping { token } => self.out.push_back(Output::Send(ClientFrame::Pong { token })),
            ServerFrame::Pong { .. } => {}
            ServerFrame::Volatile(event) if self.features.has(Features::VOLATILE) => {
                self.on_stream(event.id, now, |sub, out| {
                    sub.volatile(event, out);
                    Ok(())
                });
            }
            ServerFrame::Request(request) if self.features.has(Features::REQUESTS) => self.asked(request, now),
            ServerFrame::Reply(reply) if self.features.has(Features::REQUESTS) => self.replied(reply, now),
            ServerFrame::Volatile(_) | ServerFrame::Request(_) | ServerFrame::Reply(_) => {
                self.drop_connection(CloseCode::Unexpected, "a frame came whose feature Hello did not name", now);
            }
        }
    }

    /// The same for what has its place in a row, if the stream is one of a row. The closure is told whether a skip must
    /// stand apart.
    fn on_row(
        &mut self,
        wire: SubscriptionId,
        arrival: Arrival<'_>,
        now: Instant,
        take: impl FnOnce(&mut Subscription, bool, &mut VecDeque<Output>) -> Result<(), Misfit>,
    ) {
        let in_row = self.arrives_in_row(wire, arrival);
        self.on_stream(wire, now, |sub, out| take(sub, in_row?, out));
    }

    fn on_stream(
        &mut self,
        wire: SubscriptionId,
        now: Instant,
        take: impl FnOnce(&mut Subscription, &mut VecDeque<Output>) -> Result<(), Misfit>,
    ) {
        let Some(id) = self.named(wire, now) else { return };
        let Some(subscription) = self.subscriptions.get_mut(&id) else { return };
        match take(subscription, &mut self.out) {
            Ok(()) => self.go_on(id),
            Err(Misfit::Flood) => {
                self.drop_connection(CloseCode::LimitBroken, "more came than the window allows", now);
            }
            Err(Misfit::Hole(what)) => self.begin_anew(id, what, now),
        }
    }

    /// The stream is broken: what was handed over stands, and the rest is asked for once more.
    fn begin_anew(&mut self, id: SubscriptionId, what: &'static str, now: Instant) {
        let Some(subscription) = self.subscriptions.get_mut(&id) else { return };
        if subscription.fault() > FAULTS_MAX {
            self.drop_connection(CloseCode::Unexpected, what, now);
            return;
        }
        if let Some(row) = self.rows.of(id) {
            return self.subscribe_row(row);
        }
        if let Some(wire) = subscription.wire() {
            self.wires.remove(&wire);
            self.out.push_back(Output::Send(ClientFrame::Unsubscribe { id: wire }));
        }
        self.subscribe(id);
    }

    /// Which subscription has this number on the connection. Frames of one that has just been given up are passed over;
    /// a number that was never given is a violation.
    fn named(&mut self, wire: SubscriptionId, now: Instant) -> Option<SubscriptionId> {
        let id = self.wires.get(&wire).copied();
        if id.is_none() && (wire.0 == 0 || wire.0 > self.wire_last) {
            self.drop_connection(CloseCode::Unexpected, "a frame names a subscription that was never made", now);
        }
        id
    }

    fn unsubscribed(&mut self, wire: SubscriptionId, now: Instant) {
        let Some(id) = self.named(wire, now) else { return };
        let Some(subscription) = self.subscriptions.get_mut(&id) else { return };
        if subscription.is_leaving() {
            subscription.left(&mut self.out);
            self.remove(id, SubscriptionEnd::Asked);
        } else {
            self.begin_anew(id, "a subscription ended that was not to end", now);
        }
    }

    fn subscribe_refused(&mut self, wire: SubscriptionId, code: RefusalCode, reason: String, now: Instant) {
        let Some(id) = self.named(wire, now) else { return };
        let Some(subscription) = self.subscriptions.get_mut(&id) else { return };
        if subscription.is_leaving() && !subscription.needs_server() {
            self.remove(id, SubscriptionEnd::Asked);
        } else if code.is_final() {
            self.end_early(id, SubscriptionEnd::Refused(code, reason));
        } else {
            subscription.put_off();
            self.wires.remove(&wire);
            let row = self.rows.of(id);
            row.into_iter().for_each(|row| self.give_up_row(row));
            let pause = self.resubscribes.next_pause();
            self.timers.set(Timer::Resubscribe(row.unwrap_or(id)), now + pause);
        }
    }

    fn emits_answered(&mut self, answered: Answered, now: Instant) {
        match answered {
            Answered::Nothing => {}
            Answered::Settled => {
                self.emit_retries.reset();
                self.settled_at = Some(now);
            }
            Answered::Pause => self.pause_emits(now),
            Answered::Nonsense => {
                self.drop_connection(CloseCode::Unexpected, "an answer to what was not emitted", now);
            }
        }
    }

    fn out_of_order(&mut self, expected: EmitNumber, now: Instant) {
        if expected <= self.outbox.settled() {
            // The number was answered, and now it is missing: this log has gone back. Welcome will say how far.
            self.drop_connection(CloseCode::Unexpected, "the server has lost emits that it had acknowledged", now);
        } else {
            self.pause_emits(now);
        }
    }

    /// Answers that still come for what was sent before the pause do not lengthen it.
    fn pause_emits(&mut self, now: Instant) {
        if !self.outbox.is_paused() {
            self.outbox.pause();
            let pause = self.emit_retries.next_pause();
            self.timers.set(Timer::RetryEmits, now + pause);
        }
    }

    /// Sends Subscribe under a new number.
    pub(super) fn subscribe(&mut self, id: SubscriptionId) {
        let Some(subscription) = self.subscriptions.get_mut(&id) else { return };
        self.timers.clear(Timer::Resubscribe(id));
        let frame = subscription.subscribe(SubscriptionId(self.wire_last + 1));
        self.next_wire(id);
        self.out.push_back(Output::Send(ClientFrame::Subscribe(frame)));
    }

    /// A new number on this connection.
    pub(super) fn next_wire(&mut self, id: SubscriptionId) -> SubscriptionId {
        self.wire_last += 1;
        let wire = SubscriptionId(self.wire_last);
        self.wires.insert(wire, id);
        wire
    }

    /// Sends what a subscription or a row needs to go on.
    pub(super) fn subscribe_all(&mut self, id: SubscriptionId) {
        if self.rows.members(id).is_empty() { self.subscribe(id) } else { self.subscribe_row(id) }
    }

    /// Takes a subscription that is to end as far as it gets.
    pub(super) fn go_on(&mut self, id: SubscriptionId) {
        let Some(subscription) = self.subscriptions.get_mut(&id) else { return };
        if let Some(end) = subscription.go(&mut self.out) {
            self.remove(id, end);
        } else if let Some(row) = self.rows.of(id) {
            self.pump_row(row);
        }
    }

    /// Another than the app ends a subscription; a row ends as a whole.
    fn end_early(&mut self, id: SubscriptionId, why: SubscriptionEnd) {
        match self.rows.of(id) {
            Some(row) => self.end_row(row, &why),
            None => self.remove(id, why),
        }
    }

    pub(super) fn remove(&mut self, id: SubscriptionId, why: SubscriptionEnd) {
        if let Some(subscription) = self.subscriptions.remove(&id) {
            if let Some(wire) = subscription.wire() {
                self.wires.remove(&wire);
            }
            self.timers.clear(Timer::Resubscribe(id));
            self.gathering.remove(&id);
            match self.rows.of(id) {
                Some(_) => self.forget_member(id, &why),
                None => self.out.push_back(Output::Unsubscribed { id, why }),
            }
        }
    }

    pub(super) fn subscription_ids(&self) -> Vec<SubscriptionId> {
        self.subscriptions.keys().copied().collect()
    }
}

/// How often a broken stream is begun anew on one connection before the connection itself is given up.
const FAULTS_MAX: u32 = 3;
