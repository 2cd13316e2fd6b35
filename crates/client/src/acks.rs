//! Acks on their way to the driver: the newest of each subscription. Acknowledging is a map insert and a wake-up; it
//! never waits, and its memory is bounded by the number of subscriptions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;
use redeliver_protocol::delivery::{AckPoint, Acknowledge};
use redeliver_protocol::seq::SubscriptionId;
use tokio::sync::Notify;

/// The newest ack of each subscription that the driver has not taken yet.
#[derive(Debug, Default)]
pub(crate) struct AckBoard {
    newest: Mutex<BTreeMap<SubscriptionId, AckPoint>>,
    /// Whose apps have taken all that was delivered and wait for more.
    wanting: Mutex<BTreeSet<SubscriptionId>>,
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

    /// The app waits for more of this subscription.
    pub(crate) fn want(&self, id: SubscriptionId) {
        if self.wanting.lock().insert(id) {
            self.wake.notify_one();
        }
    }

    /// Takes whose apps wait for more.
    pub(crate) fn take_wanting(&self) -> BTreeSet<SubscriptionId> {
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
