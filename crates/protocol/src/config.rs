//! How the two sessions behave: times, and how much each holds. What peers hold each other to is in
//! [`limits`](crate::limits).

use std::time::Duration;

use crate::features::{FEATURES, Features};
use crate::limits::Limits;

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
    /// Bound of the first pause between two tries to connect. Each pause is drawn between zero and the current bound
    /// (full jitter), which doubles until it reaches `backoff_max`.
    pub backoff_first: Duration,
    /// Largest bound of a pause between two tries to connect.
    pub backoff_max: Duration,
    /// Longest time that acks are gathered before they are sent.
    pub ack_delay: Duration,
    /// Most emits without a receipt that are kept, sent or not.
    pub outbox_events_max: usize,
    /// Most bytes of emits without a receipt that are kept, sent or not. One event always fits.
    pub outbox_bytes_max: usize,
    /// What the client tells a server that it has. Never more than [`FEATURES`]. With [`Features::TAKING`] the shell must
    /// give [`Input::Wanted`](crate::client::Input::Wanted), or a durable subscription hands nothing over.
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
            features: FEATURES.without(Features::TAKING),
        }
    }
}
