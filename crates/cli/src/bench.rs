//! `redeliver bench`: emits, follows and recovers on a server that runs already, through the client library that apps use,
//! and holds everything that arrives against what was sent. Bounded in count and time; writes only to topics of its own.

mod crowd;
mod emit;
mod events;
mod fan_out;
mod figures;
mod recovery;

use std::io::{IsTerminal, Write};

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use uuid::Uuid;

use self::crowd::Crowd;
use self::figures::Row;
use crate::args::{BenchArgs, BenchWorkload};
use crate::exit::{Exit, Problem};
use crate::stop::Stop;

/// Runs the workloads one after another, and prints their figures whatever happened.
pub(crate) async fn run(args: BenchArgs, mut stop: Stop) -> Result<Exit> {
    let bar = progress_bar();
    let crowd = Crowd::new(&args, Uuid::new_v4(), bar.clone());
    let mut rows = Vec::new();
    let mut problem = None;
    for workload in workloads(&args) {
        let ended = tokio::select! {
            ended = tokio::time::timeout(args.time_limit, measure(workload, &crowd)) => ended,
            how = stop.asked() => {
                problem = Some(Problem::new("interrupted: what was emitted stays stored").exit(how));
                break;
            }
        };
        match ended.unwrap_or_else(|_| Err(too_slow(&args, &bar).into())) {
            Ok(measured) => rows.extend(measured),
            Err(error) => {
                rows.push(Row::failed(workload.name()));
                problem = Some(match error.downcast::<Problem>() {
                    Ok(problem) => problem,
                    Err(error) => Problem::new(format!("{}: {error:#}", workload.name())),
                });
                // Whatever is wrong with the server would be wrong with the next one as well.
                break;
            }
        }
    }
    bar.finish_and_clear();
    let text = if args.json { figures::json(&rows)? } else { figures::table(&rows) };
    write!(std::io::stdout(), "{text}").context("stdout cannot be written")?;
    match problem {
        None => Ok(Exit::Success),
        Some(problem) => Err(problem.into()),
    }
}

async fn measure(workload: BenchWorkload, crowd: &Crowd<'_>) -> Result<Vec<Row>> {
    match workload {
        BenchWorkload::Emit => emit::measure(crowd).await,
        BenchWorkload::FanOut => fan_out::measure(crowd).await,
        BenchWorkload::Recovery => recovery::measure(crowd).await,
    }
}

/// Each once, in the order in which they were given.
fn workloads(args: &BenchArgs) -> Vec<BenchWorkload> {
    let mut all = Vec::new();
    for workload in &args.workload {
        if !all.contains(workload) {
            all.push(*workload);
        }
    }
    if all.is_empty() { vec![BenchWorkload::Emit, BenchWorkload::FanOut, BenchWorkload::Recovery] } else { all }
}

fn too_slow(args: &BenchArgs, bar: &ProgressBar) -> Problem {
    let limit = humantime::format_duration(args.time_limit);
    let words = format!("not done within {limit}: {} of {}", bar.position(), bar.length().unwrap_or_default());
    Problem::new(words).hint("give it more --time-limit, or fewer --events or --readers").exit(Exit::TimedOut)
}

fn progress_bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        // Hidden, and still counting.
        return ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
    }
    let bar = ProgressBar::new(0);
    match ProgressStyle::with_template("{msg:20} {bar:30} {human_pos}/{human_len} {elapsed}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
