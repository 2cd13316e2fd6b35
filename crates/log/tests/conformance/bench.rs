//! A log on a workbench: emits, reads and crashes in one line each.

use std::sync::Arc;
use std::time::Duration;

use redeliver_log::kv::Kv;
use redeliver_log::kv::faulty::{FaultyKv, Image, Unsynced};
use redeliver_log::{Committed, EmitSource, Log, LogConfig, Maintenance, Staged, WriteOutcome, WriteRequest, open_dir};
use redeliver_protocol::codec::Records;
use redeliver_protocol::error::RefusalCode;
use redeliver_protocol::event::{NewEvent, PayloadKind};
use redeliver_protocol::history::{Cursor, EmitRun, Gap, Opened, Place, ReadOutcome, Start};
use redeliver_protocol::name::{EventName, SubscriberName, TopicName};
use redeliver_protocol::seq::{EmitNumber, Epoch, IdentityTag, Nth, Position, PublisherId, Seq};
use redeliver_protocol::time::{Instant, Timestamp};
use tempfile::TempDir;

/// A log with a clock of its own, over the in-memory store or over a data directory.
pub(crate) struct Bench {
    /// The store; empty and unused over a data directory.
    pub(crate) kv: Arc<FaultyKv>,
    pub(crate) log: Log,
    pub(crate) config: LogConfig,
    pub(crate) now: u64,
    pub(crate) monotonic: u64,
    epochs: u8,
    dir: Option<TempDir>,
}

/// One thing that a reader of a topic gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Got {
    Event { seq: u64, nth: u64, payload: String },
    Gap(Gap),
}

impl Bench {
    pub(crate) fn new() -> Bench {
        Bench::with(LogConfig::default())
    }

    pub(crate) fn with(config: LogConfig) -> Bench {
        Bench::over(FaultyKv::new(), config, 1, 1_000_000)
    }

    /// One over each kind of store.
    pub(crate) fn each(config: &LogConfig) -> [Bench; 2] {
        [Bench::with(config.clone()), Bench::in_dir(tempfile::tempdir().unwrap(), config.clone(), 1, 1_000_000)]
    }

    /// Whether this log lives in a data directory, whose files never shrink.
    pub(crate) fn is_on_disk(&self) -> bool {
        self.dir.is_some()
    }

    fn in_dir(dir: TempDir, config: LogConfig, number: u8, now: u64) -> Bench {
        let log = open_dir(dir.path(), config.clone(), epoch(number), Timestamp(now), Instant::ORIGIN).unwrap();
        Bench { kv: Arc::default(), log, config, now, monotonic: 0, epochs: number, dir: Some(dir) }
    }

    fn over(kv: FaultyKv, config: LogConfig, epoch: u8, now: u64) -> Bench {
        let kv = Arc::new(kv);
        let log = open(Arc::clone(&kv) as Arc<dyn Kv>, &config, epoch, now).expect("the log opens");
        Bench { kv, log, config, now, monotonic: 0, epochs: epoch, dir: None }
    }

    /// Cuts the power and opens what is left.
    pub(crate) fn crash(self, unsynced: Unsynced) -> Bench {
        let kv = self.kv.crash(unsynced);
        Bench::over(kv, self.config, self.epochs + 1, self.now)
    }

    /// What a crash now would leave, opened beside this log.
    pub(crate) fn copy(&self) -> Bench {
        let mut bench = self.restored(&self.kv.durable(), self.epochs + 1);
        bench.monotonic = self.monotonic;
        bench
    }

    /// Opens another store under the next epoch.
    pub(crate) fn over_store(self, kv: FaultyKv) -> Bench {
        Bench::over(kv, self.config, self.epochs + 1, self.now)
    }

    /// The seq of a topic's event with this nth; zero for zero.
    pub(crate) fn seq_of(&self, of: &str, nth: u64) -> u64 {
        if nth == 0 { 0 } else { self.open_at(of, Start::Last(self.last_nth(of) - nth)).after.seq.0 }
    }

    pub(crate) fn last_nth(&self, of: &str) -> u64 {
        self.open_at(of, Start::Latest).nth.0
    }

    /// Ends cleanly and opens again.
    pub(crate) fn reopen(self) -> Bench {
        let Some(dir) = self.dir else { return self.crash(Unsynced::Lost) };
        drop(self.log);
        Bench::in_dir(dir, self.config, self.epochs + 1, self.now)
    }

    /// Opens a copy of the store, as from a backup, under an epoch that the log never had.
    pub(crate) fn restored(&self, image: &Image, epoch: u8) -> Bench {
        Bench::over(FaultyKv::from_image(image), self.config.clone(), epoch, self.now)
    }

