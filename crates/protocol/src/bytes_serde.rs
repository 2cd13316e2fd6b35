//! Serde for payloads, for `#[serde(with = …)]`: one length and the bytes. Imports nothing of this crate.
//!
//! Decoding copies, so that no event keeps the whole message alive in which it came.

use bytes::Bytes;
use serde::{Deserializer, Serializer};

pub(crate) fn serialize<S: Serializer>(payload: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(payload)
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    serde_bytes::deserialize::<Vec<u8>, D>(deserializer).map(Bytes::from)
}

/// Serde for payloads that may be absent.
pub(crate) mod optional {
    use bytes::Bytes;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(payload: &Option<Bytes>, serializer: S) -> Result<S::Ok, S::Error> {
        payload.as_deref().map(serde_bytes::Bytes::new).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Bytes>, D::Error> {
        let payload = Option::<serde_bytes::ByteBuf>::deserialize(deserializer)?;
        Ok(payload.map(|bytes| Bytes::from(bytes.into_vec())))
    }
}
