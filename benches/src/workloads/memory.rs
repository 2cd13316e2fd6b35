//! What an idle connection costs: resident memory of the server for each reader with one subscription.

use anyhow::{Result, ensure};
use redeliver_protocol::history::Start;

use super::audience::RawAudience;
use super::readers::{Readers, join, join_emitter};
use super::{PATIENCE, Run};
use crate::fleet::Fleet;
use crate::process::Process;
use crate::report::{Row, Wanted};

/// Bytes for each of so many readers.
///
/// # Errors
///
/// If one cannot connect, or does not get an event afterwards.
pub fn idle(run: &Run, count: usize) -> Result<Row> {
    // Both ends of each connection are files, of two processes with the same bound.
    let files = rlimit::increase_nofile_limit(count as u64 + SPARE_FILES)?;
    ensure!(files >= count as u64 + SPARE_FILES, "only {files} files may be open: raise `ulimit -Hn`");
    let data = run.data()?;
    let server = Process::server(data.path())?;
    let (mut fleet, mut readers) = (Fleet::new()?, Readers::new()?);
    // The first one brings up what is there once.
    join(&mut fleet, &mut readers, server.address(), 1, &Start::Latest)?;
    let before = server.usage()?;
    join(&mut fleet, &mut readers, server.address(), count, &Start::Latest)?;
    let used = server.usage()?;
    greet(&mut fleet, &mut readers, &server)?;
    drop(server);
    drop(fleet);
    let mut raw = RawAudience::gather(1, 1, 1)?;
    let raw_before = raw.process.usage()?.rss_bytes;
    raw.join(count)?;
    let limit = raw.process.usage()?.rss_bytes.saturating_sub(raw_before) as f64 / count as f64;
    let value = used.rss_bytes.saturating_sub(before.rss_bytes) as f64 / count as f64;
    Ok(Row::new("idle memory", format!("{count} readers, one subscription each"), value, "bytes/reader")
        .limit_of_cost(limit)
        .wanted(Wanted::AtMost(6.0 * 1024.0))
        .server(used.cpu_s - before.cpu_s, used.rss_peak_bytes))
}

/// One event for everybody: an idle reader is one that is still there.
fn greet(fleet: &mut Fleet, readers: &mut Readers, server: &Process) -> Result<()> {
    let count = readers.progress.len() as u64;
    let mut template = join_emitter(fleet, readers, server.address())?;
    let emitter = fleet.len() - 1;
    template.put(fleet.out(emitter), 1, |_| 0);
    fleet.flush(emitter)?;
    fleet.until(PATIENCE, readers, |readers| readers.arrived >= count)
}

/// For everything but the readers.
const SPARE_FILES: u64 = 256;
