//! What a subscription hands to an app: events, gaps, and where it stands. The same for a client and within the server's
//! process. Holds nothing but plain data and the way back for an ack.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::event::Record;
use crate::history::{self, GapCause, Place, PlaceStep};
use crate::name::{EventName, TopicName};
use crate::payload::{PayloadKind, readable_payload};
use crate::seq::{Epoch, Nth, Position, Seq, SubscriptionId};
use crate::time::Timestamp;

/// What a subscription hands over, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Delivery {
    /// An event.
    Event(Event),
    /// Events of the topic that are gone for good. Told in their place among the events, and again after a restart
    /// until it is acknowledged.
    Gap(Gap),
    /// All that was there when the subscription was made is handed over; what follows is live. Once per connection.
    #[non_exhaustive]
    CaughtUp {
        /// The log's head that was reached.
        seq: Seq,
    },
    /// An event that is not logged: it has no position and no ack, and may be lost. Handed over as soon as it comes,
    /// also when the window is full, and dropped if many of them wait to be taken.
    Volatile(VolatileEvent),
    /// The connection was lost and the subscription stands again. Nothing was missed: it goes on where it was.
    #[non_exhaustive]
    Resumed {
        /// The subscription goes on after this position.
        after: Position,
        /// The nth there.
        nth: Nth,
        /// Events of the topic still to come until the head of that moment.
        pending: u64,
    },
}

impl Delivery {
    /// The news that live begins after this seq.
    #[must_use]
    pub fn caught_up(seq: Seq) -> Delivery {
        Delivery::CaughtUp { seq }
    }

    /// The news that the subscription stands again after this position.
    #[must_use]
    pub fn resumed(after: Position, nth: Nth, pending: u64) -> Delivery {
        Delivery::Resumed { after, nth, pending }
    }

    /// Returns the event, if it is one.
    #[must_use]
    pub fn into_event(self) -> Option<Event> {
        match self {
            Delivery::Event(event) => Some(event),
            Delivery::Gap(_) | Delivery::CaughtUp { .. } | Delivery::Resumed { .. } | Delivery::Volatile(_) => None,
        }
    }

    /// Acknowledges an event or a gap, and everything before it. The other deliveries need no ack.
    pub fn ack(&self) {
        match self {
            Delivery::Event(event) => event.ack(),
            Delivery::Gap(gap) => gap.ack(),
            Delivery::CaughtUp { .. } | Delivery::Resumed { .. } | Delivery::Volatile(_) => {}
        }
    }
}

/// An event of a topic.
///
/// Two events are equal if they say the same, wherever they were received.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event {
    /// The event's position in the log.
    pub position: Position,
    /// The event's number within the topic: each event's is exactly one higher than the one before. Where several topics are
    /// read as one, an event that came by another of them leaves a hole here.
    pub nth: Nth,
    /// The topic by which it came: of several that are read as one and have it, any.
    pub topic: TopicName,
    /// What it is called.
    pub name: EventName,
    /// When the server took it.
    pub time: Timestamp,
    /// What the payload's bytes are.
    pub kind: PayloadKind,
    /// The payload. A slice of the message that it came in, which it keeps in memory: copy it to keep it for long.
    pub payload: Bytes,
    /// Whether the emitter asks its readers for an answer.
    pub asks: bool,
    /// Whether it may have been handed over before, to this app or to another under the same subscriber or cursor.
    pub redelivered: bool,
    before: Before,
    handle: AckHandle,
}

impl Event {
    /// An event as a shell hands it over: a record of a topic, written in an epoch, with its way back for the ack.
    #[must_use]
    pub fn new(
        topic: TopicName,
        epoch: Epoch,
        record: Record,
        redelivered: bool,
        before: Place,
        handle: AckHandle,
    ) -> Event {
        Event {
            position: Position::new(epoch, record.seq),
            nth: record.nth,
            topic,
            name: record.name,
            time: record.time,
            kind: record.kind,
            payload: record.payload,
            asks: record.asks,
            redelivered,
            before: Before(before),
            handle,
        }
    }

    /// Returns the event's number in the log.
    #[must_use]
    pub fn seq(&self) -> Seq {
        self.position.seq
    }

    /// Acknowledges everything up to and including this event, of all topics of its subscription. Never waits. The
    /// subscription's `flush` waits until it is confirmed. Acknowledging again, or an older event afterwards, changes
    /// nothing.
    pub fn ack(&self) {
        self.handle.ack();
    }

    /// Returns the place behind this event, from which a subscription goes on with `Start::After`.
    #[must_use]
    pub fn known(&self) -> Place {
        self.before.0.advanced(self.position, self.nth)
    }

