//! A subscription in the app's hands: a stream of deliveries, and their acks.

use std::collections::BTreeMap;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use redeliver_protocol::client::{StreamItem, SubscriptionEnd};
use redeliver_protocol::delivery::{AckHandle, AckPoint, Acknowledge, Delivery, Event, Gap, VolatileEvent};
use redeliver_protocol::name::TopicName;
use redeliver_protocol::seq::{Nth, Position, SubscriptionId};
use tokio::sync::{mpsc, oneshot};

use crate::acks::AckLine;
use crate::client::Client;
use crate::command::{Command, Opened};
use crate::error::NotConfirmed;
use crate::volatile::volatile_bytes;

/// One reader of one topic, or of several as one. A stream of [`Delivery`], which ends when the subscription does.
///
/// Nothing beyond the window is handed over until what came before is acknowledged, with [`Event::ack`] or by
/// `auto_ack`. A subscription keeps its client alive. Dropped, it unsubscribes in the background; acks made before
/// still count.
#[must_use = "a subscription that is dropped ends"]
pub struct Subscription {
    id: SubscriptionId,
    topic: TopicName,
    /// The topics that are read as one, by their numbers; empty if it is one alone.
    merged: BTreeMap<SubscriptionId, TopicName>,
    client: Client,
    inlet: Inlet,
    pub(crate) opened: Opened,
    has_ended: bool,
    /// How many events and gaps were taken when the driver was told last that the app asks for more.
    asked: Option<u64>,
    /// How many events and gaps were handed over.
    order: u64,
    auto_ack: bool,
    /// With `auto_ack`: what was handed over last, until the next one is asked for.
    unacked: Option<AckPoint>,
    ack_line: Arc<dyn Acknowledge>,
}

/// Where a subscription takes what the driver puts into its outlet.
#[derive(Debug)]
pub(crate) struct Inlet {
    pub(crate) deliveries: mpsc::UnboundedReceiver<(SubscriptionId, StreamItem)>,
    pub(crate) asides: Arc<AtomicUsize>,
    pub(crate) volatile_bytes: Arc<AtomicUsize>,
    /// The driver is told that the app asks for a delivery if no more than this is left. `None` if it is never told.
    pub(crate) ask_at: Option<Arc<AtomicUsize>>,
    pub(crate) end: Arc<OnceLock<SubscriptionEnd>>,
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("topics", &self.topics().map(TopicName::as_str).collect::<Vec<_>>())
            .field("auto_ack", &self.auto_ack)
            .field("end", &self.end())
            .finish_non_exhaustive()
    }
}

impl Subscription {
    pub(crate) fn new(
        id: SubscriptionId,
        topic: TopicName,
        merged: BTreeMap<SubscriptionId, TopicName>,
        client: Client,
        inlet: Inlet,
        auto_ack: bool,
    ) -> Subscription {
        let opened = Opened { after: Position::default(), nth: Nth::ZERO, pending: 0 };
        let ack_line = Arc::new(AckLine { board: Arc::clone(&client.shared.acks), id });
        Subscription {
            id,
            topic,
            merged,
            client,
            inlet,
            opened,
            has_ended: false,
            asked: None,
            order: 0,
            auto_ack,
            unacked: None,
            ack_line,
        }
    }

    /// Returns the topic; of several, the first.
    #[must_use]
    pub fn topic(&self) -> &TopicName {
        &self.topic
    }

    /// Returns all topics: more than one only if they are read as one ([`Client::subscribe_merged`]).
    pub fn topics(&self) -> impl Iterator<Item = &TopicName> {
        let alone = self.merged.is_empty().then_some(&self.topic);
        alone.into_iter().chain(self.merged.values())
    }

    /// Returns where the subscription started: everything after this position is handed over. Of several topics, none started after
    /// a later one.
    #[must_use]
    pub fn position(&self) -> Position {
        self.opened.after
    }

    /// Returns the nth at the position where the subscription started. Zero if there are several topics: each has its own.
    #[must_use]
    pub fn nth(&self) -> Nth {
        self.opened.nth
    }

    /// Returns how many events of the topic were there already when the subscription started. What belongs to several topics counts for each.
    #[must_use]
    pub fn pending(&self) -> u64 {
        self.opened.pending
    }

    /// Returns the next delivery, or `None` once the subscription has ended. [`end`](Subscription::end) says why it has.
    ///
    /// # Cancel safety
    ///
    /// Dropped, nothing is lost: the next call returns what this one would have. With `auto_ack`, what was handed over
    /// before is acknowledged as soon as this is polled.
    pub async fn next(&mut self) -> Option<Delivery> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// Acknowledges everything of this subscription up to and including this event, as [`Event::ack`] does.
    pub fn ack(&self, event: &Event) {
        event.ack();
    }

