//! The log's storage layout without the log: commits, folds and trims straight on the store, to cut its power.
//!
//! `bare-store SEED ACKED FLOOR DIR [COMMITS]`: opens the store in DIR, checks that everything acknowledged up to seq ACKED and
//! above FLOOR is there with the right content, says so on stdout, then writes COMMITS times or until it is killed. It says
//! `acked N` only after the sync, and `floor N` before it trims. Every event's content follows from its seq.

mod store;

use anyhow::Result;
use redeliver_tests::writer::program::{Errand, say};

use crate::store::BareStore;

fn main() -> Result<()> {
    let Errand { seed, acked, floor, dir, commits } = Errand::from_args()?;
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
