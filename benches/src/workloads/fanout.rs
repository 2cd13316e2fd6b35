//! Fan-out: one emitter, many readers of one topic. Round by round (each commit waits until all have the one before, so that
//! every wake carries exactly so many events), flat out, and at a steady pace for the latency.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use redeliver_protocol::history::Start;

use super::readers::{Readers, join, join_emitter, join_raw};
use super::{PATIENCE, Run};
use crate::fleet::Fleet;
use crate::process::{Process, Usage};
use crate::report::Row;

/// Deliveries per CPU second of the server, with `per_commit` events for each wake.
///
/// # Errors
///
/// If anything did not arrive as it was sent.
pub fn rounds(run: &Run, count: usize, per_commit: u64) -> Result<Row> {
    let data = run.data()?;
    let server = Process::server(data.path())?;
    let (mut fleet, mut readers) = (Fleet::new()?, Readers::new()?);
    join(&mut fleet, &mut readers, server.address(), count, &Start::Latest)?;
    let mut template = join_emitter(&mut fleet, &mut readers, server.address())?;
    let emitter = readers.emitter.context("the emitter has joined")?;
    let before = server.usage()?;
    let begun = Instant::now();
    let mut rounds = 0;
    while begun.elapsed() < run.span() {
        template.put(fleet.out(emitter), per_commit, |_| 0);
        fleet.flush(emitter)?;
        rounds += 1;
        let events = rounds * per_commit;
        let wanted = events * count as u64;
        fleet.until(PATIENCE, &mut readers, |readers| readers.arrived >= wanted && readers.acked >= events)?;
    }
    let used = server.usage()?;
    drop(server);
    let cpu_s = used.cpu_s - before.cpu_s;
    let value = readers.arrived as f64 / cpu_s;
    let limit = raw_rounds(run, count, per_commit)?;
    Ok(Row::new(
        "fan-out, per server CPU second",
        format!("{count} readers, {per_commit}/commit"),
        value,
        "deliveries/CPU-s",
    )
    .limit(limit)
    .server(cpu_s, used.rss_peak_bytes))
}

/// Deliveries per second, as fast as it goes.
///
/// # Errors
///
/// If anything did not arrive as it was sent.
pub fn flood(run: &Run, count: usize) -> Result<Row> {
    let data = run.data()?;
    let server = Process::server(data.path())?;
    let (mut fleet, mut readers) = (Fleet::new()?, Readers::new()?);
    join(&mut fleet, &mut readers, server.address(), count, &Start::Latest)?;
    let mut template = join_emitter(&mut fleet, &mut readers, server.address())?;
    let emitter = readers.emitter.context("the emitter has joined")?;
    let before = server.usage()?;
    let begun = Instant::now();
    while begun.elapsed() < run.span() {
        // As far ahead of the average reader as two full batches.
        while template.sent() < readers.arrived / count as u64 + FLOOD_AHEAD {
            template.put(fleet.out(emitter), 64, |_| 0);
        }
        fleet.flush(emitter)?;
        fleet.turn(Duration::from_millis(10), &mut readers)?;
    }
    let events = template.sent();
    let wanted = events * count as u64;
    fleet.until(PATIENCE, &mut readers, |readers| readers.arrived >= wanted)?;
    let seconds = begun.elapsed().as_secs_f64();
    let used = server.usage()?;
    drop(server);
    let value = readers.arrived as f64 / seconds;
    let limit = raw_flood(count, events)?;
    Ok(Row::new("fan-out, flat out", format!("{count} readers"), value, "deliveries/s")
        .limit(limit)
        .server(used.cpu_s - before.cpu_s, used.rss_peak_bytes))
}

