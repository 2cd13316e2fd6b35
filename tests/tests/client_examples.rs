//! The client's examples do what they say, against a real server.

#![allow(clippy::unwrap_used, reason = "what cannot be unwrapped fails its test")]

use anyhow::{Context, Result, ensure};
use redeliver_tests::process::{ServerProcess, example, run};

#[test]
fn what_the_emitter_emits_is_added_up_exactly_once() -> Result<()> {
    let mut server = ServerProcess::start()?;
    let url = server.url();
    let folder = tempfile::TempDir::new()?;
    let path = folder.path().join("sum.json");
    let path = path.to_str().context("a plain path")?;
    let sum = |expected: u64| -> Result<()> {
        let books: serde_json::Value = serde_json::from_slice(&std::fs::read(path)?)?;
        ensure!(books["crates_of_tea"] == expected, "{books}");
        Ok(())
    };
    // Crates of 1 to 6, then none: 21 for each seven orders.
    ensure!(run(example("emitter", &[&url, "14"])?)?.status.success());
    ensure!(run(example("exactly_once", &[&url, path])?)?.status.success());
    sum(42)?;
    ensure!(run(example("exactly_once", &[&url, path])?)?.status.success());
    sum(42)?;
    server.restart()?;
    ensure!(run(example("emitter", &[&url, "7"])?)?.status.success());
    ensure!(run(example("exactly_once", &[&url, path])?)?.status.success());
    sum(63)
}

#[test]
fn a_server_that_answers_no_requests_says_so() -> Result<()> {
    let server = ServerProcess::start()?;
    let finished = run(example("request", &[&server.url(), "status"])?)?;
    ensure!(finished.status.success(), "{finished:?}");
    ensure!(finished.stdout.contains("nobody answers requests there"), "{}", finished.stdout);
    Ok(())
}
