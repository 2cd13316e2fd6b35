//! The least of WebSocket and of the protocol that a load needs: masked frames out, frames in, emits patched into a template.
//! Trusts the server with nothing but the length of a frame.

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use redeliver_protocol::codec::{
    self, EVENTS_HEAD_BYTES, FromServer, RECORD_HEAD_BYTES, encode_client, encode_hello, events_head, peek_record,
};
use redeliver_protocol::event::{NewEvent, PayloadKind};
use redeliver_protocol::features::FEATURES;
use redeliver_protocol::frame::{ClientFrame, Hello, Ownership, ServerFrame, Subscribe, Window};
use redeliver_protocol::history::Start;
use redeliver_protocol::name::{EventName, TopicName};
use redeliver_protocol::seq::{EmitNumber, Epoch, InstanceId, Nth, PublisherId, Seq, SubscriptionId};
use uuid::Uuid;

use crate::payload::{PAYLOAD_BYTES, Stamp};

/// What a workload's events are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// The bytes of each payload.
    pub payload_bytes: usize,
    /// How many topics the events of an emitter go to, in turn.
    pub topics: u64,
}

impl Shape {
    /// The usual events, in one topic.
    pub const USUAL: Shape = Shape { payload_bytes: PAYLOAD_BYTES, topics: 1 };

    /// The usual events, in so many topics.
    #[must_use]
    pub fn topics(topics: u64) -> Shape {
        Shape { topics, ..Shape::USUAL }
    }

    /// The bytes of one event's wire record.
    #[must_use]
    pub fn record_bytes(&self) -> usize {
        RECORD_HEAD_BYTES + NAME.len() + self.payload_bytes
    }
}

/// The name of a topic of any workload. All are of one length.
#[must_use]
pub fn topic_name(topic: u64) -> String {
    format!("bench/{topic:07}")
}

/// The name of every event.
pub const NAME: &str = "tick";

/// The bytes of one usual event's wire record.
pub const RECORD_BYTES: usize = RECORD_HEAD_BYTES + NAME.len() + PAYLOAD_BYTES;

/// The subscription of every reader.
pub const SUBSCRIPTION: SubscriptionId = SubscriptionId(1);

/// A topic for each number, so that neighbours are far from each other.
#[must_use]
pub fn scattered(number: u64, topics: u64) -> u64 {
    // A large prime.
    number.wrapping_mul(2_654_435_761) % topics
}

/// A client's request for a WebSocket. The key is any 16 bytes.
pub const UPGRADE: &[u8] = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: cmVkZWxpdmVyYmVuY2hlcw==\r\nSec-WebSocket-Protocol: redeliver.v1\r\n\r\n";

/// Appends a binary message of a client. The mask is zero, which is legal and free.
pub fn put_message(out: &mut Vec<u8>, message: &[u8]) {
    put_frame(out, 0x82, message);
}

/// Appends a text message of a client.
pub fn put_text(out: &mut Vec<u8>, message: &str) {
    put_frame(out, 0x81, message.as_bytes());
}

fn put_frame(out: &mut Vec<u8>, head: u8, message: &[u8]) {
    out.push(head);
    match (u8::try_from(message.len()), u16::try_from(message.len())) {
        (Ok(short), _) if short < 126 => out.push(0x80 | short),
        (_, Ok(medium)) => {
            out.push(0x80 | 126);
            out.extend_from_slice(&medium.to_be_bytes());
        }
        _ => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(message.len() as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(message);
}

/// One frame at the start of `bytes`: opcode, where its payload lies, and where it ends. Nothing if it is not whole yet.
#[must_use]
pub fn split_frame(bytes: &[u8]) -> Option<(u8, std::ops::Range<usize>)> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    let (head, length) = match second & 0x7f {
        126 => (4, u64::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]))),
        127 => {
            let mut length = [0; 8];
            length.copy_from_slice(bytes.get(2..10)?);
            (10, u64::from_be_bytes(length))
        }
        short => (2, u64::from(short)),
    };
    let end = head + usize::try_from(length).ok()?;
    (bytes.len() >= end).then_some((first & 0x0f, head..end))
}

