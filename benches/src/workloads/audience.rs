//! A server with readers of one topic and their emitter, ready to begin, and the raw program's counterpart.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use redeliver_protocol::history::Start;
use tempfile::TempDir;

use super::readers::{Readers, join, join_emitter};
use super::{PATIENCE, Run};
use crate::fleet::Fleet;
use crate::process::{Process, Usage};
use crate::wire::{EmitTemplate, Progress};

/// Readers of a server.
#[derive(Debug)]
pub struct Audience {
    /// Their connections, and the emitter's.
    pub fleet: Fleet,
    /// What they know.
    pub readers: Readers,
    /// The emitter's events.
    pub template: EmitTemplate,
    /// The server.
    pub server: Process,
    emitter: usize,
    count: usize,
    before: Usage,
    /// Goes last.
    _data: TempDir,
}

impl Audience {
    /// Starts a server, and connects so many readers and one emitter.
    ///
    /// # Errors
    ///
    /// If one of them is not let in.
    pub fn gather(run: &Run, count: usize) -> Result<Audience> {
        let data = run.data()?;
        let server = Process::server(data.path())?;
        let (mut fleet, mut readers) = (Fleet::new()?, Readers::new()?);
        join(&mut fleet, &mut readers, server.address(), count, &Start::Latest)?;
        let template = join_emitter(&mut fleet, &mut readers, server.address())?;
        let emitter = readers.emitter.context("the emitter has joined")?;
        let before = server.usage()?;
        Ok(Audience { fleet, readers, template, server, emitter, count, before, _data: data })
    }

    /// Emits so many events, in one message.
    ///
    /// # Errors
    ///
    /// If the connection is gone.
    pub fn emit(&mut self, count: u64) -> Result<()> {
        self.template.put(self.fleet.out(self.emitter), count, |_| 0);
        self.fleet.flush(self.emitter)
    }

    /// Emits until so many are sent in all, in messages of so many.
    ///
    /// # Errors
    ///
    /// If the connection is gone.
    pub fn emit_up_to(&mut self, sent: u64, in_a_message: u64) -> Result<()> {
        while self.template.sent() < sent {
            self.template.put(self.fleet.out(self.emitter), in_a_message, |_| 0);
        }
        self.fleet.flush(self.emitter)
    }

    /// Emits at a steady pace, for twice the run's span.
    ///
    /// # Errors
    ///
    /// If something did not arrive as it was sent.
    pub fn pace(&mut self, run: &Run) -> Result<()> {
        let (template, emitter) = (&mut self.template, self.emitter);
        paced(run, &mut self.fleet, &mut self.readers, self.count, |fleet| {
            template.put(fleet.out(emitter), 1, |_| 0);
            fleet.flush(emitter)
        })
    }

    /// What the server has used since it began to count.
    ///
    /// # Errors
    ///
    /// If it is gone.
    pub fn used(&self) -> Result<Usage> {
        Ok(self.server.usage()?.since(self.before))
    }

    /// Begins to count what the server uses.
    ///
    /// # Errors
    ///
    /// If it is gone.
    pub fn count_from_here(&mut self) -> Result<()> {
        self.before = self.server.usage()?;
        Ok(())
    }
}

/// Readers of the raw program, and who tells it when to show more.
#[derive(Debug)]
pub struct RawAudience {
    /// Their connections, and the controller's.
    pub fleet: Fleet,
    /// What they know.
    pub readers: Readers,
    /// The raw program.
    pub process: Process,
    /// The controller's connection.
    pub control: usize,
}

impl RawAudience {
    /// Starts the raw program with `rounds` times `per_round` events, and connects so many readers.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn gather(count: usize, per_round: u64, rounds: u64) -> Result<RawAudience> {
        let process = Process::raw(per_round, rounds)?;
        let (mut fleet, mut readers) = (Fleet::new()?, Readers::new()?);
        // The first connection is the controller, and no reader; it stands where a reader's progress would.
        readers.progress.push(Progress::default());
        let control = fleet.connect_raw(process.address())?;
        let mut raw = RawAudience { fleet, readers, process, control };
        raw.join(count)?;
        Ok(raw)
    }

    /// Adds readers. They are there at once.
    ///
    /// # Errors
    ///
    /// If the raw program is gone.
    pub fn join(&mut self, count: usize) -> Result<()> {
        for at in 0..count {
            self.readers.progress.push(Progress::default());
            self.fleet.connect_raw(self.process.address())?;
            // No more at once than the kernel lets wait.
            if at % 512 == 511 {
                self.fleet.turn(Duration::from_millis(20), &mut self.readers)?;
            }
        }
        self.fleet.turn(Duration::from_millis(50), &mut self.readers)
    }

    /// Has the next round shown.
    ///
    /// # Errors
    ///
    /// If the raw program is gone.
    pub fn show(&mut self) -> Result<()> {
        self.fleet.out(self.control).push(1);
        self.fleet.flush(self.control)
    }
}

/// Sends one event each 10 ms, whether or not the ones before have arrived, and waits for all.
///
/// # Errors
///
/// Of `send`, and if something did not arrive as it was sent.
pub(super) fn paced(
    run: &Run,
    fleet: &mut Fleet,
    readers: &mut Readers,
    count: usize,
    mut send: impl FnMut(&mut Fleet) -> Result<()>,
) -> Result<()> {
    let events = u32::try_from(2 * run.span().as_millis() / APART.as_millis()).unwrap_or(u32::MAX);
    let (begun, already) = (Instant::now(), readers.arrived);
    readers.pace = Some((begun, APART));
    let mut sent = 0;
    while sent < events {
        let due = begun + APART * sent;
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            send(fleet)?;
            sent += 1;
        } else {
            fleet.turn(left, readers)?;
        }
    }
    let wanted = already + u64::from(events) * count as u64;
    fleet.until(PATIENCE, readers, |readers| readers.arrived >= wanted)
}

const APART: Duration = Duration::from_millis(10);
