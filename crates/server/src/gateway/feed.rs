//! Merged reading within the process: one reader of several topics, for gateways. A cursor, nothing more: what it gives is
//! always a read of the log after its place, and a slow reader costs nothing.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use redeliver_log::{LogError, MergedEvent, MergedItem, MergedReader, MergedRow};
use redeliver_protocol::error::{Close, CloseCode, RetryAdvice};
use redeliver_protocol::event::{PayloadKind, VolatileEmit};
use redeliver_protocol::history::Gap;
use redeliver_protocol::name::{EventName, TopicName};
use redeliver_protocol::seq::{Position, Seq, SubscriptionId};
use redeliver_protocol::server::{ConnectionId, Input, Reply};
use redeliver_protocol::time::Timestamp;

use crate::inbox::{Inbox, VOLATILE_MAX};
use crate::log_calls;
use crate::shared::{Presence, Shared};
use crate::stats::{add, subtract};

/// A reader of several topics at once, which gives their events as one row in the order of the log, each event once
/// however many of the topics it has. Made by [`Gateway::feed`](crate::Gateway::feed).
///
/// It holds no events: nothing is read before it is asked for. Where a topic lacks events, the row says so in its place.
/// There is no access control: whoever holds a feed may read everything.
pub struct Feed {
    reader: MergedReader,
    connection: ConnectionId,
    inbox: Arc<Inbox>,
    /// The topics that are watched, each under a number of its own.
    watches: BTreeMap<TopicName, SubscriptionId>,
    last_watch: u32,
    may_have_more: bool,
    reading: Option<Reading>,
    volatile: VecDeque<Arc<VolatileEmit>>,
    ended: Option<Close>,
    shared: Arc<Shared>,
    /// Last, when nothing of the server is held any more.
    _presence: Presence,
}

type Reading = Pin<Box<dyn Future<Output = Option<(MergedReader, MergedRow)>> + Send>>;

/// One item of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FeedItem {
    /// An event.
    Event(FeedEvent),
    /// Events of a topic that are gone. It stands where it begins.
    Gap {
        /// Of which topic.
        topic: TopicName,
        /// What is missing, and why. Where the feed began within it, or the topic was unfollowed within it, its count is an
        /// upper bound.
        gap: Gap,
    },
    /// An event that is not logged: it has no place in the row, and comes behind what was in the log before it was taken.
    /// It is for the feed's holder to judge who is not to get it. A feed that does not keep up loses the oldest first.
    Volatile(Arc<VolatileEmit>),
}

/// An event in a row.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FeedEvent {
    /// Where it is in the log. One number for all feeds.
    pub position: Position,
    /// When the server took it.
    pub time: Timestamp,
    /// What the payload's bytes are.
    pub kind: PayloadKind,
    /// What it is called.
    pub name: EventName,
    /// The payload: a slice of memory that is shared with other readers. Copy it to keep it for long.
    pub payload: Bytes,
    /// Which of the followed topics it belongs to: at least one.
    pub topics: Vec<TopicName>,
    /// Whether the emitter asks its readers for an answer.
    pub asks: bool,
    /// Who is not to get it: whoever followed one of these topics when it was emitted. It is for the feed's holder to
    /// judge. Empty for most events.
    pub except: Arc<[TopicName]>,
}

/// Why a feed gives nothing any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FeedError {
    /// The server is shutting down, or its log has failed: `Draining` or `LogFailed`, with the advice for a client.
    #[error("the server ends its feeds: {}", .0.reason)]
    Ended(Close),
}

impl FeedError {
    /// Whether a new feed from the same place may go on later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            FeedError::Ended(close) => close.retry != RetryAdvice::Never,
        }
    }
}

impl Feed {
    pub(crate) fn new(shared: &Arc<Shared>, after: Position) -> Feed {
        let (connection, inbox) = shared.hub.join();
        Feed {
            reader: shared.log.merged_reader(after),
            connection,
            inbox,
            watches: BTreeMap::new(),
            last_watch: 0,
            may_have_more: true,
            reading: None,
            volatile: VecDeque::new(),
            ended: None,
            shared: Arc::clone(shared),
            _presence: shared.help(),
        }
    }

    /// From now on, the events of a topic whose seq is above both `after` and the feed's place belong to the row; up to
    /// `until` if it is set, inclusive: then the stretch ends there by itself. A topic may be followed in several
    /// stretches, and they may overlap.
    pub fn follow(&mut self, topic: TopicName, after: Seq, until: Option<Seq>) {
        self.stop_reading();
        // Watched first: what comes from here on is seen, by the wake or by the read.
        let head = self.shared.log.head().seq;
        if until.is_none_or(|until| until > head) {
            self.watch(&topic);
        }
        // A seq that this log has not reached is from a history that is gone: nothing is withheld for its sake.
        self.reader.follow(topic, after.min(head), until);
    }

    /// From now on, no event of a topic belongs to the row.
    pub fn unfollow(&mut self, topic: &TopicName) {
        self.stop_reading();
        self.reader.unfollow(topic);
        self.unwatch(topic);
    }

    /// The events of a topic belong to the row up to `until`, inclusive, and no further.
    pub fn unfollow_after(&mut self, topic: &TopicName, until: Seq) {
        self.stop_reading();
        self.reader.unfollow_after(topic, until);
        if until <= self.shared.log.head().seq || !self.reader.follows(topic) {
            self.unwatch(topic);
        }
    }

    /// Everything of the followed topics up to here has been given.
    #[must_use]
    pub fn place(&self) -> Position {
        self.reader.place()
    }

