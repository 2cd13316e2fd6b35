//! What a bench's events carry, and who checks that they arrive: each emitter's in order, once, byte for byte.

use anyhow::{Result, bail, ensure};
use redeliver_client::{Delivery, Event, Subscription};

/// What stands at the beginning of a payload. The rest is a pattern over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Which emitter sent it.
    pub(super) source: u64,
    /// Its number among that emitter's, from 0.
    pub(super) index: u64,
    /// When, in microseconds since the run began.
    pub(super) sent_us: u64,
}

impl Stamp {
    pub(super) fn payload(&self, bytes: usize) -> Vec<u8> {
        let mut payload = Vec::with_capacity(bytes);
        for word in [self.source, self.index, self.sent_us] {
            payload.extend_from_slice(&word.to_le_bytes());
        }
        let mut word = self.source ^ self.index.rotate_left(32) ^ self.sent_us.rotate_left(17);
        while payload.len() < bytes {
            word = word.wrapping_mul(MULTIPLIER).wrapping_add(1);
            payload.extend_from_slice(&word.to_le_bytes());
        }
        payload.truncate(bytes);
        payload
    }

    /// Reads a payload of this length, every byte of it.
    fn read(payload: &[u8], bytes: usize) -> Result<Stamp> {
        let word = |at: usize| payload.get(at..at + 8).and_then(|word| word.try_into().ok()).map(u64::from_le_bytes);
        let (Some(source), Some(index), Some(sent_us)) = (word(0), word(8), word(16)) else {
            bail!("a payload of {} bytes arrived", payload.len());
        };
        let stamp = Stamp { source, index, sent_us };
        ensure!(stamp.payload(bytes) == payload, "event {index} of emitter {source} is not what was sent");
        Ok(stamp)
    }
}

/// Holds one reader's events against what was sent.
#[derive(Debug)]
pub(super) struct Checker {
    payload_bytes: usize,
    /// The number that comes next of each emitter.
    next: Vec<u64>,
}

impl Checker {
    /// For events of so many emitters, from the first one on or from this number on.
    pub(super) fn new(payload_bytes: usize, emitters: usize, first: u64) -> Checker {
        Checker { payload_bytes, next: vec![first; emitters] }
    }

    /// The next event of a subscription.
    ///
    /// # Errors
    ///
    /// If it is missing, repeated, out of order, or not what was sent.
    pub(super) async fn next(&mut self, subscription: &mut Subscription) -> Result<Stamp> {
        loop {
            match subscription.next().await {
                Some(Delivery::Event(event)) => return self.check(&event),
                Some(Delivery::Gap(gap)) => bail!("{} events are gone: {:?}", gap.count, gap.cause),
                Some(_) => {}
                None => bail!("the subscription has ended: {:?}", subscription.end()),
            }
        }
    }

    fn check(&mut self, event: &Event) -> Result<Stamp> {
        let stamp = Stamp::read(&event.payload, self.payload_bytes)?;
        let next = usize::try_from(stamp.source).ok().and_then(|source| self.next.get_mut(source));
        let Some(next) = next else { bail!("an event of a stranger arrived: {stamp:?}") };
        let Stamp { source, index, .. } = stamp;
        ensure!(index == *next, "event {index} of emitter {source} arrived in the place of {next}");
        *next += 1;
        Ok(stamp)
    }
}

/// As linear congruential generators have it.
const MULTIPLIER: u64 = 6_364_136_223_846_793_005;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_with_any_byte_changed_or_missing_is_not_taken() {
        let stamp = Stamp { source: 2, index: 7, sent_us: 99 };
        for bytes in [24, 31, 128] {
            let payload = stamp.payload(bytes);
            assert_eq!(payload.len(), bytes);
            assert_eq!(Stamp::read(&payload, bytes).unwrap(), stamp);
            assert!(Stamp::read(&payload[..bytes - 1], bytes).is_err());
        }
        let payload = stamp.payload(128);
        for at in 24..128 {
            let mut changed = payload.clone();
            changed[at] ^= 1;
            assert!(Stamp::read(&changed, 128).is_err(), "byte {at}");
        }
    }
}
