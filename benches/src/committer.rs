//! The log in the process of its caller: what commits cost without a server, connections and sessions. The same pattern as
//! the emit workload: 64 publishers with 32 events each, which share commits; folding is part of the price.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use redeliver_log::{EmitSource, Log, LogConfig, Maintenance, WriteOutcome, WriteRequest, open_dir};
use redeliver_protocol::codec::Records;
use redeliver_protocol::event::{NewEvent, PayloadKind};
use redeliver_protocol::history::ReadOutcome;
use redeliver_protocol::name::{EventName, TopicName};
use redeliver_protocol::seq::{EmitNumber, Epoch, IdentityTag, Nth, PublisherId, Seq};
use redeliver_protocol::time::{self, Timestamp};
use uuid::Uuid;

use crate::payload::{PAYLOAD_BYTES, Stamp};
use crate::turns::Turn;
use crate::wire::{NAME, topic_name};

/// A log, and who emits into it.
#[derive(Debug)]
pub struct Committer {
    log: Log,
    begun: Instant,
    topic: TopicName,
    name: EventName,
    publishers: Vec<(PublisherId, u64)>,
    turn: usize,
}

impl Committer {
    /// Opens a log in an empty directory.
    ///
    /// # Errors
    ///
    /// If it cannot be opened.
    pub fn open(dir: &Path) -> Result<Committer> {
        let epoch = Epoch::from(Uuid::new_v4());
        let log = open_dir(dir, LogConfig::default(), epoch, wall_clock(), time::Instant::ORIGIN)
            .context("the log cannot be opened")?;
        Ok(Committer {
            log,
            begun: Instant::now(),
            topic: TopicName::new(topic_name(0)).context("the topic's name")?,
            name: EventName::new(NAME).context("the event's name")?,
            publishers: (0..PUBLISHERS).map(|_| (PublisherId::from(Uuid::new_v4()), 0)).collect(),
            turn: 0,
        })
    }

    /// Commits of so many events, one behind another, for so long. Making the events is not part of the time.
    ///
    /// # Errors
    ///
    /// If the log does not take one.
    pub fn turn(&mut self, events: usize, span: Duration) -> Result<Turn> {
        let (mut took, mut all) = (Vec::new(), Duration::ZERO);
        while all < span {
            let requests = self.requests(events)?;
            let asked = requests.len();
            let before = Instant::now();
            let staged =
                self.log.stage(requests, wall_clock(), self.monotonic()).context("a commit cannot be staged")?;
            let committed = self.log.publish(staged).context("a commit cannot be made durable")?;
            took.push(before.elapsed());
            while self.log.maintain(wall_clock(), self.monotonic()).context("the log cannot be tended")?
                == Maintenance::More
            {}
            all += before.elapsed();
            let stored = committed.outcomes.iter().filter(|outcome| is_stored(outcome)).count();
            ensure!(stored == asked, "of {asked} emits {stored} were stored");
        }
        Ok(Turn::of(took, all))
    }

    /// Reads everything back; each publisher's events must be there, in order, once. Returns how many there are.
    ///
    /// # Errors
    ///
    /// If one is not.
    pub fn verify(&self) -> Result<u64> {
        let (mut after, mut nth) = (Seq::ZERO, Nth::ZERO);
        let mut read = vec![0; self.publishers.len()];
        loop {
            match self.log.read(&self.topic, after, nth, u32::MAX, 256 * 1024).context("the log cannot be read")? {
                ReadOutcome::Batch(batch) => {
                    (after, nth) = (batch.last_seq, batch.last_nth());
                    for record in Records::new(batch.records) {
                        let stamp = Stamp::read(&record.context("a record cannot be read")?.payload)?;
                        let next = usize::try_from(stamp.source).ok().and_then(|source| read.get_mut(source));
                        let next = next.with_context(|| format!("{stamp:?} is of nobody"))?;
                        ensure!(*next == stamp.index, "event {stamp:?} came in the place of {next}");
                        *next += 1;
                    }
                }
                ReadOutcome::End => break,
                other => bail!("the log answered {other:?}"),
            }
        }
        let sent: Vec<u64> = self.publishers.iter().map(|(_, sent)| *sent).collect();
        ensure!(read == sent, "not all events of each publisher are there");
        Ok(read.iter().sum())
    }

    fn requests(&mut self, events: usize) -> Result<Vec<WriteRequest>> {
        let mut requests = Vec::new();
        for _ in 0..events.div_ceil(EVENTS_EACH) {
            let source = self.turn % self.publishers.len();
            self.turn += 1;
            let (publisher, sent) = &mut self.publishers[source];
            let first = EmitNumber(*sent + 1);
            let mut events = Vec::with_capacity(EVENTS_EACH);
            for _ in 0..EVENTS_EACH {
                let mut payload = vec![0; PAYLOAD_BYTES];
                Stamp { source: u64::try_from(source)?, index: *sent, due_ns: 0 }.write(&mut payload);
                let payload = Bytes::from(payload);
                events.push(Ok(NewEvent::new(self.topic.clone(), self.name.clone(), PayloadKind::Bytes, payload)));
                *sent += 1;
            }
            requests.push(WriteRequest::Emit {
                publisher: Some(EmitSource {
                    publisher: *publisher,
                    owner: IdentityTag::default(),
                    settled: EmitNumber::ZERO,
                }),
                first,
                events,
            });
        }
        Ok(requests)
    }

    fn monotonic(&self) -> time::Instant {
        time::Instant::from_origin(self.begun.elapsed())
    }
}

fn is_stored(outcome: &WriteOutcome) -> bool {
    if let WriteOutcome::Emitted(runs) = outcome {
        return runs.iter().all(|run| run.fate.is_stored());
    }
    false
}

fn wall_clock() -> Timestamp {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}

const PUBLISHERS: usize = 64;
const EVENTS_EACH: usize = 32;
