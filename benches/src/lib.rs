//! What the benchmarks share: events of a given size. `make bench` runs them.

use bytes::Bytes;
use redeliver_protocol::event::{NewEvent, PayloadKind};
use redeliver_protocol::name::{EventName, NameError, TopicName};

/// An event of one topic with a payload of so many bytes.
///
/// # Errors
///
/// If the topic's name is not valid.
pub fn event(topic: &str, payload_bytes: usize) -> Result<NewEvent, NameError> {
    let payload = Bytes::from(vec![b'x'; payload_bytes]);
    Ok(NewEvent::new(TopicName::new(topic)?, EventName::new("message")?, PayloadKind::Bytes, payload))
}
