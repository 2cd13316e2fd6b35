//! What is asked of a log's history and what it answers, in terms of seqs and events alone: where to start, batches,
//! gaps, cursors, what became of an emit. Shared by the session machines, the wire and the log.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::RefusalCode;
use crate::limits::EARLIER_EPOCHS_MAX;
use crate::name::TopicName;
use crate::redelivery::DeliveredThrough;
use crate::seq::{EmitNumber, Epoch, InstanceId, Nth, Position, Seq};
use crate::time::Timestamp;

/// Where a subscription starts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Start {
    /// After the stored cursor of this durable subscriber; a subscriber without one starts at latest. An `at_least`
    /// that is further on in the same history wins over the stored cursor.
    Resume {
        /// What the app itself knows to be handled.
        at_least: Option<Place>,
    },
    /// After the newest event.
    #[default]
    Latest,
    /// With the oldest event that is retained.
    Earliest,
    /// After a position that the reader has handled.
    After(Place),
    /// After this seq, whatever the epoch: for people who read a number from a screen. Programs resume from positions. A
    /// seq that the log has not reached means its end: the reader passes over what comes before the seq.
    AfterSeq(Seq),
    /// With the first event at or after this time.
    Since(Timestamp),
    /// With the first event of the last so long, by the server's clock.
    Within(Duration),
    /// With the last so many events of the topic.
    Last(u64),
    /// After the stored cursor of this durable subscriber, like `Resume`; a subscriber without one, which brings no place
    /// either, starts at `first`. On the wire only with [`Features::FIRST_START`](crate::features::Features::FIRST_START).
    ResumeOr {
        /// What the app itself knows to be handled.
        at_least: Option<Place>,
        /// Where the server begins that does not know this subscription.
        first: FirstStart,
    },
}

/// Where a durable subscription starts that its server does not know yet: a [`Start`] that names no place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum FirstStart {
    /// With the oldest event that is retained: nothing that was emitted before the first deployment is skipped.
    #[default]
    Earliest,
    /// After the newest event.
    Latest,
    /// After this seq, whatever the epoch.
    AfterSeq(Seq),
    /// With the first event at or after this time.
    Since(Timestamp),
    /// With the first event of the last so long, by the server's clock.
    Within(Duration),
    /// With the last so many events of the topic.
    Last(u64),
}

impl From<FirstStart> for Start {
    fn from(first: FirstStart) -> Start {
        match first {
            FirstStart::Earliest => Start::Earliest,
            FirstStart::Latest => Start::Latest,
            FirstStart::AfterSeq(seq) => Start::AfterSeq(seq),
            FirstStart::Since(time) => Start::Since(time),
            FirstStart::Within(duration) => Start::Within(duration),
            FirstStart::Last(count) => Start::Last(count),
        }
    }
}

/// What a reader knows of its own place: the position it has handled, and what lets a server judge it in full.
///
/// An app stores it as text (`Display` and `FromStr`, also its form in JSON): at most 1.2 KiB, and equal texts are equal
/// places. A position alone is not enough: without the lineage a server that was restored from a backup cannot tell where
/// this reader's history left its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Place {
    /// The last position that was handled.
    pub position: Position,
    /// The nth that belongs to it, which makes the count of a gap exact. Zero with a zero seq.
    pub nth: Nth,
    /// The reader's last position in each of the few epochs before that one, newest first, at most
    /// [`crate::limits::EARLIER_EPOCHS_MAX`]. If the log has gone back, the newest that is valid is the last common one.
    /// Shared: every event that is handed over names them.
    pub earlier: Arc<[Position]>,
}

impl Gap {
    /// The reader's nth before the gap, so far as it follows from it: zero, which stands for unknown, if the count is only
    /// a bound.
    #[must_use]
    pub fn nth_before(&self) -> Nth {
        if self.count > 0 && !self.count_is_exact {
            return Nth::ZERO;
        }
        Nth(self.nth_through.0.saturating_sub(self.count))
    }
}

impl Start {
    /// The place that the reader itself brings, if it brings one.
    #[must_use]
    pub fn known(&self) -> Option<&Place> {
        match self {
            Start::Resume { at_least } | Start::ResumeOr { at_least, .. } => at_least.as_ref(),
            Start::After(place) => Some(place),
            Start::Latest
            | Start::Earliest
            | Start::AfterSeq(_)
            | Start::Since(_)
            | Start::Within(_)
            | Start::Last(_) => None,
        }
    }
}

