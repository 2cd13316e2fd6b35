//! Offsets: the string that stands behind a logged event's arguments, which a stock client keeps and shows when it
//! comes back. It has a form of its own and a check, because clients keep *any* last string for their offset: what does
//! not parse is nobody's offset, and never an error.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use redeliver_server::{Epoch, Position, Seq};

/// How far a client has come in the merged row of its rooms: `rd1.<epoch, base64url>.<seq, base36>[-<turn,
/// base36>].<check>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Offset {
    pub(crate) position: Position,
    /// How often the socket's row had been turned back to older events before this one (see [`crate::rooms`]); 0 for
    /// most sockets at all times.
    pub(crate) turn: u32,
}

impl Offset {
    pub(crate) fn new(position: Position, turn: u32) -> Offset {
        Offset { position, turn }
    }

    /// Reads what a client shows. Nothing if it is no offset.
    pub(crate) fn parse(text: &str) -> Option<Offset> {
        if text.len() > TEXT_BYTES_MAX {
            return None;
        }
        let (checked, check) = text.rsplit_once('.')?;
        if check != base36(u64::from(crc32c::crc32c(checked.as_bytes()))) {
            return None;
        }
        let (epoch, place) = checked.strip_prefix(PREFIX)?.split_once('.')?;
        let epoch: [u8; 16] = URL_SAFE_NO_PAD.decode(epoch).ok()?.try_into().ok()?;
        let (seq, turn) = match place.split_once('-') {
            Some((seq, turn)) => (seq, u32::try_from(from_base36(turn)?).ok()?),
            None => (place, 0),
        };
        Some(Offset::new(Position::new(Epoch(epoch), Seq(from_base36(seq)?)), turn))
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let epoch = URL_SAFE_NO_PAD.encode(self.position.epoch.0);
        let mut text = format!("{PREFIX}{epoch}.{}", base36(self.position.seq.0));
        if self.turn > 0 {
            text.push('-');
            text.push_str(&base36(u64::from(self.turn)));
        }
        let check = base36(u64::from(crc32c::crc32c(text.as_bytes())));
        write!(f, "{text}.{check}")
    }
}

fn base36(mut number: u64) -> String {
    let mut digits = Vec::with_capacity(DIGITS_MAX);
    loop {
        digits.push(DIGITS[usize::try_from(number % 36).unwrap_or_default()]);
        number /= 36;
        if number == 0 {
            break;
        }
    }
    digits.iter().rev().map(|digit| char::from(*digit)).collect()
}

/// Reads exactly what [`base36`] writes: no sign, no capitals, no leading zero.
fn from_base36(text: &str) -> Option<u64> {
    let canonical = text == "0" || !text.starts_with('0');
    let digits = text.bytes().all(|byte| DIGITS.contains(&byte));
    if !canonical || !digits || text.is_empty() || text.len() > DIGITS_MAX {
        return None;
    }
    u64::from_str_radix(text, 36).ok()
}

const PREFIX: &str = "rd1.";

const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// Digits of `u64::MAX` in base 36.
const DIGITS_MAX: usize = 13;

/// Longer than any offset.
const TEXT_BYTES_MAX: usize = 80;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_offset_is_read_as_it_was_written(epoch: [u8; 16], seq: u64, turn: u32) {
            let offset = Offset::new(Position::new(Epoch(epoch), Seq(seq)), turn);
            prop_assert_eq!(Offset::parse(&offset.to_string()), Some(offset));
            prop_assert!(offset.to_string().len() <= TEXT_BYTES_MAX);
        }

        #[test]
        fn a_changed_offset_is_none(seq: u64, at in 0usize..40, to in "[a-z0-9.]") {
            let text = Offset::new(Position::new(Epoch([7; 16]), Seq(seq)), 0).to_string();
            let at = at % text.len();
            let mut changed = text.clone();
            changed.replace_range(at..=at, &to);
            prop_assert!(changed == text || Offset::parse(&changed).is_none());
        }

        #[test]
        fn no_text_is_an_error(text in ".*") {
            let _ = Offset::parse(&text);
        }
    }

    #[test]
    fn what_clients_keep_by_mistake_is_no_offset() {
        for text in ["", "hello", "rd1.", "rd1...", "rd1.AAAAAAAAAAAAAAAAAAAAAA.1.0", "1700000000000-0"] {
            assert_eq!(Offset::parse(text), None, "{text}");
        }
    }
}