    /// Whether everything of the log that was there has been given, so that [`Feed::next`] would wait for something new. False
    /// while a read is under way or has not begun.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        !self.may_have_more && self.reading.is_none()
    }

    /// Moves the place on to the head of the log if nothing of the followed topics lies between, and gives it. For a reader
    /// that saves its place: one that gets few events would else fall behind what is retained.
    pub fn refresh(&mut self) -> Position {
        if self.reading.is_none() {
            self.shared.log.pass_quiet(&mut self.reader);
        }
        self.place()
    }

    /// The next row: at most so many events and bytes (names, payloads and about 41 bytes for each), at least one item.
    /// Waits while there is none.
    ///
    /// # Errors
    ///
    /// [`FeedError::Ended`], also at every later call.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: nothing is lost, and the place moves only with a row that is given.
    pub async fn next(&mut self, events_max: usize, bytes_max: usize) -> Result<Vec<FeedItem>, FeedError> {
        loop {
            self.drain_inbox();
            if let Some(close) = &self.ended {
                return Err(FeedError::Ended(close.clone()));
            }
            if !self.may_have_more {
                if !self.volatile.is_empty() {
                    return Ok(self.volatile.drain(..).map(FeedItem::Volatile).collect());
                }
                self.inbox.waiting().await;
                continue;
            }
            // Rows without an item may follow each other for long: others get their turn meanwhile.
            tokio::task::coop::consume_budget().await;
            let row = match self.read_recent(events_max, bytes_max)? {
                Some(row) => row,
                None => self.read(events_max, bytes_max).await?,
            };
            self.may_have_more = row.is_cut;
            for topic in row.ended {
                if !self.reader.follows(&topic) {
                    self.unwatch(&topic);
                }
            }
            if !row.items.is_empty() {
                add(&self.shared.counters.deliveries, row.items.len() as u64);
                let mut items: Vec<FeedItem> = row.items.into_iter().map(FeedItem::from).collect();
                // Behind what was there before them.
                if !row.is_cut {
                    items.extend(self.volatile.drain(..).map(FeedItem::Volatile));
                }
                return Ok(items);
            }
        }
    }

    fn drain_inbox(&mut self) {
        self.inbox.take().for_each(|input| {
            if let Input::End(close) | Input::Displaced(close) = input {
                self.ended = Some(close);
            } else if let Input::Reply(Reply::Volatile { event, .. }) = input {
                if self.volatile.len() >= VOLATILE_MAX {
                    self.volatile.pop_front();
                }
                self.volatile.push_back(event);
            } else {
                self.may_have_more = true;
            }
        });
    }

    /// The next row from memory, if it is all there.
    fn read_recent(&mut self, events_max: usize, bytes_max: usize) -> Result<Option<MergedRow>, FeedError> {
        if self.reading.is_some() {
            return Ok(None);
        }
        let row = self.shared.log.read_merged_recent(&mut self.reader, events_max, bytes_max);
        row.map_err(|error| self.failed(&error))
    }

    /// The next row from the store, off the runtime.
    async fn read(&mut self, events_max: usize, bytes_max: usize) -> Result<MergedRow, FeedError> {
        let reading = self.reading.get_or_insert_with(|| {
            let reader = self.reader.clone();
            Box::pin(read_cold(Arc::clone(&self.shared), reader, events_max, bytes_max))
        });
        let found = reading.await;
        self.reading = None;
        match found {
            Some((reader, row)) => {
                self.reader = reader;
                Ok(row)
            }
            None => Err(self.failed_already()),
        }
    }

    /// What is being read is about other topics than those that are followed now.
    fn stop_reading(&mut self) {
        self.reading = None;
        self.may_have_more = true;
    }

    fn watch(&mut self, topic: &TopicName) {
        if !self.watches.contains_key(topic) {
            self.last_watch += 1;
            let id = SubscriptionId(self.last_watch);
            self.watches.insert(topic.clone(), id);
            self.shared.hub.watch(self.connection, id, topic.clone());
            add(&self.shared.counters.subscriptions, 1);
        }
    }

    fn unwatch(&mut self, topic: &TopicName) {
        if let Some(id) = self.watches.remove(topic) {
            self.shared.hub.unwatch(self.connection, id);
            subtract(&self.shared.counters.subscriptions, 1);
        }
    }

    fn failed(&mut self, error: &LogError) -> FeedError {
        self.shared.fail(&error.to_string());
        self.failed_already()
    }

    fn failed_already(&mut self) -> FeedError {
        let code = CloseCode::LOG_FAILED;
        let close = Close::of(code, RetryAdvice::Now);
        FeedError::Ended(self.ended.get_or_insert(close).clone())
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.shared.hub.leave(self.connection);
        subtract(&self.shared.counters.subscriptions, self.watches.len() as u64);
    }
}

impl std::fmt::Debug for Feed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Feed").field("reader", &self.reader).field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl From<MergedItem> for FeedItem {
    fn from(item: MergedItem) -> FeedItem {
        match item {
            MergedItem::Event(MergedEvent { position, record, topics, except }) => FeedItem::Event(FeedEvent {
                position,
                time: record.time,
                kind: record.kind,
                name: record.name,
                payload: record.payload,
                topics,
                asks: record.asks,
                except,
            }),
            MergedItem::Gap { topic, gap } => FeedItem::Gap { topic, gap },
        }
    }
}

/// Reads a row where it may have to wait for the disk. Nothing if the log has failed.
async fn read_cold(
    shared: Arc<Shared>,
    mut reader: MergedReader,
    events_max: usize,
    bytes_max: usize,
) -> Option<(MergedReader, MergedRow)> {
    add(&shared.counters.cold_reads, 1);
    log_calls::run(&shared, move |shared| {
        let row = shared.log.read_merged(&mut reader, events_max, bytes_max)?;
        Ok((reader, row))
    })
    .await
}
