//! The emits of one connection: which number is next, what is on its way to the log.
//!
//! The log decides what is stored; this only keeps the order, so that nothing overtakes what was refused.

use std::collections::VecDeque;

use super::fault;
use crate::error::{Close, RefusalCode};
use crate::event::NewEvent;
use crate::history::{EmitFate, EmitRun, PublisherState};
use crate::limits::{EMITS_PER_FRAME_MAX, Limits};
use crate::seq::EmitNumber;

/// The emits of a connection whose Hello names a publisher.
#[derive(Clone, Debug)]
pub(super) struct Emits {
    next: EmitNumber,
    appending: VecDeque<Appending>,
    events: usize,
    bytes: usize,
    /// Counts the times that the numbers went back after a refusal.
    turn: u64,
}

/// What is to be done with a frame of emits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// They go to the log.
    Append(Vec<Result<NewEvent, RefusalCode>>),
    /// Numbers before them are missing: they are dropped.
    OutOfOrder {
        /// The number that is needed.
        expected: EmitNumber,
    },
}

#[derive(Clone, Copy, Debug)]
struct Appending {
    left: usize,
    bytes: usize,
    turn: u64,
}

impl Emits {
    /// The emits of a publisher that the log knows so, and that says up to which number all is settled.
    pub(super) fn new(state: PublisherState, settled: EmitNumber) -> Emits {
        let reached = match state {
            PublisherState::Reached(reached) => reached,
            PublisherState::New | PublisherState::Forgotten => EmitNumber::ZERO,
        };
        let next = reached.max(settled).saturating_add(1);
        Emits { next, appending: VecDeque::new(), events: 0, bytes: 0, turn: 0 }
    }

    /// Takes a frame of emits.
    pub(super) fn take(&mut self, first: EmitNumber, events: Vec<NewEvent>, limits: &Limits) -> Result<Taken, Close> {
        let count = events.len();
        if count == 0 || count > EMITS_PER_FRAME_MAX {
            let words = format!("a frame holds 1 to {EMITS_PER_FRAME_MAX} emits, this one has {count}");
            return Err(fault::limit_broken(words));
        }
        let end = first.0.checked_add(count as u64).filter(|_| first > EmitNumber::ZERO);
        let Some(end) = end else {
            return Err(fault::unexpected(format!("emits are numbered from 1 upwards, not from {first}")));
        };
        if first > self.next {
            return Ok(Taken::OutOfOrder { expected: self.next });
        }
        self.next = self.next.max(EmitNumber(end));
        let bytes = events.iter().map(NewEvent::size_bytes).sum();
        self.appending.push_back(Appending { left: count, bytes, turn: self.turn });
        self.events += count;
        self.bytes += bytes;
        let judged = events.into_iter().map(|event| match event.check(limits) {
            Ok(()) => Ok(event),
            Err(error) => Err(error.code()),
        });
        Ok(Taken::Append(judged.collect()))
    }

    /// Takes what became of emits, in their order.
    pub(super) fn answered(&mut self, run: &EmitRun) -> Result<(), Close> {
        let mut left = run.count as usize;
        let mut turn = self.turn;
        while left > 0 {
            let Some(oldest) = self.appending.front_mut() else {
                return Err(fault::internal("more emits were answered than are under way"));
            };
            turn = oldest.turn;
            let answered = left.min(oldest.left);
            oldest.left -= answered;
            left -= answered;
            self.events -= answered;
            if oldest.left == 0 {
                self.bytes -= oldest.bytes;
                self.appending.pop_front();
            }
        }
        // What was already on its way when the numbers went back is refused behind that number: it says nothing new.
        if is_retryable(&run.fate) && turn == self.turn {
            self.next = self.next.min(run.first);
            self.turn += 1;
        }
        Ok(())
    }

    /// Whether nothing is on its way to the log.
    pub(super) fn is_idle(&self) -> bool {
        self.appending.is_empty()
    }

    /// Whether more may be taken: below the limits, one frame of any size is.
    pub(super) fn have_room(&self, limits: &Limits) -> bool {
        let most = |limit: u32| usize::try_from(limit).unwrap_or(usize::MAX).max(1);
        self.events < most(limits.emits_in_flight_max) && self.bytes < most(limits.emit_bytes_in_flight_max)
    }
}

