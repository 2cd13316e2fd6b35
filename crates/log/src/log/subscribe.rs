//! Where a subscription starts. Judges a reader's position against the lineage, never changes anything, and tells what
//! the reader has missed for good.

use std::sync::Arc;
use std::time::Duration;

use redeliver_protocol::history::{Cursor, Gap, GapCause, Opened, Place, Start};
use redeliver_protocol::name::TopicName;
use redeliver_protocol::redelivery::DeliveredThrough;
use redeliver_protocol::seq::{Nth, Position, Seq};
use redeliver_protocol::time::Timestamp;

use super::Log;
use crate::error::LogError;
use crate::layout::value::Floor;
use crate::lineage::Lineage;

/// What the log was when a subscription was opened: all answers are about this moment.
struct OpeningView<'a> {
    log: &'a Log,
    topic: &'a TopicName,
    head: Position,
    floor: Floor,
    lineage: Arc<Lineage>,
    last_nth: Nth,
}

impl Log {
    pub(super) fn open_topic(
        &self,
        topic: &TopicName,
        start: &Start,
        stored: Option<&Cursor>,
        now: Timestamp,
    ) -> Result<Opened, LogError> {
        // What is retained may go while it is looked at. Then the answer would be about no moment at all.
        for _ in 0..TRIES_MAX {
            let (moment, generation) = self.moment(topic);
            let opened = moment.open(start, stored, now)?;
            let opened = match stored {
                Some(stored) => moment.named(opened, stored),
                None => opened,
            };
            if self.shared.read().generation == generation {
                return Ok(opened);
            }
        }
        Err(LogError::Failed("a subscription never found the log at rest".to_owned()))
    }

    fn moment<'a>(&'a self, topic: &'a TopicName) -> (OpeningView<'a>, u64) {
        let shared = self.shared.read();
        let moment = OpeningView {
            log: self,
            topic,
            head: shared.head_position(),
            floor: shared.floor,
            lineage: Arc::clone(&shared.lineage),
            last_nth: shared.topics.find(topic.as_str()).map_or(Nth::ZERO, |(_, entry)| entry.last_nth),
        };
        (moment, shared.generation)
    }
}

/// The paced clock is looked at more often than this.
const LOOKED_AT: Duration = Duration::from_secs(2);

/// So often an opening starts again because the log is being moved, before it is given up.
const TRIES_MAX: usize = 64;

