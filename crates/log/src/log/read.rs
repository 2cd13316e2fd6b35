//! Reading: what follows a place in a topic, from memory if it is there, else from the store. Never beyond the published
//! head, and never silent about what is missing.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::Ordering;

use parking_lot::MutexGuard;
use redeliver_protocol::history::{ReadOutcome, Start};
use redeliver_protocol::name::TopicName;
use redeliver_protocol::seq::{Nth, Seq};
use redeliver_protocol::time::Timestamp;

use super::Log;
use super::excepts::with_except_in_memory;
use crate::error::LogError;
use crate::index::Topic;
use crate::lineage::Lineage;
use crate::scan::{TopicScan, Whereabouts};
use crate::state::{Published, ReadPoint};
use crate::tail::{Chunk, ReadLimits, Slice};

/// So many unfolded commits are looked through between two looks at the published state.
const COMMITS_MAX: usize = 256;

/// So many topics are looked up between two looks at the published state.
const TOPICS_AT_ONCE: usize = 256;

/// So often a read starts again because what it looks for is moving, before it fails. Many: on a busy machine a writer
/// may move keys during each of dozens of tries.
const TRIES_MAX: usize = 1_024;

/// The first event after a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FirstEvent {
    pub(super) seq: Seq,
    pub(super) nth: Nth,
}

/// What was found in the store.
struct Scanned {
    topic: u32,
    chunk: Option<Chunk>,
    /// The nth of the first event in memory, if nothing more lies before it.
    reached_recent: Option<Nth>,
    /// Whether all of it is for everybody.
    is_plain: bool,
    /// Keys that seemed damaged on the way: if keys moved meanwhile, they are not.
    damaged: Vec<Vec<u8>>,
}

impl Log {
    /// Reads what follows a place in a topic: from memory if it is there, else from the store.
    ///
    /// The store is read without a lock on the published state, so folding and trimming may move or delete keys under a
    /// scan. `generation` counts such moves. A find is trusted although keys have moved if it is whole and clean; what
    /// seems missing or damaged is believed only if nothing has moved, and otherwise looked for again.
    pub(super) fn read_topic(
        &self,
        topic: &TopicName,
        (after, nth): (Seq, Nth),
        limits: ReadLimits,
    ) -> Result<ReadOutcome, LogError> {
        if let Some(outcome) = self.read_topic_in_memory(topic, (after, nth), limits) {
            return Ok(outcome);
        }
        let _alone = self.alone_at(topic, after);
        for _ in 0..TRIES_MAX {
            // Asks memory again under the lock: who waited in `alone_at` finds what the one before it has read.
            let (place, whereabouts, generation) = {
                let shared = self.shared.read();
                let limits = ReadLimits { seq_max: shared.head, ..limits };
                let Some((id, entry)) = shared.topics.find(topic.as_str()) else { return Ok(ReadOutcome::End) };
                let place = place(&shared, entry, after, nth);
                if let Some(outcome) = self.at_hand(&shared, (id, entry), &place, limits) {
                    return Ok(outcome);
                }
                let start = after.max(shared.floor.seq);
                (place.kept(&shared.lineage), whereabouts(&shared, id, entry, start), shared.generation)
            };
            let start = after.max(place.floor.seq);
            let scanned = self.scan(&place, whereabouts, start, Timestamp::default(), limits.ahead(place.last_seq))?;
            let is_clean = scanned.damaged.is_empty();
            // What else was read is kept for the readers that are behind this one.
            if is_clean {
                self.keep(&scanned, start, generation);
            }
            let Some(found) = self.found(&scanned, start, ReadLimits { seq_max: place.last_seq, ..limits }, generation)
            else {
                continue;
            };
            // Not even now is a hole passed over: `answer` compares the nth that was found with the one that was due, and
            // makes a gap of the difference.
            let mut outcome = place.answer(found);
            if !limits.is_mixed {
                outcome = self.with_except(outcome, &place)?;
            }
            let is_clean = is_clean && matches!(outcome, ReadOutcome::Batch(_));
            if is_clean || self.shared.read().generation == generation {
                self.note_damage(scanned.damaged);
                return Ok(outcome);
            }
        }
        Err(LogError::Failed("a read never found the log at rest".to_owned()))
    }