/// A client's Hello, with an identity to emit under if it emits.
#[must_use]
pub fn hello(publishes: bool) -> Bytes {
    encode_hello(&Hello {
        instance: InstanceId::from(Uuid::new_v4()),
        publisher: publishes.then(|| PublisherId::from(Uuid::new_v4())),
        settled: EmitNumber::ZERO,
        subscriber: None,
        auth: None,
        client_name: "bench".to_owned(),
        features: FEATURES,
    })
}

/// A request to follow a topic, under [`SUBSCRIPTION`].
///
/// # Errors
///
/// Never: the topic's name is a good one.
pub fn subscribe(topic: u64, start: &Start) -> Result<Bytes> {
    subscribe_as(SUBSCRIPTION, topic, start)
}

/// A request to follow a topic, under this number.
///
/// # Errors
///
/// Never: the topic's name is a good one.
pub fn subscribe_as(id: SubscriptionId, topic: u64, start: &Start) -> Result<Bytes> {
    Ok(encode_client(&ClientFrame::Subscribe(subscribe_request(id, topic, start)?)))
}

/// What a request to follow a topic says, under this number.
///
/// # Errors
///
/// Never: the topic's name is a good one.
pub fn subscribe_request(id: SubscriptionId, topic: u64, start: &Start) -> Result<Subscribe> {
    Ok(Subscribe {
        id,
        topic: TopicName::new(topic_name(topic)).context("the topic's name")?,
        start: start.clone(),
        window: Window::new(WINDOW_EVENTS, u32::try_from(WINDOW_BYTES).unwrap_or(u32::MAX)),
        ownership: Ownership::Takeover,
        durable: false,
    })
}

/// An acknowledgement of everything up to here.
#[must_use]
pub fn ack(seq: Seq, nth: Nth) -> Bytes {
    encode_client(&ClientFrame::Ack { id: SUBSCRIPTION, seq, nth })
}

/// Frames of emits of one shape, made by patching a template.
#[derive(Debug)]
pub struct EmitTemplate {
    source: u64,
    sent: u64,
    shape: Shape,
    event: Vec<u8>,
    topic_at: usize,
    scattered: bool,
    message: Vec<u8>,
}

impl EmitTemplate {
    /// For an emitter that has sent nothing yet.
    ///
    /// # Errors
    ///
    /// If the protocol's encoding is not what this template expects.
    pub fn new(source: u64, shape: Shape) -> Result<EmitTemplate> {
        let topic = topic_name(0);
        let event = NewEvent::new(
            TopicName::new(&topic).context("the topic's name")?,
            EventName::new(NAME).context("the event's name")?,
            PayloadKind::Bytes,
            vec![0xa5; shape.payload_bytes],
        );
        let whole = encode_client(&ClientFrame::Emit { first: EmitNumber(1), events: vec![event] });
        let event = whole[EMIT_HEAD_BYTES..].to_vec();
        let payload_at = event.len() - EMIT_TAIL_BYTES - shape.payload_bytes;
        ensure!(
            event[payload_at..][..shape.payload_bytes].iter().all(|byte| *byte == 0xa5),
            "an emit's payload is not where it was expected"
        );
        let topic_at = event.windows(topic.len()).position(|bytes| bytes == topic.as_bytes());
        let topic_at = topic_at.context("an emit's topic is not in it")?;
        Ok(EmitTemplate { source, sent: 0, shape, event, topic_at, scattered: false, message: Vec::new() })
    }

    /// How many events were made so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// From now on events go to topics far from each other, and no longer to one after the other.
    pub fn scatter(&mut self) {
        self.scattered = true;
    }

