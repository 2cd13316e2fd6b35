//! Recovery: readers that come back and get what they missed, alone and a thousand at once. The time counts from the first
//! connect to the last event, handshakes included.

use std::time::{Duration, Instant};

use anyhow::Result;
use redeliver_protocol::history::Start;

use super::audience::RawAudience;
use super::readers::{Readers, filled};
use super::{PATIENCE, Run};
use crate::fleet::Fleet;
use crate::process::Process;
use crate::report::{Row, Wanted};
use crate::turns::Figures;
use crate::wire::{Progress, hello, subscribe};

/// One reader that missed so many events of one topic: the server still has them at hand, or has just restarted.
///
/// # Errors
///
/// If anything did not arrive as it was sent.
pub fn one(run: &Run, missed: u64) -> Result<Vec<Row>> {
    let measured = measure(run, Crowd { readers: 1, missed, topics: 1 })?;
    Ok(measured
        .into_iter()
        .map(|Measured { figures, how, limit, cpu_s, rss_bytes, restarted }| {
            let row =
                Row::new("recovery of one reader", format!("{missed} missed events, {how}"), figures.median(), "s")
                    .limit_of_cost(limit)
                    .server(cpu_s, rss_bytes)
                    .note(figures.to_string());
            match (missed, restarted) {
                (100_000, false) => row.wanted(Wanted::AtMost(0.03)),
                (100_000, true) => row.wanted(Wanted::AtMost(0.1)),
                _ => row,
            }
        })
        .collect())
}

/// So many readers at once, each of which missed so many events of the same topic, or of a topic of its own.
///
/// # Errors
///
/// If anything did not arrive as it was sent.
pub fn storm(run: &Run, readers: usize, missed: u64, of_their_own: bool) -> Result<Vec<Row>> {
    let topics = if of_their_own { readers as u64 } else { 1 };
    let measured = measure(run, Crowd { readers, missed, topics })?;
    let which = if of_their_own { "own topics" } else { "one topic" };
    Ok(measured
        .into_iter()
        .map(|Measured { figures, how, limit, cpu_s, rss_bytes, .. }| {
            let parameters = format!("{readers} readers × {missed} events, {which}, {how}");
            Row::new("reconnect storm", parameters, figures.median(), "s")
                .limit_of_cost(limit)
                .server(cpu_s, rss_bytes)
                .note(figures.to_string())
                .wanted(Wanted::AtMost(0.15))
        })
        .collect())
}

/// Who comes back, and to what.
#[derive(Clone, Copy, Debug)]
struct Crowd {
    readers: usize,
    /// Of each reader's topic.
    missed: u64,
    /// Reader `i` follows topic `i` modulo this.
    topics: u64,
}

struct Measured {
    figures: Figures,
    how: &'static str,
    restarted: bool,
    limit: f64,
    cpu_s: f64,
    rss_bytes: u64,
}

fn measure(run: &Run, crowd: Crowd) -> Result<Vec<Measured>> {
    let data = run.data()?;
    let mut server = filled(run, data.path(), crowd.missed * crowd.topics, crowd.topics)?;
    let mut figures = Figures::default();
    let mut raw = Figures::default();
    let before = server.usage()?.cpu_s;
    let repeats = if crowd.missed >= 1_000_000 { 3 } else { run.repeats() };
    for _ in 0..repeats {
        raw.push(raw_return(crowd)?);
        figures.push(come_back(&server, crowd)?);
    }
    let limit = raw.median();
    let used = server.usage()?;
    let (cpu_s, rss_bytes) = (used.cpu_s - before, used.rss_peak_bytes);
    let running = Measured { figures, how: "running", restarted: false, limit, cpu_s, rss_bytes };
    let (mut figures, mut cpu_s, mut rss_bytes) = (Figures::default(), 0.0, 0);
    for _ in 0..repeats.min(3) {
        server.kill();
        server = Process::server(data.path())?;
        let before = server.usage()?.cpu_s;
        figures.push(come_back(&server, crowd)?);
        let used = server.usage()?;
        cpu_s += used.cpu_s - before;
        rss_bytes = used.rss_peak_bytes.max(rss_bytes);
    }
    let how = "after kill -9";
    Ok(vec![running, Measured { figures, how, restarted: true, limit, cpu_s, rss_bytes }])
}

fn come_back(server: &Process, crowd: Crowd) -> Result<f64> {
    let (mut fleet, mut readers) = (Fleet::new()?, Readers::new()?);
    readers.topics = crowd.topics;
    let openings = (0..crowd.readers as u64)
        .map(|reader| Ok((reader % crowd.topics, subscribe(reader % crowd.topics, &Start::Earliest)?)))
        .collect::<Result<Vec<_>>>()?;
    let begun = Instant::now();
    for (topic, subscribe) in &openings {
        readers.progress.push(Progress::of(*topic));
        fleet.connect(server.address(), &[&hello(false), subscribe])?;
    }
    let wanted = crowd.missed * crowd.readers as u64;
    fleet.until(PATIENCE, &mut readers, |readers| readers.arrived >= wanted)?;
    Ok(begun.elapsed().as_secs_f64())
}

/// The same bytes over plain TCP, without a handshake.
fn raw_return(crowd: Crowd) -> Result<f64> {
    let mut raw = RawAudience::gather(0, crowd.missed, 1)?;
    raw.show()?;
    raw.fleet.turn(Duration::from_millis(20), &mut raw.readers)?;
    let mut last = f64::NAN;
    // The first time warms up.
    for _ in 0..2 {
        let (mut fleet, mut readers) = (Fleet::new()?, Readers::new()?);
        let begun = Instant::now();
        for _ in 0..crowd.readers {
            readers.progress.push(Progress::default());
            fleet.connect_raw(raw.process.address())?;
        }
        let wanted = crowd.missed * crowd.readers as u64;
        fleet.until(PATIENCE, &mut readers, |readers| readers.arrived >= wanted)?;
        last = begun.elapsed().as_secs_f64();
    }
    Ok(last)
}
