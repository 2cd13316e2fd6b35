//! Volatile events on their way to the app: what they count while they wait to be taken.

use bytes::Bytes;
use redeliver_protocol::name::EventName;

/// What a volatile event takes while it waits to be taken, in bytes.
pub(crate) fn volatile_bytes(name: &EventName, payload: &Bytes) -> usize {
    VOLATILE_HEAD_BYTES + name.as_str().len() + payload.len()
}

const VOLATILE_HEAD_BYTES: usize = 128;
