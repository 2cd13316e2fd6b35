//! Emitters and the reader that verifies them: what the emit workloads are made of.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use hdrhistogram::Histogram;
use redeliver_protocol::codec::encode_client;
use redeliver_protocol::frame::{ClientFrame, ServerFrame};
use redeliver_protocol::history::{EmitFate, EmitRun, Start};

use super::{PATIENCE, latencies};
use crate::fleet::{Fleet, Handler};
use crate::payload::PAYLOAD_BYTES;
use crate::process::Process;
use crate::wire::{EmitTemplate, Progress, Shape, decode, hello, put_message, subscribe};

/// Who emits what.
#[derive(Clone, Copy, Debug)]
pub struct Pattern {
    /// How many connections.
    pub connections: usize,
    /// How many events each of them keeps outstanding.
    pub outstanding: u64,
    /// The events.
    pub shape: Shape,
}

impl Pattern {
    /// With the usual events.
    #[must_use]
    pub fn new(connections: usize, outstanding: u64) -> Pattern {
        Pattern { connections, outstanding, shape: Shape::USUAL }
    }

    /// With payloads of so many bytes.
    #[must_use]
    pub fn payload(self, payload_bytes: usize) -> Pattern {
        Pattern { shape: Shape { payload_bytes, ..self.shape }, ..self }
    }

    /// How many events share a commit at best: all that are outstanding, up to the largest commit of the server.
    #[must_use]
    pub fn together(&self) -> u64 {
        let fitting = COMMIT_BYTES_MAX / self.shape.record_bytes() as u64;
        (self.connections as u64 * self.outstanding).min(COMMIT_EVENTS_MAX).min(fitting)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} connections, {} outstanding each", self.connections, self.outstanding)?;
        match self.shape.payload_bytes {
            PAYLOAD_BYTES => Ok(()),
            bytes => write!(f, ", {bytes} B"),
        }
    }
}

/// Every emitter, and the reader that verifies at the end.
#[derive(Debug)]
pub struct Emitters {
    /// From due to acknowledged, in microseconds.
    pub latencies: Histogram<u64>,
    /// Events that the server has acknowledged.
    pub acked: u64,
    outstanding: u64,
    shape: Shape,
    origin: Instant,
    each: Vec<Emitter>,
    welcome: usize,
    /// Whether each answer is followed by as many events as it was for.
    refill: bool,
    /// Who reads it, in the order in which they joined.
    readers: Vec<Reader>,
    /// Whether what readers come too late for may be gone: retention is at work.
    may_be_gone: bool,
}

/// One reader of one topic.
#[derive(Debug)]
struct Reader {
    progress: Progress,
    /// The index that comes next of each emitter, once one of it was seen.
    next: Vec<Option<u64>>,
}

#[derive(Debug)]
struct Emitter {
    template: EmitTemplate,
    acked: u64,
    /// When the unanswered were due, and how many at that time.
    waiting: VecDeque<(Duration, u64)>,
}

impl Emitters {
    /// Connects all of them.
    ///
    /// # Errors
    ///
    /// If one is not welcome.
    pub fn join(fleet: &mut Fleet, server: &Process, pattern: Pattern) -> Result<Emitters> {
        let mut emitters = Emitters {
            latencies: latencies()?,
            acked: 0,
            outstanding: pattern.outstanding,
            shape: pattern.shape,
            origin: Instant::now(),
            each: Vec::new(),
            welcome: 0,
            refill: false,
            readers: Vec::new(),
            may_be_gone: false,
        };
        for source in 0..pattern.connections {
            fleet.connect(server.address(), &[&hello(true)])?;
            let template = EmitTemplate::new(source as u64, pattern.shape)?;
            emitters.each.push(Emitter { template, acked: 0, waiting: VecDeque::new() });
        }
        fleet.until(PATIENCE, &mut emitters, |emitters| emitters.welcome == pattern.connections)?;
        Ok(emitters)
    }

    /// Keeps so many outstanding for a while, then waits for all answers. Returns the acknowledged events per second of
    /// the first part.
    ///
    /// # Errors
    ///
    /// If an event is not stored.
    pub fn saturate(&mut self, fleet: &mut Fleet, span: Duration) -> Result<f64> {
        self.saturate_watching(fleet, span, || Ok(()))
    }

