//! The log: what a server and the simulation call. Synchronous, without threads and without clocks; one writer, any
//! number of readers.

mod decide;
mod draft;
mod excepts;
mod folding;
mod maintenance;
mod merged;
mod open;
mod read;
mod stage;
mod states;
mod subscribe;
mod trimming;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub use self::states::{STATE_BYTES_MAX, STATE_KEY_BYTES_MAX};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use redeliver_protocol::error::RefusalCode;
use redeliver_protocol::event::NewEvent;
use redeliver_protocol::history::{Cursor, EmitRun, Opened, Place, PublisherState, ReadOutcome, Start};
use redeliver_protocol::name::{SubscriberName, TopicName};
use redeliver_protocol::redelivery::DeliveredThrough;
use redeliver_protocol::seq::{EmitNumber, Epoch, IdentityTag, Nth, Position, PublisherId, Seq};
use redeliver_protocol::time::{Instant, Timestamp};

use crate::clock::PacedClock;
use crate::commit::{COMMIT_BYTES_MAX, COMMIT_EVENTS_MAX, encoded_bytes_max};
use crate::config::LogConfig;
use crate::error::LogError;
use crate::kv::{Kv, WriteBatch};
use crate::layout::value::CursorEntry;
use crate::layout::{key, piece};
use crate::publishers::Publishers;
use crate::read_cache::ReadCache;
use crate::state::Published;
use crate::store::Store;
use crate::tail::ReadLimits;

/// One log. Readers share it; one writer at a time calls [`Log::stage`], [`Log::publish`] and [`Log::maintain`].
///
/// Locks are taken in the order `reading`, `work`, `publishers`, `shared`, `read_cache`, and never across a sync by what readers
/// need.
#[derive(Debug)]
pub struct Log {
    config: LogConfig,
    store: Store,
    shared: RwLock<Published>,
    /// What was read from the store a moment ago.
    read_cache: Mutex<ReadCache>,
    /// Held by who reads from the store, by the place: others who come to the same place wait, and share what was found.
    reading: [Mutex<()>; read::READING_PLACES],
    publishers: Mutex<Publishers>,
    work: Mutex<WriterState>,
    /// The paced clock when it was last looked at, in milliseconds: for judging, and for what is stored.
    paced_now_ms: AtomicU64,
    paced_stamp_ms: AtomicU64,
    damaged_reads: AtomicU64,
    /// Damaged keys that were told, so that each is told once.
    damaged_keys: Mutex<BTreeSet<Vec<u8>>>,
}

/// What only the writer needs.
#[derive(Debug)]
struct WriterState {
    clock: PacedClock,
    /// Whether something has happened to the clock that is worth to be stored.
    has_clock_news: bool,
    /// When the store was last seen where it was opened.
    place_checked: Instant,
    /// What opening is still to write before anything else, if the disk was full.
    opening: Option<open::Opening>,
    /// Whether a commit is staged and not yet published.
    is_staged: bool,
    fold: Option<folding::Fold>,
    /// The last fold point, up to which commits may still have to be deleted.
    folded_through: Seq,
    /// Those that this opening has folded: their first seqs, and in how many pieces they lie.
    folded_commits: VecDeque<(Seq, u16)>,
    /// Whether an earlier opening may have left some.
    may_have_older_commits: bool,
    trim: Option<trimming::Trim>,
    /// The floor as it is in the store.
    saved_floor: Seq,
    /// How the topics' heads lie in the store.
    heads: open::StoredHeads,
    /// No event up to this seq has an except list any more.
    excepts_trimmed: Seq,
    expiry: Option<trimming::Expiry>,
    /// When the last expiry pass began.
    expiry_began: Timestamp,
}

/// Something to be written with the next commit.
#[derive(Clone, Debug)]
pub enum WriteRequest {
    /// Append events.
    Emit {
        /// Who emits. `None`: no dedupe (in-process).
        publisher: Option<EmitSource>,
        /// The number of the first. Without publisher it only numbers the answer.
        first: EmitNumber,
        /// The events; an `Err` with a final code consumes its number.
        events: Vec<Result<NewEvent, RefusalCode>>,
    },
    /// Append events together: in one commit and under consecutive seqs, or none of them. An `Err` refuses them all.
    EmitAll {
        /// The events: at most [`TOGETHER_EVENTS_MAX`], and of at most [`TOGETHER_BYTES_MAX`] by [`together_bytes`].
        /// More is refused as too large.
        events: Vec<Result<NewEvent, RefusalCode>>,
    },
    /// Save a durable cursor. Of several for one subscriber's topic in one commit, the last counts.
    SaveCursor {
        /// The subscriber.
        subscriber: SubscriberName,
        /// Its topic.
        topic: TopicName,
        /// The cursor.
        cursor: Cursor,
    },
    /// Set a state, or delete it. Of several for one key in one commit, the last counts.
    SaveState {
        /// The key: at most [`STATE_KEY_BYTES_MAX`](crate::STATE_KEY_BYTES_MAX) long, not empty.
        key: Bytes,
        /// The state: at most [`STATE_BYTES_MAX`](crate::STATE_BYTES_MAX) long.
        value: Option<Bytes>,
    },
}

