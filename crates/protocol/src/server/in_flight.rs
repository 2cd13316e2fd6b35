//! What a subscription has sent and its reader has not yet acknowledged: bounds of runs, never the events themselves.
//!
//! It decides whether an ack can be true. It must never grow with the number of events in flight.

use std::collections::VecDeque;

use crate::frame::Window;
use crate::history::{Batch, Gap, Opened};
use crate::seq::{Nth, Position, Seq};

/// The stretch between a reader's last ack and what was sent to it.
#[derive(Clone, Debug)]
pub(super) struct InFlight {
    window: Window,
    /// None while an unacknowledged gap stands first whose beginning belongs to another history: its seqs compare with
    /// nothing here.
    acked_seq: Option<Seq>,
    acked_nth: Nth,
    sent: Position,
    sent_nth: Nth,
    spans: VecDeque<Span>,
    events: u64,
    bytes: usize,
}

/// What an ack turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AckKind {
    /// It moves the reader on.
    New,
    /// It lies at or before what is acknowledged, or before where the subscription started.
    Old,
    /// Nothing with this seq and nth was sent.
    Forged,
}

#[derive(Clone, Copy, Debug)]
struct Span {
    kind: SpanKind,
    after_seq: Seq,
    after_nth: Nth,
    last: Position,
    last_nth: Nth,
    /// The nth of the last event that the reader gets: what lies behind it is skipped.
    got_nth: Nth,
    /// How many events the reader gets. Once a part is acknowledged, at most: which of them were skipped is not known here.
    events: u64,
    bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SpanKind {
    /// Events, some of which the reader may not get: it may acknowledge those too, since skips are told one by one.
    Events,
    Gap,
}

impl InFlight {
    /// Nothing sent yet but, perhaps, the gap at the start.
    pub(super) fn new(opened: &Opened, window: Window) -> InFlight {
        let mut in_flight = InFlight {
            window,
            acked_seq: Some(opened.after.seq),
            acked_nth: opened.nth,
            sent: opened.after,
            sent_nth: opened.nth,
            spans: VecDeque::new(),
            events: 0,
            bytes: 0,
        };
        if let Some(gap) = &opened.gap {
            let before = gap.after.seq;
            in_flight.acked_seq = (before < gap.through.seq).then_some(before);
            in_flight.spans.push_back(Span::gap(gap, before, opened.nth));
        }
        in_flight
    }

    /// The last position that was sent.
    pub(super) fn sent(&self) -> Position {
        self.sent
    }

    /// Its nth.
    pub(super) fn sent_nth(&self) -> Nth {
        self.sent_nth
    }

    /// The nth up to which the reader has acknowledged, as far as this subscription sent it.
    pub(super) fn acked_nth(&self) -> Nth {
        self.acked_nth
    }

    /// How many events and bytes the window leaves; none if it is full. An empty window takes one event of any size.
    pub(super) fn room(&self) -> Option<(u32, usize)> {
        let events = u64::from(self.window.events).saturating_sub(self.events);
        let bytes = self.window_bytes().saturating_sub(self.bytes);
        if events == 0 || (bytes == 0 && self.events > 0) || self.spans.len() >= SPANS_MAX {
            return None;
        }
        Some((u32::try_from(events).unwrap_or(u32::MAX), bytes))
    }

    /// Whether a batch of this size may be sent now.
    pub(super) fn fits(&self, bytes: usize) -> bool {
        self.events == 0 || self.bytes.saturating_add(bytes) <= self.window_bytes()
    }

    /// Takes note of a batch that is sent. It follows what was sent.
    pub(super) fn sent_batch(&mut self, batch: &Batch) {
        let span = Span {
            kind: SpanKind::Events,
            after_seq: self.sent.seq,
            after_nth: self.sent_nth,
            last: batch.last_position(),
            last_nth: batch.last_nth(),
            got_nth: batch.last_nth(),
            events: u64::from(batch.count),
            bytes: batch.records.len(),
        };
        self.events += span.events;
        self.bytes += span.bytes;
        (self.sent, self.sent_nth) = (span.last, span.last_nth);
        let (events_max, bytes_max) =
            (u64::from(self.window.events) / SPANS_AIM, self.window_bytes() / SPANS_AIM_BYTES);
        match self.spans.back_mut() {
            Some(last) if last.takes(&span, events_max, bytes_max) => {
                last.last = span.last;
                last.last_nth = span.last_nth;
                last.got_nth = span.got_nth;
                last.events += span.events;
                last.bytes += span.bytes;
            }
            Some(_) | None => self.spans.push_back(span),
        }
    }

    /// Takes note of a gap that is sent. It follows what was sent.
    pub(super) fn sent_gap(&mut self, gap: &Gap) {
        self.spans.push_back(Span::gap(gap, self.sent.seq, self.sent_nth));
        (self.sent, self.sent_nth) = (gap.through, gap.nth_through);
    }