fn is_retryable(fate: &EmitFate) -> bool {
    match fate {
        EmitFate::Refused(code) => !code.is_final(),
        EmitFate::Stored(_) | EmitFate::Duplicate(_) | EmitFate::DuplicateForgotten => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{EmitOptions, PayloadKind};
    use crate::name::{EventName, TopicName};
    use crate::seq::{Epoch, Position, Seq};

    fn event() -> NewEvent {
        let (topic, name) = (TopicName::new("orders").unwrap(), EventName::new("placed").unwrap());
        NewEvent::new(topic, name, PayloadKind::Bytes, &b"12345"[..])
    }

    fn emits() -> Emits {
        Emits::new(PublisherState::New, EmitNumber::ZERO)
    }

    fn take(emits: &mut Emits, first: u64, count: usize) -> Taken {
        emits.take(EmitNumber(first), vec![event(); count], &Limits::default()).unwrap()
    }

    fn answer(emits: &mut Emits, first: u64, count: u32, fate: EmitFate) {
        emits.answered(&EmitRun { first: EmitNumber(first), count, fate }).unwrap();
    }

    fn expected(number: u64) -> Taken {
        Taken::OutOfOrder { expected: EmitNumber(number) }
    }

    #[test]
    fn the_next_number_follows_from_the_log_and_from_what_the_client_settled() {
        for (state, settled, next) in [
            (PublisherState::New, 0, 1),
            (PublisherState::Reached(EmitNumber(7)), 3, 8),
            (PublisherState::Reached(EmitNumber(7)), 9, 10),
            (PublisherState::Forgotten, 9, 10),
        ] {
            let mut emits = Emits::new(state, EmitNumber(settled));
            assert_eq!(take(&mut emits, next + 1, 1), expected(next));
            assert!(matches!(take(&mut emits, next, 1), Taken::Append(_)));
        }
    }

    #[test]
    fn a_retryable_refusal_takes_the_numbers_back_and_what_comes_behind_is_dropped() {
        let mut emits = emits();
        for first in 1..=4 {
            take(&mut emits, first, 1);
        }
        answer(&mut emits, 1, 1, EmitFate::Stored(Position::new(Epoch::default(), Seq(1))));
        answer(&mut emits, 2, 1, EmitFate::Refused(RefusalCode::STORAGE_FULL));
        assert_eq!(take(&mut emits, 5, 1), expected(2));
        // The client has gone back already when the rest of the first try is refused.
        assert!(matches!(take(&mut emits, 2, 4), Taken::Append(_)));
        answer(&mut emits, 3, 2, EmitFate::Refused(RefusalCode::OUT_OF_ORDER));
        assert!(matches!(take(&mut emits, 6, 1), Taken::Append(_)));
        // The second try fails as well.
        answer(&mut emits, 2, 4, EmitFate::Refused(RefusalCode::STORAGE_FULL));
        assert_eq!(take(&mut emits, 7, 1), expected(2));
    }

    #[test]
    fn a_final_refusal_consumes_its_number() {
        let mut emits = emits();
        take(&mut emits, 1, 1);
        answer(&mut emits, 1, 1, EmitFate::Refused(RefusalCode::FORBIDDEN));
        assert!(matches!(take(&mut emits, 2, 1), Taken::Append(_)));
    }

    #[test]
    fn what_was_sent_before_goes_to_the_log_which_knows_it() {
        let mut emits = Emits::new(PublisherState::Reached(EmitNumber(5)), EmitNumber::ZERO);
        assert!(matches!(take(&mut emits, 3, 5), Taken::Append(events) if events.len() == 5));
        assert_eq!(take(&mut emits, 9, 1), expected(8));
        assert!(matches!(take(&mut emits, 1, 2), Taken::Append(_)));
        assert!(matches!(take(&mut emits, 8, 1), Taken::Append(_)));
    }

    #[test]
    fn an_event_that_no_log_may_take_is_refused_in_its_place() {
        let limits = Limits { event_bytes_max: 32, event_topics_max: 2, ..Limits::default() };
        let topic = |name: &str| TopicName::new(name).unwrap();
        let no_topic = NewEvent { topics: vec![], ..event() };
        let twice = NewEvent { topics: vec![topic("a"), topic("a")], ..event() };
        let many = NewEvent { topics: vec![topic("a"), topic("b"), topic("c")], ..event() };
        let options = NewEvent { options: EmitOptions(1 << 31), ..event() };
        let large = NewEvent { payload: vec![0; 30].into(), ..event() };
        let frame = vec![event(), no_topic, twice, many, options, large, event()];
        let taken = emits().take(EmitNumber(1), frame, &limits).unwrap();
        let invalid = Err(RefusalCode::INVALID);
        let too_large = Err(RefusalCode::TOO_LARGE);
        let judged =
            vec![Ok(event()), invalid.clone(), invalid.clone(), invalid.clone(), invalid, too_large, Ok(event())];
        assert_eq!(taken, Taken::Append(judged));
    }

    #[test]
    fn numbers_that_cannot_be_are_a_fault_of_the_peer() {
        let limits = Limits::default();
        for (first, count) in [(0, 1), (u64::MAX, 1), (u64::MAX - 2, 3), (1, 0), (1, EMITS_PER_FRAME_MAX + 1)] {
            assert!(emits().take(EmitNumber(first), vec![event(); count], &limits).is_err(), "{first} {count}");
        }
    }

    #[test]
    fn one_frame_always_fits_and_room_comes_back_with_the_answers() {
        let limits = Limits { emits_in_flight_max: 2, emit_bytes_in_flight_max: 1, ..Limits::default() };
        let mut emits = emits();
        assert!(emits.have_room(&limits));
        take(&mut emits, 1, 5);
        assert!(!emits.have_room(&limits));
        answer(&mut emits, 1, 4, EmitFate::DuplicateForgotten);
        assert!(!emits.have_room(&limits));
        answer(&mut emits, 5, 1, EmitFate::DuplicateForgotten);
        assert!(emits.have_room(&limits));
    }

    #[test]
    fn an_answer_to_nothing_is_noticed() {
        let run = EmitRun { first: EmitNumber(1), count: 1, fate: EmitFate::DuplicateForgotten };
        assert!(emits().answered(&run).is_err());
    }
}
