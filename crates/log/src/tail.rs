//! The newest events in memory, as wire records in shared immutable chunks per topic. Pure: no store, no lock, no clock.
//!
//! A chunk is made once, when its commit is published, and handed out by reference. All chunks together stay within a
//! bound: the oldest go first, whatever their topic.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};
use redeliver_protocol::codec::peek_record_kind;
use redeliver_protocol::event::RecordKind;
use redeliver_protocol::seq::{Nth, Seq};
use smallvec::SmallVec;

/// What a chunk costs beside its records where it is the only one of its topic, in bytes.
const CHUNK_OVERHEAD_BYTES: usize = 224;

/// So many small chunks of a topic in a row become one.
const MERGE_CHUNKS: usize = 16;

/// Larger chunks are left alone: a batch is about twice this.
const MERGE_BYTES_MAX: usize = 16 * 1024;

/// Consecutive wire records of one topic.
#[derive(Clone, Debug)]
pub(crate) struct Chunk {
    records: Bytes,
    first_nth: Nth,
    first_seq: Seq,
    marks: RecordEnds,
    /// Whether its one record is marked, so that it is given alone.
    is_marked: bool,
    /// Whether one of its records is not for everybody.
    has_except: bool,
}

/// Where a record ends in its chunk, and how far its seq lies above the chunk's first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RecordEnd {
    pub(crate) seq_offset: u32,
    pub(crate) end: u32,
}

/// The marks of a chunk. Where there are many chunks, they have one record each.
pub(crate) type RecordEnds = SmallVec<[RecordEnd; 2]>;

/// The newest records of one topic. Most topics have none here, so nothing is what it takes then.
#[derive(Clone, Debug, Default)]
pub(crate) struct TopicTail(Option<Box<Chunks>>);

/// The chunks of one topic, oldest first.
#[derive(Clone, Debug, Default)]
struct Chunks {
    chunks: VecDeque<Chunk>,
    /// How many small chunks stand in a row at the end.
    loose: u8,
    /// How far the topic's event before the first chunk lies below it, in seqs. Zero: that is not known.
    before: u32,
}

/// The account of all topics' chunks.
#[derive(Debug)]
pub(crate) struct Recent {
    /// Each chunk's topic and last seq, oldest first. Merged chunks have several entries; the last one counts.
    order: VecDeque<(u32, Seq)>,
    bytes: usize,
    bytes_max: usize,
}

/// Records that were found in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slice {
    pub(crate) first_nth: Nth,
    pub(crate) first_seq: Seq,
    pub(crate) last_seq: Seq,
    pub(crate) count: u32,
    pub(crate) records: Bytes,
    /// Whether it is known that no retained event of the topic lies between the seq asked for and the first record.
    pub(crate) follows: bool,
    /// Whether one of them is not for everybody.
    pub(crate) has_except: bool,
}

/// What a reader wants at most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadLimits {
    pub(crate) events_max: u32,
    pub(crate) bytes_max: usize,
    /// The last seq that may be given: the end of an epoch is found with the first record.
    pub(crate) seq_max: Seq,
    /// Whether records that are marked may stand among others. If not, each comes alone.
    pub(crate) is_mixed: bool,
}

impl Chunk {
    /// A chunk of at least one record with consecutive nths.
    pub(crate) fn new(records: Bytes, first_nth: Nth, first_seq: Seq, marks: impl Into<RecordEnds>) -> Chunk {
        let mut marks = marks.into();
        debug_assert!(marks.last().is_some_and(|mark| mark.end as usize == records.len()));
        marks.shrink_to_fit();
        Chunk { records, first_nth, first_seq, marks, is_marked: false, has_except: false }
    }

    /// The same, with a word on whether one of its records is not for everybody.
    pub(crate) fn with_except(self, has_except: bool) -> Chunk {
        Chunk { has_except, ..self }
    }

    /// The same records in as many chunks as are needed so that each that is marked has one of its own.
    pub(crate) fn split(self, mut each: impl FnMut(Chunk)) {
        let is_marked = |index: &usize| {
            let kind = peek_record_kind(&self.records[self.start(*index)..]);
            kind.is_ok_and(RecordKind::is_marked)
        };
        let apart: Vec<usize> = (0..self.marks.len()).filter(is_marked).collect();
        if apart.is_empty() {
            return each(self);
        }
        let mut from = 0;
        for index in apart {
            if from < index {
                each(self.part(from..index));
            }
            let kind = peek_record_kind(&self.records[self.start(index)..]);
            let has_except = kind.is_ok_and(|kind| kind.has_except);
            each(Chunk { is_marked: true, has_except, ..self.part(index..index + 1) });
            from = index + 1;
        }
        if from < self.marks.len() {
            each(self.part(from..self.marks.len()));
        }
    }

