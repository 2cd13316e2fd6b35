//! Makes subscriptions: what is wanted, checked here where the server is not needed for it.

use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use redeliver_protocol::client::{CursorKeeper, SubscribeRequest, SubscriptionEnd};
use redeliver_protocol::frame::{Ownership, Window};
use redeliver_protocol::history::{Cursor, FirstStart, Start};
use redeliver_protocol::name::{NameError, TopicName};
use redeliver_protocol::seq::SubscriptionId;
use tokio::sync::{mpsc, oneshot};

use crate::client::Client;
use crate::command::{Command, Outlet};
use crate::cursor_store::{CursorKey, KeyClaim};
use crate::error::{CursorStoreError, SubscribeError};
use crate::subscription::{Inlet, Subscription};

/// A subscription in the making: set what is needed, then await it.
///
/// The future resolves once the server has said where the subscription starts, and waits for a connection as long as that takes.
///
/// # Cancel safety
///
/// Dropped before it has resolved, there is no subscription.
#[derive(Debug)]
#[must_use = "a subscription is made when this is awaited"]
pub struct SubscribeBuilder {
    client: Client,
    topics: Result<Vec<TopicName>, NameError>,
    is_merged: bool,
    start: Option<Start>,
    rewinds: bool,
    window: Window,
    ownership: Ownership,
    keeper: Keeper,
    auto_ack: bool,
}

#[derive(Debug)]
enum Keeper {
    Nobody,
    Server,
    Store(Option<CursorKey>),
}

impl SubscribeBuilder {
    pub(crate) fn new(client: Client, topic: Result<TopicName, NameError>) -> SubscribeBuilder {
        SubscribeBuilder::of(client, topic.map(|topic| vec![topic]), false)
    }

    pub(crate) fn merged(client: Client, topics: Result<Vec<TopicName>, NameError>) -> SubscribeBuilder {
        SubscribeBuilder::of(client, topics, true)
    }

    fn of(client: Client, topics: Result<Vec<TopicName>, NameError>, is_merged: bool) -> SubscribeBuilder {
        SubscribeBuilder {
            client,
            topics,
            is_merged,
            start: None,
            rewinds: false,
            window: Window::default(),
            ownership: Ownership::default(),
            keeper: Keeper::Nobody,
            auto_ack: false,
        }
    }

    /// Sets where to start. A durable or stored subscription that has a cursor goes on behind it all the same (unless a place
    /// given here lies further on): this is where its *first* start is. Only [`rewind`](SubscribeBuilder::rewind) moves
    /// one that is known. Several topics each start there.
    ///
    /// Without this, durable and stored subscriptions start first with the earliest event that is retained, so that
    /// nothing that was emitted before the first deployment is skipped; any other one starts with what comes next.
    pub fn start(mut self, start: Start) -> Self {
        self.start = Some(start);
        self.rewinds = false;
        self
    }

    /// Sets where to start if nobody knows the subscription yet. Like [`start`](SubscribeBuilder::start), for those that name
    /// no place.
    pub fn first_start(self, first: FirstStart) -> Self {
        self.start(first.into())
    }

    /// Moves the subscription here, whatever its cursor says: back, and events come again, or on, and events are
    /// skipped. The cursor is moved before the first event comes, so that who goes on later, without a rewind, goes on
    /// from here. Events that were delivered before are marked `redelivered`.
    ///
    /// Each time that the subscription is made: for a tool, not for a service that restarts.
    pub fn rewind(mut self, start: Start) -> Self {
        self.start = Some(start);
        self.rewinds = true;
        self
    }

    /// Sets how much may be handed over without being acknowledged: in events, and in bytes (one event always fits). Of several
    /// topics, for each; while the next event of one has no room, the others wait.
    ///
    /// `(events, bytes)` or a [`Window`]; 1,024 events and 1 MiB unless set.
    pub fn window(mut self, window: impl Into<Window>) -> Self {
        self.window = window.into();
        self
    }

    /// Has the server keep the cursor, under the client's subscriber.
    pub fn durable(mut self) -> Self {
        self.keeper = Keeper::Server;
        self
    }

    /// Has the client's cursor store keep the cursor, under the topic's name.
    pub fn stored(mut self) -> Self {
        self.keeper = Keeper::Store(None);
        self
    }

    /// Has the client's cursor store keep the cursor, under this key; of several topics, under this key, a blank and the topic.
    pub fn stored_as(mut self, key: impl AsRef<str>) -> Self {
        self.keeper = Keeper::Store(Some(CursorKey::new(key)));
        self
    }

    /// Waits until another client that follows the topic under the same subscriber is gone, instead of taking over.
    pub fn standby(mut self) -> Self {
        self.ownership = Ownership::Standby;
        self
    }

    /// Acknowledges each item when the next one is asked for, that is when its handler has returned.
    pub fn auto_ack(mut self) -> Self {
        self.auto_ack = true;
        self
    }

