//! `make bench`: runs the workloads one after another, and reports. Ends with an error if anything did not arrive as it was
//! sent.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use redeliver_benches::report::{Report, Row};
use redeliver_benches::workloads::{Run, emit, fanout, memory, recovery, restart, slow};

/// Drives a real server over loopback and measures it
#[derive(Debug, Parser)]
struct Args {
    /// End within two minutes
    #[arg(long)]
    quick: bool,

    /// Where reports go and data directories are made
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,

    /// Run only the workloads whose name has this in it
    #[arg(long)]
    only: Option<String>,
}

/// A workload: what it is called, and what it does.
type Workload = (String, Measure);

type Measure = Box<dyn Fn(&Run) -> Result<Vec<Row>>>;

fn main() -> Result<()> {
    let args = Args::parse();
    std::fs::create_dir_all(&args.out).context("the directory for the reports cannot be made")?;
    // As far as the system allows; who needs more says so.
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    let run = Run { dir: args.out.clone(), quick: args.quick };
    let mut workloads = workloads(args.quick);
    if let Some(only) = &args.only {
        workloads.retain(|(name, _)| name.contains(only));
    }
    let bar = ProgressBar::new(workloads.len() as u64);
    bar.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {msg}").context("the bar's template")?);
    bar.enable_steady_tick(Duration::from_millis(200));
    let mut rows = Vec::new();
    let mut failures = Vec::new();
    for (name, workload) in &workloads {
        bar.set_message(name.clone());
        if !std::io::stderr().is_terminal() {
            say(&format!("{name} …"));
        }
        match workload(&run) {
            Ok(measured) => rows.extend(measured),
            Err(error) => {
                rows.push(Row::failed(name));
                bar.suspend(|| say(&format!("{name} failed: {error:#}")));
                failures.push(name.clone());
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let report = Report::new(args.quick, rows);
    report.write(&args.out)?;
    writeln!(std::io::stdout(), "{}", report.table()).context("stdout")?;
    say(&format!("reports: {0}/report.md, {0}/report.json, {0}/report.svg", args.out.display()));
    ensure!(failures.is_empty(), "failed: {}", failures.join(", "));
    Ok(())
}

fn workloads(quick: bool) -> Vec<Workload> {
    let mut all: Vec<Workload> = Vec::new();
    let mut add = |name: String, workload: Measure| all.push((name, workload));
    for readers in [100, 1000] {
        for per_commit in [1, 8, 64] {
            let name = format!("fan-out to {readers}, {per_commit} events a commit");
            add(name, Box::new(move |run| fanout::rounds(run, readers, per_commit).map(|row| vec![row])));
        }
        let name = format!("fan-out to {readers}, flat out");
        add(name, Box::new(move |run| fanout::flood(run, readers).map(|row| vec![row])));
    }
    add("fan-out latency, 1000 readers".to_owned(), Box::new(|run| Ok(vec![fanout::latency(run, 1000)?])));
    for (connections, outstanding) in [(1, 1), (64, 1), (1, 256)] {
        let name = format!("durable emit, {connections} × {outstanding}");
        add(name, Box::new(move |run| emit::saturated(run, connections, outstanding).map(|row| vec![row])));
    }
    let half = |run: &Run| {
        let full = emit::saturated(run, 64, 32)?;
        let half = emit::steady(run, 64, full.value / 2.0)?;
        Ok(vec![full, half])
    };
    add("durable emit, 64 × 32, and at half of it".to_owned(), Box::new(half));
    for missed in [1000, 10_000, 100_000] {
        add(format!("recovery of {missed} events"), Box::new(move |run| recovery::one(run, missed)));
    }
    add("reconnect storm".to_owned(), Box::new(|run| Ok(vec![recovery::storm(run, 1000, 100)?])));
    let idle: &[usize] = if quick { &[1000] } else { &[1000, 10_000] };
    for &readers in idle {
        add(format!("idle memory, {readers} readers"), Box::new(move |run| Ok(vec![memory::idle(run, readers)?])));
    }
    add("slow readers".to_owned(), Box::new(|run| slow::beside(run, 500)));
    let events = if quick { 200_000 } else { 1_000_000 };
    add(format!("restart with {events} events"), Box::new(move |run| Ok(vec![restart::after_kill(run, events)?])));
    all
}

fn say(words: &str) {
    // Nothing can be done about an stderr that is closed.
    let _ = writeln!(std::io::stderr(), "{words}");
}
