//! Readers that read nothing beside healthy ones: what the healthy ones feel, and what the stuck ones cost.

use anyhow::Result;
use hdrhistogram::Histogram;
use redeliver_protocol::history::Start;

use super::audience::Audience;
use super::readers::Readers;
use super::{PATIENCE, Run};
use crate::fleet::Fleet;
use crate::process::Process;
use crate::report::{Row, Wanted};
use crate::wire::{Progress, hello, subscribe};

/// The healthy readers' latency at a steady 100 events/s beside as many that are stuck; the limit is that without them.
///
/// # Errors
///
/// If anything did not arrive at a healthy one as it was sent.
pub fn beside(run: &Run, healthy: usize) -> Result<Vec<Row>> {
    let usual = measure(run, healthy, 0)?;
    let beside = measure(run, healthy, healthy)?;
    let parameters = format!("{healthy} healthy readers, {healthy} stuck, 100 events/s");
    let millis = |measured: &Measured| measured.latencies.value_at_quantile(0.99) as f64 / 1000.0;
    let latency = Row::new("slow readers: healthy p99", parameters.clone(), millis(&beside), "ms")
        .limit_of_cost(millis(&usual))
        .server(beside.cpu_s, beside.rss_peak_bytes)
        .latency(&beside.latencies)
        .wanted(Wanted::Ratio(0.5));
    let more = beside.rss_bytes.saturating_sub(usual.rss_bytes) as f64 / healthy as f64;
    let memory = Row::new("slow readers: memory", parameters, more, "bytes/stuck reader")
        .server(beside.cpu_s, beside.rss_peak_bytes)
        .wanted(Wanted::AtMost(64.0 * 1024.0));
    Ok(vec![latency, memory])
}

struct Measured {
    latencies: Histogram<u64>,
    cpu_s: f64,
    rss_peak_bytes: u64,
    rss_bytes: u64,
}

fn measure(run: &Run, healthy: usize, stuck: usize) -> Result<Measured> {
    let mut audience = Audience::gather(run, healthy)?;
    let stuck = join_stuck(&audience.server, stuck)?;
    // Fills what the kernel holds for the stuck ones.
    for _ in 0..FILL_EVENTS / 64 {
        audience.emit(64)?;
        let wanted = audience.template.sent() * healthy as u64;
        audience.fleet.until(PATIENCE, &mut audience.readers, |readers| readers.arrived >= wanted)?;
    }
    audience.count_from_here()?;
    audience.readers.paced_from = audience.template.sent();
    audience.pace(run)?;
    let used = audience.used()?;
    drop(stuck);
    let latencies = std::mem::replace(&mut audience.readers, Readers::new()?).latencies;
    Ok(Measured { latencies, cpu_s: used.cpu_s, rss_peak_bytes: used.rss_peak_bytes, rss_bytes: used.rss_bytes })
}

/// Connections that are open and never read, as long as what is returned lives: nobody turns it.
fn join_stuck(server: &Process, count: usize) -> Result<Fleet> {
    let (mut fleet, mut readers) = (Fleet::new()?, Readers::new()?);
    let subscribe = subscribe(0, &Start::Latest)?;
    for at in 0..count {
        readers.progress.push(Progress::default());
        fleet.connect_small(server.address(), &[&hello(false), &subscribe])?;
        fleet.until(PATIENCE, &mut readers, |readers| readers.ready > at)?;
    }
    Ok(fleet)
}

/// More than the buffers of a connection hold: 256 KiB that the server asks for, which the kernel doubles, and the client's.
const FILL_EVENTS: u64 = 6400;
