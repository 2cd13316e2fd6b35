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
    /// Whose apps want more, and how many events and gaps they have taken.
    wanting: Mutex<BTreeMap<SubscriptionId, u64>>,
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

    /// The app wants more of this subscription, and has taken so many events and gaps.
    pub(crate) fn want(&self, id: SubscriptionId, taken: u64) {
        if self.wanting.lock().insert(id, taken).is_none() {
            self.wake.notify_one();
        }
    }

    /// Takes whose apps want more.
    pub(crate) fn take_wanting(&self) -> BTreeMap<SubscriptionId, u64> {
        std::mem::take(&mut *self.wanting.lock())
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
