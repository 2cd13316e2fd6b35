//! What is measured. Each workload starts a server of its own on an empty directory, verifies what arrived, and returns its
//! rows; it fails rather than report a figure for something that did not arrive.

pub mod emit;
pub mod fanout;
pub mod memory;
pub mod readers;
pub mod recovery;
pub mod restart;
pub mod slow;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use tempfile::TempDir;

/// Where and how thoroughly a run measures.
#[derive(Clone, Debug)]
pub struct Run {
    /// The directory in which data directories are made. On the disk that is to be measured.
    pub dir: PathBuf,
    /// Whether all of it must end within two minutes.
    pub quick: bool,
}

impl Run {
    /// An empty directory, removed when it is dropped.
    ///
    /// # Errors
    ///
    /// If it cannot be made.
    pub fn data(&self) -> Result<TempDir> {
        tempfile::Builder::new().prefix("data-").tempdir_in(&self.dir).context("no data directory")
    }

    /// A file beside the data directories.
    #[must_use]
    pub fn file(&self, data: &Path) -> PathBuf {
        data.join("raw-append")
    }

    /// How long a steady workload is measured.
    #[must_use]
    pub fn span(&self) -> Duration {
        if self.quick { Duration::from_millis(1500) } else { Duration::from_secs(5) }
    }

    /// How often a short one is repeated; the median counts.
    #[must_use]
    pub fn repeats(&self) -> usize {
        if self.quick { 3 } else { 7 }
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

/// The middle one.
#[must_use]
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// How long any single step may take before the run is given up.
pub const PATIENCE: Duration = Duration::from_secs(60);
