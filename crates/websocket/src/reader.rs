//! The reading half, without its socket: takes a client's frames apart and puts messages together, within bounds. Never
//! allocates for what a peer only announces, and holds no buffer while no message is under way.

use bytes::{Buf, Bytes, BytesMut};
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::frame::close_code::{INVALID_TEXT, NORMAL, PROTOCOL_ERROR, TOO_LARGE};
use crate::frame::{BINARY, CLOSE, CONTINUATION, CONTROL_BYTES_MAX, PING, PONG, TEXT};

/// Reads frames out of the bytes that came.
#[derive(Debug)]
pub(crate) struct Reader {
    /// Bytes that came and are not taken apart yet. They begin at a frame's border.
    bytes: BytesMut,
    /// The parts of a message that comes in several frames.
    parts: BytesMut,
    /// The kind of that message.
    under_way: Option<Kind>,
    first_bytes_max: usize,
    bytes_max: usize,
    /// Whether a whole message has come.
    is_past_first: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Binary,
    Text,
}

/// What [`Reader::next`] found in the bytes.
#[derive(Debug)]
pub(crate) enum Read {
    Binary(Bytes),
    Text(Utf8Bytes),
    /// The pong must have this payload, which has at most 125 bytes.
    Ping(Bytes),
    /// The peer is done. The close that answers it has this code.
    Close(u16),
    /// The next frame is not whole: at least so many bytes are missing.
    Missing(usize),
    /// The peer breaks a rule: the close code that tells it so, and which rule.
    Broken(u16, &'static str),
}

/// A frame's header.
#[derive(Clone, Copy, Debug)]
struct Header {
    is_final: bool,
    opcode: u8,
    mask: [u8; 4],
    bytes: usize,
    payload: usize,
}

impl Reader {
    pub(crate) fn new(first_bytes_max: usize, bytes_max: usize) -> Reader {
        Reader {
            bytes: BytesMut::new(),
            parts: BytesMut::new(),
            under_way: None,
            first_bytes_max,
            bytes_max,
            is_past_first: false,
        }
    }

    /// From here on, messages may have so many bytes.
    pub(crate) fn allow(&mut self, bytes_max: usize) {
        (self.first_bytes_max, self.bytes_max) = (bytes_max, bytes_max);
    }

    /// Where more bytes go. They are behind what is there.
    pub(crate) fn bytes(&mut self) -> &mut BytesMut {
        &mut self.bytes
    }

    /// The next thing in the bytes that have come.
    pub(crate) fn next(&mut self) -> Read {
        loop {
            let header = match Header::read(&self.bytes) {
                Ok(Ok(header)) => header,
                Ok(Err(missing)) => return self.missing(missing),
                Err(words) => return Read::Broken(PROTOCOL_ERROR, words),
            };
            if let Err((code, words)) = self.check(&header) {
                return Read::Broken(code, words);
            }
            let whole = header.bytes + header.payload;
            if self.bytes.len() < whole {
                return self.missing(whole - self.bytes.len());
            }
            let mut payload = self.bytes.split_to(whole);
            payload.advance(header.bytes);
            unmask(&mut payload, header.mask);
            match header.opcode {
                CLOSE => return Read::Close(close_code(&payload)),
                PING => return Read::Ping(payload.freeze()),
                PONG => {}
                _ => {
                    if let Some(message) = self.message(&header, payload) {
                        return message;
                    }
                }
            }
        }
    }

    /// Takes a data frame; gives the message if it is whole now.
    fn message(&mut self, header: &Header, payload: BytesMut) -> Option<Read> {
        let kind = match (header.opcode, self.under_way) {
            (CONTINUATION, Some(kind)) => kind,
            (TEXT, _) => Kind::Text,
            (_, _) => Kind::Binary,
        };
        if !header.is_final {
            self.under_way = Some(kind);
            self.parts.extend_from_slice(&payload);
            return None;
        }
        let whole = if self.under_way.take().is_some() {
            let mut parts = std::mem::take(&mut self.parts);
            parts.extend_from_slice(&payload);
            parts
        } else {
            payload
        };
        self.is_past_first = true;
        Some(match kind {
            Kind::Binary => Read::Binary(whole.freeze()),
            Kind::Text => match Utf8Bytes::try_from(whole.freeze()) {
                Ok(text) => Read::Text(text),
                Err(_) => Read::Broken(INVALID_TEXT, "a text that is no UTF-8"),
            },
        })
    }

    fn missing(&mut self, bytes: usize) -> Read {
        if self.bytes.is_empty() {
            // An idle connection holds no buffer, and what was given out is not pinned by it.
            self.bytes = BytesMut::new();
        }
        Read::Missing(bytes)
    }

