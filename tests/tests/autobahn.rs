//! The cases of Autobahn, the suite that WebSocket implementations are measured by, against the crate `redeliver-websocket`
//! alone: every case must be behaved in and ended as the RFC says.

use anyhow::{Context, Result, ensure};
use redeliver_tests::needs::kosoku;
use redeliver_tests::process::{Running, example, run};
use serde_json::Value;

#[test]
fn every_case_of_autobahn_is_passed() -> Result<()> {
    let mut server = Running::start(example("websocket_echo", &["127.0.0.1:0"])?)?;
    let address = server.next_line()?;
    let folder = tempfile::TempDir::new()?;
    let mut suite = std::process::Command::new(kosoku());
    // Compression (12, 13) is never agreed on.
    suite.args([&address, "-x", "12.*", "-x", "13.*", "-p", "4", "-o"]).arg(folder.path());
    let finished = run(suite)?;
    let index = std::fs::read(folder.path().join("index.json"))
        .with_context(|| format!("the suite wrote no report: {finished:?}"))?;
    let index: Value = serde_json::from_slice(&index)?;
    let cases = index.as_object().and_then(|agents| agents.values().next()).and_then(Value::as_object);
    let cases = cases.context("a report without an agent")?;
    ensure!(cases.len() > 200, "only {} cases were run", cases.len());
    let is_good = |case: &Value, key: &str| matches!(case[key].as_str(), Some("OK" | "NON-STRICT" | "INFORMATIONAL"));
    let bad: Vec<_> =
        cases.iter().filter(|(_, case)| !is_good(case, "behavior") || !is_good(case, "behaviorClose")).collect();
    ensure!(bad.is_empty(), "{} cases failed: {bad:#?}", bad.len());
    server.kill()?;
    Ok(())
}
