//! Several subscriptions read as one row: sends what [`Groups`](super::groups::Groups) holds, in the order of the log. Never
//! sends an event before one with a lower seq of another topic of the group, and none twice.
//!
//! Every member is a subscription like any other, with its own place, window and cursor: here is nothing but the order.

use super::super::outputs::Outputs;
use super::super::subscription::OpenSubscription;
use super::Deliveries;
use super::groups::Turn;
use crate::error::Close;
use crate::frame::Subscribe;
use crate::limits::Limits;
use crate::seq::{Seq, SubscriptionId};

impl Deliveries {
    /// Takes a request to follow a topic as one of a group.
    pub(in crate::server) fn subscribe_merged(
        &mut self,
        group: u32,
        request: Subscribe,
        limits: &Limits,
        out: &mut Outputs,
    ) -> Result<(), Close> {
        self.groups.name(group)?;
        self.subscribe_as(Some(group), request, limits, out)
    }

    /// All subscriptions of a group are named.
    pub(in crate::server) fn begin_merged(&mut self, group: u32) -> Result<(), Close> {
        let unread = self.groups.begin(group)?;
        self.enqueue_all(unread);
        Ok(())
    }

    /// The answer to [`Output::FindGrown`](crate::server::Output::FindGrown).
    pub(in crate::server) fn grown(&mut self, through: Seq, grown: Vec<(SubscriptionId, Seq)>) -> Result<(), Close> {
        let asker = self.scheduler.end_look()?;
        let subscriptions = &self.subscriptions;
        let sent = |id| subscriptions.get(&id)?.place().map(|open| open.in_flight.sent().seq);
        let unread = self.groups.grown(asker, through, grown, sent);
        for id in &unread {
            if let Some(open) = self.open(*id) {
                open.may_have_more = true;
            }
        }
        self.enqueue_all(unread);
        Ok(())
    }

    /// Sends what can be sent in the groups in which something has changed.
    pub(in crate::server) fn merge_due(&mut self, out: &mut Outputs) -> Result<(), Close> {
        while let Some(group) = self.groups.next_due() {
            while let Some(turn) = self.groups.turn(group) {
                if !self.send_turn(group, &turn, out)? {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Sends what is held for one member, as far as its turn goes. The others that have its first event too are told a skip
    /// before it, so that whoever comes back from between has the event still before it. Returns whether the window had
    /// room.
    fn send_turn(&mut self, group: u32, turn: &Turn, out: &mut Outputs) -> Result<bool, Close> {
        let bytes = self.groups.turn_bytes(group, turn)?;
        if !self.open(turn.id).is_some_and(|open| open.in_flight.fits(bytes)) {
            return Ok(false);
        }
        for double in &turn.doubles {
            let Some((batch, is_all)) = self.groups.take(group, *double, Seq::ZERO)? else { continue };
            if let Some(open) = self.open(*double) {
                open.in_flight.sent_skip(&batch);
                out.send_skip(*double, &batch);
            }
            self.passed(*double, is_all, batch.is_end, out);
        }
        if let Some((batch, is_all)) = self.groups.take(group, turn.id, turn.before)? {
            let is_end = batch.is_end;
            // A part of what was held is no sign that there is more than that.
            let may_have_more = self.open(turn.id).is_some_and(|open| open.may_have_more);
            self.send_batch(turn.id, batch, u32::MAX, out)?;
            if let Some(open) = self.open(turn.id) {
                open.may_have_more = may_have_more;
            }
            self.passed(turn.id, is_all, is_end, out);
        }
        Ok(true)
    }

    /// A part of what was held is sent, or skipped. `is_end`: nothing lay behind it when it was read.
    fn passed(&mut self, id: SubscriptionId, is_all: bool, is_end: bool, out: &mut Outputs) {
        if let Some(open) = self.open(id) {
            open.may_have_more |= is_all && !is_end;
        }
        self.tell_caught_up(id, is_end, out);
        self.save_if_due(id, out);
        self.enqueue(id);
    }

    pub(super) fn enqueue_all(&mut self, ids: Vec<SubscriptionId>) {
        ids.into_iter().for_each(|id| self.enqueue(id));
    }

    fn open(&mut self, id: SubscriptionId) -> Option<&mut OpenSubscription> {
        self.subscriptions.get_mut(&id)?.announced()
    }
}
