//! Who may connect, and what they may do: the app's hook. Never logs credentials.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Uri};
use redeliver_protocol::name::{SubscriberName, TopicName};
use redeliver_protocol::seq::{IdentityTag, InstanceId, PublisherId};
use sha2::{Digest as _, Sha256};

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
///             _ => true,
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

    /// Whether an identity may do this. Asked for each topic of each event and at each subscribe, also after a
    /// reconnect, so it must be quick and must not block. Allows everything unless it is overridden.
    fn allow(&self, identity: &Identity, action: Action<'_>) -> bool {
        let _ = (identity, action);
        true
    }
}

/// Takes everybody for `anonymous` and allows everything: for development, and behind something that checks.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenAccess;

impl Access for OpenAccess {
    async fn authenticate(&self, _request: ConnectRequest) -> Result<Identity, Denied> {
        Ok(Identity::new("anonymous"))
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
}

impl Identity {
    /// An identity of this name, which appears in the logs.
    #[must_use]
    pub fn new(name: impl AsRef<str>) -> Identity {
        Identity { name: name.as_ref().into(), extension: None }
    }

    /// The same identity with something of the app's own, for [`Access::allow`] to look at.
    #[must_use]
    pub fn with<T: Any + Send + Sync>(mut self, extension: T) -> Identity {
        self.extension = Some(Arc::new(extension));
        self
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
    /// Emit an event of this topic (one of its topics: all must be allowed).
    Emit {
        /// The topic.
        topic: &'a TopicName,
    },
    /// Follow this topic and read its history.
    Subscribe {
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
}

impl Denied {
    /// Not with these credentials. The client is told the reason and does not try again.
    #[must_use]
    pub fn new(reason: impl Into<String>) -> Denied {
        Denied { reason: reason.into(), retryable: false }
    }

    /// Not now: what would decide cannot be reached. The client tries again.
    #[must_use]
    pub fn for_now(reason: impl Into<String>) -> Denied {
        Denied { reason: reason.into(), retryable: true }
    }

    /// Whether the same client may be let in later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.retryable
    }
}

pub(crate) type Judgement<'a> = Pin<Box<dyn Future<Output = Result<Identity, Denied>> + Send + 'a>>;

/// [`Access`] behind a pointer.
pub(crate) trait AnyAccess: Send + Sync + 'static {
    fn authenticate(self: Arc<Self>, request: ConnectRequest) -> Judgement<'static>;
    fn allow(&self, identity: &Identity, action: Action<'_>) -> bool;
}

impl<A: Access> AnyAccess for A {
    fn authenticate(self: Arc<Self>, request: ConnectRequest) -> Judgement<'static> {
        Box::pin(async move { Access::authenticate(&*self, request).await })
    }

    fn allow(&self, identity: &Identity, action: Action<'_>) -> bool {
        Access::allow(self, identity, action)
    }
}
