//! Reading: what follows a place in a topic, from memory if it is there, else from the store. Never beyond the published
//! head, and never silent about what is missing.

use std::sync::atomic::Ordering;

use redeliver_protocol::history::{ReadOutcome, Start};
use redeliver_protocol::name::TopicName;
use redeliver_protocol::seq::{Nth, Seq};
use redeliver_protocol::time::Timestamp;

use super::Log;
use super::excepts::with_except_in_memory;
use crate::error::LogError;
use crate::gather::{Gather, Whereabouts};
use crate::index::Topic;
use crate::state::{Place, Shared};
use crate::tail::{Limits, Slice};

/// So many unfolded commits are looked through between two looks at the published state.
const COMMITS_MAX: usize = 256;

/// So often a read starts again because what it looks for is moving, before it takes what it found.
const TRIES_MAX: usize = 64;

/// The first event after a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct First {
    pub(super) seq: Seq,
    pub(super) nth: Nth,
}

impl Log {
    pub(super) fn read_topic(
        &self,
        topic: &TopicName,
        (after, nth): (Seq, Nth),
        limits: Limits,
    ) -> Result<ReadOutcome, LogError> {
        for _ in 0..TRIES_MAX {
            let (place, whereabouts, generation) = {
                let shared = self.shared.read();
                let limits = Limits { seq_max: shared.head, ..limits };
                let Some((id, entry)) = shared.topics.find(topic.as_str()) else { return Ok(ReadOutcome::End) };
                let place = place(&shared, entry, after, nth);
                let outcome = from_memory(&place, entry, limits);
                if let Some(outcome) = outcome.and_then(|outcome| excepted(&shared, outcome, limits)) {
                    return Ok(outcome);
                }
                let start = after.max(shared.floor.seq);
                (place, whereabouts(&shared, id, entry, start), shared.generation)
            };
            let start = after.max(place.floor.seq);
            let limits = Limits { seq_max: place.last_seq, ..limits };
            let (found, damaged) = self.gather(&place, whereabouts, start, Timestamp::default(), limits)?;
            let mut outcome = place.answer(found);
            if !limits.is_mixed {
                outcome = self.with_except(outcome, &place)?;
            }
            let is_clean = damaged.is_empty() && matches!(outcome, ReadOutcome::Batch(_));
            if is_clean || self.shared.read().generation == generation {
                self.note_damage(damaged);
                return Ok(outcome);
            }
        }
        Err(LogError::Failed("a read never found the log at rest".to_owned()))
    }

    /// The same, from memory alone.
    pub(super) fn read_topic_in_memory(
        &self,
        topic: &TopicName,
        (after, nth): (Seq, Nth),
        limits: Limits,
    ) -> Option<ReadOutcome> {
        let shared = self.shared.read();
        let limits = Limits { seq_max: shared.head, ..limits };
        let Some((_, entry)) = shared.topics.find(topic.as_str()) else { return Some(ReadOutcome::End) };
        let outcome = from_memory(&place(&shared, entry, after, nth), entry, limits)?;
        excepted(&shared, outcome, limits)
    }

    /// The first event of a topic after a seq, which is not below the floor, and no earlier than a time.
    pub(super) fn first_after(
        &self,
        topic: &TopicName,
        after: Seq,
        not_before: Timestamp,
    ) -> Result<Option<First>, LogError> {
        for _ in 0..TRIES_MAX {
            let (place, whereabouts, generation) = {
                let shared = self.shared.read();
                let Some((id, entry)) = shared.topics.find(topic.as_str()) else { return Ok(None) };
                if entry.last_seq <= after {
                    return Ok(None);
                }
                let limits = Limits { seq_max: shared.head, ..ONE };
                let slice = entry.recent.after(after, limits, |_| None);
                if let Some(slice) = slice.filter(|slice| slice.follows && not_before == Timestamp::default()) {
                    return Ok(Some(First { seq: slice.first_seq, nth: slice.first_nth }));
                }
                let place = place(&shared, entry, after, Nth::ZERO);
                // Commits that are too old need not be looked at.
                let recent = shared.tail.partition_point(|commit| commit.time < not_before);
                let mut whereabouts = whereabouts(&shared, id, entry, after);
                if let Some(commit) = recent.checked_sub(1).and_then(|at| shared.tail.get(at)) {
                    let start = after.max(commit.last);
                    whereabouts.commits = entry.commits_after(start).iter().take(COMMITS_MAX).copied().collect();
                }
                (place, whereabouts, shared.generation)
            };
            let limits = Limits { seq_max: place.last_seq, ..ONE };
            let (found, damaged) = self.gather(&place, whereabouts, after, not_before, limits)?;
            let is_clean = damaged.is_empty() && found.is_some();
            if is_clean || self.shared.read().generation == generation {
                self.note_damage(damaged);
                return Ok(found.map(|slice| First { seq: slice.first_seq, nth: slice.first_nth }));
            }
        }
        Err(LogError::Failed("a read never found the log at rest".to_owned()))
    }

