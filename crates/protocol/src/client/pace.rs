//! How far a durable reader hands over before its app asks for more: what it hands over it names to the server first, and
//! what it names counts as delivered for ever after. So it names one event at a time, unless the app is so fast that the
//! way to the server would hold it up. Sends nothing itself.
//!
//! Whatever was named is marked if the process dies. What is handed over is always named, and noted by the server, before.

use std::time::Duration;

use crate::seq::Nth;
use crate::time::Instant;

/// The pace of one subscription on connections that have the feature.
#[derive(Debug, Default)]
pub(super) struct Pace {
    is_on: bool,
    /// The app has nothing in hand that it has not looked at.
    is_wanted: bool,
    /// How many events are named at once.
    batch: u64,
    named: Nth,
    /// The server has noted that events up to here are handed over.
    noted: Nth,
    named_at: Option<Instant>,
    noted_at: Option<Instant>,
    way: Duration,
}

impl Pace {
    /// A stream begins behind this nth. Returns what is to be named at once, if this one is paced.
    pub(super) fn begin(&mut self, is_on: bool, nth: Nth) -> Option<Nth> {
        self.is_on = is_on;
        (self.named, self.noted) = (nth, nth);
        (self.named_at, self.noted_at) = (None, None);
        is_on.then_some(nth)
    }

    /// Whether this event may be handed over now.
    pub(super) fn allows(&self, nth: Nth) -> bool {
        !self.is_on || nth <= self.noted
    }

    /// What is to be named so that this event may be handed over, if it is the time. `arrived` is the last that is there.
    pub(super) fn name(&mut self, next: Nth, arrived: Nth, now: Instant) -> Option<Nth> {
        if !self.is_wanted || next <= self.named {
            return None;
        }
        self.named = next.saturating_add(self.batch.saturating_sub(1)).min(arrived).max(next);
        self.named_at = Some(now);
        Some(self.named)
    }

    /// The server has noted what was named.
    pub(super) fn noted(&mut self, nth: Nth, now: Instant) {
        if nth != self.named || nth <= self.noted {
            return;
        }
        self.noted = nth;
        if let Some(named_at) = self.named_at {
            self.way = now.since(named_at);
        }
        self.noted_at = Some(now);
        self.is_wanted = false;
    }

    /// The app has taken all that was handed over. The batch grows while the app is through with it sooner than four times
    /// the way to the server and back takes: then the way costs it at most a fifth of its time.
    pub(super) fn wanted(&mut self, batch_max: u64, now: Instant) {
        if self.is_wanted {
            return;
        }
        self.is_wanted = true;
        let fast = FAST.max(self.way.saturating_mul(4));
        let is_fast = self.noted_at.is_some_and(|noted_at| now.since(noted_at) < fast);
        self.batch = if is_fast { self.batch.saturating_mul(2).clamp(1, batch_max.max(1)) } else { 1 };
    }
}

/// An app that is through with a batch within this time takes larger ones.
const FAST: Duration = Duration::from_millis(1);
