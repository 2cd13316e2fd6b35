//! The gateway's handle: what an app holds and calls.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;
use parking_lot::RwLock;
use redeliver_server::{Receipt, Server, ShutdownError};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::args::IntoArgs;
use crate::assets;
use crate::broadcast::{Broadcast, Volatile};
use crate::config::{Config, Recovery};
use crate::connection;
use crate::core::Core;
use crate::engine::{Engine, EngineConfig};
use crate::error::{NamespaceError, SendError};
use crate::namespace::{Namespace, NamespaceCore};
use crate::presence::Presence;
use crate::recovery::{KEYS, SocketSession, is_named};
use crate::refusals::RefusalLog;
use crate::socket::Socket;

/// The Socket.IO gateway of a [`Server`]. A handle, cheap to clone.
///
/// Requests reach the gateway as [`Routes`](redeliver_server::Routes) of the server's own listener
/// ([`Server::serve_with`](redeliver_server::Server::serve_with)), or as a tower layer around an app of axum or
/// hyper ([`SocketIo::layer`]).
#[derive(Clone)]
pub struct SocketIo {
    core: Arc<Core>,
    engine: Engine,
    /// The namespace `/`.
    main: Namespace,
}

/// Configures a [`SocketIo`]. Made by [`SocketIo::builder`].
#[derive(Debug)]
#[must_use]
pub struct SocketIoBuilder {
    server: Server,
    config: Config,
}

impl SocketIoBuilder {
    /// Sets all settings at once.
    pub fn config(mut self, config: Config) -> SocketIoBuilder {
        self.config = config;
        self
    }

    /// Sets the path of the endpoint; `/socket.io` unless set.
    pub fn path(mut self, path: impl Into<String>) -> SocketIoBuilder {
        self.config.path = path.into();
        self
    }

    /// Sets the recovery of all namespaces that do not set it themselves.
    pub fn recovery(mut self, recovery: Recovery) -> SocketIoBuilder {
        self.config.recovery = recovery;
        self
    }

    /// Sets how often clients are pinged, and how long they may take to answer.
    pub fn ping(mut self, interval: Duration, timeout: Duration) -> SocketIoBuilder {
        self.config.ping_interval = interval;
        self.config.ping_timeout = timeout;
        self
    }

    /// Sets how long a connection may be in no namespace.
    pub fn connect_timeout(mut self, timeout: Duration) -> SocketIoBuilder {
        self.config.connect_timeout = timeout;
        self
    }

    /// Sets the largest message of a client, in bytes.
    pub fn payload_bytes_max(mut self, bytes: usize) -> SocketIoBuilder {
        self.config.payload_bytes_max = bytes;
        self
    }

    /// Offers clients the events `subscribe`, `unsubscribe` and `emit` in the namespace `/`.
    pub fn builtin_events(mut self, offered: bool) -> SocketIoBuilder {
        self.config.builtin_events = offered;
        self
    }

    /// Builds the gateway. Must be called within a tokio runtime.
    #[must_use]
    pub fn build(self) -> SocketIo {
        let SocketIoBuilder { server, mut config } = self;
        config.path = format!("/{}", config.path.trim_matches('/'));
        let config = Arc::new(config);
        let gateway = server.gateway();
        let (admitting, listing) = (gateway.clone(), gateway.clone());
        let engine_config = EngineConfig {
            ping_interval: config.ping_interval,
            ping_timeout: config.ping_timeout,
            payload_bytes_max: config.payload_bytes_max,
            sessions_max: config.sessions_max,
            strangers: Some(gateway.clone()),
            admits: Arc::new(move |headers| admitting.origin_is_allowed(headers)),
            takes_credentials: Arc::new(move |headers| listing.origin_is_listed(headers)),
            ..EngineConfig::default()
        };
        let presence = Presence::new();
        let main = NamespaceCore::main(server.clone(), Arc::clone(&config), presence.clone());
        let main = Namespace { core: Arc::new(main) };
        if config.builtin_events {
            crate::builtin::offer(&main);
        }
        let core = Arc::new(Core {
            config,
            gateway,
            server,
            namespaces: RwLock::new(BTreeMap::from([(main.name().to_owned(), Arc::clone(&main.core))])),
            shutdown: watch::Sender::new(false),
            is_ending: AtomicBool::new(false),
            presence,
            refusals: RefusalLog::default(),
        });
        let serving = Arc::clone(&core);
        let engine = Engine::new(engine_config, move |connection| connection::serve(Arc::clone(&serving), connection));
        tokio::spawn(sweep(Arc::downgrade(&core)));
        SocketIo { core, engine, main }
    }
}

impl SocketIo {
    /// Returns a builder for a gateway of this server. Its clients are held to the server's
    /// [`Access`](redeliver_server::Access), origins and limits.
    pub fn builder(server: Server) -> SocketIoBuilder {
        SocketIoBuilder { server, config: Config::default() }
    }

    /// Returns a namespace, which clients can connect to from now on. `/` is always there.
    ///
    /// # Errors
    ///
    /// [`NamespaceError`] if this cannot be a namespace's name.
    pub fn of(&self, name: &str) -> Result<Namespace, NamespaceError> {
        let mut namespaces = self.core.namespaces.write();
        if let Some(core) = namespaces.get(name) {
            return Ok(Namespace { core: Arc::clone(core) });
        }
        let core = NamespaceCore::new(
            name,
            self.core.server.clone(),
            Arc::clone(&self.core.config),
            self.core.presence.clone(),
        )?;
        let core = Arc::new(core);
        namespaces.insert(name.to_owned(), Arc::clone(&core));
        Ok(Namespace { core })
    }

