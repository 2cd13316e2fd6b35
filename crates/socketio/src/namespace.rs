//! One namespace: who is in it, who decides whether somebody may be, what the app does with newcomers.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::{Mutex, RwLock};
use redeliver_server::{Receipt, Server, TopicName};
use tokio::sync::watch;

use crate::acks::{Answer, Collectors};
use crate::args::IntoArgs;
use crate::broadcast::Broadcast;
use crate::config::{Config, Recovery};
use crate::error::{AnswerError, ConnectError, RoomError, SendError};
use crate::frames::Frames;
use crate::packet;
use crate::presence::Presence;
use crate::rooms::namespace_topic;
use crate::socket::Socket;

/// A namespace of the gateway: a handle, cheap to clone. Made by [`SocketIo::of`](crate::SocketIo::of).
#[derive(Clone, Debug)]
pub struct Namespace {
    pub(crate) core: Arc<NamespaceCore>,
}

pub(crate) type Middleware = Arc<dyn Fn(Socket) -> BoxFuture<'static, Result<(), ConnectError>> + Send + Sync>;
pub(crate) type ConnectionHandler = Arc<dyn Fn(Socket) -> BoxFuture<'static, ()> + Send + Sync>;

pub(crate) struct NamespaceCore {
    pub(crate) name: packet::Namespace,
    pub(crate) topic: TopicName,
    pub(crate) server: Server,
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
    pub(crate) fn new(
        name: &str,
        server: Server,
        config: Arc<Config>,
        presence: Presence,
    ) -> Result<NamespaceCore, RoomError> {
        let topic = namespace_topic(name)?;
        let name = packet::Namespace::new(name).ok_or(RoomError::NotANamespace)?;
        Ok(NamespaceCore {
            frames: Frames::new(name.clone()),
            name,
            topic,
            server,
            recovery: RwLock::new(config.recovery),
            config,
            middlewares: RwLock::default(),
            connection_handlers: RwLock::default(),
            collectors: Collectors::default(),
            members: Members::default(),
            presence,
        })
    }
}

impl std::fmt::Debug for NamespaceCore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Namespace").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Namespace {
    /// Its name, which begins with `/`.
    #[must_use]
    pub fn name(&self) -> &str {
        self.core.name.as_str()
    }

    /// Sets its recovery, for sockets that come from now on.
    pub fn set_recovery(&self, recovery: Recovery) -> &Namespace {
        *self.core.recovery.write() = recovery;
        self
    }

    /// Runs this for each socket that wants in, also for one that comes back, before it is told that it is connected. They
    /// run in the order in which they were added, after the server's [`Access`](redeliver_server::Access) has let the client in; the first that
    /// returns an error turns the socket away with it.
    pub fn middleware<F, R>(&self, middleware: F) -> &Namespace
    where
        F: Fn(Socket) -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), ConnectError>> + Send + 'static,
    {
        self.core.middlewares.write().push(Arc::new(move |socket| middleware(socket).boxed()));
        self
    }

    /// Runs this for each socket that is connected. Events of the socket are handled when it has returned, so register
    /// their handlers here and spawn what takes long.
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
    /// [`AnswerError`]; `TimedOut` holds the answers that did come.
    ///
    /// # Cancel safety
    ///
    /// As [`Namespace::emit`]; answers that come later are dropped.
    pub async fn emit_with_ack(
        &self,
        name: &str,
        args: impl IntoArgs,
        timeout: Duration,
    ) -> Result<Vec<Answer>, AnswerError> {
        self.all().emit_with_ack(name, args, timeout).await
    }

    /// Speaks to a room; call [`Broadcast::to`] on it for more of them.
    pub fn to(&self, room: impl Into<String>) -> Broadcast {
        self.all().to(room)
    }

    /// Speaks to everybody who is not in this room.
    pub fn except(&self, room: impl Into<String>) -> Broadcast {
        self.all().except(room)
    }

    /// Speaks to everybody in the namespace.
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
        self.core.members.by_sid.lock().get(sid).cloned()
    }
}

