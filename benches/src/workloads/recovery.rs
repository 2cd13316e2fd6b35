//! Recovery: readers that come back and get what they missed, alone and a thousand at once. The time counts from the first
//! connect to the last event, handshakes included.

use std::time::{Duration, Instant};

use anyhow::Result;
use redeliver_protocol::history::Start;

use super::fanout::control;
use super::readers::{Readers, filled};
use super::{PATIENCE, Run, median};
use crate::fleet::Fleet;
use crate::process::Process;
use crate::report::Row;
use crate::wire::{Progress, hello, subscribe};

/// One reader that missed so many events of one topic: the server still has them at hand, or has just restarted.
///
/// # Errors
///
/// If anything did not arrive as it was sent.
pub fn one(run: &Run, missed: u64) -> Result<Vec<Row>> {
    let data = run.data()?;
    let mut server = filled(data.path(), missed)?;
    let limit = raw_return(run, 1, missed)?;
    let row = |values, what: &str, server: &Process, cpu_s| -> Result<Row> {
        let usage = server.usage()?;
        Ok(Row::new("recovery of one reader", format!("{missed} missed events, {what}"), median(values), "s")
            .limit_of_cost(limit)
            .server(cpu_s, usage.rss_peak_bytes))
    };
    let before = server.usage()?.cpu_s;
    let mut values = Vec::new();
    for _ in 0..run.repeats() {
        values.push(come_back(&server, 1, missed)?);
    }
    let cpu_s = server.usage()?.cpu_s - before;
    let mut rows = vec![row(values, "server running", &server, cpu_s)?];
    let (mut values, mut cpu_s) = (Vec::new(), 0.0);
    for _ in 0..run.repeats().min(3) {
        server.kill();
        server = Process::server(data.path())?;
        let before = server.usage()?.cpu_s;
        values.push(come_back(&server, 1, missed)?);
        cpu_s += server.usage()?.cpu_s - before;
    }
    rows.push(row(values, "server restarted after kill -9", &server, cpu_s)?);
    Ok(rows)
}

/// So many readers at once, each of which missed so many events of the same topic.
///
/// # Errors
///
/// If anything did not arrive as it was sent.
pub fn storm(run: &Run, readers: usize, missed: u64) -> Result<Row> {
    let data = run.data()?;
    let server = filled(data.path(), missed)?;
    let before = server.usage()?;
    let mut values = Vec::new();
    for _ in 0..run.repeats() {
        values.push(come_back(&server, readers, missed)?);
    }
    let used = server.usage()?;
    drop(server);
    let limit = raw_return(run, readers, missed)?;
    Ok(Row::new(
        "reconnect storm",
        format!("{readers} readers, {missed} missed events each, one topic"),
        median(values),
        "s",
    )
    .limit_of_cost(limit)
    .server(used.cpu_s - before.cpu_s, used.rss_peak_bytes))
}

fn come_back(server: &Process, count: usize, missed: u64) -> Result<f64> {
    let (mut fleet, mut readers) = (Fleet::new()?, Readers::new()?);
    let subscribe = subscribe(Start::Earliest)?;
    let begun = Instant::now();
    for _ in 0..count {
        readers.progress.push(Progress::default());
        fleet.connect(server.address(), &[&hello(false), &subscribe])?;
    }
    let wanted = missed * count as u64;
    fleet.until(PATIENCE, &mut readers, |readers| readers.arrived >= wanted)?;
    Ok(begun.elapsed().as_secs_f64())
}

/// The same bytes over plain TCP, without a handshake.
fn raw_return(run: &Run, count: usize, missed: u64) -> Result<f64> {
    let raw = Process::raw(missed, 1)?;
    let (mut fleet, mut nobody) = (Fleet::new()?, Readers::new()?);
    let control = control(&mut fleet, &mut nobody, &raw)?;
    fleet.out(control).push(1);
    fleet.turn(Duration::from_millis(20), &mut nobody)?;
    fleet.flush(control)?;
    let mut values = Vec::new();
    for _ in 0..=run.repeats() {
        let (mut fleet, mut readers) = (Fleet::new()?, Readers::new()?);
        let begun = Instant::now();
        for _ in 0..count {
            readers.progress.push(Progress::default());
            fleet.connect_raw(raw.address())?;
        }
        let wanted = missed * count as u64;
        fleet.until(PATIENCE, &mut readers, |readers| readers.arrived >= wanted)?;
        values.push(begun.elapsed().as_secs_f64());
    }
    // The first one warmed up.
    values.remove(0);
    Ok(median(values))
}
