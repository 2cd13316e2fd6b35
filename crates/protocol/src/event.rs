//! Events: what is emitted ([`NewEvent`]), and what a reader of a topic receives ([`Record`]).
//!
//! A record is the same bytes for every reader of its topic, made once when the event is committed. What depends on the
//! reader stands in the head of the batch that carries it.

pub(crate) mod with_except;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::RefusalCode;
use crate::limits::{EVENT_BYTES_MAX, EVENT_EXCEPT_MAX, EVENT_TOPICS_MAX, Limits};
use crate::name::{EventName, NameError, TopicName};
pub use crate::payload::PayloadKind;
use crate::payload::{Payload, PayloadError, readable_payload};
use crate::seq::{Nth, Seq};
use crate::time::Timestamp;

/// An event as it is emitted: it has no number yet.
///
/// ```
/// # use redeliver_protocol::event::NewEvent;
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let order = std::collections::BTreeMap::from([("crates", 3)]);
/// let event = NewEvent::to("orders", "created")?.json(&order)?.also_to("audit")?;
/// # assert_eq!((event.topics.len(), &event.payload[..]), (2, &b"{\"crates\":3}"[..]));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct NewEvent {
    /// The topics that the event belongs to: at least one, no duplicates, at most
    /// [`EVENT_TOPICS_MAX`].
    pub topics: Vec<TopicName>,
    /// What the event is called.
    pub name: EventName,
    /// What the payload's bytes are.
    pub kind: PayloadKind,
    /// The payload, opaque to redeliver.
    #[serde(with = "crate::bytes_serde")]
    pub payload: Bytes,
    /// How the event is to be treated.
    pub options: EmitOptions,
    /// Whoever follows one of these topics does not get the event: no duplicates, at most
    /// [`EVENT_EXCEPT_MAX`]. Only [`crate::frame::ClientFrame::EmitExcept`] and
    /// `Volatile` carry it.
    #[serde(skip)]
    pub except: Vec<TopicName>,
}

impl NewEvent {
    /// An event for one topic, without a payload yet.
    ///
    /// # Errors
    ///
    /// [`NameError`] if a name is empty or longer than 255 bytes.
    pub fn to(topic: impl AsRef<str>, name: impl AsRef<str>) -> Result<NewEvent, NameError> {
        Ok(NewEvent::to_all(vec![TopicName::new(topic)?], EventName::new(name)?, Payload::default()))
    }

    /// An event for one topic, of names that are checked already.
    #[must_use]
    pub fn new(topic: TopicName, name: EventName, kind: PayloadKind, payload: impl Into<Bytes>) -> NewEvent {
        NewEvent::to_all(vec![topic], name, Payload::new(kind, payload))
    }

    /// An event for several topics, of names that are checked already.
    #[must_use]
    pub fn to_all(topics: Vec<TopicName>, name: EventName, payload: impl Into<Payload>) -> NewEvent {
        let Payload { kind, bytes: payload } = payload.into();
        NewEvent { topics, name, kind, payload, options: EmitOptions::default(), except: Vec::new() }
    }

    /// Sets the payload: text, bytes or a JSON value.
    #[must_use]
    pub fn payload(mut self, payload: impl Into<Payload>) -> NewEvent {
        let Payload { kind, bytes } = payload.into();
        (self.kind, self.payload) = (kind, bytes);
        self
    }

    /// Sets the payload: a value as a JSON document.
    ///
    /// # Errors
    ///
    /// [`PayloadError`] if the value has no JSON form.
    pub fn json<T: Serialize + ?Sized>(self, value: &T) -> Result<NewEvent, PayloadError> {
        Ok(self.payload(Payload::json(value)?))
    }

    /// Adds a topic that the event belongs to.
    ///
    /// # Errors
    ///
    /// [`NameError`] if the name is empty or longer than 255 bytes.
    pub fn also_to(mut self, topic: impl AsRef<str>) -> Result<NewEvent, NameError> {
        self.topics.push(TopicName::new(topic)?);
        Ok(self)
    }

    /// Keeps the event from whoever follows this topic.
    ///
    /// # Errors
    ///
    /// [`NameError`] if the name is empty or longer than 255 bytes.
    pub fn except(mut self, topic: impl AsRef<str>) -> Result<NewEvent, NameError> {
        self.except.push(TopicName::new(topic)?);
        Ok(self)
    }

    /// Asks the event's readers for an answer.
    #[must_use]
    pub fn asks(self) -> NewEvent {
        self.with_options(EmitOptions::ASKS)
    }

    /// Sets the topics that the event belongs to, instead of those that it has.
    #[must_use]
    pub fn with_topics(mut self, topics: Vec<TopicName>) -> NewEvent {
        self.topics = topics;
        self
    }

    /// Sets the topics whose readers do not get the event, instead of those that it has.
    #[must_use]
    pub fn with_except(mut self, except: Vec<TopicName>) -> NewEvent {
        self.except = except;
        self
    }

    /// Sets how the event is to be treated.
    #[must_use]
    pub fn with_options(mut self, options: EmitOptions) -> NewEvent {
        self.options = options;
        self
    }

