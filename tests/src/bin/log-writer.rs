//! Writes to a log as a server's writer does, without a server, to cut its power.
//!
//! `log-writer SEED ACKED FLOOR DIR [COMMITS]`: opens the log in DIR, checks that everything acknowledged up to seq ACKED is
//! there with the right content, or was trimmed by retention and is told as a gap, says so on stdout, then writes COMMITS times
//! or until it is killed. It says `acked N` only after the commit is durable. FLOOR is how much was known to be trimmed.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use redeliver_log::{EmitSource, Log, LogConfig, Maintenance, WriteOutcome, WriteRequest, open_dir};
use redeliver_protocol::codec::Records;
use redeliver_protocol::event::{NewEvent, PayloadKind};
use redeliver_protocol::history::{Cursor, EmitFate, GapCause, Place, PublisherState, ReadOutcome};
use redeliver_protocol::name::{EventName, SubscriberName, TopicName};
use redeliver_protocol::redelivery::DeliveredThrough;
use redeliver_protocol::seq::{EmitNumber, Epoch, IdentityTag, Nth, PublisherId, Seq};
use redeliver_protocol::time::{Instant, Timestamp};
use redeliver_tests::chance::Chance;
use redeliver_tests::content::Event;
use redeliver_tests::writer::program::{Errand, say};
use uuid::Uuid;

fn main() -> Result<()> {
    let Errand { seed, acked, floor, dir, commits } = Errand::from_args()?;
    say(&format!("opening {}", dir.display()))?;
    let mut writer = Writer::open(&dir, seed)?;
    let stats = writer.log.stats();
    say(&format!("opened head {} floor {} bytes {}", stats.head, stats.floor, stats.disk_bytes))?;
    let checked = writer.check(acked, floor)?;
    say(&format!("checked {checked}"))?;
    for _ in 0..commits {
        let head = writer.commit()?;
        say(&format!("acked {head}"))?;
        writer.tend()?;
    }
    Ok(())
}

struct Writer {
    log: Log,
    chance: Chance,
    began: std::time::Instant,
    floor: Seq,
}

impl Writer {
    fn open(dir: &Path, seed: u64) -> Result<Writer> {
        let mut config = LogConfig::default();
        config.retention.bytes = Some(RETAINED_BYTES);
        config.fold_bytes = FOLD_BYTES;
        config.tail_bytes_max = 4 * FOLD_BYTES;
        let began = std::time::Instant::now();
        let epoch = Epoch::from(Uuid::new_v4());
        let log = open_dir(dir, config, epoch, wall_clock()?, Instant::ORIGIN).context("opening the log")?;
        let floor = log.stats().floor;
        Ok(Writer { log, chance: Chance::new(seed), began, floor })
    }

    /// Reads every topic from its beginning. Gives how many events are there.
    fn check(&self, acked: u64, floor: u64) -> Result<u64> {
        let head = self.log.head().seq.0;
        ensure!(head >= acked, "LOST: acknowledged up to {acked}, the head is {head}");
        ensure!(self.floor.0 >= floor, "the floor went back from {floor} to {}", self.floor);
        let mut found = vec![false; usize::try_from(head)? + 1];
        for topic in 0..1_000 {
            self.check_topic(topic, &mut found)?;
        }
        let mut retained_bytes = 0;
        for seq in self.floor.0 + 1..=head {
            ensure!(found[usize::try_from(seq)?], "LOST: event {seq} of {} to {head}", self.floor.next());
            retained_bytes += Event::of(seq).body.len();
        }
        let is_trimmed_too_far = self.floor > Seq::ZERO && retained_bytes < usize::try_from(RETAINED_BYTES / 2)?;
        ensure!(!is_trimmed_too_far, "LOST: only {retained_bytes} bytes are retained above {}", self.floor);
        let damaged = self.log.stats().damaged_reads;
        ensure!(damaged == 0, "DAMAGED: {damaged} reads");
        match self.log.publisher(PUBLISHER, EmitNumber::ZERO)? {
            PublisherState::Reached(reached) => ensure!(reached.0 == head, "the publisher reached {reached} of {head}"),
            PublisherState::New | PublisherState::Forgotten => ensure!(head == 0, "LOST: the publisher of {head}"),
        }
        let cursor = self.log.cursor(&subscriber()?, &topic_name(0)?)?;
        ensure!(cursor.is_some() == (head > 0), "LOST: the cursor, with the head at {head}");
        Ok(u64::try_from(found.iter().filter(|is_found| **is_found).count())?)
    }

