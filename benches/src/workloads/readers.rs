//! Readers of the one topic and, beside them, one emitter: what most workloads are made of. Everything that arrives is
//! verified here.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use hdrhistogram::Histogram;
use redeliver_protocol::codec::encode_client;
use redeliver_protocol::frame::{ClientFrame, ServerFrame};
use redeliver_protocol::history::{EmitFate, Start};

use super::{PATIENCE, Run, latencies};
use crate::fleet::{Fleet, Handler};
use crate::process::Process;
use crate::wire::{EmitTemplate, Progress, Shape, decode, hello, put_message, subscribe};

/// What readers and the emitter know.
#[derive(Debug)]
pub struct Readers {
    /// Each reader's progress, by its connection.
    pub progress: Vec<Progress>,
    /// To how many topics the emitter's events go in turn.
    pub topics: u64,
    /// Deliveries in total.
    pub arrived: u64,
    /// Events that the server has acknowledged to the emitter.
    pub acked: u64,
    /// Readers that are subscribed, and emitters that are welcome.
    pub ready: usize,
    /// Readers from this one on are not measured.
    pub measured: usize,
    /// From due to arrival, in microseconds, if events are paced.
    pub latencies: Histogram<u64>,
    /// When event 0 was due and how far the next ones are apart.
    pub pace: Option<(Instant, Duration)>,
    /// The first event that is paced.
    pub paced_from: u64,
    /// The connection that emits.
    pub emitter: Option<usize>,
}

impl Readers {
    /// Without anybody.
    ///
    /// # Errors
    ///
    /// Never.
    pub fn new() -> Result<Readers> {
        Ok(Readers {
            progress: Vec::new(),
            topics: 1,
            arrived: 0,
            acked: 0,
            ready: 0,
            measured: usize::MAX,
            latencies: latencies()?,
            pace: None,
            paced_from: 0,
            emitter: None,
        })
    }

    fn emitted(&mut self, frame: &ServerFrame) -> Result<()> {
        if let ServerFrame::Emitted { runs } = frame {
            for run in runs {
                ensure!(run.first.0 == self.acked + 1, "emit {} was answered after {}", run.first, self.acked);
                ensure!(matches!(run.fate, EmitFate::Stored(_)), "an emit was answered with {:?}", run.fate);
                self.acked += u64::from(run.count);
            }
        }
        Ok(())
    }
}

impl Handler for Readers {
    fn message(&mut self, connection: usize, message: &[u8], out: &mut Vec<u8>) -> Result<()> {
        if let Some(progress) = self.progress.get_mut(connection) {
            let topics = self.topics;
            let mut next = progress.topic + progress.nth * topics;
            let (pace, paced_from) = (self.pace, self.paced_from);
            let now = pace.map(|_| Instant::now());
            let (mut wrong, measured) = (None, connection < self.measured);
            let latencies = &mut self.latencies;
            let before = progress.events;
            let is_events = progress.take(message, |stamp| {
                if stamp.source != 0 || stamp.index != next {
                    wrong = Some(stamp);
                }
                if let (Some((first, apart)), Some(now), true) = (pace, now, measured) {
                    let due = first + apart * u32::try_from(stamp.index - paced_from).unwrap_or(u32::MAX);
                    let late = now.saturating_duration_since(due);
                    latencies.saturating_record(u64::try_from(late.as_micros()).unwrap_or(u64::MAX));
                }
                next += topics;
            })?;
            ensure!(wrong.is_none(), "event {wrong:?} arrived in the place of {next}");
            if is_events {
                self.arrived += progress.events - before;
                progress.ack_if_due(out);
                return Ok(());
            }
        }
        let frame = decode(message)?;
        if let ServerFrame::Ping { token } = frame {
            put_message(out, &encode_client(&ClientFrame::Pong { token }));
        }
        let reads = connection < self.progress.len();
        if let ServerFrame::Subscribed(subscribed) = &frame {
            ensure!(subscribed.gap.is_none(), "a gap: {subscribed:?}");
            self.ready += 1;
        } else if let ServerFrame::Welcome(_) = &frame {
            self.ready += usize::from(!reads);
        } else {
            let lost = matches!(frame, ServerFrame::Gap { .. } | ServerFrame::SubscribeRefused { .. });
            ensure!(!lost, "a reader was sent {frame:?}");
        }
        self.emitted(&frame)
    }
}

/// Adds readers, and waits until all of them are subscribed.
///
/// # Errors
///
/// If one is not.
pub fn join(fleet: &mut Fleet, readers: &mut Readers, address: SocketAddr, count: usize, start: &Start) -> Result<()> {
    let subscribe = subscribe(0, start)?;
    let wanted = readers.ready + count;
    for at in 0..count {
        readers.progress.push(Progress::default());
        fleet.connect(address, &[&hello(false), &subscribe])?;
        // No more at once than the kernel lets wait.
        if at % 512 == 511 {
            let so_far = wanted - count + at + 1;
            fleet.until(PATIENCE, readers, |readers| readers.ready >= so_far)?;
        }
    }
    fleet.until(PATIENCE, readers, |readers| readers.ready >= wanted)
}

/// Adds the emitter, after all readers, and waits until it is welcome.
///
/// # Errors
///
/// If it is not.
pub fn join_emitter(fleet: &mut Fleet, readers: &mut Readers, address: SocketAddr) -> Result<EmitTemplate> {
    join_emitter_of(fleet, readers, address, Shape::USUAL)
}

/// The same, with events of another shape.
///
/// # Errors
///
/// If it is not.
pub fn join_emitter_of(
    fleet: &mut Fleet,
    readers: &mut Readers,
    address: SocketAddr,
    shape: Shape,
) -> Result<EmitTemplate> {
    let wanted = readers.ready + 1;
    readers.emitter = Some(fleet.connect(address, &[&hello(true)])?);
    fleet.until(PATIENCE, readers, |readers| readers.ready >= wanted)?;
    EmitTemplate::new(0, shape)
}

/// Starts a server on a directory and stores events in it, in so many topics in turn, as fast as the server takes them.
///
/// # Errors
///
/// If it does not start, or an event is not stored.
pub fn filled(run: &Run, data: &Path, events: u64, topics: u64) -> Result<Process> {
    let server = Process::server(data)?;
    let (mut fleet, mut readers) = (Fleet::new()?, Readers::new()?);
    let shape = Shape::topics(topics);
    let mut template = join_emitter_of(&mut fleet, &mut readers, server.address(), shape)?;
    while readers.acked < events {
        while template.sent() < events && template.sent() < readers.acked + 8192 {
            template.put(fleet.out(0), 512.min(events - template.sent()), |_| 0);
        }
        fleet.flush(0)?;
        let before = readers.acked;
        fleet.until(PATIENCE, &mut readers, |readers| readers.acked > before)?;
        run.tell(format!("stored {} of {events} events", readers.acked));
    }
    run.tell(String::new());
    Ok(server)
}
