//! The server's examples do what they say.

#![allow(clippy::unwrap_used, reason = "what cannot be unwrapped fails its test")]

use anyhow::{Context, Result, ensure};
use redeliver_tests::process::{Running, example, run};

#[test]
fn an_app_follows_its_own_events_durably_from_run_to_run() -> Result<()> {
    let folder = tempfile::TempDir::new()?;
    let data = folder.path().join("data");
    let data = data.to_str().context("a plain path")?;
    for _ in 0..2 {
        let finished = run(example("in_process", &[data])?)?.succeeded()?;
        // The order of the run before was acknowledged: it does not come again.
        ensure!(finished.lines() == ["order 7: 3 crates of tea"], "{finished:?}");
    }
    Ok(())
}

#[test]
fn a_row_that_is_relayed_twice_is_one_event() -> Result<()> {
    let folder = tempfile::TempDir::new()?;
    let path = |name: &str| folder.path().join(name).display().to_string();
    let relay = || run(example("publisher", &[&path("data"), &path("outbox"), &path("done")])?)?.succeeded();
    std::fs::write(path("outbox"), "tea\ncoffee\n")?;
    ensure!(relay()?.lines() == ["row 1 is stored", "row 2 is stored"]);
    // As if it had been killed before it could note the second row.
    std::fs::write(path("done"), "1")?;
    std::fs::write(path("outbox"), "tea\ncoffee\nsugar\n")?;
    ensure!(relay()?.lines() == ["row 2 was stored before", "row 3 is stored"]);
    ensure!(std::fs::read_to_string(path("done"))? == "3");
    Ok(())
}

#[test]
fn a_client_asks_the_app() -> Result<()> {
    let mut app = Running::start(example("requests", &["127.0.0.1:0"])?)?;
    let line = app.next_line()?;
    let url = line.strip_prefix("listening on ").context("a url")?;
    let asked = run(example("request", &[url, "status", "thermostat"])?)?.succeeded()?;
    ensure!(asked.lines() == ["thermostat is well, anonymous"], "{asked:?}");
    let asked = run(example("request", &[url, "dance"])?)?.succeeded()?;
    ensure!(asked.stdout.contains("dance is not known here"), "{asked:?}");
    app.kill()?;
    Ok(())
}
