//! Subscriptions from within the process: a client's session and a server's, back to back, so that in-process readers live
//! by the same cursors and rules as remote ones and there is no second implementation. No socket, no access control.

mod driver;

use std::future::{Future, IntoFuture, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use redeliver_protocol::client::{CursorKeeper, StreamItem, SubscribeRequest, SubscriptionEnd};
use redeliver_protocol::delivery::{AckHandle, AckPoint, Acknowledge, Delivery, Event, Gap, VolatileEvent};
use redeliver_protocol::error::RefusalCode;
use redeliver_protocol::frame::{Ownership, Window};
use redeliver_protocol::history::Start;
use redeliver_protocol::name::{NameError, SubscriberName, TopicName};
use redeliver_protocol::seq::{Nth, Position, Seq};
use tokio::sync::mpsc;

use self::driver::{Opened, Wishes};
use crate::handle::Handle;

/// A subscription in the making: set what is needed, then await it. Made by
/// [`Server::subscribe`](crate::Server::subscribe).
///
/// It resolves once the log has said where the subscription starts. Must be awaited within a tokio runtime.
///
/// # Cancel safety
///
/// Dropped before it has resolved, there is no subscription.
#[derive(Debug)]
#[must_use = "a subscription is made when this is awaited"]
pub struct LocalSubscribe {
    handle: Arc<Handle>,
    topic: Result<TopicName, NameError>,
    subscriber: Option<Result<SubscriberName, NameError>>,
    start: Option<Start>,
    rewind: Option<Start>,
    window: Window,
    ownership: Ownership,
    auto_ack: bool,
}

impl LocalSubscribe {
    pub(crate) fn new(handle: &Arc<Handle>, topic: &str) -> LocalSubscribe {
        LocalSubscribe {
            handle: Arc::clone(handle),
            topic: TopicName::new(topic),
            subscriber: None,
            start: None,
            rewind: None,
            window: Window::default(),
            ownership: Ownership::default(),
            auto_ack: false,
        }
    }

    /// Sets where to start: at the latest event by default. A durable subscription starts there only if the server does
    /// not know it yet, and by default with the oldest event; otherwise it goes on after its cursor.
    pub fn start(mut self, start: Start) -> LocalSubscribe {
        self.start = Some(start);
        self
    }

    /// Moves a durable subscription: it starts here also if the server knows it. What lies between is skipped, or comes
    /// again. The cursor is moved before the first event comes.
    pub fn rewind(mut self, start: Start) -> LocalSubscribe {
        self.rewind = Some(start);
        self
    }

    /// Makes the subscription durable: the server keeps its cursor, under this subscriber's name.
    pub fn durable(mut self, subscriber: impl AsRef<str>) -> LocalSubscribe {
        self.subscriber = Some(SubscriberName::new(subscriber));
        self
    }

    /// Sets how much may be handed over without being acknowledged: in events, and in bytes (one event always fits). It
    /// bounds the memory that a slow reader takes.
    pub fn window(mut self, window: impl Into<Window>) -> LocalSubscribe {
        self.window = window.into();
        self
    }

    /// Waits until another reader of the same subscriber's topic is gone, instead of taking over.
    pub fn standby(mut self) -> LocalSubscribe {
        self.ownership = Ownership::Standby;
        self
    }

    /// Acknowledges each delivery when the next one is asked for, that is when its handler has returned.
    pub fn auto_ack(mut self) -> LocalSubscribe {
        self.auto_ack = true;
        self
    }

    async fn open(self) -> Result<LocalSubscription, SubscribeError> {
        let topic = self.topic?;
        let subscriber = self.subscriber.transpose()?;
        let (keeper, start) = match &subscriber {
            Some(_) => (CursorKeeper::Server, Start::first(self.start.unwrap_or(Start::Earliest))),
            None => (CursorKeeper::Nobody, self.start.unwrap_or_default()),
        };
        let request = SubscribeRequest {
            topic: topic.clone(),
            start: self.rewind.unwrap_or(start),
            window: self.window,
            ownership: self.ownership,
            keeper,
        };
        let (wishes, items, standing) = driver::start(&self.handle.shared, subscriber, request);
        // From here on, dropping this future drops the subscription, which ends it.
        let mut subscription = LocalSubscription {
            topic,
            items,
            wishes,
            opened: Opened::default(),
            order: 0,
            auto_ack: self.auto_ack,
            unacked: None,
        };
        match standing.await {
            Ok(opened) => {
                subscription.opened = opened;
                Ok(subscription)
            }
            Err(_) => Err(SubscribeError::from(subscription.end())),
        }
    }
}

impl IntoFuture for LocalSubscribe {
    type Output = Result<LocalSubscription, SubscribeError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.open())
    }
}

