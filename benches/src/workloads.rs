//! What is measured. Each workload starts a server of its own on an empty directory, verifies what arrived, and returns its
//! rows; it fails rather than report a figure for something that did not arrive.

pub mod audience;
pub mod emit;
pub mod emitters;
pub mod fanout;
pub mod memory;
pub mod merged;
pub mod readers;
pub mod recovery;
pub mod restart;
pub mod slow;
pub mod socketio;
pub mod sustained;
pub mod topics;

use std::cell::RefCell;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use indicatif::ProgressBar;
use tempfile::TempDir;

pub use crate::process::PATIENCE;
use crate::turns::{Partner, Turn};

/// Where and how thoroughly a run measures.
#[derive(Debug)]
pub struct Run {
    /// The directory in which data directories are made. On the disk that is to be measured.
    pub dir: PathBuf,
    /// Whether all of it must end within two minutes.
    pub quick: bool,
    /// How long the sustained workload emits.
    pub sustained: Duration,
    /// Where a long workload tells how far it is.
    pub bar: ProgressBar,
    begun: Instant,
    /// Started when it is first needed; its file is written through once.
    appender: RefCell<Option<Partner>>,
}

impl Run {
    /// A run in this directory.
    #[must_use]
    pub fn new(dir: PathBuf, quick: bool, sustained: Duration, bar: ProgressBar) -> Run {
        Run { dir, quick, sustained, bar, begun: Instant::now(), appender: RefCell::default() }
    }

    /// An empty directory, removed when it is dropped.
    ///
    /// # Errors
    ///
    /// If it cannot be made.
    pub fn data(&self) -> Result<TempDir> {
        tempfile::Builder::new().prefix("data-").tempdir_in(&self.dir).context("no data directory")
    }

    /// What a plain file on the same disk takes in commits of this size, for a turn.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn append(&self, commit_bytes: usize) -> Result<Turn> {
        let mut appender = self.appender.borrow_mut();
        let appender = match &mut *appender {
            Some(appender) => appender,
            none => none.insert(Partner::append(&self.dir.join("raw-append"))?),
        };
        appender.turn(commit_bytes, self.turn())
    }

    /// How long a steady workload is measured.
    #[must_use]
    pub fn span(&self) -> Duration {
        if self.quick { Duration::from_millis(1000) } else { Duration::from_secs(5) }
    }

    /// How long one of several turns is.
    #[must_use]
    pub fn turn(&self) -> Duration {
        if self.quick { Duration::from_millis(300) } else { Duration::from_secs(1) }
    }

    /// How often a short one, or a turn, is repeated; the median counts.
    #[must_use]
    pub fn repeats(&self) -> usize {
        if self.quick { 3 } else { 7 }
    }

    /// Whether something that takes so long still ends within the time of a run. Only a quick one is short of it.
    #[must_use]
    pub fn has_time_for(&self, span: Duration) -> bool {
        !self.quick || self.begun.elapsed() + span < QUICK
    }

    /// Says how far a long workload is.
    pub fn tell(&self, words: String) {
        self.bar.set_message(words);
    }
}

/// A histogram of microseconds.
///
/// # Errors
///
/// Never: the precision is a good one.
pub fn latencies() -> Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, 60_000_000, 3).context("a histogram of a minute with 3 digits")
}

/// A quick run ends within this.
const QUICK: Duration = Duration::from_secs(120);
