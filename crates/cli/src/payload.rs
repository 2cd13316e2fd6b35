//! What an event's payload is, decided when it is emitted, and shown when it is listened to.

use std::borrow::Cow;

use clap::ValueEnum;
use redeliver_client::PayloadKind;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::value::RawValue;

/// `emit --type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum PayloadType {
    /// JSON if it is an object or array, else text if it is UTF-8, else bytes
    #[default]
    Auto,
    /// UTF-8 text
    Text,
    /// A JSON document
    Json,
    /// Bytes without further meaning
    Bytes,
}

/// Decides what a payload's bytes are.
///
/// # Errors
///
/// Why the bytes are not of the type that was asked for, in words.
pub(crate) fn kind_of(payload: &[u8], wanted: PayloadType) -> Result<PayloadKind, String> {
    match wanted {
        PayloadType::Auto if is_json_document(payload) => Ok(PayloadKind::Json),
        PayloadType::Auto => {
            Ok(if std::str::from_utf8(payload).is_ok() { PayloadKind::Text } else { PayloadKind::Bytes })
        }
        PayloadType::Text => match std::str::from_utf8(payload) {
            Ok(_) => Ok(PayloadKind::Text),
            Err(error) => Err(format!("it is not UTF-8 text: {error}")),
        },
        PayloadType::Json => match serde_json::from_slice::<&RawValue>(payload) {
            Ok(_) => Ok(PayloadKind::Json),
            Err(error) => Err(format!("it is not JSON: {error}")),
        },
        PayloadType::Bytes => Ok(PayloadKind::Bytes),
    }
}

/// Only objects and arrays, without white space before them: a line `42`, `true` or an indented `[1, 2],` of some source is far
/// more often text than a document, and as a document it would be shown without its indentation. White space behind them is
/// how files and lines of other systems end.
fn is_json_document(payload: &[u8]) -> bool {
    let payload = payload.trim_ascii_end();
    matches!((payload.first(), payload.last()), (Some(b'{'), Some(b'}')) | (Some(b'['), Some(b']')))
        && serde_json::from_slice::<&RawValue>(payload).is_ok()
}

/// A payload within a line of JSON: text as a string, JSON as itself, anything else as `{"base64": …}`.
#[derive(Debug)]
pub(crate) struct PayloadJson<'a> {
    pub(crate) kind: PayloadKind,
    pub(crate) bytes: &'a [u8],
}

impl Serialize for PayloadJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // The kind is the emitter's claim, which no server checks: what is not what it claims is shown as less.
        let text = match self.kind {
            PayloadKind::Json | PayloadKind::Text => std::str::from_utf8(self.bytes).ok(),
            PayloadKind::Bytes | _ => None,
        };
        let Some(text) = text else {
            use base64::Engine;
            let mut map = serializer.serialize_map(Some(1))?;
            map.serialize_entry("base64", &base64::engine::general_purpose::STANDARD.encode(self.bytes))?;
            return map.end();
        };
        if self.kind == PayloadKind::Json
            && let Ok(document) = serde_json::from_str::<&RawValue>(text)
            && let Ok(line) = serde_json::from_str::<&RawValue>(&on_one_line(document.get()))
            && is_read_by_everybody(line.get())
        {
            return line.serialize(serializer);
        }
        serializer.serialize_str(text)
    }
}

/// The same document without line breaks: in valid JSON they stand only between tokens, where they mean as much as spaces.
fn on_one_line(document: &str) -> Cow<'_, str> {
    if document.contains(['\n', '\r']) { document.replace(['\n', '\r'], " ").into() } else { document.into() }
}

