//! The subscriptions that live: where their deliveries go, and which of their acks are confirmed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use redeliver_protocol::client::{StreamItem, SubscriptionEnd};
use redeliver_protocol::delivery::AckPoint;
use redeliver_protocol::seq::{Seq, SubscriptionId};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::unacked::Unacked;
use crate::command::{Opened, Outlet};
use crate::cursor_store::KeyClaim;
use crate::error::NotConfirmed;
use crate::volatile::volatile_bytes;

#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    entries: BTreeMap<SubscriptionId, Entry>,
    /// Which of them the topics belong to that are read as one.
    rows: BTreeMap<SubscriptionId, SubscriptionId>,
    /// Whose window is full, and when that is to be told. Entries may be outdated.
    stalls: BTreeSet<(Instant, SubscriptionId)>,
}

#[derive(Debug)]
struct Entry {
    outlet: Outlet,
    unacked: Unacked,
    /// The order of the newest ack that the session has got.
    acked: u64,
    /// The acks that the session has got and not confirmed: order and seq, oldest first.
    unconfirmed: VecDeque<(u64, Seq)>,
    /// Who waits for all acks up to an order.
    flushes: Vec<(u64, oneshot::Sender<Result<(), NotConfirmed>>)>,
}

impl Subscriptions {
    pub(super) fn add(&mut self, id: SubscriptionId, outlet: Outlet) {
        let unacked = Unacked::new(outlet.window);
        let entry = Entry { outlet, unacked, acked: 0, unconfirmed: VecDeque::new(), flushes: Vec::new() };
        self.entries.insert(id, entry);
    }

    /// Several topics that are read as one.
    pub(super) fn add_merged(
        &mut self,
        id: SubscriptionId,
        members: impl Iterator<Item = SubscriptionId>,
        outlet: Outlet,
    ) {
        self.rows.extend(members.map(|member| (member, id)));
        self.add(id, outlet);
    }

    pub(super) fn contains(&self, id: SubscriptionId) -> bool {
        self.entries.contains_key(&id)
    }

    /// The key of its cursor in the client's store.
    pub(super) fn key(&self, id: SubscriptionId) -> Option<Arc<KeyClaim>> {
        let row = self.row_of(id);
        self.entries.get(&row)?.outlet.keys.get(&id).cloned()
    }

    pub(super) fn deliver(&mut self, id: SubscriptionId, delivery: StreamItem) {
        let row = self.row_of(id);
        let Some(entry) = self.entries.get_mut(&row) else { return };
        if let StreamItem::Subscribed { after, nth, pending } = &delivery
            && let Some(opened) = entry.outlet.opened.take()
        {
            // Whoever waited for it may have gone; the unsubscribe is on its way then.
            let _ = opened.send(Opened { after: *after, nth: *nth, pending: *pending });
            return;
        }
        let is_aside = match delivery {
            StreamItem::Subscribed { .. } | StreamItem::CaughtUp { .. } => true,
            StreamItem::Event { .. } | StreamItem::Gap { .. } | StreamItem::Volatile { .. } => false,
        };
        if is_aside && entry.outlet.asides.fetch_add(1, Ordering::Relaxed) >= ASIDES_MAX {
            entry.outlet.asides.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        if let StreamItem::Volatile { name, payload, .. } = &delivery {
            let bytes = volatile_bytes(name, payload);
            let waiting = entry.outlet.volatile_bytes.fetch_add(bytes, Ordering::Relaxed);
            if waiting > 0 && waiting.saturating_add(bytes) > VOLATILE_BYTES_MAX {
                entry.outlet.volatile_bytes.fetch_sub(bytes, Ordering::Relaxed);
                return;
            }
        }
        match &delivery {
            StreamItem::Event { record, .. } => {
                entry.unacked.delivered(id, record.name.as_str().len() + record.payload.len(), Instant::now());
            }
            StreamItem::Gap { .. } => entry.unacked.delivered(id, 0, Instant::now()),
            StreamItem::Subscribed { .. } | StreamItem::CaughtUp { .. } | StreamItem::Volatile { .. } => {}
        }
        // Adding what is there already changes nothing.
        self.stalls.extend(entry.unacked.next_stall().map(|due| (due, row)));
        let _ = entry.outlet.deliveries.send((id, delivery));
    }

    /// The session is to be told when no more than this is left for the app to take.
    pub(super) fn ask_at(&self, id: SubscriptionId, left: u64) {
        if let Some(entry) = self.entries.get(&id) {
            entry.outlet.ask_at.store(usize::try_from(left).unwrap_or(usize::MAX), Ordering::Relaxed);
        }
    }

    /// Notes an ack on its way to the session. False if the session has no use for it.
    pub(super) fn pass(&mut self, id: SubscriptionId, ack: &AckPoint) -> bool {
        let Some(entry) = self.entries.get_mut(&id).filter(|entry| entry.acked < ack.order) else { return false };
        if let Some(due) = entry.unacked.next_stall() {
            self.stalls.remove(&(due, id));
        }
        entry.acked = ack.order;
        entry.unacked.acked(ack.order);
        if entry.unconfirmed.len() >= UNCONFIRMED_MAX {
            // One entry then stands for two acks: confirmed a little later than could be said.
            entry.unconfirmed.pop_back();
        }
        entry.unconfirmed.push_back((ack.order, ack.position.seq));
        true
    }

    /// Everything up to this seq is confirmed.
    pub(super) fn confirm(&mut self, id: SubscriptionId, seq: Seq) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        // When the log has gone back, a later ack may have a lower seq: an exact match says more than the order of seqs.
        let exact = entry.unconfirmed.iter().rposition(|(_, unconfirmed)| *unconfirmed == seq);
        let confirmed = match exact {
            Some(at) => at + 1,
            None => entry.unconfirmed.iter().take_while(|(_, unconfirmed)| *unconfirmed <= seq).count(),
        };
        entry.unconfirmed.drain(..confirmed);
        entry.answer_flushes();
    }