impl Start {
    /// Whether a stored cursor counts, if there is one. Any other start of a durable subscription moves its cursor.
    #[must_use]
    pub fn resumes(&self) -> bool {
        match self {
            Start::Resume { .. } | Start::ResumeOr { .. } => true,
            Start::Latest
            | Start::Earliest
            | Start::After(_)
            | Start::AfterSeq(_)
            | Start::Since(_)
            | Start::Within(_)
            | Start::Last(_) => false,
        }
    }

    /// Goes on where the durable subscription is, or starts like this if its server does not know it. A place that is
    /// named counts as handled in both cases.
    #[must_use]
    pub fn first(start: Start) -> Start {
        let (at_least, first) = match start {
            Start::Resume { at_least } => (at_least, FirstStart::default()),
            Start::ResumeOr { at_least, first } => (at_least, first),
            Start::After(place) => (Some(place), FirstStart::default()),
            Start::Latest => (None, FirstStart::Latest),
            Start::Earliest => (None, FirstStart::Earliest),
            Start::AfterSeq(seq) => (None, FirstStart::AfterSeq(seq)),
            Start::Since(time) => (None, FirstStart::Since(time)),
            Start::Within(duration) => (None, FirstStart::Within(duration)),
            Start::Last(count) => (None, FirstStart::Last(count)),
        };
        Start::ResumeOr { at_least, first }
    }

    /// What a [`Start::ResumeOr`] says: the place that the reader brings, and where it starts if nobody knows it. Returns
    /// `None` for every other start.
    #[must_use]
    pub fn as_first(&self) -> Option<(Option<&Place>, FirstStart)> {
        let Start::ResumeOr { at_least, first } = self else { return None };
        Some((at_least.as_ref(), *first))
    }

    /// Returns a start that names "before everything" ([`Place::default`]) in the way that every server understands: that
    /// place is in no history, so it cannot be named as one.
    #[must_use]
    pub fn without_empty_place(self) -> Start {
        let is_empty = |place: &Place| *place == Place::default();
        match self {
            Start::After(place) if is_empty(&place) => Start::AfterSeq(Seq::ZERO),
            Start::Resume { at_least } => Start::Resume { at_least: at_least.filter(|place| !is_empty(place)) },
            Start::ResumeOr { at_least, first } => {
                Start::ResumeOr { at_least: at_least.filter(|place| !is_empty(place)), first }
            }
            Start::Latest
            | Start::Earliest
            | Start::After(_)
            | Start::AfterSeq(_)
            | Start::Since(_)
            | Start::Within(_)
            | Start::Last(_) => self,
        }
    }

    /// Returns the start of a reader whose place is kept by nobody else: `ResumeOr` without what a server may know.
    #[must_use]
    pub fn of_unknown(self) -> Start {
        match self.as_first() {
            Some((Some(place), _)) => Start::After(place.clone()),
            Some((None, first)) => first.into(),
            None => self,
        }
    }
}

impl Place {
    /// A place of which nothing earlier is known.
    #[must_use]
    pub fn new(position: Position, nth: Nth) -> Place {
        Place { position, nth, earlier: [].into() }
    }

    /// Moves on to a later position. If it is of another epoch, the last position of the one that is left is kept.
    pub fn advance(&mut self, position: Position, nth: Nth) {
        let left = std::mem::replace(&mut self.position, position);
        self.nth = nth;
        if left.epoch == position.epoch {
            return;
        }
        let others = self.earlier.iter().filter(|other| other.epoch != position.epoch && other.epoch != left.epoch);
        // The default position is no place in any history: it stands for "before everything".
        let left = (left != Position::default()).then_some(left);
        self.earlier = left.iter().chain(others).copied().take(EARLIER_EPOCHS_MAX).collect();
    }

    /// This place moved on to a later position.
    #[must_use]
    pub fn advanced(&self, position: Position, nth: Nth) -> Place {
        let mut place = self.clone();
        place.advance(position, nth);
        place
    }
}