    /// Reads what follows a place in a topic, if memory has it. Never blocks on the disk.
    pub(super) fn read_topic_in_memory(
        &self,
        topic: &TopicName,
        (after, nth): (Seq, Nth),
        limits: ReadLimits,
    ) -> Option<ReadOutcome> {
        let shared = self.shared.read();
        let limits = ReadLimits { seq_max: shared.head, ..limits };
        let Some((id, entry)) = shared.topics.find(topic.as_str()) else { return Some(ReadOutcome::End) };
        self.at_hand(&shared, (id, entry), &place(&shared, entry, after, nth), limits)
    }

    /// Which of these topics have a published event behind a seq: each with the seq of its last event. And up to which seq
    /// the others have none. From memory, at the cost of one look-up for each topic; the caller's key tells them apart.
    #[must_use]
    pub fn find_grown<K: Copy>(&self, topics: &[(K, TopicName)], after: Seq) -> (Seq, Vec<(K, Seq)>) {
        let through = self.shared.read().head;
        let mut grown = Vec::new();
        if through <= after {
            return (through, grown);
        }
        // The published state is let go of now and then, so that a look at very many topics does not hold up the writer.
        // What is published meanwhile is told as well, which does no harm.
        for some in topics.chunks(TOPICS_AT_ONCE) {
            let shared = self.shared.read();
            let ends = some.iter().filter_map(|(key, topic)| {
                let (_, entry) = shared.topics.find(topic.as_str())?;
                (entry.last_seq > after).then_some((*key, entry.last_seq))
            });
            grown.extend(ends);
        }
        (through, grown)
    }

    /// The first event of a topic after a seq, which is not below the floor. With `timed`, only one up to a seq that bears no
    /// earlier time than this. If it must be read from the store, `ahead` says whether what follows it will be read next.
    pub(super) fn first_after(
        &self,
        topic: &TopicName,
        after: Seq,
        timed: Option<(Timestamp, Seq)>,
        ahead: bool,
    ) -> Result<Option<FirstEvent>, LogError> {
        let is_timed = timed.is_some();
        let (not_before, through) = timed.unwrap_or((Timestamp::default(), Seq(u64::MAX)));
        if !is_timed && let Some(first) = self.first_in_memory(topic, after) {
            return Ok(first);
        }
        let _alone = self.alone_at(topic, after);
        for _ in 0..TRIES_MAX {
            if !is_timed && let Some(first) = self.first_in_memory(topic, after) {
                return Ok(first);
            }
            let (place, whereabouts, generation) = {
                let shared = self.shared.read();
                let Some((id, entry)) = shared.topics.find(topic.as_str()) else { return Ok(None) };
                if entry.last_seq <= after {
                    return Ok(None);
                }
                let place = place(&shared, entry, after, Nth::ZERO);
                let mut whereabouts = whereabouts(&shared, id, entry, after);
                // Memory does not know the times of its events: a timed search reads all of them from the store.
                if is_timed {
                    whereabouts.recent_from = None;
                }
                (place.kept(&shared.lineage), whereabouts, shared.generation)
            };
            let limits = ReadLimits { seq_max: place.last_seq.min(through), ..ONE };
            let ahead = if ahead { PLAIN.ahead(place.last_seq) } else { limits };
            let scanned = self.scan(&place, whereabouts, after, not_before, ahead)?;
            let is_clean = scanned.damaged.is_empty();
            if is_clean && !is_timed {
                self.keep(&scanned, after, generation);
            }
            let Some(found) = self.found(&scanned, after, limits, generation) else { continue };
            if (is_clean && found.is_some()) || self.shared.read().generation == generation {
                self.note_damage(scanned.damaged);
                return Ok(found.map(|slice| FirstEvent { seq: slice.first_seq, nth: slice.first_nth }));
            }
        }
        Err(LogError::Failed("a read never found the log at rest".to_owned()))
    }

