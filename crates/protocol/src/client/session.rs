//! The client session: takes inputs apart, brings each to the part that it concerns, and tells every part when a
//! connection comes or goes.

use bytes::Bytes;

use super::connection::{Connection, say_goodbye};
use super::emits::Emits;
use super::fault::Fault;
use super::outputs::{Outputs, Timer};
use super::requests::Requests;
use super::subscriptions::Subscriptions;
use super::{ConnectionState, Input, Output};
use crate::backoff::{Backoff, Jitter};
use crate::cause::Cause;
use crate::codec::{FromServer, decode_from_server, features_of_close};
use crate::config::ClientConfig;
use crate::error::{Close, CloseCode, RetryAdvice};
use crate::event::NewEvent;
use crate::features::Features;
use crate::frame::{ClientFrame, Hello, ServerFrame, Welcome};
use crate::limits::Limits;
use crate::name::SubscriberName;
use crate::seq::{EmitNumber, InstanceId, PublisherId};
use crate::time::Instant;

/// Who a client is, for as long as it lives.
#[derive(Clone, Debug)]
pub struct Identity {
    /// This running client.
    pub instance: InstanceId,
    /// Under which identity it emits; numbers start from 1, or where [`ClientSession::emitting_after`] says.
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
    identity: Identity,
    connection: Connection,
    subscriptions: Subscriptions,
    emits: Emits,
    requests: Requests,
    /// Whether credentials are asked for anew for each connection.
    renews_credentials: bool,
    /// How often they were refused since the last Welcome.
    credentials_refused: u32,
    is_shutting_down: bool,
    /// Whether the publisher is of no use after this client.
    retires_publisher: bool,
    out: Outputs,
}

