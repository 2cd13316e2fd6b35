//! One session and its dealings with the rest of the server: an exhaustive match on what the session wants done, and the
//! answers that come back. Whatever carries the peer's bytes stands behind [`Peer`]. No decision of the protocol is taken
//! here.

use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Uri};
use redeliver_log::{EmitSource, LogError};
use redeliver_protocol::error::{Close, CloseCode, RefusalCode, RetryAdvice};
use redeliver_protocol::event::NewEvent;
use redeliver_protocol::frame::{Hello, SUBPROTOCOL, ServerFrame};
use redeliver_protocol::history::PublisherState;
use redeliver_protocol::name::SubscriberName;
use redeliver_protocol::request::Request;
use redeliver_protocol::seq::{EmitNumber, Epoch, RequestId, SubscriptionId};
use redeliver_protocol::server::owners::Claim;
use redeliver_protocol::server::{Admitted, ConnectionId, Input, Output, Reply, ServerSession};
use redeliver_protocol::time::Instant;
use tracing::{Span, debug};

use crate::access::denial::{denial_close, expired_close, revocation_close};
use crate::access::{Action, AnyAccess, ConnectRequest, Denied, Identity, Judgement};
use crate::clock::wall_clock;
use crate::inbox::Inbox;
use crate::log_calls::{LogCall, LogCalls};
use crate::queue::Events;
use crate::registry::Entry;
use crate::requests::{ClientRequest, Handling, no_handler};
use crate::shared::{Presence, Shared};
use crate::stats::{add, subtract};
use crate::strangers::Stranger;
use crate::turn::Turn;
use crate::volatile;

/// Where a session's frames go.
pub(crate) trait Peer {
    /// Takes a frame.
    fn send(&mut self, frame: &ServerFrame);
    /// Takes a batch of events.
    fn send_events(&mut self, id: SubscriptionId, epoch: Epoch, count: u32, records: Bytes);
}

/// How [`SessionDriver::work`] ended.
#[derive(Debug)]
#[must_use]
pub(crate) enum Worked {
    /// Nothing is left to do.
    Done,
    /// The turn is over. There may be more to do.
    Interrupted,
    /// The session has ended with this.
    Closed(Close),
}

/// Where a connection came from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Origin {
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    /// The peer, if it has to be authenticated within the strangers' bounds.
    pub(crate) stranger: Option<Stranger>,
}

/// A session with its place in the server. Dropping it gives up everything that it holds.
pub(crate) struct SessionDriver {
    session: ServerSession,
    connection: ConnectionId,
    inbox: Arc<Inbox>,
    access: Arc<dyn AnyAccess>,
    /// Until it is judged.
    origin: Option<Box<Origin>>,
    stranger: Option<Stranger>,
    peer: Option<SocketAddr>,
    identity: Option<Identity>,
    publisher: Option<EmitSource>,
    /// Whether it may emit as the publisher that its Hello names.
    may_publish: bool,
    /// Whose cursors it uses.
    subscriber: Option<SubscriberName>,
    /// When to look whether the identity has expired.
    expiry_due: Option<Instant>,
    /// Whether rights were asked again since it was admitted.
    was_reviewed: bool,
    judging: Option<(Box<Hello>, Judgement<'static>)>,
    log_calls: LogCalls,
    handling: Handling,
    watches: u64,
    entry: Option<Entry>,
    /// Among the connections that are authenticated.
    membership: Option<Presence>,
    /// When this turn began: one look at the clock is enough for what is done at once.
    now: Instant,
    shared: Arc<Shared>,
}

impl SessionDriver {
    pub(crate) fn new(shared: &Arc<Shared>, access: Arc<dyn AnyAccess>, origin: Origin) -> SessionDriver {
        let (connection, inbox) = shared.hub.join();
        let now = shared.clock.now();
        SessionDriver {
            session: ServerSession::new(Arc::clone(&shared.config), now),
            connection,
            inbox,
            access,
            peer: origin.peer,
            stranger: origin.stranger.clone(),
            origin: Some(Box::new(origin)),
            identity: None,
            publisher: None,
            may_publish: true,
            subscriber: None,
            expiry_due: None,
            was_reviewed: false,
            judging: None,
            log_calls: LogCalls::new(Arc::clone(shared)),
            handling: Handling::default(),
            watches: 0,
            entry: None,
            membership: None,
            now,
            shared: Arc::clone(shared),
        }
    }

