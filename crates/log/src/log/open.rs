//! Opening: what the store holds becomes what is known in memory. Reads the small keys and the unfolded tail alone, so
//! that it does not grow with the history. Begins the new epoch durably before anything else may be written.

mod topics;

use std::collections::VecDeque;
use std::sync::Arc;

pub(super) use self::topics::{StoredHeads, Taken};

use bytes::Bytes;
use redeliver_protocol::codec::{encode_record, record_bytes};
use redeliver_protocol::name::TopicName;
use redeliver_protocol::seq::{Epoch, IdentityTag, Nth, Seq};
use redeliver_protocol::time::Timestamp;

use crate::clock::SavedClock;
use crate::commit::{COMMIT_EVENTS_MAX, COMMIT_PIECES_MAX, Commit};
use crate::config::LogConfig;
use crate::error::LogError;
use crate::excepts::Excepts;
use crate::fold::manifest;
use crate::index::{TailRef, Topics};
use crate::kv::{Direction, Entries, Entry, Kv, WriteBatch};
use crate::layout::key::{self, Meta};
use crate::layout::piece::{self, Pieces, StoredValue};
use crate::layout::value::{self, EpochStart, Floor, FoldPlan, Format, PublisherEntry, StoredEmit};
use crate::layout::{Damaged, FORMAT};
use crate::lineage::{EPOCHS_MAX, Lineage};
use crate::publishers::{Publishers, refusal};
use crate::state::{Published, Run, TailCommit};
use crate::store::Store;
use crate::tail::{Chunk, Recent, RecordEnd, RecordEnds};

/// What an open found.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) shared: Published,
    pub(super) publishers: Publishers,
    /// The retention clock as it was last saved; nothing for a new log.
    pub(super) clock: Option<SavedClock>,
    /// A fold that was begun.
    pub(super) plan: Option<FoldPlan>,
    /// The floor as it is in the store.
    pub(super) saved_floor: Seq,
    /// How the topics' heads lie in the store.
    pub(super) heads: StoredHeads,
    /// What opening is still to write, if the disk was full.
    pub(super) opening: Option<Opening>,
}

/// What an opening writes: its epoch above all.
#[derive(Debug)]
pub(super) struct Opening {
    pub(super) batch: WriteBatch,
    pub(super) start: EpochStart,
    /// Whether the log has this version's format already.
    pub(super) has_format: bool,
}