    /// Takes note of events that are withheld and told as a skip. They follow what was sent.
    pub(super) fn sent_skip(&mut self, batch: &Batch) {
        let (last, last_nth) = (batch.last_position(), batch.last_nth());
        match self.spans.back_mut() {
            // Skips between events must not leave as many runs as events: the reader may acknowledge late.
            Some(span) if span.kind == SpanKind::Events && span.last.epoch == last.epoch => {
                (span.last, span.last_nth) = (last, last_nth);
            }
            Some(_) | None => self.spans.push_back(Span {
                kind: SpanKind::Events,
                after_seq: self.sent.seq,
                after_nth: self.sent_nth,
                last,
                last_nth,
                got_nth: self.sent_nth,
                events: 0,
                bytes: 0,
            }),
        }
        (self.sent, self.sent_nth) = (last, last_nth);
    }

    /// Takes an ack. `passed` gets, in order, the positions that it moves the reader to: the last one of each run on the
    /// way, so that none of the epochs is missed, and the acknowledged one at the end.
    pub(super) fn ack(&mut self, seq: Seq, nth: Nth, mut passed: impl FnMut(Position, Nth)) -> AckKind {
        if self.acked_seq.is_some_and(|acked| seq <= acked) {
            return AckKind::Old;
        }
        let place = self.spans.partition_point(|span| span.last.seq < seq);
        match self.spans.get(place) {
            Some(span) if span.has(seq, nth) => {}
            Some(_) | None => return AckKind::Forged,
        }
        for span in self.spans.drain(..place) {
            self.events -= span.events;
            self.bytes -= span.bytes;
            passed(span.last, span.last_nth);
        }
        if let Some(span) = self.spans.front_mut() {
            passed(Position::new(span.last.epoch, seq), nth);
            (span.after_seq, span.after_nth) = (seq, nth);
            let left = span.events.min(span.got_nth.since(nth));
            self.events -= span.events - left;
            span.events = left;
            if left == 0 {
                // The bytes of a run are free when all of it is acknowledged: the sizes within it are not known here.
                self.bytes -= span.bytes;
                span.bytes = 0;
            }
            if seq == span.last.seq {
                self.spans.pop_front();
            }
        }
        (self.acked_seq, self.acked_nth) = (Some(seq), nth);
        AckKind::New
    }

    fn window_bytes(&self) -> usize {
        usize::try_from(self.window.bytes).unwrap_or(usize::MAX)
    }
}

impl Span {
    fn gap(gap: &Gap, after_seq: Seq, after_nth: Nth) -> Span {
        let (last, last_nth) = (gap.through, gap.nth_through);
        Span { kind: SpanKind::Gap, after_seq, after_nth, last, last_nth, got_nth: last_nth, events: 0, bytes: 0 }
    }

    fn takes(&self, next: &Span, events_max: u64, bytes_max: usize) -> bool {
        self.kind == SpanKind::Events
            && self.last.epoch == next.last.epoch
            && self.events + next.events <= events_max
            && self.bytes + next.bytes <= bytes_max
    }

    /// Whether an event with this seq and nth may lie in the span. Both rise by at least one per event, which leaves
    /// little to forge.
    fn has(&self, seq: Seq, nth: Nth) -> bool {
        if seq == self.last.seq || nth == self.last_nth {
            return seq == self.last.seq && nth == self.last_nth;
        }
        self.kind != SpanKind::Gap
            && seq > self.after_seq
            && nth > self.after_nth
            && nth < self.last_nth
            && seq.since(self.after_seq) >= nth.since(self.after_nth)
            && self.last.seq.since(seq) >= self.last_nth.since(nth)
    }
}

/// Runs are merged up to this part of the window, so that events sent one by one leave few runs behind.
const SPANS_AIM: u64 = 32;
const SPANS_AIM_BYTES: usize = 32;

/// Most runs. Only a log with very many gaps or epochs comes near it; the reader then acknowledges before it gets more.
const SPANS_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::history::GapCause;
    use crate::redelivery::DeliveredThrough;
    use crate::seq::Epoch;

    const EPOCH: Epoch = Epoch([1; 16]);
    const LATER: Epoch = Epoch([2; 16]);

    fn opened(seq: u64, nth: u64) -> Opened {
        let after = Position::new(EPOCH, Seq(seq));
        Opened {
            after,
            nth: Nth(nth),
            head: after,
            pending: 0,
            gap: None,
            delivered_through: DeliveredThrough(Nth(0)),
            stored_through: DeliveredThrough(Nth(0)),
            reader: None,
            stored: None,
            epochs: vec![],
        }
    }

    fn in_flight(events: u32, bytes: u32) -> InFlight {
        InFlight::new(&opened(10, 5), Window::new(events, bytes))
    }