    /// The same after changing what is stored.
    pub(crate) fn damaged(self, change: impl FnOnce(&mut Image)) -> Bench {
        let mut image = self.kv.durable();
        change(&mut image);
        Bench::over(FaultyKv::from_image(&image), self.config, self.epochs + 1, self.now)
    }

    pub(crate) fn head_seq(&self) -> u64 {
        self.log.head().seq.0
    }

    pub(crate) fn stage(&self, requests: Vec<WriteRequest>) -> Staged {
        self.log.stage(requests, Timestamp(self.now), self.monotonic()).expect("it is staged")
    }

    pub(crate) fn write(&self, requests: Vec<WriteRequest>) -> Committed {
        let staged = self.stage(requests);
        self.log.publish(staged).expect("it is published")
    }

    /// Emits events without a publisher, as one commit.
    pub(crate) fn emit(&self, events: Vec<NewEvent>) -> Vec<EmitRun> {
        let request =
            WriteRequest::Emit { publisher: None, first: EmitNumber(1), events: events.into_iter().map(Ok).collect() };
        emitted(self.write(vec![request])).remove(0)
    }

    /// Emits one event to a topic and gives its seq.
    pub(crate) fn say(&self, to: &str, payload: &str) -> u64 {
        match self.emit(vec![event(&[to], payload)])[..] {
            [EmitRun { fate: redeliver_protocol::history::EmitFate::Stored(position), .. }] => position.seq.0,
            ref other => panic!("not stored: {other:?}"),
        }
    }

    /// Emits as a publisher, as one commit.
    pub(crate) fn publish(&self, publisher: u8, settled: u64, first: u64, payloads: &[&str]) -> Vec<EmitRun> {
        emitted(self.write(vec![emit_as(publisher, settled, first, payloads)])).remove(0)
    }

    pub(crate) fn save(&self, subscriber: &str, to: &str, cursor: &Cursor) -> WriteOutcome {
        let request = WriteRequest::SaveCursor {
            subscriber: SubscriberName::new(subscriber).unwrap(),
            topic: topic(to),
            cursor: cursor.clone(),
        };
        self.write(vec![request]).outcomes.remove(0)
    }

    pub(crate) fn cursor(&self, subscriber: &str, of: &str) -> Option<Cursor> {
        self.log.cursor(&SubscriberName::new(subscriber).unwrap(), &topic(of)).unwrap()
    }

    /// Lets time pass on both clocks.
    pub(crate) fn wait(&mut self, ms: u64) {
        self.now += ms;
        self.monotonic += ms;
    }

    pub(crate) fn monotonic(&self) -> Instant {
        Instant::from_origin(Duration::from_millis(self.monotonic))
    }

    pub(crate) fn maintain(&self) -> Maintenance {
        self.log.maintain(Timestamp(self.now), self.monotonic()).expect("upkeep works")
    }

    pub(crate) fn tend_all(&self) {
        let mut steps = 0;
        while self.maintain() == Maintenance::More {
            steps += 1;
            assert!(steps < 100_000, "upkeep never ends");
        }
    }

    #[allow(clippy::needless_pass_by_value, reason = "a start is written where it is asked for")]
    pub(crate) fn open_at(&self, of: &str, start: Start) -> Opened {
        self.open_with(of, &start, None)
    }

    pub(crate) fn open_with(&self, of: &str, start: &Start, stored: Option<&Cursor>) -> Opened {
        let opened = self.log.open_subscription(&topic(of), start, stored, Timestamp(self.now)).unwrap();
        if let Some(gap) = &opened.gap {
            assert_eq!((opened.after, opened.nth), (gap.through, gap.nth_through), "delivery goes on after the gap");
        }
        opened
    }

    pub(crate) fn read(&self, of: &str, after: u64, nth: u64) -> ReadOutcome {
        self.log.read(&topic(of), Seq(after), Nth(nth), 1000, 100_000).unwrap()
    }