    pub(crate) fn connection(&self) -> ConnectionId {
        self.connection
    }

    /// Tells the session what happened.
    pub(crate) fn handle(&mut self, input: Input) {
        self.now = self.shared.clock.now();
        if matches!(input, Input::Tick) {
            self.expire();
        }
        self.handle_in_turn(input);
    }

    /// The same for what comes of what the session itself did in this turn, which needs no other look at the clock.
    pub(crate) fn handle_in_turn(&mut self, input: Input) {
        self.session.handle(input, self.now);
    }

    /// When this turn began, or a later moment in it.
    pub(crate) fn now(&self) -> Instant {
        self.now
    }

    pub(crate) fn wants_message(&self) -> bool {
        self.session.wants_message()
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.session.poll_timeout().into_iter().chain(self.expiry_due).min()
    }

    /// Carries out what the session wants done, until nothing is left or the turn is over.
    pub(crate) fn work(&mut self, turn: &mut Turn, peer: &mut impl Peer) -> Worked {
        while !turn.is_over() {
            let Some(output) = self.session.poll_output() else { return Worked::Done };
            if let Some(close) = self.perform(output, peer) {
                return Worked::Closed(close);
            }
            turn.step();
        }
        Worked::Interrupted
    }

    /// Tells the session what others have left for it, and whether there was anything. The task is woken for what comes
    /// later. A turn begins with it.
    pub(crate) fn drain_inbox(&mut self, cx: &Context<'_>) -> bool {
        self.now = self.shared.clock.now();
        let Poll::Ready(drained) = self.inbox.poll_take(cx) else { return false };
        if drained.reviews {
            self.review();
        }
        drained.for_each(|input| self.handle_in_turn(input));
        true
    }

    /// Tells the session what has become of what it asked for, and whether there was anything. To be called again after
    /// each [`SessionDriver::work`], which may have begun to ask.
    pub(crate) fn poll_answers(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut answered = Poll::Pending;
        if let Poll::Ready(judged) = poll_judged(&mut self.judging, cx) {
            self.admit(judged);
            answered = Poll::Ready(());
        }
        while let Poll::Ready((id, result)) = self.handling.poll_next(cx) {
            self.handle(Input::Reply(Reply::Respond { id, result }));
            answered = Poll::Ready(());
        }
        if let Poll::Ready(answers) = self.log_calls.poll_next(cx) {
            answers.into_iter().for_each(|input| self.handle(input));
            answered = Poll::Ready(());
        }
        answered
    }

    /// Waits for either.
    ///
    /// Cancel safe: what is taken is with the session.
    pub(crate) async fn listen(&mut self) {
        std::future::poll_fn(|cx| {
            let was_told = self.drain_inbox(cx);
            let answered = self.poll_answers(cx);
            if was_told { Poll::Ready(()) } else { answered }
        })
        .await;
    }

