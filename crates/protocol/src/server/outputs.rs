//! What a server session wants done, in order. Answers that may be merged wait in slots of their own until the rest is
//! taken, so that one drain of many inputs sends one frame of each kind.
//!
//! Nothing comes after a close. What waits here is bounded: a peer that provokes answers and does not read them is not
//! read either.

use std::collections::{BTreeMap, VecDeque};

use super::Output;
use crate::error::{Close, RefusalCode};
use crate::frame::{ReplyFrame, ReplyOutcome, ServerFrame, Volatile};
use crate::history::{Batch, EmitRun};
use crate::limits::REQUEST_BYTES_IN_FLIGHT_MAX;
use crate::request::{Refusal, refused};
use crate::seq::{EmitNumber, Seq, SubscriptionId};

/// The outputs of one session.
#[derive(Clone, Debug, Default)]
pub(super) struct Outputs {
    queue: VecDeque<Output>,
    acked: BTreeMap<SubscriptionId, Seq>,
    emitted: Vec<EmitRun>,
    out_of_order: Option<EmitNumber>,
    pong: Option<u64>,
    undrained_frames: usize,
    undrained_bytes: usize,
    /// The bytes of answers to requests that have not left.
    undrained_reply_bytes: usize,
    is_closed: bool,
}

impl Outputs {
    /// The next thing to do.
    pub(super) fn poll(&mut self) -> Option<Output> {
        if self.queue.is_empty() {
            self.flush();
        }
        self.queue.pop_front()
    }

    /// Something for the shell.
    pub(super) fn push(&mut self, output: Output) {
        if !self.is_closed {
            self.queue.push_back(output);
        }
    }

    /// Adds several outputs, or none.
    pub(super) fn extend(&mut self, outputs: impl IntoIterator<Item = Output>) {
        outputs.into_iter().for_each(|output| self.push(output));
    }

    /// A frame for the peer.
    pub(super) fn send(&mut self, frame: ServerFrame) {
        self.undrained_frames += 1;
        self.push(Output::Send(frame));
    }

    /// A frame for the peer that need not wait for the events before it.
    pub(super) fn send_first(&mut self, frame: ServerFrame) {
        self.undrained_frames += 1;
        if !self.is_closed {
            self.queue.push_front(Output::Send(frame));
        }
    }

    /// Takes back the events of a subscription that have not been given out.
    pub(super) fn drop_events(&mut self, of: SubscriptionId) {
        self.queue.retain(|output| !matches!(output, Output::SendEvents { id, .. } if *id == of));
    }

    /// The answer to a request. One that a peer which reads nothing has no room for is left out, and that is told.
    pub(super) fn reply(&mut self, reply: ReplyFrame) {
        let bytes = match &reply.outcome {
            ReplyOutcome::Answered { payload, .. } => payload.len(),
            ReplyOutcome::Refused { .. } => 0,
        };
        let is_crowded = self.undrained_reply_bytes.saturating_add(bytes) > REQUEST_BYTES_IN_FLIGHT_MAX;
        if is_crowded && self.undrained_reply_bytes > 0 && bytes > 0 {
            let refusal = Refusal::of(RefusalCode::ANSWER_TOO_LARGE);
            return self.send(ServerFrame::Reply(refused(reply.id, refusal)));
        }
        self.undrained_reply_bytes += bytes;
        self.send(ServerFrame::Reply(reply));
    }

    /// A batch of events for the peer.
    pub(super) fn send_events(&mut self, id: SubscriptionId, batch: Batch) {
        self.undrained_bytes += crate::codec::EVENTS_HEAD_BYTES + batch.records.len();
        let Batch { epoch, count, records, .. } = batch;
        self.push(Output::SendEvents { id, epoch, count, records });
    }

    /// A batch of events that the peer does not get.
    pub(super) fn send_skip(&mut self, id: SubscriptionId, batch: &Batch) {
        // There may be very many in a row: the socket's progress bounds them as it does events.
        self.undrained_bytes += SKIP_BYTES;
        self.send(ServerFrame::Skip { id, through: batch.last_position(), nth_through: batch.last_nth() });
    }

    /// An event that is not logged, for the peer.
    pub(super) fn send_volatile(&mut self, event: Volatile) {
        self.undrained_bytes += crate::codec::EVENTS_HEAD_BYTES + event.name.as_str().len() + event.payload.len();
        self.send(ServerFrame::Volatile(event));
    }

    /// A confirmed ack; a later one covers it.
    pub(super) fn acked(&mut self, id: SubscriptionId, seq: Seq) {
        let confirmed = self.acked.entry(id).or_insert(seq);
        *confirmed = seq.max(*confirmed);
    }

