//! An order service keeps an outbox table, and a relay emits its rows. The relay and the server are killed again and again:
//! each row is one event, in the order of the table.
//!
//! `OUTBOX_KILLS` makes it longer (60 is what a release should survive), `OUTBOX_SEED` repeats a run's choices.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail, and says what it did")]

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use redeliver_tests::chance::Chance;
use redeliver_tests::outbox::Outbox;
use redeliver_tests::process::{PATIENCE, Running, ServerProcess};

#[test]
fn each_row_of_an_outbox_is_one_event_in_order_whoever_is_killed() -> Result<()> {
    let server = ServerProcess::start()?;
    let url = server.url();
    tell(server, &url, true)
}

/// The server lives in the relay's process, and dies with it.
#[test]
fn each_row_of_an_outbox_is_one_event_in_order_with_a_server_in_the_relay() -> Result<()> {
    let mut server = ServerProcess::start()?;
    server.terminate()?;
    let data = format!("in:{}", server.data().display());
    tell(server, &data, false)
}

fn tell(mut server: ServerProcess, relay_to: &str, has_server: bool) -> Result<()> {
    let kills = from_environment("OUTBOX_KILLS").unwrap_or(KILLS);
    let seed = from_environment("OUTBOX_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("OUTBOX_SEED={seed} OUTBOX_KILLS={kills}");
    let mut chance = Chance::new(seed);
    let database = server.folder().join("shop");
    let mut shop = Outbox::open(&database)?;
    let start_relay = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outbox-relay"));
        Running::start({
            command.arg(relay_to).arg(&database);
            command
        })
    };
    let begin = Instant::now();
    let (mut rows, mut server_kills) = (0, 0);
    let mut relay = start_relay()?;
    for kill in 1..=kills {
        let context = || format!("seed {seed}, kill {kill}");
        let receipts = chance.below(20);
        for _ in 0..receipts + chance.below(60) {
            rows += 1;
            shop.order(&format!("order {rows}"))?;
        }
        // Most kills fall among the receipts, some on the way to them.
        wait_for_receipts(&mut relay, receipts).with_context(context)?;
        // One kill of the server for six of the relay: first, afterwards, or while the next relay is on its way.
        let (dies, dies_first) = (has_server && kill % 6 == 0, chance.once_in(2));
        if dies && dies_first {
            server.kill()?;
        }
        relay.kill()?;
        relay = start_relay()?;
        if dies {
            server.restart().with_context(context)?;
            server_kills += 1;
        }
    }
    while shop.settled()? < rows {
        ensure!(begin.elapsed() < 3 * PATIENCE, "seed {seed}: {} of {rows} rows have receipts", shop.settled()?);
        ensure!(relay.is_running()?, "the relay ended: {:?}", relay.finish()?);
        std::thread::sleep(Duration::from_millis(10));
    }
    relay.kill()?;
    println!("{kills} kills of the relay, {server_kills} of the server, {rows} rows in {:?}", begin.elapsed());
    server.restart()?;
    let all = server.run(&["listen", "orders", "--start", "earliest", "--until-caught-up"])?.succeeded()?;
    let expected: Vec<String> = (1..=rows).map(|row| format!("order {row}")).collect();
    ensure!(all.lines() == expected, "seed {seed}: {} rows, {:?}", expected.len(), all.lines());
    Ok(())
}

/// Reads what the relay says until it has noted so many receipts.
fn wait_for_receipts(relay: &mut Running, count: u64) -> Result<()> {
    let mut receipts = 0;
    while receipts < count {
        receipts += u64::from(relay.next_line()?.starts_with("settled"));
    }
    Ok(())
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is not a number: {value}")))
}

const KILLS: u64 = 12;
