//! What arrives on a subscription and what is handed over: the inbox before the app, and what the app has in hand.
//!
//! The inbox is where completeness is proved: what does not follow exactly on what came before is never taken.

use std::collections::VecDeque;

use crate::codec::{Records, record_bytes};
use crate::event::Record;
use crate::frame::{Events, Window};
use crate::history::{Gap, GapCause};
use crate::limits::FRAME_BYTES_MAX;
use crate::seq::{Epoch, Nth, Position, Seq};

/// What arrived and is not handed over yet, in order.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    items: VecDeque<Item>,
    /// Where the stream has arrived.
    seq: Seq,
    nth: Nth,
    events: usize,
    bytes: usize,
    window: Window,
    /// How many topics are read as one with this one, itself included: multiplies how many skips may be buffered.
    topics: usize,
}

#[derive(Debug)]
pub(super) enum Item {
    Subscribed { after: Position, nth: Nth, pending: u64 },
    Gap { gap: Gap },
    Event { epoch: Epoch, record: Record },
    Skip { through: Position, nth_through: Nth },
    CaughtUp { seq: Seq },
}

/// Why something that arrived cannot be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Misfit {
    /// It does not follow on what came before: something is missing, or it is broken.
    Hole(&'static str),
    /// The server sends more than the window allows.
    Flood,
}

impl Inbox {
    /// A new stream begins here; what was left of the old one is dropped.
    pub(super) fn begin(&mut self, after: Position, nth: Nth, pending: u64, window: Window, topics: usize) {
        self.drop_all();
        (self.seq, self.nth, self.window, self.topics) = (after.seq, nth, window, topics);
        self.items.push_back(Item::Subscribed { after, nth, pending });
    }

    pub(super) fn drop_all(&mut self) {
        self.items.clear();
        (self.events, self.bytes) = (0, 0);
    }

    pub(super) fn events(&self) -> usize {
        self.events
    }

    /// Where the stream has arrived.
    pub(super) fn seq(&self) -> Seq {
        self.seq
    }

    pub(super) fn front(&self) -> Option<&Item> {
        self.items.front()
    }

    pub(super) fn pop(&mut self) -> Option<Item> {
        let item = self.items.pop_front()?;
        if let Item::Event { record, .. } = &item {
            self.events -= 1;
            self.bytes -= size_bytes(record);
        }
        Some(item)
    }

    /// The gap that Subscribed told: it lies before the place where the stream begins.
    pub(super) fn opening_gap(&mut self, gap: Gap) {
        self.items.push_back(Item::Gap { gap });
    }

    /// Takes a whole batch or nothing of it.
    pub(super) fn events_arrived(&mut self, batch: &Events) -> Result<(), Misfit> {
        let (mut seq, mut nth, mut count, mut bytes) = (self.seq, self.nth, 0, 0);
        let mut items = Vec::new();
        for record in Records::new(batch.records.clone()) {
            let Ok(record) = record else { return Err(Misfit::Hole("a record could not be read")) };
            if nth.0.checked_add(1) != Some(record.nth.0) {
                return Err(Misfit::Hole("an event's nth is not the next"));
            }
            if record.seq <= seq {
                return Err(Misfit::Hole("an event's seq does not rise"));
            }
            (seq, nth) = (record.seq, record.nth);
            count += 1;
            bytes += size_bytes(&record);
            items.push(Item::Event { epoch: batch.epoch, record });
        }
        if count == 0 || count != u64::from(batch.count) {
            return Err(Misfit::Hole("a batch does not hold as many events as it says"));
        }
        (self.seq, self.nth) = (seq, nth);
        self.events += items.len();
        self.bytes += bytes;
        self.items.extend(items);
        self.bounded()
    }

    /// `is_apart`: it must not be taken together with a skip before it, since events of other topics lie between.
    pub(super) fn skip_arrived(&mut self, through: Position, nth_through: Nth, is_apart: bool) -> Result<(), Misfit> {
        if through.seq <= self.seq || nth_through <= self.nth {
            return Err(Misfit::Hole("a skip does not lead on"));
        }
        (self.seq, self.nth) = (through.seq, nth_through);
        if let Some(Item::Skip { .. }) = self.items.back()
            && !is_apart
        {
            self.items.pop_back();
        }
        self.items.push_back(Item::Skip { through, nth_through });
        self.bounded()
    }

    pub(super) fn gap_arrived(&mut self, gap: Gap) -> Result<(), Misfit> {
        if gap.cause == GapCause::EpochChanged {
            return Err(Misfit::Hole("the history changed under a stream"));
        }
        if gap.through.seq <= self.seq || gap.nth_through < self.nth {
            return Err(Misfit::Hole("a gap does not lead on"));
        }
        (self.seq, self.nth) = (gap.through.seq, gap.nth_through);
        self.items.push_back(Item::Gap { gap });
        self.bounded()
    }