/// Reads the store, and begins an epoch in it. On a full disk a log that has an epoch is read under that one: nothing is
/// written under it, so it stays as it was.
pub(super) fn recover(store: &Store, config: &LogConfig, epoch: Epoch, now: Timestamp) -> Result<Recovered, LogError> {
    let kv = store.kv();
    let format = check_format(kv, now)?;
    let mut recovery = Recovery { kv, batch: WriteBatch::default(), clock: None, publishers: Publishers::default() };
    let mut lineage = Lineage::default();
    let (next_index, last_start) = recovery.epochs(&mut lineage)?;
    if lineage.contains(epoch) {
        return Err(LogError::Failed(format!("epoch {epoch} was used before")));
    }
    recovery.clock = recovery.meta(Meta::Clock)?.and_then(|bytes| value::decode_clock(&bytes).ok());
    let floor = recovery.floor()?;
    let plan = recovery.meta(Meta::Plan)?.and_then(|bytes| FoldPlan::decode(&bytes).ok());
    // A plan above the fold point is a fold that a crash cut off: it is begun again from its commits, which a fold
    // deletes only after it has passed the fold point.
    let fold_point = recovery.fold_point(plan)?;
    let plan = plan.filter(|plan| plan.last > fold_point);
    let runs = recovery.runs(fold_point)?;
    let (topics, heads) = recovery.topics()?;
    let mut shared = Published {
        head: fold_point.max(floor.seq).max(last_start),
        last_time: runs.last().map_or(Timestamp::default(), |run| run.last_time),
        lineage: Arc::default(),
        topics,
        recent: Recent::new(config.recent_bytes_max),
        excepts: Excepts::new(Seq::ZERO),
        tail: VecDeque::new(),
        tail_bytes: 0,
        runs: Arc::new(runs),
        fold_point,
        floor: Floor::NONE,
        retained_bytes: 0,
        generation: 0,
    };
    // Publishers as they were last written on their own, then the tail: its commits raise them, the topics and the head.
    recovery.publishers()?;
    recovery.tail(&mut shared)?;
    recovery.owners()?;
    shared.excepts = Excepts::new(shared.head);
    let has_format = format.is_none();
    if let Some(format) = format {
        piece::put_small(&mut recovery.batch, key::meta(Meta::Format), &format.encode());
    }
    // The new epoch is durable before anybody is told of it. If the disk is an older one (a backup), seqs are given again:
    // under this epoch, so that a reader who saw the first ones can tell.
    let start = EpochStart { epoch, start: shared.head };
    piece::put_small(&mut recovery.batch, key::epoch(next_index), &start.encode());
    let opening = match store.write(&recovery.batch) {
        Ok(()) => {
            lineage.push(start);
            None
        }
        Err(LogError::StorageFull) if !lineage.is_empty() => {
            Some(Opening { batch: recovery.batch.clone(), start, has_format })
        }
        Err(error) => return Err(error),
    };
    shared.lineage = Arc::new(lineage);
    // Runs and tail are both read by now: the bytes above the floor can be summed, and retention judged.
    shared.floor = floor;
    shared.recount();
    shared.retain(&config.retention);
    let Recovery { publishers, clock, .. } = recovery;
    Ok(Recovered { shared, publishers, clock, plan, saved_floor: floor.seq, heads, opening })
}

/// What is to be written about the log's format, if it is new or of an earlier one; an error if it is of a later one.
fn check_format(kv: &dyn Kv, now: Timestamp) -> Result<Option<Format>, LogError> {
    let new = Format { version: FORMAT, created: now };
    let key = key::meta(Meta::Format);
    let Some(sealed) = kv.get(&key)? else { return Ok(Some(new)) };
    match piece::open_small(&key, &sealed).and_then(Format::decode) {
        Ok(format) if format.version > FORMAT => Err(LogError::NewerFormat { found: format.version, known: FORMAT }),
        Ok(format) => Ok((format.version < FORMAT).then_some(Format { version: FORMAT, ..format })),
        Err(Damaged) => {
            tracing::error!("the log's format key is damaged: taken for format {FORMAT}");
            Ok(Some(new))
        }
    }
}

struct Recovery<'a> {
    kv: &'a dyn Kv,
    /// What opening itself writes, with the epoch.
    batch: WriteBatch,
    clock: Option<SavedClock>,
    publishers: Publishers,
}

impl<'a> Recovery<'a> {
    fn epochs(&mut self, lineage: &mut Lineage) -> Result<(u32, Seq), LogError> {
        let (mut next, mut last) = (0_u32, Seq::ZERO);
        let mut entries = Vec::new();
        for entry in self.all(key::EPOCH) {
            let entry = entry?;
            if let Ok(index) = key::read_u32(&entry.0) {
                next = next.max(index.saturating_add(1));
            }
            // Positions of an epoch that cannot be read are not valid any more: their readers are told a gap.
            if let Some(start) = small(&entry, EpochStart::decode) {
                last = last.max(start.start);
                entries.push((entry.0, start));
            }
        }
        let excess = (entries.len() + 1).saturating_sub(EPOCHS_MAX);
        for (key, _) in entries.drain(..excess) {
            self.batch.delete(key);
        }
        for (_, start) in entries {
            lineage.push(start);
        }
        Ok((next, last))
    }

    fn meta(&self, which: Meta) -> Result<Option<Vec<u8>>, LogError> {
        let key = key::meta(which);
        let Some(sealed) = self.kv.get(&key)? else { return Ok(None) };
        Ok(small(&(key, sealed), |bytes| Ok(bytes.to_vec())))
    }