    /// Appends one message with the next `count` events, due at the given times. Event `i` goes to topic `i` modulo the
    /// number of topics.
    pub fn put(&mut self, out: &mut Vec<u8>, count: u64, due_ns: impl Fn(u64) -> u64) {
        self.message.clear();
        self.message.extend_from_slice(&EMIT_VARIANT.to_le_bytes());
        self.message.extend_from_slice(&(self.sent + 1).to_le_bytes());
        self.message.extend_from_slice(&count.to_le_bytes());
        for at in 0..count {
            let begin = self.message.len();
            self.message.extend_from_slice(&self.event);
            let event = &mut self.message[begin..];
            if self.shape.topics > 1 {
                let topics = self.shape.topics;
                let name = topic_name(if self.scattered { scattered(self.sent, topics) } else { self.sent % topics });
                event[self.topic_at..][..name.len()].copy_from_slice(name.as_bytes());
            }
            let payload_at = event.len() - EMIT_TAIL_BYTES - self.shape.payload_bytes;
            let stamp = Stamp { source: self.source, index: self.sent, due_ns: due_ns(at) };
            stamp.write(&mut event[payload_at..][..self.shape.payload_bytes]);
            self.sent += 1;
        }
        put_message(out, &self.message);
    }
}

/// Appends what a server would send for events `from..from + count` of source 0: one frame per 32 KiB. For the raw program.
pub fn put_events(out: &mut Vec<u8>, from: u64, count: u64, due_ns: u64) {
    let per_frame = (32 * 1024 / RECORD_BYTES) as u64;
    let mut at = from;
    while at < from + count {
        let here = per_frame.min(from + count - at);
        let mut records = Vec::with_capacity(RECORD_BYTES * usize::try_from(here).unwrap_or(0));
        for index in at..at + here {
            let mut payload = [0; PAYLOAD_BYTES];
            Stamp { source: 0, index, due_ns }.write(&mut payload);
            let number = index + 1;
            let head = (Seq(number), Nth(number), redeliver_protocol::time::Timestamp(0));
            codec::encode_record(&mut records, head, PayloadKind::Bytes, NAME, &payload);
        }
        let count = u32::try_from(here).unwrap_or(u32::MAX);
        let head = events_head(SUBSCRIPTION, Epoch([7; 16]), count, records.len());
        put_server_header(out, head.len() + records.len());
        out.extend_from_slice(&head);
        out.extend_from_slice(&records);
        at += here;
    }
}

/// What a reader has seen: it takes each next event, and nothing else.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// Events that arrived.
    pub events: u64,
    /// The last one's seq.
    pub seq: u64,
    /// The last one's nth.
    pub nth: u64,
    /// The topic that it follows.
    pub topic: u64,
    acked: u64,
    unacked_bytes: usize,
}

impl Progress {
    /// A reader of this topic that has seen nothing.
    #[must_use]
    pub fn of(topic: u64) -> Progress {
        Progress { topic, ..Progress::default() }
    }

    /// Goes on behind what is gone for good.
    pub fn skip(&mut self, seq: u64, nth: u64) {
        (self.seq, self.nth, self.acked) = (seq, nth, nth);
    }

    /// Takes a message with events, and hands each one's stamp over. False if the message is of another kind.
    ///
    /// # Errors
    ///
    /// If an event is missing, repeated, out of order or damaged.
    pub fn take(&mut self, message: &[u8], mut each: impl FnMut(Stamp)) -> Result<bool> {
        if !message.starts_with(&EVENTS_VARIANT.to_le_bytes()) || message.len() < EVENTS_HEAD_BYTES {
            return Ok(false);
        }
        let mut records = &message[EVENTS_HEAD_BYTES..];
        while !records.is_empty() {
            let (seq, nth, _, bytes) = peek_record(records).context("a record cannot be read")?;
            ensure!(nth.0 == self.nth + 1, "event {} of the topic came after {}", nth.0, self.nth);
            ensure!(seq.0 > self.seq, "seq {} came after {}", seq.0, self.seq);
            let payload = records.get(RECORD_HEAD_BYTES + NAME.len()..bytes).context("an event of another name")?;
            each(Stamp::read(payload)?);
            (self.seq, self.nth) = (seq.0, nth.0);
            self.events += 1;
            self.unacked_bytes += bytes;
            records = &records[bytes..];
        }
        Ok(true)
    }

