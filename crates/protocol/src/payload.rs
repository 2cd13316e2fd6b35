//! Payloads: bytes, and what they are. redeliver carries them untouched; what an app hands in is moved, never copied.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::cause::Cause;
use crate::seq::Seq;

/// What a payload's bytes are. redeliver carries them untouched; the kind tells a reader how to show them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u8)]
#[non_exhaustive]
pub enum PayloadKind {
    /// Bytes without further meaning.
    #[default]
    Bytes = 0,
    /// UTF-8 text.
    Text = 1,
    /// A JSON document in UTF-8.
    Json = 2,
}

/// A payload: bytes, and what they are.
///
/// Made from text (`&str`, `String`), from bytes (`b"…"`, `&[u8]`, `Vec<u8>`, [`Bytes`]), from a
/// [`serde_json::Value`], and by [`Payload::json`] from anything that serde can write. `String`, `Vec<u8>` and `Bytes`
/// keep their allocation; what is borrowed is copied once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Payload {
    /// What the bytes are, for readers that show them.
    pub kind: PayloadKind,
    /// The bytes, which redeliver carries untouched.
    pub bytes: Bytes,
}

impl Payload {
    /// Bytes of a kind. Whether they are what the kind says is not checked.
    #[must_use]
    pub fn new(kind: PayloadKind, bytes: impl Into<Bytes>) -> Payload {
        Payload { kind, bytes: bytes.into() }
    }

    /// A value as a JSON document.
    ///
    /// # Errors
    ///
    /// [`PayloadError::NoJsonForm`] if the value has no JSON form.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Payload, PayloadError> {
        let bytes = serde_json::to_vec(value).map_err(|error| PayloadError::NoJsonForm { source: error.into() })?;
        Ok(Payload::new(PayloadKind::Json, bytes))
    }
}

/// Why a payload is not what an app takes it for, or cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PayloadError {
    /// The payload is not a JSON document of the expected shape.
    #[error("the payload{} is not JSON of the expected shape", of_event(*seq))]
    #[non_exhaustive]
    NotJson {
        /// The event whose payload it is, if it is a stored one.
        seq: Option<Seq>,
        /// What is wrong with it.
        source: Cause,
    },
    /// The payload is not UTF-8.
    #[error("the payload{} is not text", of_event(*seq))]
    #[non_exhaustive]
    NotText {
        /// The event whose payload it is, if it is a stored one.
        seq: Option<Seq>,
        /// What is wrong with it.
        source: Cause,
    },
    /// The value cannot be written as JSON.
    #[error("the payload cannot be written as JSON")]
    #[non_exhaustive]
    NoJsonForm {
        /// Why.
        source: Cause,
    },
}

impl PayloadError {
    /// Names the event whose payload it is.
    #[must_use]
    pub(crate) fn of_seq(mut self, of: Seq) -> PayloadError {
        match &mut self {
            PayloadError::NotJson { seq, .. } | PayloadError::NotText { seq, .. } => *seq = Some(of),
            PayloadError::NoJsonForm { .. } => {}
        }
        self
    }
}

fn of_event(seq: Option<Seq>) -> String {
    seq.map_or_else(String::new, |seq| format!(" of event {seq}"))
}

/// Reads bytes as a JSON document.
///
/// # Errors
///
/// [`PayloadError::NotJson`] if they are not one of this shape.
pub fn read_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, PayloadError> {
    serde_json::from_slice(bytes).map_err(|error| PayloadError::NotJson { seq: None, source: error.into() })
}

/// Reads bytes as text.
///
/// # Errors
///
/// [`PayloadError::NotText`] if they are not UTF-8.
pub fn read_text(bytes: &[u8]) -> Result<&str, PayloadError> {
    std::str::from_utf8(bytes).map_err(|error| PayloadError::NotText { seq: None, source: error.into() })
}