    /// Waits until all acks so far are confirmed: durable with whoever keeps the cursor. With `auto_ack`, what was handed
    /// over last is not acknowledged yet.
    ///
    /// # Errors
    ///
    /// [`NotConfirmed`] if the subscription has ended.
    ///
    /// # Cancel safety
    ///
    /// Only the waiting ends.
    pub async fn flush(&self) -> Result<(), NotConfirmed> {
        let (answer, confirmed) = oneshot::channel();
        if self.client.shared.commands.send(Command::Flush { id: self.id, answer }).is_ok()
            && let Ok(result) = confirmed.await
        {
            return result;
        }
        Err(NotConfirmed::new(self.inlet.end.get().cloned().unwrap_or(SubscriptionEnd::ClientEnded)))
    }

    /// Ends the subscription and waits until its acks are confirmed. With `auto_ack`, what was handed over last counts
    /// as handled. Deliveries that were not taken are discarded, and come again if there is a durable or stored cursor.
    ///
    /// # Errors
    ///
    /// [`NotConfirmed`] if it ended in another way before that.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the subscription ends in the background.
    pub async fn close(mut self) -> Result<(), NotConfirmed> {
        self.ack_handled();
        let _ = self.client.shared.commands.send(Command::Unsubscribe { id: self.id });
        while self.inlet.deliveries.recv().await.is_some() {}
        self.has_ended = true;
        match self.inlet.end.get() {
            Some(SubscriptionEnd::Asked) => Ok(()),
            Some(
                end @ (SubscriptionEnd::TakenOver | SubscriptionEnd::Refused(..) | SubscriptionEnd::ClientEnded | _),
            ) => Err(NotConfirmed::new(end.clone())),
            None => Err(NotConfirmed::new(SubscriptionEnd::ClientEnded)),
        }
    }

    /// Returns why the subscription has ended, once it has. Deliveries may still wait to be taken.
    #[must_use]
    pub fn end(&self) -> Option<&SubscriptionEnd> {
        self.inlet.end.get()
    }

    fn ack_handled(&mut self) {
        if let Some(point) = self.unacked.take() {
            self.ack_line.acknowledge(point);
        }
    }

    fn topic_of(&self, id: SubscriptionId) -> TopicName {
        self.merged.get(&id).unwrap_or(&self.topic).clone()
    }

    fn hand_over(&mut self, id: SubscriptionId, delivery: StreamItem) -> Delivery {
        match delivery {
            StreamItem::Subscribed { after, nth, pending } => {
                self.inlet.asides.fetch_sub(1, Ordering::Relaxed);
                Delivery::resumed(after, nth, pending)
            }
            StreamItem::CaughtUp { seq } => {
                self.inlet.asides.fetch_sub(1, Ordering::Relaxed);
                Delivery::caught_up(seq)
            }
            StreamItem::Volatile { time, name, kind, payload } => {
                self.inlet.volatile_bytes.fetch_sub(volatile_bytes(&name, &payload), Ordering::Relaxed);
                Delivery::Volatile(VolatileEvent::new(self.topic_of(id), time, name, kind, payload))
            }
            StreamItem::Gap { gap, before } => {
                let handle = self.handle(id, gap.through, gap.nth_through);
                let gap = Gap::new(self.topic_of(id), &gap, before, handle);
                Delivery::Gap(if self.merged.is_empty() { gap } else { gap.of_several() })
            }
            StreamItem::Event { epoch, record, redelivered, before } => {
                let position = Position::new(epoch, record.seq);
                let handle = self.handle(id, position, record.nth);
                Delivery::Event(Event::new(self.topic_of(id), epoch, record, redelivered, before, handle))
            }
        }
    }

    fn handle(&mut self, topic: SubscriptionId, position: Position, nth: Nth) -> AckHandle {
        self.order += 1;
        let point = AckPoint { order: self.order, topic, position, nth };
        if self.auto_ack {
            self.unacked = Some(point);
        }
        AckHandle::new(Arc::clone(&self.ack_line), point)
    }
}

impl Stream for Subscription {
    type Item = Delivery;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Delivery>> {
        self.ack_handled();
        let next = self.inlet.deliveries.poll_recv(cx);
        let left = self.inlet.deliveries.len() + usize::from(next.is_ready());
        if let Some(ask_at) = &self.inlet.ask_at
            && left <= ask_at.load(Ordering::Relaxed)
            && self.asked != Some(self.order)
        {
            self.client.shared.acks.want(self.id, self.order);
            self.asked = Some(self.order);
        }
        match ready!(next) {
            Some((id, delivery)) => Poll::Ready(Some(self.hand_over(id, delivery))),
            None => {
                self.has_ended = true;
                Poll::Ready(None)
            }
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if !self.has_ended {
            // A driver that is gone has ended the subscription already.
            let _ = self.client.shared.commands.send(Command::Unsubscribe { id: self.id });
        }
    }
}
