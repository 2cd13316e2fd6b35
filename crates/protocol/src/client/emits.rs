//! A client's emits: the outbox, when it pauses, and what the server knows of this publisher. Holds no clock.

use std::time::Duration;

use super::fault::Fault;
use super::outbox::{Answered, Outbox};
use super::outputs::{Outputs, Timer};
use super::{EmitOutcome, EmitTicket, Output};
use crate::backoff::Backoff;
use crate::config::ClientConfig;
use crate::error::RefusalCode;
use crate::event::NewEvent;
use crate::features::Features;
use crate::frame::Welcome;
use crate::history::{EmitRun, PublisherState};
use crate::seq::EmitNumber;
use crate::time::Instant;

/// The emits of a client.
#[derive(Debug)]
pub(super) struct Emits {
    outbox: Outbox,
    retries: Backoff,
    /// When an emit was last settled by the server.
    settled_at: Option<Instant>,
    events_max: usize,
    bytes_max: usize,
    /// No more are taken: the client is shutting down.
    closed: bool,
    /// Why emits wait, as far as the shell was told.
    held: Option<RefusalCode>,
}

impl Emits {
    pub(super) fn new(config: &ClientConfig, retries: Backoff) -> Emits {
        Emits {
            outbox: Outbox::new(),
            retries,
            settled_at: None,
            events_max: config.outbox_events_max,
            bytes_max: config.outbox_bytes_max,
            closed: false,
            held: None,
        }
    }

    /// Numbers go on behind this one. Only before anything is emitted.
    pub(super) fn begin_after(&mut self, settled: EmitNumber) {
        self.outbox.begin_after(settled);
    }

    pub(super) fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// Whether an event of this size has room. One event always fits.
    pub(super) fn have_room(&self, event_bytes: usize) -> bool {
        let within =
            self.outbox.len() < self.events_max && self.outbox.bytes().saturating_add(event_bytes) <= self.bytes_max;
        within || self.outbox.len() == 0
    }

    pub(super) fn emit(&mut self, ticket: EmitTicket, event: NewEvent, out: &mut Outputs) {
        if self.closed {
            out.push(Output::EmitDone { ticket, fate: EmitOutcome::NotSent });
        } else {
            self.outbox.push(ticket, event, out);
        }
    }

    pub(super) fn cancel(&mut self, ticket: EmitTicket, out: &mut Outputs) {
        self.outbox.cancel(ticket, out);
    }

    /// Takes no more.
    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    /// Sends the next of what waits.
    pub(super) fn send_next(&mut self, features: Features, out: &mut Outputs) {
        if let Some(frame) = self.outbox.next_frame(features, out) {
            out.send(frame);
        }
    }

    /// The pause is over.
    pub(super) fn resume(&mut self) {
        self.outbox.resume();
    }

    /// The server answers.
    pub(super) fn answered(&mut self, runs: &[EmitRun], now: Instant, out: &mut Outputs) -> Result<(), Fault> {
        match self.outbox.answered(runs, out) {
            Answered::Nothing => {}
            Answered::Settled => {
                self.retries.reset();
                self.settled_at = Some(now);
                self.tell_held(None, out);
            }
            Answered::Pause => {
                self.pause(now, out);
                self.tell_held(self.outbox.refusal(), out);
            }
            Answered::Nonsense => return Err(Fault::unexpected("an answer to what was not emitted")),
        }
        Ok(())
    }

    /// The server misses a number.
    pub(super) fn out_of_order(&mut self, expected: EmitNumber, now: Instant, out: &mut Outputs) -> Result<(), Fault> {
        if expected <= self.outbox.settled() {
            // The number was answered, and now it is missing: this log has gone back. Welcome will say how far.
            return Err(Fault::unexpected("the server has lost emits that it had acknowledged"));
        }
        self.pause(now, out);
        Ok(())
    }

    /// Takes what Welcome says. Returns whether the server must be greeted again, because what Hello called settled has
    /// moved.
    pub(super) fn welcomed(
        &mut self,
        welcome: &Welcome,
        emits_may_follow: bool,
        now: Instant,
        out: &mut Outputs,
    ) -> bool {
        self.outbox.limit(welcome.limits);
        let mut greets_again = false;
        let lost = match welcome.publisher {
            PublisherState::Reached(reached) => self.outbox.lost_beyond(reached),
            PublisherState::New | PublisherState::Forgotten if self.outbox.settled().0 == 0 => Vec::new(),
            PublisherState::New | PublisherState::Forgotten => {
                // No server forgets a publisher that was busy lately, and no head goes back: the log is another one.
                let busy = self.settled_at.is_some_and(|settled| now.since(settled) < PUBLISHER_IDLE_MIN);
                let lost = if busy || welcome.head < self.outbox.seq_max() {
                    self.outbox.lost_beyond(EmitNumber::ZERO)
                } else {
                    Vec::new()
                };
                // If emits could follow Hello, all that wait for an answer were first sent behind it: they get one. The
                // others have an outcome that nobody knows. The server goes on behind what Hello called settled, so if
                // that moves now, only a new Hello makes both agree again; the numbers between are never used for
                // anything else.
                if !emits_may_follow {
                    self.outbox.forget_unanswered(out);
                    greets_again = true;
                }
                lost
            }
        };
        for (from, through) in lost {
            out.push(Output::EmitsLost { from, through });
        }
        greets_again
    }

    /// The server closed before its Welcome. All that is unanswered was sent behind this connection's Hello.
    pub(super) fn not_taken(&mut self) {
        self.outbox.not_taken();
    }

    /// The connection is gone: everything unanswered is to be sent again.
    pub(super) fn disconnected(&mut self, out: &mut Outputs) {
        out.clear_timer(Timer::RetryEmits);
        self.outbox.disconnected();
    }

    /// The client has ended.
    pub(super) fn end(&mut self, out: &mut Outputs) {
        self.outbox.end(out);
    }

    /// Tells the shell once that emits wait, and once that they go on.
    fn tell_held(&mut self, held: Option<RefusalCode>, out: &mut Outputs) {
        if self.held != held {
            self.held = held;
            out.push(Output::EmitsHeld { why: held });
        }
    }

    /// Answers that still come for what was sent before the pause do not lengthen it.
    fn pause(&mut self, now: Instant, out: &mut Outputs) {
        if !self.outbox.is_paused() {
            self.outbox.pause();
            out.set_timer(Timer::RetryEmits, now + self.retries.next_pause());
        }
    }
}

/// No server forgets a publisher that has emitted within this time (30 days are usual).
const PUBLISHER_IDLE_MIN: Duration = Duration::from_secs(24 * 3600);
