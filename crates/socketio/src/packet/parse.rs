//! From a text message to a packet: `<type>[<attachments>-][<namespace>,][<ack id>][JSON]`. Never slices inside a
//! character: all that is cut at is ASCII.

use std::ops::Range;

use redeliver_websocket::Utf8Bytes;
use serde_json::Number;

use super::json::{check_object, check_placeholders, elements};
use super::{
    AckId, NAMESPACE_BYTES_MAX, NamespaceName, Packet, PacketArgs, PacketError, PacketLimits, RESERVED_NAMES, Received,
};

/// All of a packet before its JSON.
pub(super) struct Head {
    kind: Kind,
    pub(super) attachments: usize,
    namespace: NamespaceName,
    id: Option<AckId>,
    json_at: usize,
}

#[derive(Clone, Copy)]
enum Kind {
    Connect,
    Disconnect,
    Event,
    Ack,
}

impl Head {
    /// # Errors
    ///
    /// If the head is malformed or announces more than is allowed.
    pub(super) fn parse(text: &str, limits: &PacketLimits) -> Result<Head, PacketError> {
        let (kind, is_binary) = match text.as_bytes().first() {
            Some(b'0') => (Kind::Connect, false),
            Some(b'1') => (Kind::Disconnect, false),
            Some(b'2') => (Kind::Event, false),
            Some(b'3') => (Kind::Ack, false),
            Some(b'5') => (Kind::Event, true),
            Some(b'6') => (Kind::Ack, true),
            // 4, a connect error, is only ever sent by servers.
            Some(_) | None => return Err(PacketError::UnknownType),
        };
        let mut rest = &text[1..];
        let mut attachments = 0;
        if is_binary {
            let (digits, behind) = split_digits(rest);
            rest = behind.strip_prefix('-').ok_or(PacketError::AttachmentCount)?;
            // So many digits that they are no number are too many attachments, too.
            let count = digits
                .bytes()
                .try_fold(0_usize, |sum, digit| sum.checked_mul(10)?.checked_add(usize::from(digit - b'0')));
            attachments = match count {
                Some(_) if digits.is_empty() => return Err(PacketError::AttachmentCount),
                Some(count) if count <= limits.attachments_max => count,
                Some(_) | None => return Err(PacketError::TooManyAttachments),
            };
        }
        let mut namespace = NamespaceName::main();
        if rest.starts_with('/') {
            let (name, behind) = rest.split_once(',').unwrap_or((rest, ""));
            if name.len() > NAMESPACE_BYTES_MAX {
                return Err(PacketError::NamespaceTooLong);
            }
            namespace = NamespaceName(name.to_owned().into());
            rest = behind;
        }
        let (digits, json) = split_digits(rest);
        let id = match digits {
            "" => None,
            digits => Some(ack_id(digits).ok_or(PacketError::AckId)?),
        };
        Ok(Head { kind, attachments, namespace, id, json_at: text.len() - json.len() })
    }

    /// The packet, its attachments still missing.
    ///
    /// # Errors
    ///
    /// If its JSON is not what the type asks for.
    pub(super) fn complete(self, text: Utf8Bytes, limits: &PacketLimits) -> Result<Received, PacketError> {
        let json = text.get(self.json_at..).unwrap_or_default();
        let packet = match (self.kind, self.id) {
            (Kind::Connect, None) if json.is_empty() => Packet::Connect { auth: None },
            (Kind::Connect, None) => {
                check_object(json, limits)?;
                Packet::Connect { auth: Some(Utf8Bytes::from(json)) }
            }
            (Kind::Disconnect, None) if json.is_empty() => Packet::Disconnect,
            (Kind::Connect | Kind::Disconnect, _) => return Err(PacketError::Payload),
            (Kind::Event, id) => {
                let elements = arguments(&text, self.json_at, self.attachments, limits)?;
                let Some((name, args)) = elements.split_first() else { return Err(PacketError::EventName) };
                let name = text.get(name.clone()).unwrap_or_default();
                let name = event_name(name)?;
                if RESERVED_NAMES.contains(&&*name) {
                    return Err(PacketError::EventName);
                }
                Packet::Event { id, name, args: PacketArgs { range: whole(args), text, attachments: Vec::new() } }
            }
            (Kind::Ack, Some(id)) => {
                let args = arguments(&text, self.json_at, self.attachments, limits)?;
                Packet::Ack { id, args: PacketArgs { range: whole(&args), text, attachments: Vec::new() } }
            }
            (Kind::Ack, None) => return Err(PacketError::AckId),
        };
        Ok(Received { namespace: self.namespace, packet })
    }
}

/// Where each element of the array stands.
fn arguments(
    text: &str,
    json_at: usize,
    attachments: usize,
    limits: &PacketLimits,
) -> Result<Vec<Range<usize>>, PacketError> {
    let json = text.get(json_at..).unwrap_or_default();
    let elements = elements(json, limits)?;
    // Without attachments, what looks like a placeholder is data.
    if attachments > 0 {
        for range in &elements {
            check_placeholders(json.get(range.clone()).unwrap_or_default(), attachments)?;
        }
    }
    Ok(elements.into_iter().map(|range| json_at + range.start..json_at + range.end).collect())
}

/// A name: a string, or a number, which stock clients take for the string of it.
fn event_name(json: &str) -> Result<String, PacketError> {
    let number = || serde_json::from_str::<Number>(json).map(|number| number.to_string());
    serde_json::from_str::<String>(json).or_else(|_| number()).map_err(|_| PacketError::EventName)
}

/// From the first to the last.
fn whole(ranges: &[Range<usize>]) -> Range<usize> {
    match ranges {
        [first, .., last] => first.start..last.end,
        [only] => only.clone(),
        [] => 0..0,
    }
}

fn split_digits(text: &str) -> (&str, &str) {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    text.split_at(digits)
}

fn ack_id(digits: &str) -> Option<AckId> {
    let id = digits.parse().ok()?;
    (id <= ACK_ID_MAX).then_some(AckId(id))
}

/// The largest integer that a JavaScript client counts exactly.
const ACK_ID_MAX: u64 = (1 << 53) - 1;
