//! Every setting and limit of the gateway, each with its unit and reason.

use std::time::Duration;

/// Whether a namespace's sockets can go on after a cut, and who is given offsets: see the crate's front page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recovery {
    /// Every socket gets a `pid`. Offsets are given to clients that take them: those that are recognised as JavaScript
    /// by their handshake, that say `auth: {redeliver: …}`, or that show a pid. The others go on from what has provably
    /// arrived.
    #[default]
    Auto,
    /// Every client is given offsets from its first CONNECT on, as Socket.IO's own server does with recovery. Handlers
    /// of other clients get one more argument then.
    On,
    /// No `pid`, no offsets, nothing stored of a socket.
    Off,
}

/// The gateway's settings. [`SocketIo::builder`](crate::SocketIo::builder) takes one.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// The path of the Engine.IO endpoint. `/socket.io` unless set: what every client asks for by default.
    pub path: String,
    /// The recovery of namespaces that do not set it themselves.
    pub recovery: Recovery,
    /// How often a client is pinged. 25 s, as the reference.
    pub ping_interval: Duration,
    /// How long a client may take to answer a ping. 20 s, as the reference.
    pub ping_timeout: Duration,
    /// How long a connection may be in no namespace. 45 s, as the reference.
    pub connect_timeout: Duration,
    /// Largest message of a client, in bytes. 1,000,000, as the reference.
    pub payload_bytes_max: usize,
    /// How long a stored socket without a connection is kept, at most: as long as retention keeps what it has missed,
    /// and no longer than this. 7 days.
    pub session_idle_max: Duration,
    /// How long the place of a durable subscriber that has no connection is kept. 90 days, as the cursors of native
    /// clients.
    pub subscriber_idle_max: Duration,
    /// In ack mode, how long an answer is waited for before an event is sent again. 10 s.
    pub ack_timeout: Duration,
    /// In ack mode, how often an event is sent again at most. Then it counts as handled, and the client is told with an
    /// event `redeliver:unanswered`. 3.
    pub ack_resends_max: u32,
    /// In ack mode, how many events may be unanswered at once. 64.
    pub ack_window: usize,
    /// Engine.IO sessions at once, polling and WebSocket; beyond, newcomers are refused. 65,536: as many as a server
    /// takes connections. Each counts among those as well.
    pub sessions_max: usize,
    /// Namespaces that one connection may be in. 64.
    pub namespaces_max: usize,
    /// Events of one socket that may wait for the app's handlers. Beyond, the connection is not read. 256.
    pub waiting_events_max: usize,
    /// Whether the namespace `/` offers the events `subscribe`, `unsubscribe` and `emit` to clients. Off unless set:
    /// the standalone binary sets it.
    pub builtin_events: bool,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            path: "/socket.io".to_owned(),
            recovery: Recovery::Auto,
            ping_interval: Duration::from_secs(25),
            ping_timeout: Duration::from_secs(20),
            connect_timeout: Duration::from_secs(45),
            payload_bytes_max: 1_000_000,
            session_idle_max: Duration::from_secs(7 * 86_400),
            subscriber_idle_max: Duration::from_secs(90 * 86_400),
            ack_timeout: Duration::from_secs(10),
            ack_resends_max: 3,
            ack_window: 64,
            sessions_max: 65_536,
            namespaces_max: 64,
            waiting_events_max: 256,
            builtin_events: false,
        }
    }
}

/// Events and bytes that are read for a socket at once: what it is behind is read in such steps, at its pace.
pub(crate) const ROW_EVENTS_MAX: usize = 64;
pub(crate) const ROW_BYTES_MAX: usize = 64 * 1024;

/// Bytes of credentials in a CONNECT that are given to the app's `Access`, as many as a native client may show.
pub(crate) const AUTH_BYTES_MAX: usize = 8 * 1024;

/// Events with a question that may be unanswered at once, per socket: of more, the oldest are answered in vain.
pub(crate) const ASKS_MAX: usize = 1024;
