//! A CONNECT: who is it, may it, does it come back, and where does it go on. Each CONNECT goes through all of it, also one
//! with a pid.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use redeliver_server::{
    Action, ConnectRequest, Feed, FeedError, FeedItem, Identity, Position, SubscriberName, TopicName,
};
use serde::Deserialize;
use serde_json::Value;
use tracing::debug;
use uuid::Uuid;

use crate::acks::AckWindow;
use crate::clock::wall_clock;
use crate::config::{AUTH_BYTES_MAX, ROW_BYTES_MAX, ROW_EVENTS_MAX, Recovery};
use crate::connection::delivery::{self, EventDelivery, Source};
use crate::connection::live::Live;
use crate::connection::saver;
use crate::error::ConnectError;
use crate::members::Claim;
use crate::namespace::NamespaceCore;
use crate::offset::Offset;
use crate::recovery::{Decision, Shown, SocketSession, Why, decide, pid_key, read_after, subscriber_key};
use crate::rooms::room_of;
use crate::socket::{Handshake, Socket};

/// What a CONNECT says, besides what the app reads in it.
#[derive(Debug, Default)]
struct Auth {
    pid: Option<String>,
    offset: Option<String>,
    subscriber: Option<String>,
    redeliver: Option<Wishes>,
}

/// `auth.redeliver`.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
struct Wishes {
    /// Ack mode: every logged event asks for an answer, and counts as handled when it has come.
    ack: bool,
    /// Give offsets, whatever the client looks like.
    offsets: Option<bool>,
}

/// A socket that may connect, and how it begins.
struct Begun {
    session: SocketSession,
    claim: Option<Claim>,
    recovered: bool,
    source: Source,
}

/// Does what a CONNECT asks for.
///
/// # Errors
///
/// What the client is told.
pub(crate) async fn connect(
    core: Arc<NamespaceCore>,
    handshake: Handshake,
    is_script: bool,
) -> Result<Box<Live>, ConnectError> {
    let auth = Auth::of(&handshake.auth);
    let identity = authenticate(&core, &handshake).await?;
    let subscriber = auth.subscriber.as_deref().map(|name| may_be(&core, &identity, name)).transpose()?;
    let recovery = *core.recovery.read();
    let begun = match recovery {
        Recovery::Off => anew(&core, &identity, None),
        Recovery::On | Recovery::Auto => begin(&core, &identity, &auth, subscriber).await?,
    };
    let takes_offsets = auth.pid.is_some() || is_script || auth.redeliver.is_some();
    let offsets = match (recovery, auth.redeliver.and_then(|wishes| wishes.offsets)) {
        (Recovery::Off, _) => false,
        (Recovery::On | Recovery::Auto, Some(wish)) => wish,
        (Recovery::On, None) => true,
        (Recovery::Auto, None) => takes_offsets,
    };
    let acks = recovery != Recovery::Off && auth.redeliver.is_some_and(|wishes| wishes.ack);
    finish(&core, handshake, identity, begun, offsets, acks).await
}

/// The middlewares, the first write, and then it is connected.
async fn finish(
    core: &Arc<NamespaceCore>,
    handshake: Handshake,
    identity: Identity,
    begun: Begun,
    offsets: bool,
    acks: bool,
) -> Result<Box<Live>, ConnectError> {
    let Begun { session, claim, recovered, mut source } = begun;
    let registration = core.gateway.register(identity.clone(), handshake.peer, PROTOCOL);
    let registration = registration.ok_or_else(|| ConnectError::new(NOT_NOW))?;
    let before = session.clone();
    let (socket, commands) = Socket::new(Arc::clone(core), handshake, identity, session, recovered);
    let middlewares = core.middlewares.read().clone();
    for middleware in middlewares {
        middleware(socket.clone()).await?;
    }
    let is_changed = {
        let mut session = socket.session().lock();
        if !recovered {
            let head = core.server.head().seq;
            let own = crate::rooms::room_topic(core.name.as_str(), &session.sid);
            // It is short enough: a namespace's name leaves room for it.
            let own = own.map_err(|error| ConnectError::new(error.to_string()))?;
            // Without an app's code, a namespace is a topic like others.
            let may_follow = !core.config.builtin_events
                || core.gateway.allow(socket.identity(), Action::Subscribe { topic: &core.topic });
            for topic in may_follow.then_some(&core.topic).into_iter().chain([&own]) {
                session.rooms.join(topic, head, false)?;
            }
            delivery::follow(&mut source.feed, &session);
        }
        *session != before
    };
    if let Some(claim) = &claim {
        if is_changed {
            let value = socket.session().lock().encode(wall_clock())?;
            // Durable before the client is told of it, so that what it comes back with is known.
            if !saver::store(&socket, claim.key.clone(), Some(value)).await {
                return Err(ConnectError::new(NOT_NOW));
            }
        }
        if !claim.fence.guard(&socket) {
            return Err(ConnectError::new("a newer connection has taken the place of this one"));
        }
    }
    let config = &core.config;
    let window =
        acks.then(|| AckWindow::new(source.given, config.ack_window, config.ack_timeout, config.ack_resends_max));
    socket.set_connected();
    core.members.enter(&socket);
    let delivery = EventDelivery::new(socket.clone(), source, offsets, window);
    Ok(Box::new(Live::new(socket, commands, delivery, claim, registration)))
}

