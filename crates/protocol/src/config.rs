//! Every limit of the protocol, with its unit and its reason. Peers' limits never exceed these; a server may set its own
//! lower and tells them in `Welcome`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::frame::{FEATURES, Features};

/// Longest topic, event and subscriber name, in bytes. Names are index keys, held in memory by the million.
pub const NAME_BYTES_MAX: usize = 255;

/// Most topics that one event may belong to. Each costs an index entry and, when folded, a copy.
pub const EVENT_TOPICS_MAX: usize = 64;

/// Most topics in an event's except list. Each is looked at for each reader.
pub const EVENT_EXCEPT_MAX: usize = 64;

/// Most requests of one peer that wait for their answers on a connection, and most bytes of them (one always fits).
pub const REQUESTS_IN_FLIGHT_MAX: usize = 256;

/// See [`REQUESTS_IN_FLIGHT_MAX`].
pub const REQUEST_BYTES_IN_FLIGHT_MAX: usize = 4 * 1024 * 1024;

/// Largest event that any server takes, in bytes (payload, name and topics): one event must fit into a commit of 1 MiB
/// together with what surrounds it, since more between two syncs of sled was not safe (docs/storage.md).
pub const EVENT_BYTES_MAX: usize = 768 * 1024;

/// Largest message of either peer, in bytes. Room for the largest event and its head; what is larger is refused before
/// it is allocated.
pub const FRAME_BYTES_MAX: usize = 1024 * 1024;

/// Largest message before the peer is authenticated, in bytes. A stranger may not make us hold more.
pub const HELLO_BYTES_MAX: usize = 8 * 1024;

/// Longest reason in words that a frame carries, in bytes.
pub const REASON_BYTES_MAX: usize = 1024;

/// Most emits in one frame. Bounds what a single decode allocates.
pub const EMITS_PER_FRAME_MAX: usize = 4096;

/// Most earlier epochs that a reader names with its position. More restores than this between two visits end in a gap
/// from the earliest retained instead of the last common position.
pub const EARLIER_EPOCHS_MAX: usize = 8;

/// What a server allows and tells each client in `Welcome`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Largest event in bytes: payload, name and topics.
    pub event_bytes_max: u32,
    /// Most topics of one event.
    pub event_topics_max: u32,
    /// Most emits that a connection may have outstanding; the server stops reading beyond.
    pub emits_in_flight_max: u32,
    /// The same in bytes. One event always fits.
    pub emit_bytes_in_flight_max: u32,
    /// Most subscriptions of one connection.
    pub subscriptions_max: u32,
    /// Largest window of one subscription, in events.
    pub window_events_max: u32,
    /// Largest window of one subscription, in bytes of records. One event always fits.
    pub window_bytes_max: u32,
}

impl Limits {
    /// What is beyond these, no server allows.
    pub const ANY_SERVER: Limits = Limits {
        event_bytes_max: u32::MAX,
        event_topics_max: u32::MAX,
        emits_in_flight_max: u32::MAX,
        emit_bytes_in_flight_max: u32::MAX,
        subscriptions_max: u32::MAX,
        window_events_max: u32::MAX,
        window_bytes_max: u32::MAX,
    };
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            // Large enough for documents and thumbnails, small enough that a window of them fits in memory.
            event_bytes_max: 256 * 1024,
            event_topics_max: 16,
            // A few round trips' worth at 200 k events/s.
            emits_in_flight_max: 16 * 1024,
            emit_bytes_in_flight_max: 4 * 1024 * 1024,
            subscriptions_max: 10_000,
            window_events_max: 65_536,
            window_bytes_max: 16 * 1024 * 1024,
        }
    }
}

/// How a server session behaves. Shared by all connections of a server.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerConfig {
    /// What clients are told and held to.
    pub limits: Limits,
    /// How often an otherwise silent peer is pinged. A peer that stays silent for twice this is gone.
    pub heartbeat: Duration,
    /// How long a peer may take to send a complete Hello and be authenticated.
    pub hello_timeout: Duration,
    /// Largest batch of records in one frame, in bytes (one event always fits). 32 KiB reaches the raw limit of a
    /// socket (docs/performance.md) and keeps control frames from waiting long.
    pub batch_bytes_max: usize,
    /// How much may be handed to the socket before it must drain, in bytes.
    pub output_bytes_max: usize,
    /// How long a reader may take no byte at all while bytes wait for it, before it is closed with a retryable code.
    pub write_timeout: Duration,
    /// What the server calls itself in `Welcome`.
    pub server_name: String,
}

impl Default for ServerConfig {
    fn default() -> ServerConfig {
        ServerConfig {
            limits: Limits::default(),
            heartbeat: Duration::from_secs(15),
            hello_timeout: Duration::from_secs(5),
            batch_bytes_max: 32 * 1024,
            output_bytes_max: 64 * 1024,
            write_timeout: Duration::from_secs(30),
            server_name: concat!("redeliver/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// How a client session behaves.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClientConfig {
    /// How long to wait for the connection and `Welcome` together.
    pub connect_timeout: Duration,
    /// First and longest pause between two tries to connect. Each pause is drawn between zero and the current bound
    /// (full jitter), which doubles from the first to the longest.
    pub backoff_first: Duration,
    /// See `backoff_first`.
    pub backoff_max: Duration,
    /// Longest time that acks are gathered before they are sent.
    pub ack_delay: Duration,
    /// Most emits without a receipt that are kept, sent or not.
    pub outbox_events_max: usize,
    /// The same in bytes. One event always fits.
    pub outbox_bytes_max: usize,
    /// What the client tells a server that it has. Never more than [`FEATURES`].
    pub features: Features,
}

impl Default for ClientConfig {
    fn default() -> ClientConfig {
        ClientConfig {
            connect_timeout: Duration::from_secs(10),
            backoff_first: Duration::from_millis(100),
            backoff_max: Duration::from_secs(10),
            ack_delay: Duration::from_millis(20),
            outbox_events_max: 16 * 1024,
            outbox_bytes_max: 16 * 1024 * 1024,
            features: FEATURES,
        }
    }
}
