//! Cuts the power of a disk under the bare storage layout and under the log, again and again, and checks that nothing
//! acknowledged is lost.
//!
//! `POWER_CUTS=200 cargo test -p redeliver-tests --test power_cut` cuts more often than the default; `POWER_CUT_SEED` repeats
//! a run's choices. Needs root, and says so and passes where it cannot run.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail, and says what it did")]

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use redeliver_tests::chance::Chance;
use redeliver_tests::power_cut::{FileSystem, PowerCutDisk};
use redeliver_tests::writer::{Store, Told};

#[test]
fn nothing_acknowledged_by_the_bare_store_is_lost_to_a_power_cut_on_ext4() {
    cut(FileSystem::Ext4, BARE_STORE);
}

#[test]
fn nothing_acknowledged_by_the_bare_store_is_lost_to_a_power_cut_on_xfs() {
    cut(FileSystem::Xfs, BARE_STORE);
}

#[test]
fn nothing_acknowledged_by_the_log_is_lost_to_a_power_cut_on_ext4() {
    cut(FileSystem::Ext4, LOG_WRITER);
}

#[test]
fn nothing_acknowledged_by_the_log_is_lost_to_a_power_cut_on_xfs() {
    cut(FileSystem::Xfs, LOG_WRITER);
}

fn cut(file_system: FileSystem, program: &str) {
    if let Some(why) = PowerCutDisk::unavailable(file_system) {
        println!("SKIPPED: power cuts on {file_system:?}: {why}");
        return;
    }
    let cuts = from_environment("POWER_CUTS").unwrap_or(CUTS);
    let seed = from_environment("POWER_CUT_SEED").unwrap_or(1);
    let mut chance = Chance::new(seed);
    let mut disk = PowerCutDisk::new(file_system, DISK_BYTES).unwrap();
    let store = Store::new(Path::new(program), disk.path().join("store"));
    let mut told = Told::default();
    let begin = Instant::now();
    for cut in 1..=cuts {
        let run_for = Duration::from_millis(chance.between(20, 1_000));
        let mut writer = store.start(chance.bits(), &told, None).unwrap();
        // Most cuts fall among the writes, the others anywhere from the start on.
        if !chance.once_in(4) {
            writer.wait_until_checked();
        }
        // The moment of the cut is the test's input, not a synchronisation: any moment is as good.
        thread::sleep(run_for);
        let died_by_itself = writer.process.try_wait().unwrap();
        disk.cut(&mut writer.process).unwrap();
        let ended = writer.ended().unwrap();
        told = ended.told;
        println!("cut {cut} after {run_for:?}: {told:?}");
        let context = format!("seed {seed}, cut {cut}, {told:?}: {}", ended.errors);
        assert_eq!(died_by_itself, None, "the writer failed by itself: {context}");
        assert!(ended.errors.is_empty(), "the writer complained: {context}");
    }
    let last = store.start(0, &told, Some(0)).unwrap().ended().unwrap();
    assert!(last.status.success() && last.told.checks > 0, "seed {seed}: {last:?}");
    let seconds = begin.elapsed().as_secs_f64();
    let program = Path::new(program).file_name().unwrap().display();
    println!("{program}, {file_system:?}, seed {seed}: {cuts} cuts in {seconds:.0} s, nothing lost: {:?}", last.told);
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is not a number: {value}")))
}

const BARE_STORE: &str = env!("CARGO_BIN_EXE_bare-store");
const LOG_WRITER: &str = env!("CARGO_BIN_EXE_log-writer");
const CUTS: u64 = 5;
const DISK_BYTES: u64 = 1024 * 1024 * 1024;
