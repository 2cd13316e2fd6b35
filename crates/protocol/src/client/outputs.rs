//! What a client session wants done, in order, and when it wants to be called again. Decides nothing.

use std::collections::VecDeque;

use super::{Output, StreamItem};
use crate::frame::ClientFrame;
use crate::seq::SubscriptionId;
use crate::time::Instant;
use crate::timer::Timers;

/// The outputs and deadlines of one session. Every part of the session writes into it.
#[derive(Debug, Default)]
pub(super) struct Outputs {
    queue: VecDeque<Output>,
    timers: Timers<Timer>,
    /// The moment of the present input.
    now: Instant,
}

/// What a session waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// The connection and Welcome take too long.
    Connect,
    /// The pause before the next try to connect is over.
    Reconnect,
    /// The server has been silent for a heartbeat.
    Heartbeat,
    /// Acks that were gathered go out.
    FlushAcks,
    /// Emits that the server could not take are sent again.
    RetryEmits,
    /// A request is overdue.
    Requests,
    /// A subscription (or merged subscription) that the server could not take is asked for again.
    Resubscribe(SubscriptionId),
}

impl Outputs {
    pub(super) fn push(&mut self, output: Output) {
        self.queue.push_back(output);
    }

    /// A frame for the server.
    pub(super) fn send(&mut self, frame: ClientFrame) {
        self.push(Output::Send(frame));
    }

    /// Something for the app.
    pub(super) fn deliver(&mut self, id: SubscriptionId, item: StreamItem) {
        self.push(Output::Deliver { id, delivery: item });
    }

    pub(super) fn pop(&mut self) -> Option<Output> {
        self.queue.pop_front()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// The connection is gone: what was not written by now never will be.
    pub(super) fn drop_unwritten(&mut self) {
        self.queue.retain(|output| !matches!(output, Output::Send(_) | Output::SendHello(_)));
    }

    pub(super) fn set_timer(&mut self, timer: Timer, at: Instant) {
        self.timers.set(timer, at);
    }

    pub(super) fn set_timer_if_clear(&mut self, timer: Timer, at: Instant) {
        self.timers.set_if_clear(timer, at);
    }

    /// An input comes at this moment.
    pub(super) fn begin(&mut self, now: Instant) {
        self.now = now;
    }

    pub(super) fn now(&self) -> Instant {
        self.now
    }

    pub(super) fn clear_timer(&mut self, timer: Timer) {
        self.timers.clear(timer);
    }

    pub(super) fn clear_timers(&mut self) {
        self.timers.clear_all();
    }

    /// The next deadline.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Takes one timer whose deadline has come, the earliest first.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Timer> {
        self.timers.take_due(now)
    }
}
