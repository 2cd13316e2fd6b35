//! Who may connect, and what they may do: the app's hook. Never logs credentials.

pub(crate) mod denial;

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, Uri};
use redeliver_protocol::name::{SubscriberName, TopicName};
use redeliver_protocol::seq::{IdentityTag, InstanceId, PublisherId};
use redeliver_protocol::time::Timestamp;
use sha2::{Digest as _, Sha256};

use crate::clock::wall_clock;

/// Judges connections and what they ask for. Give one to [`ServerBuilder::access`](crate::ServerBuilder::access).
///
/// ```
/// use redeliver_server::{Access, Action, ConnectRequest, Denied, Identity};
///
/// struct Tokens;
///
/// impl Access for Tokens {
///     async fn authenticate(&self, request: ConnectRequest) -> Result<Identity, Denied> {
///         match request.auth.as_deref() {
///             Some(b"sesame") => Ok(Identity::new("ali")),
///             _ => Err(Denied::new("unknown token")),
///         }
///     }
///
///     fn allow(&self, identity: &Identity, action: Action<'_>) -> bool {
///         match action {
///             Action::Subscribe { topic } => !topic.as_str().starts_with("secret/"),
///             Action::UseSubscriber { subscriber } => subscriber.as_str() == identity.name(),
///             Action::Emit { .. } | Action::UsePublisher { .. } => true,
///             // What a later version asks for is refused until it stands here.
///             _ => false,
///         }
///     }
/// }
/// ```
pub trait Access: Send + Sync + 'static {
    /// Decides who a connecting client is. It has [`ServerConfig::hello_timeout`] to do so, and is dropped when the
    /// client goes or the time is over.
    ///
    /// # Errors
    ///
    /// [`Denied`]: the connection is closed with its reason, which the client sees.
    ///
    /// [`ServerConfig::hello_timeout`]: redeliver_protocol::config::ServerConfig::hello_timeout
    fn authenticate(&self, request: ConnectRequest) -> impl Future<Output = Result<Identity, Denied>> + Send;

    /// Whether an identity may do this. Asked for each topic and each except topic of each event, at each subscribe,
    /// also after a reconnect, and again after [`Server::reauthorize`](crate::Server::reauthorize), so it must be quick
    /// and must not block. [`Action`] grows: end the match with `_ => false`.
    fn allow(&self, identity: &Identity, action: Action<'_>) -> bool;

    /// Whether a connected identity's credentials still hold. Asked when its connection is admitted, and at each
    /// [`Server::reauthorize`](crate::Server::reauthorize); it must be quick and must not block. Holds unless it is
    /// overridden; what the identity may do is asked of [`Access::allow`] besides.
    ///
    /// # Errors
    ///
    /// [`Denied`]: the connection is closed with its reason.
    fn review(&self, identity: &Identity) -> Result<(), Denied> {
        let _ = identity;
        Ok(())
    }
}

/// Takes everybody for `anonymous` and allows everything but the topics of gateways: for development, and behind
/// something that checks.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenAccess;

impl Access for OpenAccess {
    async fn authenticate(&self, _request: ConnectRequest) -> Result<Identity, Denied> {
        Ok(Identity::new("anonymous"))
    }

    fn allow(&self, _identity: &Identity, action: Action<'_>) -> bool {
        match action {
            Action::Emit { .. }
            | Action::Subscribe { .. }
            | Action::UseSubscriber { .. }
            | Action::UsePublisher { .. } => true,
            Action::EmitToGateway { .. } | Action::SubscribeToGateway { .. } => false,
        }
    }
}

/// A client that wants to connect.
#[derive(Clone)]
#[non_exhaustive]
pub struct ConnectRequest {
    /// Where it comes from, if the listener knows.
    pub peer: Option<SocketAddr>,
    /// The URI of its HTTP request.
    pub uri: Uri,
    /// The headers of its HTTP request.
    pub headers: HeaderMap,
    /// The credentials in its Hello. Up to 8 KiB.
    pub auth: Option<Bytes>,
    /// The running client.
    pub instance: InstanceId,
    /// Under which identity it will emit.
    pub publisher: Option<PublisherId>,
    /// Whose cursors it will use. Asked for again as [`Action::UseSubscriber`].
    pub subscriber: Option<SubscriberName>,
    /// What it calls itself. Not to be trusted.
    pub client_name: String,
}