    /// Everything that a reader gets from a place on, in batches of these bounds.
    pub(crate) fn follow_in(&self, of: &str, after: u64, nth: u64, events_max: u32, bytes_max: usize) -> Vec<Got> {
        let of = topic(of);
        let (mut after, mut nth) = (Seq(after), Nth(nth));
        let mut got = Vec::new();
        loop {
            match self.log.read(&of, after, nth, events_max, bytes_max).unwrap() {
                ReadOutcome::End => return got,
                ReadOutcome::Gap(gap) => {
                    assert!(gap.through.seq > after, "a gap leads on: {gap:?}");
                    assert_eq!(gap.after.seq, after);
                    (after, nth) = (gap.through.seq, gap.nth_through);
                    got.push(Got::Gap(gap));
                }
                ReadOutcome::Batch(batch) => {
                    assert!(batch.count >= 1 && batch.count <= events_max.max(1));
                    assert!(batch.count == 1 || batch.records.len() <= bytes_max);
                    assert_eq!(batch.first_nth, nth.next(), "nth proves completeness");
                    let except = batch.except.as_deref();
                    assert!(except.is_none() || batch.count == 1, "what is not for everybody comes alone");
                    let records: Vec<_> = Records::new(batch.records.clone()).collect::<Result<_, _>>().unwrap();
                    assert_eq!(records.len(), batch.count as usize);
                    for record in records {
                        assert!(record.seq > after);
                        assert_eq!(record.nth, nth.next());
                        (after, nth) = (record.seq, record.nth);
                        let payload = String::from_utf8(record.payload.to_vec()).unwrap();
                        assert_eq!(record.has_except, except.is_some());
                        assert_eq!(except.unwrap_or_default(), except_for(&payload));
                        got.push(Got::Event { seq: after.0, nth: nth.0, payload });
                    }
                    assert_eq!((batch.last_seq, batch.last_nth()), (after, nth));
                }
            }
        }
    }

    pub(crate) fn follow(&self, of: &str, after: u64, nth: u64) -> Vec<Got> {
        self.follow_in(of, after, nth, 1000, 100_000)
    }

    /// The payloads of everything that a reader gets who starts with the oldest.
    pub(crate) fn payloads(&self, of: &str) -> Vec<String> {
        let opened = self.open_at(of, Start::Earliest);
        let got = self.follow(of, opened.after.seq.0, opened.nth.0);
        assert_eq!(got.len() as u64, opened.pending, "pending is what follows");
        got.into_iter().map(|got| got.payload()).collect()
    }
}

impl Got {
    pub(crate) fn payload(&self) -> String {
        match self {
            Got::Event { payload, .. } => payload.clone(),
            Got::Gap(gap) => panic!("a gap where an event was to be: {gap:?}"),
        }
    }
}

pub(crate) fn open(kv: Arc<dyn Kv>, config: &LogConfig, number: u8, now: u64) -> Result<Log, redeliver_log::LogError> {
    Log::open(kv, config.clone(), epoch(number), Timestamp(now), Instant::ORIGIN)
}

pub(crate) fn epoch(number: u8) -> Epoch {
    Epoch([number; 16])
}

pub(crate) fn at(number: u8, seq: u64) -> Position {
    Position::new(epoch(number), Seq(seq))
}

pub(crate) fn known(position: Position, nth: u64) -> Place {
    Place::new(position, Nth(nth))
}

pub(crate) fn topic(name: &str) -> TopicName {
    TopicName::new(name).unwrap()
}

/// Who is not to get an event: some, if its payload begins with `~`.
pub(crate) fn except_for(payload: &str) -> Vec<TopicName> {
    let count = if payload.starts_with('~') { 1 + payload.len() % 40 } else { 0 };
    (0..count).map(|number| topic(&format!("{}{number}", "not me ".repeat(30)))).collect()
}

pub(crate) fn event(topics: &[&str], payload: &str) -> NewEvent {
    let name = EventName::new("said").unwrap();
    let mut event = NewEvent::new(topic(topics[0]), name, PayloadKind::Text, payload.to_owned());
    event.topics = topics.iter().map(|name| topic(name)).collect();
    event.except = except_for(payload);
    event
}

pub(crate) fn publisher(number: u8) -> PublisherId {
    PublisherId([number; 16])
}

/// A publisher of one of several identities.
pub(crate) fn source(number: u8, owner: u8, settled: u64) -> EmitSource {
    EmitSource { publisher: publisher(number), owner: IdentityTag([owner; 16]), settled: EmitNumber(settled) }
}

/// Emits to the topic `t`. A payload `!` is a final refusal, `#` one for want of permission, `?` a retryable one.
pub(crate) fn emit_as(number: u8, settled: u64, first: u64, payloads: &[&str]) -> WriteRequest {
    let judge = |payload: &&str| match *payload {
        "!" => Err(RefusalCode::INVALID),
        "#" => Err(RefusalCode::FORBIDDEN),
        "?" => Err(RefusalCode::OVERLOADED),
        payload => Ok(event(&["t"], payload)),
    };
    WriteRequest::Emit {
        publisher: Some(source(number, 1, settled)),
        first: EmitNumber(first),
        events: payloads.iter().map(judge).collect(),
    }
}

pub(crate) fn emitted(committed: Committed) -> Vec<Vec<EmitRun>> {
    let runs = |outcome| match outcome {
        WriteOutcome::Emitted(runs) => Some(runs),
        WriteOutcome::CursorSaved
        | WriteOutcome::CursorNotSaved
        | WriteOutcome::StateSaved
        | WriteOutcome::StateNotSaved => None,
    };
    committed.outcomes.into_iter().filter_map(runs).collect()
}
