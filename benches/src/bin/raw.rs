//! The raw program: see `redeliver_benches::raw`. Beside it the log without a server: see `redeliver_benches::committer`.

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;
use redeliver_benches::committer::Committer;
use redeliver_benches::raw::{self, Appender};
use redeliver_benches::turns::Ask;
use serde::Serialize;

#[derive(Debug, Parser)]
enum Args {
    /// One shared buffer to every connection
    Fanout {
        #[arg(long)]
        per_round: u64,
        #[arg(long)]
        rounds: u64,
    },
    /// Append to a file and sync, turn by turn as stdin asks
    Append { file: PathBuf },
    /// Commit to a log, turn by turn as stdin asks
    Log { dir: PathBuf },
}

fn main() -> Result<()> {
    match Args::parse() {
        Args::Fanout { per_round, rounds } => raw::fanout(per_round, rounds, |address| {
            let mut stdout = std::io::stdout();
            writeln!(stdout, "raw listening on tcp://{address}").and_then(|()| stdout.flush()).context("stdout")
        }),
        Args::Append { file } => {
            let mut appender = Appender::new(&file)?;
            answer(|ask| match ask {
                Ask::Turn { size, milliseconds } => appender.turn(size, Duration::from_millis(milliseconds)).map(json),
                Ask::Verify => bail!("a plain file is not read back"),
            })
        }
        Args::Log { dir } => {
            let mut committer = Committer::open(&dir)?;
            answer(|ask| match ask {
                Ask::Turn { size, milliseconds } => committer.turn(size, Duration::from_millis(milliseconds)).map(json),
                Ask::Verify => committer.verify().map(json),
            })
        }
    }
}

/// Until stdin ends.
fn answer(mut work: impl FnMut(Ask) -> Result<Result<String>>) -> Result<()> {
    for line in std::io::stdin().lock().lines() {
        let ask = serde_json::from_str(&line.context("stdin")?).context("stdin")?;
        let line = work(ask)??;
        let mut stdout = std::io::stdout();
        writeln!(stdout, "{line}").and_then(|()| stdout.flush()).context("stdout")?;
    }
    Ok(())
}

fn json<T: Serialize>(figures: T) -> Result<String> {
    serde_json::to_string(&figures).context("figures can be written as JSON")
}