/// The sockets of a namespace.
#[derive(Default)]
pub(crate) struct Members {
    by_sid: Mutex<BTreeMap<String, Socket>>,
    owners: Arc<Mutex<HashMap<Bytes, Owner>>>,
}

/// Who owns a stored session now.
struct Owner {
    fence: Arc<Fence>,
    /// Closed when the owner has written its last.
    gone: watch::Receiver<()>,
}

/// Tells an owner that another one has come.
#[derive(Debug, Default)]
pub(crate) struct Fence {
    content: Mutex<FenceContent>,
}

#[derive(Debug, Default)]
struct FenceContent {
    is_fenced: bool,
    /// Whom to tell, once it lives.
    owner: Option<Socket>,
}

impl Fence {
    /// The owner lives: it is told when another one comes. Returns false if that is so already.
    pub(crate) fn guard(&self, owner: &Socket) -> bool {
        let mut content = self.content.lock();
        content.owner = Some(owner.clone());
        !content.is_fenced
    }

    fn raise(&self) {
        let mut content = self.content.lock();
        content.is_fenced = true;
        if let Some(owner) = content.owner.take() {
            owner.fence();
        }
    }
}

/// The ownership of a stored session: while it is held, nobody else writes the session. To be dropped after the last write.
pub(crate) struct Claim {
    pub(crate) key: Bytes,
    pub(crate) fence: Arc<Fence>,
    owners: Arc<Mutex<HashMap<Bytes, Owner>>>,
    /// The one before, until it has written its last.
    former: Option<Owner>,
    _gone: watch::Sender<()>,
}

impl Members {
    pub(crate) fn all(&self) -> Vec<Socket> {
        self.by_sid.lock().values().cloned().collect()
    }

    pub(crate) fn enter(&self, socket: &Socket) {
        self.by_sid.lock().insert(socket.id().to_owned(), socket.clone());
    }

    /// Forgets a socket, if it is still the one of its sid.
    pub(crate) fn leave(&self, socket: &Socket) {
        let mut by_sid = self.by_sid.lock();
        if by_sid.get(socket.id()).is_some_and(|known| known.is(socket)) {
            by_sid.remove(socket.id());
        }
    }

    /// Takes a session that nobody owns now.
    pub(crate) fn claim_free(&self, key: &Bytes) -> Option<Claim> {
        match self.owners.lock().entry(key.clone()) {
            Entry::Occupied(_) => None,
            Entry::Vacant(vacant) => {
                let (gone, watched) = watch::channel(());
                let fence = Arc::new(Fence::default());
                vacant.insert(Owner { fence: Arc::clone(&fence), gone: watched });
                let owners = Arc::clone(&self.owners);
                Some(Claim { key: key.clone(), fence, owners, former: None, _gone: gone })
            }
        }
    }

    /// Takes a session over: the newest connection owns it. Waits until its owner, if it has one, has written its last.
    pub(crate) async fn claim(&self, key: Bytes) -> Claim {
        let (gone, watched) = watch::channel(());
        let fence = Arc::new(Fence::default());
        let owner = Owner { fence: Arc::clone(&fence), gone: watched };
        let former = self.owners.lock().insert(key.clone(), owner);
        let mut claim = Claim { key, fence, owners: Arc::clone(&self.owners), former, _gone: gone };
        if let Some(former) = &mut claim.former {
            former.fence.raise();
            while former.gone.changed().await.is_ok() {}
        }
        claim.former = None;
        claim
    }

    /// Whether a session is owned by a connection now.
    pub(crate) fn is_owned(&self, key: &Bytes) -> bool {
        self.owners.lock().contains_key(key)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut owners = self.owners.lock();
        if owners.get(&self.key).is_some_and(|owner| Arc::ptr_eq(&owner.fence, &self.fence)) {
            match self.former.take() {
                // Given up while it waited: the one before still owns it.
                Some(former) => owners.insert(self.key.clone(), former),
                None => owners.remove(&self.key),
            };
        }
    }
}
