//! Events: what is emitted ([`NewEvent`]), and what a reader of a topic receives ([`Record`]).
//!
//! A record is the same bytes for every reader of its topic, made once when the event is committed. What depends on the
//! reader stands in the head of the batch that carries it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::config::{EVENT_BYTES_MAX, EVENT_TOPICS_MAX, Limits};
use crate::error::RefusalCode;
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

    /// Holds the event against a server's limits, as each server does.
    ///
    /// # Errors
    ///
    /// [`EventError`]: what is wrong with it. No try with the same event can help.
    pub fn check(&self, limits: &Limits) -> Result<(), EventError> {
        let topics_max = usize::try_from(limits.event_topics_max).unwrap_or(usize::MAX).min(EVENT_TOPICS_MAX);
        if self.topics.is_empty() || self.topics.len() > topics_max {
            return Err(EventError::TopicCount { topics: self.topics.len(), topics_max });
        }
        let twice = |(at, topic): (usize, &TopicName)| self.topics[..at].contains(topic);
        if self.topics.iter().enumerate().any(twice) {
            return Err(EventError::TopicTwice);
        }
        if !self.options.is_known() {
            return Err(EventError::UnknownOptions(self.options.0 & !EmitOptions::KNOWN));
        }
        let bytes_max = usize::try_from(limits.event_bytes_max).unwrap_or(usize::MAX).min(EVENT_BYTES_MAX);
        if self.size_bytes() > bytes_max {
            return Err(EventError::TooLarge { bytes: self.size_bytes(), bytes_max });
        }
        Ok(())
    }

    /// The size that limits are held against, in bytes: payload, name and topics.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.payload.len() + self.name.as_str().len() + self.topics.iter().map(|t| t.as_str().len()).sum::<usize>()
    }
}

/// Why no server with these limits takes an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EventError {
    /// It has no topic, or too many.
    #[error("an event has 1 to {topics_max} topics, this one has {topics}")]
    TopicCount {
        /// How many it has.
        topics: usize,
        /// The most that are allowed.
        topics_max: usize,
    },
    /// It names one topic twice.
    #[error("an event names each of its topics once, this one names one of them twice")]
    TopicTwice,
    /// It has option bits that this version does not know.
    #[error("the event has options ({0:#x}) that this version does not know")]
    UnknownOptions(u32),
    /// It is too large.
    #[error("the event has {bytes} bytes, at most {bytes_max} are allowed")]
    TooLarge {
        /// Its size in bytes: payload, name and topics.
        bytes: usize,
        /// The largest allowed.
        bytes_max: usize,
    },
}

impl EventError {
    /// The code with which a server refuses such an event.
    #[must_use]
    pub fn code(&self) -> RefusalCode {
        match self {
            EventError::TooLarge { .. } => RefusalCode::TooLarge,
            EventError::TopicCount { .. } | EventError::TopicTwice | EventError::UnknownOptions(_) => {
                RefusalCode::Invalid
            }
        }
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
