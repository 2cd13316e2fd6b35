//! Seeds: one is run and judged here, and those that once found a bug are kept.

use std::fmt::Write;

use crate::checker::{self, Figures, Violation};
use crate::history::History;
use crate::mutants::Mutant;
use crate::plan::Plan;
use crate::world;

/// What came of a seed.
#[derive(Debug)]
pub struct Verdict {
    /// The seed.
    pub seed: u64,
    /// All that happened.
    pub history: History,
    /// How many things that were.
    pub steps: u64,
    /// What is wrong with it, or what was judged.
    pub result: Result<Figures, Vec<String>>,
}

/// Runs and judges a seed.
#[must_use]
pub fn run(seed: u64, mutant: Option<Mutant>) -> Verdict {
    let outcome = world::run(Plan::new(seed, mutant));
    let result = match (outcome.failure, checker::check(&outcome.history)) {
        (None, Ok(figures)) => Ok(figures),
        (Some(failure), Ok(_)) => Err(vec![failure]),
        (failure, Err(violations)) => Err(violations.iter().map(Violation::to_string).chain(failure).collect()),
    };
    Verdict { seed, history: outcome.history, steps: outcome.steps, result }
}

impl Verdict {
    /// The last entries of the history, in words; all of them if `tail` is none.
    #[must_use]
    pub fn trace(&self, tail: Option<usize>) -> String {
        let entries = &self.history.entries;
        let skip = tail.map_or(0, |tail| entries.len().saturating_sub(tail));
        let mut words = String::new();
        for (index, (at, entry)) in entries.iter().enumerate().skip(skip) {
            // Writing into a string cannot fail.
            let _ = writeln!(words, "{index:5} {:>12?} {entry:?}", at.since_origin());
        }
        words
    }
}

/// Seeds that once failed. Each tells what it found; none may fail again.
///
/// A seed tells its story only as long as the plan draws the same from it. What a story taught is therefore held by a test
/// beside the code that was mended, too; these remain because they are good seeds.
pub const REGRESSIONS: &[u64] = &[
    // A durable reader was cut off without noticing that another had taken its place, and resumed after that one had
    // been given events and lost its connection, too: they came again and were not marked (client, server's marks).
    239, 501,
    // A reader stood in a part of an epoch that a restored log had lost. It was sent back to an older epoch, or to the
    // beginning, and was given again what it had handled (log, last common place).
    161, 186,
    // The wall clock went back by a day. From then on events were stamped older than retention's own clock, and retention
    // by age took them as soon as they were written (log, event times).
    113,
    // An event beyond this server's limits spent a number before Welcome and none after it. A process that emitted the
    // same once more gave its numbers to other events (client, refusals).
    24, 46, 144,
    // One reader's place lay behind another's of the same name, with trimmed events between: the checker was wrong.
    274, 282, 491, 20134, 20636, 30853, 31386, 31553, 32002,
];
