//! The load generator behind `make bench`: it drives a real server process over loopback, holds what arrives against what
//! was sent, and measures the limit beside it with a raw program. Nothing here is part of what is shipped.

pub mod committer;
pub mod fleet;
pub mod payload;
pub mod process;
pub mod raw;
pub mod report;
pub mod socketio;
pub mod turns;
pub mod wire;
pub mod workloads;

use bytes::Bytes;
use redeliver_protocol::event::{NewEvent, PayloadKind};
use redeliver_protocol::name::{EventName, NameError, TopicName};

/// An event of one topic with a payload of so many bytes, for the micro benchmarks.
///
/// # Errors
///
/// If the topic's name is not valid.
pub fn event(topic: &str, payload_bytes: usize) -> Result<NewEvent, NameError> {
    let payload = Bytes::from(vec![b'x'; payload_bytes]);
    Ok(NewEvent::new(TopicName::new(topic)?, EventName::new("message")?, PayloadKind::Bytes, payload))
}