    fn part(&self, range: std::ops::Range<usize>) -> Chunk {
        let (start, offset) = (self.start(range.start), self.marks[range.start].seq_offset);
        // Ends are bounded by what one commit holds.
        let start_u32 = u32::try_from(start).unwrap_or(u32::MAX);
        let mark = |mark: &RecordEnd| RecordEnd { seq_offset: mark.seq_offset - offset, end: mark.end - start_u32 };
        Chunk {
            records: self.records.slice(start..self.marks[range.end - 1].end as usize),
            first_nth: Nth(self.first_nth.0 + range.start as u64),
            first_seq: self.seq(range.start),
            marks: self.marks[range].iter().map(mark).collect(),
            is_marked: false,
            has_except: false,
        }
    }

    pub(crate) fn first_nth(&self) -> Nth {
        self.first_nth
    }

    pub(crate) fn count(&self) -> u64 {
        self.marks.len() as u64
    }

    pub(crate) fn last_seq(&self) -> Seq {
        self.seq(self.marks.len() - 1)
    }

    fn end_nth(&self) -> Nth {
        Nth(self.first_nth.0 + self.count())
    }

    fn seq(&self, index: usize) -> Seq {
        Seq(self.first_seq.0 + u64::from(self.marks[index].seq_offset))
    }

    fn start(&self, index: usize) -> usize {
        if index == 0 { 0 } else { self.marks[index - 1].end as usize }
    }

    /// The first record above `after`.
    fn index_after(&self, after: Seq) -> usize {
        let offset = match after.0.checked_sub(self.first_seq.0) {
            None => return 0,
            Some(offset) => offset,
        };
        self.marks.partition_point(|mark| u64::from(mark.seq_offset) <= offset)
    }

    /// How many records from `index` on fit; at least one if `is_first`.
    fn fitting(&self, index: usize, limits: &ReadLimits, is_first: bool) -> usize {
        let start = self.start(index);
        let bound = usize::try_from(limits.events_max.max(1)).unwrap_or(usize::MAX).min(self.marks.len() - index);
        let fits = |taken: usize| {
            let last = index + taken - 1;
            self.seq(last) <= limits.seq_max
                && ((is_first && taken == 1) || self.marks[last].end as usize - start <= limits.bytes_max)
        };
        // Both seqs and ends rise, so what fits is a beginning.
        let (mut low, mut high) = (0, bound);
        while low < high {
            let middle = (low + high).div_ceil(2);
            if fits(middle) { low = middle } else { high = middle - 1 }
        }
        low
    }

    /// What stands in it after a seq, as far as the limits go.
    pub(crate) fn after(&self, after: Seq, limits: &ReadLimits) -> Option<Slice> {
        if self.last_seq() <= after {
            return None;
        }
        let index = self.index_after(after);
        let taken = self.fitting(index, limits, true);
        let last = index + taken.checked_sub(1)?;
        Some(Slice {
            first_nth: Nth(self.first_nth.0 + index as u64),
            first_seq: self.seq(index),
            last_seq: self.seq(last),
            count: u32::try_from(taken).unwrap_or(u32::MAX),
            records: self.records.slice(self.start(index)..self.marks[last].end as usize),
            follows: index > 0,
            has_except: self.has_except,
        })
    }

    pub(crate) fn cost(&self) -> usize {
        self.records.len() + self.marks.len() * size_of::<RecordEnd>() + CHUNK_OVERHEAD_BYTES
    }
}

impl TopicTail {
    /// The records after a seq that stand in memory; `epoch_end` gives the last seq of a seq's epoch.
    pub(crate) fn after(
        &self,
        after: Seq,
        limits: ReadLimits,
        epoch_end: impl FnOnce(Seq) -> Option<Seq>,
    ) -> Option<Slice> {
        self.0.as_ref()?.after(after, limits, epoch_end)
    }

    /// The nth of the first event in memory.
    pub(crate) fn first_nth(&self) -> Option<Nth> {
        self.0.as_ref()?.chunks.front().map(|chunk| chunk.first_nth)
    }

    /// The seq of the event with this nth.
    pub(crate) fn seq_of(&self, nth: Nth) -> Option<Seq> {
        self.0.as_ref()?.seq_of(nth)
    }
}

