//! The inside of a writer: what its program is told when it starts, and how it says what it has done.

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{Context, Result};

/// The arguments of a writer's program: `SEED ACKED FLOOR DIR [COMMITS]`.
#[derive(Clone, Debug)]
pub struct Errand {
    /// What chance is made of.
    pub seed: u64,
    /// Everything up to this seq was acknowledged and must be there.
    pub acked: u64,
    /// Everything up to this seq may have been trimmed.
    pub floor: u64,
    /// Where the store is.
    pub dir: PathBuf,
    /// How often to write before the end.
    pub commits: u64,
}

impl Errand {
    /// Reads the process's arguments.
    ///
    /// # Errors
    ///
    /// In words, which argument is missing or is no number.
    pub fn from_args() -> Result<Errand> {
        let mut arguments = std::env::args().skip(1);
        let mut number = |what: &str| -> Result<u64> {
            let argument = arguments.next().with_context(|| format!("{what} is missing"))?;
            argument.parse().with_context(|| format!("{what} is not a number: {argument}"))
        };
        let (seed, acked, floor) = (number("SEED")?, number("ACKED")?, number("FLOOR")?);
        let dir = PathBuf::from(arguments.next().context("DIR is missing")?);
        let commits =
            arguments.next().map_or(Ok(u64::MAX), |commits| commits.parse()).context("COMMITS is not a number")?;
        Ok(Errand { seed, acked, floor, dir, commits })
    }
}

/// Says a line in one write: a killed process says it whole or not at all.
///
/// # Errors
///
/// Nobody listens any more.
pub fn say(line: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(format!("{line}\n").as_bytes())?;
    out.flush()?;
    Ok(())
}
