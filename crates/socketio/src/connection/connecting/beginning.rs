//! Where a socket begins: where its client left, if that is known, else anew. Reads what is stored, and writes nothing.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use redeliver_server::{Feed, FeedError, FeedItem, Identity, Position, TopicName};
use tracing::debug;
use uuid::Uuid;

use super::{Auth, Begun, Refusal};
use crate::config::{ROW_BYTES_MAX, ROW_EVENTS_MAX};
use crate::connection::delivery::{self, Source};
use crate::error::ConnectError;
use crate::members::Claim;
use crate::namespace::NamespaceCore;
use crate::offset::Offset;
use crate::recovery::{Decision, Shown, SocketSession, Why, decide, device_key, pid_key, read_after, subscriber_key};
use crate::rooms::room_topic;

/// Begins where the client left, if that is known, else anew.
pub(super) async fn begin(core: &Arc<NamespaceCore>, identity: &Identity, auth: &Auth) -> Result<Begun, Refusal> {
    let Some(subscriber) = &auth.subscriber else {
        let begun = match auth.pid.as_deref().and_then(pid_key) {
            Some(key) => with_pid(core, identity, auth, key).await?,
            None => None,
        };
        return Ok(match begun {
            Some(begun) => begun,
            None => newcomer(core, identity).await,
        });
    };
    // A second client of the subscriber has a place of its own, under the pid that it was given.
    if let Some(key) = auth.pid.as_deref().and_then(|pid| device_key(core.name.as_str(), subscriber, pid))
        && let Some(begun) = with_pid(core, identity, auth, key).await?
    {
        return Ok(begun);
    }
    let key = match &auth.device {
        Some(device) => device_key(core.name.as_str(), subscriber, device),
        None => subscriber_key(core.name.as_str(), subscriber),
    };
    let mut key = key.ok_or_else(|| ConnectError::new("the names of subscriber and device are too long"))?;
    if auth.device.is_none()
        && !auth.keeps_pid
        && let Some(aside) = device_key(core.name.as_str(), subscriber, ASIDE)
        && stored(core, &aside).await?.is_some()
    {
        key = aside;
    }
    named(core, identity, auth, subscriber, key).await
}

/// Goes on by a pid; nothing if that cannot be.
async fn with_pid(
    core: &Arc<NamespaceCore>,
    identity: &Identity,
    auth: &Auth,
    key: Bytes,
) -> Result<Option<Begun>, Refusal> {
    let shown = Shown { pid: auth.pid.as_deref(), offset: auth.offset.as_deref(), subscriber: false };
    // Looked at before it is taken over, so that nobody is thrown out by who has no right to. If nobody owns it, nobody
    // is.
    let free = core.members.claim_free(&key, true);
    let mut decision = decide(stored(core, &key).await?, shown, core.name.as_str(), identity.name());
    if let Decision::Anew(why) = &decision {
        debug!(?why, "a client shows a pid that it cannot go on with");
        return Ok(None);
    }
    let claim = match free {
        Some(claim) => claim,
        None => {
            let claim = core.members.claim(key.clone(), true).await;
            // Read again: the owner may have written meanwhile.
            decision = decide(stored(core, &key).await?, shown, core.name.as_str(), identity.name());
            claim
        }
    };
    let Decision::Resume { session, after } = decision else { return Ok(None) };
    let begun = resume(core, identity, *session, after).await?;
    // Begun anew, the client sees by its new pid that it has lost something.
    Ok((!begun.has_gap()).then_some(Begun { claim: Some(claim), ..begun }))
}

/// Goes on as a durable subscriber, or begins as one.
async fn named(
    core: &Arc<NamespaceCore>,
    identity: &Identity,
    auth: &Auth,
    subscriber: &str,
    key: Bytes,
) -> Result<Begun, Refusal> {
    let shown = Shown { pid: auth.pid.as_deref(), offset: auth.offset.as_deref(), subscriber: true };
    let free = core.members.claim_free(&key, auth.keeps_pid);
    let mut decision = decide(stored(core, &key).await?, shown, core.name.as_str(), identity.name());
    if let Decision::Anew(Why::Foreign) = &decision {
        debug!("a client names a subscriber of somebody else");
        return Ok(newcomer(core, identity).await);
    }
    let claim = match free {
        Some(claim) => claim,
        // The same client again, or one that says so, or one that has no other way to say who it is.
        None if auth.device.is_some()
            || decision.is_of(shown.pid)
            || !(auth.keeps_pid || core.members.owner_keeps_pid(&key)) =>
        {
            let claim = core.members.claim(key.clone(), auth.keeps_pid).await;
            decision = decide(stored(core, &key).await?, shown, core.name.as_str(), identity.name());
            claim
        }
        None => return beside(core, identity, auth, subscriber, decision).await,
    };
    match decision {
        Decision::Resume { session, after } => {
            let mut begun = resume(core, identity, *session, after).await?;
            if begun.has_gap() {
                // So that a client which looks at it sees that something was lost. The gap itself is told in its place.
                begun.session.pid = random_id();
                begun.recovered = false;
            }
            Ok(Begun { claim: Some(claim), ..begun })
        }
        Decision::Anew(_) => Ok(anew(core, identity, Some(claim))),
    }
}