async fn authenticate(core: &NamespaceCore, handshake: &Handshake) -> Result<Identity, ConnectError> {
    let token = handshake.auth.get("token").and_then(Value::as_str);
    let is_empty = handshake.auth.as_object().is_none_or(serde_json::Map::is_empty);
    let credentials = match token {
        Some(token) => Some(Bytes::copy_from_slice(token.as_bytes())),
        None => (!is_empty).then(|| handshake.auth.to_string().into()),
    };
    if credentials.as_ref().is_some_and(|credentials| credentials.len() > AUTH_BYTES_MAX) {
        return Err(ConnectError::new("the credentials are too long"));
    }
    let request = ConnectRequest::new(handshake.peer, handshake.uri.clone(), handshake.headers.clone(), credentials);
    core.gateway.authenticate(request).await.map_err(|denied| ConnectError::new(denied.to_string()))
}

/// Whether an identity may use a durable subscriber.
fn may_be(core: &NamespaceCore, identity: &Identity, name: &str) -> Result<Bytes, ConnectError> {
    let subscriber = SubscriberName::new(name).map_err(|error| ConnectError::new(error.to_string()))?;
    if !core.gateway.allow(identity, Action::UseSubscriber { subscriber: &subscriber }) {
        return Err(ConnectError::new("this subscriber may not be used"));
    }
    subscriber_key(core.name.as_str(), name).ok_or_else(|| ConnectError::new("the subscriber's name is too long"))
}

/// Begins where the client left, if that is known, else anew.
async fn begin(
    core: &Arc<NamespaceCore>,
    identity: &Identity,
    auth: &Auth,
    subscriber: Option<Bytes>,
) -> Result<Begun, ConnectError> {
    let shown = Shown { pid: auth.pid.as_deref(), offset: auth.offset.as_deref(), subscriber: subscriber.is_some() };
    let key = subscriber.clone().or_else(|| shown.pid.and_then(pid_key));
    let Some(key) = key else { return Ok(claimed(core, anew(core, identity, None)).await) };
    // Looked at before it is taken over, so that nobody is thrown out by who has no right to. If nobody owns it, nobody is.
    let free = core.members.claim_free(&key);
    let decision = decide(stored(core, &key).await?, shown, core.name.as_str(), identity.name());
    if let Decision::Anew(why) = &decision
        && (subscriber.is_none() || *why == Why::Foreign)
    {
        debug!(?why, "a client shows what it cannot go on with");
        return Ok(claimed(core, anew(core, identity, None)).await);
    }
    let (claim, decision) = match free {
        Some(claim) => (claim, decision),
        None => {
            let claim = core.members.claim(key.clone()).await;
            // Read again: the owner may have written meanwhile.
            (claim, decide(stored(core, &key).await?, shown, core.name.as_str(), identity.name()))
        }
    };
    match decision {
        Decision::Resume { session, after } => match resume(core, identity, *session, after).await? {
            Some(begun) => Ok(Begun { claim: Some(claim), ..begun }),
            None if subscriber.is_some() => Ok(anew(core, identity, Some(claim))),
            None => Ok(claimed(core, anew(core, identity, None)).await),
        },
        Decision::Anew(_) if subscriber.is_some() => Ok(anew(core, identity, Some(claim))),
        Decision::Anew(_) => Ok(claimed(core, anew(core, identity, None)).await),
    }
}

