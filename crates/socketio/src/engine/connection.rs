//! A session with its IO, for the one task that owns it: hears the HTTP requests that come to its inbox, carries its
//! WebSocket, keeps its timer. Does nothing between two calls of `next`; never holds more than it was given to send.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use redeliver_protocol::time::Instant;
use redeliver_websocket::{SocketEvent, WebSocket, close_code};
use tokio::time::Sleep;
use tracing::debug;

use super::packet::{Message, SharedFrame};
use super::reply::{Reply, Socket, finish, refuse, turn_away};
use super::session::{EngineCloseReason, EngineEvent, EngineSession, ProbeStep};
use super::sessions::{Post, SessionEntry, SessionRequest};
use super::strangers::{STRANGER_MESSAGE_BYTES_MAX, Standing};
use super::{Engine, HandshakeRequest};

/// One Engine.IO session, whatever carries it now. One task owns it; dropped, it is closed.
pub struct EngineConnection {
    engine: Engine,
    request: HandshakeRequest,
    session: EngineSession,
    /// None when it is over.
    entry: Option<SessionEntry>,
    standing: Standing,
    /// The session's WebSocket, or the one under probe while it polls.
    carrier: Carrier,
    get: Option<Reply>,
    post: Option<Posting>,
    /// Whether the owner is owed a word that all it sent has left.
    drain_owed: bool,
    timer: Pin<Box<Sleep>>,
    /// What the WebSocket is closed with.
    close_code: u16,
}

/// A WebSocket on its way or there.
pub(super) enum Carrier {
    None,
    Opening { upgrade: OnUpgrade, waiting: VecDeque<Message> },
    Open(Box<Socket>),
}

/// What the owner waits for, besides the end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Interest {
    /// The client's messages and pongs.
    pub(crate) reads: bool,
    /// Whether all that was sent has left.
    pub(crate) drained: bool,
}

enum Posting {
    Reading(Post),
    /// Its body waits until what the one before brought is taken.
    Read(Bytes, Reply),
}

/// What looking at one part of the connection came to.
enum Step {
    Event(EngineEvent),
    /// Something changed: look at everything again.
    Again,
    Idle,
}

impl EngineConnection {
    pub(super) fn new(
        engine: Engine,
        entry: SessionEntry,
        request: HandshakeRequest,
        session: EngineSession,
        carrier: Carrier,
        standing: Standing,
    ) -> EngineConnection {
        if standing.is_known() {
            entry.inbox.set_known();
        }
        EngineConnection {
            engine,
            request,
            drain_owed: !session.is_polling(),
            session,
            entry: Some(entry),
            standing,
            carrier,
            get: None,
            post: None,
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            close_code: close_code::NORMAL,
        }
    }

    /// The request that opened it.
    #[must_use]
    pub fn request(&self) -> &HandshakeRequest {
        &self.request
    }

    /// Whether it is carried by polling now.
    #[must_use]
    pub fn is_polling(&self) -> bool {
        self.session.is_polling()
    }

    /// The client is authenticated: it is no stranger any more, and may send messages of the whole size. Returns whether it
    /// may stay: not if it was sent away before. To be called again costs nothing.
    #[must_use]
    pub fn admit(&mut self) -> bool {
        if self.standing.is_known() {
            return true;
        }
        let is_admitted = self.standing.admit();
        if let Some(entry) = self.entry.as_ref().filter(|_| is_admitted) {
            entry.inbox.set_known();
        }
        if let Carrier::Open(socket) = &mut self.carrier {
            socket.allow(self.engine.0.config.payload_bytes_max);
        }
        is_admitted
    }

