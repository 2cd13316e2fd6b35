//! Makes text harmless where people read it: a message of one line, or a terminal.
//!
//! Whoever may emit could otherwise forge lines, move the cursor, or change a terminal's title and its clipboard.

use std::borrow::Cow;
use std::fmt::Write;

/// Escapes control characters, line ends among them, and characters that change the direction of text. Everything else
/// stays as it is, quotes above all.
pub(crate) fn controls(text: &str) -> Cow<'_, str> {
    escaped(text, |c| is_unsafe(c).then(|| c.escape_default().to_string()))
}

/// Escapes a payload for a terminal. Tabs stay, and bytes that are not UTF-8 become `\xNN`.
pub(crate) fn payload(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        out.push_str(&escaped(chunk.valid(), |c| (c != '\t' && is_unsafe(c)).then(|| c.escape_default().to_string())));
        for byte in chunk.invalid() {
            // Writing to a string cannot fail.
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out
}

/// Escapes a line of JSON for a terminal. It stays the same JSON: where these characters may stand, in strings, JSON has
/// escapes for them.
pub(crate) fn json(line: &str) -> Cow<'_, str> {
    escaped(line, |c| {
        (is_unsafe(c) && !matches!(c, '\n' | '\r' | '\t')).then(|| {
            let mut units = [0; 2];
            c.encode_utf16(&mut units).iter().fold(String::new(), |mut all, unit| {
                let _ = write!(all, "\\u{unit:04x}");
                all
            })
        })
    })
}

fn escaped(text: &str, escape: impl Fn(char) -> Option<String>) -> Cow<'_, str> {
    if !text.chars().any(is_unsafe) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match escape(c) {
            Some(escaped) => out.push_str(&escaped),
            None => out.push(c),
        }
    }
    out.into()
}

/// C0, DEL and C1, line and paragraph separators, and the marks that reorder text.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_keeps_its_words_and_loses_its_controls() {
        assert_eq!(controls("this subscriber's \"name\" é"), "this subscriber's \"name\" é");
        assert_eq!(controls("a\nb\x1b[2J\u{9b}\u{202e}"), "a\\nb\\u{1b}[2J\\u{9b}\\u{202e}");
    }

    #[test]
    fn a_payload_cannot_steer_a_terminal() {
        assert_eq!(payload(b"\x1b]0;title\x07\ttab\xff\xc2"), "\\u{1b}]0;title\\u{7}\ttab\\xff\\xc2");
        assert_eq!(payload("caf\u{e9} \u{2615}\nnext".as_bytes()), "caf\u{e9} \u{2615}\\nnext");
    }

    #[test]
    fn a_line_of_json_means_what_it_meant() {
        let line = "{\"a\":\"\u{7f}\u{9b}\u{202e}caf\u{e9}\"}\n";
        assert_eq!(json(line), "{\"a\":\"\\u007f\\u009b\\u202ecaf\u{e9}\"}\n");
        let value = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
        assert_eq!(value(line), value(&json(line)));
    }
}
