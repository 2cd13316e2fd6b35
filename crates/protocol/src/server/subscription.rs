//! One subscription of a server session: from the request to the last save.

use super::durable_cursor::DurableCursor;
use super::in_flight::InFlight;
use super::marks::Reader;
use crate::frame::{Subscribe, Subscribed, Window};
use crate::history::{Batch, Gap, Opened};
use crate::redelivery::DeliveredThrough;
use crate::seq::{Nth, Seq, SubscriptionId};

/// A subscription that the session knows.
#[derive(Clone, Debug)]
pub(super) struct Subscription {
    /// What was asked for, its window within the server's limits.
    pub(super) request: Subscribe,
    pub(super) stage: Stage,
    /// Unsubscribe has come: nothing is sent any more, what is acknowledged is saved.
    pub(super) is_ending: bool,
    /// The group whose topics are read as one, if it belongs to one.
    pub(super) group: Option<u32>,
    /// If it goes on with one of an earlier connection: what its reader, and readers before it, may have been given.
    pub(super) resumes: Option<DeliveredThrough>,
}

/// How far a subscription is.
#[derive(Clone, Debug)]
pub(super) enum Stage {
    /// It waits for this subscription of the same connection to the same durable topic, which is ending.
    Behind(SubscriptionId),
    /// It waits for the ownership of its topic, perhaps for long.
    Claiming,
    /// It waits to be told where it starts.
    Opening,
    /// It has a place. Its reader is told once the first cursor is durable.
    Open(Box<OpenSubscription>),
}

/// Where an open subscription is.
#[derive(Clone, Debug)]
pub(super) struct OpenSubscription {
    pub(super) in_flight: InFlight,
    /// The cursor, if it is durable.
    pub(super) cursor: Option<DurableCursor>,
    /// The answer to the reader, until it is given.
    pub(super) announcement: Option<Box<Subscribed>>,
    /// Whether a read may find something: set by every wake, cleared when a read begins.
    pub(super) may_have_more: bool,
    /// Whether it stands in the queue of those to be served.
    pub(super) is_queued: bool,
    /// The size of an event that was read and did not fit, so that it is not read in vain again.
    pub(super) needs_bytes: usize,
    /// Up to which nth the reader named what it delivers. Events that were not sent when it did are noted when they are.
    named: Nth,
    /// Another connection owns the topic: nothing more is sent.
    pub(super) is_fenced: bool,
    catch_up: Option<CatchUp>,
}

#[derive(Clone, Copy, Debug)]
struct CatchUp {
    head: Seq,
    nth: Nth,
}

impl Subscription {
    /// A request with its window within the server's limits; even the smallest lets an event through.
    pub(super) fn new(mut request: Subscribe, window_max: Window, stage: Stage) -> Subscription {
        request.window.events = request.window.events.clamp(1, window_max.events.max(1));
        request.window.bytes = request.window.bytes.clamp(1, window_max.bytes.max(1));
        Subscription { request, stage, is_ending: false, group: None, resumes: None }
    }

    /// What is open, whether or not its reader knows about it.
    pub(super) fn place(&self) -> Option<&OpenSubscription> {
        match &self.stage {
            Stage::Open(open) => Some(open),
            Stage::Behind(_) | Stage::Claiming | Stage::Opening => None,
        }
    }

    /// The place of a subscription whose reader knows about it.
    pub(super) fn announced(&mut self) -> Option<&mut OpenSubscription> {
        match &mut self.stage {
            Stage::Open(place) if place.announcement.is_none() => Some(place),
            Stage::Open(_) | Stage::Behind(_) | Stage::Claiming | Stage::Opening => None,
        }
    }
}

impl OpenSubscription {
    pub(super) fn new(request: &Subscribe, opened: &Opened, reader: Reader) -> OpenSubscription {
        let announcement = Subscribed {
            id: request.id,
            after: opened.after,
            nth: opened.nth,
            head: opened.head,
            pending: opened.pending,
            delivered_through: opened.delivered_through,
            gap: opened.gap.clone(),
            window: request.window,
        };
        OpenSubscription {
            in_flight: InFlight::new(opened, request.window),
            cursor: request.durable.then(|| DurableCursor::new(request, opened, reader)),
            announcement: Some(Box::new(announcement)),
            may_have_more: true,
            is_queued: false,
            needs_bytes: 0,
            named: Nth::ZERO,
            is_fenced: false,
            catch_up: Some(CatchUp { head: opened.head.seq, nth: opened.nth.saturating_add(opened.pending) }),
        }
    }

    /// How many events and bytes may be read and sent now; none if the reader must first acknowledge, or the mark of what
    /// is handed over must first be durable.
    pub(super) fn room(&self) -> Option<(u32, usize)> {
        let (events, bytes) = self.in_flight.room().filter(|_| !self.is_fenced)?;
        if !self.in_flight.fits(self.needs_bytes) {
            return None;
        }
        let Some(cursor) = &self.cursor else { return Some((events, bytes)) };
        match cursor.durable_mark().0.since(self.in_flight.sent_nth()) {
            0 => None,
            marked => Some((events.min(u32::try_from(marked).unwrap_or(u32::MAX)), bytes)),
        }
    }

    /// The reader named what it delivers, up to here. Returns the mark of what it may have been given by now.
    pub(super) fn name(&mut self, nth: Nth) -> Option<DeliveredThrough> {
        self.named = self.named.max(nth);
        let cursor = self.cursor.as_ref()?;
        Some(cursor.taken_before().raised(DeliveredThrough(self.named.min(self.in_flight.sent_nth()))))
    }

    /// The mark to be noted before this batch is sent, if the reader may deliver some of it without asking again.
    pub(super) fn mark_before(&self, batch: &Batch) -> Option<DeliveredThrough> {
        let cursor = self.cursor.as_ref().filter(|_| self.named >= batch.first_nth)?;
        Some(cursor.taken_before().raised(DeliveredThrough(self.named.min(batch.last_nth()))))
    }

    /// Whether this batch is what must come next. If not, somebody has made a mistake that the reader must not see as a
    /// hole.
    pub(super) fn is_next(&self, batch: &Batch) -> bool {
        batch.count > 0
            && !batch.records.is_empty()
            && batch.first_nth == self.in_flight.sent_nth().saturating_add(1)
            && batch.last_seq.since(self.in_flight.sent().seq) >= u64::from(batch.count)
    }

    /// The same for a gap.
    pub(super) fn is_next_gap(&self, gap: &Gap) -> bool {
        gap.through.seq > self.in_flight.sent().seq && gap.nth_through >= self.in_flight.sent_nth()
    }

    /// The head that was there when the subscription began, if it is reached just now. `at_end`: nothing more is there.
    pub(super) fn take_caught_up(&mut self, at_end: bool) -> Option<Seq> {
        let goal = self.catch_up?;
        if at_end || self.in_flight.sent_nth() >= goal.nth || self.in_flight.sent().seq >= goal.head {
            self.catch_up = None;
            return Some(goal.head);
        }
        None
    }
}
