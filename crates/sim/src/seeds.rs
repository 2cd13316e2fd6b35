//! Seeds: one is run and judged here.

use std::fmt::Write;

use redeliver_protocol::time::Instant;

use crate::checker::{self, Figures, Rule, Violation};
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
    pub result: Result<Figures, Vec<Violation>>,
}

/// Runs and judges a seed.
#[must_use]
pub fn run(seed: u64, mutant: Option<Mutant>) -> Verdict {
    let outcome = world::run(Plan::new(seed, mutant));
    let last = outcome.history.entries.len().saturating_sub(1);
    let at = outcome.history.entries.last().map_or(Instant::ORIGIN, |(at, _)| *at);
    let failure = outcome.failure.map(|words| Violation { rule: Rule::Works, entry: last, at, words });
    let result = match (failure, checker::check(&outcome.history)) {
        (None, result) => result,
        (Some(failure), Ok(_)) => Err(vec![failure]),
        (Some(failure), Err(violations)) => Err(violations.into_iter().chain([failure]).collect()),
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