    /// Acknowledges when a quarter of the window is used.
    pub fn ack_if_due(&mut self, out: &mut Vec<u8>) {
        let events = self.nth - self.acked;
        if events >= u64::from(WINDOW_EVENTS) / 4 || self.unacked_bytes >= WINDOW_BYTES / 4 {
            (self.acked, self.unacked_bytes) = (self.nth, 0);
            put_message(out, &ack(Seq(self.seq), Nth(self.nth)));
        }
    }
}

/// The subscription of a message with events.
#[must_use]
pub fn subscription_of(message: &[u8]) -> Option<SubscriptionId> {
    let rest = message.strip_prefix(&EVENTS_VARIANT.to_le_bytes())?;
    let id = rest.get(..4)?.try_into().ok()?;
    Some(SubscriptionId(u32::from_le_bytes(id)))
}

/// Decodes any other message of a server, and ends the run if the server ends the conversation.
///
/// # Errors
///
/// If it is no message of a server, or its close.
pub fn decode(message: &[u8]) -> Result<ServerFrame> {
    match codec::decode_from_server(&Bytes::copy_from_slice(message)).context("a message cannot be read")? {
        FromServer::Frame(frame) => Ok(frame),
        FromServer::Close(close) => bail!("the server ended the connection: {} {}", close.code.0, close.reason),
    }
}

fn put_server_header(out: &mut Vec<u8>, bytes: usize) {
    out.push(0x82);
    match (u8::try_from(bytes), u16::try_from(bytes)) {
        (Ok(short), _) if short < 126 => out.push(short),
        (_, Ok(medium)) => {
            out.push(126);
            out.extend_from_slice(&medium.to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&(bytes as u64).to_be_bytes());
        }
    }
}

/// The largest window that a server grants unless told otherwise.
const WINDOW_EVENTS: u32 = 65_536;
const WINDOW_BYTES: usize = 16 * 1024 * 1024;

const EMIT_VARIANT: u32 = 3;
const EVENTS_VARIANT: u32 = 3;

/// Variant, first number, number of events.
const EMIT_HEAD_BYTES: usize = 4 + 8 + 8;

/// The options behind an event's payload.
const EMIT_TAIL_BYTES: usize = 4;

#[cfg(test)]
mod tests {
    use redeliver_protocol::codec::{FromClient, decode_from_client};

    use super::*;

    #[test]
    fn patched_emits_are_what_the_protocol_reads() {
        for (payload_bytes, topics) in [(PAYLOAD_BYTES, 1), (1024, 3)] {
            let mut template = EmitTemplate::new(9, Shape { payload_bytes, topics }).unwrap();
            let mut out = Vec::new();
            template.put(&mut out, 4, |_| 5);
            let (opcode, at) = split_frame(&out).unwrap();
            assert_eq!((opcode, at.end + 4), (2, out.len()), "the mask stands between head and payload");
            let decoded = decode_from_client(&out[at.start + 4..]).unwrap();
            let FromClient::Frame(ClientFrame::Emit { first, events }) = decoded else { panic!("{decoded:?}") };
            assert_eq!((first, events.len()), (EmitNumber(1), 4));
            for (index, event) in (0..).zip(&events) {
                assert_eq!(Stamp::read(&event.payload).unwrap(), Stamp { source: 9, index, due_ns: 5 });
                assert_eq!(event.topics, [TopicName::new(topic_name(index % topics)).unwrap()]);
                assert_eq!(event.payload.len(), payload_bytes);
            }
        }
    }

    #[test]
    fn raw_frames_are_taken_in_order_and_only_once() {
        let mut out = Vec::new();
        put_events(&mut out, 0, 500, 1);
        let mut progress = Progress::default();
        let mut rest = &out[..];
        while let Some((opcode, at)) = split_frame(rest) {
            assert_eq!(opcode, 2);
            assert!(progress.take(&rest[at.clone()], |_| {}).unwrap());
            rest = &rest[at.end..];
        }
        assert_eq!((progress.events, rest.len()), (500, 0));
        let (_, at) = split_frame(&out).unwrap();
        assert!(progress.take(&out[at], |_| {}).is_err());
    }
}