/// The time from when an event was due until a reader has it, at a steady 100 events/s.
///
/// # Errors
///
/// If anything did not arrive as it was sent.
pub fn latency(run: &Run, count: usize) -> Result<Row> {
    let data = run.data()?;
    let server = Process::server(data.path())?;
    let (mut fleet, mut readers) = (Fleet::new()?, Readers::new()?);
    join(&mut fleet, &mut readers, server.address(), count, &Start::Latest)?;
    let mut template = join_emitter(&mut fleet, &mut readers, server.address())?;
    let emitter = readers.emitter.context("the emitter has joined")?;
    let before = server.usage()?;
    paced(run, &mut fleet, &mut readers, count, |fleet| {
        template.put(fleet.out(emitter), 1, |_| 0);
        fleet.flush(emitter)
    })?;
    let used = server.usage()?;
    drop(server);
    let limit = raw_latency(run, count)?;
    let p99 = readers.latencies.value_at_quantile(0.99);
    Ok(Row::new("fan-out latency p99", format!("{count} readers, 100 events/s"), p99 as f64 / 1000.0, "ms")
        .limit_of_cost(limit)
        .server(used.cpu_s - before.cpu_s, used.rss_peak_bytes)
        .latency(&readers.latencies))
}

fn raw_rounds(run: &Run, count: usize, per_commit: u64) -> Result<f64> {
    let rounds = RAW_EVENTS_MAX / per_commit;
    let raw = Process::raw(per_commit, rounds)?;
    let (mut fleet, mut readers) = (Fleet::new()?, Readers::new()?);
    let control = control(&mut fleet, &mut readers, &raw)?;
    join_raw(&mut fleet, &mut readers, raw.address(), count)?;
    let Usage { cpu_s, .. } = raw.usage()?;
    let begun = Instant::now();
    let mut shown = 0;
    while begun.elapsed() < run.span() && shown < rounds {
        fleet.out(control).push(1);
        fleet.flush(control)?;
        shown += 1;
        let wanted = shown * per_commit * count as u64;
        fleet.until(PATIENCE, &mut readers, |readers| readers.arrived >= wanted)?;
    }
    Ok(readers.arrived as f64 / (raw.usage()?.cpu_s - cpu_s))
}

fn raw_flood(count: usize, events: u64) -> Result<f64> {
    let events = events.min(RAW_EVENTS_MAX).next_multiple_of(64);
    let raw = Process::raw(64, events / 64)?;
    let (mut fleet, mut readers) = (Fleet::new()?, Readers::new()?);
    let control = control(&mut fleet, &mut readers, &raw)?;
    join_raw(&mut fleet, &mut readers, raw.address(), count)?;
    let begun = Instant::now();
    let mut shown = 0;
    while readers.arrived < events * count as u64 {
        while shown < events && shown < readers.arrived / count as u64 + FLOOD_AHEAD {
            fleet.out(control).push(1);
            shown += 64;
        }
        fleet.flush(control)?;
        fleet.turn(Duration::from_millis(10), &mut readers)?;
    }
    Ok(readers.arrived as f64 / begun.elapsed().as_secs_f64())
}

fn raw_latency(run: &Run, count: usize) -> Result<f64> {
    let raw = Process::raw(1, RAW_EVENTS_MAX)?;
    let (mut fleet, mut readers) = (Fleet::new()?, Readers::new()?);
    let control = control(&mut fleet, &mut readers, &raw)?;
    join_raw(&mut fleet, &mut readers, raw.address(), count)?;
    paced(run, &mut fleet, &mut readers, count, |fleet| {
        fleet.out(control).push(1);
        fleet.flush(control)
    })?;
    Ok(readers.latencies.value_at_quantile(0.99) as f64 / 1000.0)
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
    // The first ones warm up: they are not counted.
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

/// The raw program's first connection is its controller, and no reader; it stands where a reader's progress would.
pub(super) fn control(fleet: &mut Fleet, readers: &mut Readers, raw: &Process) -> Result<usize> {
    readers.progress.push(crate::wire::Progress::default());
    fleet.connect_raw(raw.address())
}

const APART: Duration = Duration::from_millis(10);
const FLOOD_AHEAD: u64 = 2048;

/// What the raw program makes ready, in events: 50 MB.
const RAW_EVENTS_MAX: u64 = 262_144;
