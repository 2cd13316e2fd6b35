//! The raw program: see `redeliver_benches::raw`.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use redeliver_benches::raw;

#[derive(Debug, Parser)]
enum Args {
    /// One shared buffer to every connection
    Fanout {
        #[arg(long)]
        per_round: u64,
        #[arg(long)]
        rounds: u64,
    },
    /// Append and sync
    Append {
        #[arg(long)]
        file: PathBuf,
        #[arg(long)]
        commit_bytes: usize,
        #[arg(long)]
        milliseconds: u64,
    },
}

fn main() -> Result<()> {
    let mut stdout = std::io::stdout();
    match Args::parse() {
        Args::Fanout { per_round, rounds } => raw::fanout(per_round, rounds, |address| {
            writeln!(stdout, "raw listening on tcp://{address}").and_then(|()| stdout.flush()).context("stdout")
        }),
        Args::Append { file, commit_bytes, milliseconds } => {
            let (commits, took) = raw::append(&file, commit_bytes, Duration::from_millis(milliseconds))?;
            writeln!(stdout, "{commits} {}", took.as_secs_f64()).context("stdout")
        }
    }
}
