//! Says which tests cannot run here, and why: `skipped filter` as a filter for nextest, `skipped args` as arguments for the
//! harness of `cargo test`, `skipped summary` for people.
#![allow(clippy::print_stdout, reason = "a program for people and for make")]

use anyhow::{Result, bail};
use redeliver_tests::needs::{NEEDS, Need};

fn main() -> Result<()> {
    let missing: Vec<(&str, &str, String)> =
        NEEDS.iter().filter_map(|(binary, test, need)| Some((*binary, *test, Need::missing(*need)?))).collect();
    match std::env::args().nth(1).as_deref() {
        Some("filter") => {
            let left_out: Vec<String> =
                missing.iter().map(|(binary, test, _)| format!("(binary(={binary}) & test(={test}))")).collect();
            if left_out.is_empty() {
                println!("all()");
            } else {
                println!("not ({})", left_out.join(" | "));
            }
        }
        Some("args") => {
            let args: Vec<String> = missing.iter().map(|(_, test, _)| format!("--skip {test}")).collect();
            println!("{}", args.join(" "));
        }
        Some("summary") => {
            for (binary, test, why) in &missing {
                println!("SKIPPED: {binary}::{test}: {why}");
            }
            println!("{} tests were SKIPPED because something is missing here", missing.len());
        }
        _ => bail!("usage: skipped filter|args|summary"),
    }
    Ok(())
}