    /// The same, and once in a second something else is done.
    ///
    /// # Errors
    ///
    /// If an event is not stored, and of `watch`.
    pub fn saturate_watching(
        &mut self,
        fleet: &mut Fleet,
        span: Duration,
        mut watch: impl FnMut() -> Result<()>,
    ) -> Result<f64> {
        let mut watched = 0;
        let before = self.acked;
        let begun = Instant::now();
        self.refill = true;
        for (connection, emitter) in self.each.iter_mut().enumerate() {
            emitter.send(fleet.out(connection), self.outstanding, self.origin.elapsed());
            fleet.flush(connection)?;
        }
        while begun.elapsed() < span {
            fleet.turn(Duration::from_millis(20), self)?;
            if begun.elapsed().as_secs() >= watched {
                watch()?;
                watched = begun.elapsed().as_secs() + 1;
            }
        }
        let per_second = (self.acked - before) as f64 / begun.elapsed().as_secs_f64();
        self.refill = false;
        self.settle(fleet)?;
        Ok(per_second)
    }

    /// Has the connections send in turn, `apart` from each other, whether or not there were answers; then waits for all
    /// answers.
    ///
    /// # Errors
    ///
    /// If an event is not stored.
    pub fn pace(&mut self, fleet: &mut Fleet, span: Duration, apart: Duration) -> Result<()> {
        let begun = self.origin.elapsed();
        let mut due = begun;
        let mut turns = 0;
        while due < begun + span {
            let now = self.origin.elapsed();
            while due <= now {
                let connection = turns % self.each.len();
                self.each[connection].send(fleet.out(connection), self.outstanding, due);
                due += apart;
                turns += 1;
            }
            for connection in 0..self.each.len() {
                if !fleet.out(connection).is_empty() {
                    fleet.flush(connection)?;
                }
            }
            fleet.turn(Duration::from_millis(1), self)?;
        }
        self.settle(fleet)
    }

    /// What readers come too late for may be gone from now on.
    pub fn retention_is_at_work(&mut self) {
        self.may_be_gone = true;
    }

    /// Adds readers of these topics.
    ///
    /// # Errors
    ///
    /// If one cannot connect.
    pub fn follow(
        &mut self,
        fleet: &mut Fleet,
        server: &Process,
        topics: impl Iterator<Item = u64>,
        start: &Start,
    ) -> Result<()> {
        for topic in topics {
            let first = if self.may_be_gone { None } else { Some(topic) };
            self.readers.push(Reader { progress: Progress::of(topic), next: vec![first; self.each.len()] });
            fleet.connect(server.address(), &[&hello(false), &subscribe(topic, start)?])?;
        }
        Ok(())
    }

    /// Waits for the last answers, then reads all topics back, beside those who follow already. Returns how many events
    /// there are.
    ///
    /// # Errors
    ///
    /// If anything is missing, or not as it was sent.
    pub fn verify(&mut self, fleet: &mut Fleet, server: &Process) -> Result<u64> {
        self.settle(fleet)?;
        self.follow(fleet, server, 0..self.shape.topics, &Start::Earliest)?;
        let topics = self.shape.topics;
        // Emitter by emitter, event i goes to topic i modulo the number of topics.
        let share = |topic: u64, sent: u64| (sent + topics - 1 - topic) / topics;
        let each = &self.each;
        let wanted: Vec<u64> =
            (0..topics).map(|topic| each.iter().map(|emitter| share(topic, emitter.template.sent())).sum()).collect();
        let has_all = |reader: &Reader| {
            usize::try_from(reader.progress.topic).ok().and_then(|topic| wanted.get(topic))
                == Some(&reader.progress.nth)
        };
        fleet.until(PATIENCE, self, |emitters| emitters.readers.iter().all(has_all))?;
        Ok(wanted.iter().sum())
    }

    fn settle(&mut self, fleet: &mut Fleet) -> Result<()> {
        let sent: u64 = self.each.iter().map(|emitter| emitter.template.sent()).sum();
        fleet.until(PATIENCE, self, |emitters| emitters.acked >= sent)
    }