/// Where an event or a gap stands in what one subscription has shown: an app that stores `after` in the transaction of
/// the event's effect, on condition that `before` is what is stored, does each effect once, also where two processes
/// overlap.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PlaceStep {
    /// The place of the event or gap that was shown before this one; of the first, where the subscription began. That is
    /// the place that was asked for (`Start::After`, `at_least`), equal in every part, unless the subscription turned out
    /// to begin elsewhere.
    pub before: Place,
    /// This one's own place.
    pub after: Place,
}

impl PlaceStep {
    /// Returns the step from one place to the next.
    #[must_use]
    pub fn new(before: Place, after: Place) -> PlaceStep {
        PlaceStep { before, after }
    }
}

/// A durable cursor: how far a subscription has handled its topic. Kept by the server for a durable subscriber, or by a
/// client in its cursor store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Cursor {
    /// The last handled position, its nth, and the earlier epochs'.
    pub place: Place,
    /// The redelivery mark: what lies above `place.nth` and is covered by this is marked `redelivered` when it is
    /// delivered again.
    pub delivered_through: DeliveredThrough,
    /// The client instance for which the server saved it last. `None` in a client's cursor store, and in cursors that an
    /// earlier version of the server saved.
    #[serde(skip)]
    pub reader: Option<InstanceId>,
}

impl Cursor {
    /// Returns a cursor at this place, with this redelivery mark, of no reader in particular.
    #[must_use]
    pub fn new(place: Place, delivered_through: DeliveredThrough) -> Cursor {
        Cursor { place, delivered_through, reader: None }
    }

    /// Returns the same cursor as saved for this client instance.
    #[must_use]
    pub fn of_reader(self, reader: Option<InstanceId>) -> Cursor {
        Cursor { reader, ..self }
    }
}

/// Where a subscription turned out to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Delivery begins after this position (after the gap, if there is one).
    pub after: Position,
    /// The nth of the topic's last event at or before `after`: the next one delivered is `nth + 1`.
    pub nth: Nth,
    /// The log's head when this was decided. History ends and live begins there.
    pub head: Position,
    /// How many events of the topic lie between `after` and `head`.
    pub pending: u64,
    /// What the reader should have got but cannot.
    pub gap: Option<Gap>,
    /// The redelivery mark that the reader is told: that of the stored cursor, or less if more is known
    /// ([`Marks`](crate::server::marks::Marks)); `NOTHING` if there is none.
    pub delivered_through: DeliveredThrough,
    /// The redelivery mark of the stored cursor; `NOTHING` if there is none.
    pub stored_through: DeliveredThrough,
    /// The client instance for which the stored cursor was saved last.
    pub reader: Option<InstanceId>,
    /// What the durable subscriber's stored cursor says to be handled, if there is one. It may lie before `after`: a
    /// client that comes back starts after what was handed over, and acknowledges the rest of it later. A cursor of
    /// another history than this log's is named only if it is what `gap` begins with.
    pub stored: Option<Place>,
    /// The epochs that began between `stored` and `after` (or the gap's beginning), oldest first, each with the head with
    /// which it began: what tells in which epoch an event between the two was written, when only its seq is known.
    pub epochs: Vec<Position>,
}

impl Opened {
    /// Returns whether the reader's place belongs to another history than what is delivered.
    #[must_use]
    pub fn breaks(&self) -> bool {
        self.gap.as_ref().is_some_and(|gap| gap.cause == GapCause::EpochChanged)
    }
}

/// A range of a topic's history that is no longer there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The reader's position before the gap (exclusive). After an epoch change it may belong to a history that this log
    /// does not know.
    pub after: Position,
    /// The gap's end (inclusive): what acknowledges it, and where delivery goes on.
    pub through: Position,
    /// The topic's nth at `through`.
    pub nth_through: Nth,
    /// How many events of this log's topic the reader will not get, as exact as `count_is_exact` says. After an epoch
    /// change that says nothing of the other history: what it held beyond `after` is known to nobody any more.
    pub count: u64,
    /// False if the reader's own nth was not known, and `count` is only an upper bound: the topic's nth at the end, and no
    /// more than there are seqs between `after` and `through`.
    pub count_is_exact: bool,
    /// Why.
    pub cause: GapCause,
}