    fn perform(&mut self, output: Output, peer: &mut impl Peer) -> Option<Close> {
        match output {
            Output::Send(frame) => peer.send(&frame),
            Output::SendEvents { id, epoch, count, records } => {
                add(&self.shared.counters.deliveries, u64::from(count));
                peer.send_events(id, epoch, count, records);
            }
            Output::Authenticate(hello) => self.judge(hello),
            Output::Claim { id: subscription, subscriber, topic, instance, ownership } => {
                let connection = self.connection;
                // Before anybody is displaced for it. It is asked again when the claim is granted, maybe much later.
                if !self.may(Action::Subscribe { topic: &topic }) {
                    self.refuse(subscription);
                    return None;
                }
                self.shared.hub.claim(Claim { connection, subscription, subscriber, topic, instance, ownership });
            }
            Output::Release { id } => self.shared.hub.release(self.connection, id),
            Output::Open { id, topic, start, subscriber, reader } => {
                if self.may(Action::Subscribe { topic: &topic }) {
                    let recent = || self.shared.log.open_recent(&topic, &start, wall_clock());
                    match if subscriber.is_none() { recent() } else { None } {
                        Some(opened) => self.handle_in_turn(Input::Reply(Reply::Opened { id, result: Ok(opened) })),
                        None => self.log_calls.push(LogCall::Open { id, topic, start, subscriber, reader }),
                    }
                } else {
                    self.refuse(id);
                }
            }
            Output::Watch { id, topic } => {
                self.watches += 1;
                self.tell_watches();
                add(&self.shared.counters.subscriptions, 1);
                let is_revoked = self.was_reviewed && !self.may(Action::Subscribe { topic: &topic });
                self.shared.hub.watch(self.connection, id, topic);
                // It may have been revoked while it was opened.
                if is_revoked {
                    self.handle_in_turn(Input::Reply(Reply::Revoked { id, reason: REVOKED.to_owned() }));
                }
            }
            Output::Unwatch { id } => {
                self.watches = self.watches.saturating_sub(1);
                self.tell_watches();
                subtract(&self.shared.counters.subscriptions, 1);
                self.shared.hub.unwatch(self.connection, id);
            }
            Output::Read { id, topic, after, nth, events_max, bytes_max } => {
                match self.shared.log.read_recent(&topic, after, nth, events_max, bytes_max) {
                    Some(outcome) => self.handle_in_turn(Input::Reply(Reply::Read { id, outcome })),
                    None => self.log_calls.push(LogCall::Read { id, topic, after, nth, events_max, bytes_max }),
                }
            }
            Output::FindGrown { topics, after } => {
                let (through, grown) = self.shared.log.find_grown(&topics, after);
                self.handle_in_turn(Input::Reply(Reply::Grown { through, grown }));
            }
            Output::Append { first, events } => self.append(first, events),
            Output::EmitVolatile(event) => {
                if let Ok(event) = self.permitted(event) {
                    volatile::give(&self.shared, event);
                }
            }
            Output::Taking { id, subscriber, topic, mark, nth } => {
                let is_owner = self.shared.hub.taking((self.connection, id), (subscriber, topic), mark);
                match nth {
                    _ if !is_owner => self.handle_in_turn(Input::Reply(Reply::NotOwner { id })),
                    Some(nth) => self.handle_in_turn(Input::Reply(Reply::Taken { id, nth })),
                    None => {}
                }
            }
            Output::SaveCursor { id, subscriber, topic, cursor, urgent } => {
                let me = (self.connection, &self.inbox);
                self.shared.hub.save_cursor(&self.shared.queue, me, id, (subscriber, topic), cursor, urgent);
            }
            Output::Requested { id, request } => self.answer(id, request),
            Output::RequestDone { ticket, result } => self.shared.asking.done(self.connection, ticket, result),
            Output::Close(close) => {
                debug!(code = ?close.code, reason = ?close.reason, "closing");
                if let Some(source) = self.publisher.filter(|_| close.code == CloseCode::RETIRED) {
                    self.shared.hub.retire(self.connection, source.publisher, &self.shared.log);
                }
                return Some(close);
            }
        }
        None
    }

    fn judge(&mut self, hello: Hello) {
        let origin = self.origin.take().map(|origin| *origin).unwrap_or_default();
        let request = ConnectRequest {
            peer: origin.peer,
            uri: origin.uri,
            headers: origin.headers,
            auth: hello.auth.clone(),
            instance: hello.instance,
            publisher: hello.publisher,
            subscriber: hello.subscriber.clone(),
            client_name: hello.client_name.clone(),
        };
        let (shared, peer) = (Arc::clone(&self.shared), origin.peer);
        let judgement = Arc::clone(&self.access).authenticate(request);
        let judgement = async move {
            let judged = judgement.await;
            if let Err(denied) = &judged {
                shared.guesses.tell_late(peer, denied).await;
            }
            judged
        };
        self.judging = Some((Box::new(hello), Box::pin(judgement)));
    }