    /// Sends what of a subscription is confirmed, before its end is told.
    pub(super) fn flush_acked(&mut self, id: SubscriptionId) {
        if let Some(seq) = self.acked.remove(&id) {
            self.send(ServerFrame::Acked { id, seq });
        }
    }

    /// What became of emits.
    pub(super) fn emitted(&mut self, run: EmitRun) {
        if !self.emitted.last_mut().is_some_and(|last| last.try_extend(&run)) {
            self.emitted.push(run);
        }
    }

    /// An emit came too early.
    pub(super) fn out_of_order(&mut self, expected: EmitNumber) {
        self.out_of_order = Some(expected);
    }

    /// The answer to a ping; a later one replaces it.
    pub(super) fn pong(&mut self, token: u64) {
        self.pong = Some(token);
    }

    /// The last output.
    pub(super) fn close(&mut self, close: Close) {
        self.flush();
        self.push(Output::Close(close));
        self.is_closed = true;
    }

    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Everything that was given to be written has left.
    pub(super) fn drained(&mut self) {
        (self.undrained_frames, self.undrained_bytes, self.undrained_reply_bytes) = (0, 0, 0);
    }

    /// The bytes of events that were given to be written and have not all left.
    pub(super) fn undrained_bytes(&self) -> usize {
        self.undrained_bytes
    }

    /// Whether so many answers wait that nothing more should be asked.
    pub(super) fn is_crowded(&self) -> bool {
        self.undrained_frames >= UNDRAINED_FRAMES_MAX
    }

    fn flush(&mut self) {
        let emitted = std::mem::take(&mut self.emitted);
        for runs in emitted.chunks(RUNS_PER_FRAME_MAX) {
            self.send(ServerFrame::Emitted { runs: runs.to_vec() });
        }
        // After the refusals that it follows from.
        if let Some(expected) = self.out_of_order.take() {
            self.send(ServerFrame::OutOfOrder { expected });
        }
        for (id, seq) in std::mem::take(&mut self.acked) {
            self.send(ServerFrame::Acked { id, seq });
        }
        if let Some(token) = self.pong.take() {
            self.send(ServerFrame::Pong { token });
        }
    }
}

/// What a skip takes in the socket's buffers, about, in bytes.
const SKIP_BYTES: usize = 64;

/// Most runs in one frame: it must stay far below the largest message.
const RUNS_PER_FRAME_MAX: usize = 4096;

/// Most frames (but events) that may wait for the socket before the peer is read no further.
const UNDRAINED_FRAMES_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::EmitFate;
    use crate::seq::{Epoch, Position};

    fn run(first: u64, count: u32, fate: EmitFate) -> EmitRun {
        EmitRun { first: EmitNumber(first), count, fate }
    }

    fn stored(epoch: u8, seq: u64) -> EmitFate {
        EmitFate::Stored(Position::new(Epoch([epoch; 16]), Seq(seq)))
    }

    fn emitted(runs: &[EmitRun]) -> Vec<EmitRun> {
        let mut outputs = Outputs::default();
        runs.iter().for_each(|run| outputs.emitted(*run));
        match outputs.poll() {
            Some(Output::Send(ServerFrame::Emitted { runs })) => runs,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn runs_are_told_together_only_if_nothing_is_lost_by_it() {
        let refused = EmitFate::Refused(RefusalCode::TOO_LARGE);
        assert_eq!(emitted(&[run(1, 2, stored(1, 7)), run(3, 1, stored(1, 9))]), vec![run(1, 3, stored(1, 7))]);
        assert_eq!(emitted(&[run(1, 2, refused), run(3, 4, refused)]), vec![run(1, 6, refused)]);
        for apart in [
            [run(1, 2, stored(1, 7)), run(3, 1, stored(1, 10))],
            [run(1, 2, stored(1, 7)), run(3, 1, stored(2, 9))],
            [run(1, 2, stored(1, 7)), run(4, 1, stored(1, 9))],
            [run(1, 2, refused), run(3, 1, EmitFate::Refused(RefusalCode::INVALID))],
            [run(1, 1, stored(1, 7)), run(2, 1, refused)],
        ] {
            assert_eq!(emitted(&apart), apart.to_vec());
        }
    }

    #[test]
    fn nothing_comes_after_a_close_and_what_was_to_be_said_comes_before() {
        let mut outputs = Outputs::default();
        outputs.acked(SubscriptionId(1), Seq(4));
        outputs.close(super::super::fault::stuck());
        outputs.pong(3);
        outputs.send(ServerFrame::Ping { token: 1 });
        assert!(matches!(outputs.poll(), Some(Output::Send(ServerFrame::Acked { seq: Seq(4), .. }))));
        assert!(matches!(outputs.poll(), Some(Output::Close(_))));
        assert!(outputs.poll().is_none());
    }
}