/// Why events are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum GapCause {
    /// Retention by age removed them.
    RetentionAge,
    /// Retention by bytes or by count removed them.
    RetentionSize,
    /// An operator purged them.
    Purged,
    /// The log is damaged there.
    LogDamaged,
    /// The log is not the one that the reader's position belongs to: it was wiped, restored or has gone back.
    EpochChanged,
}

impl GapCause {
    /// The cause as an identifier, for programs: `retention_age`, `epoch_changed`, …
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.texts().0
    }

    /// The cause as a sentence without a capital and a full stop, for people.
    #[must_use]
    pub fn description(self) -> &'static str {
        self.texts().1
    }

    fn texts(self) -> (&'static str, &'static str) {
        match self {
            GapCause::RetentionAge => ("retention_age", "they were older than the server keeps events"),
            GapCause::RetentionSize => ("retention_size", "the server keeps only so many bytes or events"),
            GapCause::Purged => ("purged", "an operator removed them"),
            GapCause::LogDamaged => ("log_damaged", "the server's log is damaged there"),
            GapCause::EpochChanged => ("epoch_changed", "the server's log was wiped, restored or has gone back"),
        }
    }
}

impl fmt::Display for GapCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.description())
    }
}

/// A run of one topic's events, in order, without holes, all written in one epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The epoch in which they were written.
    pub epoch: Epoch,
    /// How many: at least 1.
    pub count: u32,
    /// The nth of the first.
    pub first_nth: Nth,
    /// The seq of the last.
    pub last_seq: Seq,
    /// Their wire records, one after another.
    pub records: Bytes,
    /// Who is not to get the event: whoever follows one of these topics. There is only one event then, as there is
    /// wherever a record's kind is marked ([`crate::event::RecordKind::is_marked`]).
    pub except: Option<Arc<[TopicName]>>,
    /// Whether nothing of the topic lay behind them when they were read. Whoever is woken for what comes later need not
    /// read once more to find the end.
    pub is_end: bool,
}

impl Batch {
    /// The nth of the last event.
    #[must_use]
    pub fn last_nth(&self) -> Nth {
        Nth(self.first_nth.0 + u64::from(self.count) - 1)
    }

    /// The position of the last event.
    #[must_use]
    pub fn last_position(&self) -> Position {
        Position::new(self.epoch, self.last_seq)
    }
}

/// What a read of a topic after a seq found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    /// The next events.
    Batch(Batch),
    /// The next events are no longer there; go on after the gap. (Its `after` is the seq that was read from.)
    Gap(Gap),
    /// Nothing of this topic lies after the seq now.
    End,
}

/// What became of consecutive emits of one publisher: a run of numbers that share one fate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmitRun {
    /// The first number of the run.
    pub first: EmitNumber,
    /// How many numbers: at least 1.
    pub count: u32,
    /// Their fate.
    pub fate: EmitFate,
}

impl EmitRun {
    /// The last number of the run.
    #[must_use]
    pub fn last(&self) -> EmitNumber {
        EmitNumber(self.first.0 + u64::from(self.count) - 1)
    }

    /// Takes `next` into this run if it follows and shares its fate. Returns whether it did; nothing is lost by it.
    pub fn try_extend(&mut self, next: &EmitRun) -> bool {
        let count = u64::from(self.count);
        let follows = |at: Position, next: Position| at.epoch == next.epoch && at.seq.saturating_add(count) == next.seq;
        let has_same_fate = match (self.fate, next.fate) {
            (EmitFate::Stored(at), EmitFate::Stored(then)) | (EmitFate::Duplicate(at), EmitFate::Duplicate(then)) => {
                follows(at, then)
            }
            (EmitFate::DuplicateForgotten, EmitFate::DuplicateForgotten) => true,
            (EmitFate::Refused(code), EmitFate::Refused(other)) => code == other,
            (
                EmitFate::Stored(_) | EmitFate::Duplicate(_) | EmitFate::DuplicateForgotten | EmitFate::Refused(_),
                EmitFate::Stored(_) | EmitFate::Duplicate(_) | EmitFate::DuplicateForgotten | EmitFate::Refused(_),
            ) => false,
        };
        let numbers_follow = self.first.0.checked_add(count) == Some(next.first.0);
        let Some(total) = self.count.checked_add(next.count).filter(|_| numbers_follow && has_same_fate) else {
            return false;
        };
        self.count = total;
        true
    }
}

