//! Runs seeds and says what came of them: `redeliver-sim --seeds 1000`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for people")]

use std::process::ExitCode;

use redeliver_sim::checker::{Figures, Violation};
use redeliver_sim::mutants::Mutant;
use redeliver_sim::seeds::{self, Verdict};

const USAGE: &str = "usage: redeliver-sim [--seeds N] [--from N] [--seed N] [--trace] [--keep-going] [--mutant NAME]

  --seeds N      run N seeds (default 1000)
  --from N       begin with seed N (default 0)
  --seed N       run this seed alone
  --trace        print all that happened
  --keep-going   do not stop at the first seed that fails
  --mutant NAME  break the shell on purpose: ack-before-sync, deliver-before-sync, cursor-before-handler, no-fencing,
                 merged-member-skipped, lineage-left-out, identity-not-checked, hole-taken-for-stored,
                 rewind-leaves-cursor, except-ignored, age-by-raw-clock";

#[derive(Debug)]
struct Wish {
    from: u64,
    seeds: u64,
    trace: bool,
    keep_going: bool,
    mutant: Option<Mutant>,
}

fn main() -> ExitCode {
    match wish(std::env::args().skip(1)) {
        Ok(Some(wish)) => run(&wish),
        Ok(None) => {
            println!("{USAGE}");
            ExitCode::SUCCESS
        }
        Err(words) => {
            eprintln!("{words}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn run(wish: &Wish) -> ExitCode {
    let (mut sum, mut steps, mut failed) = (Figures::default(), 0, Vec::new());
    for seed in wish.from..wish.from + wish.seeds {
        let verdict = seeds::run(seed, wish.mutant);
        steps += verdict.steps;
        if wish.trace {
            println!("{}", verdict.trace(None));
        }
        match &verdict.result {
            Ok(figures) => sum += *figures,
            Err(violations) => {
                failed.push(seed);
                report(&verdict, violations, wish);
                if !wish.keep_going {
                    break;
                }
            }
        }
        if wish.seeds == 1 {
            println!(
                "seed {seed}: trace {:016x}, {} entries, {} steps",
                verdict.history.hash(),
                verdict.history.entries.len(),
                verdict.steps
            );
        }
    }
    println!(
        "{} seeds from {}, {steps} steps: {} emits acknowledged, {} events delivered ({} marked redelivered), {} gaps \
         ({} of another epoch), {} confirmed acks, {} openings, {} subscriptions, {} takeovers; {} failed {:?}",
        wish.seeds,
        wish.from,
        sum.acknowledged,
        sum.delivered,
        sum.redelivered,
        sum.gaps,
        sum.epoch_gaps,
        sum.confirmed,
        sum.openings,
        sum.runs,
        sum.takeovers,
        failed.len(),
        failed.iter().take(20).collect::<Vec<_>>(),
    );
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn report(verdict: &Verdict, violations: &[Violation], wish: &Wish) {
    println!("seed {} fails:", verdict.seed);
    for violation in violations {
        println!("  {violation}");
    }
    if !wish.trace && !wish.keep_going {
        println!("the last that happened (all of it: --seed {} --trace):\n{}", verdict.seed, verdict.trace(Some(40)));
    }
}

fn wish(mut words: impl Iterator<Item = String>) -> Result<Option<Wish>, String> {
    let mut wish = Wish { from: 0, seeds: 1000, trace: false, keep_going: false, mutant: None };
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} wants a value"));
        match word.as_str() {
            "--seeds" => wish.seeds = number(&value()?)?,
            "--from" => wish.from = number(&value()?)?,
            "--seed" => (wish.from, wish.seeds) = (number(&value()?)?, 1),
            "--mutant" => {
                let name = value()?;
                let found = Mutant::ALL.into_iter().find(|mutant| mutant.name() == name);
                wish.mutant = Some(found.ok_or_else(|| format!("there is no mutant {name}"))?);
            }
            "--trace" => wish.trace = true,
            "--keep-going" => wish.keep_going = true,
            "--help" | "-h" => return Ok(None),
            _ => return Err(format!("{word} is not understood")),
        }
    }
    Ok(Some(wish))
}

fn number(words: &str) -> Result<u64, String> {
    words.parse().map_err(|_| format!("{words} is not a number"))
}
