//! What emitters emit: all of an event follows from who emits it and its number, so that whoever meets it anywhere can tell
//! whether it is what was emitted.

use std::fmt;
use std::sync::LazyLock;

use anyhow::Result;
use bytes::Bytes;
use redeliver_client::{EventName, NewEvent, TopicName};
use uuid::Uuid;

use crate::chance::Chance;

/// Which event it is: its emitter, and that emitter's number for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin {
    /// The emitter.
    pub publisher: u32,
    /// Its number; the first is 1.
    pub number: u64,
}

/// What kind of events are emitted.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// How many topics there are.
    pub topics: u64,
    /// Largest payload in bytes, from 16 to 64 KiB. Every few events one is about so large, most are far smaller.
    pub bytes_max: u64,
    /// One event in so many belongs to several topics.
    pub several_topics_once_in: u64,
    /// One event in so many is large.
    pub large_once_in: u64,
    /// How far readers may fall behind before emitters wait for them, in events of a topic. Where little is retained, so few
    /// that retention does not pass a reader.
    pub lag_max: u64,
}

impl Origin {
    /// Under which identity the emitter emits.
    #[must_use]
    pub fn publisher_id(publisher: u32) -> Uuid {
        Uuid::from_u128(0x7e57_0000_0000_4000_8000_0000_0000_0000 + u128::from(publisher))
    }

    /// What a payload says that it is.
    #[must_use]
    pub fn named_in(payload: &[u8]) -> Option<Origin> {
        let (publisher, rest) = payload.split_first_chunk::<4>()?;
        let (_bytes, rest) = rest.split_first_chunk::<4>()?;
        let (number, _filling) = rest.split_first_chunk::<8>()?;
        Some(Origin { publisher: u32::from_be_bytes(*publisher), number: u64::from_be_bytes(*number) })
    }

    fn chance(self) -> Chance {
        Chance::new((u64::from(self.publisher) << 40) ^ self.number)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "emit {} of {}", self.number, self.publisher)
    }
}

impl Load {
    /// The topics of an event: one, or up to three.
    #[must_use]
    pub fn topics_of(&self, origin: Origin) -> Vec<u64> {
        let mut chance = origin.chance();
        let count = if chance.once_in(self.several_topics_once_in) { 1 + chance.between(1, 3) } else { 1 };
        let first = chance.below(self.topics);
        (0..count.min(self.topics)).map(|at| (first + at) % self.topics).collect()
    }

    /// How large the payload of an event is.
    #[must_use]
    pub fn bytes_of(&self, origin: Origin) -> u64 {
        let mut chance = Chance::new(origin.chance().bits());
        if chance.once_in(self.large_once_in) {
            chance.between(self.bytes_max / 8, self.bytes_max + 1)
        } else {
            chance.between(HEAD_BYTES, (self.bytes_max / 32).max(HEAD_BYTES + 1))
        }
    }

    /// The payload of an event.
    #[must_use]
    pub fn payload_of(&self, origin: Origin) -> Bytes {
        let bytes = self.bytes_of(origin);
        let mut payload = Vec::new();
        payload.extend(origin.publisher.to_be_bytes());
        payload.extend(u32::try_from(bytes).unwrap_or(u32::MAX).to_be_bytes());
        payload.extend(origin.number.to_be_bytes());
        let from = origin.chance().below(FILLING_BYTES - self.bytes_max);
        let filling = FILLING.iter().skip(usize::try_from(from).unwrap_or(0));
        payload.extend(filling.take(usize::try_from(bytes - HEAD_BYTES).unwrap_or(0)));
        payload.into()
    }

    /// An event, as it is emitted.
    ///
    /// # Errors
    ///
    /// Never, as long as topics have names that are allowed.
    pub fn event(&self, origin: Origin) -> Result<NewEvent> {
        let topics = self.topics_of(origin).into_iter().map(Load::topic).collect::<Result<Vec<_>>>()?;
        let (name, payload) = (EventName::new(EVENT_NAME)?, self.payload_of(origin));
        Ok(NewEvent::to_all(topics, name, payload))
    }

    /// The name of a topic.
    ///
    /// # Errors
    ///
    /// Never, as long as that name is allowed.
    pub fn topic(topic: u64) -> Result<TopicName> {
        Ok(TopicName::new(format!("topic/{topic}"))?)
    }
}

/// What every event is called.
pub const EVENT_NAME: &str = "event";

const HEAD_BYTES: u64 = 16;
const FILLING_BYTES: u64 = 256 * 1024;
static FILLING: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut chance = Chance::new(0);
    (0..FILLING_BYTES / 8).flat_map(|_| chance.bits().to_be_bytes()).collect()
});
