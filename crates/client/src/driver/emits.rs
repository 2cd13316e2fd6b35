//! The emits that have no receipt yet: who waits for each, and the room that it takes.

use std::collections::HashMap;

use redeliver_protocol::client::{EmitOutcome, EmitTicket};
use redeliver_protocol::emit::{EmitError, Receipt};
use tokio::sync::oneshot;

use crate::emit::receipt_of;
use crate::outbox_room::Room;

/// Invariant: its size is bounded by the outbox, since each entry holds its room.
#[derive(Debug)]
pub(super) struct Emits {
    replays: bool,
    waiting: HashMap<EmitTicket, (oneshot::Sender<Result<Receipt, EmitError>>, Room)>,
}

impl Emits {
    pub(super) fn new(replays: bool) -> Emits {
        Emits { waiting: HashMap::new(), replays }
    }

    pub(super) fn add(&mut self, ticket: EmitTicket, answer: oneshot::Sender<Result<Receipt, EmitError>>, room: Room) {
        self.waiting.insert(ticket, (answer, room));
    }

    pub(super) fn contains(&self, ticket: EmitTicket) -> bool {
        self.waiting.contains_key(&ticket)
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Answers whoever waits, and gives the room free.
    pub(super) fn done(&mut self, ticket: EmitTicket, outcome: EmitOutcome) {
        if let Some((answer, _room)) = self.waiting.remove(&ticket) {
            // Nobody may be waiting any more.
            let _ = answer.send(receipt_of(outcome, self.replays));
        }
    }
}