    /// Whether a frame may come here, and is not too large. Judged before its payload is waited for.
    fn check(&self, header: &Header) -> Result<(), (u16, &'static str)> {
        let broken = |words| Err((PROTOCOL_ERROR, words));
        match header.opcode {
            CONTINUATION if self.under_way.is_none() => return broken("a continuation of nothing"),
            TEXT | BINARY if self.under_way.is_some() => return broken("a message within another"),
            CONTINUATION | TEXT | BINARY => {}
            CLOSE | PING | PONG if header.payload > CONTROL_BYTES_MAX => return broken("a control frame is too large"),
            CLOSE | PING | PONG if !header.is_final => return broken("a control frame comes in parts"),
            CLOSE | PING | PONG => return Ok(()),
            _ => return broken("a frame of an unknown kind"),
        }
        let bytes_max = if self.is_past_first { self.bytes_max } else { self.first_bytes_max };
        if header.payload > bytes_max.saturating_sub(self.parts.len()) {
            return Err((TOO_LARGE, "a message is larger than it may be"));
        }
        Ok(())
    }
}

impl Header {
    /// The header at the beginning, or how many bytes of it are missing.
    fn read(bytes: &[u8]) -> Result<Result<Header, usize>, &'static str> {
        let (Some(&first), Some(&second)) = (bytes.first(), bytes.get(1)) else { return Ok(Err(2 - bytes.len())) };
        if first & 0x70 != 0 {
            return Err("a frame of an extension that was not agreed on");
        }
        if second & 0x80 == 0 {
            return Err("a frame without a mask");
        }
        let (length_bytes, short) = match second & 0x7f {
            126 => (2, 0),
            127 => (8, 0),
            short => (0, usize::from(short)),
        };
        let whole = 2 + length_bytes + 4;
        let Some(rest) = bytes.get(2..whole) else { return Ok(Err(whole - bytes.len())) };
        let (length, mask) = rest.split_at(length_bytes);
        let long = length.iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
        let payload = if length.is_empty() { short } else { usize::try_from(long).unwrap_or(usize::MAX) };
        let mask = [mask[0], mask[1], mask[2], mask[3]];
        // What cannot be added is refused as too large by whoever checks.
        let payload = payload.min(usize::MAX / 2);
        Ok(Ok(Header { is_final: first & 0x80 != 0, opcode: first & 0x0f, mask, bytes: whole, payload }))
    }
}

/// Takes the mask off.
fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    if mask == [0; 4] {
        return;
    }
    let (fours, rest) = payload.as_chunks_mut::<4>();
    for four in fours {
        *four = (u32::from_ne_bytes(*four) ^ u32::from_ne_bytes(mask)).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask) {
        *byte ^= mask;
    }
}

