//! A CONNECT: who is it, may it, and what it needs before it is connected. Each CONNECT goes through all of it, also
//! one with a pid. Where it goes on is decided in [`beginning`].

mod beginning;

use std::sync::Arc;

use bytes::Bytes;
use redeliver_server::{Action, ConnectRequest, Identity, SubscriberName};
use serde::Deserialize;
use serde_json::Value;

use crate::acks::AckWindow;
use crate::config::{AUTH_BYTES_MAX, Recovery};
use crate::connection::delivery::{EventDelivery, Source};
use crate::connection::live::Live;
use crate::connection::saver;
use crate::error::ConnectError;
use crate::members::Claim;
use crate::namespace::NamespaceCore;
use crate::recovery::SocketSession;
use crate::rooms::room_topic;
use crate::socket::{Handshake, Socket};

/// What a CONNECT says, besides what the app reads in it.
#[derive(Debug, Default)]
struct Auth {
    pid: Option<String>,
    offset: Option<String>,
    subscriber: Option<String>,
    /// Which of the subscriber's clients this is, if the client says so.
    device: Option<String>,
    redeliver: Option<Wishes>,
    /// Whether the client is one that shows its pid when it comes back.
    keeps_pid: bool,
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

/// Why a CONNECT does not lead to a socket.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The client is told, and does not ask again by itself.
    ForGood(ConnectError),
    /// The same CONNECT may succeed later. A stock client that is told of an error never asks again, so the connection
    /// is closed instead: then the client comes back.
    ForNow(String),
}

/// A socket that may connect, and how it begins.
struct Begun {
    session: SocketSession,
    claim: Option<Claim>,
    recovered: bool,
    /// Whether another client of the same subscriber was connected, so that this one has a place of its own.
    is_beside: bool,
    source: Source,
}

/// Does what a CONNECT asks for.
///
/// # Errors
///
/// What becomes of the client instead.
pub(super) async fn connect(
    core: Arc<NamespaceCore>,
    handshake: Handshake,
    is_script: bool,
) -> Result<Box<Live>, Refusal> {
    let auth = Auth::of(&handshake.auth, is_script);
    let identity = authenticate(&core, &handshake).await?;
    if let Some(name) = &auth.subscriber {
        may_be(&core, &identity, name)?;
    }
    let recovery = *core.recovery.read();
    let begun = match recovery {
        Recovery::Off => beginning::anew(&core, &identity, None),
        Recovery::On | Recovery::Auto => beginning::begin(&core, &identity, &auth).await?,
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
) -> Result<Box<Live>, Refusal> {
    let Begun { session, claim, recovered, is_beside, mut source } = begun;
    let registration = core.gateway.register(identity.clone(), handshake.peer, PROTOCOL);
    let registration = registration.ok_or_else(|| Refusal::for_now("the server takes no more connections now"))?;
    let before = session.clone();
    let (socket, commands) = Socket::new(Arc::clone(core), handshake, identity, session, recovered);
    let middlewares = core.middlewares.read().clone();
    for middleware in middlewares {
        middleware(socket.clone()).await?;
    }
    let is_changed = {
        let mut session = socket.session().lock();
        if !recovered {
            join_own(core, &socket, &mut session)?;
        }
        for follow in session.rooms.follows().filter(|follow| !before.rooms.is_in(&follow.topic)) {
            source.feed.follow(follow.topic, follow.after, follow.until);
        }
        // One that lost something, or that stands beside another, is stored as what it is now.
        !recovered || *session != before
    };
    if let Some(claim) = &claim {
        if is_changed {
            let value = socket.session().lock().encode(core.gateway.paced_stamp()).map_err(ConnectError::from)?;
            // Durable before the client is told of it, so that what it comes back with is known.
            if !saver::store(&socket, claim.key.clone(), Some(value)).await {
                return Err(Refusal::for_now("the socket cannot be stored now"));
            }
        }
        if !claim.fence.guard(&socket) {
            return Err(Refusal::for_now("a newer connection has taken the place of this one"));
        }
    }
    let config = &core.config;
    let window =
        acks.then(|| AckWindow::new(source.given, config.ack_window, config.ack_timeout, config.ack_resends_max));
    socket.set_connected();
    core.members.enter(&socket);
    let delivery = EventDelivery::new(socket.clone(), source, offsets, window);
    Ok(Box::new(Live::new(socket, commands, delivery, claim, is_beside, registration)))
}

/// Joins the rooms that every socket is in: its namespace, and its own.
fn join_own(core: &NamespaceCore, socket: &Socket, session: &mut SocketSession) -> Result<(), ConnectError> {
    let head = core.server.head().seq;
    let own = room_topic(core.name.as_str(), &session.sid);
    // It is short enough: a namespace's name leaves room for it.
    let own = own.map_err(|error| ConnectError::new(error.to_string()))?;
    let may_follow = core.may_follow(socket.identity(), &core.topic);
    for topic in may_follow.then_some(&core.topic).into_iter().chain([&own]) {
        session.rooms.join(topic, head, false)?;
    }
    Ok(())
}

async fn authenticate(core: &NamespaceCore, handshake: &Handshake) -> Result<Identity, Refusal> {
    let token = handshake.auth.get("token").and_then(Value::as_str);
    let is_empty = handshake.auth.as_object().is_none_or(serde_json::Map::is_empty);
    let credentials = match token {
        Some(token) => Some(Bytes::copy_from_slice(token.as_bytes())),
        None => (!is_empty).then(|| handshake.auth.to_string().into()),
    };
    if credentials.as_ref().is_some_and(|credentials| credentials.len() > AUTH_BYTES_MAX) {
        return Err(ConnectError::new("the credentials are too long").into());
    }
    let request = ConnectRequest::new(handshake.peer, handshake.uri.clone(), handshake.headers.clone(), credentials);
    core.gateway.authenticate(request).await.map_err(|denied| match denied.is_retryable() {
        true => Refusal::for_now(denied),
        false => ConnectError::new(denied.to_string()).into(),
    })
}

/// Whether an identity may use a durable subscriber.
fn may_be(core: &NamespaceCore, identity: &Identity, name: &str) -> Result<(), ConnectError> {
    let subscriber = SubscriberName::new(name).map_err(|error| ConnectError::new(error.to_string()))?;
    if !core.gateway.allow(identity, Action::UseSubscriber { subscriber: &subscriber }) {
        return Err(ConnectError::new("this subscriber may not be used"));
    }
    Ok(())
}

impl Auth {
    fn of(auth: &Value, is_script: bool) -> Auth {
        let text = |field: &str| auth.get(field).and_then(Value::as_str).map(str::to_owned);
        let redeliver = auth.get("redeliver").map(|wishes| Wishes::deserialize(wishes).unwrap_or_default());
        let (pid, offset, subscriber) = (text("pid"), text("offset"), text("subscriber"));
        let says_so = redeliver.is_some_and(|wishes: Wishes| !wishes.ack && wishes.offsets != Some(false));
        let keeps_pid = is_script || says_so || pid.is_some();
        Auth { pid, offset, subscriber, device: text("device"), redeliver, keeps_pid }
    }
}

impl Refusal {
    #[expect(clippy::needless_pass_by_value, reason = "it takes what `map_err` passes on")]
    fn for_now(reason: impl ToString) -> Refusal {
        Refusal::ForNow(reason.to_string())
    }
}

impl From<ConnectError> for Refusal {
    fn from(error: ConnectError) -> Refusal {
        Refusal::ForGood(error)
    }
}

/// What the server's list of connections calls this.
const PROTOCOL: &str = "socket.io";
