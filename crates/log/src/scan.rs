//! Finding a topic's records in the store: in the folded runs, then in the unfolded commits. Takes whatever it is given
//! for what it is: damage is reported and passed over, and shows in the nths of what follows.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use redeliver_protocol::codec::{encode_record, peek_record, peek_record_kind};
use redeliver_protocol::seq::{Nth, Seq};
use redeliver_protocol::time::Timestamp;

use crate::commit::Commit;
use crate::error::LogError;
use crate::index::TailRef;
use crate::kv::{Direction, Kv};
use crate::layout::piece::{self, StoredValue};
use crate::layout::reader::ByteReader;
use crate::layout::{Damaged, key};
use crate::lineage::Lineage;
use crate::state::Run;
use crate::tail::{Chunk, ReadLimits, RecordEnd, joined};

/// So many bytes are read from the store for one batch before it is given as it is.
const LOADED_BYTES_MAX: usize = 1024 * 1024;

/// Where a topic's records lie.
#[derive(Debug)]
pub(crate) struct Whereabouts {
    pub(crate) topic: u32,
    pub(crate) runs: Arc<Vec<Run>>,
    /// Nothing of the topic that is looked for lies below this seq: runs before it need not be asked.
    pub(crate) nothing_below: Seq,
    pub(crate) commits: Vec<TailRef>,
    /// From which of its events on they are in memory, so that their commits need not be looked at.
    pub(crate) recent_from: Option<Nth>,
}

/// Records that are collected: consecutive ones of one epoch, from the first one after a seq (and time) on.
#[derive(Debug)]
pub(crate) struct TopicScan<'a> {
    after: Seq,
    not_before: Timestamp,
    limits: ReadLimits,
    lineage: &'a Lineage,
    first: Option<(Seq, Nth)>,
    marks: Vec<RecordEnd>,
    parts: Vec<Bytes>,
    bytes: usize,
    loaded_bytes: usize,
    is_done: bool,
    /// Whether it has come to where the rest is in memory.
    reached_recent: bool,
    is_marked: bool,
    has_except: bool,
    /// Keys whose values are not what was written.
    pub(crate) damaged: Vec<Vec<u8>>,
}