/// What became of an emit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EmitFate {
    /// Stored, durable. The first of the run is at this position; the others follow with seqs one higher each.
    Stored(Position),
    /// Already stored by an earlier try, durable, and not stored again. Numbered like `Stored`.
    Duplicate(Position),
    /// Already taken by an earlier try, so long ago that its seq is no longer known.
    DuplicateForgotten,
    /// Not stored.
    Refused(RefusalCode),
}

impl EmitFate {
    /// Whether the event is in the log.
    #[must_use]
    pub fn is_stored(&self) -> bool {
        match self {
            EmitFate::Stored(_) | EmitFate::Duplicate(_) | EmitFate::DuplicateForgotten => true,
            EmitFate::Refused(_) => false,
        }
    }
}

/// What the log knows of a publisher when it connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PublisherState {
    /// Nothing, and the publisher claims nothing: it starts with number 1.
    New,
    /// Everything up to this number is decided.
    Reached(EmitNumber),
    /// Nothing, although the publisher says that it has emitted before: the state expired, or the log was lost.
    Forgotten,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(epoch: u8, seq: u64) -> Position {
        Position::new(Epoch([epoch; 16]), Seq(seq))
    }

    #[test]
    fn a_place_remembers_where_it_left_the_few_epochs_before() {
        let mut known = Place::default();
        for (epoch, seq) in [(1, 5), (1, 9), (2, 10), (2, 14), (3, 20)] {
            known.advance(at(epoch, seq), Nth(seq));
        }
        assert_eq!((known.position, known.nth), (at(3, 20), Nth(20)));
        assert_eq!(*known.earlier, [at(2, 14), at(1, 9)]);
        for epoch in 4..20 {
            known.advance(at(epoch, 20 + u64::from(epoch)), Nth(1));
        }
        assert_eq!(known.earlier.len(), EARLIER_EPOCHS_MAX);
        assert_eq!(known.earlier[0], at(18, 38));
    }

    #[test]
    fn a_place_that_goes_back_to_an_epoch_names_it_only_once() {
        let mut known = Place::new(at(1, 100), Nth(100));
        known.advance(at(2, 120), Nth(120));
        known.advance(at(1, 80), Nth(80));
        assert_eq!((known.position, &known.earlier[..]), (at(1, 80), &[at(2, 120)][..]));
    }

    #[test]
    fn a_run_takes_in_what_follows_it_with_the_same_fate_and_nothing_else() {
        let run = |first, count, fate| EmitRun { first: EmitNumber(first), count, fate };
        let stored = run(5, 3, EmitFate::Stored(at(1, 10)));
        let extended = |mut run: EmitRun, next: EmitRun| run.try_extend(&next).then_some(run);

        assert_eq!(extended(stored, run(8, 2, EmitFate::Stored(at(1, 13)))), Some(run(5, 5, stored.fate)));
        let refused = EmitFate::Refused(RefusalCode::FORBIDDEN);
        assert_eq!(extended(run(1, 1, refused), run(2, 1, refused)), Some(run(1, 2, refused)));
        for other in [
            run(9, 2, EmitFate::Stored(at(1, 13))),
            run(8, 2, EmitFate::Stored(at(1, 14))),
            run(8, 2, EmitFate::Stored(at(2, 13))),
            run(8, 2, EmitFate::Duplicate(at(1, 13))),
            run(8, 2, EmitFate::DuplicateForgotten),
            run(8, 2, refused),
            run(8, u32::MAX, EmitFate::Stored(at(1, 13))),
        ] {
            assert_eq!(extended(stored, other), None, "{other:?}");
        }
        assert_eq!(extended(run(1, 1, refused), run(2, 1, EmitFate::Refused(RefusalCode::TOO_LARGE))), None);
    }

    #[test]
    fn a_start_says_where_a_reader_begins_that_nobody_knows() {
        let place = Place::new(at(1, 7), Nth(2));
        let resume = |at_least| Start::ResumeOr { at_least, first: FirstStart::Last(3) };
        assert_eq!(resume(Some(place.clone())).of_unknown(), Start::After(place));
        assert_eq!(resume(None).of_unknown(), Start::Last(3));
        assert_eq!(Start::Resume { at_least: None }.of_unknown(), Start::Resume { at_least: None });
    }
}
