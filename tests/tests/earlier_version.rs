//! Data directories of earlier versions open with today's code and hold what they held. What each fixture is, and how it was
//! made, stands in tests/fixtures/README.md.
#![allow(clippy::unwrap_used, reason = "what cannot be unwrapped fails its test")]

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use redeliver_log::{LogConfig, open_dir};
use redeliver_protocol::seq::Epoch;
use redeliver_protocol::time::{Instant, Timestamp};
use redeliver_tests::stored::{Names, content};
use serde_json::Value;
use tempfile::TempDir;
use uuid::Uuid;

#[test]
fn a_directory_written_by_commit_7812c30_reads_back_equal_however_often_it_is_opened() -> Result<()> {
    let expected: Value = serde_json::from_slice(&std::fs::read(fixture("7812c30").join("content.json"))?)?;
    let data = unpacked("7812c30")?;
    for opening in 1..=3 {
        let found = read(data.path(), &expected).with_context(|| format!("opening {opening}"))?;
        assert_same(&expected, &found, &format!("opening {opening}"));
    }
    Ok(())
}

#[test]
fn the_fixture_of_commit_7812c30_holds_something_of_everything() -> Result<()> {
    let expected: Value = serde_json::from_slice(&std::fs::read(fixture("7812c30").join("content.json"))?)?;
    let rows = |what: &str| expected[what].as_array().cloned().unwrap_or_default();
    let events: Vec<Value> =
        rows("topics").iter().flat_map(|topic| topic["events"].as_array().unwrap().clone()).collect();
    let has = |what: &str, holds: &dyn Fn(&Value) -> bool| assert!(events.iter().any(holds), "no event with {what}");
    has("an except list", &|event| event["except"].is_array());
    has("a gap before it", &|event| event["gap"] == "RetentionSize");
    has("a large payload", &|event| event["payload"]["bytes"].as_u64() >= Some(100_000));
    has("JSON", &|event| event["kind"] == "Json");
    has("an empty payload", &|event| event["payload"] == "");
    let seqs: Vec<&Value> = events.iter().map(|event| &event["seq"]).filter(|seq| seq.is_u64()).collect();
    assert!(seqs.iter().enumerate().any(|(at, seq)| seqs[..at].contains(seq)), "no event of several topics");
    assert!(rows("cursors").iter().any(|row| row["resumed"]["gap"].is_object()), "nobody whom retention has passed");
    assert!(rows("publishers").iter().any(|row| row["reached"].is_u64()), "no publisher");
    assert!(
        rows("states").iter().any(|row| row["key"].as_str().unwrap().starts_with("sio/p/")),
        "no Socket.IO session"
    );
    Ok(())
}

fn read(data: &Path, expected: &Value) -> Result<Value> {
    let epoch = Epoch::from(Uuid::new_v4());
    let log = open_dir(data, LogConfig::default(), epoch, WRITTEN, Instant::ORIGIN)?;
    content(&log, &Names::in_content(expected))
}

/// Compares part by part: what is told of a difference should fit on a page.
fn assert_same(expected: &Value, found: &Value, context: &str) {
    for (part, expected) in expected.as_object().unwrap() {
        let rows = |value: &Value| value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
        let (expected, found) = (rows(expected), rows(&found[part]));
        assert_eq!(expected.len(), found.len(), "{context}: {part}");
        for (mut expected, mut found) in expected.into_iter().zip(found) {
            let events = |value: &mut Value| value.get_mut("events").map(Value::take).unwrap_or_default();
            let (left, right) = (events(&mut expected), events(&mut found));
            assert_eq!(expected, found, "{context}: {part}");
            for (left, right) in rows(&left).into_iter().zip(rows(&right)) {
                assert_eq!(left, right, "{context}: {part}: {expected}");
            }
            assert_eq!(rows(&left).len(), rows(&right).len(), "{context}: {part}: {expected}");
        }
    }
}

/// A copy of a fixture's data directory, which is removed with it.
fn unpacked(name: &str) -> Result<TempDir> {
    let dir = TempDir::new()?;
    let archive = fixture(name).join("data.tar.gz");
    let status = Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(dir.path()).status().context("tar")?;
    ensure!(status.success(), "tar: {status}");
    Ok(dir)
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// A moment after the last event, so that nothing has expired, whenever the test runs.
const WRITTEN: Timestamp = Timestamp(1_795_833_700_000);