    /// Returns where this event stands in what its subscription has shown: the place before it and its own. Several topics
    /// that are read as one have one place together.
    #[must_use]
    pub fn place(&self) -> PlaceStep {
        PlaceStep::new(self.before.0.clone(), self.known())
    }
}

readable_payload!(Event, error => |event: &Event| error.of_seq(event.position.seq));

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("position", &format_args!("{}", self.position))
            .field("nth", &self.nth.0)
            .field("topic", &self.topic.as_str())
            .field("name", &self.name.as_str())
            .field("time", &self.time)
            .field("kind", &self.kind)
            .field("payload", &Excerpt(&self.payload))
            .field("asks", &self.asks)
            .field("redelivered", &self.redelivered)
            .finish()
    }
}

/// An event that is not in the log.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct VolatileEvent {
    /// The topic by which it came.
    pub topic: TopicName,
    /// When the server took it.
    pub time: Timestamp,
    /// What it is called.
    pub name: EventName,
    /// What the payload's bytes are.
    pub kind: PayloadKind,
    /// The payload.
    pub payload: Bytes,
}

impl VolatileEvent {
    /// An event as a shell hands it over.
    #[must_use]
    pub fn new(topic: TopicName, time: Timestamp, name: EventName, kind: PayloadKind, payload: Bytes) -> VolatileEvent {
        VolatileEvent { topic, time, name, kind, payload }
    }
}

readable_payload!(VolatileEvent);

impl fmt::Debug for VolatileEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VolatileEvent")
            .field("topic", &self.topic.as_str())
            .field("time", &self.time)
            .field("name", &self.name.as_str())
            .field("kind", &self.kind)
            .field("payload", &Excerpt(&self.payload))
            .finish()
    }
}

/// A range of a topic's history that is no longer there.
///
/// Two gaps are equal if they say the same, wherever they were received.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Gap {
    /// The topic whose events are gone.
    pub topic: TopicName,
    /// The reader's position before the gap (exclusive). After an epoch change it may belong to a history that this log
    /// does not know.
    pub after: Position,
    /// The gap's end (inclusive), where delivery goes on.
    pub through: Position,
    /// The topic's nth at `through`.
    pub nth_through: Nth,
    /// How many events of this log's topic the reader will not get, as exact as `count_is_exact` says. After an epoch
    /// change that says nothing of the other history: what it held beyond `after` is known to nobody any more.
    pub count: u64,
    /// False if the reader's own nth was not known, and `count` is only an upper bound.
    pub count_is_exact: bool,
    /// Why the events are gone.
    pub cause: GapCause,
    before: Before,
    /// Whether other topics are read with this one, whose events may lie within the gap.
    is_of_several: bool,
    handle: AckHandle,
}

impl Gap {
    /// A gap as a shell hands it over, with its way back for the ack.
    #[must_use]
    pub fn new(topic: TopicName, gap: &history::Gap, before: Place, handle: AckHandle) -> Gap {
        Gap {
            topic,
            after: gap.after,
            through: gap.through,
            nth_through: gap.nth_through,
            count: gap.count,
            count_is_exact: gap.count_is_exact,
            cause: gap.cause,
            before: Before(before),
            is_of_several: false,
            handle,
        }
    }

    /// Returns this gap as one of several topics that are read as one.
    #[must_use]
    pub fn of_several(self) -> Gap {
        Gap { is_of_several: true, ..self }
    }

    /// Returns where this gap stands in what its subscription has shown: the place before it, and the one at its end.
    ///
    /// Of several topics that are read as one, the place after a gap is the one before it: events of the others may lie
    /// within its range. The gap is told again at a restart until an event was shown after it.
    #[must_use]
    pub fn place(&self) -> PlaceStep {
        let before = self.before.0.clone();
        let after = if self.is_of_several { before.clone() } else { before.advanced(self.through, self.nth_through) };
        PlaceStep::new(before, after)
    }

    /// Says that the gap is dealt with, and everything before it. Until then it is told again after a restart.
    pub fn ack(&self) {
        self.handle.ack();
    }
}

impl From<&Gap> for history::Gap {
    fn from(gap: &Gap) -> history::Gap {
        history::Gap {
            after: gap.after,
            through: gap.through,
            nth_through: gap.nth_through,
            count: gap.count,
            count_is_exact: gap.count_is_exact,
            cause: gap.cause,
        }
    }
}

