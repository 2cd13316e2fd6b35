//! Bytes to messages and back. The only file that names bincode.
//!
//! Fixed-width little-endian integers, a hard limit before any allocation, and every byte must be consumed. `Hello` and
//! `Close` begin with fixed bytes that any version can read:
//!
//! ```text
//! Hello  "RDLH" version:u16 features:u32 bincode(Hello)
//! Close  "RDLC" version:u16 features:u32 code:u16 retry:u8 (0 never, 1 now, 2 after) retry_ms:u64 reason:utf-8
//! others u32 variant, fields …           (bincode of ClientFrame or ServerFrame; no variant reads as "RDLx")
//! ```

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Close, CloseCode, DecodeError, RetryAdvice};
use crate::event::{Record, RecordKind};
use crate::features::{FEATURES, Features};
use crate::frame::{ClientFrame, Events, Hello, ServerFrame, VERSION};
use crate::limits::{FRAME_BYTES_MAX, HELLO_BYTES_MAX, REASON_BYTES_MAX};
use crate::name::EventName;
use crate::seq::{Epoch, Nth, Seq, SubscriptionId};
use crate::time::Timestamp;

const HELLO_MAGIC: &[u8; 4] = b"RDLH";
const CLOSE_MAGIC: &[u8; 4] = b"RDLC";
const PREAMBLE_BYTES: usize = 10;
const CLOSE_HEAD_BYTES: usize = PREAMBLE_BYTES + 2 + 1 + 8;

/// The bytes of [`events_head`]: variant, subscription, epoch, count, length of the records.
pub const EVENTS_HEAD_BYTES: usize = 4 + 4 + 16 + 4 + 8;

const EVENTS_VARIANT: u32 = 3;

/// A record without its name and payload: seq, nth, time, kind, and two lengths.
pub const RECORD_HEAD_BYTES: usize = 8 + 8 + 8 + 1 + 8 + 8;

/// Where in a record its kind stands: behind seq, nth and time.
const RECORD_KIND_AT: usize = 8 + 8 + 8;

/// What a server may send at any time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromServer {
    /// The conversation goes on.
    Frame(ServerFrame),
    /// It ends.
    Close(Close),
}

/// What a client may send after its Hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromClient {
    /// The conversation goes on.
    Frame(ClientFrame),
    /// It ends.
    Close(Close),
}

/// Encodes a client's first message.
#[must_use]
pub fn encode_hello(hello: &Hello) -> Bytes {
    let mut out = preamble(HELLO_MAGIC, hello.features);
    encode_into(hello, &mut out);
    out.freeze()
}

/// Decodes a client's first message.
///
/// # Errors
///
/// [`DecodeError`]; `Version` and `Features` if the peer is of another time, whatever follows in the message.
pub fn decode_hello(message: &[u8]) -> Result<Hello, DecodeError> {
    let (features, body) = after_preamble(message, HELLO_MAGIC, "Hello", HELLO_BYTES_MAX)?;
    decode(body).map(|hello| Hello { features, ..hello })
}

/// What the peer has that wrote this Close; none if it is no Close, or one of another version.
#[must_use]
pub fn features_of_close(message: &[u8]) -> Option<Features> {
    let head = message.get(..PREAMBLE_BYTES).filter(|head| head.starts_with(CLOSE_MAGIC))?;
    let (version, features) = version_and_features(head);
    (version == VERSION).then_some(features)
}