    pub(super) fn flush(&mut self, id: SubscriptionId, answer: oneshot::Sender<Result<(), NotConfirmed>>) {
        // Without an entry the answer is dropped, which says that the subscription has ended.
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.flushes.push((entry.acked, answer));
            entry.answer_flushes();
        }
    }

    /// When the next one is to be told that its window stays full.
    pub(super) fn next_stall(&self) -> Option<Instant> {
        self.stalls.first().map(|(due, _)| *due)
    }

    /// Says of which subscriptions the window stays full.
    pub(super) fn tell_stalls(&mut self, now: Instant) {
        while let Some((due, id)) = self.stalls.first().copied().filter(|(due, _)| *due <= now) {
            self.stalls.remove(&(due, id));
            if let Some(entry) = self.entries.get_mut(&id).filter(|entry| entry.unacked.next_stall() == Some(due)) {
                entry.unacked.told();
                tracing::warn!(
                    topic = %entry.outlet.topic,
                    "a subscription's window is full and nothing was acknowledged for 10 s: nothing more comes until \
                     the app acknowledges (Event::ack, or auto_ack on the subscription)"
                );
            }
        }
    }

    /// How many have acks that are not confirmed.
    pub(super) fn unconfirmed(&self) -> usize {
        self.entries.values().filter(|entry| !entry.unconfirmed.is_empty()).count()
    }

    pub(super) fn end(&mut self, id: SubscriptionId, why: &SubscriptionEnd) {
        if let Some(entry) = self.entries.remove(&id) {
            if let Some(due) = entry.unacked.next_stall() {
                self.stalls.remove(&(due, id));
            }
            self.rows.retain(|_, row| *row != id);
            entry.end(why);
        }
    }

    /// The subscription that a topic belongs to: mostly the topic's own.
    fn row_of(&self, id: SubscriptionId) -> SubscriptionId {
        self.rows.get(&id).copied().unwrap_or(id)
    }

    pub(super) fn end_all(&mut self) {
        for entry in std::mem::take(&mut self.entries).into_values() {
            entry.end(&SubscriptionEnd::ClientEnded);
        }
    }
}

impl Entry {
    fn answer_flushes(&mut self) {
        let oldest = self.unconfirmed.front().map_or(u64::MAX, |(order, _)| *order);
        for (_, answer) in self.flushes.extract_if(.., |(order, _)| *order < oldest) {
            // Whoever waited may be gone.
            let _ = answer.send(Ok(()));
        }
    }

    fn end(self, why: &SubscriptionEnd) {
        // The channels close last: they are what readers wait for, who then ask for the reason, or use the keys again.
        let _ = self.outlet.end.set(why.clone());
        drop(self.outlet.keys);
        for (_, answer) in self.flushes {
            let _ = answer.send(match why {
                // It ended because it was asked to, after its acks were confirmed.
                SubscriptionEnd::Asked => Ok(()),
                SubscriptionEnd::TakenOver | SubscriptionEnd::Refused(..) | SubscriptionEnd::ClientEnded | _ => {
                    Err(NotConfirmed::new(why.clone()))
                }
            });
        }
    }
}

/// Most news of the connection that wait for a reader who takes nothing. What comes after them, it will not miss: each
/// says less than the events around it.
const ASIDES_MAX: usize = 64;

/// Most bytes of volatile events that wait for a reader. One always fits.
const VOLATILE_BYTES_MAX: usize = 256 * 1024;

/// Most acks of one subscription that are told apart until they are confirmed.
const UNCONFIRMED_MAX: usize = 1024;
