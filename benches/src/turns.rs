//! What is measured in short turns, one after the other, so that all sides meet the same minutes of a shared disk: the raw
//! appender and the log itself answer a word on stdin with the figures of one turn on stdout.

use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::process::program;

/// What one turn reached.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Turn {
    /// Commits, each with its own fdatasync.
    pub commits: u64,
    /// In this time.
    pub seconds: f64,
    /// How long half of the commits took at most, in microseconds.
    pub p50_us: u64,
    /// How long 99 of 100 commits took at most, in microseconds.
    pub p99_us: u64,
}

impl Turn {
    /// From how long each commit took, and all of them together.
    #[must_use]
    pub fn of(mut took: Vec<Duration>, all: Duration) -> Turn {
        took.sort_unstable();
        let micros = |percent: usize| {
            let duration = took.get(took.len() * percent / 100).copied().unwrap_or_default();
            u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
        };
        Turn { commits: took.len() as u64, seconds: all.as_secs_f64(), p50_us: micros(50), p99_us: micros(99) }
    }
}

/// What is asked of the other process.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Ask {
    /// Commits of so many bytes (the appender) or events (the log), for so many milliseconds.
    Turn {
        /// Bytes or events.
        size: usize,
        /// How long.
        milliseconds: u64,
    },
    /// Read back all that was written, and end if it is not there.
    Verify,
}

/// A process that works when it is asked to. Ends when dropped.
#[derive(Debug)]
pub struct Partner {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Partner {
    /// Appends to a plain file whose blocks are there already.
    ///
    /// # Errors
    ///
    /// If `raw` does not lie beside this program, or cannot be started.
    pub fn append(file: &Path) -> Result<Partner> {
        Partner::start("append", file)
    }

    /// Commits to the log itself, without a server.
    ///
    /// # Errors
    ///
    /// If `raw` does not lie beside this program, or cannot be started.
    pub fn log(dir: &Path) -> Result<Partner> {
        Partner::start("log", dir)
    }

    /// Works for so long.
    ///
    /// # Errors
    ///
    /// If it fails.
    pub fn turn(&mut self, size: usize, span: Duration) -> Result<Turn> {
        let milliseconds = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let turn: Turn = self.ask(Ask::Turn { size, milliseconds })?;
        ensure!(turn.commits > 0, "not one commit was made in {span:?}");
        Ok(turn)
    }

    /// Reads back what was written, and counts it.
    ///
    /// # Errors
    ///
    /// If anything is missing or not what was written.
    pub fn verify(&mut self) -> Result<u64> {
        self.ask(Ask::Verify)
    }

    fn ask<T: for<'de> Deserialize<'de>>(&mut self, ask: Ask) -> Result<T> {
        let mut line = serde_json::to_vec(&ask).context("it can be written as JSON")?;
        line.push(b'\n');
        self.stdin.write_all(&line).context("the raw program has ended")?;
        let mut answer = String::new();
        self.stdout.read_line(&mut answer).context("the raw program has ended")?;
        serde_json::from_str(&answer).with_context(|| format!("the raw program has failed: `{}`", answer.trim()))
    }

    fn start(what: &str, path: &Path) -> Result<Partner> {
        let mut command = program("raw")?;
        command.arg(what).arg(path).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("the raw program cannot be started")?;
        let stdin = child.stdin.take().context("its stdin is a pipe")?;
        let stdout = BufReader::new(child.stdout.take().context("its stdout is a pipe")?);
        Ok(Partner { child, stdin, stdout })
    }
}

impl Drop for Partner {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The figures of several turns: the middle one counts, the others say how far to trust it.
#[derive(Clone, Debug, Default)]
pub struct Figures(Vec<f64>);

impl Figures {
    /// One more.
    pub fn push(&mut self, figure: f64) {
        self.0.push(figure);
        self.0.sort_by(f64::total_cmp);
    }

    /// The middle one.
    #[must_use]
    pub fn median(&self) -> f64 {
        self.0.get(self.0.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let figure = |at: Option<&f64>| crate::report::figure(at.copied().unwrap_or(f64::NAN));
        write!(f, "{} to {} in {} turns", figure(self.0.first()), figure(self.0.last()), self.0.len())
    }
}

impl FromIterator<f64> for Figures {
    fn from_iter<I: IntoIterator<Item = f64>>(figures: I) -> Figures {
        let mut all = Figures::default();
        figures.into_iter().for_each(|figure| all.push(figure));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_the_turns_counts_and_their_spread_is_told() {
        let figures: Figures = [5.0, 1.0, 300.0].into_iter().collect();
        assert_eq!(figures.median(), 5.0);
        assert_eq!(figures.to_string(), "1.00 to 300 in 3 turns");
    }

    #[test]
    fn a_turn_tells_how_long_its_commits_took() {
        let took = (1..=100).rev().map(Duration::from_micros).collect();
        let turn = Turn::of(took, Duration::from_secs(2));
        assert_eq!(turn, Turn { commits: 100, seconds: 2.0, p50_us: 51, p99_us: 100 });
    }
}
