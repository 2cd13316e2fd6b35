//! What an idle connection costs: resident memory of the server for each reader with one subscription.

use anyhow::Result;
use redeliver_protocol::history::Start;

use super::Run;
use super::fanout::control;
use super::readers::{Readers, join, join_raw};
use crate::fleet::Fleet;
use crate::process::Process;
use crate::report::Row;

/// Bytes for each of so many readers.
///
/// # Errors
///
/// If one cannot connect.
pub fn idle(run: &Run, count: usize) -> Result<Row> {
    let data = run.data()?;
    let server = Process::server(data.path())?;
    let (mut fleet, mut readers) = (Fleet::new()?, Readers::new()?);
    // The first one brings up what is there once.
    join(&mut fleet, &mut readers, server.address(), 1, &Start::Latest)?;
    let before = server.usage()?;
    join(&mut fleet, &mut readers, server.address(), count, &Start::Latest)?;
    let used = server.usage()?;
    drop(server);
    drop(fleet);
    let raw = Process::raw(1, 1)?;
    let (mut fleet, mut readers) = (Fleet::new()?, Readers::new()?);
    control(&mut fleet, &mut readers, &raw)?;
    join_raw(&mut fleet, &mut readers, raw.address(), 1)?;
    let raw_before = raw.usage()?.rss_bytes;
    join_raw(&mut fleet, &mut readers, raw.address(), count)?;
    let limit = raw.usage()?.rss_bytes.saturating_sub(raw_before) as f64 / count as f64;
    let value = used.rss_bytes.saturating_sub(before.rss_bytes) as f64 / count as f64;
    Ok(Row::new("idle memory", format!("{count} readers, one subscription each"), value, "bytes/reader")
        .limit_of_cost(limit)
        .server(used.cpu_s - before.cpu_s, used.rss_peak_bytes))
}