/// Another client of the subscriber is connected: this one gets a place of its own, which begins where the other one is
/// known to have come, in the same rooms.
async fn beside(
    core: &Arc<NamespaceCore>,
    identity: &Identity,
    auth: &Auth,
    subscriber: &str,
    decision: Decision,
) -> Result<Begun, Refusal> {
    let mut begun = match decision {
        Decision::Resume { mut session, after } => {
            if let Ok(own) = room_topic(core.name.as_str(), &session.sid) {
                session.rooms.remove(&own);
            }
            (session.sid, session.pid) = (random_id(), random_id());
            let begun = resume(core, identity, *session, after).await?;
            Begun { recovered: false, ..begun }
        }
        Decision::Anew(_) => anew(core, identity, None),
    };
    let device = if auth.keeps_pid { &begun.session.pid } else { ASIDE };
    let key = device_key(core.name.as_str(), subscriber, device);
    let key = key.ok_or_else(|| ConnectError::new("the subscriber's name is too long for several clients"))?;
    begun.claim = Some(core.members.claim(key, auth.keeps_pid).await);
    begun.is_beside = auth.keeps_pid;
    Ok(begun)
}

/// A socket that was never here.
pub(super) fn anew(core: &NamespaceCore, identity: &Identity, claim: Option<Claim>) -> Begun {
    let head = core.server.head();
    let session = SocketSession::new(random_id(), random_id(), core.name.as_str(), identity.name(), head);
    let given = Offset::new(head, 0);
    let source = Source { feed: core.gateway.feed(head), backlog: None, given };
    Begun { session, claim, recovered: false, is_beside: false, source }
}

/// A socket that was never here, the owner of its stored session.
async fn newcomer(core: &NamespaceCore, identity: &Identity) -> Begun {
    let begun = anew(core, identity, None);
    let claim = match pid_key(&begun.session.pid) {
        Some(key) => Some(core.members.claim(key, true).await),
        None => None,
    };
    Begun { claim, ..begun }
}

/// A socket that goes on after a place.
async fn resume(
    core: &NamespaceCore,
    identity: &Identity,
    mut session: SocketSession,
    place: Position,
) -> Result<Begun, Refusal> {
    forget_forbidden(core, identity, &mut session);
    let first = read_after(&session.rooms, place.seq);
    let from = if first < place.seq { core.gateway.position_at(first) } else { place };
    let mut feed = core.gateway.feed(from);
    delivery::follow(&mut feed, &session);
    // Where its topics have nothing after its place, that is known from memory.
    let reached = feed.refresh();
    let has_missed_nothing = reached.seq > from.seq || reached == core.server.head();
    let backlog = if has_missed_nothing { None } else { first_row(&mut feed).await? };
    let given = Offset::new(from, session.rooms.turn());
    let source = Source { feed, backlog, given };
    Ok(Begun { session, claim: None, recovered: true, is_beside: false, source })
}

/// What may be followed may have changed.
fn forget_forbidden(core: &NamespaceCore, identity: &Identity, session: &mut SocketSession) {
    let forbidden = |topic: &&TopicName| !core.may_follow(identity, topic);
    let forbidden: Vec<TopicName> = session.rooms.current().filter(forbidden).cloned().collect();
    forbidden.iter().for_each(|topic| session.rooms.remove(topic));
}

/// What is there already of a feed.
async fn first_row(feed: &mut Feed) -> Result<Option<Vec<FeedItem>>, Refusal> {
    poll_fn(|cx| {
        let polled = pin!(feed.next(ROW_EVENTS_MAX, ROW_BYTES_MAX)).poll(cx);
        match polled {
            Poll::Ready(row) => Poll::Ready(row.map(Some).map_err(|error: FeedError| Refusal::for_now(error))),
            Poll::Pending if feed.is_quiet() => Poll::Ready(Ok(None)),
            // It is being read from the disk, and will wake us.
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

async fn stored(core: &NamespaceCore, key: &Bytes) -> Result<Option<SocketSession>, Refusal> {
    let stored = core.gateway.state(key).await.map_err(Refusal::for_now)?;
    Ok(stored.and_then(|stored| SocketSession::decode(&stored)))
}

impl Begun {
    /// Whether what the client has missed is no longer all there, as far as that is known.
    fn has_gap(&self) -> bool {
        self.source.backlog.iter().flatten().any(|item| matches!(item, FeedItem::Gap { .. }))
    }
}

/// 128 random bits in hex.
fn random_id() -> String {
    Uuid::new_v4().simple().to_string()
}

/// The device of clients that keep no pid, where a page has the subscriber's own place.
const ASIDE: &str = "~";
