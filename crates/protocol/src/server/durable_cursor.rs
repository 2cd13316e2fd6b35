//! How a durable subscription's cursor is kept: what is acknowledged, what of it is durable, and the mark of what may
//! have been handed over.
//!
//! The mark must be durable before an event above it is sent: otherwise a crash would hand an event over again without
//! saying so. The cursor never goes back, but for a subscription whose start moves it.

use std::collections::VecDeque;
use std::sync::Arc;

use super::in_flight::InFlight;
use super::marks::Reader;
use crate::frame::Subscribe;
use crate::history::{Cursor, Opened, Place};
use crate::redelivery::DeliveredThrough;
use crate::seq::{InstanceId, Nth, Position, Seq};

/// A durable subscription's cursor.
#[derive(Clone, Debug)]
pub(super) struct DurableCursor {
    /// What the reader has acknowledged.
    known: Place,
    /// Whether `known` belongs to a history that this log does not know (a gap stands before it): then no seq compares
    /// with it, and the first ack replaces it.
    is_foreign: bool,
    /// Whether the subscription started, before its gap, at a place of another history: then late acks, which lie before
    /// that, say nothing about this log.
    start_is_foreign: bool,
    /// The epochs that began between the stored cursor and the start.
    epochs: Vec<Position>,
    /// The mark with which this subscription began.
    delivered_through: DeliveredThrough,
    window_events: u64,
    /// For whom it is saved, and whether what is stored was saved for the same.
    instance: InstanceId,
    is_stored_own: bool,
    durable: Option<Saved>,
    /// Saves on their way: at most one that may wait for company and one that may not.
    saving: VecDeque<Saved>,
}

/// A save of the cursor for the shell.
#[derive(Clone, Debug)]
pub(super) struct Save {
    pub(super) cursor: Cursor,
    pub(super) urgent: bool,
}

/// How far the end of a subscription is.
#[derive(Clone, Debug)]
pub(super) enum Ending {
    /// This is to be saved first.
    Save(Save),
    /// A save is under way.
    Wait,
    /// Everything is durable.
    Done,
}

/// What a late ack, of something handed over on an earlier connection, comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LateAck {
    /// It is durable already, or says nothing about this log.
    Confirmed,
    /// It will be confirmed with a save.
    Taken,
    /// It cannot be true.
    Forged,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Saved {
    position: Position,
    mark: DeliveredThrough,
    urgent: bool,
}

impl DurableCursor {
    /// The cursor of a subscription that was opened with this request.
    pub(super) fn new(request: &Subscribe, opened: &Opened, reader: Reader) -> DurableCursor {
        let start = opened.gap.as_ref().map_or(opened.after, |gap| gap.after);
        let durable = opened.stored.as_ref().map(|known| Saved {
            position: known.position,
            mark: opened.stored_through,
            urgent: true,
        });
        // A start that names where to begin moves the cursor there, so that a reader that is cut off goes on from there.
        // A place that this log does not know moves nothing: what it means here is a guess.
        let stored = opened.stored.clone().filter(|_| request.start.resumes() || opened.breaks());
        let known = stored.unwrap_or_else(|| initial(request, opened));
        let start_is_foreign = opened.breaks();
        let resumes = reader.resumes.filter(|_| !start_is_foreign).unwrap_or_default();
        DurableCursor {
            is_foreign: start_is_foreign && known.position == start,
            known,
            start_is_foreign,
            epochs: opened.epochs.clone(),
            delivered_through: opened.delivered_through.raised(resumes),
            window_events: u64::from(request.window.events),
            instance: reader.instance,
            is_stored_own: opened.reader == Some(reader.instance),
            durable,
            saving: VecDeque::new(),
        }
    }

    /// The save without which nothing may be said to the reader: where a name starts that is new or is moved, the mark of
    /// what its first window may hand over, and who reads now, so that nobody else is taken for the last reader. `None`
    /// if what is stored says it already.
    pub(super) fn initial_save(&mut self, in_flight: &InFlight) -> Option<Save> {
        let first_window = DeliveredThrough(in_flight.sent_nth().saturating_add(self.window_events));
        let mark = self.delivered_through.raised(first_window);
        let is_said = |saved: Saved| saved.mark >= mark && saved.position == self.known.position;
        if self.is_stored_own && self.durable.is_some_and(is_said) {
            return None;
        }
        Some(self.save(mark, true))
    }

    /// The durable mark: only events that it covers may be sent now.
    pub(super) fn durable_mark(&self) -> DeliveredThrough {
        self.durable.map_or(DeliveredThrough::NOTHING, |saved| saved.mark)
    }

    /// What readers before this one may have been given.
    pub(super) fn taken_before(&self) -> DeliveredThrough {
        self.delivered_through
    }

    /// The reader has handled what this subscription sent up to here.
    pub(super) fn acked(&mut self, position: Position, nth: Nth) {
        if !self.is_foreign && position.seq <= self.known.position.seq {
            return;
        }
        self.is_foreign = false;
        self.known.advance(position, nth);
    }

