//! `make bench`: runs the workloads one after another, and reports. Ends with an error if anything did not arrive as it was
//! sent.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use redeliver_benches::report::{Machine, Report, Row, Wanted};
use redeliver_benches::workloads::emitters::Pattern;
use redeliver_benches::workloads::{
    Run, emit, fanout, memory, merged, recovery, restart, slow, socketio, sustained, topics,
};

/// Drives a real server over loopback and measures it
#[derive(Debug, Parser)]
struct Args {
    /// End within two minutes
    #[arg(long)]
    quick: bool,

    /// Where reports go and data directories are made
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,

    /// Run only the workloads whose name has this in it, or all of these words
    #[arg(long)]
    only: Option<String>,

    /// How many seconds the sustained workload emits (it is not part of a quick run unless this is given)
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    sustained: Option<u64>,

    /// Tell the names of the workloads, and end
    #[arg(long)]
    list: bool,
}

/// A workload: what it is called, and what it does.
type Workload = (String, Measure);

type Measure = Box<dyn Fn(&Run) -> Result<Vec<Row>>>;

fn main() -> Result<()> {
    let args = Args::parse();
    let mut workloads = workloads(&args);
    if let Some(only) = &args.only {
        let is_named = workloads.iter().any(|(name, _)| name.contains(only));
        let words: Vec<&str> = if is_named { vec![only] } else { only.split_whitespace().collect() };
        workloads.retain(|(name, _)| words.iter().all(|word| name.contains(word)));
        ensure!(!workloads.is_empty(), "no workload has `{only}` in its name; --list tells them");
    }
    if args.list {
        let names: Vec<String> = workloads.into_iter().map(|(name, _)| name).collect();
        return writeln!(std::io::stdout(), "{}", names.join("\n")).context("stdout");
    }
    std::fs::create_dir_all(&args.out).context("the directory for the reports cannot be made")?;
    let _ = std::fs::remove_file(args.out.join("server.log"));
    // As far as the system allows; who needs more says so.
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    let machine = Machine::now();
    let rows = run_all(&args, &workloads)?;
    let failures: Vec<_> = rows.iter().filter(|row| !row.verified).map(|row| row.workload.clone()).collect();
    let report = Report { machine: machine.after(), command: command(&args), quick: args.quick, rows };
    report.write(&args.out)?;
    writeln!(std::io::stdout(), "{}", report.markdown()).context("stdout")?;
    say(&format!("reports: {0}/report.md, {0}/report.json, {0}/report.svg", args.out.display()));
    ensure!(failures.is_empty(), "failed: {}", failures.join(", "));
    Ok(())
}

fn run_all(args: &Args, workloads: &[Workload]) -> Result<Vec<Row>> {
    let bars = MultiProgress::new();
    let all = bars.add(ProgressBar::new(workloads.len() as u64));
    all.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {msg}").context("the bar's template")?);
    all.enable_steady_tick(Duration::from_millis(200));
    let inner = bars.add(ProgressBar::new_spinner());
    inner.set_style(ProgressStyle::with_template("{spinner} {msg}").context("the spinner's template")?);
    let span = Duration::from_secs(args.sustained.unwrap_or(SUSTAINED_S));
    let run = Run::new(args.out.clone(), args.quick, span, inner.clone());
    let mut rows = Vec::new();
    for (name, workload) in workloads {
        all.set_message(name.clone());
        let begun = Instant::now();
        match workload(&run) {
            Ok(measured) => rows.extend(measured),
            Err(error) => {
                bars.suspend(|| say(&format!("{name} failed: {error:#}")));
                rows.push(Row::failed(name, format!("{error:#}")));
            }
        }
        if !std::io::stderr().is_terminal() {
            say(&format!("{name}: {:.1} s", begun.elapsed().as_secs_f64()));
        }
        all.inc(1);
    }
    inner.finish_and_clear();
    all.finish_and_clear();
    Ok(rows)
}

/// As people type it.
fn command(args: &Args) -> String {
    let mut words = "make bench".to_owned();
    if args.quick {
        words.push_str(" QUICK=1");
    }
    if let Some(only) = &args.only {
        words.push_str(&format!(" ONLY='{only}'"));
    }
    if let Some(seconds) = args.sustained {
        words.push_str(&format!(" SUSTAINED={seconds}"));
    }
    words
}

fn workloads(args: &Args) -> Vec<Workload> {
    let quick = args.quick;
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
    for (pattern, wanted) in emits() {
        let name = match pattern.shape.payload_bytes {
            128 => format!("durable emit, {} × {}", pattern.connections, pattern.outstanding),
            bytes => format!("durable emit, {} × {}, {bytes} B", pattern.connections, pattern.outstanding),
        };
        add(
            name,
            Box::new(move |run| {
                let row = emit::saturated(run, pattern)?;
                Ok(vec![match wanted {
                    Some(least) => row.wanted(Wanted::AtLeast(least)),
                    None => row,
                }])
            }),
        );
    }
    add("durable emit, 64 × 32, and at half of it".to_owned(), Box::new(emit::saturated_and_half));
    let missed: &[u64] = if quick { &[1000, 10_000, 100_000] } else { &[1000, 10_000, 100_000, 1_000_000] };
    for &missed in missed {
        add(format!("recovery of {missed} events"), Box::new(move |run| recovery::one(run, missed)));
    }
    add("reconnect storm, one topic".to_owned(), Box::new(|run| recovery::storm(run, 1000, 100, false)));
    add("reconnect storm, topics of their own".to_owned(), Box::new(|run| recovery::storm(run, 1000, 100, true)));
    add("merged reading".to_owned(), Box::new(merged::mostly_empty));
    for readers in [1000, 10_000] {
        add(format!("idle memory, {readers} readers"), Box::new(move |run| Ok(vec![memory::idle(run, readers)?])));
    }
    add("slow readers".to_owned(), Box::new(|run| slow::beside(run, 500)));
    for burst in [1, 8] {
        let name = format!("Socket.IO fan-out to 1000, {burst} in a burst");
        add(name, Box::new(move |run| Ok(vec![socketio::fan_out(run, 1000, burst)?])));
    }
    // Node's time grows with the square of this: a thousand take it longer than a quick run may take in all.
    let readers = if quick { 250 } else { 1000 };
    let recovery = move |run: &Run| Ok(vec![socketio::recovery(run, readers, 100)?]);
    add(format!("Socket.IO recovery of {readers}"), Box::new(recovery));
    let events: &[u64] = if quick { &[200_000] } else { &[1_000_000, 10_000_000] };
    for &events in events {
        add(format!("restart with {events} events"), Box::new(move |run| Ok(vec![restart::after_kill(run, events)?])));
    }
    if !quick || args.sustained.is_some() {
        add("sustained emit, retention at work".to_owned(), Box::new(sustained::emit));
    }
    // Last, since it is what a quick run can do without.
    add("topics, up to a million".to_owned(), Box::new(topics::flatness));
    all
}

/// Who emits how, and the events per second that are wanted.
fn emits() -> Vec<(Pattern, Option<f64>)> {
    vec![
        (Pattern::new(1, 1), None),
        (Pattern::new(64, 1), Some(80_000.0)),
        (Pattern::new(1000, 1), None),
        (Pattern::new(1, 256), Some(200_000.0)),
        (Pattern::new(64, 1).payload(1024), None),
        (Pattern::new(64, 32).payload(1024), None),
    ]
}

fn say(words: &str) {
    // Nothing can be done about an stderr that is closed.
    let _ = writeln!(std::io::stderr(), "{words}");
}

/// Ten minutes.
const SUSTAINED_S: u64 = 600;