    fn check_topic(&self, topic: u32, found: &mut [bool]) -> Result<()> {
        let name = topic_name(topic)?;
        let (mut after, mut nth) = (Seq::ZERO, Nth::ZERO);
        loop {
            match self.log.read(&name, after, nth, 1_000, 1024 * 1024)? {
                ReadOutcome::End => return Ok(()),
                ReadOutcome::Gap(gap) => {
                    ensure!(gap.cause == GapCause::RetentionSize, "LOST: {gap:?}");
                    ensure!(gap.through.seq <= self.floor, "LOST: a gap above the floor {}: {gap:?}", self.floor);
                    (after, nth) = (gap.through.seq, gap.nth_through);
                }
                ReadOutcome::Batch(batch) => {
                    for record in Records::new(batch.records.clone()) {
                        let record = record?;
                        let event = Event::of(record.seq.0);
                        ensure!(record.nth == nth.next(), "a hole in topic {topic} before {}", record.seq);
                        ensure!(event.topic == topic && event.body == record.payload, "DAMAGED: {}", record.seq);
                        let is_found = found.get_mut(usize::try_from(record.seq.0)?).context("above the head")?;
                        ensure!(!std::mem::replace(is_found, true), "event {} is there twice", record.seq);
                        nth = record.nth;
                    }
                    after = batch.last_seq;
                }
            }
        }
    }

    fn commit(&mut self) -> Result<u64> {
        let head = self.log.head();
        let first = head.seq.0 + 1;
        let count = match self.chance.below(10) {
            0..3 => 1,
            3..8 => self.chance.between(2, 128),
            _ => self.chance.between(128, 1_024),
        };
        let (mut events, mut bytes) = (Vec::new(), 0);
        for seq in first..first + count {
            let event = Event::of(seq);
            bytes += event.body.len();
            if !events.is_empty() && bytes > COMMIT_BYTES_MAX {
                break;
            }
            let name = EventName::new("event")?;
            events.push(Ok(NewEvent::new(topic_name(event.topic)?, name, PayloadKind::Bytes, event.body)));
        }
        let last = head.seq.0 + u64::try_from(events.len())?;
        let settled = EmitNumber(head.seq.0);
        let publisher = Some(EmitSource { publisher: PUBLISHER, owner: IdentityTag::default(), settled });
        let known = Place::new(head, Nth::ZERO);
        let requests = vec![
            WriteRequest::Emit { publisher, first: EmitNumber(first), events },
            WriteRequest::SaveCursor {
                subscriber: subscriber()?,
                topic: topic_name(0)?,
                cursor: Cursor::new(known, DeliveredThrough::NOTHING),
            },
        ];
        let staged = self.log.stage(requests, wall_clock()?, Instant::from_origin(self.began.elapsed()))?;
        let committed = self.log.publish(staged)?;
        let Some(WriteOutcome::Emitted(runs)) = committed.outcomes.first() else { bail!("no outcome of an emit") };
        for run in runs {
            let EmitFate::Stored(position) = run.fate else { bail!("not stored: {run:?}") };
            ensure!(position.seq.0 == run.first.0, "stored at {position:?} instead of {}", run.first);
        }
        ensure!(self.log.head().seq.0 == last, "the head is {:?} after {last}", self.log.head());
        Ok(last)
    }

    /// Folds and trims as long as there is something to do.
    fn tend(&mut self) -> Result<()> {
        for step in 0_u64.. {
            let bytes = self.log.stats().tail_bytes;
            let tended = self.log.maintain(wall_clock()?, Instant::from_origin(self.began.elapsed()))?;
            let stats = self.log.stats();
            if stats.tail_bytes < bytes {
                say(&format!("folded {}", bytes - stats.tail_bytes))?;
            }
            if stats.floor != self.floor {
                self.floor = stats.floor;
                say(&format!("floor {}", self.floor))?;
            }
            if tended == Maintenance::Idle || step > STEPS_MAX {
                break;
            }
        }
        Ok(())
    }
}

fn topic_name(topic: u32) -> Result<TopicName> {
    Ok(TopicName::new(format!("topic/{topic}"))?)
}

fn subscriber() -> Result<SubscriberName> {
    Ok(SubscriberName::new("reader")?)
}

fn wall_clock() -> Result<Timestamp> {
    Ok(Timestamp(u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?))
}

const PUBLISHER: PublisherId = PublisherId([7; 16]);
const RETAINED_BYTES: u64 = 16 * 1024 * 1024;
const FOLD_BYTES: usize = 2 * 1024 * 1024;
const COMMIT_BYTES_MAX: usize = 900 * 1024;
const STEPS_MAX: u64 = 20;