impl Chunks {
    fn after(&self, after: Seq, limits: ReadLimits, epoch_end: impl FnOnce(Seq) -> Option<Seq>) -> Option<Slice> {
        let at = self.chunks.partition_point(|chunk| chunk.last_seq() <= after);
        let first = self.chunks.get(at)?;
        let index = first.index_after(after);
        let (first_seq, first_nth) = (first.seq(index), Nth(first.first_nth.0 + index as u64));
        if first_seq > limits.seq_max {
            return None;
        }
        let mut limits = limits;
        limits.seq_max = epoch_end(first_seq).map_or(limits.seq_max, |end| end.min(limits.seq_max));
        // Most batches are of one chunk, and are not to take an allocation.
        let (mut first_part, mut parts) = (Bytes::new(), Vec::new());
        let (mut is_marked, mut has_except) = (false, false);
        let (mut next, mut count, mut last_seq) = (first_nth, 0_u32, first_seq);
        for chunk in self.chunks.range(at..) {
            let index = if count == 0 { index } else { 0 };
            if Nth(chunk.first_nth.0 + index as u64) != next {
                break;
            }
            if !limits.is_mixed && count > 0 && (chunk.is_marked || is_marked) {
                break;
            }
            let taken = chunk.fitting(index, &limits, count == 0);
            if taken == 0 {
                break;
            }
            let part = chunk.records.slice(chunk.start(index)..chunk.marks[index + taken - 1].end as usize);
            let part_bytes = part.len();
            if count == 0 {
                first_part = part;
            } else {
                parts.push(part);
            }
            let events = u32::try_from(taken).unwrap_or(u32::MAX);
            last_seq = chunk.seq(index + taken - 1);
            count += events;
            next = Nth(next.0 + taken as u64);
            is_marked |= chunk.is_marked;
            has_except |= chunk.has_except;
            limits.bytes_max = limits.bytes_max.saturating_sub(part_bytes);
            limits.events_max = limits.events_max.saturating_sub(events);
            if index + taken < chunk.marks.len() || limits.events_max == 0 {
                break;
            }
        }
        let follows = index > 0
            || match at.checked_sub(1) {
                Some(before) => self.chunks[before].end_nth() == first_nth,
                None => self.is_next(after),
            };
        let records = joined(first_part, &parts);
        Some(Slice { first_nth, first_seq, last_seq, count, records, follows, has_except })
    }

    /// Whether nothing of the topic lies between a seq below the first chunk and that chunk.
    fn is_next(&self, after: Seq) -> bool {
        let Some(first) = self.chunks.front() else { return false };
        // Nothing comes before a topic's first event.
        first.first_nth == Nth(1) || (self.before > 0 && first.first_seq.0 - after.0 <= u64::from(self.before))
    }

    fn seq_of(&self, nth: Nth) -> Option<Seq> {
        let at = self.chunks.partition_point(|chunk| chunk.end_nth() <= nth);
        let chunk = self.chunks.get(at)?;
        let index = usize::try_from(nth.0.checked_sub(chunk.first_nth.0)?).ok()?;
        Some(chunk.seq(index))
    }

    /// Merges the last small chunks if there are many. Gives what was won, in bytes of cost.
    fn merge(&mut self) -> usize {
        if usize::from(self.loose) < MERGE_CHUNKS || self.chunks.len() < MERGE_CHUNKS {
            return 0;
        }
        self.loose = 0;
        let at = self.chunks.len() - MERGE_CHUNKS;
        let (first_nth, first_seq) = (self.chunks[at].first_nth, self.chunks[at].first_seq);
        let (mut next, mut bytes, mut before) = (first_nth, 0, 0);
        for chunk in self.chunks.range(at..) {
            if chunk.first_nth != next {
                return 0;
            }
            next = chunk.end_nth();
            bytes += chunk.records.len();
            before += chunk.cost();
        }
        let mut records = BytesMut::with_capacity(bytes);
        let mut marks = RecordEnds::with_capacity(usize::try_from(next.0 - first_nth.0).unwrap_or(0));
        for chunk in self.chunks.range(at..) {
            for index in 0..chunk.marks.len() {
                let end = records.len() + chunk.marks[index].end as usize;
                let offset = u32::try_from(chunk.seq(index).0 - first_seq.0);
                let (Ok(seq_offset), Ok(end)) = (offset, u32::try_from(end)) else { return 0 };
                marks.push(RecordEnd { seq_offset, end });
            }
            records.put_slice(&chunk.records);
        }
        self.chunks.truncate(at);
        let merged = Chunk::new(records.freeze(), first_nth, first_seq, marks);
        let won = before.saturating_sub(merged.cost());
        self.chunks.push_back(merged);
        won
    }
}