/// Encodes the end of a conversation, of either side.
#[must_use]
pub fn encode_close(close: &Close) -> Bytes {
    let mut out = preamble(CLOSE_MAGIC, FEATURES);
    out.put_u16_le(close.code.0);
    let (advice, after) = match close.retry {
        RetryAdvice::Never => (0, Duration::ZERO),
        RetryAdvice::Now => (1, Duration::ZERO),
        RetryAdvice::After(after) => (2, after),
    };
    out.put_u8(advice);
    out.put_u64_le(u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
    out.put_slice(truncated(&close.reason, REASON_BYTES_MAX).as_bytes());
    out.freeze()
}

/// Encodes a client's frame.
#[must_use]
pub fn encode_client(frame: &ClientFrame) -> Bytes {
    encode(frame)
}

/// Encodes a server's frame. Batches of events are better written with [`events_head`], which copies no record.
#[must_use]
pub fn encode_server(frame: &ServerFrame) -> Bytes {
    encode(frame)
}

/// Decodes what came from a client after its Hello.
///
/// # Errors
///
/// [`DecodeError`] if the bytes are anything but exactly one frame.
pub fn decode_from_client(message: &[u8]) -> Result<FromClient, DecodeError> {
    if message.starts_with(CLOSE_MAGIC) {
        return decode_close(message).map(FromClient::Close);
    }
    within(message, FRAME_BYTES_MAX)?;
    decode(message).map(FromClient::Frame)
}

/// Decodes what came from a server. The records of a batch stay a slice of `message`.
///
/// # Errors
///
/// [`DecodeError`] if the bytes are anything but exactly one frame.
pub fn decode_from_server(message: &Bytes) -> Result<FromServer, DecodeError> {
    if message.starts_with(CLOSE_MAGIC) {
        return decode_close(message).map(FromServer::Close);
    }
    within(message, FRAME_BYTES_MAX)?;
    if message.starts_with(&EVENTS_VARIANT.to_le_bytes()) {
        return decode_events(message).map(|events| FromServer::Frame(ServerFrame::Events(events)));
    }
    decode(message).map(FromServer::Frame)
}

/// The head of a batch of events: with the records' bytes behind it, it is a whole [`ServerFrame::Events`].
#[must_use]
pub fn events_head(id: SubscriptionId, epoch: Epoch, count: u32, records_bytes: usize) -> [u8; EVENTS_HEAD_BYTES] {
    let mut head = [0; EVENTS_HEAD_BYTES];
    head[0..4].copy_from_slice(&EVENTS_VARIANT.to_le_bytes());
    head[4..8].copy_from_slice(&id.0.to_le_bytes());
    head[8..24].copy_from_slice(&epoch.0);
    head[24..28].copy_from_slice(&count.to_le_bytes());
    head[28..36].copy_from_slice(&(records_bytes as u64).to_le_bytes());
    head
}

/// Appends an event's wire record to `out`.
pub fn encode_record(
    out: &mut impl BufMut,
    (seq, nth, time): (Seq, Nth, Timestamp),
    kind: impl Into<RecordKind>,
    name: &str,
    payload: &[u8],
) {
    out.put_u64_le(seq.0);
    out.put_u64_le(nth.0);
    out.put_u64_le(time.0);
    out.put_u8(kind.into().to_byte());
    out.put_u64_le(name.len() as u64);
    out.put_slice(name.as_bytes());
    out.put_u64_le(payload.len() as u64);
    out.put_slice(payload);
}

/// The number of bytes that [`encode_record`] appends.
#[must_use]
pub fn record_bytes(name: &str, payload: &[u8]) -> usize {
    RECORD_HEAD_BYTES + name.len() + payload.len()
}

/// Reads records one after another. Their payloads are slices of the batch. Stops after the first error.
#[derive(Clone, Debug)]
pub struct Records {
    rest: Bytes,
}

impl Records {
    /// A reader over a batch's records.
    #[must_use]
    pub fn new(records: Bytes) -> Records {
        Records { rest: records }
    }

    fn read(&mut self) -> Result<Record, DecodeError> {
        let head: RecordHead<'_> = decode_prefix(&self.rest)?;
        let (seq, nth, time) = (head.seq, head.nth, head.time);
        let RecordKind { payload: kind, asks, has_except } = head.kind;
        let name = EventName::new(head.name).map_err(|error| DecodeError::Invalid(error.to_string()))?;
        let end = RECORD_HEAD_BYTES + head.name.len() + head.payload.len();
        let payload = self.rest.slice(end - head.payload.len()..end);
        let _ = self.rest.split_to(end);
        Ok(Record { seq, nth, time, kind, asks, has_except, name, payload })
    }
}

impl Iterator for Records {
    type Item = Result<Record, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let record = self.read();
        if record.is_err() {
            self.rest.clear();
        }
        Some(record)
    }
}

/// The seq, nth, time and length in bytes of the record at the start of `records`, without touching its content. For
/// code that moves records by the thousand, such as the log.
///
/// # Errors
///
/// [`DecodeError`] if `records` does not start with a whole record.
pub fn peek_record(records: &[u8]) -> Result<(Seq, Nth, Timestamp, usize), DecodeError> {
    let head: RecordHead<'_> = decode_prefix(records)?;
    Ok((head.seq, head.nth, head.time, RECORD_HEAD_BYTES + head.name.len() + head.payload.len()))
}