    fn answer(&mut self, connection: usize, message: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let frame = decode(message)?;
        if let ServerFrame::Emitted { runs } = frame {
            let now = self.origin.elapsed();
            let emitter = &mut self.each[connection];
            let answered = emitter.answered(&runs, now, &mut self.latencies)?;
            self.acked += answered;
            if self.refill {
                emitter.send(out, answered, now);
            }
        } else if let ServerFrame::Welcome(_) = frame {
            self.welcome += 1;
        } else if let ServerFrame::Ping { token } = frame {
            put_message(out, &encode_client(&ClientFrame::Pong { token }));
        } else {
            bail!("an emitter was sent {frame:?}");
        }
        Ok(())
    }

    fn read_back(&mut self, at: usize, message: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let (mut wrong, topics) = (None, self.shape.topics);
        let Reader { progress, next } = &mut self.readers[at];
        let topic = progress.topic;
        let is_events = progress.take(message, |stamp| {
            let next = usize::try_from(stamp.source).ok().and_then(|source| next.get_mut(source));
            match next {
                Some(Some(next)) if *next == stamp.index => *next += topics,
                Some(next @ None) if stamp.index % topics == topic => *next = Some(stamp.index + topics),
                Some(_) | None => wrong = Some(stamp),
            }
        })?;
        ensure!(wrong.is_none(), "event {wrong:?} is not the next of its emitter");
        if is_events {
            progress.ack_if_due(out);
            return Ok(());
        }
        let frame = decode(message)?;
        let gone = if let ServerFrame::Subscribed(subscribed) = &frame {
            let gap = subscribed.gap.as_ref();
            Some((subscribed.after.seq, gap.map_or(subscribed.nth, |gap| gap.nth_through.max(subscribed.nth))))
        } else if let ServerFrame::Gap { gap, .. } = &frame {
            Some((gap.through.seq, gap.nth_through))
        } else {
            None
        };
        if let Some((seq, nth)) = gone.filter(|(_, nth)| nth.0 > progress.nth) {
            ensure!(self.may_be_gone, "events are missing: {frame:?}");
            progress.skip(seq.0, nth.0);
            next.fill(None);
        } else if let ServerFrame::Ping { token } = frame {
            put_message(out, &encode_client(&ClientFrame::Pong { token }));
        }
        Ok(())
    }
}

impl Handler for Emitters {
    fn message(&mut self, connection: usize, message: &[u8], out: &mut Vec<u8>) -> Result<()> {
        match connection.checked_sub(self.each.len()) {
            None => self.answer(connection, message, out),
            Some(reader) => self.read_back(reader, message, out),
        }
    }
}

impl Emitter {
    fn send(&mut self, out: &mut Vec<u8>, count: u64, due: Duration) {
        let due_ns = u64::try_from(due.as_nanos()).unwrap_or(u64::MAX);
        self.template.put(out, count, |_| due_ns);
        self.waiting.push_back((due, count));
    }

    /// Takes an answer; returns how many events it was for.
    fn answered(&mut self, runs: &[EmitRun], now: Duration, latencies: &mut Histogram<u64>) -> Result<u64> {
        let before = self.acked;
        for run in runs {
            ensure!(run.first.0 == self.acked + 1, "emit {} was answered out of its order", run.first);
            ensure!(matches!(run.fate, EmitFate::Stored(_)), "an emit was answered with {:?}", run.fate);
            self.acked += u64::from(run.count);
        }
        let mut left = self.acked - before;
        while let (Some((due, count)), true) = (self.waiting.front_mut(), left > 0) {
            let here = left.min(*count);
            let late = now.saturating_sub(*due).as_micros();
            latencies.saturating_record_n(u64::try_from(late).unwrap_or(u64::MAX).max(1), here);
            *count -= here;
            left -= here;
            if *count == 0 {
                self.waiting.pop_front();
            }
        }
        Ok(self.acked - before)
    }
}

/// The largest commit that the server makes.
const COMMIT_EVENTS_MAX: u64 = 1024;
const COMMIT_BYTES_MAX: u64 = 1024 * 1024;
