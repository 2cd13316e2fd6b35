//! `redeliver bench` against a real server, in sizes that take no time: what it counts, that it verifies, and how it ends.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use anyhow::Result;
use redeliver_tests::process::{Finished, ServerProcess, free_port, redeliver, run};
use serde_json::Value;

const TINY: [&str; 7] = ["bench", "--events", "600", "--readers", "3", "--emitters", "4"];

#[test]
fn every_workload_delivers_all_that_it_emitted_and_says_so() -> Result<()> {
    let server = ServerProcess::start()?;
    let rows = rows(&server.run(&[&TINY[..], &["--json"]].concat())?.succeeded()?);
    let seen: Vec<_> = rows.iter().map(|row| (text(row, "workload"), text(row, "parameters"))).collect();
    assert_eq!(
        seen,
        [
            ("emit", "600 events of 128 B, 4 emitters, 64 outstanding each"),
            ("fan-out", "3 readers, 200 events of 128 B, 64 outstanding"),
            ("recovery", "one reader, 600 missed events of 128 B"),
            ("recovery", "3 readers at once, 100 missed events of 128 B each"),
        ]
    );
    for row in &rows {
        assert_eq!(row["verified"], true, "{row}");
        assert!(row["value"].as_f64().unwrap() > 0.0 && row["server_cpu_s"].is_null(), "{row}");
    }
    assert!(rows[0]["p50_us"].as_u64() <= rows[0]["p99_us"].as_u64() && rows[2]["p50_us"].is_null(), "{rows:?}");
    // What it stored is what it says: nothing was warmed up in silence.
    let marker = server.run(&["emit", "t", "marker"])?.succeeded()?;
    assert_eq!(marker.stdout, "emitted 1 event, seq 1401..1401\n");
    Ok(())
}

#[test]
fn a_table_is_printed_unless_json_is_asked_for_and_only_the_chosen_workloads_run() -> Result<()> {
    let server = ServerProcess::start()?;
    let chosen = ["--workload", "recovery,emit", "--payload", "1 KiB", "--outstanding", "1"];
    let bench = server.run(&[&TINY[..], &chosen].concat())?.succeeded()?;
    let first = |line: &&str| line.split_whitespace().next().unwrap_or_default().to_owned();
    let words: Vec<String> = bench.lines().iter().map(first).collect();
    assert_eq!(words, ["workload", "recovery", "recovery", "emit"]);
    assert!(bench.lines()[1..].iter().all(|line| line.contains("1024 B") && line.ends_with("yes")), "{bench:?}");
    Ok(())
}

#[test]
fn each_run_has_topics_of_its_own() -> Result<()> {
    let server = ServerProcess::start()?;
    for _ in 0..2 {
        let rows = rows(&server.run(&[&TINY[..], &["--workload", "recovery", "--json"]].concat())?.succeeded()?);
        assert_eq!(text(&rows[0], "parameters"), "one reader, 600 missed events of 128 B");
    }
    Ok(())
}

#[test]
fn a_server_that_dies_meanwhile_loses_nothing() -> Result<()> {
    let mut server = ServerProcess::start()?;
    let bench =
        server.spawn(&["bench", "--workload", "emit,fan-out", "--events", "20k", "--readers", "4", "--json"])?;
    for _ in 0..3 {
        server.kill()?;
        server.launch()?;
    }
    let rows = rows(&bench.finish()?.succeeded()?);
    assert_eq!(rows.iter().map(|row| row["verified"].as_bool().unwrap()).collect::<Vec<_>>(), [true, true]);
    Ok(())
}

#[test]
fn a_run_that_is_not_done_in_time_says_how_far_it_came() -> Result<()> {
    let server = ServerProcess::start()?;
    let late = server.run(&["bench", "--workload", "emit", "--events", "100M", "--time-limit", "300ms", "--json"])?;
    assert_eq!(late.code(), Some(4));
    assert!(late.stderr.contains("not done within 300ms: ") && late.stderr.contains("of 100000000"), "{late:?}");
    assert_eq!(rows(&late)[0]["verified"], false);
    Ok(())
}

#[test]
fn a_server_that_is_not_there_is_a_failure_with_a_hint() -> Result<()> {
    let url = format!("ws://127.0.0.1:{}", free_port()?);
    let lost = run(redeliver(["bench", "--time-limit", "500ms", "--url", &url])?)?;
    assert_eq!(lost.code(), Some(1));
    assert!(lost.stderr.contains("error: no connection") && lost.stderr.contains("hint: is it running?"), "{lost:?}");
    for wrong in ["--events=0", "--payload=8", "--readers=0", "--workload=all"] {
        assert_eq!(run(redeliver(["bench", wrong])?)?.code(), Some(2), "{wrong}");
    }
    Ok(())
}

fn rows(finished: &Finished) -> Vec<Value> {
    serde_json::from_str(&finished.stdout).unwrap()
}

fn text<'a>(row: &'a Value, key: &str) -> &'a str {
    row[key].as_str().unwrap()
}
