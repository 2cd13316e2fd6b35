//! Records that were read from the store a moment ago, for others who come to the same place: after an interruption many
//! are behind at once. Pure: no store, no lock, no clock of its own. Never holds records that are marked, never more than its bound, and
//! nothing for long.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use redeliver_protocol::seq::Seq;
use redeliver_protocol::time::Instant;

use crate::tail::{Chunk, ReadLimits, Slice};

/// What was read, by topic and last seq.
#[derive(Debug)]
pub(crate) struct ReadCache {
    pieces: BTreeMap<(u32, Seq), Piece>,
    /// In the order in which they came, and when that was. Names also such as were replaced.
    order: VecDeque<(Instant, (u32, Seq))>,
    bytes: usize,
    bytes_max: usize,
    now: Instant,
}

/// All that a topic has above `after`, as far as the chunk goes.
#[derive(Debug)]
struct Piece {
    after: Seq,
    chunk: Chunk,
}

impl ReadCache {
    pub(crate) fn new(bytes_max: usize, now: Instant) -> ReadCache {
        ReadCache { pieces: BTreeMap::new(), order: VecDeque::new(), bytes: 0, bytes_max, now }
    }

    /// Takes what a topic has after a seq: nothing that is retained lies between that and the chunk, or in it without
    /// being there.
    pub(crate) fn put(&mut self, topic: u32, after: Seq, chunk: Chunk) {
        let (cost, key) = (cost(&chunk), (topic, chunk.last_seq()));
        if cost > self.bytes_max || self.pieces.get(&key).is_some_and(|piece| piece.after <= after) {
            return;
        }
        self.bytes += cost;
        if let Some(replaced) = self.pieces.insert(key, Piece { after, chunk }) {
            self.bytes -= self::cost(&replaced.chunk);
        } else {
            self.order.push_back((self.now, key));
        }
        while self.bytes > self.bytes_max {
            self.drop_oldest();
        }
    }

    /// What a topic has after a seq, if it is here. Nothing that is retained lies before its first record.
    pub(crate) fn after(&self, topic: u32, after: Seq, limits: &ReadLimits) -> Option<Slice> {
        let (_, piece) = self.pieces.range((topic, after.next())..=(topic, Seq(u64::MAX))).next()?;
        let slice = piece.chunk.after(after, limits).filter(|_| piece.after <= after)?;
        Some(Slice { follows: true, ..slice })
    }

    /// Lets go of what has been here for long.
    pub(crate) fn tick(&mut self, now: Instant) {
        self.now = self.now.max(now);
        while self.order.front().is_some_and(|(came, _)| *came + KEPT <= self.now) {
            self.drop_oldest();
        }
        if self.order.is_empty() {
            self.order = VecDeque::new();
        }
    }

    fn drop_oldest(&mut self) {
        let Some((_, key)) = self.order.pop_front() else { return };
        if let Some(piece) = self.pieces.remove(&key) {
            self.bytes -= cost(&piece.chunk);
        }
    }
}

fn cost(chunk: &Chunk) -> usize {
    chunk.cost() + PIECE_OVERHEAD_BYTES
}

/// What a piece costs beside its chunk, in bytes.
const PIECE_OVERHEAD_BYTES: usize = 100;

/// How long a piece is kept: as long as those who were cut off together take to come back.
const KEPT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use redeliver_protocol::seq::Nth;

    use super::*;
    use crate::tail::RecordEnd;

    const ALL: ReadLimits =
        ReadLimits { events_max: u32::MAX, bytes_max: usize::MAX, seq_max: Seq(u64::MAX), is_mixed: false };

    /// Records of one byte, whose nths are their seqs halved.
    fn chunk(seqs: std::ops::RangeInclusive<u32>) -> Chunk {
        let first = *seqs.start();
        let marks: Vec<_> =
            seqs.step_by(2).zip(1..).map(|(seq, end)| RecordEnd { seq_offset: seq - first, end }).collect();
        Chunk::new(Bytes::from(vec![7; marks.len()]), Nth(u64::from(first / 2)), Seq(u64::from(first)), marks)
    }

    fn found(read_cache: &ReadCache, topic: u32, after: u64) -> Option<(u64, u64)> {
        let slice = read_cache.after(topic, Seq(after), &ALL)?;
        assert!(slice.follows);
        Some((slice.first_seq.0, slice.last_seq.0))
    }

    #[test]
    fn what_was_read_after_a_place_is_there_for_all_places_that_it_covers_and_no_other() {
        let mut read_cache = ReadCache::new(10_000, Instant::default());
        read_cache.put(1, Seq(5), chunk(10..=20));
        read_cache.put(1, Seq(20), chunk(22..=30));
        assert_eq!(
            [4, 5, 9, 10, 11, 19].map(|after| found(&read_cache, 1, after)),
            [None, Some((10, 20)), Some((10, 20)), Some((12, 20)), Some((12, 20)), Some((20, 20))]
        );
        assert_eq!([20, 29, 30].map(|after| found(&read_cache, 1, after)), [Some((22, 30)), Some((30, 30)), None]);
        assert_eq!([0, 2].map(|topic| found(&read_cache, topic, 5)), [None, None]);
        read_cache.put(1, Seq(3), chunk(10..=20));
        assert_eq!(found(&read_cache, 1, 3), Some((10, 20)), "the one that covers more counts");
        let few = ReadLimits { events_max: 2, ..ALL };
        assert_eq!(read_cache.after(1, Seq(12), &few).map(|slice| slice.last_seq), Some(Seq(16)));
        let bounded = ReadLimits { seq_max: Seq(9), ..ALL };
        assert_eq!(read_cache.after(1, Seq(5), &bounded), None);
    }

    #[test]
    fn the_oldest_goes_first_and_nothing_is_kept_for_long() {
        let most = 5 * cost(&chunk(10..=20));
        let mut read_cache = ReadCache::new(most, Instant::default());
        for topic in 0..20 {
            read_cache.put(topic, Seq(5), chunk(10..=20));
            read_cache.put(topic, Seq(4), chunk(10..=20));
            assert!(read_cache.bytes <= most);
        }
        assert_eq!(
            (0..20).filter(|topic| found(&read_cache, *topic, 5).is_some()).collect::<Vec<_>>(),
            [15, 16, 17, 18, 19]
        );
        read_cache.tick(Instant::default() + KEPT / 2);
        read_cache.put(20, Seq(5), chunk(10..=20));
        read_cache.tick(Instant::default() + KEPT);
        assert_eq!((read_cache.pieces.len(), read_cache.order.len()), (1, 1));
        read_cache.tick(Instant::default() + KEPT * 2);
        assert_eq!((read_cache.bytes, read_cache.order.capacity()), (0, 0));
    }
}
