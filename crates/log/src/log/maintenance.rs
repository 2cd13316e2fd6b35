//! Upkeep: one bounded step at a time, the most urgent first. Each step leaves reads right and a crash harmless.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redeliver_protocol::time::{Instant, Timestamp};

use super::trimming::put_clock;
use super::{Log, Maintenance, WriterState};
use crate::clock::ClockEvent;
use crate::error::LogError;
use crate::kv::WriteBatch;

/// So often the store is looked for where it was opened.
const PLACE_CHECKED: Duration = Duration::from_secs(5);

impl Log {
    pub(super) fn maintenance_step(&self, now: Timestamp, monotonic: Instant) -> Result<Maintenance, LogError> {
        self.read_cache.lock().tick(monotonic);
        let mut guard = self.work.lock();
        let work = &mut *guard;
        self.tick(work, now, monotonic);
        if work.is_staged {
            // The staged commit's sync comes first.
            return Ok(Maintenance::Idle);
        }
        if monotonic.since(work.place_checked) >= PLACE_CHECKED {
            work.place_checked = monotonic;
            self.store.check_place()?;
        }
        match self.finish_opening(work) {
            Ok(()) => {}
            // Only what frees space may go before the new epoch, and nothing before the format that it is written in.
            Err(LogError::StorageFull) => return self.free_space(work),
            Err(error) => return Err(error),
        }
        // What frees space goes before what needs some.
        if let Some(trim) = work.trim.take() {
            return self.trim_step(work, trim);
        }
        if work.has_clock_news {
            return self.save_clock(work);
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

    /// Writes what the opening could not write while the disk was full: the new epoch begins.
    pub(super) fn finish_opening(&self, work: &mut WriterState) -> Result<(), LogError> {
        let Some(opening) = &work.opening else { return Ok(()) };
        self.store.write(&opening.batch)?;
        let mut shared = self.shared.write();
        Arc::make_mut(&mut shared.lineage).push(opening.start);
        drop(shared);
        work.opening = None;
        Ok(())
    }

    /// One step that deletes what is hidden, on a disk that is too full for a new epoch.
    fn free_space(&self, work: &mut WriterState) -> Result<Maintenance, LogError> {
        if work.opening.as_ref().is_some_and(|opening| !opening.has_format) {
            return Err(LogError::StorageFull);
        }
        if let Some(trim) = work.trim.take() {
            return self.trim_step(work, trim);
        }
        let aged = self.raise_floor_by_age(work);
        if matches!(aged, Ok(Maintenance::More)) || self.begin_trim(work)? == Maintenance::More {
            return Ok(Maintenance::More);
        }
        Err(LogError::StorageFull)
    }

    /// Moves the paced clock on, and tells once what has happened to the wall clock.
    pub(super) fn tick(&self, work: &mut WriterState, now: Timestamp, monotonic: Instant) {
        if let Some(event) = work.clock.tick(now, monotonic) {
            work.has_clock_news = true;
            self.shared.write().stored_by(work.clock.stamp());
            match event {
                ClockEvent::Ahead(by) => tracing::warn!(
                    ?by,
                    "the wall clock was set ahead: events bear the new time; their age goes by the time that has passed"
                ),
                ClockEvent::Back(by) => tracing::warn!(
                    ?by,
                    "the wall clock was set back: events bear the new time; their age goes by the time that has passed"
                ),
                ClockEvent::WasAway(by) => {
                    tracing::info!(
                        ?by,
                        "the time in which nobody had the log counts for the age of events from now on"
                    );
                }
                ClockEvent::NotBelieved(by) => tracing::warn!(
                    ?by,
                    "the wall clock says that nobody had the log for so long: that is not believed, nothing ages by it"
                ),
            }
        }
        self.paced_now_ms.store(work.clock.now().0, Ordering::Relaxed);
        self.paced_stamp_ms.store(work.clock.stamp().0, Ordering::Relaxed);
    }

    /// Stores the clock after it was set, so that the next opening does not take that for time that has passed.
    fn save_clock(&self, work: &mut WriterState) -> Result<Maintenance, LogError> {
        let mut batch = WriteBatch::default();
        put_clock(work, &mut batch);
        match self.store.write(&batch) {
            Ok(()) => work.has_clock_news = false,
            // It is stored with the next fold or expiry, too.
            Err(LogError::StorageFull) => {
                work.has_clock_news = false;
                return Ok(Maintenance::More);
            }
            Err(error) => return Err(error),
        }
        Ok(Maintenance::More)
    }
}