impl OpeningView<'_> {
    fn open(&self, start: &Start, stored: Option<&Cursor>, now: Timestamp) -> Result<Opened, LogError> {
        match start {
            Start::Resume { at_least } => self.resume(at_least.as_ref(), stored),
            Start::ResumeOr { at_least: None, first } if stored.is_none() => self.open(&Start::from(*first), None, now),
            Start::ResumeOr { at_least, .. } => self.resume(at_least.as_ref(), stored),
            Start::Latest => Ok(self.latest()),
            Start::Earliest => self.at(self.floor.seq),
            Start::After(known) => self.after(known),
            Start::AfterSeq(seq) => self.after_seq(*seq),
            Start::Since(time) => self.since(*time, now),
            Start::Within(duration) => self.since(now.before(*duration), now),
            Start::Last(count) => self.last(*count),
            // One that this log does not know yet. Nothing is passed over by it.
            _ => self.at(self.floor.seq),
        }
    }

    /// Names the stored cursor in an answer, and marks what may have been handed over before.
    fn named(&self, mut opened: Opened, stored: &Cursor) -> Opened {
        (opened.delivered_through, opened.stored_through) = (stored.delivered_through, stored.delivered_through);
        opened.reader = stored.reader;
        let known = &stored.place;
        let start = opened.gap.as_ref().map_or(opened.after, |gap| gap.after);
        if self.is_valid(known.position) {
            if self.is_valid(start) {
                opened.epochs = self.lineage.began_between(known.position, start.seq);
            }
            opened.stored = Some(known.clone());
        } else if start == known.position {
            opened.stored = Some(known.clone());
        }
        opened
    }

    fn resume(&self, at_least: Option<&Place>, stored: Option<&Cursor>) -> Result<Opened, LogError> {
        let (Some(cursor), Some(at_least)) = (stored, at_least) else {
            return match stored.map(|cursor| &cursor.place).or(at_least) {
                Some(known) => self.after(known),
                None => Ok(self.latest()),
            };
        };
        match (self.is_valid(cursor.place.position), self.is_valid(at_least.position)) {
            (true, true) if at_least.position.seq > cursor.place.position.seq => self.after(at_least),
            (true, true) => self.after(&cursor.place),
            (false, true) => self.after(at_least),
            // The app's own position belongs to a history that is gone. The server's cursor is a common place, but the app
            // may have been further when the histories parted.
            (true, false) => {
                let common = self.last_common(at_least).into_iter().chain([cursor.place.position]);
                self.after_epoch_change(at_least.position, common.max_by_key(|common| common.seq))
            }
            (false, false) => {
                let common = self.last_common(at_least).or_else(|| self.last_common(&cursor.place));
                self.after_epoch_change(at_least.position, common)
            }
        }
    }

    fn latest(&self) -> Opened {
        self.opened(self.head, self.last_nth, None)
    }

    /// From the first retained event after a seq, without a gap.
    fn at(&self, seq: Seq) -> Result<Opened, LogError> {
        let seq = seq.max(self.floor.seq);
        let (nth, _) = self.next_at(seq, true)?;
        Ok(self.opened(self.position(seq), nth, None))
    }

    fn after(&self, known: &Place) -> Result<Opened, LogError> {
        if !self.is_valid(known.position) {
            return self.after_epoch_change(known.position, self.last_common(known));
        }
        let nth = (known.nth > Nth::ZERO || known.position.seq == Seq::ZERO).then_some(known.nth);
        self.after_valid(known.position, nth)
    }

    fn after_seq(&self, seq: Seq) -> Result<Opened, LogError> {
        if seq >= self.head.seq {
            return Ok(self.latest());
        }
        self.after_valid(self.position(seq), (seq == Seq::ZERO).then_some(Nth::ZERO))
    }

    /// After a position of this history. What the reader lacks shows in the nth: its own, if it is known, against the
    /// topic's at the first place from which everything is still there.
    fn after_valid(&self, position: Position, known_nth: Option<Nth>) -> Result<Opened, LogError> {
        let seq = position.seq.max(self.floor.seq);
        let (nth, next) = self.next_at(seq, true)?;
        let is_trimmed = position.seq < self.floor.seq;
        let count = nth.since(known_nth.unwrap_or(Nth::ZERO));
        let next_or_head = next.map_or(self.head.seq, |next| Seq(next.0 - 1));
        if known_nth.is_some_and(|known| known > nth) && next_or_head > position.seq.max(self.floor.seq) {
            // The reader has had more of this topic than the log knows of: damage took its name or its newest events.
            let through = self.position(next_or_head);
            let cause = GapCause::LogDamaged;
            let gap = Gap { after: position, through, nth_through: nth, count: 0, count_is_exact: false, cause };
            return Ok(self.opened(through, nth, Some(gap)));
        }
        if count == 0 || (known_nth.is_none() && !is_trimmed) {
            return Ok(self.opened(Position { seq, ..self.keep_epoch(position, seq) }, nth, None));
        }
        let (through, cause) = if is_trimmed {
            (self.floor.seq, self.floor.cause)
        } else {
            // Events between the reader's place and the next readable one, or the end, are damaged.
            (next_or_head, GapCause::LogDamaged)
        };
        let through = self.position(through);
        // Who does not say its nth may have had all that lies before its place: no more is missing than lies between.
        let count_is_exact = known_nth.is_some();
        let count = if count_is_exact { count } else { count.min(through.seq.since(position.seq)) };
        let gap = Gap { after: position, through, nth_through: nth, count, count_is_exact, cause };
        Ok(self.opened(through, nth, Some(gap)))
    }

    /// After a position that is not of this history: from the last common place, or from the earliest retained.
    fn after_epoch_change(&self, position: Position, common: Option<Position>) -> Result<Opened, LogError> {
        let common_seq = common.map_or(Seq::ZERO, |common| common.seq);
        let seq = common_seq.max(self.floor.seq);
        let (nth, _) = self.next_at(seq, true)?;
        let through = common.filter(|common| common.seq == seq).unwrap_or_else(|| self.position(seq));
        // From a common place on that is retained, nothing is missing. Below, the reader may have had some of it.
        let count = nth.0.min(seq.since(common_seq));
        let gap = Gap {
            after: position,
            through,
            nth_through: nth,
            count,
            count_is_exact: count == 0,
            cause: GapCause::EpochChanged,
        };
        Ok(self.opened(through, nth, Some(gap)))
    }

    /// From the first event that was stored at this time or later. What was stored when the wall clock was wrong is judged
    /// by how long ago that was, not by the time that it bears.
    fn since(&self, time: Timestamp, now: Timestamp) -> Result<Opened, LogError> {
        let moment = self.log.paced_stamp().before(now.since(time));
        // The paced clock was looked at a moment ago. What lies so close to the moment is told apart by its time.
        let (certain, possible) = {
            let shared = self.log.shared.read();
            (shared.stored_before(moment).0, shared.stored_before(moment.after(LOOKED_AT)).1)
        };
        let close = self.log.first_after(self.topic, certain, Some((time, possible)), false)?;
        let first = match close {
            None if time <= now => self.log.first_after(self.topic, possible, None, false)?,
            close => close,
        };
        match first {
            Some(first) if first.seq <= self.head.seq => {
                let after = Seq(first.seq.0 - 1);
                Ok(self.opened(self.position(after), Nth(first.nth.0 - 1), None))
            }
            Some(_) | None => Ok(self.latest()),
        }
    }

    fn last(&self, count: u64) -> Result<Opened, LogError> {
        let wanted = Nth(self.last_nth.0.saturating_sub(count));
        if wanted == self.last_nth {
            return Ok(self.latest());
        }
        if wanted > Nth::ZERO
            && let Some(seq) = self.log.recent_seq_of(self.topic, wanted)
        {
            return self.at(seq);
        }
        // The nth at a seq rises with the seq: the first place that has reached the wanted one is searched by halves.
        let (mut low, mut high) = (self.floor.seq.0, self.head.seq.0);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.nth_at(Seq(middle))? >= wanted { high = middle } else { low = middle + 1 }
        }
        self.at(Seq(low))
    }

    fn is_valid(&self, position: Position) -> bool {
        self.lineage.is_valid(position, self.head.seq)
    }

    fn last_common(&self, known: &Place) -> Option<Position> {
        let been = std::iter::once(&known.position).chain(known.earlier.iter());
        been.filter_map(|position| self.lineage.common(*position, self.head.seq)).max_by_key(|common| common.seq)
    }

    /// The position at a seq that a valid position may already name.
    fn keep_epoch(&self, position: Position, seq: Seq) -> Position {
        if position.seq == seq { position } else { self.position(seq) }
    }

    fn position(&self, seq: Seq) -> Position {
        if seq == self.head.seq { self.head } else { self.lineage.position(seq) }
    }

    fn nth_at(&self, seq: Seq) -> Result<Nth, LogError> {
        self.next_at(seq, false).map(|(nth, _)| nth)
    }

    /// The nth of the topic's last event at or before a retained seq, and the seq of the first one after it. `ahead` says
    /// whether the subscription begins there, so that this one will be read next.
    fn next_at(&self, seq: Seq, ahead: bool) -> Result<(Nth, Option<Seq>), LogError> {
        let next = self.log.first_after(self.topic, seq, None, ahead)?;
        Ok(match next {
            Some(next) if next.seq <= self.head.seq => (Nth(next.nth.0 - 1), Some(next.seq)),
            Some(_) | None => (self.last_nth, None),
        })
    }

    fn opened(&self, after: Position, nth: Nth, gap: Option<Gap>) -> Opened {
        let pending = self.last_nth.since(nth);
        Opened {
            after,
            nth,
            head: self.head,
            pending,
            gap,
            delivered_through: DeliveredThrough::NOTHING,
            stored_through: DeliveredThrough::NOTHING,
            reader: None,
            stored: None,
            epochs: Vec::new(),
        }
    }
}