impl fmt::Debug for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gap")
            .field("topic", &self.topic.as_str())
            .field("after", &format_args!("{}", self.after))
            .field("through", &format_args!("{}", self.through))
            .field("nth_through", &self.nth_through.0)
            .field("count", &self.count)
            .field("count_is_exact", &self.count_is_exact)
            .field("cause", &self.cause)
            .finish()
    }
}

impl fmt::Display for Gap {
    /// Writes the cause first: after an epoch change the count alone would say that nothing is missing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at_most = if self.count_is_exact { "" } else { "at most " };
        let events = if self.count == 1 { "event" } else { "events" };
        write!(f, "{}: {at_most}{} {events} of {} will not come", self.cause, self.count, self.topic)
    }
}

/// The place that was shown before. All are equal: it belongs to the subscription that shows, not to what is shown.
#[derive(Clone)]
struct Before(Place);

impl PartialEq for Before {
    fn eq(&self, _: &Before) -> bool {
        true
    }
}

impl Eq for Before {}

/// Where the acks of a subscription go. A shell implements it.
pub trait Acknowledge: Send + Sync {
    /// Takes an ack. Must not block.
    fn acknowledge(&self, point: AckPoint);
}

/// What an ack says: everything of a subscription up to here is handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AckPoint {
    /// The delivery's number among all that were handed over on its subscription. Seqs and nths cannot serve: when the
    /// log has gone back, they start again from lower ones.
    pub order: u64,
    /// By which topic the delivery came, as the session numbers it.
    pub topic: SubscriptionId,
    /// The position that is handled.
    pub position: Position,
    /// The nth of it.
    pub nth: Nth,
}

/// A delivery's way back for its ack. All handles are equal: they are no part of what a delivery says.
#[derive(Clone)]
pub struct AckHandle {
    to: Arc<dyn Acknowledge>,
    point: AckPoint,
}

impl AckHandle {
    /// A handle whose ack goes to `to`.
    #[must_use]
    pub fn new(to: Arc<dyn Acknowledge>, point: AckPoint) -> AckHandle {
        AckHandle { to, point }
    }

    fn ack(&self) {
        self.to.acknowledge(self.point);
    }
}

impl PartialEq for AckHandle {
    fn eq(&self, _: &AckHandle) -> bool {
        true
    }
}

impl Eq for AckHandle {}

impl fmt::Debug for AckHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AckHandle").field("point", &self.point).finish_non_exhaustive()
    }
}

/// The beginning of a payload, so that a large one does not fill a log line.
struct Excerpt<'a>(&'a Bytes);

impl fmt::Debug for Excerpt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.len() <= EXCERPT_BYTES {
            return self.0.fmt(f);
        }
        write!(f, "{:?}… ({} bytes)", self.0.slice(..EXCERPT_BYTES), self.0.len())
    }
}

const EXCERPT_BYTES: usize = 64;

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Board(Mutex<Vec<AckPoint>>);

    impl Acknowledge for Board {
        fn acknowledge(&self, point: AckPoint) {
            self.0.lock().unwrap().push(point);
        }
    }

    fn event(board: &Arc<Board>, payload: &[u8]) -> Event {
        let record = Record {
            seq: Seq(7),
            nth: Nth(2),
            time: Timestamp(0),
            kind: PayloadKind::Text,
            asks: false,
            has_except: false,
            name: EventName::new("created").unwrap(),
            payload: Bytes::copy_from_slice(payload),
        };
        let position = Position::new(Epoch([1; 16]), Seq(7));
        let point = AckPoint { order: 1, topic: SubscriptionId(3), position, nth: Nth(2) };
        let topic = TopicName::new("orders").unwrap();
        Event::new(
            topic,
            position.epoch,
            record,
            false,
            Place::default(),
            AckHandle::new(Arc::clone(board) as _, point),
        )
    }

    #[test]
    fn an_ack_goes_back_to_where_the_event_came_from() {
        let (board, other) = (Arc::default(), Arc::default());
        let received = event(&board, b"tea");
        assert_eq!(received, event(&other, b"tea"), "the way back is no part of what an event says");
        Delivery::Event(received).ack();
        let points = board.0.lock().unwrap();
        assert_eq!(points[..].iter().map(|point| (point.order, point.nth)).collect::<Vec<_>>(), [(1, Nth(2))]);
        assert!(other.0.lock().unwrap().is_empty());
    }

    #[test]
    fn an_event_in_a_log_line_is_short_and_shows_no_machinery() {
        let line = format!("{:?}", event(&Arc::default(), &[b'x'; 100_000]));
        assert!(line.len() < 400 && line.contains("orders") && line.contains("100000 bytes"), "{line}");
        assert!(!line.contains("AckHandle"), "{line}");
    }
}
