//! Pauses between tries to connect: exponential, with full jitter, so that a crowd does not come back in step.
//!
//! The core has no randomness: the shell gives a seed.

use std::time::Duration;

/// A small deterministic generator (SplitMix64) for jitter. Not for secrets.
#[derive(Clone, Debug)]
pub struct Jitter {
    state: u64,
}

impl Jitter {
    /// A generator for this seed.
    #[must_use]
    pub fn new(seed: u64) -> Jitter {
        Jitter { state: seed }
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A duration between zero and `bound`, inclusive, in whole microseconds.
    pub fn up_to(&mut self, bound: Duration) -> Duration {
        let micros = u64::try_from(bound.as_micros()).unwrap_or(u64::MAX - 1);
        Duration::from_micros(self.next_u64() % (micros + 1))
    }
}

/// The pauses of one client.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    bound: Duration,
    jitter: Jitter,
}

impl Backoff {
    /// Pauses whose bound doubles from `first` to `max`.
    #[must_use]
    pub fn new(first: Duration, max: Duration, jitter: Jitter) -> Backoff {
        Backoff { first, max, bound: first, jitter }
    }

    /// The next pause: between zero and the current bound.
    pub fn next_pause(&mut self) -> Duration {
        let pause = self.jitter.up_to(self.bound);
        self.bound = self.bound.saturating_mul(2).min(self.max);
        pause
    }

    /// A connection stood: the next pause is short again.
    pub fn reset(&mut self) {
        self.bound = self.first;
    }

    /// Spreads a time that the server advised: between it and one and a half times it.
    pub fn spread(&mut self, advised: Duration) -> Duration {
        advised + self.jitter.up_to(advised / 2)
    }
}