    /// How far the tail is folded. If that is damaged, two things tell it: the newest run that is whole (a half-written
    /// one is named by the plan), and the oldest commit, since they are deleted only after the fold point has passed them.
    fn fold_point(&self, plan: Option<FoldPlan>) -> Result<Seq, LogError> {
        let saved = self.meta(Meta::FoldPoint)?.map(|bytes| value::decode_seq(&bytes));
        if let Some(Ok(seq)) = saved {
            return Ok(seq);
        }
        let (from, to) = key::all(key::COMMIT);
        let oldest = match self.kv.range(&from, &to, Direction::Up).next() {
            Some(entry) => key::read_u64(&entry?.0).unwrap_or(1).saturating_sub(1),
            None => 0,
        };
        let runs = self.readable_runs(plan.map_or(Seq(u64::MAX), |plan| Seq(plan.first.0 - 1)))?;
        // Of a run that cannot be read, the end is not known here.
        Ok(runs.iter().map(|run| run.last).max().unwrap_or_default().max(Seq(oldest)))
    }

    fn floor(&self) -> Result<Floor, LogError> {
        Ok(self.meta(Meta::Floor)?.and_then(|bytes| Floor::decode(&bytes).ok()).unwrap_or(Floor::NONE))
    }

    /// The runs up to the fold point.
    fn runs(&self, fold_point: Seq) -> Result<Vec<Run>, LogError> {
        let mut runs = self.readable_runs(fold_point)?;
        manifest::close_unknown_runs(&mut runs, fold_point);
        Ok(runs)
    }

    /// The runs that begin up to a seq, without an end where they cannot be read.
    fn readable_runs(&self, first_max: Seq) -> Result<Vec<Run>, LogError> {
        let mut runs: Vec<Run> = Vec::new();
        for entry in self.all(key::RUN) {
            let entry = entry?;
            let Ok(first) = key::read_u64(&entry.0) else { continue };
            if first > first_max.0 {
                break;
            }
            let is_new = runs.last().is_none_or(|run| run.first.0 != first);
            if is_new {
                let mut pieces = Pieces::default();
                pieces.push(&entry);
                let run = match pieces.finish() {
                    StoredValue::Whole(bytes) | StoredValue::Beginning(bytes) => manifest::read_run(&bytes).ok(),
                    StoredValue::Nothing | StoredValue::Incomplete | StoredValue::Damaged(_) => None,
                };
                runs.push(run.unwrap_or_else(|| manifest::unknown_run(Seq(first))));
            }
        }
        Ok(runs)
    }

    fn publishers(&mut self) -> Result<(), LogError> {
        for entry in self.all(key::PUBLISHER) {
            let entry = entry?;
            if let (Ok(id), Some(saved)) = (key::read_publisher(&entry.0), small(&entry, PublisherEntry::decode)) {
                self.publishers.load(id, saved);
            }
        }
        Ok(())
    }

    /// Whose the publishers are. One that has none belongs to the first who comes.
    fn owners(&mut self) -> Result<(), LogError> {
        for entry in self.all(key::OWNER) {
            let entry = entry?;
            if let (Ok(id), Some(owner)) = (key::read_publisher(&entry.0), small(&entry, |bytes| Ok(bytes.to_vec())))
                && let Ok(tag) = owner.try_into()
            {
                self.publishers.load_owner(id, IdentityTag(tag));
            }
        }
        Ok(())
    }

