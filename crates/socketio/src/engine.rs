//! Engine.IO v4: sessions that outlive their HTTP requests and may move from polling to a WebSocket. Never knows a
//! Socket.IO packet.
//!
//! An [`Engine`] answers HTTP requests, and hands each session that a client opens to the app as an
//! [`EngineConnection`].

mod connection;
mod http;
mod packet;
mod payload;
mod reply;
mod session;
mod sessions;
mod strangers;

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderMap, Uri};
use redeliver_protocol::time::Instant;
use redeliver_server::Gateway;

pub use self::connection::EngineConnection;
pub(crate) use self::connection::Interest;
pub use self::packet::SharedFrame;
use self::session::Terms;
pub use self::session::{EngineCloseReason, EngineEvent};
use self::sessions::Sessions;
use crate::refusals::RefusalLog;

/// How an engine behaves.
#[derive(Clone)]
#[non_exhaustive]
pub struct EngineConfig {
    /// The path that it answers, exactly, with and without a slash at its end.
    pub path: String,
    /// How long after a session's opening, or its last pong, it is pinged.
    pub ping_interval: Duration,
    /// How long a client may take to answer a ping.
    pub ping_timeout: Duration,
    /// Largest body of a POST and largest message of a WebSocket, in bytes. Larger ones are refused before they are
    /// read.
    pub payload_bytes_max: usize,
    /// How long a client may try out a WebSocket before it switches to it.
    pub upgrade_timeout: Duration,
    /// How long a POST's body may take.
    pub body_timeout: Duration,
    /// How long a client may go without reading anything of what waits for it.
    pub write_timeout: Duration,
    /// Most sessions at once.
    pub sessions_max: usize,
    /// The server among whose strangers a session is until [`EngineConnection::admit`]: bounded in number, in time, and to
    /// messages of 9 KiB. None: sessions are nobody's strangers.
    pub strangers: Option<Gateway>,
    /// Whether a request that a page makes is taken: one with an `Origin` or a `Sec-Fetch-Site`. Without this check any
    /// page in the world could use its visitors' access.
    pub admits: Arc<dyn Fn(&HeaderMap) -> bool + Send + Sync>,
    /// Whether a page that is taken may send its user's credentials (cookies).
    pub takes_credentials: Arc<dyn Fn(&HeaderMap) -> bool + Send + Sync>,
}

impl Default for EngineConfig {
    /// What Socket.IO's own server does; no page of another origin is taken.
    fn default() -> EngineConfig {
        EngineConfig {
            path: "/socket.io/".to_owned(),
            ping_interval: Duration::from_secs(25),
            ping_timeout: Duration::from_secs(20),
            payload_bytes_max: 1_000_000,
            upgrade_timeout: Duration::from_secs(10),
            // 1 MB at 35 KB/s.
            body_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(20),
            // As many as a server takes connections, unless it is told otherwise.
            sessions_max: 65_536,
            strangers: None,
            admits: Arc::new(|_| false),
            takes_credentials: Arc::new(|_| true),
        }
    }
}

impl EngineConfig {
    fn terms(&self) -> Terms {
        Terms {
            ping_interval: self.ping_interval,
            ping_timeout: self.ping_timeout,
            upgrade_timeout: self.upgrade_timeout,
            body_bytes_max: self.payload_bytes_max,
        }
    }

    /// The first packet of a session.
    fn opening(&self, sid: &str, may_upgrade: bool) -> String {
        let upgrades = if may_upgrade { r#"["websocket"]"# } else { "[]" };
        format!(
            r#"0{{"sid":"{sid}","upgrades":{upgrades},"pingInterval":{},"pingTimeout":{},"maxPayload":{}}}"#,
            self.ping_interval.as_millis(),
            self.ping_timeout.as_millis(),
            self.payload_bytes_max,
        )
    }
}

/// The request that opened a session.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HandshakeRequest {
    /// The request's target, with the query.
    pub uri: Uri,
    /// The request's headers.
    pub headers: HeaderMap,
    /// Who sent it, if that is known.
    pub peer: Option<SocketAddr>,
}

type OnConnection = dyn Fn(EngineConnection) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync;

/// Answers the requests of Engine.IO clients. Clones are the same engine.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    config: EngineConfig,
    /// The path without a slash at its end.
    path: String,
    sessions: Arc<Sessions>,
    on_connection: Box<OnConnection>,
    origin: tokio::time::Instant,
    refusals: RefusalLog,
}

impl Engine {
    /// An engine. `on_connection` runs in a task of its own for each session; what it makes of it is the app's.
    #[must_use]
    pub fn new<F, Fut>(config: EngineConfig, on_connection: F) -> Engine
    where
        F: Fn(EngineConnection) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Engine(Arc::new(Inner {
            path: config.path.trim_end_matches('/').to_owned(),
            sessions: Arc::new(Sessions::new(config.sessions_max)),
            config,
            on_connection: Box::new(move |connection| Box::pin(on_connection(connection))),
            origin: tokio::time::Instant::now(),
            refusals: RefusalLog::default(),
        }))
    }

    /// Whether a request for this path is the engine's to answer.
    #[must_use]
    pub fn owns(&self, path: &str) -> bool {
        path.strip_prefix(&self.0.path).is_some_and(|rest| matches!(rest, "" | "/"))
    }

    /// How many sessions there are.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.0.sessions.count()
    }

    fn now(&self) -> Instant {
        Instant::from_origin(self.0.origin.elapsed())
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("path", &self.0.path).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for EngineConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EngineConfig")
            .field("path", &self.path)
            .field("sessions_max", &self.sessions_max)
            .finish_non_exhaustive()
    }
}
