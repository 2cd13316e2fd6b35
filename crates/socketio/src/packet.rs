//! Socket.IO v5 packets, parsed and encoded over slices of raw JSON: arguments stay the text that the peer wrote. Pure:
//! no IO, no clock. Nothing that a peer sends is believed before it is bounded.

mod json;
mod parse;
#[cfg(test)]
mod tests;
mod write;

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;
use redeliver_websocket::Utf8Bytes;
use thiserror::Error;

use self::parse::Head;
pub(crate) use self::write::{PacketWriter, encode_connect, encode_connect_error, encode_disconnect};

/// A packet from a client, complete with its attachments.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Received {
    pub(crate) namespace: NamespaceName,
    pub(crate) packet: Packet,
}

/// What a client may send.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Packet {
    /// Asks to join a namespace. `auth` is the text of a JSON object.
    Connect { auth: Option<Utf8Bytes> },
    /// Leaves a namespace.
    Disconnect,
    /// An event; with an `id` its sender wants an answer.
    Event { id: Option<AckId>, name: String, args: PacketArgs },
    /// The answer to an event that went out with this id.
    Ack { id: AckId, args: PacketArgs },
}

/// A namespace's name, which begins with a slash.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct NamespaceName(Cow<'static, str>);

impl NamespaceName {
    /// The main namespace, `/`, which is not written in packets.
    pub(crate) fn main() -> NamespaceName {
        NamespaceName(Cow::Borrowed("/"))
    }

    /// A namespace that packets can name: it begins with a slash, has no comma and at most 255 bytes.
    pub(crate) fn new(name: &str) -> Option<NamespaceName> {
        if name == "/" {
            return Some(NamespaceName::main());
        }
        let fits = name.starts_with('/') && !name.contains(',') && name.len() <= NAMESPACE_BYTES_MAX;
        fits.then(|| NamespaceName(Cow::Owned(name.to_owned())))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Pairs an event with its answer, within one namespace of one connection and one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct AckId(pub(crate) u64);

/// The arguments of an event or an answer: JSON as the peer wrote it, and attachments beside it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PacketArgs {
    /// The whole message.
    text: Utf8Bytes,
    /// Where the arguments stand in it.
    range: Range<usize>,
    attachments: Vec<Bytes>,
}

impl PacketArgs {
    /// The arguments' JSON with commas between, without brackets, and placeholders as they came. No copy: it keeps the
    /// whole message in memory.
    pub(crate) fn list(&self) -> Bytes {
        Bytes::from(self.text.clone()).slice(self.range.clone())
    }

    /// The attachments, which placeholders name by their place here.
    pub(crate) fn attachments(&self) -> &[Bytes] {
        &self.attachments
    }
}

/// What packets may cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PacketLimits {
    /// Most attachments of one packet.
    pub(crate) attachments_max: usize,
    /// Most bytes of one packet's attachments together.
    pub(crate) attachment_bytes_max: usize,
    /// Deepest nesting of JSON; the array of arguments counts.
    pub(crate) depth_max: usize,
    /// Most arguments of one packet.
    pub(crate) args_max: usize,
}

impl Default for PacketLimits {
    fn default() -> PacketLimits {
        PacketLimits {
            // Events of more parts belong into one.
            attachments_max: 64,
            // As much as one message.
            attachment_bytes_max: 1_000_000,
            // Below serde_json's own limit of 128, so that every reader can read what passes.
            depth_max: 100,
            // An argument costs 40 bytes of bookkeeping: many small ones must not multiply a message.
            args_max: 1024,
        }
    }
}

/// Why a packet was refused. The connection is closed: what follows could not be understood.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum PacketError {
    /// The first character is no type that a client may send.
    #[error("a packet of an unknown type")]
    UnknownType,
    /// The number of attachments is missing or malformed.
    #[error("a binary packet without a number of attachments")]
    AttachmentCount,
    /// More attachments, or more bytes of them, than a packet may have.
    #[error("too many attachments")]
    TooManyAttachments,
    /// A namespace longer than 255 bytes.
    #[error("a namespace too long")]
    NamespaceTooLong,
    /// An ack id beyond what JavaScript counts exactly, or none where there must be one.
    #[error("a malformed ack id")]
    AckId,
    /// Not JSON, or not of the shape that the type asks for.
    #[error("a malformed payload")]
    Payload,
    /// JSON too deep or with too many arguments.
    #[error("a payload that is too deep or has too many arguments")]
    PayloadTooComplex,
    /// An event without a name, or with a name that Socket.IO keeps for itself.
    #[error("an event without a name of its own")]
    EventName,
    /// A placeholder names an attachment that the packet does not have.
    #[error("a placeholder without an attachment")]
    Placeholder,
    /// A text message while attachments are awaited.
    #[error("a text message in the middle of attachments")]
    TextAmongAttachments,
    /// A binary message that belongs to no packet.
    #[error("a binary message that belongs to no packet")]
    UnexpectedBinary,
}

/// Puts packets together from an Engine.IO connection's messages. After an error it is of no more use.
#[derive(Debug)]
pub(crate) struct Decoder {
    limits: PacketLimits,
    pending: Option<Box<Pending>>,
}

/// A packet whose attachments are not all here.
#[derive(Debug)]
struct Pending {
    incoming: Received,
    awaited: usize,
    bytes: usize,
}

impl Decoder {
    pub(crate) fn new(limits: PacketLimits) -> Decoder {
        Decoder { limits, pending: None }
    }

    /// Takes a text message; gives the packet if it is complete.
    ///
    /// # Errors
    ///
    /// If it is no valid packet or comes at the wrong moment.
    pub(crate) fn text(&mut self, text: Utf8Bytes) -> Result<Option<Received>, PacketError> {
        if self.pending.is_some() {
            return Err(PacketError::TextAmongAttachments);
        }
        let head = Head::parse(&text, &self.limits)?;
        let awaited = head.attachments;
        let incoming = head.complete(text, &self.limits)?;
        if awaited == 0 {
            return Ok(Some(incoming));
        }
        self.pending = Some(Box::new(Pending { incoming, awaited, bytes: 0 }));
        Ok(None)
    }

    /// Takes a binary message; gives the packet that it completes.
    ///
    /// # Errors
    ///
    /// If none was awaited, or it is too large.
    pub(crate) fn binary(&mut self, bytes: Bytes) -> Result<Option<Received>, PacketError> {
        let Some(mut pending) = self.pending.take() else { return Err(PacketError::UnexpectedBinary) };
        pending.bytes += bytes.len();
        if pending.bytes > self.limits.attachment_bytes_max {
            return Err(PacketError::TooManyAttachments);
        }
        match &mut pending.incoming.packet {
            Packet::Event { args, .. } | Packet::Ack { args, .. } => args.attachments.push(bytes),
            Packet::Connect { .. } | Packet::Disconnect => return Err(PacketError::UnexpectedBinary),
        }
        pending.awaited -= 1;
        if pending.awaited == 0 {
            return Ok(Some(pending.incoming));
        }
        self.pending = Some(pending);
        Ok(None)
    }
}

/// Names that clients' and servers' own machinery uses.
pub(crate) const RESERVED_NAMES: [&str; 6] =
    ["connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"];

/// Longest namespace, in bytes: the longest topic.
const NAMESPACE_BYTES_MAX: usize = 255;
