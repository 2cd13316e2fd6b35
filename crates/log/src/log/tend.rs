//! Upkeep: one bounded step at a time.

use redeliver_protocol::time::{Instant, Timestamp};

use super::{Log, Tended};
use crate::error::LogError;

impl Log {
    pub(super) fn tend_step(&self, now: Timestamp, monotonic: Instant) -> Result<Tended, LogError> {
        self.work.lock().clock.tick(now, monotonic);
        Ok(Tended::Idle)
    }
}
