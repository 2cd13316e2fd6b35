//! Cuts the power of a disk under the bare storage layout, again and again, and checks that nothing acknowledged is lost.
//!
//! `POWER_CUTS=200 cargo test -p redeliver-tests --test power_cut` cuts more often than the default; `POWER_CUT_SEED` repeats
//! a run's choices. Needs root, and says so and passes where it cannot run.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use redeliver_tests::chance::Chance;
use redeliver_tests::power_cut::{FileSystem, PowerCutDisk};

#[test]
fn nothing_acknowledged_by_the_bare_store_is_lost_to_a_power_cut_on_ext4() {
    cut_the_bare_store(FileSystem::Ext4);
}

#[test]
fn nothing_acknowledged_by_the_bare_store_is_lost_to_a_power_cut_on_xfs() {
    cut_the_bare_store(FileSystem::Xfs);
}

fn cut_the_bare_store(file_system: FileSystem) {
    if let Some(why) = PowerCutDisk::unavailable(file_system) {
        println!("NOT RUN: power cuts on {file_system:?}: {why}");
        return;
    }
    let cuts = from_environment("POWER_CUTS").unwrap_or(CUTS);
    let seed = from_environment("POWER_CUT_SEED").unwrap_or(1);
    let mut chance = Chance::new(seed);
    let mut disk = PowerCutDisk::new(file_system, DISK_BYTES).unwrap();
    let mut told = Told::default();
    let begin = Instant::now();
    for cut in 1..=cuts {
        let run_for = Duration::from_millis(chance.between(50, 1_500));
        told.died_by_itself = None;
        let mut writer = start(&disk, chance.bits(), &told);
        let lines = BufReader::new(writer.stdout.take().unwrap());
        let reader = thread::spawn({
            let mut told = told.clone();
            move || {
                for line in lines.lines().map_while(Result::ok) {
                    told.hear(&line);
                }
                told
            }
        });
        // The moment of the cut is the test's input, not a synchronisation: any moment is as good.
        thread::sleep(run_for);
        told.died_by_itself = writer.try_wait().unwrap().map(|status| status.to_string());
        disk.cut(&mut writer).unwrap();
        let died_by_itself = told.died_by_itself.take();
        told = reader.join().unwrap();
        println!("cut {cut} after {run_for:?}: {told:?}");
        assert_eq!(died_by_itself, None, "the writer failed by itself; seed {seed}, cut {cut}, {told:?}");
    }
    let seconds = begin.elapsed().as_secs_f64();
    println!("{file_system:?}: {cuts} cuts in {seconds:.0} s, nothing lost: {told:?}");
    assert!(told.checks > 0 || cuts < 3, "no cut came after a check");
}

/// What the writers said over all cuts.
#[derive(Clone, Debug, Default)]
struct Told {
    acked: u64,
    floor: u64,
    opens: u64,
    checks: u64,
    commits: u64,
    folds: u64,
    folded_bytes: u64,
    trims: u64,
    file_bytes: u64,
    died_by_itself: Option<String>,
}

impl Told {
    fn hear(&mut self, line: &str) {
        let mut words = line.split(' ');
        let what = words.next().unwrap_or_default();
        let number = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
        match what {
            "opened" => {
                self.opens += 1;
                self.file_bytes = line.rsplit(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0);
            }
            "checked" => self.checks += 1,
            "acked" => (self.acked, self.commits) = (number, self.commits + 1),
            "folded" => (self.folds, self.folded_bytes) = (self.folds + 1, self.folded_bytes + number),
            "floor" => (self.floor, self.trims) = (number, self.trims + 1),
            _ => {}
        }
    }
}

fn start(disk: &PowerCutDisk, seed: u64, told: &Told) -> Child {
    Command::new(env!("CARGO_BIN_EXE_bare-store"))
        .args([seed, told.acked, told.floor].map(|number| number.to_string()))
        .arg(disk.path().join("store"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is not a number: {value}")))
}

const CUTS: u64 = 5;
const DISK_BYTES: u64 = 1024 * 1024 * 1024;