/// Most events that one commit holds, and so most that can be stored together.
pub const TOGETHER_EVENTS_MAX: usize = COMMIT_EVENTS_MAX;

/// Most bytes, as [`together_bytes`] counts them, that one commit holds.
pub const TOGETHER_BYTES_MAX: usize = COMMIT_BYTES_MAX;

/// How many bytes of a commit these events take at most: payloads, names, topics, except lists, and what surrounds them.
pub fn together_bytes<'a>(events: impl IntoIterator<Item = &'a NewEvent>) -> usize {
    events.into_iter().map(encoded_bytes_max).sum()
}

/// Who emits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmitSource {
    /// The publisher.
    pub publisher: PublisherId,
    /// The identity that speaks for it. A publisher belongs to the first one that has stored an event as it.
    pub owner: IdentityTag,
    /// Up to which number all is settled, as the publisher claims in its Hello.
    pub settled: EmitNumber,
}

/// What became of one [`WriteRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// Of an `Emit` or an `EmitAll`, in order, without holes. The numbers of an `EmitAll` begin at 1.
    Emitted(Vec<EmitRun>),
    /// Of a `SaveCursor`: it is durable.
    CursorSaved,
    /// Of a `SaveCursor`: the disk is full. The cursor before it still stands; the same may be tried again later.
    CursorNotSaved,
    /// Of a `SaveState`: it is durable.
    StateSaved,
    /// Of a `SaveState`: the disk is full. The state before it still stands.
    StateNotSaved,
}

/// A commit that is applied but not yet durable: nobody may be told of it.
#[derive(Debug)]
pub struct Staged(stage::Pending);

/// A durable commit.
#[derive(Clone, Debug)]
pub struct Committed {
    /// One per request, in their order.
    pub outcomes: Vec<WriteOutcome>,
    /// The topics that grew. A topic may stand here twice.
    pub grown: Vec<TopicName>,
}

/// What [`Log::maintain`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Maintenance {
    /// Nothing is to be done now.
    Idle,
    /// A step was done; another one is useful.
    More,
}

/// What a log holds, for those who watch it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogStats {
    /// The newest durable seq.
    pub head: Seq,
    /// Events up to this seq are gone.
    pub floor: Seq,
    /// Size of the retained events (payloads, names, topics), in bytes; what lies around the floor is counted in full.
    pub retained_bytes: u64,
    /// Size of the unfolded commits in the store, in bytes.
    pub tail_bytes: usize,
    /// Size of the newest events in memory, in bytes.
    pub recent_bytes: usize,
    /// Topics that were ever emitted to.
    pub topics: usize,
    /// Publishers that are known.
    pub publishers: usize,
    /// Bytes that the store takes on its medium.
    pub disk_bytes: u64,
    /// Values that were found damaged when they were read.
    pub damaged_reads: u64,
}

impl Log {
    /// Opens a log over a store and durably begins `epoch`, which must never have been used for this log before.
    ///
    /// If the disk is full, a log that was opened before can be read all the same, under its last epoch. `epoch` begins with
    /// the first write that finds room: until then [`Log::stage`] fails with [`LogError::StorageFull`].
    ///
    /// # Errors
    ///
    /// [`LogError::NewerFormat`], or what the store fails with. A damaged value is no error: what can be read is read,
    /// and what is missing shows as a gap.
    pub fn open(
        kv: Arc<dyn Kv>,
        config: LogConfig,
        epoch: Epoch,
        now: Timestamp,
        monotonic: Instant,
    ) -> Result<Log, LogError> {
        let store = Store::new(kv);
        let mut recovered = open::recover(&store, &config, epoch, now)?;
        let clock = PacedClock::resume(recovered.clock, now, monotonic);
        let work = WriterState {
            clock,
            has_clock_news: false,
            place_checked: monotonic,
            opening: recovered.opening.take(),
            is_staged: false,
            fold: None,
            folded_through: Seq::ZERO,
            folded_commits: VecDeque::new(),
            may_have_older_commits: false,
            trim: None,
            saved_floor: recovered.saved_floor,
            heads: recovered.heads,
            excepts_trimmed: Seq::ZERO,
            expiry: None,
            expiry_began: clock.now(),
        };
        let fold_point = recovered.shared.fold_point;
        recovered.shared.stored_by(clock.stamp());
        let read_cache = Mutex::new(ReadCache::new(config.read_cache_bytes_max, monotonic));
        let log = Log {
            config,
            store,
            shared: RwLock::new(recovered.shared),
            read_cache,
            reading: [const { Mutex::new(()) }; read::READING_PLACES],
            publishers: Mutex::new(recovered.publishers),
            work: Mutex::new(work),
            paced_now_ms: AtomicU64::new(clock.now().0),
            paced_stamp_ms: AtomicU64::new(clock.stamp().0),
            damaged_reads: AtomicU64::new(0),
            damaged_keys: Mutex::default(),
        };
        let fold = recovered.plan.map(|plan| log.reading(plan));
        log.work.lock().resume_fold(fold, fold_point);
        Ok(log)
    }

