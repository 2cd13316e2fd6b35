//! The outbox: emits that the server has not answered, in order, each with its number from the first sending on.
//!
//! A number, once given, belongs to one event for ever; sending again under the same number is always safe. Nothing is
//! sent before what was emitted earlier, and nothing is answered twice.

use std::collections::VecDeque;

use super::outputs::Outputs;
use super::{EmitOutcome, EmitTicket, Output};
use crate::error::RefusalCode;
use crate::event::NewEvent;
use crate::features::Features;
use crate::frame::ClientFrame;
use crate::history::{EmitFate, EmitRun};
use crate::limits::{EMITS_PER_FRAME_MAX, Limits};
use crate::seq::{EmitNumber, Position, Seq};

#[derive(Debug)]
pub(super) struct Outbox {
    // Invariant: the first `numbered` entries have the numbers `settled + 1 ..`, the others none. Of the numbered ones,
    // the first `sent` were sent on the current connection since the last pause.
    entries: VecDeque<Entry>,
    bytes: usize,
    numbered: usize,
    sent: usize,
    sent_bytes: usize,
    settled: EmitNumber,
    /// The highest number that is known to be stored.
    stored: EmitNumber,
    /// Whether an emit that was sent, or could not be, has another outcome than that it is stored.
    has_failed: bool,
    /// What was told as lost, each from and through, lowest first.
    told_lost: Vec<(EmitNumber, EmitNumber)>,
    /// The highest seq in any receipt.
    seq_max: Seq,
    paused: bool,
    /// The server refused to take this number now, and nothing was sent since: it and what follows is surely not stored.
    refused: Option<(EmitNumber, RefusalCode)>,
    limits: Option<Limits>,
}

#[derive(Debug)]
struct Entry {
    ticket: EmitTicket,
    event: NewEvent,
    bytes: usize,
}

/// What answers of the server mean for what comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answered {
    /// Some emits are settled.
    Settled,
    /// Nothing new was in it.
    Nothing,
    /// The server cannot take more now: pause, then send again.
    Pause,
    /// This answers what was never asked.
    Nonsense,
}