impl ClientSession {
    /// A client that wants to connect.
    #[must_use]
    #[allow(
        clippy::needless_pass_by_value,
        reason = "a session owns its configuration, whichever of its parts keeps it"
    )]
    pub fn new(config: ClientConfig, identity: Identity, mut jitter: Jitter, now: Instant) -> ClientSession {
        let mut backoff = || Backoff::new(config.backoff_first, config.backoff_max, Jitter::new(jitter.next_u64()));
        let mut session = ClientSession {
            connection: Connection::new(&config, backoff()),
            emits: Emits::new(&config, backoff()),
            subscriptions: Subscriptions::new(config.ack_delay, backoff()),
            requests: Requests::default(),
            identity,
            renews_credentials: false,
            credentials_refused: 0,
            is_shutting_down: false,
            retires_publisher: false,
            out: Outputs::default(),
        };
        session.connection.dial(now, &mut session.out);
        session
    }

    /// Has the emits' numbers go on behind this one, of which an earlier process has the receipt. Does nothing once
    /// something was emitted.
    #[must_use]
    pub fn emitting_after(mut self, settled: EmitNumber) -> ClientSession {
        self.emits.begin_after(settled);
        self
    }

    /// Has the shell ask for credentials anew for each connection, and give [`Input::Credentials`]. A close that says that
    /// they have expired or are refused is then no end: others are asked for at once. Only those that are refused just as
    /// they come, twice in a row, end the client.
    #[must_use]
    pub fn renewing_credentials(mut self) -> ClientSession {
        self.renews_credentials = true;
        self
    }

    /// Says that nobody will emit as this publisher after this client. If all that it emits is stored, the server is told
    /// with the goodbye, and may forget the publisher.
    pub fn retire_publisher(&mut self) {
        self.retires_publisher = true;
    }

    /// Takes what happened.
    pub fn handle(&mut self, input: Input, now: Instant) {
        if self.connection.has_ended() {
            return;
        }
        let out = &mut self.out;
        out.begin(now);
        match input {
            Input::Subscribe { id, request } => self.subscriptions.subscribe(id, request, out),
            Input::SubscribeMerged { id, members } => self.subscriptions.subscribe_merged(id, members, out),
            Input::Unsubscribe { id } => self.subscriptions.unsubscribe(id, out),
            Input::Ack { id, position, nth } => self.subscriptions.ack(id, position, nth, now, out),
            Input::CursorSaved { id, seq } => self.subscriptions.cursor_saved(id, seq, now, out),
            Input::Wanted { id, taken } => self.subscriptions.wanted(id, taken, now, out),
            Input::Emit { ticket, event } => self.emits.emit(ticket, event, out),
            Input::CancelEmit { ticket } => self.emits.cancel(ticket, out),
            Input::EmitVolatile { event } => self.emit_volatile(event),
            Input::Request { ticket, request } => {
                self.requests.request(ticket, request, now, out);
                self.requests.send(&self.connection, now, out);
            }
            Input::CancelRequest { ticket } => self.requests.cancel(ticket, out),
            Input::Respond { key, result } => self.requests.respond(key, result, out),
            Input::Shutdown => self.shut_down(),
            Input::Credentials(auth) => self.identity.auth = Some(auth),
            Input::Connected => self.connected(),
            Input::Disconnected(reason) => self.disconnected(reason, now),
            Input::Rejected(close) => self.end(Some(close)),
            Input::Message(message) => self.message(&message, now),
            Input::Tick => self.tick(now),
        }
        self.finish_if_done();
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        // Emits are gathered until somebody looks, so that what is emitted together travels together.
        if self.out.is_empty() && self.connection.may_send_emits() {
            self.emits.send_next(self.connection.features(), &mut self.out);
            self.finish_if_done();
        }
        while let Some(output) = self.out.pop() {
            if let Some(output) = self.subscriptions.translate(output) {
                return Some(output);
            }
        }
        None
    }

    /// When [`Input::Tick`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.out.next_timeout()
    }

    /// Whether an event of this size (see [`NewEvent::size_bytes`]) has room in the outbox. One event always fits.
    #[must_use]
    pub fn outbox_has_room(&self, event_bytes: usize) -> bool {
        self.emits.have_room(event_bytes)
    }

    /// How many emits wait for their answer, sent or not.
    #[must_use]
    pub fn outbox_events(&self) -> usize {
        self.emits.outbox().len()
    }

    /// The size of the emits that wait for their answer, in bytes.
    #[must_use]
    pub fn outbox_bytes(&self) -> usize {
        self.emits.outbox().bytes()
    }

    /// How many events have arrived and wait for room in their subscription's window.
    #[must_use]
    pub fn inbox_events(&self) -> usize {
        self.subscriptions.inbox_events()
    }

    /// The connection's state, as last told.
    #[must_use]
    pub fn state(&self) -> &ConnectionState {
        self.connection.state()
    }

    /// Gives an event to whoever is connected now. Without a connection there is nobody.
    fn emit_volatile(&mut self, event: NewEvent) {
        if self.connection.can(Features::VOLATILE) && event.check(&Limits::ANY_SERVER).is_ok() {
            self.out.send(ClientFrame::Volatile { event });
        }
    }

    fn shut_down(&mut self) {
        self.is_shutting_down = true;
        self.emits.close();
        self.requests.close();
        self.subscriptions.close(&mut self.out);
    }

    fn tick(&mut self, now: Instant) {
        while let Some(timer) = self.out.take_due(now) {
            let out = &mut self.out;
            let result = match timer {
                Timer::Connect => Err(Fault::silence("the server did not answer in time")),
                Timer::Heartbeat => self.connection.heartbeat(now, out),
                Timer::Reconnect => {
                    self.connection.dial(now, out);
                    Ok(())
                }
                Timer::RetryEmits => {
                    self.emits.resume();
                    Ok(())
                }
                Timer::Requests => {
                    self.requests.expire(now, out);
                    Ok(())
                }
                Timer::Resubscribe(id) => {
                    self.subscriptions.subscribe_again(id, out);
                    Ok(())
                }
                Timer::FlushAcks => {
                    self.subscriptions.flush_acks(out);
                    Ok(())
                }
            };
            if let Err(fault) = result {
                self.drop_connection(&fault, now);
            }
        }
    }

    fn message(&mut self, message: &Bytes, now: Instant) {
        if !self.connection.is_up() {
            return;
        }
        self.connection.heard(now);
        let result = match decode_from_server(message) {
            Ok(FromServer::Close(close)) => {
                self.closed(close, features_of_close(message), now);
                Ok(())
            }
            Ok(FromServer::Frame(ServerFrame::Welcome(welcome))) => self.welcome(&welcome, now),
            Ok(FromServer::Frame(frame)) if self.connection.is_welcomed() => self.frame(frame, now),
            Ok(FromServer::Frame(_)) => Err(Fault::unexpected("a frame came before Welcome")),
            Err(error) => Err(Fault::malformed(&error)),
        };
        if let Err(fault) = result {
            self.drop_connection(&fault, now);
        }
    }

    fn frame(&mut self, frame: ServerFrame, now: Instant) -> Result<(), Fault> {
        let ClientSession { subscriptions, emits, requests, connection, out, .. } = self;
        match frame {
            ServerFrame::Welcome(_) => Err(Fault::unexpected("Welcome came twice")),
            ServerFrame::Subscribed(answer) => {
                subscriptions.taken();
                subscriptions.on_stream(answer.id, out, |sub, out| sub.subscribed(answer, out))
            }
            ServerFrame::SubscribeRefused { id, code, reason } => subscriptions.refused(id, code, reason, now, out),
            ServerFrame::Events(batch) => subscriptions.events(&batch, out),
            ServerFrame::CaughtUp { id, seq } => subscriptions.on_stream(id, out, |sub, out| sub.caught_up(seq, out)),
            ServerFrame::Skip { id, through, nth_through } => subscriptions.skip(id, through, nth_through, out),
            ServerFrame::Gap { id, gap } => subscriptions.on_stream(id, out, |sub, out| sub.gap(gap, out)),
            ServerFrame::Acked { id, seq } => subscriptions.on_stream(id, out, |sub, out| {
                sub.acked_by_server(seq, out);
                Ok(())
            }),
            ServerFrame::Unsubscribed { id } => subscriptions.unsubscribed(id, out),
            ServerFrame::TakenOver { id } => subscriptions.taken_over(id, out),
            ServerFrame::Emitted { runs } => emits.answered(&runs, now, out),
            ServerFrame::OutOfOrder { expected } => emits.out_of_order(expected, now, out),
            ServerFrame::Ping { token } => {
                out.send(ClientFrame::Pong { token });
                Ok(())
            }
            ServerFrame::Pong { .. } => Ok(()),
            ServerFrame::Volatile(event) if connection.can(Features::VOLATILE) => {
                subscriptions.on_stream(event.id, out, |sub, out| {
                    sub.volatile(event, out);
                    Ok(())
                })
            }
            ServerFrame::Request(request) if connection.can(Features::REQUESTS) => requests.requested(request, out),
            ServerFrame::Reply(reply) if connection.can(Features::REQUESTS) => requests.replied(reply, out),
            ServerFrame::Taken { id, nth } if connection.can(Features::TAKING) => {
                subscriptions.on_stream(id, out, |sub, out| {
                    sub.taken(nth, now, out);
                    Ok(())
                })
            }
            ServerFrame::Volatile(_) | ServerFrame::Request(_) | ServerFrame::Reply(_) | ServerFrame::Taken { .. } => {
                Err(Fault::unexpected("a frame came whose feature Hello did not name"))
            }
        }
    }

    /// The connection stands: everything that the server needs to go on goes out at once, without waiting for Welcome.
    fn connected(&mut self) {
        if !self.connection.is_dialing() {
            return;
        }
        self.connection.greet(!self.emits.outbox().has_unanswered());
        self.out.push(Output::SendHello(Hello {
            instance: self.identity.instance,
            publisher: Some(self.identity.publisher),
            settled: self.emits.outbox().settled(),
            subscriber: self.identity.subscriber.clone(),
            auth: self.identity.auth.clone(),
            client_name: self.identity.client_name.clone(),
            features: self.connection.features(),
        }));
        self.subscriptions.connected(self.connection.features(), &mut self.out);
    }

    fn welcome(&mut self, welcome: &Welcome, now: Instant) -> Result<(), Fault> {
        self.credentials_refused = 0;
        let emits_may_follow = self.connection.welcome(welcome.heartbeat, welcome.epoch, now, &mut self.out)?;
        if self.emits.welcomed(welcome, emits_may_follow, now, &mut self.out) {
            self.greet_again("greeting again with other numbers", now);
        }
        self.requests.send(&self.connection, now, &mut self.out);
        Ok(())
    }

    /// The shell says that the connection is gone, or could not be made.
    fn disconnected(&mut self, reason: Cause, now: Instant) {
        if self.connection.is_up() || self.connection.is_dialing() {
            self.out.drop_unwritten();
            self.lost(reason, None, now);
        }
    }

    /// The server says goodbye. `has` is what it has of the features.
    fn closed(&mut self, close: Close, has: Option<Features>, now: Instant) {
        if close.code == CloseCode::VERSION_MISMATCH
            && let Some(has) = has.filter(|has| !has.has(self.connection.features()))
            && !self.connection.is_welcomed()
        {
            self.greet_with_less(has, &close, now);
            return;
        }
        if !self.connection.is_welcomed() && self.connection.may_send_emits() {
            self.emits.not_taken();
        }
        if self.renews_credentials && matches!(close.code, CloseCode::UNAUTHENTICATED | CloseCode::EXPIRED) {
            return self.credentials_refused(close, now);
        }
        let advised = match close.retry {
            RetryAdvice::Never => return self.end(Some(close)),
            RetryAdvice::Now => None,
            RetryAdvice::After(advised) => Some(advised),
        };
        say_goodbye("", RetryAdvice::Never, &mut self.out);
        self.lost(closed_by_server(&close), advised, now);
    }

    /// The server does not take these credentials, or takes them no more.
    fn credentials_refused(&mut self, close: Close, now: Instant) {
        let has_stood = self.connection.has_stood(now);
        if !self.connection.is_welcomed() {
            self.credentials_refused += 1;
            if self.credentials_refused > 1 && close.code == CloseCode::UNAUTHENTICATED {
                return self.end(Some(close));
            }
        }
        if has_stood || self.credentials_refused == 1 {
            self.greet_again("coming back with other credentials", now);
        } else {
            // Credentials that expire as soon as they are there must not make a loop.
            say_goodbye("", RetryAdvice::Never, &mut self.out);
            self.lost(closed_by_server(&close), None, now);
        }
    }

    /// The server is of an earlier time. It is greeted again with what it has, unless emits are under way that it cannot
    /// carry: those wait for a server that can.
    fn greet_with_less(&mut self, has: Features, close: &Close, now: Instant) {
        let words = "greeting again with fewer features";
        if has.has(self.emits.outbox().needs()) {
            self.connection.use_less(has);
            self.greet_again(words, now);
        } else {
            say_goodbye(words, RetryAdvice::Now, &mut self.out);
            let words = format!("emits under way need a newer server: {}", close.reason);
            self.lost(Cause::of_words(words), None, now);
        }
    }

    /// Ends the connection and makes another one at once.
    fn greet_again(&mut self, words: &str, now: Instant) {
        say_goodbye(words, RetryAdvice::Now, &mut self.out);
        self.forget_connection();
        self.connection.dial(now, &mut self.out);
    }

    /// Ends the connection from here; another try follows.
    fn drop_connection(&mut self, fault: &Fault, now: Instant) {
        let close = fault.close();
        let reason = close.reason.clone();
        self.out.push(Output::Disconnect(close));
        self.lost(Cause::of_words(reason), None, now);
    }

    fn lost(&mut self, reason: Cause, advised: Option<std::time::Duration>, now: Instant) {
        self.forget_connection();
        self.connection.lost(reason, advised, now, &mut self.out);
        self.subscriptions.go_on_all(&mut self.out);
        self.finish_if_done();
    }

    fn forget_connection(&mut self) {
        self.out.clear_timer(Timer::Connect);
        self.out.clear_timer(Timer::Heartbeat);
        self.emits.disconnected(&mut self.out);
        self.requests.disconnected(&mut self.out);
        self.subscriptions.disconnected(&mut self.out);
    }

    /// A shutdown is complete when every emit is answered and every subscription has ended.
    fn finish_if_done(&mut self) {
        let is_done = self.is_shutting_down && self.subscriptions.is_empty() && self.emits.outbox().len() == 0;
        if is_done && !self.connection.has_ended() {
            self.end(None);
        }
    }

    /// The client ends, for good: what was sent and not answered has an unknown outcome.
    fn end(&mut self, close: Option<Close>) {
        let retires = self.retires_publisher && self.emits.outbox().is_all_stored();
        let code = if retires { CloseCode::RETIRED } else { CloseCode::DONE };
        let out = &mut self.out;
        self.connection.end(code, out);
        self.requests.end(out);
        self.emits.end(out);
        self.subscriptions.end(out);
        out.clear_timers();
        self.connection.tell(ConnectionState::Ended { close }, out);
        out.push(Output::Ended);
    }
}

fn closed_by_server(close: &Close) -> Cause {
    Cause::of_words(format!("the server closed: {}: {}", close.code, close.reason))
}