    /// Decides, numbers and applies requests as one commit that nobody sees yet; it must be given to [`Log::publish`]
    /// before the next one is staged. The caller keeps the sum of events within 1,024 and about 1 MiB; what is more is
    /// written in several commits, all but the last of them durable on return.
    ///
    /// A full disk is no error: it refuses emits with `StorageFull`, and cursors with
    /// [`WriteOutcome::CursorNotSaved`], in their outcomes.
    ///
    /// # Errors
    ///
    /// [`LogError::Failed`], which is the end of this log.
    #[allow(
        clippy::needless_pass_by_value,
        reason = "requests are the caller's to give up: their payloads may be kept"
    )]
    pub fn stage(&self, requests: Vec<WriteRequest>, now: Timestamp, monotonic: Instant) -> Result<Staged, LogError> {
        self.stage_requests(&requests, now, monotonic)
    }

    /// Returns the paced time, by which the age of events, cursors and publishers is judged: it moves with the monotonic clock
    /// and counts the time between openings, and a wall clock that is set wrong does not move it. It is close to the wall
    /// clock's time only where that has always been right, and at most as old as the last call of [`Log::stage`] or
    /// [`Log::maintain`]. For whoever keeps times of its own beside the log: stored are those of [`Log::paced_stamp`].
    #[must_use]
    pub fn paced_now(&self) -> Timestamp {
        Timestamp(self.paced_now_ms.load(Ordering::Relaxed))
    }

    /// Returns the paced time that what is stored now is to bear, to be judged later by [`Log::paced_now`]. It is ahead of
    /// that for the first minutes after an opening, while it is not sure yet how long the log was closed.
    #[must_use]
    pub fn paced_stamp(&self) -> Timestamp {
        Timestamp(self.paced_stamp_ms.load(Ordering::Relaxed))
    }

    /// Syncs a staged commit and makes it visible.
    ///
    /// # Errors
    ///
    /// [`LogError::Failed`], which is the end of this log: nothing may be told of what was staged.
    pub fn publish(&self, staged: Staged) -> Result<Committed, LogError> {
        self.publish_staged(staged)
    }

    /// One bounded step of what is due: retention, fold, trim, expiry. At most one batch of 1 MiB and its sync. To be
    /// called while there is nothing to commit, at least every second or so, and again at once while it says `More`.
    ///
    /// # Errors
    ///
    /// [`LogError::StorageFull`]: nothing was done, and it will go on when there is space. Any other error is the end of
    /// this log.
    pub fn maintain(&self, now: Timestamp, monotonic: Instant) -> Result<Maintenance, LogError> {
        self.maintenance_step(now, monotonic)
    }

    /// Whether the unfolded tail is full, so that emits should wait for [`Log::maintain`].
    #[must_use]
    pub fn tail_is_full(&self) -> bool {
        self.shared.read().tail_bytes >= self.config.tail_bytes_max
    }

    /// How many steps of [`Log::maintain`] should lie between this commit and the next, so that the tail does not fill: none
    /// while it is short. Folding between commits makes them slower; folding at last, when it is full, would stop them.
    #[must_use]
    pub fn steps_due(&self) -> u32 {
        let (tail_bytes, most) = (self.shared.read().tail_bytes, self.config.tail_bytes_max);
        if tail_bytes < self.config.fold_bytes.min(most / 2) {
            0
        } else if tail_bytes < most / 2 {
            1
        } else if tail_bytes < most / 4 * 3 {
            2
        } else {
            4
        }
    }

    /// The newest durable position.
    #[must_use]
    pub fn head(&self) -> Position {
        self.shared.read().head_position()
    }

    /// Decides where a subscription starts. `stored` is the durable subscriber's cursor, if there is one. Changes nothing.
    ///
    /// # Errors
    ///
    /// What the store fails with.
    pub fn open_subscription(
        &self,
        topic: &TopicName,
        start: &Start,
        stored: Option<&Cursor>,
        now: Timestamp,
    ) -> Result<Opened, LogError> {
        self.open_topic(topic, start, stored, now)
    }

    /// The same for a subscription without a stored cursor, if it can be answered from memory.
    #[must_use]
    pub fn open_recent(&self, topic: &TopicName, start: &Start, now: Timestamp) -> Option<Opened> {
        if !self.start_is_recent(topic, start) {
            return None;
        }
        // What has left memory since is read from the store, which is no harm; an error comes again to who asks there.
        self.open_topic(topic, start, None, now).ok()
    }

    /// The next events of a topic after a seq (whose nth in the topic is `nth`), all of one epoch: as many as are at hand
    /// within both bounds, at least one. An event that some are not to get comes alone, with its list.
    ///
    /// # Errors
    ///
    /// What the store fails with.
    pub fn read(
        &self,
        topic: &TopicName,
        after: Seq,
        nth: Nth,
        events_max: u32,
        bytes_max: usize,
    ) -> Result<ReadOutcome, LogError> {
        self.read_topic(
            topic,
            (after, nth),
            ReadLimits { events_max, bytes_max, seq_max: Seq(u64::MAX), is_mixed: false },
        )
    }

    /// The same if it can be answered from memory, without touching the store.
    #[must_use]
    pub fn read_recent(
        &self,
        topic: &TopicName,
        after: Seq,
        nth: Nth,
        events_max: u32,
        bytes_max: usize,
    ) -> Option<ReadOutcome> {
        self.read_topic_in_memory(
            topic,
            (after, nth),
            ReadLimits { events_max, bytes_max, seq_max: Seq(u64::MAX), is_mixed: false },
        )
    }

    /// A durable subscriber's cursor: the last one staged. One that is damaged is given as a place in no history, so that
    /// its subscriber is told a gap instead of starting anew in silence.
    ///
    /// # Errors
    ///
    /// What the store fails with.
    pub fn cursor(&self, subscriber: &SubscriberName, topic: &TopicName) -> Result<Option<Cursor>, LogError> {
        let key = key::cursor(subscriber, topic);
        let Some(sealed) = self.store.kv().get(&key)? else { return Ok(None) };
        match piece::open_small(&key, &sealed).and_then(CursorEntry::decode) {
            Ok(entry) => Ok(Some(entry.cursor)),
            Err(_) => {
                self.note_damage(vec![key]);
                // Seq 1 in an epoch of nobody: valid nowhere.
                let nowhere = Position::new(Epoch::default(), Seq(1));
                let shared = self.shared.read();
                let last_nth = shared.topics.find(topic.as_str()).map_or(Nth::ZERO, |(_, entry)| entry.last_nth);
                let delivered_through = DeliveredThrough(last_nth);
                Ok(Some(Cursor::new(Place::new(nowhere, Nth::ZERO), delivered_through)))
            }
        }
    }

    /// Returns whether an identity may speak for a publisher: nobody else has emitted as it. To be asked before an older
    /// connection of that publisher is fenced.
    #[must_use]
    pub fn may_publish(&self, publisher: PublisherId, owner: IdentityTag) -> bool {
        self.publishers.lock().belongs_to(publisher, owner)
    }

    /// Lets a publisher be forgotten as if it had been idle for long: its events are folded first, and a restart before that
    /// takes this back. If it emits again, it is kept.
    pub fn retire_publisher(&self, publisher: PublisherId) {
        self.publishers.lock().retire(publisher);
    }

    /// What is known of a publisher that connects, durably.
    ///
    /// # Errors
    ///
    /// None at present; a log that keeps publishers in the store alone would have some.
    pub fn publisher(&self, publisher: PublisherId, settled: EmitNumber) -> Result<PublisherState, LogError> {
        Ok(self.publishers.lock().state(publisher, settled))
    }

    /// Returns whether the disk would take a commit of any size now: an estimate.
    ///
    /// # Errors
    ///
    /// What the store fails with.
    pub fn has_room(&self) -> Result<bool, LogError> {
        Ok(self.store.kv().has_room(&WriteBatch::largest(), 0)?)
    }

    /// What the log holds now.
    #[must_use]
    pub fn stats(&self) -> LogStats {
        let publishers = self.publishers.lock().len();
        let shared = self.shared.read();
        LogStats {
            head: shared.head,
            floor: shared.floor.seq,
            retained_bytes: shared.retained_bytes,
            tail_bytes: shared.tail_bytes,
            recent_bytes: shared.recent.bytes(),
            topics: shared.topics.len(),
            publishers,
            disk_bytes: self.store.kv().bytes_on_disk(),
            damaged_reads: self.damaged_reads.load(Ordering::Relaxed),
        }
    }
}
