//! Events: what is emitted ([`NewEvent`]), and what a reader of a topic receives ([`Record`]).
//!
//! A record is the same bytes for every reader of its topic, made once when the event is committed. What depends on the
//! reader stands in the head of the batch that carries it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::name::{EventName, TopicName};
use crate::seq::{Nth, Seq};
use crate::time::Timestamp;

/// What an event's payload bytes are. redeliver carries them untouched; the kind tells a reader how to show them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum PayloadKind {
    /// Bytes without further meaning.
    #[default]
    Bytes = 0,
    /// UTF-8 text.
    Text = 1,
    /// A JSON document in UTF-8.
    Json = 2,
}

/// An event as it is emitted: it has no number yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewEvent {
    /// The topics that the event belongs to: at least one, no duplicates, at most [`crate::config::EVENT_TOPICS_MAX`].
    pub topics: Vec<TopicName>,
    /// What the event is called.
    pub name: EventName,
    /// What the payload's bytes are.
    pub kind: PayloadKind,
    /// The payload, opaque to redeliver.
    #[serde(with = "crate::codec::payload")]
    pub payload: Bytes,
    /// How the event is to be treated.
    pub options: EmitOptions,
}

impl NewEvent {
    /// An event for one topic, with default options.
    #[must_use]
    pub fn new(topic: TopicName, name: EventName, kind: PayloadKind, payload: impl Into<Bytes>) -> NewEvent {
        NewEvent { topics: vec![topic], name, kind, payload: payload.into(), options: EmitOptions::default() }
    }

    /// The size that limits are held against, in bytes: payload, name and topics.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.payload.len() + self.name.as_str().len() + self.topics.iter().map(|t| t.as_str().len()).sum::<usize>()
    }
}

/// How an emitted event is to be treated: a set of bits, all reserved in version 1.
///
/// A server refuses an event with a bit that it does not know, so that no option is ever ignored in silence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EmitOptions(pub u32);

impl EmitOptions {
    /// The bits that this version understands.
    pub const KNOWN: u32 = 0;

    /// Whether every bit is understood.
    #[must_use]
    pub fn is_known(self) -> bool {
        self.0 & !EmitOptions::KNOWN == 0
    }
}

/// An event as a reader of one topic receives it. On the wire, records stand one after another in
/// [`crate::frame::ServerFrame::Events`]; see [`crate::codec::encode_record`] and [`crate::codec::Records`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The event's number in the log.
    pub seq: Seq,
    /// The event's number within this topic.
    pub nth: Nth,
    /// When the server took it.
    pub time: Timestamp,
    /// What the payload's bytes are.
    pub kind: PayloadKind,
    /// What the event is called.
    pub name: EventName,
    /// The payload. A slice of the batch that it came in, which it keeps alive: copy it to keep it for long.
    pub payload: Bytes,
}