    /// Reads the commits above the fold point.
    fn tail(&mut self, shared: &mut Published) -> Result<(), LogError> {
        let (from, to) = (key::commit(shared.fold_point.next()), key::all(key::COMMIT).1);
        let mut current: Option<(u64, Pieces)> = None;
        for entry in self.kv.range(&from, &to, Direction::Up) {
            let entry = entry?;
            let Ok(first) = key::read_u64(&entry.0) else { continue };
            if let Some((before, pieces)) = current.take_if(|(before, _)| *before != first) {
                self.commit(shared, Seq(before), &pieces.finish(), Some(Seq(first)));
            }
            current.get_or_insert_with(|| (first, Pieces::default())).1.push(&entry);
        }
        let Some((first, pieces)) = current else { return Ok(()) };
        match pieces.finish() {
            // It was never finished, so it was never acknowledged: batches are atomic, but who knows the medium.
            StoredValue::Incomplete | StoredValue::Beginning(_) => {
                piece::delete(&mut self.batch, &key::commit(Seq(first)), COMMIT_PIECES_MAX);
                Ok(())
            }
            found @ (StoredValue::Whole(_) | StoredValue::Nothing | StoredValue::Damaged(_)) => {
                self.commit(shared, Seq(first), &found, None);
                Ok(())
            }
        }
    }

    /// Takes a commit into the index, or the gap that it leaves.
    fn commit(&mut self, shared: &mut Published, first: Seq, found: &StoredValue, next: Option<Seq>) {
        if let StoredValue::Whole(bytes) = found
            && let Ok(commit) = Commit::decode(bytes)
            && commit.first == first
            && self.events(shared, &commit, bytes.len()).is_ok()
        {
            return;
        }
        tracing::error!(%first, "a commit in the log's tail is damaged: its events are lost");
        // What its tables still tell: which topics lost how many events, so that the gap has a count.
        let beginning = match found {
            StoredValue::Whole(bytes) | StoredValue::Damaged(bytes) | StoredValue::Beginning(bytes) => {
                Commit::decode(bytes).ok()
            }
            StoredValue::Nothing | StoredValue::Incomplete => None,
        };
        let beginning = beginning.filter(|commit| commit.first == first);
        let last = match (next, &beginning) {
            (Some(next), _) => Seq(next.0 - 1),
            (None, Some(commit)) => commit.last(),
            (None, None) => Seq(first.0 + COMMIT_EVENTS_MAX as u64 - 1),
        };
        let mut time = shared.last_time;
        let mut stored = self.clock.map_or(time, |clock| clock.now);
        if let Some(commit) = beginning {
            (time, stored) = (commit.time, stored.max(commit.clock));
            for entry in &commit.topics {
                name(&mut shared.topics, entry.id, entry.name);
                if entry.count > 0 {
                    let topic = shared.topics.at(entry.id);
                    topic.grow(TailRef { commit: first, first_nth: entry.first_nth, count: entry.count }, last);
                }
            }
        }
        shared.head = shared.head.max(last);
        shared.last_time = time;
        let commit = TailCommit { first, last, time, stored, event_bytes: 0, value_bytes: 0, record_bytes: 0 };
        shared.tail.push_back(commit);
    }

