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

/// Growing pauses between tries of one thing.
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

    /// What the next pause will not exceed.
    #[must_use]
    pub fn bound(&self) -> Duration {
        self.bound
    }

    /// Something stood or went well: the next pause is short again.
    pub fn reset(&mut self) {
        self.bound = self.first;
    }

    /// Spreads a time that the server advised: between it and one and a half times it.
    pub fn spread(&mut self, advised: Duration) -> Duration {
        advised + self.jitter.up_to(advised / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(100);
    const MAX: Duration = Duration::from_secs(10);

    #[test]
    fn pauses_stay_below_a_bound_that_doubles_up_to_the_longest() {
        let mut backoff = Backoff::new(FIRST, MAX, Jitter::new(7));
        let mut bound = FIRST;
        for _ in 0..12 {
            assert_eq!(backoff.bound(), bound);
            assert!(backoff.next_pause() <= bound);
            bound = (bound * 2).min(MAX);
        }
        assert_eq!(backoff.bound(), MAX);
        backoff.reset();
        assert_eq!(backoff.bound(), FIRST);
    }

    #[test]
    fn pauses_of_a_crowd_fill_the_whole_range_instead_of_coming_in_step() {
        let first: Vec<Duration> =
            (0..1000).map(|seed| Backoff::new(FIRST, MAX, Jitter::new(seed)).next_pause()).collect();
        for tenth in 0..10 {
            let (from, to) = (FIRST * tenth / 10, FIRST * (tenth + 1) / 10);
            let inside = first.iter().filter(|pause| (from..to).contains(pause)).count();
            assert!((50..=150).contains(&inside), "{inside} of 1000 pauses lie between {from:?} and {to:?}");
        }
    }

    #[test]
    fn an_advised_time_is_never_cut_short_and_at_most_half_is_added() {
        let mut backoff = Backoff::new(FIRST, MAX, Jitter::new(3));
        let advised = Duration::from_secs(4);
        for _ in 0..100 {
            let pause = backoff.spread(advised);
            assert!(pause >= advised && pause <= advised * 3 / 2, "{pause:?}");
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_pauses() {
        let pauses = |seed| {
            let mut backoff = Backoff::new(FIRST, MAX, Jitter::new(seed));
            (0..8).map(|_| backoff.next_pause()).collect::<Vec<_>>()
        };
        assert_eq!(pauses(42), pauses(42));
        assert_ne!(pauses(42), pauses(43));
    }

    #[test]
    fn the_largest_bound_does_not_overflow() {
        let mut backoff = Backoff::new(Duration::MAX, Duration::MAX, Jitter::new(1));
        let pause = backoff.next_pause();
        assert!(pause <= Duration::MAX && backoff.bound() == Duration::MAX);
    }
}
