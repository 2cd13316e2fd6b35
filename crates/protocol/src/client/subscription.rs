//! One subscription of a client, across its connections: where it stands, what it hands over, how it ends.
//!
//! It resumes after what it has *handed over*, so nothing is handed over twice within one process; what was handed over
//! and not acknowledged is the keeper's concern, and matters to the next process.
//! [`redelivery`](crate::redelivery) says which events are marked, and why.

mod opening;

use super::acks::Acks;
use super::inbox::{InHand, Inbox, Item, Misfit};
use super::outputs::Outputs;
use super::pace::Pace;
use super::{CursorKeeper, Output, StreamItem, SubscribeRequest, SubscriptionEnd};
use crate::features::Features;
use crate::frame::{ClientFrame, Events, Ownership, Volatile, Window};
use crate::history::{Gap, GapCause, Place, Start};
use crate::name::TopicName;
use crate::redelivery::DeliveredThrough;
use crate::seq::{Nth, Position, Seq, SubscriptionId};
use crate::time::Instant;

#[derive(Debug)]
pub(super) struct Subscription {
    id: SubscriptionId,
    /// How many topics are read as one with this one, itself included; none if it is read alone. A member does not hand
    /// over by itself: the merged subscription asks it to.
    merged: Option<usize>,
    topic: TopicName,
    start: Start,
    /// The start is a place that the app has kept by itself.
    is_place_brought: bool,
    /// What was asked of a server that knows no first start makes it tell a gap where there is none.
    is_gap_false: bool,
    ownership: Ownership,
    requested: Window,
    window: Window,
    kept_by_server: bool,
    link: Link,
    begun: bool,
    /// Counts the histories seen: it goes up with each gap because of a changed epoch, where seqs and nths may go back.
    history: u32,
    handed_history: u32,
    /// The place up to which everything is handed over.
    handed: Option<Place>,
    /// The place of the last event or gap that the app was shown; before that, where the stream began.
    shown: Option<Place>,
    /// What of the present history an earlier process may have been given.
    delivered_through: DeliveredThrough,
    /// What an earlier process left in the client's store.
    stored_delivered_through: DeliveredThrough,
    inbox: Inbox,
    in_hand: InHand,
    acks: Acks,
    leaving: Leaving,
    faults: u32,
    /// With what the present connection is spoken.
    features: Features,
    pace: Pace,
}

/// The subscription on the present connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Down,
    Asked { wire: SubscriptionId },
    Open { wire: SubscriptionId },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    No,
    /// The app wants it to end; its acks come first.
    Wanted,
    /// Unsubscribe is sent.
    Sent,
}

/// When something is due among the members of a merged subscription: its seq, and what comes first of several with the
/// same one.
pub(super) type Due = (Seq, u8);

/// What a subscription has handed over.
#[derive(Debug)]
pub(super) enum Handed {
    /// An event or a gap: the app has it in hand until it acknowledges it.
    InHand(StreamItem),
    /// How the stream stands: nothing to acknowledge.
    News(StreamItem),
    /// Nothing for the app.
    Skip {
        /// Whether it is acknowledged with the event that follows, and does not merely move on such a skip before it.
        is_more_in_hand: bool,
    },
}

/// How soon acks should be flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Urgency {
    Nothing,
    Later,
    Now,
}

impl Subscription {
    /// One that is read alone, or together with others: so many, itself included.
    pub(super) fn new(id: SubscriptionId, request: SubscribeRequest, merged: Option<usize>) -> Subscription {
        let stored = match &request.keeper {
            CursorKeeper::Nobody | CursorKeeper::Server | CursorKeeper::Rewound { .. } => None,
            CursorKeeper::Client { stored } => stored.as_ref(),
        };
        let stored_delivered_through = match &request.keeper {
            CursorKeeper::Nobody | CursorKeeper::Server => DeliveredThrough::NOTHING,
            CursorKeeper::Client { stored } => stored.as_ref().map_or_else(Default::default, |it| it.delivered_through),
            CursorKeeper::Rewound { from } => from.delivered_through.raised(DeliveredThrough(from.place.nth)),
        };
        let start = request.start.without_empty_place();
        Subscription {
            id,
            merged,
            is_place_brought: stored.is_none() && start.known().is_some(),
            // Who asks for everything is shown the place before everything, whatever is still there.
            shown: (stored.is_none() && start == Start::AfterSeq(Seq::ZERO)).then(Place::default),
            start: match stored {
                Some(cursor) => Start::After(cursor.place.clone()),
                None if request.keeper == CursorKeeper::Server => start,
                None => start.of_unknown(),
            },
            is_gap_false: false,
            stored_delivered_through,
            acks: Acks::new(id, &request.keeper),
            topic: request.topic,
            ownership: request.ownership,
            requested: request.window,
            window: request.window,
            kept_by_server: request.keeper == CursorKeeper::Server,
            link: Link::Down,
            begun: false,
            history: 0,
            handed_history: 0,
            handed: None,
            delivered_through: DeliveredThrough::NOTHING,
            inbox: Inbox::default(),
            in_hand: InHand::default(),
            leaving: Leaving::No,
            faults: 0,
            features: Features::NONE,
            pace: Pace::default(),
        }
    }