    fn admit(&mut self, (hello, judgement): (Box<Hello>, Result<Identity, Denied>)) {
        let identity = match judgement {
            Ok(identity) => identity,
            Err(denied) => {
                return self.deny(None, &denied);
            }
        };
        // What holds now is asked for: the rights may have changed since the credentials were looked at.
        if let Err(denied) = self.shared.credentials_hold(&*self.access, &identity) {
            return self.deny(Some(&identity), &denied);
        }
        if let Some(subscriber) = &hello.subscriber
            && !self.access.allow(&identity, Action::UseSubscriber { subscriber })
        {
            return self.deny(Some(&identity), &Denied::new("this identity may not use this subscriber's name"));
        }
        if let Some(stranger) = self.stranger.take() {
            let membership = self.shared.join_if_room().filter(|_| stranger.admit());
            if membership.is_none() {
                return self.deny(Some(&identity), &Denied::for_now("no connection is taken now"));
            }
            self.membership = membership;
        }
        // Names of peers go through Debug: they must not forge log lines.
        Span::current().record("identity", tracing::field::debug(identity.name()));
        // Who may not emit fences nobody.
        let allows = |publisher| self.access.allow(&identity, Action::UsePublisher { publisher });
        self.may_publish = hello.publisher.is_none_or(allows);
        let publisher = hello.publisher.filter(|_| self.may_publish);
        self.publisher =
            publisher.map(|publisher| EmitSource { publisher, owner: identity.tag(), settled: hello.settled });
        let is_anothers = |source: EmitSource| !self.shared.log.may_publish(source.publisher, source.owner);
        // The older connection of the publisher is fenced before its state is read, so that nothing is added behind it.
        if self.publisher.is_some_and(is_anothers)
            || self.shared.hub.enter(self.connection, hello.instance, self.publisher).is_err()
        {
            self.publisher = None;
            let reason = "another identity emits as this publisher: use a new one".to_owned();
            let close = Close::new(CloseCode::NOT_YOUR_PUBLISHER, reason, RetryAdvice::Never);
            return self.handle(Input::Authenticated(Err(close)));
        }
        self.subscriber.clone_from(&hello.subscriber);
        debug!(client = ?hello.client_name, subscriber = ?hello.subscriber, "authenticated");
        let entry = self.shared.registry.enter(self.connection, identity.clone(), self.peer, SUBPROTOCOL);
        self.entry = Some(entry);
        self.identity = Some(identity);
        self.arm_expiry();
        match self.admitted() {
            Ok(admitted) => self.handle(Input::Authenticated(Ok(admitted))),
            Err(error) => self.shared.fail(&error.to_string()),
        }
    }

    /// What the log knows of the client and of itself. All of it is in memory: a storm of reconnects needs no other thread.
    fn admitted(&self) -> Result<Admitted, LogError> {
        let publisher = match self.publisher {
            Some(source) => self.shared.log.publisher(source.publisher, source.settled)?,
            None => PublisherState::New,
        };
        let head = self.shared.log.head();
        Ok(Admitted { epoch: head.epoch, head: head.seq, publisher })
    }

    fn deny(&mut self, identity: Option<&Identity>, denied: &Denied) {
        self.shared.denials.denied(self.peer, SUBPROTOCOL, identity, denied);
        self.handle(Input::Authenticated(Err(denial_close(denied))));
    }

    /// Refuses to open a subscription.
    fn refuse(&mut self, id: SubscriptionId) {
        let code = RefusalCode::FORBIDDEN;
        self.handle(Input::Reply(Reply::Opened { id, result: Err((code, code.description().to_owned())) }));
    }