    /// The reader has handled what an earlier connection handed over.
    pub(super) fn acked_late(&mut self, seq: Seq, nth: Nth) -> LateAck {
        if self.start_is_foreign || self.is_durable(seq) {
            return LateAck::Confirmed;
        }
        if seq <= self.known.position.seq {
            return LateAck::Taken;
        }
        if nth < self.known.nth || seq.since(self.known.position.seq) < nth.since(self.known.nth) {
            return LateAck::Forged;
        }
        let written_in = self.epochs.iter().rev().find(|began| began.seq < seq).map(|began| began.epoch);
        self.acked(Position::new(written_in.unwrap_or(self.known.position.epoch), seq), nth);
        LateAck::Taken
    }

    /// Whether everything up to this seq is durably acknowledged.
    pub(super) fn is_durable(&self, seq: Seq) -> bool {
        !self.is_foreign && self.durable.is_some_and(|saved| seq <= saved.position.seq)
    }

    /// The next save, if one is due. At most two are under way: one without hurry, and one because the mark is about to
    /// hold the reader up.
    pub(super) fn next_save(&mut self, in_flight: &InFlight) -> Option<Save> {
        let newest = self.saving.back().copied().or(self.durable)?;
        let mark = self.mark(in_flight);
        let is_acked = newest.position != self.known.position;
        let holds_up = newest.mark.0 <= in_flight.sent_nth() && newest.mark < mark && in_flight.room().is_some();
        if !is_acked && !holds_up {
            return None;
        }
        let room = self.durable_mark().0.since(in_flight.sent_nth());
        let urgent = room <= self.window_events / 2;
        match (self.saving.len(), self.saving.front()) {
            (0, _) => Some(self.save(mark, urgent)),
            // Two saves of one seq could not be told apart when they are answered.
            (1, Some(lazy)) if urgent && !lazy.urgent && lazy.position.seq != self.known.position.seq => {
                Some(self.save(mark, urgent))
            }
            _ => None,
        }
    }

    /// What is left to do before the subscription ends: the final cursor's mark is exactly what was handed over.
    pub(super) fn end(&mut self, in_flight: &InFlight) -> Ending {
        let mark = self.delivered_through.raised(DeliveredThrough(in_flight.sent_nth()));
        let is_last = |saved: &Saved| saved.position == self.known.position && saved.mark == mark;
        if self.saving.is_empty() && self.durable.as_ref().is_some_and(is_last) {
            return Ending::Done;
        }
        let is_waiting = self.saving.len() > 1
            || self.saving.iter().any(|saved| is_last(saved) || saved.position.seq == self.known.position.seq);
        if is_waiting { Ending::Wait } else { Ending::Save(self.save(mark, true)) }
    }

    /// A save is durable. Returns the seq that is confirmed by it, if it is a new one.
    pub(super) fn saved(&mut self, seq: Seq) -> Option<Seq> {
        let place = self.saving.iter().position(|saved| saved.position.seq == seq)?;
        let saved = self.saving.drain(..=place).next_back()?;
        let is_new = self.durable.is_some_and(|before| before.position != saved.position);
        self.durable = Some(saved);
        is_new.then_some(seq)
    }

    /// Whether an answer of the shell's is still to come.
    pub(super) fn is_saving(&self) -> bool {
        !self.saving.is_empty()
    }

    /// What may be handed over until the next save: a window beyond the one that is open, so that a reader at full speed
    /// does not wait for the disk at each ack.
    fn mark(&self, in_flight: &InFlight) -> DeliveredThrough {
        let open = in_flight.acked_nth().saturating_add(self.window_events.saturating_mul(2));
        let beyond_gaps = in_flight.sent_nth().saturating_add(self.window_events);
        self.delivered_through.raised(DeliveredThrough(open.max(beyond_gaps)))
    }

    fn save(&mut self, mark: DeliveredThrough, urgent: bool) -> Save {
        self.saving.push_back(Saved { position: self.known.position, mark, urgent });
        Save { cursor: Cursor::new(self.known.clone(), mark).of_reader(Some(self.instance)), urgent }
    }
}

/// Where a cursor begins that is not stored yet, or is moved. If the reader came out of another history, it is the
/// reader's own place there: a later resume then is told the same gap.
fn initial(request: &Subscribe, opened: &Opened) -> Place {
    let Some(gap) = &opened.gap else {
        let brought = request.start.known().filter(|place| place.position == opened.after);
        // What the stored cursor knows of earlier epochs is true of each place in its own epoch.
        let stored = opened.stored.as_ref().filter(|place| place.position.epoch == opened.after.epoch);
        let earlier = brought.or(stored).map_or_else(|| [].into(), |place| Arc::clone(&place.earlier));
        return Place { position: opened.after, nth: opened.nth, earlier };
    };
    match request.start.known() {
        Some(known) if known.position == gap.after => known.clone(),
        Some(_) | None => {
            let nth = gap.nth_before();
            Place { position: gap.after, nth, earlier: [].into() }
        }
    }
}