    /// Whether what follows a start is in memory.
    pub(super) fn start_is_recent(&self, topic: &TopicName, start: &Start) -> bool {
        let shared = self.shared.read();
        let after = match start {
            Start::Latest => return true,
            Start::Earliest => shared.floor.seq,
            Start::After(known) if shared.lineage.is_valid(known.position, shared.head) => known.position.seq,
            Start::After(_)
            | Start::Resume { .. }
            | Start::AfterSeq(_)
            | Start::Since(_)
            | Start::Within(_)
            | Start::Last(_) => return false,
        };
        let after = after.max(shared.floor.seq);
        let Some((_, entry)) = shared.topics.find(topic.as_str()) else { return true };
        let limits = Limits { seq_max: shared.head, ..ONE };
        entry.last_seq <= after || entry.recent.after(after, limits, |_| None).is_some_and(|slice| slice.follows)
    }

    /// Gathers from the store. Also gives the keys that seemed damaged on the way: if keys moved meanwhile, they are not.
    fn gather(
        &self,
        place: &Place,
        mut whereabouts: Whereabouts,
        start: Seq,
        not_before: Timestamp,
        limits: Limits,
    ) -> Result<(Option<Slice>, Vec<Vec<u8>>), LogError> {
        let mut gather = Gather::new(start, not_before, limits, &place.lineage);
        gather.run(self.store.kv(), &whereabouts)?;
        // Only damage and times make one look farther than the first few commits.
        while gather.is_empty() && whereabouts.commits.len() == COMMITS_MAX {
            let Some(last) = whereabouts.commits.last().copied() else { break };
            whereabouts.runs = std::sync::Arc::default();
            whereabouts.commits = {
                let shared = self.shared.read();
                let entry = shared.topics.topic(whereabouts.topic);
                let left = entry.map_or(&[][..], |entry| entry.commits_after(last.commit.next()));
                left.iter().filter(|tail_ref| tail_ref.commit > last.commit).take(COMMITS_MAX).copied().collect()
            };
            gather.run(self.store.kv(), &whereabouts)?;
        }
        let damaged = std::mem::take(&mut gather.damaged);
        Ok((gather.finish(), damaged))
    }

    /// The seq of the event with this nth, if it is in memory.
    pub(super) fn recent_seq_of(&self, topic: &TopicName, nth: Nth) -> Option<Seq> {
        self.shared.read().topics.find(topic.as_str()).and_then(|(_, entry)| entry.recent.seq_of(nth))
    }

    pub(super) fn note_damage(&self, keys: Vec<Vec<u8>>) {
        for key in keys {
            self.damaged_reads.fetch_add(1, Ordering::Relaxed);
            let mut told = self.damaged_keys.lock();
            if told.len() < DAMAGED_KEYS_MAX && told.insert(key.clone()) {
                tracing::error!(key = %crate::layout::key::in_words(&key), "a value in the log is damaged");
            }
        }
    }
}

/// Damaged keys that are remembered, so that each is told once.
const DAMAGED_KEYS_MAX: usize = 10_000;

const ONE: Limits = Limits { events_max: 1, bytes_max: 0, seq_max: Seq(u64::MAX), is_mixed: true };

/// An outcome from memory with the list of who is not to get it, if that is there as well.
fn excepted(shared: &Shared, outcome: ReadOutcome, limits: Limits) -> Option<ReadOutcome> {
    if limits.is_mixed { Some(outcome) } else { with_except_in_memory(shared, outcome) }
}

pub(super) fn place(shared: &Shared, topic: &Topic, after: Seq, nth: Nth) -> Place {
    Place {
        after,
        nth,
        floor: shared.floor,
        lineage: std::sync::Arc::clone(&shared.lineage),
        last_seq: topic.last_seq,
        last_nth: topic.last_nth,
    }
}

fn whereabouts(shared: &Shared, id: u32, topic: &Topic, start: Seq) -> Whereabouts {
    let runs = if start < shared.fold_point { std::sync::Arc::clone(&shared.runs) } else { std::sync::Arc::default() };
    let commits = topic.commits_after(start).iter().take(COMMITS_MAX).copied().collect();
    Whereabouts { topic: id, runs, commits }
}

pub(super) fn from_memory(place: &Place, topic: &Topic, limits: Limits) -> Option<ReadOutcome> {
    if topic.last_seq <= place.after {
        return Some(ReadOutcome::End);
    }
    let start = place.after.max(place.floor.seq);
    if topic.last_seq <= start {
        return Some(place.answer(None));
    }
    let slice = topic.recent.after(start, limits, |seq| place.lineage.end(seq))?;
    let is_next = slice.follows || slice.first_nth == place.nth.next();
    is_next.then(|| place.answer(Some(slice)))
}