    /// Asks again for all that this connection may do, and narrows or ends it.
    fn review(&mut self) {
        let Some(identity) = self.identity.clone() else { return };
        self.was_reviewed = true;
        if let Err(denied) = self.shared.credentials_hold(&*self.access, &identity) {
            return self.handle_in_turn(Input::End(revocation_close(&denied)));
        }
        if let Some(subscriber) = &self.subscriber
            && !self.may(Action::UseSubscriber { subscriber })
        {
            let denied = Denied::new("this identity may no longer use this subscriber's name");
            return self.handle_in_turn(Input::End(revocation_close(&denied)));
        }
        // An id that was refused at Hello has no place at the log: it stays refused.
        self.may_publish =
            self.publisher.is_none_or(|source| self.may(Action::UsePublisher { publisher: source.publisher }))
                && (self.may_publish || self.publisher.is_some());
        for (id, topic) in self.shared.hub.watched_by(self.connection) {
            if !self.may(Action::Subscribe { topic: &topic }) {
                self.handle_in_turn(Input::Reply(Reply::Revoked { id, reason: REVOKED.to_owned() }));
            }
        }
    }

    /// Looks whether the identity has expired, if that is due.
    fn expire(&mut self) {
        let Some(identity) = self.identity.as_ref().filter(|_| self.expiry_due.is_some_and(|due| due <= self.now))
        else {
            return;
        };
        if identity.has_expired(wall_clock()) {
            self.expiry_due = None;
            self.handle_in_turn(Input::End(expired_close()));
        } else {
            self.arm_expiry();
        }
    }

    fn arm_expiry(&mut self) {
        let look = self.identity.as_ref().and_then(Identity::expiry_look);
        self.expiry_due = look.map(|wait| self.now + wait);
    }

    fn answer(&mut self, id: RequestId, request: Request) {
        let Some((handler, identity)) = self.shared.handler.as_ref().zip(self.identity.clone()) else {
            return self.handle(Input::Reply(Reply::Respond { id, result: Err(no_handler()) }));
        };
        let Request { name, kind, payload, timeout, .. } = request;
        let request = ClientRequest { connection: self.connection, name, kind, payload, timeout };
        self.handling.begin(handler, identity, id, request);
    }

    fn append(&mut self, first: EmitNumber, events: Events) {
        let judge = |event| if self.may_publish { self.permitted(event) } else { Err(RefusalCode::FORBIDDEN) };
        let events = events.into_iter().map(|event| event.and_then(judge)).collect();
        let me = (self.connection, &self.inbox);
        if !self.shared.hub.append(&self.shared.queue, me, self.publisher, first, events) {
            add(&self.shared.counters.overloads, 1);
        }
    }

    fn permitted(&self, event: NewEvent) -> Result<NewEvent, RefusalCode> {
        // Who may hide an event from a topic's readers decides what they see, as who emits to it does.
        let allowed = event.topics.iter().chain(&event.except).all(|topic| self.may(Action::Emit { topic }));
        if allowed { Ok(event) } else { Err(RefusalCode::FORBIDDEN) }
    }

    fn tell_watches(&self) {
        if let Some(entry) = &self.entry {
            entry.follows(self.watches);
        }
    }

    fn may(&self, action: Action<'_>) -> bool {
        self.identity.as_ref().is_some_and(|identity| self.access.allow(identity, action))
    }
}

impl Drop for SessionDriver {
    fn drop(&mut self) {
        self.shared.hub.leave(self.connection);
        self.shared.asking.gone(self.connection);
        subtract(&self.shared.counters.subscriptions, self.watches);
    }
}

impl std::fmt::Debug for SessionDriver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionDriver")
            .field("connection", &self.connection)
            .field("session", &self.session)
            .finish_non_exhaustive()
    }
}

/// What the authenticator says. Nothing while nobody is judged.
fn poll_judged(
    judging: &mut Option<(Box<Hello>, Judgement<'static>)>,
    cx: &mut Context<'_>,
) -> Poll<(Box<Hello>, Result<Identity, Denied>)> {
    let Some((hello, mut judgement)) = judging.take() else { return Poll::Pending };
    match judgement.as_mut().poll(cx) {
        Poll::Ready(judged) => Poll::Ready((hello, judged)),
        Poll::Pending => {
            *judging = Some((hello, judgement));
            Poll::Pending
        }
    }
}

/// What a reader is told whose right was taken away.
const REVOKED: &str = "this topic may no longer be followed";