    fn events(&mut self, shared: &mut Published, commit: &Commit<'_>, value_bytes: usize) -> Result<(), Damaged> {
        let mut grown: Vec<Grown> = commit.topics.iter().map(|entry| Grown::new(entry.first_nth)).collect();
        let mut emits: Vec<Vec<StoredEmit>> = commit
            .publishers
            .iter()
            .map(|publisher| publisher.refused.iter().copied().map(refusal).collect())
            .collect();
        let mut event_bytes = 0;
        for event in commit.events() {
            let event = event?;
            event_bytes += event.own_bytes() as u64;
            for index in event.topics() {
                let topic = grown.get_mut(index).ok_or(Damaged)?;
                let name = topic_name_bytes(shared, commit, index);
                event_bytes += name as u64;
                topic.records.reserve(record_bytes(event.name, event.payload));
                let nth = Nth(topic.first_nth.0 + topic.seqs.len() as u64);
                let at = (event.seq, nth, commit.time);
                encode_record(&mut topic.records, at, event.kind, event.name, event.payload);
                topic.seqs.push((event.seq, topic.records.len()));
            }
            if let Some(emitter) = event.emitter {
                let emit = StoredEmit { number: emitter.number, seq: event.seq, content: emitter.hash };
                emits.get_mut(emitter.publisher as usize).ok_or(Damaged)?.push(emit);
            }
        }
        for (entry, grown) in commit.topics.iter().zip(&grown) {
            if grown.seqs.len() != entry.count as usize {
                return Err(Damaged);
            }
        }
        // Nothing above has changed anything: a commit counts whole or not at all.
        let mut tail_commit = TailCommit {
            first: commit.first,
            last: commit.last(),
            time: commit.time,
            stored: commit.clock,
            event_bytes,
            value_bytes,
            record_bytes: 0,
        };
        for (entry, grown) in commit.topics.iter().zip(grown) {
            name(&mut shared.topics, entry.id, entry.name);
            let Some((last_seq, _)) = grown.seqs.last().copied() else { continue };
            tail_commit.record_bytes += grown.records.len();
            let topic = shared.topics.at(entry.id);
            let tail_ref = TailRef { commit: commit.first, first_nth: entry.first_nth, count: entry.count };
            let before = topic.grow(tail_ref, last_seq);
            let Published { topics, recent, .. } = &mut *shared;
            let tail = &mut topics.at(entry.id).recent;
            grown.chunk().split(|chunk| recent.push(entry.id, tail, chunk, before));
        }
        shared.evict();
        for (publisher, mut emits) in commit.publishers.iter().zip(emits) {
            emits.sort_by_key(|emit| emit.number);
            for emit in emits {
                self.publishers.replay(publisher.id, emit, commit.clock);
            }
        }
        let saved = self.clock.unwrap_or(SavedClock { now: commit.clock, wall: commit.time });
        self.clock = Some(saved.pass(commit.clock));
        shared.head = shared.head.max(commit.last());
        shared.last_time = commit.time;
        shared.tail_bytes += value_bytes;
        shared.tail.push_back(tail_commit);
        Ok(())
    }

    fn all(&self, prefix: u8) -> Entries<'a> {
        let (from, to) = key::all(prefix);
        let kv: &'a dyn Kv = self.kv;
        kv.range(&from, &to, Direction::Up)
    }
}

/// A topic's records in a commit that is read back.
struct Grown {
    first_nth: Nth,
    seqs: Vec<(Seq, usize)>,
    records: Vec<u8>,
}

impl Grown {
    fn new(first_nth: Nth) -> Grown {
        Grown { first_nth, seqs: Vec::new(), records: Vec::new() }
    }

    fn chunk(self) -> Chunk {
        let first_seq = self.seqs.first().map_or(Seq::ZERO, |(seq, _)| *seq);
        let mark = |(seq, end): &(Seq, usize)| RecordEnd {
            seq_offset: u32::try_from(seq.0 - first_seq.0).unwrap_or(u32::MAX),
            end: u32::try_from(*end).unwrap_or(u32::MAX),
        };
        let marks: RecordEnds = self.seqs.iter().map(mark).collect();
        Chunk::new(Bytes::from(self.records), self.first_nth, first_seq, marks)
    }
}

fn name(topics: &mut Topics, id: u32, name: Option<&str>) {
    topics.at(id);
    if let Some(Ok(name)) = name.map(TopicName::new) {
        topics.name(id, &name);
    }
}

fn topic_name_bytes(shared: &Published, commit: &Commit<'_>, index: usize) -> usize {
    let Some(entry) = commit.topics.get(index) else { return 0 };
    let known =
        || shared.topics.topic(entry.id).and_then(|topic| topic.name.as_ref()).map_or(0, |name| name.as_str().len());
    entry.name.map_or_else(known, str::len)
}

/// A small value, or nothing if it is damaged, which is told.
fn small<'e, T>((key, sealed): &'e Entry, decode: impl FnOnce(&'e [u8]) -> Result<T, Damaged>) -> Option<T> {
    let decoded = piece::open_small(key, sealed).and_then(decode);
    if decoded.is_err() {
        tracing::error!(key = %key::in_words(key), "a value in the log is damaged");
    }
    decoded.ok()
}