/// The kind of the record at the start of `records`, without touching its content.
///
/// # Errors
///
/// [`DecodeError`] if `records` does not start with a record's head.
pub fn peek_record_kind(records: &[u8]) -> Result<RecordKind, DecodeError> {
    let byte = *records.get(RECORD_KIND_AT).ok_or(DecodeError::Truncated)?;
    RecordKind::from_byte(byte).ok_or_else(|| DecodeError::Invalid(format!("record kind {byte}")))
}

/// The same records without marks in their kinds, for a reader without [`Features::EXCEPT`]. Copies only if there are
/// any.
///
/// # Errors
///
/// [`DecodeError`] if these are no records.
pub fn without_marks(records: &Bytes) -> Result<Bytes, DecodeError> {
    let mut copy: Option<BytesMut> = None;
    let mut at = 0;
    while at < records.len() {
        let (.., bytes) = peek_record(&records[at..])?;
        let kind = at + RECORD_KIND_AT;
        if records[kind] & RecordKind::MARKS != 0 {
            copy.get_or_insert_with(|| BytesMut::from(&records[..]))[kind] &= !RecordKind::MARKS;
        }
        at += bytes;
    }
    Ok(copy.map_or_else(|| records.clone(), BytesMut::freeze))
}

#[derive(Serialize, Deserialize)]
struct RecordHead<'a> {
    seq: Seq,
    nth: Nth,
    time: Timestamp,
    #[serde(with = "kind_byte")]
    kind: RecordKind,
    name: &'a str,
    #[serde(with = "serde_bytes")]
    payload: &'a [u8],
}

fn decode_events(message: &Bytes) -> Result<Events, DecodeError> {
    if message.len() < EVENTS_HEAD_BYTES {
        return Err(DecodeError::Truncated);
    }
    let word = |at: usize| u32::from_le_bytes([message[at], message[at + 1], message[at + 2], message[at + 3]]);
    let records_bytes = u64::from(word(28)) | u64::from(word(32)) << 32;
    let present = (message.len() - EVENTS_HEAD_BYTES) as u64;
    if records_bytes > present {
        return Err(DecodeError::Truncated);
    }
    if records_bytes < present {
        return Err(DecodeError::Trailing(message.len() - EVENTS_HEAD_BYTES));
    }
    let mut epoch = [0; 16];
    epoch.copy_from_slice(&message[8..24]);
    Ok(Events {
        id: SubscriptionId(word(4)),
        epoch: Epoch(epoch),
        count: word(24),
        records: message.slice(EVENTS_HEAD_BYTES..),
    })
}

fn decode_close(message: &[u8]) -> Result<Close, DecodeError> {
    within(message, CLOSE_HEAD_BYTES + REASON_BYTES_MAX)?;
    // Any version's close is read: that is what its fixed form is for.
    let Some((head, reason)) = message.split_at_checked(CLOSE_HEAD_BYTES) else {
        return Err(DecodeError::Truncated);
    };
    let mut retry_ms = [0; 8];
    retry_ms.copy_from_slice(&head[13..21]);
    let retry = match head[12] {
        0 => RetryAdvice::Never,
        1 => RetryAdvice::Now,
        2 => RetryAdvice::After(Duration::from_millis(u64::from_le_bytes(retry_ms))),
        other => return Err(DecodeError::Invalid(format!("retry advice {other}"))),
    };
    Ok(Close::new(
        CloseCode(u16::from_le_bytes([head[10], head[11]])),
        String::from_utf8_lossy(reason).into_owned(),
        retry,
    ))
}

fn preamble(magic: &[u8; 4], features: Features) -> BytesMut {
    let mut out = BytesMut::with_capacity(128);
    out.put_slice(magic);
    out.put_u16_le(VERSION);
    out.put_u32_le(features.0);
    out
}

fn after_preamble<'a>(
    message: &'a [u8],
    magic: &[u8; 4],
    what: &'static str,
    bytes_max: usize,
) -> Result<(Features, &'a [u8]), DecodeError> {
    if !message.starts_with(magic) {
        return Err(DecodeError::BadMagic(what));
    }
    let Some((head, body)) = message.split_at_checked(PREAMBLE_BYTES) else {
        return Err(DecodeError::Truncated);
    };
    let (theirs, features) = version_and_features(head);
    if theirs != VERSION {
        return Err(DecodeError::Version { theirs, ours: VERSION });
    }
    if !FEATURES.has(features) {
        return Err(DecodeError::Features(features.without(FEATURES).0));
    }
    within(message, bytes_max)?;
    Ok((features, body))
}

