//! Bodies of polling requests: packets with 0x1e between them, binary as `b` and base64. Pure.

use std::collections::VecDeque;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use redeliver_websocket::Utf8Bytes;

use super::packet::{ClientPacket, Message};

/// The packets of one body, of which the next is made when it is asked for: a body of many tiny packets costs no more
/// than its bytes.
#[derive(Debug)]
pub(super) struct Packets {
    body: Bytes,
    at: usize,
}

/// One packet of a body.
#[derive(Debug, PartialEq)]
pub(super) enum Polled {
    Text(ClientPacket),
    Binary(Bytes),
}

impl Packets {
    /// The packets of a body, if every one of them is well-formed and may come by polling.
    pub(super) fn parse(body: Bytes) -> Option<Packets> {
        std::str::from_utf8(&body).ok()?;
        let mut scratch = Vec::new();
        let is_good = |packet: &[u8]| match packet {
            [b'4' | b'3', ..] | b"1" => true,
            [b'b', base64 @ ..] => {
                scratch.clear();
                BASE64.decode_vec(base64, &mut scratch).is_ok()
            }
            _ => false,
        };
        let all = body.split(|byte| *byte == SEPARATOR).all(is_good);
        all.then_some(Packets { body, at: 0 })
    }

    /// The next packet.
    pub(super) fn next(&mut self) -> Option<Polled> {
        if self.at > self.body.len() {
            return None;
        }
        let rest = &self.body[self.at..];
        let length = rest.iter().position(|byte| *byte == SEPARATOR).unwrap_or(rest.len());
        let packet = self.body.slice(self.at..self.at + length);
        self.at += length + 1;
        match packet.strip_prefix(b"b") {
            Some(base64) => BASE64.decode(base64).ok().map(|bytes| Polled::Binary(Bytes::from(bytes))),
            None => Utf8Bytes::try_from(packet).ok().and_then(ClientPacket::parse).map(Polled::Text),
        }
    }
}

/// Takes messages from the front of a queue until a body has `bytes_max` bytes or as many packets as every client
/// takes, or the queue is empty. One message always fits.
pub(super) fn encode(queue: &mut VecDeque<Message>, bytes_max: usize) -> Bytes {
    let mut out = Vec::new();
    let mut packets = 0;
    while let Some(message) = queue.front().filter(|_| packets < PACKETS_MAX) {
        if !out.is_empty() {
            if out.len() + message.bytes() > bytes_max {
                break;
            }
            out.push(SEPARATOR);
        }
        message.put_packet(&mut out);
        packets += 1;
        queue.pop_front();
    }
    Bytes::from(out)
}

const SEPARATOR: u8 = 0x1e;

/// Most packets of one body: python-engineio drops its connection if there are more.
const PACKETS_MAX: usize = 16;

/// Clients pad, or do not.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

#[cfg(test)]
mod tests {
    use super::*;

    fn all(body: &'static [u8]) -> Option<Vec<Polled>> {
        let mut packets = Packets::parse(Bytes::from_static(body))?;
        Some(std::iter::from_fn(|| packets.next()).collect())
    }

    #[test]
    fn packets_come_out_one_by_one() {
        let message = |text: &'static str| Polled::Text(ClientPacket::Message(Utf8Bytes::from_static(text)));
        assert_eq!(all(b"4hello"), Some(vec![message("hello")]));
        assert_eq!(
            all("4\x1e4é\x1e3".as_bytes()),
            Some(vec![message(""), message("é"), Polled::Text(ClientPacket::Pong)])
        );
        let binary = Polled::Binary(Bytes::from_static(&[1, 2, 3, 4]));
        assert_eq!(all(b"4a\x1ebAQIDBA==\x1e1"), Some(vec![message("a"), binary, Polled::Text(ClientPacket::Close)]));
        assert_eq!(all(b"bAQIDBA"), Some(vec![Polled::Binary(Bytes::from_static(&[1, 2, 3, 4]))]), "without padding");
        assert_eq!(all(b"b"), Some(vec![Polled::Binary(Bytes::new())]));
    }

    #[test]
    fn one_malformed_packet_refuses_the_whole_body() {
        let bodies: [&'static [u8]; 13] = [
            b"",
            b"abc",
            b"4a\x1e",
            b"\x1e4a",
            b"4a\x1e\x1e4b",
            b"4a\x1e2",
            b"2probe",
            b"5",
            b"6",
            b"0{}",
            b"b$$$",
            b"4\xff",
            b"4a\x1eb\xc3\xa9",
        ];
        for body in bodies {
            assert_eq!(all(body), None, "{body:?}");
        }
    }

    #[test]
    fn a_body_ends_before_it_is_too_large_but_has_one_message() {
        let mut queue: VecDeque<Message> = (0..4).map(|_| Message::Text(Bytes::from_static(b"12345"))).collect();
        assert_eq!(encode(&mut queue, 13), "412345\x1e412345");
        assert_eq!(encode(&mut queue, 1), "412345");
        assert_eq!(encode(&mut queue, 1_000), "412345");
        assert_eq!(encode(&mut queue, 1_000), "");
    }
}