    pub(super) fn caught_up_arrived(&mut self, seq: Seq) -> Result<(), Misfit> {
        self.items.push_back(Item::CaughtUp { seq });
        self.bounded()
    }

    /// An honest server never sends more than the window beyond what is acknowledged, so what waits here, alone, is
    /// within it too. What is no event is rare: it has room, but not without end.
    fn bounded(&self) -> Result<(), Misfit> {
        let events_max = to_usize(self.window.events).max(1);
        let bytes_max = to_usize(self.window.bytes).saturating_add(FRAME_BYTES_MAX);
        let items_max = events_max.saturating_mul(self.topics.saturating_add(1)).saturating_add(OTHER_ITEMS_MAX);
        if self.events > events_max || self.bytes > bytes_max || self.items.len() > items_max {
            return Err(Misfit::Flood);
        }
        Ok(())
    }
}

/// What is handed over and not acknowledged, in order.
#[derive(Debug, Default)]
pub(super) struct InHand {
    entries: VecDeque<Held>,
    events: usize,
    bytes: usize,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) position: Position,
    pub(super) nth: Nth,
    /// In which of the histories that this subscription has seen: see `Subscription`.
    pub(super) history: u32,
    /// When it was handed over, counted in the events and gaps of the merged subscription that it belongs to, if it does.
    order: u64,
    weight: Weight,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weight {
    Event { bytes: usize },
    Gap,
    Skip,
}

impl InHand {
    /// Whether the window has room for this event. One event always fits.
    pub(super) fn has_room(&self, record: &Record, window: Window) -> bool {
        let events_max = to_usize(window.events).max(1);
        self.events == 0 || self.events < events_max && self.bytes + size_bytes(record) <= to_usize(window.bytes)
    }

    pub(super) fn hold_event(&mut self, position: Position, record: &Record, history: u32, order: u64) {
        let bytes = size_bytes(record);
        self.events += 1;
        self.bytes += bytes;
        let weight = Weight::Event { bytes };
        self.entries.push_back(Held { position, nth: record.nth, history, order, weight });
    }

    /// A gap is acknowledged like an event, but takes no room: an app that acks every hundredth event must not wait
    /// for ever because one of them was a gap.
    pub(super) fn hold_gap(&mut self, gap: &Gap, history: u32, order: u64) {
        let (position, nth) = (gap.through, gap.nth_through);
        self.entries.push_back(Held { position, nth, history, order, weight: Weight::Gap });
    }

    /// In a merged subscription a skip says that the event comes by another topic: it is acknowledged with that. `order`
    /// is the event's. Returns whether one more is in hand: a skip that follows on another one takes its place.
    pub(super) fn hold_skip(&mut self, position: Position, nth: Nth, history: u32, order: u64) -> bool {
        let follows = self.entries.back().is_some_and(|held| held.weight == Weight::Skip && held.order == order);
        if follows {
            self.entries.pop_back();
        }
        self.entries.push_back(Held { position, nth, history, order, weight: Weight::Skip });
        !follows
    }

    /// When this was handed over, if it is in hand.
    pub(super) fn order_of(&self, position: Position, nth: Nth) -> Option<u64> {
        self.entries.iter().find(|held| held.position == position && held.nth == nth).map(|held| held.order)
    }

    /// The last in hand that was handed over up to then.
    pub(super) fn last_through(&self, order: u64) -> Option<(Position, Nth)> {
        let after = self.entries.partition_point(|held| held.order <= order);
        let last = self.entries.get(after.checked_sub(1)?)?;
        Some((last.position, last.nth))
    }

    /// Takes everything up to this position out, if it is in hand: each entry to `each`, in order. Returns how many
    /// events and bytes that were.
    pub(super) fn release(
        &mut self,
        position: Position,
        nth: Nth,
        mut each: impl FnMut(Held),
    ) -> Option<(usize, usize)> {
        let at = self.entries.iter().position(|held| held.position == position && held.nth == nth)?;
        let mut released = (0, 0);
        for held in self.entries.drain(..=at) {
            if let Weight::Event { bytes } = held.weight {
                released = (released.0 + 1, released.1 + bytes);
            }
            each(held);
        }
        self.events -= released.0;
        self.bytes -= released.1;
        Some(released)
    }

    pub(super) fn drop_all(&mut self) {
        *self = InHand::default();
    }
}

fn size_bytes(record: &Record) -> usize {
    record_bytes(record.name.as_str(), &record.payload)
}

fn to_usize(n: u32) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

/// Gaps, skips and the like that may wait beside the events.
const OTHER_ITEMS_MAX: usize = 1024;
