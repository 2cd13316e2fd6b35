//! Engine.IO packets: a digit and what follows. Messages are encoded for either transport; those that many sockets
//! share are encoded once. Pure.

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use redeliver_websocket::{BINARY, HEADER_BYTES_MAX, TEXT, Utf8Bytes, put_header};

/// A text packet of a client.
#[derive(Debug, PartialEq)]
pub(super) enum ClientPacket {
    /// `4…`
    Message(Utf8Bytes),
    /// `3`
    Pong,
    /// `1`
    Close,
    /// `2probe`: whether this WebSocket works.
    Probe,
    /// `5`: this WebSocket is to be used from here on.
    Upgrade,
}

impl ClientPacket {
    /// A packet, or nothing if a client must not send it. Heartbeats come from the server: a client's own ping is
    /// wrong.
    pub(super) fn parse(text: Utf8Bytes) -> Option<ClientPacket> {
        match text.as_bytes() {
            [b'4', ..] => Utf8Bytes::try_from(Bytes::from(text).slice(1..)).ok().map(ClientPacket::Message),
            [b'3', ..] => Some(ClientPacket::Pong),
            b"2probe" => Some(ClientPacket::Probe),
            b"1" => Some(ClientPacket::Close),
            b"5" => Some(ClientPacket::Upgrade),
            _ => None,
        }
    }
}

/// A message that many sockets share: a text, and the binary messages that follow it. A clone shares all of it.
#[derive(Clone, Debug)]
pub struct SharedFrame {
    text: Frame,
    attachments: Option<Arc<[Frame]>>,
}

/// A complete frame of a WebSocket: header, and packet.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    bytes: Bytes,
    header_bytes: usize,
}

impl SharedFrame {
    /// Encodes a message: its text, which must be valid UTF-8, and its attachments. Copies both, once for all sockets.
    #[must_use]
    pub fn new(text: &[u8], attachments: &[Bytes]) -> SharedFrame {
        let attachments =
            (!attachments.is_empty()).then(|| attachments.iter().map(|bytes| Frame::new(BINARY, &[], bytes)).collect());
        SharedFrame { text: Frame::new(TEXT, MESSAGE, text), attachments }
    }

    /// How many bytes a socket gets.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let attachments = self.attachments.iter().flat_map(|frames| frames.iter());
        self.text.bytes.len() + attachments.map(|frame| frame.bytes.len()).sum::<usize>()
    }

    /// The messages it is made of.
    pub(super) fn messages(self) -> impl Iterator<Item = Message> {
        let attachments = self.attachments.into_iter();
        let attachments = attachments.flat_map(|frames| (0..frames.len()).map(move |i| frames[i].clone()));
        std::iter::once(Message::SharedText(self.text)).chain(attachments.map(Message::SharedBinary))
    }
}

impl Frame {
    fn new(opcode: u8, prefix: &[u8], body: &[u8]) -> Frame {
        let mut out = BytesMut::with_capacity(HEADER_BYTES_MAX + prefix.len() + body.len());
        put_header(&mut out, opcode, prefix.len() + body.len());
        let header_bytes = out.len();
        out.put_slice(prefix);
        out.put_slice(body);
        Frame { bytes: out.freeze(), header_bytes }
    }

    fn packet(&self) -> &[u8] {
        &self.bytes[self.header_bytes..]
    }
}

/// Something to be sent over whichever transport there is.
#[derive(Clone, Debug)]
pub(super) enum Message {
    /// A text without its leading 4.
    Text(Bytes),
    Binary(Bytes),
    SharedText(Frame),
    SharedBinary(Frame),
    Ping,
    /// A whole packet of the engine's own.
    Packet(Bytes),
}