/// A socket that was never here.
fn anew(core: &NamespaceCore, identity: &Identity, claim: Option<Claim>) -> Begun {
    let head = core.server.head();
    let session = SocketSession::new(random_id(), random_id(), core.name.as_str(), identity.name(), head);
    let given = Offset::new(head, 0);
    let source = Source { feed: core.gateway.feed(head), backlog: None, given };
    Begun { session, claim, recovered: false, source }
}

/// The same, the owner of its stored session.
async fn claimed(core: &NamespaceCore, begun: Begun) -> Begun {
    let claim = match pid_key(&begun.session.pid) {
        Some(key) => Some(core.members.claim(key).await),
        None => None,
    };
    Begun { claim, ..begun }
}

/// A socket that goes on. Nothing if what it has missed is no longer all there.
async fn resume(
    core: &NamespaceCore,
    identity: &Identity,
    mut session: SocketSession,
    place: Position,
) -> Result<Option<Begun>, ConnectError> {
    forget_forbidden(core, identity, &mut session);
    let first = read_after(&session.rooms, place.seq);
    let from = if first < place.seq { core.gateway.position_at(first) } else { place };
    let mut feed = core.gateway.feed(from);
    delivery::follow(&mut feed, &session);
    // Where its topics have nothing after its place, that is known from memory.
    let reached = feed.refresh();
    let has_missed_nothing = reached.seq > from.seq || reached == core.server.head();
    let backlog = if has_missed_nothing { None } else { first_row(&mut feed).await? };
    let has_gap = backlog.iter().flatten().any(|item| matches!(item, FeedItem::Gap { .. }));
    if has_gap {
        return Ok(None);
    }
    let given = Offset::new(from, session.rooms.turn());
    let source = Source { feed, backlog, given };
    Ok(Some(Begun { session, claim: None, recovered: true, source }))
}

/// What may be followed may have changed. Rooms are the app's to give, topics of other names are the client's own wish.
fn forget_forbidden(core: &NamespaceCore, identity: &Identity, session: &mut SocketSession) {
    let is_room = |topic: &TopicName| *topic == core.topic || room_of(core.name.as_str(), topic).is_some();
    let wished: Vec<TopicName> = session.rooms.current().filter(|topic| !is_room(topic)).cloned().collect();
    for topic in wished {
        if !core.gateway.allow(identity, Action::Subscribe { topic: &topic }) {
            session.rooms.remove(&topic);
        }
    }
}

/// What is there already of a feed.
async fn first_row(feed: &mut Feed) -> Result<Option<Vec<FeedItem>>, ConnectError> {
    poll_fn(|cx| {
        let polled = pin!(feed.next(ROW_EVENTS_MAX, ROW_BYTES_MAX)).poll(cx);
        match polled {
            Poll::Ready(row) => Poll::Ready(row.map(Some).map_err(|_: FeedError| ConnectError::new(NOT_NOW))),
            Poll::Pending if feed.is_quiet() => Poll::Ready(Ok(None)),
            // It is being read from the disk, and will wake us.
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

async fn stored(core: &NamespaceCore, key: &Bytes) -> Result<Option<SocketSession>, ConnectError> {
    let stored = core.gateway.state(key).await.map_err(|_| ConnectError::new(NOT_NOW))?;
    Ok(stored.and_then(|stored| SocketSession::decode(&stored)))
}

impl Auth {
    fn of(auth: &Value) -> Auth {
        let text = |field: &str| auth.get(field).and_then(Value::as_str).map(str::to_owned);
        let redeliver = auth.get("redeliver").map(|wishes| Wishes::deserialize(wishes).unwrap_or_default());
        Auth { pid: text("pid"), offset: text("offset"), subscriber: text("subscriber"), redeliver }
    }
}

/// 128 random bits in hex.
fn random_id() -> String {
    Uuid::new_v4().simple().to_string()
}

/// What the server's list of connections calls this.
const PROTOCOL: &str = "socket.io";

const NOT_NOW: &str = "the server cannot take this now";
