//! The row of openings of a log. It alone judges whether a position belongs to this log's history.
//!
//! Epoch i wrote the seqs above its own start, up to the start of the next one; the last epoch is being written.

use std::collections::BTreeMap;

use redeliver_protocol::seq::{Epoch, Position, Seq};

use crate::layout::value::EpochStart;

/// Most epochs that are kept. A reader that comes back after more openings of the log than this is told a gap.
pub(crate) const EPOCHS_MAX: usize = 65_536;

/// The epochs, oldest first. Never empty once a log is open.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lineage {
    epochs: Vec<EpochStart>,
    by_epoch: BTreeMap<Epoch, usize>,
}

impl Lineage {
    pub(crate) fn push(&mut self, entry: EpochStart) {
        self.by_epoch.insert(entry.epoch, self.epochs.len());
        self.epochs.push(entry);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.epochs.is_empty()
    }

    pub(crate) fn contains(&self, epoch: Epoch) -> bool {
        self.by_epoch.contains_key(&epoch)
    }

    /// The epoch that is being written.
    pub(crate) fn current(&self) -> Epoch {
        self.epochs.last().map_or(Epoch::default(), |entry| entry.epoch)
    }

    /// The position of an event: its seq, with the epoch in which it was written. (Of seq zero: the first epoch.)
    pub(crate) fn position(&self, seq: Seq) -> Position {
        Position::new(self.epochs.get(self.index(seq)).map_or(Epoch::default(), |entry| entry.epoch), seq)
    }

    /// The last seq of the epoch in which `seq` was written; nothing for the current epoch.
    pub(crate) fn end(&self, seq: Seq) -> Option<Seq> {
        self.epochs.get(self.index(seq) + 1).map(|next| next.start)
    }

    /// Whether a position is part of this history, whose newest event is `head`.
    pub(crate) fn is_valid(&self, position: Position, head: Seq) -> bool {
        let Some(&index) = self.by_epoch.get(&position.epoch) else { return false };
        let end = self.epochs.get(index + 1).map_or(head, |next| next.start);
        self.epochs[index].start <= position.seq && position.seq <= end
    }

    /// The epochs that began after a position of this history and below a seq, each with the head with which it began.
    pub(crate) fn began_between(&self, from: Position, to: Seq) -> Vec<Position> {
        let Some(&index) = self.by_epoch.get(&from.epoch) else { return Vec::new() };
        let later = self.epochs[index + 1..].iter().take_while(|entry| entry.start < to);
        later.map(|entry| Position::new(entry.epoch, entry.start)).collect()
    }

    /// The last place that this history shares with a reader who has been at `position`: in an epoch that both know,
    /// everything up to where it ends here, and no further than the reader has come.
    pub(crate) fn common(&self, position: Position, head: Seq) -> Option<Position> {
        let &index = self.by_epoch.get(&position.epoch)?;
        let end = self.epochs.get(index + 1).map_or(head, |next| next.start);
        let seq = position.seq.min(end);
        (self.epochs[index].start <= seq).then_some(Position { seq, ..position })
    }

    fn index(&self, seq: Seq) -> usize {
        self.epochs.partition_point(|entry| entry.start < seq).saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lineage(starts: &[u64]) -> Lineage {
        let mut lineage = Lineage::default();
        for (index, start) in starts.iter().enumerate() {
            lineage.push(EpochStart { epoch: epoch(index), start: Seq(*start) });
        }
        lineage
    }

    fn epoch(index: usize) -> Epoch {
        Epoch([u8::try_from(index).unwrap() + 1; 16])
    }

    #[test]
    fn an_event_belongs_to_the_epoch_that_wrote_it() {
        let lineage = lineage(&[0, 10, 10, 15]);
        for (seq, expected, end) in
            [(0, 0, Some(10)), (1, 0, Some(10)), (10, 0, Some(10)), (11, 2, Some(15)), (16, 3, None)]
        {
            assert_eq!(lineage.position(Seq(seq)), Position::new(epoch(expected), Seq(seq)));
            assert_eq!(lineage.end(Seq(seq)), end.map(Seq), "{seq}");
        }
    }

    #[test]
    fn a_position_is_valid_from_its_epochs_start_to_its_end() {
        let lineage = lineage(&[0, 10, 10, 15]);
        let valid = |index, seq| lineage.is_valid(Position::new(epoch(index), Seq(seq)), Seq(20));
        assert!(valid(0, 0) && valid(0, 10) && !valid(0, 11));
        assert!(!valid(1, 9) && valid(1, 10) && !valid(1, 11));
        assert!(valid(2, 10) && valid(2, 15) && !valid(2, 16));
        assert!(!valid(3, 14) && valid(3, 15) && valid(3, 20) && !valid(3, 21));
        assert!(!valid(4, 1), "an epoch that this log never had");
    }

    #[test]
    fn a_reader_that_went_on_in_a_lost_part_of_an_epoch_shares_the_rest_of_it() {
        let lineage = lineage(&[0, 10, 10, 15]);
        let common = |index, seq| lineage.common(Position::new(epoch(index), Seq(seq)), Seq(20)).map(|p| p.seq.0);
        assert_eq!((common(0, 7), common(0, 10), common(0, 99)), (Some(7), Some(10), Some(10)));
        assert_eq!((common(1, 10), common(1, 99), common(2, 99)), (Some(10), Some(10), Some(15)));
        assert_eq!((common(3, 99), common(3, 14), common(4, 1)), (Some(20), None, None));
    }
}