/// Why an in-process subscription does not stand.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The name of the topic or of the subscriber is not valid.
    #[error(transparent)]
    InvalidName(#[from] NameError),
    /// The server refused it.
    #[error("the server refused the subscription: {code}: {reason}")]
    #[non_exhaustive]
    Refused {
        /// Why.
        code: RefusalCode,
        /// Why, in the server's words.
        reason: String,
    },
    /// Another reader took the topic over before the subscription stood.
    #[error("another reader has taken the subscription over")]
    TakenOver,
    /// The server has ended.
    #[error("the server has ended")]
    ServerEnded,
}

impl From<Option<SubscriptionEnd>> for SubscribeError {
    fn from(end: Option<SubscriptionEnd>) -> SubscribeError {
        match end {
            Some(SubscriptionEnd::Refused(code, reason)) => SubscribeError::Refused { code, reason },
            Some(SubscriptionEnd::TakenOver) => SubscribeError::TakenOver,
            Some(SubscriptionEnd::Asked | SubscriptionEnd::ClientEnded | _) | None => SubscribeError::ServerEnded,
        }
    }
}

/// An in-process reader: a stream of deliveries. Dropping it ends it; acks given before still count.
#[derive(Debug)]
#[must_use = "a subscription that is dropped ends"]
pub struct LocalSubscription {
    topic: TopicName,
    /// Unbounded, but never longer than the window: the session sends no more without acks.
    items: mpsc::UnboundedReceiver<StreamItem>,
    wishes: Arc<Wishes>,
    opened: Opened,
    /// The number of the last delivery that can be acknowledged.
    order: u64,
    auto_ack: bool,
    /// What was handed over last, if it is acknowledged by asking for the next.
    unacked: Option<AckPoint>,
}

impl LocalSubscription {
    /// Returns the topic.
    #[must_use]
    pub fn topic(&self) -> &TopicName {
        &self.topic
    }

    /// Returns where the subscription started: everything after this position is handed over.
    #[must_use]
    pub fn position(&self) -> Position {
        self.opened.after
    }

    /// Returns the nth where the subscription started.
    #[must_use]
    pub fn nth(&self) -> Nth {
        self.opened.nth
    }

    /// Returns how many events of the topic were there already when the subscription started.
    #[must_use]
    pub fn pending(&self) -> u64 {
        self.opened.pending
    }

    /// Returns the next delivery, or `None` once the subscription has ended. [`end`](LocalSubscription::end) says why it
    /// has.
    ///
    /// # Cancel safety
    ///
    /// Dropped, nothing is lost: the next call returns what this one would have. With `auto_ack`, what was handed over
    /// before is acknowledged as soon as this is polled.
    pub async fn next(&mut self) -> Option<Delivery> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// Returns up to where acks are confirmed: with a durable subscriber, durably.
    #[must_use]
    pub fn confirmed(&self) -> Seq {
        self.wishes.confirmed()
    }

    /// Returns why the subscription has ended, or `None` while it goes on. Deliveries may still wait to be taken.
    #[must_use]
    pub fn end(&self) -> Option<SubscriptionEnd> {
        self.wishes.end()
    }

    /// Ends the subscription and waits until its acks are confirmed. With `auto_ack`, what was handed over last counts as
    /// handled. What was not handled comes again to whoever resumes.
    ///
    /// # Cancel safety
    ///
    /// The subscription ends all the same if the future is dropped.
    pub async fn close(mut self) {
        self.ack_handled();
        self.wishes.close();
        while self.items.recv().await.is_some() {}
    }

    fn ack_handled(&mut self) {
        if let Some(point) = self.unacked.take() {
            self.wishes.acknowledge(point);
        }
    }

    fn hand_over(&mut self, item: StreamItem) -> Delivery {
        let topic = self.topic.clone();
        match item {
            StreamItem::Subscribed { after, nth, pending } => Delivery::resumed(after, nth, pending),
            StreamItem::CaughtUp { seq } => Delivery::caught_up(seq),
            StreamItem::Volatile { time, name, kind, payload } => {
                Delivery::Volatile(VolatileEvent::new(topic, time, name, kind, payload))
            }
            StreamItem::Gap { gap, before } => {
                let handle = self.handle(gap.through, gap.nth_through);
                Delivery::Gap(Gap::new(topic, &gap, before, handle))
            }
            StreamItem::Event { epoch, record, redelivered, before } => {
                let handle = self.handle(Position::new(epoch, record.seq), record.nth);
                Delivery::Event(Event::new(topic, epoch, record, redelivered, before, handle))
            }
        }
    }

    fn handle(&mut self, position: Position, nth: Nth) -> AckHandle {
        self.order += 1;
        let point = AckPoint { order: self.order, topic: driver::ID, position, nth };
        if self.auto_ack {
            self.unacked = Some(point);
        }
        AckHandle::new(Arc::clone(&self.wishes) as Arc<dyn Acknowledge>, point)
    }
}

impl Stream for LocalSubscription {
    type Item = Delivery;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Delivery>> {
        self.ack_handled();
        let item = ready!(self.items.poll_recv(cx));
        Poll::Ready(item.map(|item| self.hand_over(item)))
    }
}

impl Drop for LocalSubscription {
    fn drop(&mut self) {
        self.wishes.close();
    }
}
