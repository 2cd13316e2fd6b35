//! What readers share: the published state of the log. It never holds anything that is not durable.

use std::collections::VecDeque;
use std::sync::Arc;

use redeliver_protocol::history::{Batch, Gap, GapCause, ReadOutcome};
use redeliver_protocol::seq::{Nth, Position, Seq};
use redeliver_protocol::time::Timestamp;

use crate::excepts::Excepts;
use crate::index::Topics;
use crate::layout::value::Floor;
use crate::lineage::Lineage;
use crate::tail::{Recent, Slice};

/// The published state.
#[derive(Debug)]
pub(crate) struct Published {
    /// The newest durable seq.
    pub(crate) head: Seq,
    /// The time of the newest event.
    pub(crate) last_time: Timestamp,
    pub(crate) lineage: Arc<Lineage>,
    pub(crate) topics: Topics,
    pub(crate) recent: Recent,
    pub(crate) excepts: Excepts,
    /// The commits that are not folded, oldest first.
    pub(crate) tail: VecDeque<TailCommit>,
    /// Their size in the store.
    pub(crate) tail_bytes: usize,
    /// The folded runs, oldest first.
    pub(crate) runs: Arc<Vec<Run>>,
    /// Everything up to this seq is folded.
    pub(crate) fold_point: Seq,
    pub(crate) floor: Floor,
    /// Size of the spans that are not wholly below the floor.
    pub(crate) retained_bytes: u64,
    /// Moves when keys that a reader may be looking for are about to go.
    pub(crate) generation: u64,
}

/// An unfolded commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TailCommit {
    pub(crate) first: Seq,
    pub(crate) last: Seq,
    /// Its events' time.
    pub(crate) time: Timestamp,
    /// The paced clock when they were stored: age counts from there.
    pub(crate) stored: Timestamp,
    /// Size of its events as limits count them.
    pub(crate) event_bytes: u64,
    /// Size of its value.
    pub(crate) value_bytes: usize,
    /// Size of its records, once for each topic: what the fold makes of it.
    pub(crate) record_bytes: usize,
}

/// A run: consecutive commits that were folded together and are trimmed together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) first: Seq,
    pub(crate) last: Seq,
    /// The latest time of its events.
    pub(crate) last_time: Timestamp,
    /// The steps in which the floor passes it.
    pub(crate) spans: Box<[FloorStep]>,
}

/// Consecutive events that the floor passes in one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FloorStep {
    /// The last one's seq.
    pub(crate) last: Seq,
    /// The paced clock when the last one was stored.
    pub(crate) stored: Timestamp,
    /// Their size as limits count it.
    pub(crate) event_bytes: u64,
}

impl Published {
    /// The newest durable position: also before its first event, the current epoch's.
    pub(crate) fn head_position(&self) -> Position {
        Position::new(self.lineage.current(), self.head)
    }

    /// Lets go of the oldest records in memory until the rest is within its bound.
    pub(crate) fn evict(&mut self) {
        while let Some((id, through)) = self.recent.overdue() {
            self.recent.drop_through(&mut self.topics.at(id).recent, through);
        }
    }
}

/// A reader's place, with what is needed to answer it. Who answers at once only borrows the lineage: a count that all
/// readers move is not for free.
#[derive(Clone, Debug)]
pub(crate) struct ReadPoint<L = Arc<Lineage>> {
    pub(crate) after: Seq,
    pub(crate) nth: Nth,
    pub(crate) floor: Floor,
    pub(crate) lineage: L,
    /// The topic's newest event when the place was looked at.
    pub(crate) last_seq: Seq,
    pub(crate) last_nth: Nth,
}

impl ReadPoint<&Lineage> {
    /// The same, to be answered later.
    pub(crate) fn kept(&self, lineage: &Arc<Lineage>) -> ReadPoint {
        let ReadPoint { after, nth, floor, last_seq, last_nth, .. } = *self;
        ReadPoint { after, nth, floor, lineage: Arc::clone(lineage), last_seq, last_nth }
    }
}

impl<L: std::ops::Deref<Target = Lineage>> ReadPoint<L> {
    /// The answer, given the topic's first retained records after this place, if there are any. Only nths decide whether
    /// something is missing: whatever the reason, it shows.
    pub(crate) fn answer(&self, found: Option<Slice>) -> ReadOutcome {
        let Some(slice) = found else { return self.nothing_left() };
        if slice.first_nth == self.nth.next() {
            return ReadOutcome::Batch(Batch {
                epoch: self.lineage.position(slice.first_seq).epoch,
                count: slice.count,
                first_nth: slice.first_nth,
                last_seq: slice.last_seq,
                records: slice.records,
                // To be filled in by who reads.
                except: slice.has_except.then(Arc::default),
                is_end: self.last_seq <= slice.last_seq,
            });
        }
        let (through, cause) = if self.after < self.floor.seq {
            (self.floor.seq, self.floor.cause)
        } else {
            (Seq(slice.first_seq.0 - 1), GapCause::LogDamaged)
        };
        ReadOutcome::Gap(self.gap(through, Nth(slice.first_nth.0 - 1), cause))
    }

    fn nothing_left(&self) -> ReadOutcome {
        if self.last_seq <= self.after || self.last_nth <= self.nth {
            return ReadOutcome::End;
        }
        if self.last_seq <= self.floor.seq {
            ReadOutcome::Gap(self.gap(self.floor.seq, self.last_nth, self.floor.cause))
        } else {
            ReadOutcome::Gap(self.gap(self.last_seq, self.last_nth, GapCause::LogDamaged))
        }
    }

    fn gap(&self, through: Seq, nth_through: Nth, cause: GapCause) -> Gap {
        Gap {
            after: self.lineage.position(self.after),
            through: self.lineage.position(through),
            nth_through,
            count: nth_through.since(self.nth),
            // A topic's nths go back only where damage took its newest events and their count with them.
            count_is_exact: nth_through >= self.nth,
            cause,
        }
    }
}
