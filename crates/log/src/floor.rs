//! Retention: how far the floor rises by age, bytes and count. Hides at once; removing what is hidden is `trim`'s work.

use redeliver_protocol::history::GapCause;
use redeliver_protocol::seq::Seq;
use redeliver_protocol::time::{Instant, Timestamp};

use std::time::Duration;

use crate::config::Retention;
use crate::layout::value::Floor;
use crate::state::{FloorStep, Published};

impl Published {
    /// Raises the floor until what is above it is within the bounds of count and bytes. At least one event, and one
    /// commit, stay.
    pub(crate) fn retain(&mut self, retention: &Retention) {
        let mut floor = self.floor.seq;
        if let Some(count) = retention.count {
            floor = floor.max(Seq(self.head.0.saturating_sub(count.max(1))));
        }
        self.raise_floor(Floor { seq: floor, cause: GapCause::RetentionSize });
        if let Some(bytes) = retention.bytes {
            let mut left = self.retained_bytes;
            for span in self.spans_above(self.floor.seq) {
                if left <= bytes || span.last >= self.head {
                    break;
                }
                left -= span.event_bytes.min(left);
                floor = span.last;
            }
            self.raise_floor(Floor { seq: floor, cause: GapCause::RetentionSize });
        }
    }

    /// Where the floor would be if nothing older than this were kept.
    pub(crate) fn floor_at(&self, oldest: Timestamp) -> Option<Floor> {
        let gone = self.spans_above(self.floor.seq).take_while(|span| span.time < oldest).last()?;
        Some(Floor { seq: gone.last, cause: GapCause::RetentionAge })
    }

    /// Raises the floor. It never sinks.
    pub(crate) fn raise_floor(&mut self, floor: Floor) {
        if floor.seq <= self.floor.seq {
            return;
        }
        let passed: u64 = self
            .spans_above(self.floor.seq)
            .take_while(|span| span.last <= floor.seq)
            .map(|span| span.event_bytes)
            .sum();
        self.retained_bytes -= passed.min(self.retained_bytes);
        self.floor = floor;
    }

    /// Counts anew what is retained: spans have been put together, or read back.
    pub(crate) fn recount(&mut self) {
        self.retained_bytes = self.spans_above(self.floor.seq).map(|span| span.event_bytes).sum();
    }

    /// The spans that are not wholly at or below a seq, oldest first.
    fn spans_above(&self, seq: Seq) -> impl Iterator<Item = FloorStep> {
        let run = self.runs.partition_point(|run| run.last <= seq);
        let folded = self.runs[run..].iter().flat_map(|run| run.spans.iter().copied());
        let commit = self.tail.partition_point(|commit| commit.last <= seq);
        let unfolded = self.tail.range(commit..).map(|commit| FloorStep {
            last: commit.last,
            time: commit.time,
            event_bytes: commit.event_bytes,
        });
        folded.skip_while(move |span| span.last <= seq).chain(unfolded)
    }
}

/// Wall-clock time for retention, which never runs much faster than the monotonic clock: a wall clock that jumps ahead
/// must not trim everything. It never goes back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PacedClock {
    now: Timestamp,
    ticked: Instant,
}

impl PacedClock {
    /// A clock that goes on from where it stood when it was last saved.
    pub(crate) fn resume(saved: Timestamp, wall: Timestamp, monotonic: Instant) -> PacedClock {
        PacedClock { now: saved.max(wall.min(saved.after(STEP))), ticked: monotonic }
    }

    pub(crate) fn now(self) -> Timestamp {
        self.now
    }

    /// Goes on to the wall clock's time, as far as the monotonic clock allows: its own pace, and an eighth more to catch
    /// up with the time in which nobody was running.
    pub(crate) fn tick(&mut self, wall: Timestamp, monotonic: Instant) {
        let elapsed = monotonic.since(self.ticked);
        let allowed = self.now.after(elapsed + elapsed / 8);
        if allowed == self.now {
            return;
        }
        self.ticked = monotonic;
        self.now = self.now.max(wall.min(allowed));
    }
}

/// How far the clock may jump when a log is opened.
const STEP: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * 3600 * 1000;

    fn mono(ms: u64) -> Instant {
        Instant::from_origin(Duration::from_millis(ms))
    }

    #[test]
    fn a_jump_of_the_wall_clock_moves_retention_no_faster_than_time() {
        let mut clock = PacedClock::resume(Timestamp(1_000), Timestamp(1_000), mono(0));
        clock.tick(Timestamp(3650 * DAY), mono(8_000));
        assert_eq!(clock.now(), Timestamp(10_000));
        clock.tick(Timestamp(500), mono(16_000));
        assert_eq!(clock.now(), Timestamp(10_000), "it never goes back");
        let mut clock = PacedClock::resume(Timestamp(0), Timestamp(3650 * DAY), mono(0));
        assert_eq!(clock.now(), Timestamp(60_000), "an open is a normal step at most");
        for tick in 1..1_000 {
            clock.tick(Timestamp(3650 * DAY), mono(tick));
        }
        assert!(clock.now() <= Timestamp(60_000 + 1_125));
    }

    #[test]
    fn a_clock_that_fell_behind_catches_up() {
        let mut clock = PacedClock::resume(Timestamp(0), Timestamp(DAY), mono(0));
        for day in 1..=10 {
            clock.tick(Timestamp(DAY + day * DAY), mono(day * DAY));
        }
        assert_eq!(clock.now(), Timestamp(11 * DAY));
    }
}