impl ConnectRequest {
    /// What a gateway knows of a client that speaks another protocol than redeliver's own: no instance, publisher or
    /// subscriber; they may be set.
    #[must_use]
    pub fn new(peer: Option<SocketAddr>, uri: Uri, headers: HeaderMap, auth: Option<Bytes>) -> ConnectRequest {
        ConnectRequest {
            peer,
            uri,
            headers,
            auth,
            instance: InstanceId::default(),
            publisher: None,
            subscriber: None,
            client_name: String::new(),
        }
    }
}

impl fmt::Debug for ConnectRequest {
    /// Leaves out what may be secret: credentials, headers, the query.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectRequest")
            .field("peer", &self.peer)
            .field("path", &self.uri.path())
            .field("auth", &self.auth.as_ref().map(Bytes::len))
            .field("instance", &self.instance)
            .field("publisher", &self.publisher)
            .field("subscriber", &self.subscriber)
            .field("client_name", &self.client_name)
            .finish_non_exhaustive()
    }
}

/// Who a connection is, for as long as it lives.
#[derive(Clone)]
pub struct Identity {
    name: Arc<str>,
    extension: Option<Arc<dyn Any + Send + Sync>>,
    expires: Option<Timestamp>,
}

impl Identity {
    /// An identity of this name, which appears in the logs.
    #[must_use]
    pub fn new(name: impl AsRef<str>) -> Identity {
        Identity { name: name.as_ref().into(), extension: None, expires: None }
    }

    /// The same identity with something of the app's own, for [`Access::allow`] to look at.
    #[must_use]
    pub fn with<T: Any + Send + Sync>(mut self, extension: T) -> Identity {
        self.extension = Some(Arc::new(extension));
        self
    }

    /// The same identity, until this time of the wall clock: its connections are closed then, with
    /// [`CloseCode::EXPIRED`](crate::CloseCode::EXPIRED), within about a second.
    #[must_use]
    pub fn expires_at(mut self, time: SystemTime) -> Identity {
        self.expires = Some(Timestamp::from(time));
        self
    }

    /// Until when the identity holds, if it does not hold for ever.
    #[must_use]
    pub fn expires(&self) -> Option<Timestamp> {
        self.expires
    }

    /// Whether the identity holds no longer.
    pub(crate) fn has_expired(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    /// How long to wait before looking whether it has expired. A minute at most, since a wall clock may be set.
    pub(crate) fn expiry_look(&self) -> Option<Duration> {
        let left = self.expires?.0.saturating_sub(wall_clock().0);
        Some(Duration::from_millis(left.clamp(1, EXPIRY_LOOK_MS_MAX)))
    }

    /// What is stored of the name with what belongs to this identity: half of its SHA-256.
    pub(crate) fn tag(&self) -> IdentityTag {
        let [head @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _]: [u8; 32] =
            Sha256::digest(self.name.as_bytes()).into();
        IdentityTag(head)
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What [`Identity::with`] put in, if it was of this type.
    #[must_use]
    pub fn extension<T: Any>(&self) -> Option<&T> {
        self.extension.as_ref()?.downcast_ref()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identity").field(&self.name).finish()
    }
}

/// What an identity wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action<'a> {
    /// Emit an event of this topic, or keep one from this topic's readers (its topics and its except topics: all must be
    /// allowed).
    Emit {
        /// The topic.
        topic: &'a TopicName,
    },
    /// Follow this topic and read its history.
    Subscribe {
        /// The topic.
        topic: &'a TopicName,
    },
    /// Emit as [`Action::Emit`] to a topic of a gateway, whose name begins with `/` (of Socket.IO: a namespace or a room),
    /// over redeliver's own protocol. What guards rooms and namespaces is not asked there, so refuse it unless you know
    /// who does this. Asked instead of `Emit`, unless [`ServerBuilder::gateway_topics_open`] is set.
    ///
    /// [`ServerBuilder::gateway_topics_open`]: crate::ServerBuilder::gateway_topics_open
    EmitToGateway {
        /// The topic.
        topic: &'a TopicName,
    },
    /// Follow a topic of a gateway over redeliver's own protocol. As [`Action::EmitToGateway`].
    SubscribeToGateway {
        /// The topic.
        topic: &'a TopicName,
    },
    /// Use this durable subscriber's cursors.
    UseSubscriber {
        /// The subscriber.
        subscriber: &'a SubscriberName,
    },
    /// Emit as this publisher, and fence an older connection that does. Who may not is let in all the same, but each of its
    /// emits is refused. To be refused to identities that may emit nothing at all; every client that emits asks for it.
    UsePublisher {
        /// The publisher.
        publisher: PublisherId,
    },
}

/// Why a client was not let in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Denied {
    reason: String,
    retryable: bool,
    expired: bool,
}