impl<'a> TopicScan<'a> {
    pub(crate) fn new(after: Seq, not_before: Timestamp, limits: ReadLimits, lineage: &'a Lineage) -> TopicScan<'a> {
        TopicScan {
            after,
            not_before,
            limits,
            lineage,
            first: None,
            marks: Vec::new(),
            parts: Vec::new(),
            bytes: 0,
            loaded_bytes: 0,
            is_done: false,
            reached_recent: false,
            is_marked: false,
            has_except: false,
            damaged: Vec::new(),
        }
    }

    /// Looks through all places where the topic's records may be.
    pub(crate) fn run(&mut self, kv: &dyn Kv, places: &Whereabouts) -> Result<(), LogError> {
        let is_before = |run: &Run| run.last <= self.after || run.last < places.nothing_below;
        let at = places.runs.partition_point(|run| is_before(run));
        for run in &places.runs[at..] {
            if self.is_done {
                return Ok(());
            }
            if !self.topic_records(kv, places.topic, run)? {
                self.group_records(kv, places.topic, run)?;
            }
        }
        for tail_ref in &places.commits {
            if self.is_done {
                return Ok(());
            }
            if places.recent_from.is_some_and(|recent| tail_ref.first_nth >= recent) {
                (self.is_done, self.reached_recent) = (true, true);
                return Ok(());
            }
            self.commit(kv, places.topic, tail_ref.commit)?;
        }
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }

    /// Whether the next event is in memory.
    pub(crate) fn reached_recent(&self) -> bool {
        self.reached_recent
    }

    /// Whether all that was collected is for everybody who asks for it, so that others may be given it too.
    pub(crate) fn is_plain(&self) -> bool {
        !self.is_marked
    }

    /// What was collected.
    pub(crate) fn finish(self) -> Option<Chunk> {
        let (first_seq, first_nth) = self.first?;
        let (first_part, parts) = self.parts.split_first()?;
        let mut records = joined(first_part.clone(), parts);
        if records.len() < self.loaded_bytes / 2 {
            // Others may keep it: it must not hold a value that it is a small part of.
            records = Bytes::copy_from_slice(&records);
        }
        Some(Chunk::new(records, first_nth, first_seq, self.marks).with_except(self.has_except))
    }

    /// The topic's own values in a run. Says whether there are any.
    fn topic_records(&mut self, kv: &dyn Kv, topic: u32, run: &Run) -> Result<bool, LogError> {
        let end = key::topic_records(topic, run.last.next());
        let mut start = key::topic_records(topic, run.first);
        if self.after > run.first {
            // The value that holds the next seq may begin before it.
            let before = key::topic_records(topic, self.after.next());
            if let Some(entry) = kv.range(&start, &before, Direction::Down).next() {
                start = entry?.0;
                start.truncate(TOPIC_KEY_BYTES);
            }
        }
        let mut current: Option<(Vec<u8>, piece::Pieces)> = None;
        let mut is_any = false;
        for entry in kv.range(&start, &end, Direction::Up) {
            let entry = entry?;
            let prefix = &entry.0[..entry.0.len().min(TOPIC_KEY_BYTES)];
            if current.as_ref().is_none_or(|(key, _)| key != prefix) {
                if let Some((key, pieces)) = current.take() {
                    self.offer_value(&key, pieces.finish());
                    if self.is_done {
                        return Ok(true);
                    }
                }
                current = Some((prefix.to_vec(), piece::Pieces::default()));
                is_any = true;
            }
            self.loaded_bytes += entry.1.len();
            if let Some((_, pieces)) = &mut current {
                pieces.push(&entry);
            }
        }
        if let Some((key, pieces)) = current {
            self.offer_value(&key, pieces.finish());
        }
        Ok(is_any)
    }

    /// The topic's part of a value that it shares with other small topics of a run.
    fn group_records(&mut self, kv: &dyn Kv, topic: u32, run: &Run) -> Result<(), LogError> {
        let (from, to) = (key::group_records(run.first, 0), key::above_pieces(&key::group_records(run.first, topic)));
        let Some(entry) = kv.range(&from, &to, Direction::Down).next() else { return Ok(()) };
        let mut prefix = entry?.0;
        prefix.truncate(GROUP_KEY_BYTES);
        match piece::read(kv, &prefix)? {
            StoredValue::Whole(value) => {
                self.loaded_bytes += value.len();
                let value = Bytes::from(value);
                match group_member(&value, topic) {
                    Ok(Some((start, end))) => self.offer(&prefix, &value.slice(start..end)),
                    Ok(None) => {}
                    Err(Damaged) => self.damaged.push(prefix),
                }
            }
            StoredValue::Nothing | StoredValue::Beginning(_) | StoredValue::Incomplete | StoredValue::Damaged(_) => {
                self.damaged.push(prefix);
            }
        }
        Ok(())
    }

    /// The topic's events in an unfolded commit.
    fn commit(&mut self, kv: &dyn Kv, topic: u32, first: Seq) -> Result<(), LogError> {
        let prefix = key::commit(first);
        let value = match piece::read(kv, &prefix)? {
            StoredValue::Whole(value) => value,
            StoredValue::Nothing | StoredValue::Beginning(_) | StoredValue::Incomplete | StoredValue::Damaged(_) => {
                self.damaged.push(prefix);
                return Ok(());
            }
        };
        self.loaded_bytes += value.len();
        match commit_records(&value, topic) {
            Ok(records) => self.offer(&prefix, &records),
            Err(Damaged) => self.damaged.push(prefix),
        }
        Ok(())
    }

    fn offer_value(&mut self, key: &[u8], found: StoredValue) {
        match found {
            StoredValue::Whole(value) => self.offer(key, &Bytes::from(value)),
            StoredValue::Nothing | StoredValue::Beginning(_) | StoredValue::Incomplete | StoredValue::Damaged(_) => {
                self.damaged.push(key.to_vec());
            }
        }
    }

    /// Takes what fits of a value's records.
    fn offer(&mut self, key: &[u8], records: &Bytes) {
        let (mut at, mut start) = (0, 0);
        while at < records.len() {
            let Ok((seq, nth, time, bytes)) = peek_record(&records[at..]) else {
                self.damaged.push(key.to_vec());
                break;
            };
            let is_early = seq <= self.after || (time < self.not_before && seq <= self.limits.seq_max);
            if self.is_empty() && is_early {
                at += bytes;
                start = at;
                continue;
            }
            let kind = peek_record_kind(&records[at..]).unwrap_or_default();
            let is_apart = !self.limits.is_mixed && !self.is_empty() && (kind.is_marked() || self.is_marked);
            if is_apart || !self.takes(seq, nth, bytes) {
                self.is_done = true;
                break;
            }
            self.is_marked |= kind.is_marked();
            self.has_except |= kind.has_except;
            at += bytes;
        }
        if at > start {
            self.parts.push(records.slice(start..at));
        }
        self.is_done |= !self.is_empty() && self.loaded_bytes >= LOADED_BYTES_MAX;
        self.is_done |= self.marks.len() as u64 >= u64::from(self.limits.events_max.max(1));
    }

    /// Takes a record, if it is the next one and within the limits.
    fn takes(&mut self, seq: Seq, nth: Nth, bytes: usize) -> bool {
        let (first_seq, first_nth) = *self.first.get_or_insert((seq, nth));
        if self.is_empty() {
            if seq > self.limits.seq_max {
                self.first = None;
                return false;
            }
            let end = self.lineage.end(seq).unwrap_or(self.limits.seq_max);
            self.limits.seq_max = self.limits.seq_max.min(end);
        } else if nth.0 != first_nth.0 + self.marks.len() as u64
            || seq > self.limits.seq_max
            || self.marks.len() as u64 >= u64::from(self.limits.events_max)
            || self.bytes + bytes > self.limits.bytes_max
        {
            return false;
        }
        let (offset, end) = (seq.0.checked_sub(first_seq.0).map(u32::try_from), u32::try_from(self.bytes + bytes));
        let (Some(Ok(seq_offset)), Ok(end)) = (offset, end) else { return false };
        self.bytes += bytes;
        self.marks.push(RecordEnd { seq_offset, end });
        true
    }
}

const TOPIC_KEY_BYTES: usize = 1 + 4 + 8;
const GROUP_KEY_BYTES: usize = 1 + 8 + 4;

/// A topic's wire records in a commit's value.
pub(crate) fn commit_records(value: &[u8], topic: u32) -> Result<Bytes, Damaged> {
    let commit = Commit::decode(value)?;
    let Some(index) = commit.topics.iter().position(|entry| entry.id == topic) else { return Ok(Bytes::new()) };
    let mut nth = commit.topics[index].first_nth;
    let mut out = BytesMut::new();
    for event in commit.events() {
        let event = event?;
        if event.topics().any(|of| of == index) {
            encode_record(&mut out, (event.seq, nth, commit.time), event.kind, event.name, event.payload);
            nth = nth.next();
        }
    }
    Ok(out.freeze())
}

/// Where a topic's records lie in a group's value: `count:u16 | count × { topic:u32 | bytes:u32 } | records`.
fn group_member(value: &[u8], topic: u32) -> Result<Option<(usize, usize)>, Damaged> {
    for member in group_members(value) {
        let (member, start, end) = member?;
        if member == topic {
            return Ok(Some((start, end)));
        }
    }
    Ok(None)
}

/// The topics of a group's value, each with where its records lie. Ends after an error.
pub(crate) fn group_members(value: &[u8]) -> impl Iterator<Item = Result<(u32, usize, usize), Damaged>> {
    let mut reader = ByteReader::new(value);
    let mut left = reader.u16();
    let mut start = 2 + left.map_or(0, |count| usize::from(count) * 8);
    std::iter::from_fn(move || {
        let count = match left {
            Ok(0) => return None,
            Ok(count) => count,
            Err(Damaged) => {
                left = Ok(0);
                return Some(Err(Damaged));
            }
        };
        let mut next = || {
            let (member, bytes) = (reader.u32()?, reader.u32()? as usize);
            let end = start.checked_add(bytes).filter(|end| *end <= value.len()).ok_or(Damaged)?;
            Ok((member, std::mem::replace(&mut start, end), end))
        };
        let next = next();
        left = Ok(if next.is_ok() { count - 1 } else { 0 });
        Some(next)
    })
}