    fn batch(epoch: Epoch, first_nth: u64, count: u32, last_seq: u64, bytes: usize) -> Batch {
        let records = Bytes::from(vec![0; bytes]);
        Batch { epoch, count, first_nth: Nth(first_nth), last_seq: Seq(last_seq), records, except: None, is_end: false }
    }

    fn ack(in_flight: &mut InFlight, seq: u64, nth: u64) -> (AckKind, Vec<(Epoch, u64, u64)>) {
        let mut passed = Vec::new();
        let kind = in_flight.ack(Seq(seq), Nth(nth), |at, nth| passed.push((at.epoch, at.seq.0, nth.0)));
        (kind, passed)
    }

    #[test]
    fn the_window_closes_by_events_and_opens_with_acks_within_a_batch() {
        let mut in_flight = in_flight(4, 1000);
        in_flight.sent_batch(&batch(EPOCH, 6, 4, 20, 100));
        assert_eq!(in_flight.room(), None);
        assert_eq!(ack(&mut in_flight, 13, 7), (AckKind::New, vec![(EPOCH, 13, 7)]));
        assert_eq!(in_flight.room(), Some((2, 900)));
        assert_eq!(ack(&mut in_flight, 20, 9).0, AckKind::New);
        assert_eq!(in_flight.room(), Some((4, 1000)));
    }

    #[test]
    fn an_empty_window_takes_an_event_of_any_size() {
        let mut in_flight = in_flight(4, 10);
        assert!(in_flight.fits(5000));
        in_flight.sent_batch(&batch(EPOCH, 6, 1, 11, 5000));
        assert_eq!(in_flight.room(), None);
        assert!(!in_flight.fits(1));
        ack(&mut in_flight, 11, 6);
        assert!(in_flight.fits(5000));
    }

    #[test]
    fn an_ack_names_what_was_sent_or_is_forged() {
        let mut in_flight = in_flight(100, 1000);
        in_flight.sent_batch(&batch(EPOCH, 6, 3, 16, 10));
        in_flight.sent_batch(&batch(LATER, 9, 1, 18, 10));
        for (seq, nth) in [(19, 9), (18, 8), (17, 9), (16, 7), (15, 8), (15, 6), (11, 7), (12, 5), (14, 6_000)] {
            assert_eq!(ack(&mut in_flight, seq, nth).0, AckKind::Forged, "{seq} {nth}");
        }
        assert_eq!(ack(&mut in_flight, 10, 5).0, AckKind::Old);
        assert_eq!(ack(&mut in_flight, 18, 9), (AckKind::New, vec![(EPOCH, 16, 8), (LATER, 18, 9)]));
        assert_eq!(ack(&mut in_flight, 16, 8).0, AckKind::Old);
    }

    #[test]
    fn a_gap_is_acknowledged_by_its_end_alone() {
        let gap = Gap {
            after: Position::new(EPOCH, Seq(10)),
            through: Position::new(LATER, Seq(30)),
            nth_through: Nth(15),
            count: 10,
            count_is_exact: true,
            cause: GapCause::RetentionAge,
        };
        let mut in_flight = in_flight(2, 1000);
        in_flight.sent_gap(&gap);
        assert_eq!(in_flight.room(), Some((2, 1000)));
        assert_eq!(ack(&mut in_flight, 20, 10).0, AckKind::Forged);
        assert_eq!(ack(&mut in_flight, 30, 15), (AckKind::New, vec![(LATER, 30, 15)]));
    }

    #[test]
    fn a_gap_out_of_another_history_is_acknowledged_although_its_end_has_the_smaller_seq() {
        let mut opened = opened(3, 2);
        opened.gap = Some(Gap {
            after: Position::new(LATER, Seq(500)),
            through: opened.after,
            nth_through: Nth(2),
            count: 2,
            count_is_exact: false,
            cause: GapCause::EpochChanged,
        });
        let mut in_flight = InFlight::new(&opened, Window::new(10, 100));
        assert_eq!(ack(&mut in_flight, 500, 400).0, AckKind::Forged);
        assert_eq!(ack(&mut in_flight, 3, 2), (AckKind::New, vec![(EPOCH, 3, 2)]));
    }

    #[test]
    fn events_sent_one_by_one_leave_few_runs() {
        let mut in_flight = in_flight(65_536, 16 << 20);
        for i in 0..65_536 {
            assert!(in_flight.room().is_some(), "closed after {i} events, {} runs", in_flight.spans.len());
            in_flight.sent_batch(&batch(EPOCH, 6 + i, 1, 11 + i, 100));
        }
        assert_eq!(in_flight.room(), None);
        assert!(in_flight.spans.len() < 80, "{} runs", in_flight.spans.len());
        assert_eq!(ack(&mut in_flight, 11 + 65_535, 6 + 65_535).0, AckKind::New);
        assert_eq!((in_flight.events, in_flight.bytes), (0, 0));
    }
}
