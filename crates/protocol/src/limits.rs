//! Every limit of the conversation, with its unit and its reason. A server may set its own [`Limits`] lower, never higher,
//! and tells them in `Welcome`. Imports nothing of this crate.

use serde::{Deserialize, Serialize};

/// Longest topic, event and subscriber name, in bytes. Names are index keys, held in memory by the million.
pub const NAME_BYTES_MAX: usize = 255;

/// Most topics that one event may belong to. Each costs an index entry and, when folded, a copy.
pub const EVENT_TOPICS_MAX: usize = 64;

/// Most topics in an event's except list. Each is looked at for each reader.
pub const EVENT_EXCEPT_MAX: usize = 64;

/// Most requests of one peer that wait for their answers on a connection.
pub const REQUESTS_IN_FLIGHT_MAX: usize = 256;

/// Most bytes of requests of one peer that wait for their answers on a connection. One request always fits.
pub const REQUEST_BYTES_IN_FLIGHT_MAX: usize = 4 * 1024 * 1024;

/// Largest event that any server takes, in bytes (payload, name and topics): one event must fit into a commit of 1 MiB
/// together with what surrounds it, since more between two syncs of sled was not safe (docs/adr/0003-sled-and-real-fsync.md).
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
#[non_exhaustive]
pub struct Limits {
    /// Largest event in bytes: payload, name and topics.
    pub event_bytes_max: u32,
    /// Most topics of one event.
    pub event_topics_max: u32,
    /// Most emits that a connection may have outstanding; the server stops reading beyond.
    pub emits_in_flight_max: u32,
    /// Most bytes of emits that a connection may have outstanding. One event always fits.
    pub emit_bytes_in_flight_max: u32,
    /// Most subscriptions of one connection.
    pub subscriptions_max: u32,
    /// Largest window of one subscription, in events.
    pub window_events_max: u32,
    /// Largest window of one subscription, in bytes of records. One event always fits.
    pub window_bytes_max: u32,
}

impl Limits {
    /// No limit but the protocol's own bounds, which hold for every server.
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