impl Message {
    /// About how many bytes it takes on the wire.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Message::Text(bytes) | Message::Binary(bytes) | Message::Packet(bytes) => bytes.len() + 1,
            Message::SharedText(frame) | Message::SharedBinary(frame) => frame.bytes.len(),
            Message::Ping => 1,
        }
    }

    /// About how many bytes it takes in memory: a small one is mostly bookkeeping.
    pub(super) fn cost(&self) -> usize {
        size_of::<Message>() + self.bytes()
    }

    /// As a frame of a WebSocket, in two parts, without a copy of what is large.
    pub(super) fn into_frame(self) -> (Bytes, Bytes) {
        let head = |opcode, prefix: &[u8], bytes: &Bytes| {
            let mut head = BytesMut::with_capacity(HEADER_BYTES_MAX + prefix.len());
            put_header(&mut head, opcode, prefix.len() + bytes.len());
            head.put_slice(prefix);
            head.freeze()
        };
        match self {
            Message::Text(bytes) => (head(TEXT, MESSAGE, &bytes), bytes),
            Message::Binary(bytes) => (head(BINARY, &[], &bytes), bytes),
            Message::SharedText(frame) | Message::SharedBinary(frame) => (frame.bytes, Bytes::new()),
            Message::Ping => (Bytes::from_static(PING_FRAME), Bytes::new()),
            Message::Packet(bytes) => (head(TEXT, &[], &bytes), bytes),
        }
    }

    /// As a packet of a polling body.
    pub(super) fn put_packet(&self, out: &mut Vec<u8>) {
        let binary = |out: &mut Vec<u8>, bytes: &[u8]| {
            out.push(b'b');
            let (start, length) = (out.len(), base64::encoded_len(bytes.len(), true).unwrap_or_default());
            out.resize(start + length, 0);
            // The room is exactly what it takes.
            let _ = BASE64_STANDARD.encode_slice(bytes, &mut out[start..]);
        };
        match self {
            Message::Text(bytes) => {
                out.extend_from_slice(MESSAGE);
                out.extend_from_slice(bytes);
            }
            Message::Binary(bytes) => binary(out, bytes),
            Message::SharedText(frame) => out.extend_from_slice(frame.packet()),
            Message::SharedBinary(frame) => binary(out, frame.packet()),
            Message::Ping => out.push(b'2'),
            Message::Packet(bytes) => out.extend_from_slice(bytes),
        }
    }
}

/// What a text message's packet begins with.
const MESSAGE: &[u8] = b"4";

/// A text frame of one byte, the ping.
const PING_FRAME: &[u8] = b"\x81\x012";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_message_is_the_same_bytes_over_both_transports_as_one_of_its_own() {
        let attachments = [Bytes::from_static(&[1, 2, 3, 4]), Bytes::from(vec![7; 300])];
        let shared = SharedFrame::new("2[\"é\"]".as_bytes(), &attachments);
        assert_eq!(shared.bytes(), 2 + 8 + 2 + 4 + 4 + 300);
        let mut own = vec![Message::Text(Bytes::from_static("2[\"é\"]".as_bytes()))];
        own.extend(attachments.map(Message::Binary));
        for (shared, own) in shared.messages().zip(own) {
            let (mut by_polling, mut expected) = (Vec::new(), Vec::new());
            shared.put_packet(&mut by_polling);
            own.put_packet(&mut expected);
            assert_eq!(by_polling, expected);
            let flat = |(head, body): (Bytes, Bytes)| [head, body].concat();
            assert_eq!(flat(shared.into_frame()), flat(own.into_frame()));
        }
    }

    #[test]
    fn frames_and_packets_are_what_the_protocol_says() {
        let frame = |message: Message| {
            let (head, body) = message.into_frame();
            [head, body].concat()
        };
        assert_eq!(frame(Message::Ping), b"\x81\x012");
        assert_eq!(frame(Message::Text(Bytes::from_static(b"hello"))), b"\x81\x064hello");
        assert_eq!(frame(Message::Binary(Bytes::from_static(&[1, 2]))), b"\x82\x02\x01\x02");
        assert_eq!(frame(Message::Packet(Bytes::from_static(b"3probe"))), b"\x81\x063probe");
        let mut out = Vec::new();
        Message::Binary(Bytes::from_static(&[1, 2, 3, 4])).put_packet(&mut out);
        assert_eq!(out, b"bAQIDBA==");
    }

    #[test]
    fn a_client_may_not_send_what_is_the_servers_to_send() {
        for text in ["", "0{}", "2", "2prob", "2probe ", "1x", "5x", "6", "7", "abc", "b", "é"] {
            assert_eq!(ClientPacket::parse(text.into()), None, "{text:?}");
        }
        assert_eq!(ClientPacket::parse("4é".into()), Some(ClientPacket::Message("é".into())));
    }
}