impl Denied {
    /// Not with these credentials. The client is told the reason and does not try again.
    #[must_use]
    pub fn new(reason: impl Into<String>) -> Denied {
        Denied { reason: reason.into(), retryable: false, expired: false }
    }

    /// Not now: what would decide cannot be reached. The client tries again.
    #[must_use]
    pub fn for_now(reason: impl Into<String>) -> Denied {
        Denied { reason: reason.into(), retryable: true, expired: false }
    }

    /// Not with these credentials any more: they were good, and others are needed. The connection is closed with
    /// [`CloseCode::EXPIRED`](crate::CloseCode::EXPIRED), so that a client which can get others does.
    #[must_use]
    pub fn expired(reason: impl Into<String>) -> Denied {
        Denied { reason: reason.into(), retryable: false, expired: true }
    }

    /// Whether the credentials were good once.
    #[must_use]
    pub fn is_expired(&self) -> bool {
        self.expired
    }

    /// Whether the same client may be let in later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.retryable
    }
}

/// Longest wait between two looks at the wall clock.
const EXPIRY_LOOK_MS_MAX: u64 = 60_000;

pub(crate) type Judgement<'a> = Pin<Box<dyn Future<Output = Result<Identity, Denied>> + Send + 'a>>;

/// [`Access`] behind a pointer.
pub(crate) trait AnyAccess: Send + Sync + 'static {
    fn authenticate(self: Arc<Self>, request: ConnectRequest) -> Judgement<'static>;
    fn allow(&self, identity: &Identity, action: Action<'_>) -> bool;
    fn review(&self, identity: &Identity) -> Result<(), Denied>;
}

impl<A: Access> AnyAccess for A {
    fn authenticate(self: Arc<Self>, request: ConnectRequest) -> Judgement<'static> {
        Box::pin(async move { Access::authenticate(&*self, request).await })
    }

    fn allow(&self, identity: &Identity, action: Action<'_>) -> bool {
        Access::allow(self, identity, action)
    }

    fn review(&self, identity: &Identity) -> Result<(), Denied> {
        Access::review(self, identity)
    }
}

/// Judges as another does, but tells the topics of gateways from others: for clients that speak redeliver's own
/// protocol.
pub(crate) struct Native(pub(crate) Arc<dyn AnyAccess>);

impl AnyAccess for Native {
    fn authenticate(self: Arc<Self>, request: ConnectRequest) -> Judgement<'static> {
        Arc::clone(&self.0).authenticate(request)
    }

    fn allow(&self, identity: &Identity, action: Action<'_>) -> bool {
        let is_gateways = |topic: &TopicName| topic.as_str().starts_with('/');
        let action = match action {
            Action::Emit { topic } if is_gateways(topic) => Action::EmitToGateway { topic },
            Action::Subscribe { topic } if is_gateways(topic) => Action::SubscribeToGateway { topic },
            Action::Emit { .. }
            | Action::Subscribe { .. }
            | Action::EmitToGateway { .. }
            | Action::SubscribeToGateway { .. }
            | Action::UseSubscriber { .. }
            | Action::UsePublisher { .. } => action,
        };
        self.0.allow(identity, action)
    }

    fn review(&self, identity: &Identity) -> Result<(), Denied> {
        self.0.review(identity)
    }
}
