//! A large file goes through `emit --lines` while its server is killed again and again, and a durable listener with it.
//!
//! `CRASH_LINES`, `CRASH_KILLS` and `CRASH_SEED` make it larger, or repeat a run's choices: 200,000 lines and 20 kills are
//! what a release should survive.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::process::{ChildStdin, Stdio};
use std::sync::mpsc;

use anyhow::{Context, Result};
use redeliver_tests::chance::Chance;
use redeliver_tests::process::{Running, ServerProcess};
use serde_json::Value;

#[test]
fn a_file_survives_a_server_that_is_killed_while_it_is_emitted() -> Result<()> {
    let lines = from_environment("CRASH_LINES").unwrap_or(20_000);
    let kills = from_environment("CRASH_KILLS").unwrap_or(5);
    let seed = from_environment("CRASH_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    let mut chance = Chance::new(seed);
    println!("CRASH_SEED={seed} CRASH_LINES={lines} CRASH_KILLS={kills}");

    let mut server = ServerProcess::start()?;
    let input: Vec<String> = (1..=lines).map(|n| line(n, &mut chance)).collect();
    let file = server.folder().join("input");
    fs::write(&file, input.join("\n") + "\n")?;

    let mut command = server.command(&["emit", "t", "--lines", "--publisher", ID])?;
    command.stdin(Stdio::piped());
    let mut emitter = Running::start(command)?;
    let feeder = Feeder::start(emitter.take_stdin()?, input.clone());
    feeder.feed_through(AHEAD);
    let count = lines.to_string();
    let mut watcher = server.spawn(&["listen", "t", "--start", "earliest", "--count", &count])?;
    let mut durable = DurableListener::start(&server)?;
    // What the watcher has printed is the clock, and the emitter's input is never far ahead of it: so every kill falls in
    // the middle of the emits.
    let mut server_dies = moments(&mut chance, kills, lines);
    let mut listener_dies = moments(&mut chance, kills.div_ceil(2), lines);
    for (n, expected) in (1..).zip(&input) {
        let printed = watcher.next_line().with_context(|| format!("line {n}"))?;
        assert_eq!(&printed, expected, "line {n}: each once, in order, through every restart");
        feeder.feed_through(n + AHEAD);
        if server_dies.remove(&n) {
            server.restart()?;
        }
        if listener_dies.remove(&n) {
            durable.kill_and_restart(&server)?;
        }
    }
    drop(feeder);
    let emitted = emitter.finish()?;
    assert_eq!(emitted.code(), Some(0), "{emitted:?}");
    let summary = emitted.lines().last().copied().unwrap_or_default().to_owned();
    assert!(summary.starts_with(&format!("emitted {lines} events, seq 1..{lines}")), "{summary}");
    assert_eq!(watcher.finish()?.code(), Some(0));

    let all = server.run(&["listen", "t", "--start", "earliest", "--until-caught-up"])?.succeeded()?;
    assert_eq!(all.stdout_bytes, fs::read(&file)?, "the log holds the file, byte for byte");
    durable.check(&server, &input)?;

    let again = server.run(&["emit", "t", "--lines", file.to_str().unwrap(), "--publisher", ID])?.succeeded()?;
    assert!(again.stdout.ends_with(&format!(", {lines} already stored\n")), "{}", again.stdout);
    let head = server.run(&["listen", "t", "--start", "-1", "--until-caught-up", "--format", "json"])?.succeeded()?;
    assert_eq!(parse(head.lines()[0])["seq"], lines);
    Ok(())
}

/// Writes lines to an emitter's stdin, as far as it is allowed to, and closes it after the last.
struct Feeder {
    through: mpsc::Sender<u64>,
}

impl Feeder {
    fn start(mut stdin: ChildStdin, input: Vec<String>) -> Feeder {
        let (through, allowed) = mpsc::channel();
        std::thread::spawn(move || {
            let mut lines = (1..).zip(input);
            while let Ok(through) = allowed.recv() {
                for (n, line) in lines.by_ref() {
                    // Fails if the emitter is gone, which it must not be: the test finds that out.
                    let _ = stdin.write_all((line + "\n").as_bytes());
                    if n >= through {
                        break;
                    }
                }
            }
        });
        Feeder { through }
    }

    fn feed_through(&self, n: u64) {
        let _ = self.through.send(n);
    }
}

/// A `listen --as` that is killed now and then, and what each of its lives has printed.
struct DurableListener {
    running: Running,
    lives: Vec<String>,
}

impl DurableListener {
    /// Its name begins at the beginning, and resumes from then on.
    fn start(server: &ServerProcess) -> Result<DurableListener> {
        let born =
            server.run(&["listen", "t", "--as", "bo", "--start", "earliest", "--count", "1", "--format", "json"])?;
        let lives = vec![born.succeeded()?.stdout];
        Ok(DurableListener { running: DurableListener::spawn(server)?, lives })
    }

    fn spawn(server: &ServerProcess) -> Result<Running> {
        server.spawn(&["listen", "t", "--as", "bo", "--format", "json"])
    }

    fn kill_and_restart(&mut self, server: &ServerProcess) -> Result<()> {
        let killed = std::mem::replace(&mut self.running, DurableListener::spawn(server)?);
        self.lives.push(killed.kill()?.stdout);
        Ok(())
    }

    /// It printed every line; within a life in order and once; what it printed in two lives is marked.
    fn check(mut self, server: &ServerProcess, input: &[String]) -> Result<()> {
        // The last life may not have printed everything yet. It is killed too, and one more prints the rest.
        self.lives.push(self.running.kill()?.stdout);
        self.lives.push(
            server.run(&["listen", "t", "--as", "bo", "--until-caught-up", "--format", "json"])?.succeeded()?.stdout,
        );
        let mut printed = BTreeSet::new();
        for (life, out) in self.lives.iter().enumerate() {
            let mut last = 0;
            // A kill may cut a line short.
            for line in out.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
                let line = parse(line);
                let seq = line["seq"].as_u64().with_context(|| format!("no event: {line}"))?;
                assert!(seq > last, "life {life}: {seq} after {last}");
                last = seq;
                let expected = &input[usize::try_from(seq)? - 1];
                assert_eq!(line["payload"].as_str(), Some(expected.as_str()), "life {life}, seq {seq}");
                assert!(
                    printed.insert(seq) || line["redelivered"] == true,
                    "life {life}: seq {seq} comes again unmarked"
                );
            }
        }
        assert_eq!(printed.len(), input.len(), "missing: {:?}", (1..).find(|seq| !printed.contains(seq)));
        Ok(())
    }
}

/// How many lines the emitter may be given before they are printed: more than a few commits' worth.
const AHEAD: u64 = 3_000;

const ID: &str = "0d0f6f3c-93a5-4e07-a7c1-5b7c1cbd8a11";

/// Lines of very different lengths, each different from all others.
fn line(n: u64, chance: &mut Chance) -> String {
    let bytes = if chance.once_in(200) { chance.below(20_000) } else { chance.below(120) };
    let filling = "the quick brown fox jumps over \u{fc}mlauts; ";
    format!("{n}: {}", filling.chars().cycle().take(usize::try_from(bytes).unwrap()).collect::<String>())
}

fn moments(chance: &mut Chance, count: u64, lines: u64) -> BTreeSet<u64> {
    (0..count).map(|_| chance.between(lines / 50, lines)).collect()
}

fn parse(line: &str) -> Value {
    serde_json::from_str(line).unwrap()
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}
