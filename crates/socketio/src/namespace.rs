//! One namespace: who is in it, who decides whether somebody may be, what the app does with newcomers.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::RwLock;
use redeliver_server::{Action, Gateway, Identity, Receipt, Server, TopicName};

use crate::acks::{AckReply, Collectors};
use crate::args::IntoArgs;
use crate::broadcast::Broadcast;
use crate::config::{Config, Recovery};
use crate::error::{AckError, ConnectError, NamespaceError, SendError};
use crate::frames::Frames;
use crate::members::Members;
use crate::packet::NamespaceName;
use crate::presence::Presence;
use crate::rooms::{namespace_topic, room_of};
use crate::socket::Socket;

/// A namespace of the gateway: a handle, cheap to clone. Made by [`SocketIo::of`](crate::SocketIo::of).
#[derive(Clone, Debug)]
pub struct Namespace {
    pub(crate) core: Arc<NamespaceCore>,
}

pub(crate) type Middleware = Arc<dyn Fn(Socket) -> BoxFuture<'static, Result<(), ConnectError>> + Send + Sync>;
pub(crate) type ConnectionHandler = Arc<dyn Fn(Socket) -> BoxFuture<'static, ()> + Send + Sync>;

pub(crate) struct NamespaceCore {
    pub(crate) name: NamespaceName,
    pub(crate) topic: TopicName,
    pub(crate) server: Server,
    pub(crate) gateway: Gateway,
    pub(crate) config: Arc<Config>,
    pub(crate) recovery: RwLock<Recovery>,
    pub(crate) middlewares: RwLock<Vec<Middleware>>,
    pub(crate) connection_handlers: RwLock<Vec<ConnectionHandler>>,
    pub(crate) frames: Frames,
    pub(crate) collectors: Collectors,
    pub(crate) members: Members,
    pub(crate) presence: Presence,
}

impl NamespaceCore {
    /// Whether a client may be in a topic. Rooms are the app's to give; topics of other names are the client's own wish,
    /// and without an app's code the namespace is one of them.
    pub(crate) fn may_follow(&self, identity: &Identity, topic: &TopicName) -> bool {
        let is_apps = match topic {
            topic if *topic == self.topic => !self.config.builtin_events,
            topic => room_of(self.name.as_str(), topic).is_some(),
        };
        is_apps || self.gateway.allow(identity, Action::Subscribe { topic })
    }

    pub(crate) fn new(
        name: &str,
        server: Server,
        config: Arc<Config>,
        presence: Presence,
    ) -> Result<NamespaceCore, NamespaceError> {
        let topic = namespace_topic(name)?;
        let name = NamespaceName::new(name).ok_or(NamespaceError::Invalid)?;
        Ok(NamespaceCore::named(name, topic, server, config, presence))
    }

    /// The namespace `/`.
    pub(crate) fn main(server: Server, config: Arc<Config>, presence: Presence) -> NamespaceCore {
        let topic = namespace_topic("/").expect("`/` is a valid name");
        NamespaceCore::named(NamespaceName::main(), topic, server, config, presence)
    }

    fn named(
        name: NamespaceName,
        topic: TopicName,
        server: Server,
        config: Arc<Config>,
        presence: Presence,
    ) -> NamespaceCore {
        NamespaceCore {
            frames: Frames::new(name.clone()),
            name,
            topic,
            gateway: server.gateway(),
            server,
            recovery: RwLock::new(config.recovery),
            config,
            middlewares: RwLock::default(),
            connection_handlers: RwLock::default(),
            collectors: Collectors::default(),
            members: Members::default(),
            presence,
        }
    }
}

impl std::fmt::Debug for NamespaceCore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Namespace").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Namespace {
    /// The namespace's name, which begins with `/`.
    #[must_use]
    pub fn name(&self) -> &str {
        self.core.name.as_str()
    }

    /// Sets the namespace's recovery, for sockets that come from now on.
    pub fn set_recovery(&self, recovery: Recovery) -> &Namespace {
        *self.core.recovery.write() = recovery;
        self
    }

    /// Adds a middleware: it runs for each socket that wants in, also for one that comes back, before the client is
    /// told that it is connected. Middlewares run in the order in which they were added, after the server's
    /// [`Access`](redeliver_server::Access) has let the client in. The first that returns an error turns the socket
    /// away with it.
    pub fn middleware<F, R>(&self, middleware: F) -> &Namespace
    where
        F: Fn(Socket) -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), ConnectError>> + Send + 'static,
    {
        self.core.middlewares.write().push(Arc::new(move |socket| middleware(socket).boxed()));
        self
    }

    /// Adds a handler that runs for each socket that is connected. Events of the socket are handled when it has
    /// returned, so register their handlers here and spawn what takes long.
    pub fn on_connection<F, R>(&self, handler: F) -> &Namespace
    where
        F: Fn(Socket) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        self.core.connection_handlers.write().push(Arc::new(move |socket| handler(socket).boxed()));
        self
    }

    /// Emits to everybody in the namespace: durable when this returns, delivered to each socket also after a cut.
    ///
    /// # Errors
    ///
    /// [`SendError`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not take the event back: if it was polled once, it may be stored.
    pub async fn emit(&self, name: &str, args: impl IntoArgs) -> Result<Receipt, SendError> {
        self.all().emit(name, args).await
    }

    /// Emits to everybody in the namespace and waits for the answers of those that are connected now.
    ///
    /// # Errors
    ///
    /// [`AckError`]; `TimedOut` holds the answers that did come.
    ///
    /// # Cancel safety
    ///
    /// As [`Namespace::emit`]; answers that come later are dropped.
    pub async fn emit_with_ack(
        &self,
        name: &str,
        args: impl IntoArgs,
        timeout: Duration,
    ) -> Result<Vec<AckReply>, AckError> {
        self.all().emit_with_ack(name, args, timeout).await
    }

    /// Addresses a room; call [`Broadcast::to`] on it for more of them.
    pub fn to(&self, room: impl Into<String>) -> Broadcast {
        self.all().to(room)
    }

    /// Addresses everybody who is not in this room.
    pub fn except(&self, room: impl Into<String>) -> Broadcast {
        self.all().except(room)
    }

    /// Addresses everybody in the namespace.
    pub fn all(&self) -> Broadcast {
        Broadcast::new(Arc::clone(&self.core))
    }

    /// The sockets that are connected now.
    #[must_use]
    pub fn sockets(&self) -> Vec<Socket> {
        self.core.members.all()
    }

    /// The socket of this sid, if it is connected now.
    #[must_use]
    pub fn socket(&self, sid: &str) -> Option<Socket> {
        self.core.members.by_sid(sid)
    }
}