/// Takes the fixed bytes behind a magic apart. `head` has [`PREAMBLE_BYTES`] bytes.
fn version_and_features(head: &[u8]) -> (u16, Features) {
    let version = u16::from_le_bytes([head[4], head[5]]);
    (version, Features(u32::from_le_bytes([head[6], head[7], head[8], head[9]])))
}

fn within(message: &[u8], bytes_max: usize) -> Result<(), DecodeError> {
    if message.len() > bytes_max {
        return Err(DecodeError::TooLarge { bytes: message.len(), bytes_max });
    }
    Ok(())
}

fn truncated(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn encode<T: Serialize>(value: &T) -> Bytes {
    let mut out = BytesMut::with_capacity(64);
    encode_into(value, &mut out);
    out.freeze()
}

fn encode_into<T: Serialize>(value: &T, out: &mut BytesMut) {
    struct Sink<'a>(&'a mut BytesMut);
    impl bincode::enc::write::Writer for Sink<'_> {
        fn write(&mut self, bytes: &[u8]) -> Result<(), bincode::error::EncodeError> {
            self.0.put_slice(bytes);
            Ok(())
        }
    }
    let encoded = bincode::serde::encode_into_writer(value, Sink(out), bincode::config::legacy());
    // Our own types into memory: no length is unknown, and the sink takes everything.
    debug_assert!(encoded.is_ok(), "encoding failed: {encoded:?}");
}

/// Decodes exactly one value from all of `bytes`.
fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    let config = bincode::config::legacy().with_limit::<FRAME_BYTES_MAX>();
    let (value, used) = bincode::serde::decode_from_slice(bytes, config).map_err(translate)?;
    match bytes.len() - used {
        0 => Ok(value),
        left => Err(DecodeError::Trailing(left)),
    }
}

/// Decodes one value that borrows from the start of `bytes`; more may follow.
fn decode_prefix<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, DecodeError> {
    let config = bincode::config::legacy().with_limit::<FRAME_BYTES_MAX>();
    bincode::serde::borrow_decode_from_slice(bytes, config).map(|(value, _)| value).map_err(translate)
}

fn translate(error: bincode::error::DecodeError) -> DecodeError {
    use bincode::error::DecodeError as E;
    if let E::UnexpectedEnd { .. } = error {
        return DecodeError::Truncated;
    }
    // A length beyond the limit cannot be that of something which is here.
    if let E::LimitExceeded = error {
        return DecodeError::Truncated;
    }
    if let E::OtherString(words) = error {
        return DecodeError::Invalid(words);
    }
    DecodeError::Invalid(error.to_string())
}

/// Serde for a record's kind as one byte: records are counted by the million.
mod kind_byte {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    use crate::event::RecordKind;

    #[allow(clippy::trivially_copy_pass_by_ref)]
    pub(super) fn serialize<S: Serializer>(kind: &RecordKind, serializer: S) -> Result<S::Ok, S::Error> {
        kind.to_byte().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<RecordKind, D::Error> {
        let byte = u8::deserialize(deserializer)?;
        RecordKind::from_byte(byte).ok_or_else(|| D::Error::custom(format!("record kind {byte}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::PayloadKind;

    #[test]
    fn a_head_and_the_shared_records_are_one_frame() {
        let mut records = BytesMut::new();
        encode_record(&mut records, (Seq(7), Nth(3), Timestamp(9)), PayloadKind::Text, "greeting", b"hello");
        encode_record(&mut records, (Seq(9), Nth(4), Timestamp(9)), PayloadKind::Json, "x", b"{}");
        let records = records.freeze();
        let events = Events { id: SubscriptionId(5), epoch: Epoch([3; 16]), count: 2, records: records.clone() };
        let whole = encode_server(&ServerFrame::Events(events.clone()));
        let mut pieces = events_head(events.id, events.epoch, events.count, records.len()).to_vec();
        pieces.extend_from_slice(&records);
        assert_eq!(whole, pieces);
        assert_eq!(decode_from_server(&whole), Ok(FromServer::Frame(ServerFrame::Events(events))));

        let read: Vec<_> = Records::new(records.clone()).collect::<Result<_, _>>().expect("valid records");
        assert_eq!(read.len(), 2);
        assert_eq!((read[0].seq, read[0].nth, &read[0].payload[..]), (Seq(7), Nth(3), &b"hello"[..]));
        assert_eq!((read[1].name.as_str(), read[1].kind), ("x", PayloadKind::Json));
        let (seq, _, _, bytes) = peek_record(&records).expect("a record");
        assert_eq!((seq, bytes), (Seq(7), record_bytes("greeting", b"hello")));
    }
}