    /// The first event of a topic after a seq, if memory can tell. The outer `None` is "not known".
    #[allow(clippy::option_option, reason = "that there is none is not that it is not known")]
    fn first_in_memory(&self, topic: &TopicName, after: Seq) -> Option<Option<FirstEvent>> {
        let shared = self.shared.read();
        let Some((id, entry)) = shared.topics.find(topic.as_str()) else { return Some(None) };
        if entry.last_seq <= after {
            return Some(None);
        }
        let limits = ReadLimits { seq_max: shared.head, ..ONE };
        let recent = entry.recent.after(after, limits, |_| None).filter(|slice| slice.follows);
        let slice = recent.or_else(|| self.read_cache.lock().after(id, after, &limits))?;
        Some(Some(FirstEvent { seq: slice.first_seq, nth: slice.first_nth }))
    }

    /// What memory has for a reader.
    fn at_hand(
        &self,
        shared: &Published,
        (id, entry): (u32, &Topic),
        place: &ReadPoint<&Lineage>,
        limits: ReadLimits,
    ) -> Option<ReadOutcome> {
        let outcome = from_memory(place, entry, limits);
        if let Some(outcome) = outcome.and_then(|outcome| excepted(shared, outcome, limits)) {
            return Some(outcome);
        }
        let slice = self.read_cache.lock().after(id, place.after.max(place.floor.seq), &limits)?;
        (slice.first_nth == place.nth.next()).then(|| place.answer(Some(slice)))
    }

