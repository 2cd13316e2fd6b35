//! Readers that read nothing beside healthy ones: what the healthy ones feel, and what the stuck ones cost.

use anyhow::{Context, Result};
use redeliver_protocol::history::Start;

use super::fanout::paced;
use super::readers::{Readers, join, join_emitter};
use super::{PATIENCE, Run};
use crate::fleet::Fleet;
use crate::process::Process;
use crate::report::Row;
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
    let millis = |measured: &Measured| measured.readers.latencies.value_at_quantile(0.99) as f64 / 1000.0;
    let latency = Row::new("slow readers: healthy p99", parameters.clone(), millis(&beside), "ms")
        .limit_of_cost(millis(&usual))
        .server(beside.cpu_s, beside.rss_peak_bytes)
        .latency(&beside.readers.latencies);
    let more = beside.rss_bytes.saturating_sub(usual.rss_bytes) as f64 / healthy as f64;
    let memory = Row::new("slow readers: memory", parameters, more, "bytes/stuck reader")
        .server(beside.cpu_s, beside.rss_peak_bytes);
    Ok(vec![latency, memory])
}

struct Measured {
    readers: Readers,
    cpu_s: f64,
    rss_peak_bytes: u64,
    rss_bytes: u64,
}

fn measure(run: &Run, healthy: usize, stuck: usize) -> Result<Measured> {
    let data = run.data()?;
    let server = Process::server(data.path())?;
    let (mut fleet, mut readers) = (Fleet::new()?, Readers::new()?);
    join(&mut fleet, &mut readers, server.address(), healthy, &Start::Latest)?;
    let mut template = join_emitter(&mut fleet, &mut readers, server.address())?;
    let emitter = readers.emitter.context("the emitter has joined")?;
    let stuck = join_stuck(&server, stuck)?;
    // Fills what the kernel holds for the stuck ones.
    for _ in 0..FILL_EVENTS / 64 {
        template.put(fleet.out(emitter), 64, |_| 0);
        fleet.flush(emitter)?;
        let wanted = template.sent() * healthy as u64;
        fleet.until(PATIENCE, &mut readers, |readers| readers.arrived >= wanted)?;
    }
    let before = server.usage()?;
    readers.paced_from = template.sent();
    paced(run, &mut fleet, &mut readers, healthy, |fleet| {
        template.put(fleet.out(emitter), 1, |_| 0);
        fleet.flush(emitter)
    })?;
    let used = server.usage()?;
    drop(stuck);
    Ok(Measured {
        readers,
        cpu_s: used.cpu_s - before.cpu_s,
        rss_peak_bytes: used.rss_peak_bytes,
        rss_bytes: used.rss_bytes,
    })
}

/// Connections that are open and never read, as long as what is returned lives: nobody turns it.
fn join_stuck(server: &Process, count: usize) -> Result<Fleet> {
    let (mut fleet, mut readers) = (Fleet::new()?, Readers::new()?);
    let subscribe = subscribe(Start::Latest)?;
    for at in 0..count {
        readers.progress.push(Progress::default());
        fleet.connect_small(server.address(), &[&hello(false), &subscribe])?;
        fleet.until(PATIENCE, &mut readers, |readers| readers.ready > at)?;
    }
    Ok(fleet)
}

/// More than the buffers of a connection hold: 256 KiB that the server asks for, which the kernel doubles, and the client's.
const FILL_EVENTS: u64 = 6400;