    pub(super) fn wire(&self) -> Option<SubscriptionId> {
        match self.link {
            Link::Down => None,
            Link::Asked { wire } | Link::Open { wire } => Some(wire),
        }
    }

    /// Whether it has its place on this connection.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.link, Link::Open { .. })
    }

    /// When what stands first is due among the members of a merged subscription.
    pub(super) fn next_due(&self) -> Option<Due> {
        Some(match self.inbox.front()? {
            // They say how the stream stands: nothing waits for them.
            Item::Subscribed { .. } | Item::CaughtUp { .. } => (Seq::ZERO, 0),
            // A gap stands where it begins. One that begins in another history stands before everything of this one.
            Item::Gap { gap } if gap.cause == GapCause::EpochChanged => (Seq::ZERO, 1),
            Item::Gap { gap } => (gap.after.seq, 2),
            // The skip before the event: whoever is cut off between them has the event still to come.
            Item::Skip { through, .. } => (through.seq, 0),
            Item::Event { record, .. } => (record.seq, 1),
        })
    }

    /// When this was handed over among the members of a merged subscription, if it is not acknowledged yet.
    pub(super) fn order_of(&self, position: Position, nth: Nth) -> Option<u64> {
        self.in_hand.order_of(position, nth)
    }

    /// The last that was handed over up to then and is not acknowledged yet.
    pub(super) fn last_through(&self, order: u64) -> Option<(Position, Nth)> {
        self.in_hand.last_through(order)
    }

    /// Ends the stream of this connection, if there is one: what comes of it is passed over.
    pub(super) fn give_up(&mut self, out: &mut Outputs) -> Option<SubscriptionId> {
        let wire = self.wire()?;
        if self.leaving != Leaving::Sent {
            self.flush_acks(out);
            out.send(ClientFrame::Unsubscribe { id: wire });
        }
        self.stop_stream();
        Some(wire)
    }

    /// The connection is gone.
    pub(super) fn disconnected(&mut self) {
        self.put_off();
        self.faults = 0;
    }

    /// The server does not take it now; it is to be asked again later.
    pub(super) fn put_off(&mut self) {
        self.stop_stream();
        if self.leaving == Leaving::Sent {
            self.leaving = Leaving::Wanted;
        }
    }

    /// Counts a broken stream on this connection.
    pub(super) fn fault(&mut self) -> u32 {
        self.faults += 1;
        self.faults
    }

    pub(super) fn inbox_events(&self) -> usize {
        self.inbox.events()
    }

    /// Up to which seq the stream has arrived.
    pub(super) fn arrived(&self) -> Seq {
        self.inbox.seq()
    }

    pub(super) fn events(&mut self, batch: &Events, out: &mut Outputs) -> Result<(), Misfit> {
        self.takes(out, |inbox| inbox.events_arrived(batch))
    }

    /// `is_apart`: among the members of a merged subscription an event has come since the last skip.
    pub(super) fn skip(
        &mut self,
        through: Position,
        nth: Nth,
        is_apart: bool,
        out: &mut Outputs,
    ) -> Result<(), Misfit> {
        self.takes(out, |inbox| inbox.skip_arrived(through, nth, is_apart))
    }

    pub(super) fn gap(&mut self, gap: Gap, out: &mut Outputs) -> Result<(), Misfit> {
        self.takes(out, |inbox| inbox.gap_arrived(gap))
    }

    pub(super) fn caught_up(&mut self, seq: Seq, out: &mut Outputs) -> Result<(), Misfit> {
        self.takes(out, |inbox| inbox.caught_up_arrived(seq))
    }

    /// An event that is not logged: it moves nothing.
    pub(super) fn volatile(&mut self, event: Volatile, out: &mut Outputs) {
        if self.is_leaving() || !matches!(self.link, Link::Open { .. }) {
            return;
        }
        let Volatile { id: _, time, name, kind, payload } = event;
        out.deliver(self.id, StreamItem::Volatile { time, name, kind, payload });
    }

    pub(super) fn acked_by_server(&mut self, seq: Seq, out: &mut Outputs) {
        self.acks.acked_by_server(seq, out);
    }

    /// The app has handled everything up to here. What is not in its hands cannot be acknowledged and changes nothing.
    pub(super) fn ack(&mut self, position: Position, nth: Nth, out: &mut Outputs) -> Urgency {
        if self.is_leaving() {
            return Urgency::Nothing;
        }
        let acks = &mut self.acks;
        let Some(released) =
            self.in_hand.release(position, nth, |held| acks.advance(held.position, held.nth, held.history))
        else {
            return Urgency::Nothing;
        };
        self.acks.taken(released, self.history, out);
        self.pump(out);
        let (events, bytes) = self.acks.gathered();
        let half_events = usize::try_from(self.window.events / 2).unwrap_or(usize::MAX);
        let half_bytes = usize::try_from(self.window.bytes / 2).unwrap_or(usize::MAX);
        if !self.acks.is_dirty() {
            Urgency::Nothing
        } else if events >= half_events.max(1) || bytes >= half_bytes.max(1) {
            Urgency::Now
        } else {
            Urgency::Later
        }
    }

    /// The app asks for more, and has taken so many events and gaps.
    pub(super) fn wanted(&mut self, taken: u64, now: Instant, out: &mut Outputs) {
        let is_held_up = match self.inbox.front() {
            Some(Item::Event { record, .. }) => !self.pace.allows(record.nth),
            Some(Item::Subscribed { .. } | Item::Gap { .. } | Item::Skip { .. } | Item::CaughtUp { .. }) | None => {
                false
            }
        };
        self.pace.wanted(taken, is_held_up, self.window.events, now);
        self.pump(out);
    }

    /// The server has noted that events up to here are handed over.
    pub(super) fn taken(&mut self, nth: Nth, now: Instant, out: &mut Outputs) {
        self.pace.noted(nth, now);
        self.pump(out);
    }

    pub(super) fn flush_acks(&mut self, out: &mut Outputs) {
        let through = self.hand_through(Nth::ZERO);
        self.acks.flush(self.history, through, out);
    }

    /// The client's store has a cursor of this subscription.
    pub(super) fn cursor_saved(&mut self, seq: Seq, out: &mut Outputs) -> Urgency {
        self.acks.saved(seq, out);
        self.pump(out);
        if self.acks.is_dirty() { Urgency::Later } else { Urgency::Nothing }
    }

    /// The app is done with it: nothing more is handed over.
    pub(super) fn leave(&mut self) {
        if self.leaving == Leaving::No {
            self.leaving = Leaving::Wanted;
        }
        self.inbox.drop_all();
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaving != Leaving::No
    }

    /// Whether a connection is needed to go on: to follow, or to bring the last acks to the server that keeps them.
    pub(super) fn needs_server(&self) -> bool {
        !self.is_leaving() || self.acks.is_unconfirmed()
    }

    /// Takes a leaving subscription as far as it gets now. Returns how it ended, if it did.
    pub(super) fn go(&mut self, out: &mut Outputs) -> Option<SubscriptionEnd> {
        if self.leaving != Leaving::Wanted {
            return None;
        }
        if !self.acks.save_last(self.last_history(), self.handed_exactly(), out) {
            return None;
        }
        let wire = match self.link {
            Link::Open { wire } => wire,
            Link::Asked { wire } if !self.acks.is_unconfirmed() => wire,
            Link::Down if !self.acks.is_unconfirmed() => return Some(SubscriptionEnd::Asked),
            Link::Asked { .. } | Link::Down => return None,
        };
        self.flush_acks(out);
        out.send(ClientFrame::Unsubscribe { id: wire });
        self.leaving = Leaving::Sent;
        None
    }

    /// The server has answered Unsubscribe.
    pub(super) fn left(&mut self, out: &mut Outputs) {
        self.acks.all_acked_by_server(out);
    }

    /// The client ends at once: what the app has acknowledged still goes to the client's store.
    pub(super) fn abandon(&mut self, out: &mut Outputs) {
        self.leave();
        self.acks.save_last(self.last_history(), self.handed_exactly(), out);
    }

    fn takes(&mut self, out: &mut Outputs, take: impl FnOnce(&mut Inbox) -> Result<(), Misfit>) -> Result<(), Misfit> {
        if self.is_leaving() {
            return Ok(());
        }
        let Link::Open { .. } = self.link else { return Err(Misfit::Hole("events came before Subscribed")) };
        take(&mut self.inbox)?;
        self.pump(out);
        Ok(())
    }

    /// Hands over what the window and the keeper of the cursor allow.
    fn pump(&mut self, out: &mut Outputs) {
        while self.merged.is_none()
            && let Some(handed) = self.hand_next(0, out)
        {
            match handed {
                Handed::InHand(item) | Handed::News(item) => out.deliver(self.id, item),
                Handed::Skip { .. } => {}
            }
        }
        self.name_next(out);
    }

    /// Names what the app is about to get, if it is the time.
    fn name_next(&mut self, out: &mut Outputs) {
        let Link::Open { wire } = self.link else { return };
        if self.is_leaving() {
            return;
        }
        if let Some(nth) = self.pace.name(out.now()) {
            out.send(ClientFrame::Taking { id: wire, nth });
        }
        if let Some(left) = self.pace.left_news() {
            out.push(Output::AskAt { id: self.id, left });
        }
    }

    /// Takes out what stands first, if the window and the keeper of the cursor allow it to be handed over. `order` says
    /// when that is, among the members of a merged subscription.
    pub(super) fn hand_next(&mut self, order: u64, out: &mut Outputs) -> Option<Handed> {
        let item = self.inbox.front().filter(|_| self.acks.allows_start())?;
        let nth = match item {
            Item::Event { record, .. } if !self.in_hand.has_room(record, self.window) => return None,
            Item::Event { record, .. } => Some(record.nth),
            // The event itself may be handed over by another topic: that is to be known as well.
            Item::Skip { nth_through, .. } if self.merged.is_some() => Some(*nth_through),
            Item::Skip { .. } | Item::Subscribed { .. } | Item::Gap { .. } | Item::CaughtUp { .. } => None,
        };
        if nth.is_some_and(|nth| !self.pace.allows(nth)) {
            return None;
        }
        if let Some(nth) = nth.filter(|nth| !self.acks.allows(self.history, *nth)) {
            self.acks.save(self.history, self.hand_through(nth), out);
            return None;
        }
        let item = self.inbox.pop()?;
        Some(self.hand_over(item, order, out.now()))
    }

    fn hand_over(&mut self, item: Item, order: u64, now: Instant) -> Handed {
        match item {
            Item::Subscribed { after, nth, pending } => Handed::News(StreamItem::Subscribed { after, nth, pending }),
            Item::CaughtUp { seq } => Handed::News(StreamItem::CaughtUp { seq }),
            Item::Skip { through, nth_through } => {
                let is_more_in_hand =
                    self.merged.is_some() && self.in_hand.hold_skip(through, nth_through, self.history, order);
                self.move_to(through, nth_through);
                self.pace.delivered(nth_through, false, now);
                Handed::Skip { is_more_in_hand }
            }
            Item::Gap { gap } => {
                self.in_hand.hold_gap(&gap, self.history, order);
                self.move_to(gap.through, gap.nth_through);
                self.pace.delivered(gap.nth_through, true, now);
                let before = self.show(gap.through, gap.nth_through);
                Handed::InHand(StreamItem::Gap { gap, before })
            }
            Item::Event { epoch, record } => {
                let position = Position::new(epoch, record.seq);
                self.in_hand.hold_event(position, &record, self.history, order);
                self.move_to(position, record.nth);
                self.pace.delivered(record.nth, true, now);
                let redelivered = self.delivered_through.covers(record.nth);
                let before = self.show(position, record.nth);
                Handed::InHand(StreamItem::Event { epoch, record, redelivered, before })
            }
        }
    }

    /// Moves on what the app was shown last, and returns what that was before. What is passed over in silence does not
    /// count: an app that compares places knows only those that it was given.
    fn show(&mut self, position: Position, nth: Nth) -> Place {
        let shown = self.shown.get_or_insert_default();
        let before = shown.clone();
        shown.advance(position, nth);
        before
    }

    fn move_to(&mut self, position: Position, nth: Nth) {
        self.handed_history = self.history;
        match &mut self.handed {
            Some(known) => known.advance(position, nth),
            None => {
                let mut known = self.acks.place().cloned().unwrap_or_default();
                known.advance(position, nth);
                self.handed = Some(known);
            }
        }
    }

    /// How far a cursor saved now allows to hand over: a window beyond what is handed over and what comes next. Marks
    /// of earlier processes stay.
    fn hand_through(&self, next: Nth) -> DeliveredThrough {
        let handed = self.handed.as_ref().filter(|_| self.handed_history == self.history);
        let reached = handed.map_or(Nth::ZERO, |known| known.nth).max(next);
        DeliveredThrough(reached.saturating_add(u64::from(self.window.events.max(1)))).raised(self.delivered_through)
    }

    fn handed_exactly(&self) -> DeliveredThrough {
        let handed = self.handed.as_ref().map_or(Nth::ZERO, |known| known.nth);
        DeliveredThrough(handed).raised(self.delivered_through).raised(self.stored_delivered_through)
    }

    /// The history in whose nths `handed_exactly` speaks.
    fn last_history(&self) -> u32 {
        if self.handed_history == self.history { self.history } else { u32::MAX }
    }

    fn stop_stream(&mut self) {
        self.link = Link::Down;
        self.inbox.drop_all();
        self.acks.closed();
    }
}
