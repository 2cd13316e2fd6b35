//! The server's wall clock is set by years, to 1970 and back, and a server is off for days: real processes under libfaketime.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use redeliver_tests::needs::fake_time;
use redeliver_tests::process::{PATIENCE, ServerProcess};
use serde_json::Value;
use tempfile::TempDir;

#[test]
fn a_clock_that_is_set_again_and_again_changes_neither_age_nor_later_times() -> Result<()> {
    let dir = TempDir::new()?;
    let clock = dir.path().join("clock");
    fs::write(&clock, "+0\n")?;
    let mut server = server(dir.path(), &format!("{}s", AGE.as_secs()))?;
    // The monotonic clock stays real, and the file is read again at each look at the wall clock.
    server.set_environment(vec![
        library()?,
        ("FAKETIME_TIMESTAMP_FILE".to_owned(), clock.clone().into()),
        ("FAKETIME_NO_CACHE".to_owned(), "1".into()),
        ("FAKETIME_DONT_FAKE_MONOTONIC".to_owned(), "1".into()),
    ]);
    server.restart()?;
    let mut emitted = Vec::new();
    let mut emit = |server: &ServerProcess, what: &str| -> Result<()> {
        emitted.push((what.to_owned(), Instant::now()));
        server.run(&["emit", "t", what])?.succeeded().map(|_| ())
    };
    emit(&server, "begin")?;
    let jumps = ["+3650d", "+0", "-20700d", "+0", "-1d", "+0"];
    for (number, offset) in jumps.iter().enumerate() {
        // Replaced as a whole: a server that reads it in between sees one or the other.
        let next = dir.path().join("next");
        fs::write(&next, format!("{offset}\n"))?;
        fs::rename(&next, &clock)?;
        emit(&server, &format!("{number}"))?;
        server.wait_for_stderr("the wall clock was set")?;
    }
    let times = times(&server)?;
    let at = |what: &str| times.get(what).cloned().with_context(|| format!("{what} is gone: {times:?}"));
    for right in ["1", "3", "5"] {
        ensure!(at("begin")? <= at(right)? && at(right)? < at("0")?, "times are right again: {times:?}");
    }
    ensure!(at("2")?.starts_with("1970") && at("4")? < at("begin")?, "a time is the clock's: {times:?}");
    let begin = Instant::now();
    loop {
        let left = self::times(&server)?;
        for (what, since) in &emitted {
            ensure!(left.contains_key(what) || since.elapsed() >= AGE, "{what} went early");
        }
        if left.is_empty() {
            break;
        }
        ensure!(begin.elapsed() < PATIENCE / 4, "what is due does not go: {left:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
    let said = server.terminate()?;
    ensure!(
        said.stderr.matches("the wall clock was set").count() == jumps.len(),
        "one warning a jump: {}",
        said.stderr
    );
    Ok(())
}

/// Off for five days. Then both clocks go sixty times as fast, so that the three minutes pass for which a wall clock must
/// stand before it is believed.
#[test]
fn what_became_due_while_a_server_was_off_for_days_goes_and_nothing_else() -> Result<()> {
    let dir = TempDir::new()?;
    let mut server = server(dir.path(), "2d")?;
    server.set_environment(vec![library()?, ("FAKETIME".to_owned(), "+0".into())]);
    server.restart()?;
    server.run(&["emit", "t", "old"])?.succeeded()?;
    server.terminate()?;
    server.set_environment(vec![library()?, ("FAKETIME".to_owned(), "+5d x60".into())]);
    server.restart()?;
    server.run(&["emit", "t", "new"])?.succeeded()?;
    let begin = Instant::now();
    while times(&server)?.contains_key("old") {
        ensure!(begin.elapsed() < PATIENCE / 4, "what became due does not go");
        std::thread::sleep(Duration::from_millis(100));
    }
    ensure!(times(&server)?.contains_key("new"), "what is not due stays");
    Ok(())
}

fn server(dir: &Path, age: &str) -> Result<ServerProcess> {
    let config = dir.join("config.toml");
    fs::write(&config, format!("[retention]\nage = \"{age}\"\n"))?;
    ServerProcess::at(dir.join("data"), &["--config", config.to_str().context("no text")?])
}

fn library() -> Result<(String, OsString)> {
    Ok(("LD_PRELOAD".to_owned(), fake_time().context("libfaketime is not installed")?.into()))
}

/// The events that are there, each with its time as text: texts of the same form compare as their times do.
fn times(server: &ServerProcess) -> Result<BTreeMap<String, String>> {
    let args = ["listen", "t", "--start", "earliest", "--until-caught-up", "--format", "json"];
    let listened = server.run(&args)?.succeeded()?;
    let events = listened.lines().into_iter().map(|line| {
        let event: Value = serde_json::from_str(line)?;
        let text = |key: &str| event[key].as_str().map(ToOwned::to_owned).with_context(|| format!("no {key}: {line}"));
        Ok((text("payload")?, text("time")?))
    });
    // A gap has no payload: it says that something is gone, and is no event.
    Ok(events.filter_map(|event: Result<_>| event.ok()).collect())
}

const AGE: Duration = Duration::from_secs(12);
