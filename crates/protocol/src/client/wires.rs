//! The numbers by which a connection's frames name subscriptions. Knows nothing of what a subscription is.

use std::collections::BTreeMap;

use super::fault::Fault;
use crate::seq::SubscriptionId;

/// The subscriptions by their numbers on the present connection, which are given upwards and never twice.
#[derive(Debug, Default)]
pub(super) struct Wires {
    subscriptions: BTreeMap<SubscriptionId, SubscriptionId>,
    last: u32,
}

impl Wires {
    /// Gives a new number to a subscription.
    pub(super) fn give(&mut self, id: SubscriptionId) -> SubscriptionId {
        self.last += 1;
        let wire = SubscriptionId(self.last);
        self.subscriptions.insert(wire, id);
        wire
    }

    /// Nobody has this number any more. It is not given again.
    pub(super) fn take_back(&mut self, wire: SubscriptionId) {
        self.subscriptions.remove(&wire);
    }

    /// Which subscription has this number now.
    pub(super) fn get(&self, wire: SubscriptionId) -> Option<SubscriptionId> {
        self.subscriptions.get(&wire).copied()
    }

    /// Which subscription a frame names. Frames for one that has just been given up are passed over (`None`); a number
    /// that was never given is a violation.
    pub(super) fn named(&self, wire: SubscriptionId) -> Result<Option<SubscriptionId>, Fault> {
        let id = self.get(wire);
        if id.is_none() && (wire.0 == 0 || wire.0 > self.last) {
            return Err(Fault::unexpected("a frame names a subscription that was never made"));
        }
        Ok(id)
    }
}
