//! Upkeep: one bounded step at a time, the most urgent first. Each step leaves reads right and a crash harmless.

use redeliver_protocol::time::{Instant, Timestamp};

use super::{Log, Maintenance};
use crate::error::LogError;

impl Log {
    pub(super) fn maintenance_step(&self, now: Timestamp, monotonic: Instant) -> Result<Maintenance, LogError> {
        self.read_cache.lock().tick(monotonic);
        let mut guard = self.work.lock();
        let work = &mut *guard;
        work.clock.tick(now, monotonic);
        if work.is_staged {
            // The staged commit's sync comes first.
            return Ok(Maintenance::Idle);
        }
        // What frees space goes before what needs some.
        if let Some(trim) = work.trim.take() {
            return self.trim_step(work, trim);
        }
        let aged = self.raise_floor_by_age(work);
        if matches!(aged, Err(LogError::StorageFull)) && self.begin_trim(work)? == Maintenance::More {
            return Ok(Maintenance::More);
        }
        if aged? == Maintenance::More || self.begin_trim(work)? == Maintenance::More {
            return Ok(Maintenance::More);
        }
        if self.trim_excepts(work)? == Maintenance::More {
            return Ok(Maintenance::More);
        }
        if work.may_have_older_commits || !work.folded_commits.is_empty() {
            return self.delete_folded(work);
        }
        if work.heads.has_earlier && work.fold.is_none() {
            return self.delete_earlier_heads(work);
        }
        if let Some(fold) = work.fold.take() {
            return self.fold_step(work, fold);
        }
        if self.begin_fold(work)? == Maintenance::More {
            return Ok(Maintenance::More);
        }
        self.expire_step(work)
    }
}
