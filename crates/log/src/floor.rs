//! Retention: how far the floor rises by age, bytes and count. Hides at once; removing what is hidden is `trim`'s work.

use std::sync::Arc;

use redeliver_protocol::history::GapCause;
use redeliver_protocol::seq::Seq;
use redeliver_protocol::time::Timestamp;

use crate::config::Retention;
use crate::layout::value::Floor;
use crate::state::{FloorStep, Published, Run};

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

    /// Sees to it that nothing counts as stored after a moment of the paced clock: what is in the store may bear a later one
    /// from when it was not sure how much time had passed, or from earlier versions, which had the wall clock's time there.
    pub(crate) fn stored_by(&mut self, now: Timestamp) {
        for commit in self.tail.iter_mut().rev().take_while(|commit| commit.stored > now) {
            commit.stored = now;
        }
        let is_late = |run: &Run| run.spans.last().is_some_and(|span| span.stored > now);
        let first = self.runs.iter().rposition(|run| !is_late(run)).map_or(0, |run| run + 1);
        if first == self.runs.len() {
            return;
        }
        for run in &mut Arc::make_mut(&mut self.runs)[first..] {
            for span in &mut run.spans {
                span.stored = span.stored.min(now);
            }
        }
    }

    /// Where the floor would be if nothing were kept that was stored before this, by the paced clock.
    pub(crate) fn floor_at(&self, oldest: Timestamp) -> Option<Floor> {
        let gone = self.spans_above(self.floor.seq).take_while(|span| span.stored < oldest).last()?;
        Some(Floor { seq: gone.last, cause: GapCause::RetentionAge })
    }

    /// The last retained seq that was certainly stored before a moment of the paced clock, and the last one that may have
    /// been.
    pub(crate) fn stored_before(&self, moment: Timestamp) -> (Seq, Seq) {
        let run = self.runs.partition_point(|run| run.spans.last().is_none_or(|span| span.stored < moment));
        let certain = run.checked_sub(1).map_or(Seq::ZERO, |run| self.runs[run].last);
        let (mut certain, mut possible) = (certain, certain);
        if let Some(run) = self.runs.get(run) {
            let span = run.spans.partition_point(|span| span.stored < moment);
            certain = span.checked_sub(1).map_or(certain, |span| run.spans[span].last);
            // Its first events may be older than its last one.
            possible = run.spans.get(span).map_or(certain, |span| span.last);
        } else {
            let commit = self.tail.partition_point(|commit| commit.stored < moment);
            certain = commit.checked_sub(1).map_or(certain, |commit| self.tail[commit].last);
            possible = possible.max(certain);
        }
        (certain.max(self.floor.seq), possible.max(self.floor.seq))
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
            stored: commit.stored,
            event_bytes: commit.event_bytes,
        });
        folded.skip_while(move |span| span.last <= seq).chain(unfolded)
    }
}
