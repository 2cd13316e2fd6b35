//! Durable emit: connections that keep so many emits outstanding, and the time until each is acknowledged, in turns with a
//! plain file on the same disk. Afterwards a reader takes all of it, and each emitter's events must be there, in order, once.

use std::time::Duration;

use anyhow::Result;

use super::Run;
use super::emitters::{Emitters, Pattern};
use crate::fleet::Fleet;
use crate::process::{Process, Usage};
use crate::report::{Row, Wanted};
use crate::turns::{Figures, Partner, Turn};

/// Acknowledged events per second with so many connections, each with so many events outstanding at any time.
///
/// # Errors
///
/// If an event is not stored, or not delivered as it was sent.
pub fn saturated(run: &Run, pattern: Pattern) -> Result<Row> {
    Ok(measure(run, pattern, None)?.row(pattern))
}

/// The same with 64 connections and 32 events outstanding on each; in the same turns the log without a server; then half
/// of that rate, in two ways.
///
/// # Errors
///
/// If an event is not stored, or not delivered as it was sent.
pub fn saturated_and_half(run: &Run) -> Result<Vec<Row>> {
    let pattern = Pattern::new(64, 32);
    let dir = run.data()?;
    let measured = measure(run, pattern, Some(Partner::log(&dir.path().join("log"))?))?;
    let end_to_end = measured.row(pattern).wanted(Wanted::Ratio(0.25)).wanted(Wanted::P99Below(15.0));
    let log = Row::new(
        "durable emit, log in process",
        format!("{} events a commit, folding included", pattern.together()),
        measured.log.median(),
        "events/s",
    )
    .limit(measured.disk.median())
    .wanted(Wanted::Ratio(0.4))
    .note(format!("{}; limit {}", measured.log, measured.disk));
    let half = end_to_end.value / 2.0;
    let mut rows = vec![end_to_end, log, steady(run, 64, half, 32)?.wanted(Wanted::P50Below(5.0))];
    if let Some(row) = rows.last_mut() {
        *row = row.clone().wanted(Wanted::P99Below(12.0));
    }
    if !run.quick {
        rows.push(steady(run, 64, half, 1)?);
    }
    Ok(rows)
}

/// What turns gave.
struct Measured {
    server: Figures,
    log: Figures,
    disk: Figures,
    used: Usage,
    emitters: Emitters,
}

impl Measured {
    fn row(&self, pattern: Pattern) -> Row {
        Row::new("durable emit", pattern.to_string(), self.server.median(), "events/s")
            .limit(self.disk.median())
            .server(self.used.cpu_s, self.used.rss_peak_bytes)
            .latency(&self.emitters.latencies)
            .note(format!("{}; limit {}", self.server, self.disk))
    }
}

fn measure(run: &Run, pattern: Pattern, mut log: Option<Partner>) -> Result<Measured> {
    let data = run.data()?;
    let server = Process::server(data.path())?;
    let mut fleet = Fleet::new()?;
    let mut emitters = Emitters::join(&mut fleet, &server, pattern)?;
    let together = pattern.together();
    let commit_bytes = usize::try_from(together)? * pattern.shape.record_bytes();
    let per_second = |turn: Turn| turn.commits as f64 * together as f64 / turn.seconds;
    let (mut ours, mut alone, mut disk) = (Figures::default(), Figures::default(), Figures::default());
    let before = server.usage()?;
    for _ in 0..run.repeats() {
        disk.push(per_second(run.append(commit_bytes)?));
        if let Some(log) = &mut log {
            alone.push(per_second(log.turn(usize::try_from(together)?, run.turn())?));
        }
        ours.push(emitters.saturate(&mut fleet, run.turn())?);
    }
    let used = server.usage()?.since(before);
    if let Some(log) = &mut log {
        log.verify()?;
    }
    emitters.verify(&mut fleet, &server)?;
    Ok(Measured { server: ours, log: alone, disk, used, emitters })
}

/// The time from when an event was due until it is acknowledged, at a steady rate, whatever the server does meanwhile.
/// Each connection sends so many at a time; the connections take turns.
fn steady(run: &Run, connections: usize, per_second: f64, at_once: u64) -> Result<Row> {
    let data = run.data()?;
    let server = Process::server(data.path())?;
    let mut fleet = Fleet::new()?;
    let mut emitters = Emitters::join(&mut fleet, &server, Pattern::new(connections, at_once))?;
    let before = server.usage()?;
    let (mut disk_p50, mut disk_p99) = (Figures::default(), Figures::default());
    let commit_bytes = usize::try_from(at_once)? * crate::wire::RECORD_BYTES;
    for _ in 0..run.repeats() {
        let disk = run.append(commit_bytes)?;
        disk_p50.push(disk.p50_us as f64 / 1000.0);
        disk_p99.push(disk.p99_us as f64 / 1000.0);
        emitters.pace(&mut fleet, run.turn() * 2, Duration::from_secs_f64(at_once as f64 / per_second))?;
    }
    let used = server.usage()?.since(before);
    emitters.verify(&mut fleet, &server)?;
    let p99 = emitters.latencies.value_at_quantile(0.99) as f64 / 1000.0;
    let parameters = format!("{connections} connections, {at_once} at a time, {per_second:.0} events/s");
    Ok(Row::new("durable emit at half load, ack p99", parameters, p99, "ms")
        .limit_of_cost(disk_p99.median())
        .server(used.cpu_s, used.rss_peak_bytes)
        .latency(&emitters.latencies)
        .note(format!("limit: p99 of one commit, {disk_p99}; its p50 {disk_p50}")))
}
