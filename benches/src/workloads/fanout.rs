//! Fan-out: one emitter, many readers of one topic. Round by round (each commit waits until all have the one before, so that
//! every wake carries exactly so many events), flat out, and at a steady pace for the latency.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::audience::{Audience, RawAudience, paced};
use super::readers::Readers;
use super::{PATIENCE, Run};
use crate::report::{Row, Wanted};
use crate::turns::Figures;

/// Deliveries per CPU second of the server, with `per_commit` events for each wake: in turns with the raw program, since what
/// a CPU second is worth on a shared machine changes within seconds.
///
/// # Errors
///
/// If anything did not arrive as it was sent.
pub fn rounds(run: &Run, count: usize, per_commit: u64) -> Result<Row> {
    let most = RAW_EVENTS_MAX / per_commit;
    let (mut audience, mut raw) = (Audience::gather(run, count)?, RawAudience::gather(count, per_commit, most)?);
    let (mut values, mut limits) = (Figures::default(), Figures::default());
    let (mut shown, mut cpu_s) = (0, 0.0);
    for _ in 0..run.repeats() {
        if let Some(limit) = raw_turn(run, &mut raw, count, per_commit, &mut shown)? {
            limits.push(limit);
        }
        audience.count_from_here()?;
        let before = audience.readers.arrived;
        turn(run, &mut audience, count, per_commit)?;
        let used = audience.used()?.cpu_s;
        values.push((audience.readers.arrived - before) as f64 / used);
        cpu_s += used;
    }
    let row = Row::new(
        "fan-out, per server CPU second",
        format!("{count} readers, {per_commit}/commit"),
        values.median(),
        "deliveries/CPU-s",
    )
    .limit(limits.median())
    .server(cpu_s, audience.server.usage()?.rss_peak_bytes)
    .note(format!("{values}; limit {limits}"));
    Ok(if count == 1000 { row.wanted(Wanted::Ratio(0.85)) } else { row })
}

/// Rounds of the server for half of the run's span.
fn turn(run: &Run, audience: &mut Audience, count: usize, per_commit: u64) -> Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < run.span() / 2 {
        audience.emit(per_commit)?;
        let Audience { fleet, readers, template, .. } = &mut *audience;
        let events = template.sent();
        let wanted = events * count as u64;
        fleet.until(PATIENCE, readers, |readers| readers.arrived >= wanted && readers.acked >= events)?;
    }
    Ok(())
}

/// The same of the raw program. `shown` rounds have been before. Gives the deliveries for each second of its CPU; nothing
/// once too little is left of what it has to show for a figure in hundredths of a second.
fn raw_turn(run: &Run, raw: &mut RawAudience, count: usize, per_commit: u64, shown: &mut u64) -> Result<Option<f64>> {
    let (before, arrived) = (raw.process.usage()?, raw.readers.arrived);
    let begun = Instant::now();
    while begun.elapsed() < run.span() / 2 && *shown < RAW_EVENTS_MAX / per_commit {
        raw.show()?;
        *shown += 1;
        let wanted = *shown * per_commit * count as u64;
        raw.fleet.until(PATIENCE, &mut raw.readers, |readers| readers.arrived >= wanted)?;
    }
    let used = raw.process.usage()?.since(before).cpu_s;
    Ok((used >= TURN_CPU_S_MIN).then(|| (raw.readers.arrived - arrived) as f64 / used))
}

/// Deliveries per second, as fast as it goes.
///
/// # Errors
///
/// If anything did not arrive as it was sent.
pub fn flood(run: &Run, count: usize) -> Result<Row> {
    let mut audience = Audience::gather(run, count)?;
    let begun = Instant::now();
    while begun.elapsed() < run.span() {
        let ahead = audience.readers.arrived / count as u64 + FLOOD_AHEAD;
        audience.emit_up_to(ahead, 64)?;
        audience.fleet.turn(Duration::from_millis(10), &mut audience.readers)?;
    }
    let events = audience.template.sent();
    let wanted = events * count as u64;
    audience.fleet.until(PATIENCE, &mut audience.readers, |readers| readers.arrived >= wanted)?;
    let seconds = begun.elapsed().as_secs_f64();
    let used = audience.used()?;
    let value = audience.readers.arrived as f64 / seconds;
    drop(audience);
    let wanted = if count == 1000 { 2e6 } else { 4e6 };
    Ok(Row::new("fan-out, flat out", format!("{count} readers"), value, "deliveries/s")
        .limit(raw_flood(count, events)?)
        .server(used.cpu_s, used.rss_peak_bytes)
        .wanted(Wanted::AtLeast(wanted)))
}

/// The time from when an event was due until a reader has it, at a steady 100 events/s.
///
/// # Errors
///
/// If anything did not arrive as it was sent.
pub fn latency(run: &Run, count: usize) -> Result<Row> {
    let mut audience = Audience::gather(run, count)?;
    audience.pace(run)?;
    let used = audience.used()?;
    let latencies = std::mem::replace(&mut audience.readers, Readers::new()?).latencies;
    drop(audience);
    let p99 = latencies.value_at_quantile(0.99);
    Ok(Row::new("fan-out latency p99", format!("{count} readers, 100 events/s"), p99 as f64 / 1000.0, "ms")
        .limit_of_cost(raw_latency(run, count)?)
        .server(used.cpu_s, used.rss_peak_bytes)
        .latency(&latencies)
        .wanted(Wanted::P50Below(3.0))
        .wanted(Wanted::P99Below(7.0)))
}

fn raw_flood(count: usize, events: u64) -> Result<f64> {
    let events = events.min(RAW_EVENTS_MAX).next_multiple_of(64);
    let mut raw = RawAudience::gather(count, 64, events / 64)?;
    let begun = Instant::now();
    let mut shown = 0;
    while raw.readers.arrived < events * count as u64 {
        while shown < events && shown < raw.readers.arrived / count as u64 + FLOOD_AHEAD {
            raw.show()?;
            shown += 64;
        }
        raw.fleet.turn(Duration::from_millis(10), &mut raw.readers)?;
    }
    Ok(raw.readers.arrived as f64 / begun.elapsed().as_secs_f64())
}

fn raw_latency(run: &Run, count: usize) -> Result<f64> {
    let mut raw = RawAudience::gather(count, 1, RAW_EVENTS_MAX)?;
    let RawAudience { fleet, readers, control, .. } = &mut raw;
    paced(run, fleet, readers, count, |fleet| {
        fleet.out(*control).push(1);
        fleet.flush(*control)
    })?;
    Ok(readers.latencies.value_at_quantile(0.99) as f64 / 1000.0)
}

const FLOOD_AHEAD: u64 = 2048;

/// What the raw program makes ready, in events: 50 MB.
const RAW_EVENTS_MAX: u64 = 262_144;

/// The raw program's CPU is told in hundredths of a second.
const TURN_CPU_S_MIN: f64 = 0.1;
