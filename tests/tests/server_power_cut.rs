//! Cuts the power under a whole server while clients emit and read, again and again, on a loop-mounted disk.
//!
//! The clients are on another disk and come back by themselves. What they have a receipt for, or were handed, must be there
//! after each cut. As root on Linux; elsewhere it says that it did not run. `POWER_CUTS` sets how many cuts,
//! `POWER_CUT_SEED` repeats a run's choices as far as chance allows.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail, and says what it did")]

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use redeliver_tests::chance::Chance;
use redeliver_tests::crowd::Crowd;
use redeliver_tests::emission::Load;
use redeliver_tests::power_cut::{FileSystem, PowerCutDisk};
use redeliver_tests::process::ServerProcess;
use redeliver_tests::reader::{Habits, Keeper};

#[test]
fn nothing_acknowledged_or_delivered_by_a_server_is_lost_to_a_power_cut_on_ext4() -> Result<()> {
    cut(FileSystem::Ext4)
}

#[test]
fn nothing_acknowledged_or_delivered_by_a_server_is_lost_to_a_power_cut_on_xfs() -> Result<()> {
    cut(FileSystem::Xfs)
}

fn cut(file_system: FileSystem) -> Result<()> {
    if let Some(why) = PowerCutDisk::unavailable(file_system) {
        println!("SKIPPED: power cuts under a server on {file_system:?}: {why}");
        return Ok(());
    }
    let cuts = from_environment("POWER_CUTS").unwrap_or(CUTS);
    let seed = from_environment("POWER_CUT_SEED").unwrap_or(1);
    let mut chance = Chance::new(seed);
    let mut disk = PowerCutDisk::new(file_system, DISK_BYTES)?;
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("config.toml");
    fs::write(&config, format!("[retention]\nbytes = {RETENTION_BYTES}\n"))?;
    let mut server = ServerProcess::at(disk.path().join("data"), &["--config", config.to_str().unwrap()])?;
    server.launch()?;
    let load = Load { topics: 5, bytes_max: 64 * 1024, several_topics_once_in: 5, large_once_in: 5, lag_max: LAG_MAX };
    let crowd = Crowd::start(server.url(), load, 3, readers(), Some(RETENTION_BYTES));
    let begin = Instant::now();
    let mut cut = 0;
    while cut < cuts {
        cut += 1;
        let context = || format!("{file_system:?}, seed {seed}, cut {cut}");
        // Some cuts fall into the opening after the one before, the others among the emits.
        if !chance.once_in(5) {
            crowd.check(None).with_context(context)?;
            let receipts = if chance.once_in(3) { chance.between(1, 100) } else { chance.between(500, 2_500) };
            crowd.ledger.wait_for_receipts(receipts).with_context(context)?;
        }
        // The moment of the cut is the test's input, not a synchronisation: any moment is as good.
        thread::sleep(Duration::from_millis(chance.below(500)));
        server.cut_power(&mut disk).with_context(context)?;
        println!("cut {cut} after {:.0} s: {:?}", begin.elapsed().as_secs_f64(), crowd.ledger.figures());
        server.launch()?;
        crowd.ledger.verdict().with_context(context)?;
    }
    let figures = crowd.finish().with_context(|| format!("{file_system:?}, seed {seed}, after {cuts} cuts"))?;
    let seconds = begin.elapsed().as_secs_f64();
    println!("server, {file_system:?}, seed {seed}: {cuts} cuts in {seconds:.0} s, nothing lost: {figures:?}");
    let ended = server.terminate()?;
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    Ok(())
}

fn readers() -> Vec<Habits> {
    let habits =
        |name: &str, topic, keeper| Habits { name: name.to_owned(), topic, keeper, window: 1_024, ack_every: 1 };
    vec![habits("durable", 0, Keeper::Server), habits("from earliest", 1, Keeper::Nobody)]
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is not a number: {value}")))
}

const CUTS: u64 = 3;
const DISK_BYTES: u64 = 1024 * 1024 * 1024;

/// Little, so that the log folds and trims all the time, but more than what can be stored behind a reader that emitters
/// wait for: `LAG_MAX` events of its topic, with those of the other topics about 4 MiB, and 2 MiB in each emitter's outbox.
const RETENTION_BYTES: u64 = 12 * 1024 * 1024;

/// In events of a topic.
const LAG_MAX: u64 = 100;
