//! The log: what a server and the simulation call. Skeleton of the interface.

use std::sync::Arc;

use redeliver_protocol::error::RefusalCode;
use redeliver_protocol::event::NewEvent;
use redeliver_protocol::history::{Cursor, EmitRun, Opened, PublisherState, ReadOutcome, Start};
use redeliver_protocol::name::{SubscriberName, TopicName};
use redeliver_protocol::seq::{EmitNumber, Epoch, Nth, Position, PublisherId, Seq};
use redeliver_protocol::time::{Instant, Timestamp};

use crate::config::LogConfig;
use crate::error::LogError;
use crate::kv::Kv;

/// One log. Readers share it; one writer at a time calls [`Log::stage`], [`Log::publish`] and [`Log::tend`].
#[derive(Debug)]
pub struct Log {}

/// Something to be written with the next commit.
#[derive(Clone, Debug)]
pub enum WriteRequest {
    /// Append events.
    Emit {
        /// Who emits, and up to which number all is settled for it (from its Hello). `None`: no dedupe (in-process).
        publisher: Option<(PublisherId, EmitNumber)>,
        /// The number of the first (ignored without publisher).
        first: EmitNumber,
        /// The events; an `Err` consumes its number.
        events: Vec<Result<NewEvent, RefusalCode>>,
    },
    /// Save a durable cursor.
    SaveCursor {
        /// The subscriber.
        subscriber: SubscriberName,
        /// Its topic.
        topic: TopicName,
        /// The cursor.
        cursor: Cursor,
    },
}

/// What became of one [`WriteRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// Of an `Emit`, in order, without holes.
    Emitted(Vec<EmitRun>),
    /// Of a `SaveCursor`.
    CursorSaved,
}

/// A commit that is applied but not yet durable: nobody may be told of it.
#[derive(Debug)]
pub struct Staged {}

/// A durable commit.
#[derive(Clone, Debug)]
pub struct Committed {
    /// One per request, in their order.
    pub outcomes: Vec<WriteOutcome>,
    /// The topics that grew.
    pub grown: Vec<TopicName>,
}

/// What [`Log::tend`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tended {
    /// Nothing is to be done now.
    Idle,
    /// A step was done; another one is useful.
    More,
}

impl Log {
    /// Opens a log over a store and durably begins `epoch`.
    pub fn open(
        _kv: Arc<dyn Kv>,
        _config: LogConfig,
        _epoch: Epoch,
        _now: Timestamp,
        _monotonic: Instant,
    ) -> Result<Log, LogError> {
        unimplemented!()
    }

    /// Decides, numbers and applies requests as one commit that nobody sees yet. The caller keeps the sum of events
    /// within 1,024 and about 1 MiB. `StorageFull` refuses the emits in their outcomes, not here.
    pub fn stage(&self, _requests: Vec<WriteRequest>, _now: Timestamp) -> Result<Staged, LogError> {
        unimplemented!()
    }

    /// Syncs a staged commit and makes it visible. An error is the end of this log.
    pub fn publish(&self, _staged: Staged) -> Result<Committed, LogError> {
        unimplemented!()
    }

    /// One bounded step of what is due: fold, trim, expiry. At most one batch of 1 MiB and its sync.
    pub fn tend(&self, _now: Timestamp, _monotonic: Instant) -> Result<Tended, LogError> {
        unimplemented!()
    }

    /// Whether the unfolded tail is full, so that emits should wait for [`Log::tend`].
    pub fn tail_is_full(&self) -> bool {
        unimplemented!()
    }

    /// The newest durable position.
    pub fn head(&self) -> Position {
        unimplemented!()
    }

    /// Decides where a subscription starts. `stored` is what `Start::Resume` means.
    pub fn open_subscription(
        &self,
        _topic: &TopicName,
        _start: &Start,
        _stored: Option<&Cursor>,
        _now: Timestamp,
    ) -> Result<Opened, LogError> {
        unimplemented!()
    }

    /// The next events of a topic after a seq (whose nth in the topic is `nth`), all of one epoch.
    pub fn read(
        &self,
        _topic: &TopicName,
        _after: Seq,
        _nth: Nth,
        _events_max: u32,
        _bytes_max: usize,
    ) -> Result<ReadOutcome, LogError> {
        unimplemented!()
    }

    /// The same if it can be answered from memory, without touching the store.
    pub fn read_recent(
        &self,
        _topic: &TopicName,
        _after: Seq,
        _nth: Nth,
        _events_max: u32,
        _bytes_max: usize,
    ) -> Option<ReadOutcome> {
        unimplemented!()
    }

    /// A durable subscriber's cursor: the last one staged.
    pub fn cursor(&self, _subscriber: &SubscriberName, _topic: &TopicName) -> Result<Option<Cursor>, LogError> {
        unimplemented!()
    }

    /// What is known of a publisher that connects.
    pub fn publisher(&self, _publisher: PublisherId, _settled: EmitNumber) -> Result<PublisherState, LogError> {
        unimplemented!()
    }
}