    /// Emits to everybody in the namespace `/`. See [`Namespace::emit`].
    ///
    /// # Errors
    ///
    /// [`SendError`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not take the event back: if it was polled once, it may be stored.
    pub async fn emit(&self, name: &str, args: impl IntoArgs) -> Result<Receipt, SendError> {
        self.main.emit(name, args).await
    }

    /// Addresses a room of the namespace `/`. See [`Namespace::to`].
    pub fn to(&self, room: impl Into<String>) -> Broadcast {
        self.main.to(room)
    }

    /// Addresses everybody in the namespace `/` who is not in this room. See [`Namespace::except`].
    pub fn except(&self, room: impl Into<String>) -> Broadcast {
        self.main.except(room)
    }

    /// Addresses everybody in the namespace `/`, with events that are not stored. See [`Broadcast::volatile`].
    pub fn volatile(&self) -> Volatile {
        self.main.all().volatile()
    }

    /// The sockets that are connected to the namespace `/` now.
    #[must_use]
    pub fn sockets(&self) -> Vec<Socket> {
        self.main.sockets()
    }

    /// The server whose gateway this is.
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.core.server
    }

    /// Whether requests for this path are the gateway's: its endpoint and what is below it.
    #[must_use]
    pub fn owns(&self, path: &str) -> bool {
        path.strip_prefix(&self.core.config.path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Answers a request for one of its paths. `peer` is where it came from, if that is known. Must be called within a
    /// tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// A dropped call is a request that its client gave up: it may end the client's connection.
    pub async fn respond<B>(&self, request: Request<B>, peer: Option<SocketAddr>) -> Response<Full<Bytes>>
    where
        B: Body,
        B::Data: Buf,
    {
        let rest = request.uri().path().strip_prefix(&self.core.config.path).unwrap_or_default();
        if let Some(asset) = rest.strip_prefix('/').and_then(assets::client) {
            return asset_answer(asset, &request);
        }
        self.engine.respond(request, peer).await
    }

    /// Ends the gateway and then its server: closes all connections, stores how far their clients have come, and shuts the
    /// server down. The clients come back as soon as there is a server.
    ///
    /// # Errors
    ///
    /// [`ShutdownError`] if not all of it was done within `timeout`. What is left goes on by itself.
    ///
    /// # Cancel safety
    ///
    /// The closing of the gateway goes on if the future is dropped. A second call waits for the same.
    pub async fn shutdown(&self, timeout: Duration) -> Result<(), ShutdownError> {
        let deadline = Instant::now() + timeout;
        let _is_closed = self.close(timeout).await;
        // With the time over, the server tells what is left.
        self.core.server.shutdown(deadline.saturating_duration_since(Instant::now())).await
    }

    /// Closes all connections and stores how far their clients have come, without ending the server. Requests that come
    /// later are closed as well. Returns whether all of it was done within `timeout`. [`SocketIo::shutdown`] does this
    /// first; a server that is shut down by itself takes no more states from its gateways.
    ///
    /// # Cancel safety
    ///
    /// The closing goes on if the future is dropped. A second call waits for the same.
    #[must_use]
    pub async fn close(&self, timeout: Duration) -> bool {
        self.core.is_ending.store(true, Ordering::Release);
        self.core.shutdown.send_replace(true);
        tokio::time::timeout(timeout, self.core.presence.none()).await.is_ok()
    }
}

impl std::fmt::Debug for SocketIo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SocketIo").field("config", &self.core.config).finish_non_exhaustive()
    }
}

pub(crate) fn asset_answer<B>(asset: &assets::Asset, request: &Request<B>) -> Response<Full<Bytes>> {
    asset.answer(request.method(), request.headers().get(http::header::IF_NONE_MATCH)).map(Full::new)
}

/// Removes stored sockets that nobody has come back for in a long time.
async fn sweep(core: Weak<Core>) {
    loop {
        tokio::time::sleep(SWEEP_PAUSE).await;
        let Some(core) = core.upgrade() else { return };
        let mut after = None;
        loop {
            let page = match core.gateway.states(KEYS.as_bytes(), after.as_deref(), SWEEP_PAGE).await {
                Ok(page) => page,
                Err(error) => {
                    warn!(%error, "stored sockets could not be looked through");
                    break;
                }
            };
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            for (key, value) in page {
                if is_abandoned(&core, &key, &value)
                    && let Err(error) = core.gateway.save_state(key, None).await
                {
                    warn!(%error, "an abandoned socket could not be removed");
                }
            }
        }
        debug!("stored sockets were looked through");
    }
}

fn is_abandoned(core: &Core, key: &Bytes, value: &[u8]) -> bool {
    let Some(session) = SocketSession::decode(value) else { return true };
    let age = core.gateway.paced_now().0.saturating_sub(session.saved().0);
    let idle_max = if is_named(key) { core.config.subscriber_idle_max } else { core.config.session_idle_max };
    let is_old = u128::from(age) > idle_max.as_millis();
    let is_owned = core.namespace(&session.namespace).is_some_and(|namespace| namespace.members.is_owned(key));
    is_old && !is_owned
}

const SWEEP_PAUSE: Duration = Duration::from_secs(600);

const SWEEP_PAGE: usize = 256;