impl Recent {
    pub(crate) fn new(bytes_max: usize) -> Recent {
        Recent { order: VecDeque::new(), bytes: 0, bytes_max }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a chunk to its topic. Chunks of a topic come in the order of their seqs. `before` is the seq of the topic's
    /// event before it, if that is known.
    pub(crate) fn push(&mut self, topic: u32, tail: &mut TopicTail, chunk: Chunk, before: Option<Seq>) {
        let tail = tail.0.get_or_insert_default();
        if tail.chunks.is_empty() {
            tail.before = distance(before, chunk.first_seq);
        }
        self.bytes += chunk.cost();
        self.order.push_back((topic, chunk.last_seq()));
        let is_small = chunk.records.len() < MERGE_BYTES_MAX / MERGE_CHUNKS && !chunk.is_marked;
        tail.loose = if is_small { tail.loose.saturating_add(1) } else { 0 };
        if tail.chunks.capacity() == 0 {
            // Most of a million topics have one.
            tail.chunks.reserve_exact(1);
        }
        tail.chunks.push_back(chunk);
        self.bytes -= tail.merge();
    }

    /// The topic whose oldest chunk is to go next, if the bound is passed.
    pub(crate) fn overdue(&mut self) -> Option<(u32, Seq)> {
        if self.bytes <= self.bytes_max {
            return None;
        }
        self.order.pop_front()
    }

    /// Drops a topic's chunks up to a seq that [`Recent::overdue`] gave.
    pub(crate) fn drop_through(&mut self, topic: &mut TopicTail, through: Seq) {
        let Some(tail) = &mut topic.0 else { return };
        while tail.chunks.front().is_some_and(|chunk| chunk.last_seq() <= through) {
            let Some(chunk) = tail.chunks.pop_front() else { break };
            self.bytes -= chunk.cost();
            let next = tail.chunks.front().filter(|next| next.first_nth == chunk.end_nth());
            tail.before = next.map_or(0, |next| distance(Some(chunk.last_seq()), next.first_seq));
        }
        tail.loose = tail.loose.min(u8::try_from(tail.chunks.len()).unwrap_or(u8::MAX));
        if tail.chunks.is_empty() {
            topic.0 = None;
        }
    }
}

/// How far a seq lies below the one that follows it; zero if that is not known or too far.
fn distance(before: Option<Seq>, seq: Seq) -> u32 {
    before.and_then(|before| seq.0.checked_sub(before.0)).and_then(|far| u32::try_from(far).ok()).unwrap_or(0)
}

/// Parts as one piece of memory, without a copy if there is only one.
pub(crate) fn joined(first: Bytes, more: &[Bytes]) -> Bytes {
    if more.is_empty() {
        return first;
    }
    let mut whole = BytesMut::with_capacity(first.len() + more.iter().map(Bytes::len).sum::<usize>());
    whole.put_slice(&first);
    for part in more {
        whole.put_slice(part);
    }
    whole.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: ReadLimits =
        ReadLimits { events_max: u32::MAX, bytes_max: usize::MAX, seq_max: Seq(u64::MAX), is_mixed: false };

    fn small(number: u64) -> u32 {
        u32::try_from(number).unwrap()
    }

    /// A chunk of one-letter records with these seqs.
    fn chunk(first_nth: u64, seqs: &[u64]) -> Chunk {
        let records: Vec<u8> = seqs.iter().map(|seq| b'a' + (seq % 26) as u8).collect();
        let marks = seqs
            .iter()
            .enumerate()
            .map(|(i, seq)| RecordEnd { seq_offset: small(seq - seqs[0]), end: small(i as u64 + 1) })
            .collect::<RecordEnds>();
        Chunk::new(records.into(), Nth(first_nth), Seq(seqs[0]), marks)
    }

    fn chunks(tail: &TopicTail) -> impl Iterator<Item = &Chunk> {
        tail.0.iter().flat_map(|tail| &tail.chunks)
    }

    fn filled(recent: &mut Recent, chunks: &[(u64, &[u64])]) -> TopicTail {
        let mut tail = TopicTail::default();
        for (nth, seqs) in chunks {
            recent.push(0, &mut tail, chunk(*nth, seqs), None);
        }
        tail
    }

    #[test]
    fn records_of_several_chunks_come_as_one_piece() {
        let mut recent = Recent::new(usize::MAX);
        let tail = filled(&mut recent, &[(5, &[10, 12]), (7, &[20]), (8, &[21, 30, 31])]);
        let slice = tail.after(Seq(10), ALL, |_| None).unwrap();
        assert_eq!((slice.first_nth, slice.first_seq, slice.last_seq, slice.count), (Nth(6), Seq(12), Seq(31), 5));
        assert_eq!(&slice.records[..], b"muvef");
        assert!(slice.follows);
        assert!(!tail.after(Seq(3), ALL, |_| None).unwrap().follows);
        assert_eq!(tail.after(Seq(31), ALL, |_| None), None);
    }

    #[test]
    fn limits_cut_at_records_and_leave_at_least_one() {
        let mut recent = Recent::new(usize::MAX);
        let tail = filled(&mut recent, &[(1, &[1, 2, 3]), (4, &[4, 5])]);
        let count = |events_max, bytes_max, seq_max| {
            let limits = ReadLimits { events_max, bytes_max, seq_max: Seq(seq_max), is_mixed: false };
            tail.after(Seq(1), limits, |_| None).map(|slice| (slice.count, slice.records.len()))
        };
        assert_eq!(count(3, 100, 100), Some((3, 3)));
        assert_eq!(count(100, 2, 100), Some((2, 2)));
        assert_eq!(count(100, 0, 100), Some((1, 1)), "one event always fits");
        assert_eq!(count(100, 100, 4), Some((3, 3)));
        assert_eq!(count(100, 100, 1), None);
        let slice = tail.after(Seq(0), ALL, |seq| Some(Seq(seq.0 + 1))).unwrap();
        assert_eq!(slice.last_seq, Seq(2), "a batch ends with its epoch");
    }

    #[test]
    fn a_hole_in_the_nths_ends_a_batch() {
        let mut recent = Recent::new(usize::MAX);
        let tail = filled(&mut recent, &[(1, &[1]), (3, &[3])]);
        assert_eq!(tail.after(Seq(0), ALL, |_| None).unwrap().count, 1);
        let slice = tail.after(Seq(1), ALL, |_| None).unwrap();
        assert_eq!((slice.first_nth, slice.follows), (Nth(3), false));
    }

    #[test]
    fn what_is_known_of_the_event_before_the_first_chunk_tells_whether_that_follows() {
        let mut recent = Recent::new(usize::MAX);
        let mut tail = TopicTail::default();
        for (before, nth, seqs) in [(Some(Seq(7)), 5, &[10, 11][..]), (Some(Seq(11)), 7, &[20]), (None, 9, &[30])] {
            recent.push(0, &mut tail, chunk(nth, seqs), before);
        }
        let follows = |tail: &TopicTail, after| tail.after(Seq(after), ALL, |_| None).unwrap().follows;
        assert_eq!([6, 7, 9, 10].map(|after| follows(&tail, after)), [false, true, true, true]);
        recent.drop_through(&mut tail, Seq(11));
        assert_eq!([10, 11, 19].map(|after| follows(&tail, after)), [false, true, true]);
        recent.drop_through(&mut tail, Seq(20));
        assert!(!follows(&tail, 29), "between the two is a hole");
    }

    #[test]
    fn many_small_chunks_become_one_and_stay_readable() {
        let mut recent = Recent::new(usize::MAX);
        let mut tail = TopicTail::default();
        for i in 0..100_u64 {
            recent.push(0, &mut tail, chunk(i + 1, &[10 * (i + 1)]), None);
        }
        assert!(chunks(&tail).count() < 12, "{}", chunks(&tail).count());
        let slice = tail.after(Seq(555), ALL, |_| None).unwrap();
        assert_eq!((slice.first_nth, slice.first_seq, slice.count), (Nth(56), Seq(560), 45));
        assert_eq!(tail.seq_of(Nth(77)), Some(Seq(770)));
        assert_eq!(recent.bytes, chunks(&tail).map(Chunk::cost).sum::<usize>());
    }

    #[test]
    fn the_oldest_chunks_go_first_and_the_account_stays_right() {
        let mut recent = Recent::new(10 * (CHUNK_OVERHEAD_BYTES + 9));
        let mut tails = [TopicTail::default(), TopicTail::default()];
        for seq in 1..=200_u64 {
            let topic = usize::from(seq % 3 == 0);
            recent.push(small(topic as u64), &mut tails[topic], chunk(seq, &[seq]), None);
            while let Some((topic, through)) = recent.overdue() {
                recent.drop_through(&mut tails[topic as usize], through);
            }
            assert!(recent.bytes <= recent.bytes_max);
        }
        let cost: usize = tails.iter().flat_map(chunks).map(Chunk::cost).sum();
        assert_eq!(recent.bytes, cost);
        assert!(tails[0].after(Seq(199), ALL, |_| None).is_some());
        assert!(tails[0].after(Seq(0), ALL, |_| None).unwrap().first_seq > Seq(150));
    }
}
