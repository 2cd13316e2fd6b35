//! What a subscription hands to the app.

use std::ops::Deref;

use bytes::Bytes;
use redeliver_protocol::event::PayloadKind;
use redeliver_protocol::history::{self, Place};
use redeliver_protocol::name::{EventName, TopicName};
use redeliver_protocol::seq::{Nth, Position, Seq};
use redeliver_protocol::time::Timestamp;
use serde::de::DeserializeOwned;

use crate::acks::AckHandle;
use crate::error::PayloadError;

/// What a [`Subscription`](crate::Subscription) hands over, in order.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Delivery {
    /// An event.
    Event(Event),
    /// Events of the topic that are gone for good. Told in their place among the events, and again after a restart
    /// until it is acknowledged.
    Gap(Gap),
    /// All that was there when the subscription was made is handed over; what follows is live. Once per connection.
    CaughtUp {
        /// The log's head that was reached.
        seq: Seq,
    },
    /// An event that is not logged: it has no place and no ack, and may be lost. Handed over as soon as it comes, also
    /// when the window is full, and dropped if many of them wait to be taken.
    Volatile(VolatileEvent),
    /// The connection was lost and the subscription stands again. Nothing was missed: it goes on where it was.
    Resumed {
        /// It goes on after this position.
        after: Position,
        /// The nth there.
        nth: Nth,
        /// Events of the topic still to come until the head of that moment.
        pending: u64,
    },
}

impl Delivery {
    /// The event, if it is one.
    #[must_use]
    pub fn into_event(self) -> Option<Event> {
        match self {
            Delivery::Event(event) => Some(event),
            Delivery::Gap(_) | Delivery::CaughtUp { .. } | Delivery::Resumed { .. } | Delivery::Volatile(_) => None,
        }
    }
}

/// An event of a topic.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Event {
    /// Its place in the log: what an app stores to resume from ([`Event::known`]).
    pub position: Position,
    /// Its number within the topic: each event's is exactly one higher than the one before. Where several topics are read
    /// as one, an event that came by another of them leaves a hole here.
    pub nth: Nth,
    /// The topic by which it came: of several that are read as one and have it, any.
    pub topic: TopicName,
    /// What it is called.
    pub name: EventName,
    /// When the server took it.
    pub time: Timestamp,
    /// What the payload's bytes are.
    pub kind: PayloadKind,
    /// The payload. A slice of the message that it came in, which it keeps in memory: copy it to keep it for long.
    pub payload: Bytes,
    /// Whether the emitter asks its readers for an answer.
    pub asks: bool,
    /// Whether it may have been handed over before, to this app or to another under the same subscriber or cursor.
    pub redelivered: bool,
    pub(crate) handle: AckHandle,
}

impl Event {
    /// Its number in the log.
    #[must_use]
    pub fn seq(&self) -> Seq {
        self.position.seq
    }

    /// The payload, read as JSON.
    ///
    /// # Errors
    ///
    /// [`PayloadError`] if it is not a JSON document of this shape.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, PayloadError> {
        serde_json::from_slice(&self.payload).map_err(|error| self.not("of the expected JSON shape", &error))
    }

    /// The payload as text.
    ///
    /// # Errors
    ///
    /// [`PayloadError`] if it is not UTF-8.
    pub fn text(&self) -> Result<&str, PayloadError> {
        std::str::from_utf8(&self.payload).map_err(|error| self.not("text", &error))
    }

    /// Everything up to and including this event is handled, of all topics of its subscription. Never waits; [`flush`](crate::Subscription::flush) does,
    /// until it is confirmed. Acknowledging again, or an older event afterwards, changes nothing.
    pub fn ack(&self) {
        self.handle.ack();
    }

    /// What an app stores beside its own data, in one transaction, to handle each event exactly once: subscribing with
    /// `Start::After` this goes on behind this event.
    #[must_use]
    pub fn known(&self) -> Place {
        Place { position: self.position, nth: self.nth, earlier: Vec::new() }
    }

    fn not(&self, wanted: &'static str, error: &dyn std::error::Error) -> PayloadError {
        PayloadError { seq: self.position.seq.0, wanted, reason: error.to_string() }
    }
}

/// An event that is not in the log.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct VolatileEvent {
    /// The topic by which it came.
    pub topic: TopicName,
    /// When the server took it.
    pub time: Timestamp,
    /// What it is called.
    pub name: EventName,
    /// What the payload's bytes are.
    pub kind: PayloadKind,
    /// The payload.
    pub payload: Bytes,
}

/// What a volatile event takes while it waits to be taken, in bytes.
pub(crate) fn volatile_bytes(name: &EventName, payload: &Bytes) -> usize {
    VOLATILE_HEAD_BYTES + name.as_str().len() + payload.len()
}

const VOLATILE_HEAD_BYTES: usize = 128;

/// A range of a topic's history that is no longer there. Its fields are those of [`history::Gap`].
#[derive(Clone, Debug)]
pub struct Gap {
    /// The topic whose events are gone.
    pub topic: TopicName,
    pub(crate) gap: history::Gap,
    pub(crate) handle: AckHandle,
}

impl Gap {
    /// The gap is dealt with, and everything before it. Until then it is told again after a restart.
    pub fn ack(&self) {
        self.handle.ack();
    }
}

impl Deref for Gap {
    type Target = history::Gap;

    fn deref(&self) -> &history::Gap {
        &self.gap
    }
}
