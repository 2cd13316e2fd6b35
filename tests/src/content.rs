//! What each event holds: all of it follows from its seq, so that a checker needs no other source of truth.

use crate::chance::Chance;

/// An event as the writers under test know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its number.
    pub seq: u64,
    /// The number of its topic, below 1,000.
    pub topic: u32,
    /// 16 bytes to 64 KiB.
    pub body: Vec<u8>,
}

impl Event {
    /// The event with this seq: mostly small, some up to 64 KiB; most in few topics, some in many.
    #[must_use]
    pub fn of(seq: u64) -> Event {
        let mut chance = Chance::new(seq);
        let bytes = match chance.below(100) {
            0..80 => chance.between(16, 256),
            80..98 => chance.between(256, 4_096),
            _ => chance.between(4_096, 65_537),
        };
        let topic = if chance.once_in(3) { chance.below(1_000) } else { chance.below(20) };
        let body = (0..bytes.div_ceil(8)).flat_map(|_| chance.bits().to_be_bytes()).collect::<Vec<_>>();
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        Event { seq, topic: u32::try_from(topic).unwrap_or(u32::MAX), body: body[..bytes].to_vec() }
    }

    /// Appends it to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.seq.to_be_bytes());
        out.extend(self.topic.to_be_bytes());
        out.extend(u32::try_from(self.body.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend(&self.body);
    }

    /// Events that were encoded one after another, or `None` if that is not what the bytes are.
    #[must_use]
    pub fn decode_all(mut bytes: &[u8]) -> Option<Vec<Event>> {
        let mut events = Vec::new();
        while !bytes.is_empty() {
            let (seq, rest) = bytes.split_first_chunk::<8>()?;
            let (topic, rest) = rest.split_first_chunk::<4>()?;
            let (length, rest) = rest.split_first_chunk::<4>()?;
            let (body, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
            let (seq, topic) = (u64::from_be_bytes(*seq), u32::from_be_bytes(*topic));
            events.push(Event { seq, topic, body: body.to_vec() });
            bytes = rest;
        }
        Some(events)
    }
}
