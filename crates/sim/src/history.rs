//! What every actor of a simulation writes down. The checker judges these entries and nothing else.

use std::fmt;

use bytes::Bytes;
use redeliver_protocol::client::{EmitOutcome, StreamItem, SubscriptionEnd};
use redeliver_protocol::event::NewEvent;
use redeliver_protocol::frame::Window;
use redeliver_protocol::history::{Cursor, Start};
use redeliver_protocol::name::{EventName, SubscriberName, TopicName};
use redeliver_protocol::request::RequestError;
use redeliver_protocol::seq::{Epoch, Nth, Position, Seq};
use redeliver_protocol::time::{Instant, Timestamp};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u32);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

number! {
    /// One life of a client's process, with its one client session.
    Process, "process-"
}
number! {
    /// One subscription in one process: a reader's run, across its connections.
    Run, "run-"
}
number! {
    /// One opening of the log by a server process.
    Opening, "opening-"
}
number! {
    /// A copy of the store that was put aside.
    Snapshot, "snapshot-"
}

/// An emit as the app knows it: the how-manieth of which publisher. The same key emitted again by a later process is
/// the same emit tried again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EmitKey {
    /// The publisher.
    pub publisher: u32,
    /// From 1, in the app's order.
    pub index: u64,
}

impl fmt::Debug for EmitKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "emit-{}.{}", self.publisher, self.index)
    }
}

/// All that happened, in order.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// With the virtual time of each.
    pub entries: Vec<(Instant, Entry)>,
}

/// What a store was before it was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// What the server before left, less what was not synced.
    Continued,
    /// Nothing.
    Wiped,
    /// An older copy.
    Restored(Snapshot),
}

/// Retention as configured, for judging trims.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// At least so many of the newest events, if bounded by count.
    pub count: Option<u64>,
    /// At least so many bytes of the newest events, if bounded by bytes.
    pub bytes: Option<u64>,
    /// At least the events of the last so many microseconds, if bounded by age.
    pub age_micros: Option<u64>,
}

/// An event as a separate reader found it in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dumped {
    /// Where.
    pub position: Position,
    /// Its number in the topic.
    pub nth: Nth,
    /// Its time.
    pub time: Timestamp,
    /// Its name.
    pub name: EventName,
    /// Its payload.
    pub payload: Bytes,
}

/// One topic as a separate reader found it in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DumpedTopic {
    /// The topic.
    pub topic: TopicName,
    /// Events up to this nth are gone.
    pub floor: Nth,
    /// All after it.
    pub events: Vec<Dumped>,
}

