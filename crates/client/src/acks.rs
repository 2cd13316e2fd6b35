//! Acks on their way to the driver: the newest of each subscription. Acknowledging is a map insert and a wake-up; it
//! never waits, and its memory is bounded by the number of subscriptions.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use redeliver_protocol::delivery::{AckPoint, Acknowledge};
use redeliver_protocol::seq::SubscriptionId;
use tokio::sync::Notify;

/// The newest ack of each subscription that the driver has not taken yet.
#[derive(Debug, Default)]
pub(crate) struct AckBoard {
    newest: Mutex<BTreeMap<SubscriptionId, AckPoint>>,
    wake: Notify,
}

impl AckBoard {
    pub(crate) fn ack(&self, id: SubscriptionId, ack: AckPoint) {
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
    pub(crate) fn take(&self) -> BTreeMap<SubscriptionId, AckPoint> {
        std::mem::take(&mut *self.newest.lock())
    }

    /// Resolves once something is there. May resolve without.
    pub(crate) async fn changed(&self) {
        self.wake.notified().await;
    }
}

/// Where the acks of one subscription go.
#[derive(Debug)]
pub(crate) struct AckLine {
    pub(crate) board: Arc<AckBoard>,
    pub(crate) id: SubscriptionId,
}

impl Acknowledge for AckLine {
    fn acknowledge(&self, point: AckPoint) {
        self.board.ack(self.id, point);
    }
}