/// The code of the close that answers a close frame with this payload.
fn close_code(payload: &[u8]) -> u16 {
    match payload {
        [] => NORMAL,
        [high, low, reason @ ..] if std::str::from_utf8(reason).is_ok() => {
            match u16::from_be_bytes([*high, *low]) {
                // What RFC 6455 defines for the wire, and what is free for libraries and apps.
                code @ (1000..=1003 | 1007..=1014 | 3000..=4999) => code,
                _ => PROTOCOL_ERROR,
            }
        }
        [_, _, ..] => INVALID_TEXT,
        [_] => PROTOCOL_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::collection::vec;
    use proptest::prelude::*;
    use tokio_tungstenite::tungstenite::Message;
    use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketContext};

    use super::*;

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [0x11, 0x22, 0x33, 0x44];
        let mut out = vec![first];
        match payload.len() {
            short @ 0..126 => out.push(0x80 | u8::try_from(short).unwrap()),
            medium @ 126..65_536 => {
                out.push(0x80 | 126);
                out.extend(u16::try_from(medium).unwrap().to_be_bytes());
            }
            long => {
                out.push(0x80 | 127);
                out.extend((long as u64).to_be_bytes());
            }
        }
        out.extend(mask);
        out.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]));
        out
    }

    /// All that is found when the bytes come in such steps.
    fn found(reader: &mut Reader, bytes: &[u8], step: usize) -> Vec<String> {
        let mut out = Vec::new();
        for some in bytes.chunks(step) {
            reader.bytes().extend_from_slice(some);
            loop {
                match reader.next() {
                    Read::Missing(missing) => {
                        assert!(missing > 0);
                        break;
                    }
                    Read::Binary(bytes) if bytes.len() > 100 => out.push(format!("binary of {}", bytes.len())),
                    Read::Binary(bytes) => out.push(format!("binary {}", String::from_utf8_lossy(&bytes))),
                    Read::Text(text) => out.push(format!("text {text}")),
                    Read::Ping(bytes) => out.push(format!("ping {}", String::from_utf8_lossy(&bytes))),
                    Read::Close(code) => out.push(format!("close {code}")),
                    Read::Broken(code, _) => {
                        out.push(format!("broken {}", code));
                        return out;
                    }
                }
            }
        }
        out
    }

    #[test]
    fn messages_are_put_together_however_they_come() {
        let bytes = [
            frame(0x82, b"one"),
            frame(0x01, b"he"),
            frame(0x89, b"are you there"),
            frame(0x00, b"l"),
            frame(0x80, b"lo"),
            frame(0x8a, b"unasked"),
            frame(0x82, b""),
            frame(0x82, &[7; 300]),
            frame(0x82, &[8; 70_000]),
            frame(0x88, &[3, 233]),
        ]
        .concat();
        let expected = [
            "binary one",
            "ping are you there",
            "text hello",
            "binary ",
            "binary of 300",
            "binary of 70000",
            "close 1001",
        ];
        for step in [1, 2, 3, 7, 100, 4096, 100_000] {
            let mut reader = Reader::new(100, 100_000);
            assert_eq!(found(&mut reader, &bytes, step), expected, "in steps of {step}");
            assert_eq!((reader.bytes.capacity(), reader.parts.capacity()), (0, 0), "an idle one holds no buffer");
        }
    }

    #[test]
    fn what_a_client_may_not_send_is_broken_before_its_payload_is_there() {
        let malformed = format!("broken {}", PROTOCOL_ERROR);
        for bytes in [
            &[0x82, 0x03, b'a', b'b', b'c'][..],
            &frame(0xc2, b"compressed")[..2],
            &frame(0x83, b"reserved")[..6],
            &frame(0x80, b"of nothing")[..6],
            &[frame(0x02, b"a"), frame(0x82, b"b")].concat()[..],
            &frame(0x09, b"in parts")[..6],
            &frame(0x89, &[0; 126])[..8],
        ] {
            let all = found(&mut Reader::new(100, 100), bytes, 100);
            assert_eq!(all, [malformed.as_str()], "{bytes:02x?}");
        }
    }

    #[test]
    fn sizes_are_bounded_also_over_several_frames_and_the_first_message_more() {
        let too_large = format!("broken {}", TOO_LARGE);
        let head = |payload: &[u8]| frame(0x82, payload)[..8].to_vec();
        assert_eq!(found(&mut Reader::new(200, 300), &head(&[0; 201]), 100), [too_large.as_str()]);
        let mut reader = Reader::new(200, 300);
        assert_eq!(found(&mut reader, &frame(0x82, &[0; 200]), 1000), ["binary of 200"]);
        assert_eq!(found(&mut reader, &frame(0x82, &[0; 300]), 1000), ["binary of 300"]);
        let parts = [frame(0x02, &[0; 150]), frame(0x00, &[0; 150]), frame(0x80, &[0; 1])].concat();
        assert_eq!(found(&mut reader, &parts, 1000), [too_large.as_str()]);
        let huge = [0x82, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
        assert_eq!(found(&mut Reader::new(200, 300), &huge, 1000), [too_large.as_str()]);
    }

    #[test]
    fn a_close_is_answered_with_its_code_if_that_may_be_on_the_wire() {
        for (payload, code) in [
            (&[][..], 1000),
            (&[3, 232], 1000),
            (&[0x0f, 0xa0, b'b', b'y', b'e'], 4000),
            (&[3, 237], 1002),
            (&[3], 1002),
            (&[3, 232, 0xff], 1007),
        ] {
            assert_eq!(found(&mut Reader::new(9, 9), &frame(0x88, payload), 100), [format!("close {code}")]);
        }
    }

    /// A message as a client may send it, and as it is found.
    fn message() -> impl Strategy<Value = (Message, String)> {
        let short = vec(any::<u8>(), 0..100);
        prop_oneof![
            short.clone().prop_map(|bytes| {
                let found = format!("binary {}", String::from_utf8_lossy(&bytes));
                (Message::binary(bytes), found)
            }),
            (101_usize..70_000).prop_map(|bytes| (Message::binary(vec![5; bytes]), format!("binary of {bytes}"))),
            "\\PC{0,40}".prop_map(|text| (Message::text(text.clone()), format!("text {text}"))),
            short.prop_map(|bytes| {
                let found = format!("ping {}", String::from_utf8_lossy(&bytes));
                (Message::Ping(bytes.into()), found)
            }),
        ]
    }

    proptest! {
        #[test]
        fn what_tungstenite_writes_is_found_in_whatever_steps_it_comes(
            messages in vec(message(), 0..20),
            step in 1_usize..5000,
        ) {
            let (mut client, mut written) = (WebSocketContext::new(Role::Client, None), Cursor::new(Vec::new()));
            for (message, _) in &messages {
                client.write(&mut written, message.clone()).unwrap();
            }
            client.flush(&mut written).unwrap();
            let expected: Vec<_> = messages.into_iter().map(|(_, found)| found).collect();
            let mut reader = Reader::new(100_000, 100_000);
            prop_assert_eq!(found(&mut reader, written.get_ref(), step), expected);
        }

        #[test]
        fn whatever_comes_it_ends_and_holds_no_more_than_came(bytes in vec(any::<u8>(), 0..2000), step in 1_usize..50) {
            let mut reader = Reader::new(1000, 1000);
            found(&mut reader, &bytes, step);
            prop_assert!(reader.bytes.len() + reader.parts.len() <= bytes.len());
        }
    }
}