/// Whether a valid document is within what common readers take: `jq` stops at half a surrogate pair and at some hundred
/// levels, and with it the pipeline.
fn is_read_by_everybody(document: &str) -> bool {
    let bytes = document.as_bytes();
    let (mut at, mut depth, mut in_string) = (0, 0_usize, false);
    while at < bytes.len() {
        match (in_string, bytes[at]) {
            (true, b'\\') if bytes.get(at + 1) == Some(&b'u') => match surrogate(bytes, at) {
                Some(0xD800..=0xDBFF) if matches!(surrogate(bytes, at + 6), Some(0xDC00..=0xDFFF)) => at += 11,
                Some(0xD800..=0xDFFF) => return false,
                _ => at += 5,
            },
            (true, b'\\') => at += 1,
            (_, b'"') => in_string = !in_string,
            (false, b'{' | b'[') => depth += 1,
            (false, b'}' | b']') => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > SHOWN_DEPTH_MAX {
            return false;
        }
        at += 1;
    }
    true
}

/// The code unit of a `\uNNNN` at this place, if one stands there.
fn surrogate(bytes: &[u8], at: usize) -> Option<u16> {
    let digits = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Fewer levels than any common reader takes, and as many as a Socket.IO client may send.
const SHOWN_DEPTH_MAX: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(kind: PayloadKind, bytes: &[u8]) -> String {
        serde_json::to_string(&PayloadJson { kind, bytes }).unwrap()
    }

    #[test]
    fn a_payload_is_json_if_it_is_an_object_or_array_with_nothing_but_space_behind_it() {
        let auto = |payload: &[u8]| kind_of(payload, PayloadType::Auto).unwrap();
        assert_eq!(auto(br#"{"a":1}"#), PayloadKind::Json);
        assert_eq!(auto(b"[1, 2]"), PayloadKind::Json);
        assert_eq!(auto(b"    [1, 2]"), PayloadKind::Text);
        assert_eq!(auto(b"[1, 2]\r"), PayloadKind::Json, "a line of a file with CRLF");
        assert_eq!(auto(b"{\n  \"a\": 1\n}\n"), PayloadKind::Json, "a file that ends with a line feed");
        assert_eq!(auto(b"42\n"), PayloadKind::Text);
        assert_eq!(auto(b"42"), PayloadKind::Text);
        assert_eq!(auto(b"{not json"), PayloadKind::Text);
        assert_eq!(auto(b""), PayloadKind::Text);
        assert_eq!(auto(b"\xff\xfe"), PayloadKind::Bytes);
    }

    #[test]
    fn a_payload_that_is_not_of_the_wanted_type_is_refused_in_words() {
        assert!(kind_of(b"\xff", PayloadType::Text).unwrap_err().contains("not UTF-8"));
        assert!(kind_of(b"{", PayloadType::Json).unwrap_err().contains("not JSON"));
        assert_eq!(kind_of(b"42", PayloadType::Json), Ok(PayloadKind::Json));
        assert_eq!(kind_of(b"{}", PayloadType::Bytes), Ok(PayloadKind::Bytes));
    }

    #[test]
    fn json_is_shown_as_it_was_emitted_and_on_one_line() {
        assert_eq!(
            shown(PayloadKind::Json, br#"{"big": 123456789012345678901.50, "a":1}"#),
            r#"{"big": 123456789012345678901.50, "a":1}"#
        );
        assert_eq!(shown(PayloadKind::Json, b"{\r\n  \"a\":\n \"x\\ny\"\n}\n"), "{    \"a\":  \"x\\ny\" }");
    }

    #[test]
    fn json_that_other_programs_may_not_read_is_shown_as_text() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        for unread in
            [r#"{"a":"\ud800"}"#, r#"["\ud800\ud800"]"#, r#"["\udc00\ud800"]"#, r#"["\\\ud800x"]"#, &nested(101)]
        {
            let line = shown(PayloadKind::Json, unread.as_bytes());
            assert_eq!(serde_json::from_str::<serde_json::Value>(&line).unwrap(), unread);
        }
        for read in [r#"["\ud83d\ude00"]"#, r#"["\\ud800"]"#, r#"["]][[{\"[["]"#, r#"["\u00e9\\"]"#, &nested(100)] {
            assert_eq!(shown(PayloadKind::Json, read.as_bytes()), read);
        }
    }

    #[test]
    fn a_payload_that_is_not_what_it_claims_is_still_shown() {
        assert_eq!(shown(PayloadKind::Json, b"{broken\n"), r#""{broken\n""#);
        assert_eq!(shown(PayloadKind::Json, b"1\n2"), r#""1\n2""#);
        assert_eq!(shown(PayloadKind::Json, b"\"1\n2\""), r#""\"1\n2\"""#);
        assert_eq!(shown(PayloadKind::Text, b"\xff"), r#"{"base64":"/w=="}"#);
        assert_eq!(shown(PayloadKind::Bytes, b"text"), r#"{"base64":"dGV4dA=="}"#);
        assert_eq!(shown(PayloadKind::Text, "tab\t\u{e9}".as_bytes()), "\"tab\\t\u{e9}\"");
    }
}