/// Who keeps a run's cursor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keeper {
    /// Nobody.
    Nobody,
    /// The server, for this subscriber.
    Server(SubscriberName),
    /// The client with this number, in its own store.
    Client(u32),
}

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Entry {
    /// How the log is configured.
    Configured(Kept),
    /// A fault was made, or ended; in words.
    Fault(String),
    /// The server opened the log.
    Opened {
        /// Which opening it is.
        opening: Opening,
        /// What the store was.
        origin: Origin,
        /// The epoch that it begins.
        epoch: Epoch,
        /// The newest event.
        head: Seq,
        /// What is in it.
        dump: Vec<DumpedTopic>,
    },
    /// The store was copied.
    SnapshotTaken(Snapshot),
    /// A separate reader read the whole log of the running server.
    Dumped {
        /// The newest event.
        head: Seq,
        /// What is in it.
        dump: Vec<DumpedTopic>,
    },
    /// A commit was published: these emits are durable at these positions.
    Committed(Vec<(EmitKey, Position)>),
    /// Events of the topic up to this nth are gone.
    Floor {
        /// The topic.
        topic: TopicName,
        /// The last that is gone.
        nth: Nth,
    },
    /// A connection became the owner of a subscriber's topic.
    Owned {
        /// The subscriber.
        subscriber: SubscriberName,
        /// Its topic.
        topic: TopicName,
        /// The connection's number.
        connection: u64,
    },
    /// A publisher's connection was displaced by a newer one: each by the credentials that it had shown.
    Fenced {
        /// Those of the older one.
        older: Option<Bytes>,
        /// Those of the newer one.
        newer: Option<Bytes>,
    },
    /// A durable cursor went into a commit for a connection.
    CursorStaged {
        /// The subscriber.
        subscriber: SubscriberName,
        /// Its topic.
        topic: TopicName,
        /// The connection's number.
        connection: u64,
        /// What is to be written.
        cursor: Cursor,
    },
    /// It is durable.
    CursorWritten {
        /// The subscriber.
        subscriber: SubscriberName,
        /// Its topic.
        topic: TopicName,
        /// What was written.
        cursor: Cursor,
    },
    /// A client's own store has a cursor.
    CursorStored {
        /// The client's number.
        client: u32,
        /// The topic.
        topic: TopicName,
        /// What was written.
        cursor: Cursor,
    },
    /// The server's wall clock was set.
    ClockSet,
    /// A client's process began.
    Started(Process),
    /// It ended without a goodbye.
    Crashed(Process),
    /// A process has a connection to the server that made this opening.
    Connected {
        /// The process.
        process: Process,
        /// The opening.
        opening: Opening,
        /// The connection's number.
        connection: u64,
    },
    /// An app emits.
    Emitting {
        /// Where.
        process: Process,
        /// Which.
        key: EmitKey,
        /// What.
        event: NewEvent,
    },
    /// An app learns what became of its emit.
    EmitDone {
        /// Where.
        process: Process,
        /// Which.
        key: EmitKey,
        /// Its fate.
        outcome: EmitOutcome,
    },
    /// An app is told that acknowledged emits are gone from the log.
    EmitsLost {
        /// Where.
        process: Process,
        /// By which publisher.
        publisher: u32,
        /// The first.
        from: u64,
        /// The last.
        through: u64,
    },
    /// An app subscribes.
    Subscribing {
        /// Where.
        process: Process,
        /// The reader's run that begins.
        run: Run,
        /// The topic.
        topic: TopicName,
        /// From where.
        start: Start,
        /// How much at once.
        window: Window,
        /// Who keeps the cursor.
        keeper: Keeper,
        /// What a client's own store held.
        stored: Option<Cursor>,
        /// Whether the start counts although there may be a cursor.
        rewinds: bool,
    },
    /// An app gives a subscription up.
    Unsubscribing {
        /// The reader.
        run: Run,
    },
    /// The session handed something to the app.
    Delivered {
        /// The reader.
        run: Run,
        /// What.
        delivery: StreamItem,
    },
    /// An app follows these topics as one.
    RowSubscribing {
        /// Where.
        process: Process,
        /// The run that begins.
        run: Run,
        /// The topics.
        topics: Vec<TopicName>,
    },
    /// The session gave a merged subscription something.
    RowDelivered {
        /// Which.
        run: Run,
        /// The topic by which it came; none if it is about all of them.
        topic: Option<TopicName>,
        /// What.
        delivery: StreamItem,
    },
    /// A merged subscription has ended.
    RowEnded {
        /// Which.
        run: Run,
    },
    /// The app has handled an event or gap.
    Handled {
        /// The reader.
        run: Run,
        /// Its position.
        position: Position,
    },
    /// The app acknowledged up to here.
    Acked {
        /// The reader.
        run: Run,
        /// The position.
        position: Position,
    },
    /// An acknowledgement is confirmed.
    Confirmed {
        /// The reader.
        run: Run,
        /// The seq.
        seq: Seq,
    },
    /// A run has ended by itself.
    Ended {
        /// The reader.
        run: Run,
        /// Why.
        why: SubscriptionEnd,
    },
    /// An app hands out an event that is not logged.
    Handing {
        /// Its number among what is not logged.
        number: u64,
        /// Its topics.
        topics: Vec<TopicName>,
    },
    /// An app asks the other side's: a client's the server's, or the server's a client's.
    Asking {
        /// Its number among what is not logged.
        number: u64,
        /// The client's process that asks; none if the server does.
        process: Option<Process>,
    },
    /// An app is asked.
    Asked {
        /// The request's number.
        number: u64,
    },
    /// Whoever asked is told what became of it.
    Answered {
        /// The request's number.
        number: u64,
        /// To which request the answer belongs by its content, or why there is none.
        result: Result<Option<u64>, RequestError>,
    },
    /// No more faults and no more emits from here on.
    Calm,
    /// Thirty seconds later at most: every run that lives should have handled everything, every emit be decided.
    Settled {
        /// The runs that live and own their topics.
        runs: Vec<Run>,
        /// The processes that live.
        processes: Vec<Process>,
    },
    /// The apps said goodbye.
    Shutdown,
    /// All processes should have ended cleanly; these have not.
    Leftover(Vec<String>),
}

impl History {
    /// Writes something down.
    pub fn push(&mut self, at: Instant, entry: Entry) {
        self.entries.push((at, entry));
    }

    /// A number that is equal for equal histories, and hardly ever for others (FNV-1a over their words).
    #[must_use]
    pub fn hash(&self) -> u64 {
        let mut hash = Fnv(0xCBF2_9CE4_8422_2325);
        for (at, entry) in &self.entries {
            // Writing into a hash cannot fail.
            let _ = fmt::write(&mut hash, format_args!("{at:?} {entry:?}\n"));
        }
        hash.0
    }
}

struct Fnv(u64);

impl fmt::Write for Fnv {
    fn write_str(&mut self, words: &str) -> fmt::Result {
        for byte in words.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
        }
        Ok(())
    }
}

/// Which volatile event, question or answer a payload names: its second word.
pub(crate) fn number_of(payload: &Bytes) -> Option<u64> {
    std::str::from_utf8(payload).ok()?.split(' ').nth(1)?.parse().ok()
}
