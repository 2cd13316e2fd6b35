//! Durable emit: connections that keep so many emits outstanding, and the time until each is acknowledged. Afterwards a
//! reader takes all of it, and each emitter's events must be there, in order, once.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use hdrhistogram::Histogram;
use redeliver_protocol::codec::encode_client;
use redeliver_protocol::frame::{ClientFrame, ServerFrame};
use redeliver_protocol::history::{EmitFate, EmitRun, Start};

use super::{PATIENCE, Run, latencies};
use crate::fleet::{Fleet, Handler};
use crate::process::{Process, append};
use crate::report::Row;
use crate::wire::{EmitTemplate, Progress, RECORD_BYTES, decode, hello, put_message, subscribe};

/// Acknowledged events per second with so many connections, each with so many events outstanding at any time.
///
/// # Errors
///
/// If an event is not stored, or not delivered as it was sent.
pub fn saturated(run: &Run, connections: usize, outstanding: u64) -> Result<Row> {
    let data = run.data()?;
    let server = Process::server(data.path())?;
    let mut fleet = Fleet::new()?;
    let mut emitters = Emitters::join(&mut fleet, &server, connections)?;
    let before = server.usage()?;
    emitters.refill = true;
    let begun = Instant::now();
    for (connection, emitter) in emitters.each.iter_mut().enumerate() {
        emitter.send(fleet.out(connection), outstanding, emitters.origin.elapsed());
        fleet.flush(connection)?;
    }
    while begun.elapsed() < run.span() {
        fleet.turn(Duration::from_millis(20), &mut emitters)?;
    }
    let (acked, seconds) = (emitters.acked, begun.elapsed().as_secs_f64());
    let used = server.usage()?;
    emitters.refill = false;
    emitters.verify(&mut fleet, &server)?;
    // What is outstanding goes into one commit at best.
    let together = (connections as u64 * outstanding).min(COMMIT_EVENTS_MAX);
    let commit_bytes = usize::try_from(together).unwrap_or(1) * RECORD_BYTES;
    let limit = append(&run.file(data.path()), commit_bytes, run.span())?;
    let limit = limit.commits as f64 * together as f64 / limit.seconds;
    let parameters = format!("{connections} connections, {outstanding} outstanding each");
    Ok(Row::new("durable emit", parameters, acked as f64 / seconds, "events/s")
        .limit(limit)
        .server(used.cpu_s - before.cpu_s, used.rss_peak_bytes)
        .latency(&emitters.latencies))
}

/// The time from when an event was due until it is acknowledged, at a steady rate, whatever the server does meanwhile.
///
/// # Errors
///
/// If an event is not stored, or not delivered as it was sent.
pub fn steady(run: &Run, connections: usize, per_second: f64) -> Result<Row> {
    let data = run.data()?;
    let server = Process::server(data.path())?;
    let mut fleet = Fleet::new()?;
    let mut emitters = Emitters::join(&mut fleet, &server, connections)?;
    let before = server.usage()?;
    let begun = emitters.origin.elapsed();
    let mut turns = 0;
    let mut due = 0.0;
    while emitters.origin.elapsed() < begun + run.span() {
        let now = emitters.origin.elapsed();
        while begun + Duration::from_secs_f64(due / per_second) <= now {
            let connection = turns % connections;
            let at = begun + Duration::from_secs_f64(due / per_second);
            emitters.each[connection].send(fleet.out(connection), 1, at);
            due += 1.0;
            turns += 1;
        }
        for connection in 0..connections {
            if !fleet.out(connection).is_empty() {
                fleet.flush(connection)?;
            }
        }
        fleet.turn(Duration::from_millis(1), &mut emitters)?;
    }
    emitters.verify(&mut fleet, &server)?;
    let used = server.usage()?;
    let p99 = emitters.latencies.value_at_quantile(0.99) as f64 / 1000.0;
    let parameters = format!("{connections} connections, {per_second:.0} events/s");
    let limit = append(&run.file(data.path()), RECORD_BYTES * 64, run.span() / 2)?;
    let limit = limit.seconds * 1000.0 / limit.commits as f64;
    Ok(Row::new("durable emit at half load, ack p99", parameters, p99, "ms")
        .limit_of_cost(limit)
        .server(used.cpu_s - before.cpu_s, used.rss_peak_bytes)
        .latency(&emitters.latencies))
}

/// Every emitter, and the reader that verifies at the end.
struct Emitters {
    origin: Instant,
    each: Vec<Emitter>,
    welcome: usize,
    refill: bool,
    acked: u64,
    latencies: Histogram<u64>,
    reader: Progress,
    read: Vec<u64>,
}

struct Emitter {
    template: EmitTemplate,
    acked: u64,
    /// When the unanswered were due, and how many at that time.
    waiting: VecDeque<(Duration, u64)>,
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

impl Emitters {
    fn join(fleet: &mut Fleet, server: &Process, connections: usize) -> Result<Emitters> {
        let mut emitters = Emitters {
            origin: Instant::now(),
            each: Vec::new(),
            welcome: 0,
            refill: false,
            acked: 0,
            latencies: latencies()?,
            reader: Progress::default(),
            read: vec![0; connections],
        };
        for source in 0..connections {
            fleet.connect(server.address(), &[&hello(true)])?;
            let template = EmitTemplate::new(source as u64)?;
            emitters.each.push(Emitter { template, acked: 0, waiting: VecDeque::new() });
        }
        fleet.until(PATIENCE, &mut emitters, |emitters| emitters.welcome == connections)?;
        Ok(emitters)
    }

    /// Waits for the last answers, then reads everything back.
    fn verify(&mut self, fleet: &mut Fleet, server: &Process) -> Result<()> {
        let sent: u64 = self.each.iter().map(|emitter| emitter.template.sent()).sum();
        fleet.until(PATIENCE, self, |emitters| emitters.acked >= sent)?;
        fleet.connect(server.address(), &[&hello(false), &subscribe(Start::Earliest)?])?;
        fleet.until(PATIENCE, self, |emitters| emitters.reader.events >= sent)?;
        ensure!(self.reader.events == sent, "{} events arrived of {sent}", self.reader.events);
        Ok(())
    }
}

impl Handler for Emitters {
    fn message(&mut self, connection: usize, message: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let Some(emitter) = self.each.get_mut(connection) else { return self.read_back(message, out) };
        let frame = decode(message)?;
        if let ServerFrame::Emitted { runs } = frame {
            let now = self.origin.elapsed();
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
}

impl Emitters {
    fn read_back(&mut self, message: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let (mut wrong, read) = (None, &mut self.read);
        self.reader.take(message, |stamp| {
            let next = usize::try_from(stamp.source).ok().and_then(|source| read.get_mut(source));
            match next {
                Some(next) if *next == stamp.index => *next += 1,
                Some(_) | None => wrong = Some(stamp),
            }
        })?;
        ensure!(wrong.is_none(), "event {wrong:?} is not the next of its emitter");
        self.reader.ack_if_due(out);
        Ok(())
    }
}

/// The largest commit of the log; small events do not reach its limit in bytes.
const COMMIT_EVENTS_MAX: u64 = 1024;
