//! Acks on their way to the driver: the newest of each subscription. Acknowledging is a map insert and a wake-up; it
//! never waits, and its memory is bounded by the number of subscriptions.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use redeliver_protocol::seq::{Nth, Position, SubscriptionId};
use tokio::sync::Notify;

/// An acknowledged event or gap.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ack {
    /// Its place among all that was handed over on this subscription. Seqs and nths cannot serve: when the log has
    /// gone back, they start again from lower ones.
    pub(crate) order: u64,
    /// By which topic it came.
    pub(crate) topic: SubscriptionId,
    /// What the server is told.
    pub(crate) position: Position,
    /// Its nth.
    pub(crate) nth: Nth,
}

/// The newest ack of each subscription that the driver has not taken yet.
#[derive(Debug, Default)]
pub(crate) struct AckBoard {
    newest: Mutex<BTreeMap<SubscriptionId, Ack>>,
    wake: Notify,
}

impl AckBoard {
    pub(crate) fn ack(&self, id: SubscriptionId, ack: Ack) {
        let was_empty = {
            let mut newest = self.newest.lock();
            let was_empty = newest.is_empty();
            let known = newest.entry(id).or_insert(ack);
            if ack.order > known.order {
                *known = ack;
            }
            was_empty
        };
        if was_empty {
            self.wake.notify_one();
        }
    }

    /// Takes all that is there.
    pub(crate) fn take(&self) -> BTreeMap<SubscriptionId, Ack> {
        std::mem::take(&mut *self.newest.lock())
    }

    /// Resolves once something is there. May resolve without.
    pub(crate) async fn changed(&self) {
        self.wake.notified().await;
    }
}

/// What an event needs to be acknowledged.
#[derive(Clone, Debug)]
pub(crate) struct AckHandle {
    pub(crate) board: Arc<AckBoard>,
    pub(crate) id: SubscriptionId,
    pub(crate) ack: Ack,
}

impl AckHandle {
    pub(crate) fn ack(&self) {
        self.board.ack(self.id, self.ack);
    }
}