impl Outbox {
    pub(super) fn new() -> Outbox {
        Outbox {
            entries: VecDeque::new(),
            bytes: 0,
            numbered: 0,
            sent: 0,
            sent_bytes: 0,
            settled: EmitNumber::ZERO,
            has_failed: false,
            stored: EmitNumber::ZERO,
            told_lost: Vec::new(),
            seq_max: Seq::ZERO,
            paused: false,
            refused: None,
            limits: None,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn settled(&self) -> EmitNumber {
        self.settled
    }

    /// Whether some emits were sent and have no answer yet.
    pub(super) fn has_unanswered(&self) -> bool {
        self.numbered > 0
    }

    pub(super) fn seq_max(&self) -> Seq {
        self.seq_max
    }

    /// Numbers go on behind this one: an earlier process has its receipt. Only before anything is emitted.
    pub(super) fn begin_after(&mut self, settled: EmitNumber) {
        if self.entries.is_empty() {
            self.settled = settled;
            self.stored = settled;
        }
    }

    /// Why the server takes nothing now, as far as it said.
    pub(super) fn refusal(&self) -> Option<RefusalCode> {
        self.refused.map(|(_, code)| code)
    }

    /// From now on these limits count.
    pub(super) fn limit(&mut self, limits: Limits) {
        self.limits = Some(limits);
    }

    /// Takes an emit, or refuses at once what no server would take. What only this server does not take is its own to
    /// refuse: whether a number is spent on an event must not depend on whether Welcome has come yet, or a process that
    /// emits the same once more would give its numbers to other events.
    pub(super) fn push(&mut self, ticket: EmitTicket, event: NewEvent, out: &mut Outputs) {
        if let Err(error) = event.check(&Limits::ANY_SERVER) {
            let code = error.code();
            self.has_failed = true;
            out.push(Output::EmitDone { ticket, fate: EmitOutcome::Refused(code) });
            return;
        }
        let bytes = event.size_bytes();
        self.bytes += bytes;
        self.entries.push_back(Entry { ticket, event, bytes });
    }

    /// Forgets an emit that was never sent.
    pub(super) fn cancel(&mut self, ticket: EmitTicket, out: &mut Outputs) {
        let unsent = self.entries.range(self.numbered..);
        if let Some(at) = unsent.enumerate().find_map(|(at, entry)| (entry.ticket == ticket).then_some(at)) {
            self.remove(self.numbered + at, EmitOutcome::NotSent, out);
        }
    }

    /// The features without which what was sent cannot be sent again.
    pub(super) fn needs(&self) -> Features {
        self.entries.range(..self.numbered).fold(Features::NONE, |needed, entry| needed.or(needs(&entry.event)))
    }

    /// The next emits to send, numbered from the first; none if all are sent, or it is not the time. What this
    /// server's features do not carry is refused: it must not be sent as what it is not.
    pub(super) fn next_frame(&mut self, features: Features, out: &mut Outputs) -> Option<ClientFrame> {
        if self.paused {
            return None;
        }
        let limits = self.limits.unwrap_or_default();
        let in_flight_max = usize::try_from(limits.emits_in_flight_max).unwrap_or(usize::MAX).max(1);
        let in_flight_bytes_max = usize::try_from(limits.emit_bytes_in_flight_max).unwrap_or(usize::MAX);
        let first = EmitNumber(self.settled.0 + self.sent as u64 + 1);
        let mut events = Vec::new();
        let mut frame_bytes = 0;
        while let Some(entry) = self.entries.get(self.sent) {
            if !features.has(needs(&entry.event)) {
                if self.sent < self.numbered {
                    // Nobody greets a server without what this needs (see `needs`).
                    break;
                }
                self.remove(self.sent, EmitOutcome::Refused(RefusalCode::UNSUPPORTED), out);
                continue;
            }
            let topics = entry.event.topics.len() + entry.event.except.len();
            let wire_bytes = entry.bytes + EMIT_HEAD_BYTES + TOPIC_HEAD_BYTES * topics;
            let full = events.len() >= EMITS_PER_FRAME_MAX || frame_bytes + wire_bytes > EMIT_FRAME_BYTES;
            let flooded = self.sent >= in_flight_max || self.sent_bytes + entry.bytes > in_flight_bytes_max;
            if full && !events.is_empty() || flooded && self.sent > 0 {
                break;
            }
            frame_bytes += wire_bytes;
            events.push(entry.event.clone());
            self.sent_bytes += entry.bytes;
            self.sent += 1;
            self.numbered = self.numbered.max(self.sent);
        }
        if events.is_empty() {
            return None;
        }
        self.refused = None;
        let plain = events.iter().all(|event| needs(event) == Features::NONE);
        Some(if plain { ClientFrame::Emit { first, events } } else { ClientFrame::EmitExcept { first, events } })
    }

    /// The connection is gone: everything unanswered is to be sent again.
    pub(super) fn disconnected(&mut self) {
        self.rewind();
        self.paused = false;
    }

    /// The server closed before its Welcome, so it took nothing of what followed Hello. Only if nothing was unanswered before:
    /// then no other connection has seen any of it either, and it counts as never sent.
    pub(super) fn not_taken(&mut self) {
        self.rewind();
        self.numbered = 0;
    }

    /// Sends nothing until [`Outbox::resume`], and then again from the first unanswered emit.
    pub(super) fn pause(&mut self) {
        self.rewind();
        self.paused = true;
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused
    }

    pub(super) fn resume(&mut self) {
        self.paused = false;
    }

    /// Takes the server's answers. Runs come in the order of their numbers; what is answered already is passed over.
    pub(super) fn answered(&mut self, runs: &[EmitRun], out: &mut Outputs) -> Answered {
        let mut result = Answered::Nothing;
        for run in runs {
            match self.answered_run(run, out) {
                Answered::Nothing => {}
                Answered::Settled if result == Answered::Pause => {}
                Answered::Settled => result = Answered::Settled,
                Answered::Pause => result = Answered::Pause,
                Answered::Nonsense => return Answered::Nonsense,
            }
        }
        result
    }

    /// Everything up to `reached` is all that the server has of this publisher. Returns the acknowledged emits that it
    /// therefore has lost, each once.
    pub(super) fn lost_beyond(&mut self, reached: EmitNumber) -> Vec<(EmitNumber, EmitNumber)> {
        let mut lost = Vec::new();
        if reached >= self.stored {
            return lost;
        }
        let mut from = reached.next();
        for (told_from, told_through) in self.told_lost.iter().filter(|(_, through)| *through > reached) {
            if from < *told_from {
                lost.push((from, EmitNumber(told_from.0 - 1)));
            }
            from = told_through.saturating_add(1);
        }
        if from <= self.stored {
            lost.push((from, self.stored));
        }
        // Everything beyond is told now.
        self.told_lost.retain_mut(|(from, through)| {
            *through = reached.min(*through);
            from <= through
        });
        self.told_lost.push((reached.next(), self.stored));
        if self.told_lost.len() > TOLD_LOST_MAX {
            // What is forgotten here would be told twice, never not at all.
            self.told_lost.remove(0);
        }
        lost
    }

    /// The server knows this publisher no more: what was sent has an outcome that nobody knows. Its numbers are used
    /// up, so that they can never mean another event.
    pub(super) fn forget_unanswered(&mut self, out: &mut Outputs) {
        self.rewind();
        let refused = self.refused.take();
        while self.numbered > 0 {
            // What was refused was not stored, nor was anything that was sent behind it: nothing overtakes.
            let outcome = match refused {
                Some((from, code)) if self.settled.next() >= from => EmitOutcome::Refused(code),
                Some(_) | None => EmitOutcome::Unknown,
            };
            self.settle_first(outcome, out);
        }
    }

    /// The client has ended.
    pub(super) fn end(&mut self, out: &mut Outputs) {
        self.forget_unanswered(out);
        while !self.entries.is_empty() {
            self.remove(0, EmitOutcome::NotSent, out);
        }
    }

    fn answered_run(&mut self, run: &EmitRun, out: &mut Outputs) -> Answered {
        let last = run.first.0.checked_add(u64::from(run.count)).and_then(|end| end.checked_sub(1));
        let known_through = self.settled.0 + self.numbered as u64;
        let Some(last) = last.filter(|last| run.count > 0 && run.first.0 > 0 && *last <= known_through) else {
            return Answered::Nonsense;
        };
        if last <= self.settled.0 {
            return Answered::Nothing;
        }
        if let EmitFate::Refused(code) = run.fate
            && !code.is_final()
        {
            if self.refused.is_none_or(|(from, _)| run.first < from) {
                self.refused = Some((run.first, code));
            }
            return Answered::Pause;
        }
        if run.first > self.settled.next() {
            return Answered::Nonsense;
        }
        for number in self.settled.0 + 1..=last {
            let outcome = outcome_at(run.fate, number - run.first.0);
            if run.fate.is_stored() {
                self.stored = EmitNumber(number);
            }
            if let EmitOutcome::Stored { position, .. } = outcome {
                self.seq_max = self.seq_max.max(position.seq);
            }
            self.settle_first(outcome, out);
        }
        Answered::Settled
    }

    fn settle_first(&mut self, outcome: EmitOutcome, out: &mut Outputs) {
        if self.sent > 0 {
            self.sent -= 1;
            self.sent_bytes -= self.entries.front().map_or(0, |entry| entry.bytes);
        }
        self.numbered -= 1;
        self.settled = self.settled.next();
        self.remove(0, outcome, out);
    }

    /// Whether every emit so far is known to be stored.
    pub(super) fn is_all_stored(&self) -> bool {
        self.entries.is_empty() && !self.has_failed
    }

    fn remove(&mut self, at: usize, outcome: EmitOutcome, out: &mut Outputs) {
        match outcome {
            EmitOutcome::Stored { .. } | EmitOutcome::StoredLongAgo | EmitOutcome::NotSent => {}
            EmitOutcome::Refused(_) | EmitOutcome::Unknown => self.has_failed = true,
        }
        if let Some(entry) = self.entries.remove(at) {
            self.bytes -= entry.bytes;
            out.push(Output::EmitDone { ticket: entry.ticket, fate: outcome });
        }
    }

    fn rewind(&mut self) {
        self.sent = 0;
        self.sent_bytes = 0;
    }
}

/// What a connection must have to carry this event.
fn needs(event: &NewEvent) -> Features {
    if event.except.is_empty() { Features::NONE } else { Features::EXCEPT }
}

fn outcome_at(fate: EmitFate, offset: u64) -> EmitOutcome {
    let moved = |position: Position| Position::new(position.epoch, position.seq.saturating_add(offset));
    match fate {
        EmitFate::Stored(position) => EmitOutcome::Stored { position: moved(position), duplicate: false },
        EmitFate::Duplicate(position) => EmitOutcome::Stored { position: moved(position), duplicate: true },
        EmitFate::DuplicateForgotten => EmitOutcome::StoredLongAgo,
        EmitFate::Refused(code) => EmitOutcome::Refused(code),
    }
}

/// A frame of emits is closed at this size, in bytes: enough to fill a commit together with few others, small enough
/// that an ack behind it does not wait long. One event always fits.
const EMIT_FRAME_BYTES: usize = 256 * 1024;

/// An emit on the wire without its texts and payload: four lengths or tags of 8 bytes, kind and options.
const EMIT_HEAD_BYTES: usize = 8 + 8 + 4 + 8 + 4;

/// A topic's length on the wire.
const TOPIC_HEAD_BYTES: usize = 8;
/// Losses that are remembered as told: a log that goes back so often, each time less far, is not met.
const TOLD_LOST_MAX: usize = 32;
