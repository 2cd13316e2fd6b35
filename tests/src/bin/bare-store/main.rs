//! The log's storage layout without the log: commits, folds and trims straight on the store, to cut its power.
//!
//! `bare-store SEED ACKED FLOOR DIR [COMMITS]`: opens the store in DIR, checks that everything acknowledged up to seq ACKED and
//! above FLOOR is there with the right content, says so on stdout, then writes COMMITS times or until it is killed. It says
//! `acked N` only after the sync, and `floor N` before it trims. Every event's content follows from its seq.

mod store;

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::store::BareStore;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |what: &str| -> Result<u64> {
        let argument = arguments.next().with_context(|| format!("{what} is missing"))?;
        argument.parse().with_context(|| format!("{what} is not a number: {argument}"))
    };
    let (seed, acked, floor) = (number("SEED")?, number("ACKED")?, number("FLOOR")?);
    let dir = PathBuf::from(arguments.next().context("DIR is missing")?);
    let commits =
        arguments.next().map_or(Ok(u64::MAX), |commits| commits.parse()).context("COMMITS is not a number")?;
    say(&format!("opening {}", dir.display()))?;
    let mut store = BareStore::open(&dir, seed)?;
    say(&format!("opened {}", store.state_in_words()))?;
    let checked = store.check(acked, floor)?;
    say(&format!("checked {checked}"))?;
    for _ in 0..commits {
        let head = store.commit()?;
        say(&format!("acked {head}"))?;
        while store.fold_is_due() {
            let bytes = store.fold()?;
            say(&format!("folded {bytes}"))?;
        }
        while let Some(floor) = store.trim_is_due() {
            say(&format!("floor {floor}"))?;
            store.trim(floor)?;
        }
    }
    Ok(())
}

/// One write: a killed process says a line whole or not at all.
fn say(line: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(format!("{line}\n").as_bytes())?;
    out.flush()?;
    Ok(())
}