    /// Judges the event by a server's limits and the protocol's own bounds. Nothing else judges events: servers call this
    /// with their limits, clients and the log with [`Limits::ANY_SERVER`].
    ///
    /// # Errors
    ///
    /// [`EventError`]: what is wrong with it. No try with the same event can help.
    pub fn check(&self, limits: &Limits) -> Result<(), EventError> {
        let topics_max = usize::try_from(limits.event_topics_max).unwrap_or(usize::MAX).min(EVENT_TOPICS_MAX);
        if self.topics.is_empty() || self.topics.len() > topics_max {
            return Err(EventError::TopicCount { topics: self.topics.len(), topics_max });
        }
        if self.except.len() > EVENT_EXCEPT_MAX {
            return Err(EventError::ExceptCount { topics: self.except.len() });
        }
        if let Some(topic) = first_duplicate(&self.topics).or_else(|| first_duplicate(&self.except)) {
            return Err(EventError::TopicTwice(topic.clone()));
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

    /// The size that limits are held against, in bytes: payload, name and topics, those of the except list too.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        let topics = self.topics.iter().chain(&self.except);
        self.payload.len() + self.name.as_str().len() + topics.map(|t| t.as_str().len()).sum::<usize>()
    }
}

fn first_duplicate(topics: &[TopicName]) -> Option<&TopicName> {
    topics.iter().enumerate().find(|(at, topic)| topics[..*at].contains(topic)).map(|(_, topic)| topic)
}

/// An event that is not logged, on its way to whoever is connected now: no seq, at most once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolatileEmit {
    /// When the server took it.
    pub time: Timestamp,
    /// The event.
    pub event: NewEvent,
}

/// Why no server with these limits takes an event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EventError {
    /// The event has no topic, or too many.
    #[error("an event has 1 to {topics_max} topics, this one has {topics}")]
    TopicCount {
        /// How many it has.
        topics: usize,
        /// The most that are allowed.
        topics_max: usize,
    },
    /// The event's except list is too long.
    #[error("an event is kept from at most {EVENT_EXCEPT_MAX} topics, this one from {topics}")]
    ExceptCount {
        /// How many topics it has.
        topics: usize,
    },
    /// The event names this topic twice.
    #[error("an event names each of its topics once, this one names the topic {0} twice")]
    TopicTwice(TopicName),
    /// The event has option bits that this version does not know.
    #[error("the event has options ({0:#x}) that this version does not know")]
    UnknownOptions(u32),
    /// The event is too large.
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
            EventError::TooLarge { .. } => RefusalCode::TOO_LARGE,
            EventError::TopicCount { .. }
            | EventError::ExceptCount { .. }
            | EventError::TopicTwice(_)
            | EventError::UnknownOptions(_) => RefusalCode::INVALID,
        }
    }
}

/// How an emitted event is to be treated: a set of bits.
///
/// A server refuses an event with a bit that it does not know, so that no option is ever ignored in silence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EmitOptions(pub u32);

impl EmitOptions {
    /// The emitter asks its readers for an answer. Readers see it as [`Record::asks`]; how an answer reaches the emitter
    /// is the gateway's business that the emitter stands behind.
    pub const ASKS: EmitOptions = EmitOptions(1);

    /// The bits that this version understands.
    pub const KNOWN: u32 = EmitOptions::ASKS.0;

    /// Whether all of `others` are set.
    #[must_use]
    pub fn has(self, others: EmitOptions) -> bool {
        self.0 & others.0 == others.0
    }

    /// Whether every bit is understood.
    #[must_use]
    pub fn is_known(self) -> bool {
        self.0 & !EmitOptions::KNOWN == 0
    }
}

/// The kind byte of a record, taken apart: the payload's kind, and two marks that only readers with
/// [`crate::features::Features::EXCEPT`] are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RecordKind {
    /// What the payload's bytes are.
    pub payload: PayloadKind,
    /// Bit 6: the emitter asks its readers for an answer.
    pub asks: bool,
    /// Bit 7: some are not to get the event.
    pub has_except: bool,
}

impl RecordKind {
    const ASKS: u8 = 1 << 6;
    const HAS_EXCEPT: u8 = 1 << 7;

    /// The bits of a kind byte that are marks.
    pub(crate) const MARKS: u8 = RecordKind::ASKS | RecordKind::HAS_EXCEPT;

    /// The byte; none if it stands for no kind.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<RecordKind> {
        let payload = match byte & !RecordKind::MARKS {
            0 => PayloadKind::Bytes,
            1 => PayloadKind::Text,
            2 => PayloadKind::Json,
            _ => return None,
        };
        let (asks, has_except) = (byte & RecordKind::ASKS != 0, byte & RecordKind::HAS_EXCEPT != 0);
        Some(RecordKind { payload, asks, has_except })
    }

    /// Whether there is more to it than the payload's kind. A log gives such a record in a batch of its own.
    #[must_use]
    pub fn is_marked(self) -> bool {
        self.asks || self.has_except
    }

    /// As a byte.
    #[must_use]
    pub fn to_byte(self) -> u8 {
        let asks = if self.asks { RecordKind::ASKS } else { 0 };
        let has_except = if self.has_except { RecordKind::HAS_EXCEPT } else { 0 };
        self.payload as u8 | asks | has_except
    }
}

impl From<PayloadKind> for RecordKind {
    fn from(payload: PayloadKind) -> RecordKind {
        RecordKind { payload, ..RecordKind::default() }
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
    /// Whether the emitter asks its readers for an answer.
    pub asks: bool,
    /// Whether some are not to get the event. This reader is not one of them.
    pub has_except: bool,
    /// What the event is called.
    pub name: EventName,
    /// The payload. A slice of the batch that it came in, which it keeps alive: copy it to keep it for long.
    pub payload: Bytes,
}

readable_payload!(Record, error => |record: &Record| error.of_seq(record.seq));
