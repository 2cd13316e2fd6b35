//! Emitting for a long time over many topics while retention removes the oldest: does the rate last, and does the disk stay
//! bounded? Some topics are followed all the time; what is kept of the others is read at the end.

use std::time::{Duration, Instant};

use anyhow::Result;
use redeliver_protocol::history::Start;

use super::Run;
use super::emitters::{Emitters, Pattern};
use crate::fleet::Fleet;
use crate::process::{Process, disk_bytes};
use crate::report::{Row, Wanted, figure};
use crate::wire::Shape;

/// Acknowledged events per second in each tenth of the time (a minute of ten), with 64 × 32 outstanding.
///
/// # Errors
///
/// If an event is not stored, or one that is kept is not delivered as it was sent.
pub fn emit(run: &Run) -> Result<Vec<Row>> {
    let data = run.data()?;
    // A few seconds' worth, so that retention is at work for most of the time.
    let retained = RETAINED_BYTES_MAX.min(run.sustained.as_secs() * 1_000_000);
    let config = format!("[retention]\nbytes = {retained}\n");
    let server = Process::server_with(data.path(), &config)?;
    let mut fleet = Fleet::new()?;
    let pattern = Pattern { shape: Shape::topics(TOPICS), ..Pattern::new(64, 32) };
    let mut emitters = Emitters::join(&mut fleet, &server, pattern)?;
    emitters.follow(&mut fleet, &server, (0..TOPICS).step_by(FOLLOWED_APART), &Start::Latest)?;
    fleet.turn(Duration::from_millis(200), &mut emitters)?;
    emitters.retention_is_at_work();
    let before = server.usage()?;
    let part = run.sustained / PARTS;
    let (mut rates, mut disk) = (Vec::new(), Vec::new());
    for at in 1..=PARTS {
        let mut seen = 0;
        let begun = Instant::now();
        rates.push(emitters.saturate_watching(&mut fleet, part, || {
            seen = seen.max(disk_bytes(data.path())?);
            run.tell(format!("part {at} of {PARTS}, {} s, {} MB of disk", begun.elapsed().as_secs(), seen / 1_000_000));
            Ok(())
        })?);
        disk.push(seen);
    }
    let used = server.usage()?.since(before);
    let stored = emitters.verify(&mut fleet, &server)?;
    let seconds = run.sustained.as_secs();
    let parameters = format!("{TOPICS} topics, {seconds} s, retention of {} MB", retained / 1_000_000);
    let listed = |figures: Vec<String>| figures.join(", ");
    let (second, last) = (rates[1], rates[rates.len() - 1]);
    let throughput = Row::new("sustained emit", parameters.clone(), last, "events/s")
        .limit(second)
        .server(used.cpu_s, used.rss_peak_bytes)
        .latency(&emitters.latencies)
        .wanted(Wanted::Ratio(0.9))
        .note(format!(
            "the last tenth; the limit is the second. Events/s by tenths: {}; {stored} events",
            listed(rates.iter().map(|rate| figure(*rate)).collect())
        ));
    // After the first third, retention and the reuse of space have settled.
    let settled = disk[disk.len() / 3];
    let space = Row::new("sustained emit: disk", parameters, disk[disk.len() - 1] as f64 / 1e6, "MB")
        .limit_of_cost(settled as f64 / 1e6)
        .wanted(Wanted::Ratio(0.8))
        .note(format!(
            "the last tenth; the limit is the fourth. MB by tenths: {}",
            listed(disk.iter().map(|bytes| (bytes / 1_000_000).to_string()).collect())
        ));
    Ok(vec![throughput, space])
}

const TOPICS: u64 = 1000;
const FOLLOWED_APART: usize = 100;
const PARTS: u32 = 10;

const RETAINED_BYTES_MAX: u64 = 200_000_000;
