//! The server is killed with -9 again and again under four emitters and eight readers, some of which are killed as well.
//!
//! `KILL_CYCLES` makes it longer, `KILL_SEED` repeats a run's choices.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail, and says what it did")]

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use redeliver_client::MemoryCursorStore;
use redeliver_tests::chance::Chance;
use redeliver_tests::crowd::Crowd;
use redeliver_tests::emission::Load;
use redeliver_tests::process::ServerProcess;
use redeliver_tests::reader::{Habits, Keeper};

#[test]
fn nothing_is_lost_doubled_reordered_or_skipped_when_the_server_is_killed_under_load() -> Result<()> {
    let cycles = from_environment("KILL_CYCLES").unwrap_or(CYCLES);
    let seed = from_environment("KILL_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("KILL_SEED={seed} KILL_CYCLES={cycles}");
    let mut chance = Chance::new(seed);
    let mut server = ServerProcess::start()?;
    let load = Load { topics: 6, bytes_max: 32 * 1024, several_topics_once_in: 4, large_once_in: 50, lag_max: 500 };
    let mut crowd = Crowd::start(server.url(), load, 4, readers(&server), None);
    crowd.ledger.wait_for_receipts(1)?;
    let (mut checked, mut reader_kills) = (0, 0);
    let begin = Instant::now();
    for cycle in 1..=cycles {
        let context = || format!("seed {seed}, cycle {cycle}");
        // Most kills fall among the emits, the others anywhere from the start of the process on.
        if !chance.once_in(4) {
            crowd.ledger.wait_for_receipts(chance.between(1, 400)).with_context(context)?;
        }
        if chance.once_in(4) {
            checked = crowd.check(Some(checked)).with_context(context)?;
        }
        // The moment of the kill is the test's input, not a synchronisation: any moment is as good.
        thread::sleep(Duration::from_millis(chance.below(300)));
        let reader_dies_first = chance.once_in(2);
        if reader_dies_first {
            reader_kills += kill_a_reader(&mut crowd, &mut chance).with_context(context)?;
        }
        server.insist_on_running().with_context(context)?;
        server.kill()?;
        if !reader_dies_first && chance.once_in(2) {
            reader_kills += kill_a_reader(&mut crowd, &mut chance).with_context(context)?;
        }
        server.launch()?;
        crowd.ledger.verdict().with_context(context)?;
    }
    let figures = crowd.finish().with_context(|| format!("seed {seed}, after {cycles} cycles"))?;
    server.insist_on_running()?;
    let seconds = begin.elapsed().as_secs_f64();
    println!("seed {seed}: {cycles} kills of the server, {reader_kills} of readers in {seconds:.0} s: {figures:?}");
    assert!(figures.acknowledged > cycles && figures.deliveries > cycles, "hardly anything happened: {figures:?}");
    Ok(())
}

/// One of the two that may be killed, of which one has its cursor with the server and one in a file.
fn kill_a_reader(crowd: &mut Crowd, chance: &mut Chance) -> Result<u64> {
    let mortal = usize::try_from(chance.below(2))?;
    if !crowd.readers[mortal].is_born() {
        return Ok(0);
    }
    crowd.readers[mortal].kill_and_restart()?;
    Ok(1)
}

fn readers(server: &ServerProcess) -> Vec<Habits> {
    let file = |name: &str| Keeper::File(server.folder().join(name));
    let memory = Keeper::Memory(MemoryCursorStore::new());
    let habits = |name: &str, topic, keeper, window, ack_every| Habits {
        name: name.to_owned(),
        topic,
        keeper,
        window,
        ack_every,
    };
    vec![
        habits("mortal", 0, Keeper::Server, 100, 1),
        habits("mortal in a file", 1, file("mortal"), 100, 7),
        habits("durable", 0, Keeper::Server, 1_024, 1),
        habits("durable and narrow", 2, Keeper::Server, 8, 3),
        habits("in a file", 3, file("immortal"), 1_024, 1),
        habits("in memory", 4, memory, 1_024, 10),
        habits("from earliest", 5, Keeper::Nobody, 1_024, 1),
        habits("from earliest and narrow", 0, Keeper::Nobody, 16, 5),
    ]
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is not a number: {value}")))
}

const CYCLES: u64 = 8;