/// `json()` and `text()` for a type with a field `payload` of bytes.
macro_rules! readable_payload {
    ($type:ty) => {
        crate::payload::readable_payload!($type, error => |_: &$type| error);
    };
    // The error names the event, where `$known` makes it do so.
    ($type:ty, $error:ident => $known:expr) => {
        impl $type {
            /// Reads the payload as JSON, whatever its kind.
            ///
            /// # Errors
            ///
            /// [`PayloadError`](crate::payload::PayloadError) if it is not a JSON document of this shape.
            pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, crate::payload::PayloadError> {
                crate::payload::read_json(&self.payload).map_err(|$error| ($known)(self))
            }

            /// Returns the payload as text, whatever its kind.
            ///
            /// # Errors
            ///
            /// [`PayloadError`](crate::payload::PayloadError) if it is not UTF-8.
            pub fn text(&self) -> Result<&str, crate::payload::PayloadError> {
                crate::payload::read_text(&self.payload).map_err(|$error| ($known)(self))
            }
        }
    };
}
pub(crate) use readable_payload;

macro_rules! payload_from {
    ($($kind:ident: $from:ty, $value:ident => $bytes:expr;)*) => {
        $(impl From<$from> for Payload {
            fn from($value: $from) -> Payload {
                Payload::new(PayloadKind::$kind, $bytes)
            }
        })*
    };
}

payload_from! {
    Text: String, text => text;
    Text: &str, text => Bytes::copy_from_slice(text.as_bytes());
    Text: &String, text => Bytes::copy_from_slice(text.as_bytes());
    Bytes: Bytes, bytes => bytes;
    Bytes: Vec<u8>, bytes => bytes;
    Bytes: &[u8], bytes => Bytes::copy_from_slice(bytes);
    Json: serde_json::Value, value => value.to_string();
    Json: &serde_json::Value, value => value.to_string();
}

impl<const N: usize> From<&[u8; N]> for Payload {
    fn from(bytes: &[u8; N]) -> Payload {
        Payload::from(&bytes[..])
    }
}

impl<const N: usize> From<[u8; N]> for Payload {
    fn from(bytes: [u8; N]) -> Payload {
        Payload::from(&bytes[..])
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn what_is_handed_in_keeps_its_allocation() {
        let text = "x".repeat(100);
        let at = text.as_ptr();
        assert_eq!(Payload::from(text).bytes.as_ptr(), at);
        let bytes = vec![7; 100];
        let at = bytes.as_ptr();
        assert_eq!(Payload::from(bytes).bytes.as_ptr(), at);
        let bytes = Bytes::from(vec![7; 100]);
        let at = bytes.as_ptr();
        assert_eq!(Payload::from(bytes).bytes.as_ptr(), at);
    }

    #[test]
    fn whatever_an_app_has_in_hand_is_a_payload_of_the_right_kind() {
        let owned = "tea".to_owned();
        for payload in [Payload::from("tea"), Payload::from(&owned), Payload::from(owned)] {
            assert_eq!(payload, Payload::new(PayloadKind::Text, "tea"));
        }
        for payload in [Payload::from(b"tea"), Payload::from(*b"tea"), Payload::from(&b"tea"[..])] {
            assert_eq!(payload, Payload::new(PayloadKind::Bytes, "tea"));
        }
        let value = serde_json::json!({"tea": 3});
        for payload in [Payload::from(&value), Payload::json(&value).unwrap(), Payload::from(value.clone())] {
            assert_eq!(payload, Payload::new(PayloadKind::Json, r#"{"tea":3}"#));
        }
    }

    #[test]
    fn errors_name_their_cause_once() {
        let not_json = read_json::<u32>(b"\"x\"").unwrap_err();
        let source = std::error::Error::source(&not_json).expect("a cause");
        assert!(source.downcast_ref::<serde_json::Error>().is_some(), "{source:?}");
        assert!(!not_json.to_string().contains(&source.to_string()), "{not_json}");
        let no_form = Payload::json(&BTreeMap::from([(vec![1], 2)])).unwrap_err();
        assert!(matches!(no_form, PayloadError::NoJsonForm { .. }), "{no_form}");
        assert!(std::error::Error::source(&read_text(&[0xff]).unwrap_err()).is_some());
    }
}