    async fn subscribe(self) -> Result<Subscription, SubscribeError> {
        let mut topics = self.topics.clone()?;
        // A topic that is named twice is followed once.
        let mut named = BTreeSet::new();
        topics.retain(|topic| named.insert(topic.clone()));
        let topic = topics.first().cloned().ok_or(SubscribeError::NoTopic)?;
        let shared = Arc::clone(&self.client.shared);
        let id = self.number()?;
        let (mut members, mut keys) = (Vec::new(), BTreeMap::new());
        for topic in topics {
            let member = if self.is_merged { self.number()? } else { id };
            let (request, key) = self.request(&topic).await?;
            keys.extend(key.map(|key| (member, key)));
            members.push((member, topic, request));
        }
        let (deliveries, inlet) = mpsc::unbounded_channel();
        let (opened, standing) = oneshot::channel();
        let end = Arc::new(OnceLock::new());
        let asides = Arc::new(AtomicUsize::new(0));
        let (volatile_bytes, ask_at) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let inlet = Inlet {
            deliveries: inlet,
            asides: Arc::clone(&asides),
            volatile_bytes: Arc::clone(&volatile_bytes),
            // Only where the server keeps the cursor, and for one topic, does the session want to know.
            ask_at: (matches!(self.keeper, Keeper::Server) && !self.is_merged).then(|| Arc::clone(&ask_at)),
            end: Arc::clone(&end),
        };
        let (topic_of_outlet, window) = (topic.clone(), self.window);
        let outlet = Outlet {
            deliveries,
            asides,
            volatile_bytes,
            ask_at,
            topic: topic_of_outlet,
            window,
            opened: Some(opened),
            end,
            keys,
        };
        let mut merged = BTreeMap::new();
        let command = if self.is_merged {
            merged = members.iter().map(|(member, topic, _)| (*member, topic.clone())).collect();
            let members = members.into_iter().map(|(member, _, request)| (member, request)).collect();
            Command::SubscribeMerged { id, members, outlet }
        } else {
            let (_, _, request) = members.pop().ok_or(SubscribeError::NoTopic)?;
            Command::Subscribe { id, request, outlet }
        };
        shared.commands.send(command).map_err(|_| SubscribeError::ClientEnded)?;
        // From here on, dropping this future drops the subscription, which unsubscribes.
        let mut subscription = Subscription::new(id, topic, merged, self.client, inlet, self.auto_ack);
        match standing.await {
            Ok(opened) => {
                subscription.opened = opened;
                Ok(subscription)
            }
            Err(_) => Err(never_stood(subscription.end())),
        }
    }

    /// What is wanted of one of the topics, and the key of its cursor.
    async fn request(&self, topic: &TopicName) -> Result<(SubscribeRequest, Option<Arc<KeyClaim>>), SubscribeError> {
        let mut key = None;
        let keeper = match &self.keeper {
            Keeper::Nobody => CursorKeeper::Nobody,
            Keeper::Server if self.client.shared.subscriber.is_none() => return Err(SubscribeError::NoSubscriber),
            Keeper::Server => CursorKeeper::Server,
            Keeper::Store(name) => {
                let name = match name {
                    None => CursorKey::from(topic),
                    Some(name) if self.is_merged => CursorKey::new(format!("{} {topic}", name.as_str())),
                    Some(name) => name.clone(),
                };
                let (claim, stored) = load(&self.client, name).await?;
                key = Some(claim);
                match stored {
                    Some(from) if self.rewinds => CursorKeeper::Rewound { from },
                    stored => CursorKeeper::Client { stored },
                }
            }
        };
        let request = SubscribeRequest {
            topic: topic.clone(),
            start: self.start_of_each(),
            window: self.window,
            ownership: self.ownership,
            keeper,
        };
        Ok((request, key))
    }

    /// Where each topic starts.
    fn start_of_each(&self) -> Start {
        match (&self.start, &self.keeper) {
            (Some(start), _) if self.rewinds => start.clone(),
            // It says already what becomes of the cursor.
            (Some(start @ (Start::Resume { .. } | Start::ResumeOr { .. })), Keeper::Server) => start.clone(),
            (Some(start), Keeper::Server) => Start::first(start.clone()),
            (Some(start), Keeper::Nobody | Keeper::Store(_)) => start.clone().of_unknown(),
            (None, Keeper::Server) => Start::first(Start::Earliest),
            (None, Keeper::Store(_)) => Start::Earliest,
            (None, Keeper::Nobody) => Start::Latest,
        }
    }

    fn number(&self) -> Result<SubscriptionId, SubscribeError> {
        let number = self.client.shared.next_subscription.fetch_add(1, Ordering::Relaxed);
        // Four thousand million subscriptions of one client: its numbers are used up.
        u32::try_from(number).map(SubscriptionId).map_err(|_| SubscribeError::ClientEnded)
    }
}

impl IntoFuture for SubscribeBuilder {
    type Output = Result<Subscription, SubscribeError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.subscribe())
    }
}

async fn load(client: &Client, key: CursorKey) -> Result<(Arc<KeyClaim>, Option<Cursor>), SubscribeError> {
    let store = client.shared.store.clone().ok_or(SubscribeError::NoCursorStore)?;
    let claim = KeyClaim::of(key.clone(), &client.shared.keys)
        .ok_or_else(|| SubscribeError::CursorInUse { key: key.clone() })?;
    let loaded = tokio::task::spawn_blocking(move || store.load(&key)).await;
    match loaded {
        Ok(stored) => Ok((claim, stored?)),
        Err(_) => Err(SubscribeError::Store(CursorStoreError::other_in_words("loading panicked"))),
    }
}

fn never_stood(end: Option<&SubscriptionEnd>) -> SubscribeError {
    match end {
        Some(SubscriptionEnd::Refused(code, reason)) => SubscribeError::Refused { code: *code, reason: reason.clone() },
        Some(SubscriptionEnd::TakenOver) => SubscribeError::TakenOver,
        Some(SubscriptionEnd::Asked | SubscriptionEnd::ClientEnded | _) | None => SubscribeError::ClientEnded,
    }
}