    /// Whether the client is authenticated, or nobody asks.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.standing.is_known()
    }

    /// Sends a text message, which must be valid UTF-8. It leaves while [`EngineConnection::next`] is waited for.
    pub fn send_text(&mut self, message: Bytes) {
        self.put(Message::Text(message));
    }

    /// Sends a binary message.
    pub fn send_binary(&mut self, message: Bytes) {
        self.put(Message::Binary(message));
    }

    /// Sends a message that many share.
    pub fn send_shared(&mut self, frame: SharedFrame) {
        for message in frame.messages() {
            self.put(message);
        }
    }

    /// Whether nothing waits to be taken by the client: there is room for more. If not, an
    /// [`EngineEvent::Drained`] will tell.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.waiting_bytes() == 0
    }

    /// About how many bytes of memory wait; 0 exactly if nothing does. Nothing bounds them but the owner.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        let carried = match &self.carrier {
            Carrier::None => 0,
            Carrier::Opening { waiting, .. } => waiting.iter().map(Message::cost).sum(),
            Carrier::Open(_) if self.session.is_polling() => 0,
            Carrier::Open(socket) => socket.waiting_bytes(),
        };
        self.session.waiting_bytes() + carried
    }

    /// Ends it. What was sent goes first, as far as the client takes it within moments.
    pub fn close(&mut self) {
        self.session.close();
        self.conclude();
    }

    /// What happens next. Writing, reading and the heartbeat happen while this is waited for. After
    /// [`EngineEvent::Closed`] it gives the same again.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: nothing is lost if it is dropped.
    pub async fn next(&mut self) -> EngineEvent {
        self.next_reading(true).await
    }

    /// Like [`EngineConnection::next`]; but if it `reads` nothing, the client's messages stay where they are, pongs
    /// among them. Writing and pinging go on, and no pong is missed meanwhile.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: nothing is lost if it is dropped.
    pub async fn next_reading(&mut self, reads: bool) -> EngineEvent {
        self.next_of(Interest { reads, drained: true }).await
    }

    /// The next event that the owner is interested in. Cancel safe.
    pub(crate) async fn next_of(&mut self, interest: Interest) -> EngineEvent {
        std::future::poll_fn(|cx| self.poll_next(cx, interest)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>, interest: Interest) -> Poll<EngineEvent> {
        let reads = interest.reads;
        loop {
            let now = self.engine.now();
            if let Poll::Ready(farewell) = self.standing.poll_farewell(cx) {
                debug!(peer = ?self.request.peer, %farewell, "a session of a stranger is closed");
                self.session.fail(EngineCloseReason::Forced);
            }
            self.take_requests(cx, now, reads);
            let mut step = Step::Idle;
            if reads {
                step = self.take_posts(cx, now);
            }
            if matches!(step, Step::Idle) {
                step = self.ping(now);
            }
            if matches!(step, Step::Idle) {
                step = self.poll_carrier(cx, now, reads);
            }
            if matches!(step, Step::Idle) {
                step = self.settle(cx, now, interest);
            }
            if let Some(end) = self.session.end() {
                let reason = end.reason;
                // What was heard before the end is told before it.
                if let Step::Event(event) = step {
                    return Poll::Ready(event);
                }
                self.conclude();
                return Poll::Ready(EngineEvent::Closed(reason));
            }
            match step {
                Step::Event(event) => return Poll::Ready(event),
                Step::Again => {}
                Step::Idle => return Poll::Pending,
            }
        }
    }

    fn take_requests(&mut self, cx: &mut Context<'_>, now: Instant, reads: bool) {
        let Some(entry) = &self.entry else { return };
        for request in entry.inbox.poll_requests(cx) {
            match request {
                SessionRequest::Get(reply) => {
                    // A client that was silent for too long must not have its ping now, however late the timer is.
                    if reads && self.post.is_none() {
                        self.session.expire(now);
                    }
                    match self.session.get(now) {
                        Ok(()) => self.get = Some(reply),
                        Err(_) => refuse(reply),
                    }
                }
                SessionRequest::Post(post) if !self.session.is_polling() => refuse(post.reply),
                SessionRequest::Post(post) if self.post.is_some() => {
                    self.session.post_twice();
                    refuse(post.reply);
                }
                SessionRequest::Post(post) => self.post = Some(Posting::Reading(post)),
                SessionRequest::WebSocket(upgrade, stranger) => {
                    if self.session.probe_opened(now) {
                        self.standing.beside(stranger);
                        self.carrier = Carrier::Opening { upgrade, waiting: VecDeque::new() };
                    } else {
                        turn_away(upgrade, self.engine.0.config.upgrade_timeout);
                    }
                }
            }
        }
    }

    fn take_posts(&mut self, cx: &mut Context<'_>, now: Instant) -> Step {
        if let Some(event) = self.session.next_posted(now) {
            return Step::Event(event);
        }
        match self.post.take() {
            None => Step::Idle,
            Some(Posting::Reading(mut post)) => match Pin::new(&mut post.body).poll(cx) {
                Poll::Pending => {
                    self.post = Some(Posting::Reading(post));
                    Step::Idle
                }
                Poll::Ready(Ok(Ok(body))) => {
                    self.post = Some(Posting::Read(body, post.reply));
                    Step::Again
                }
                // What it should have brought is lost: going on would hide that.
                Poll::Ready(Ok(Err(_)) | Err(_)) => {
                    self.session.post_failed();
                    Step::Again
                }
            },
            Some(Posting::Read(body, reply)) => {
                match self.session.post(body) {
                    // A client that did not wait for this is heard of by its polls.
                    Ok(()) => drop(reply.send(Ok(Bytes::from_static(b"ok")))),
                    Err(_) => refuse(reply),
                }
                Step::Again
            }
        }
    }

    fn ping(&mut self, now: Instant) -> Step {
        let Some(number) = self.session.ping(now) else { return Step::Idle };
        self.put(Message::Ping);
        Step::Event(EngineEvent::Pinged(number))
    }

    fn poll_carrier(&mut self, cx: &mut Context<'_>, now: Instant, reads: bool) -> Step {
        // A probe brings nothing for the owner.
        let reads = reads || self.session.is_polling();
        match &mut self.carrier {
            Carrier::None => Step::Idle,
            Carrier::Opening { upgrade, waiting } => match Pin::new(upgrade).poll(cx) {
                Poll::Pending => Step::Idle,
                Poll::Ready(Ok(io)) => {
                    let max = self.engine.0.config.payload_bytes_max;
                    let max = if self.standing.is_known() { max } else { max.min(STRANGER_MESSAGE_BYTES_MAX) };
                    let mut socket = Box::new(WebSocket::new(TokioIo::new(io), max, max));
                    waiting.drain(..).for_each(|message| write(&mut socket, message));
                    self.carrier = Carrier::Open(socket);
                    Step::Again
                }
                Poll::Ready(Err(error)) => {
                    debug!(%error, "a WebSocket handshake did not end in a connection");
                    self.carrier_ended(EngineCloseReason::TransportClose);
                    Step::Again
                }
            },
            Carrier::Open(socket) => {
                let mut polled = socket.poll(cx, reads);
                if matches!(polled, Poll::Ready(SocketEvent::Drained)) {
                    polled = socket.poll(cx, reads);
                }
                match polled {
                    Poll::Pending => Step::Idle,
                    Poll::Ready(event) => self.hear_socket(event, now),
                }
            }
        }
    }

    fn hear_socket(&mut self, event: SocketEvent, now: Instant) -> Step {
        match event {
            SocketEvent::Text(text) if self.session.is_polling() => {
                match (self.session.probe_text(text), &mut self.carrier) {
                    (ProbeStep::Answer, Carrier::Open(socket)) => {
                        write(socket, Message::Packet(Bytes::from_static(b"3probe")));
                    }
                    (ProbeStep::Adopt(queue), Carrier::Open(socket)) => {
                        queue.into_iter().for_each(|message| write(socket, message));
                        // Requests that are under way were made by nobody who keeps to the protocol.
                        if let Some(reply) = self.get.take() {
                            refuse(reply);
                        }
                        self.post = None;
                    }
                    (ProbeStep::Answer | ProbeStep::Adopt(_) | ProbeStep::Drop, _) => self.drop_carrier(),
                }
                Step::Again
            }
            SocketEvent::Message(_) if self.session.is_polling() => {
                self.carrier_ended(EngineCloseReason::TransportError);
                Step::Again
            }
            SocketEvent::Text(text) => self.session.text(text, now).map_or(Step::Again, Step::Event),
            SocketEvent::Message(bytes) => Step::Event(EngineEvent::Binary(bytes)),
            SocketEvent::Drained => Step::Again,
            SocketEvent::Broken(code, reason) => {
                let remedy = "it is closed with a code that says so; see the limits in docs/socketio.md";
                self.engine.0.refusals.refused(
                    "a client broke the rules of its WebSocket",
                    self.request.peer,
                    &reason,
                    remedy,
                );
                self.close_code = code;
                self.carrier_ended(EngineCloseReason::TransportError);
                Step::Again
            }
            SocketEvent::Ended => {
                self.carrier_ended(EngineCloseReason::TransportClose);
                Step::Again
            }
        }
    }

    /// When nothing more is to be heard: what is due, and when to look again.
    fn settle(&mut self, cx: &mut Context<'_>, now: Instant, interest: Interest) -> Step {
        let reads = interest.reads;
        if reads {
            self.session.expire(now);
        }
        if self.session.end().is_some() {
            return Step::Again;
        }
        if self.session.probe_expired(now) {
            self.drop_carrier();
        }
        if let Some(mut reply) = self.get.take() {
            if reply.poll_closed(cx).is_ready() {
                self.session.get_aborted();
                return Step::Again;
            }
            match self.session.answer_get(now) {
                None => self.get = Some(reply),
                Some(body) => {
                    if reply.send(Ok(body)).is_err() {
                        self.session.get_aborted();
                        return Step::Again;
                    }
                }
            }
        }
        if self.drain_owed && self.is_drained() {
            self.drain_owed = false;
            if interest.drained {
                return Step::Event(EngineEvent::Drained);
            }
        }
        let mut due = self.at(self.session.deadline(reads));
        if let Some(stuck_at) = self.stuck_at(reads) {
            if stuck_at <= tokio::time::Instant::now() {
                self.session.fail(EngineCloseReason::TransportError);
                return Step::Again;
            }
            due = due.min(stuck_at);
        }
        if self.timer.deadline() != due {
            self.timer.as_mut().reset(due);
        }
        match self.timer.as_mut().poll(cx) {
            Poll::Ready(()) => Step::Again,
            Poll::Pending => Step::Idle,
        }
    }

    /// When the client is given up if it takes nothing until then of what waits for it. Who polls is only given up while
    /// nothing is heard of it: else its pings tell.
    fn stuck_at(&self, reads: bool) -> Option<tokio::time::Instant> {
        let write_timeout = self.engine.0.config.write_timeout;
        match &self.carrier {
            Carrier::Open(socket) if !self.session.is_polling() => Some(socket.waiting_since()? + write_timeout),
            Carrier::None | Carrier::Opening { .. } | Carrier::Open(_) if reads => None,
            Carrier::None | Carrier::Opening { .. } | Carrier::Open(_) => {
                Some(self.at(self.session.waiting_since()?) + write_timeout)
            }
        }
    }

    fn put(&mut self, message: Message) {
        if self.session.end().is_some() {
            return;
        }
        self.drain_owed = true;
        let Some(message) = self.session.send(message, self.engine.now()) else { return };
        match &mut self.carrier {
            Carrier::Open(socket) => write(socket, message),
            Carrier::Opening { waiting, .. } => waiting.push_back(message),
            Carrier::None => {}
        }
    }

    /// The WebSocket is of no more use. A session that still polls goes on without it.
    fn carrier_ended(&mut self, reason: EngineCloseReason) {
        if self.session.is_polling() {
            self.session.probe_ended();
        } else {
            self.session.fail(reason);
        }
        self.drop_carrier();
    }

    fn drop_carrier(&mut self) {
        if let Carrier::Open(socket) = std::mem::replace(&mut self.carrier, Carrier::None) {
            finish(socket, self.close_code);
        }
    }

    /// Gives back all that the session holds.
    fn conclude(&mut self) {
        let (Some(entry), Some(end)) = (self.entry.take(), self.session.end().cloned()) else { return };
        match self.get.take() {
            // If the client is not there to hear it, it knows.
            Some(reply) => drop(reply.send(Ok(end.last_response))),
            None if end.lingers => entry.leave(end.last_response),
            None => {}
        }
        self.post = None;
        self.drop_carrier();
    }

    /// A session's moment as the runtime counts it.
    fn at(&self, moment: Instant) -> tokio::time::Instant {
        self.engine.0.origin + moment.since_origin().min(FAR)
    }
}

impl Drop for EngineConnection {
    fn drop(&mut self) {
        if self.session.end().is_none() {
            self.close();
        }
        self.conclude();
    }
}

fn write(socket: &mut Socket, message: Message) {
    let (head, body) = message.into_frame();
    socket.send_frame(head, body);
}

/// Farther than any deadline: additions to a runtime's instant must not overflow.
const FAR: Duration = Duration::from_secs(50 * 365 * 24 * 3600);

impl std::fmt::Debug for EngineConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EngineConnection").field("request", &self.request).finish_non_exhaustive()
    }
}
