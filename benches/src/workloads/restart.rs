//! Restart: from the start of the process on what a killed server left to the moment at which it listens.

use std::time::Duration;

use anyhow::{Result, ensure};
use redeliver_protocol::history::Start;

use super::readers::{Readers, filled};
use super::{PATIENCE, Run};
use crate::fleet::Fleet;
use crate::process::Process;
use crate::report::{Row, Wanted};
use crate::turns::Figures;
use crate::wire::{Progress, hello, subscribe};

/// With so many events stored.
///
/// # Errors
///
/// If it does not come up, or an event is missing.
pub fn after_kill(run: &Run, events: u64) -> Result<Row> {
    let data = run.data()?;
    let mut server = filled(run, data.path(), events, 1)?;
    let mut values = Figures::default();
    for _ in 0..3 {
        server.kill();
        server = Process::server(data.path())?;
        values.push(server.ready_after().as_secs_f64());
    }
    let used = server.usage()?;
    let (mut fleet, mut readers) = (Fleet::new()?, Readers::new()?);
    readers.progress.push(Progress::default());
    fleet.connect(server.address(), &[&hello(false), &subscribe(0, &Start::Earliest)?])?;
    fleet.until(PATIENCE, &mut readers, |readers| readers.arrived >= events)?;
    fleet.turn(Duration::from_millis(50), &mut readers)?;
    ensure!(readers.arrived == events, "{} events arrived of {events}", readers.arrived);
    let row = Row::new("restart after kill -9", format!("{events} events stored"), values.median(), "s")
        .server(used.cpu_s, used.rss_peak_bytes)
        .note(values.to_string());
    // What holds for more must hold for less.
    Ok(row.wanted(Wanted::AtMost(3.0)))
}