    /// Waits for whoever reads at the same place from the store, whose finds others share.
    fn alone_at(&self, topic: &TopicName, after: Seq) -> MutexGuard<'_, ()> {
        let mut hasher = DefaultHasher::new();
        (topic, after).hash(&mut hasher);
        let at = usize::try_from(hasher.finish() % READING_PLACES as u64).unwrap_or_default();
        self.reading[at].lock()
    }

    /// Keeps what was found after a seq for others, unless keys have moved since.
    fn keep(&self, scanned: &Scanned, after: Seq, generation: u64) {
        let Some(chunk) = scanned.chunk.as_ref().filter(|_| scanned.is_plain) else { return };
        let shared = self.shared.read();
        if shared.generation == generation {
            self.read_cache.lock().put(scanned.topic, after, chunk.clone());
        }
    }

    /// What of the finds goes to who asked. None at all: the log has moved, and it is to be looked for again.
    #[allow(clippy::option_option, reason = "that nothing was found is not that it is not known")]
    fn found(&self, scanned: &Scanned, after: Seq, limits: ReadLimits, generation: u64) -> Option<Option<Slice>> {
        if let Some(chunk) = &scanned.chunk {
            return Some(chunk.after(after, &limits));
        }
        let Some(recent_from) = scanned.reached_recent else { return Some(None) };
        let shared = self.shared.read();
        let entry = shared.topics.topic(scanned.topic)?;
        if shared.generation != generation || entry.recent.first_nth() != Some(recent_from) {
            return None;
        }
        Some(entry.recent.after(after, limits, |seq| shared.lineage.end(seq)))
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
            | Start::ResumeOr { .. }
            | Start::AfterSeq(_)
            | Start::Since(_)
            | Start::Within(_)
            | Start::Last(_)
            | _ => return false,
        };
        let after = after.max(shared.floor.seq);
        let Some((id, entry)) = shared.topics.find(topic.as_str()) else { return true };
        let limits = ReadLimits { seq_max: shared.head, ..ONE };
        entry.last_seq <= after
            || entry.recent.after(after, limits, |_| None).is_some_and(|slice| slice.follows)
            || self.read_cache.lock().after(id, after, &limits).is_some()
    }

    /// Scans the store.
    fn scan(
        &self,
        place: &ReadPoint,
        mut whereabouts: Whereabouts,
        start: Seq,
        not_before: Timestamp,
        limits: ReadLimits,
    ) -> Result<Scanned, LogError> {
        let mut scan = TopicScan::new(start, not_before, limits, &place.lineage);
        scan.run(self.store.kv(), &whereabouts)?;
        // Only damage and times make one look farther than the first few commits.
        while scan.is_empty() && !scan.reached_recent() && whereabouts.commits.len() == COMMITS_MAX {
            let Some(last) = whereabouts.commits.last().copied() else { break };
            whereabouts.runs = std::sync::Arc::default();
            whereabouts.commits = {
                let shared = self.shared.read();
                let entry = shared.topics.topic(whereabouts.topic);
                let left = entry.map_or(&[][..], |entry| entry.commits_after(last.commit.next()));
                left.iter().filter(|tail_ref| tail_ref.commit > last.commit).take(COMMITS_MAX).copied().collect()
            };
            scan.run(self.store.kv(), &whereabouts)?;
        }
        Ok(Scanned {
            topic: whereabouts.topic,
            damaged: std::mem::take(&mut scan.damaged),
            reached_recent: whereabouts.recent_from.filter(|_| scan.reached_recent()),
            is_plain: scan.is_plain(),
            chunk: scan.finish(),
        })
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

/// Places at which the store is read at the same time, at most.
pub(super) const READING_PLACES: usize = 64;

/// So much is read from the store at least where more than one event is wanted.
const AHEAD_EVENTS: u32 = 2048;
const AHEAD_BYTES: usize = 128 * 1024;

const PLAIN: ReadLimits = ReadLimits { events_max: 1, bytes_max: 0, seq_max: Seq(u64::MAX), is_mixed: false };
const ONE: ReadLimits = ReadLimits { events_max: 1, bytes_max: 0, seq_max: Seq(u64::MAX), is_mixed: true };

/// An outcome from memory with the list of who is not to get it, if that is there as well.
fn excepted(shared: &Published, outcome: ReadOutcome, limits: ReadLimits) -> Option<ReadOutcome> {
    if limits.is_mixed { Some(outcome) } else { with_except_in_memory(shared, outcome) }
}

pub(super) fn place<'a>(shared: &'a Published, topic: &Topic, after: Seq, nth: Nth) -> ReadPoint<&'a Lineage> {
    ReadPoint {
        after,
        nth,
        floor: shared.floor,
        lineage: &shared.lineage,
        last_seq: topic.last_seq,
        last_nth: topic.last_nth,
    }
}

impl ReadLimits {
    /// What is read from the store for a reader who wants so much: what comes next will be wanted soon, also by others.
    fn ahead(self, seq_max: Seq) -> ReadLimits {
        let ReadLimits { events_max, bytes_max, is_mixed, .. } = self;
        ReadLimits {
            events_max: events_max.max(AHEAD_EVENTS),
            bytes_max: bytes_max.max(AHEAD_BYTES),
            seq_max,
            is_mixed,
        }
    }
}

fn whereabouts(shared: &Published, id: u32, topic: &Topic, start: Seq) -> Whereabouts {
    let runs = if start < shared.fold_point { std::sync::Arc::clone(&shared.runs) } else { std::sync::Arc::default() };
    let commits = topic.commits_after(start).iter().take(COMMITS_MAX).copied().collect();
    // Most of very many topics have one event.
    let nothing_below = if topic.last_nth == Nth(1) { topic.last_seq } else { Seq::ZERO };
    Whereabouts { topic: id, runs, nothing_below, commits, recent_from: topic.recent.first_nth() }
}

pub(super) fn from_memory(place: &ReadPoint<&Lineage>, topic: &Topic, limits: ReadLimits) -> Option<ReadOutcome> {
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
