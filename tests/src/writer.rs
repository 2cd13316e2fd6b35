//! Runs a writer (the programs `bare-store` and `log-writer`) and remembers what it said.
//!
//! What it said before it ended, however it ended, is what must be there afterwards.

pub mod program;

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, anyhow};

/// What the writers on one store said, over all of their lives.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// The newest event that was acknowledged.
    pub acked: u64,
    /// Events up to this one may have been trimmed.
    pub floor: u64,
    /// How often the store was opened.
    pub opens: u64,
    /// How often its whole content was found right.
    pub checks: u64,
    /// Acknowledged commits.
    pub commits: u64,
    /// Folds, and the bytes of their batches.
    pub folds: u64,
    /// Bytes of the folds' batches.
    pub folded_bytes: u64,
    /// Trims that were begun.
    pub trims: u64,
    /// Size of the store's file at its last opening.
    pub file_bytes: u64,
}

/// A running writer.
#[derive(Debug)]
pub struct Writer {
    /// The process.
    pub process: Child,
    checked: Receiver<()>,
    told: JoinHandle<Told>,
    errors: JoinHandle<String>,
}

/// How a writer ended.
#[derive(Debug)]
pub struct Ended {
    /// What was said so far, by it and those before it.
    pub told: Told,
    /// Its last status.
    pub status: ExitStatus,
    /// What it wrote to stderr.
    pub errors: String,
}

/// A way to start writers on one store.
#[derive(Clone, Debug)]
pub struct Store {
    /// The program.
    pub program: PathBuf,
    /// The words before it, if it is to run under another program.
    pub under: Vec<String>,
    /// The store's directory.
    pub dir: PathBuf,
}

impl Store {
    /// A store in a directory.
    #[must_use]
    pub fn new(program: &Path, dir: PathBuf) -> Store {
        Store { program: program.to_owned(), under: Vec::new(), dir }
    }

    /// Starts a writer that checks what is there against what was told, and then commits so many times, or without end.
    ///
    /// # Errors
    ///
    /// When the process cannot be started.
    pub fn start(&self, seed: u64, told: &Told, commits: Option<u64>) -> Result<Writer> {
        let mut words = self.under.iter().map(PathBuf::from).chain([self.program.clone()]);
        let mut command = Command::new(words.next().context("there is always the program itself")?);
        command.args(words).args([seed, told.acked, told.floor].map(|number| number.to_string())).arg(&self.dir);
        command.args(commits.map(|commits| commits.to_string())).env("RUST_BACKTRACE", "0");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().with_context(|| format!("starting {command:?}"))?;
        let lines = BufReader::new(process.stdout.take().context("stdout is piped")?);
        let mut stderr = process.stderr.take().context("stderr is piped")?;
        let mut told = told.clone();
        let (has_checked, checked) = mpsc::channel();
        let told = thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                told.hear(&line);
                if line.starts_with("checked") {
                    // Nobody may be waiting for it.
                    let _ = has_checked.send(());
                }
            }
            told
        });
        let errors = thread::spawn(move || {
            let mut bytes = Vec::new();
            // Whatever came before an error of the pipe is all there is to know.
            let _ = stderr.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        });
        Ok(Writer { process, checked, told, errors })
    }
}

impl Writer {
    /// Waits until it has checked what was there and begins to write, or has ended.
    pub fn wait_until_checked(&self) {
        // An error says that it has ended, which its status will tell.
        let _ = self.checked.recv();
    }

    /// Waits until it has ended, and says how.
    ///
    /// # Errors
    ///
    /// When it cannot be waited for.
    pub fn ended(mut self) -> Result<Ended> {
        let status = self.process.wait()?;
        let told = self.told.join().map_err(|_| anyhow!("the reader of stdout panicked"))?;
        let errors = self.errors.join().map_err(|_| anyhow!("the reader of stderr panicked"))?;
        Ok(Ended { told, status, errors })
    }
}

impl Told {
    fn hear(&mut self, line: &str) {
        let mut words = line.split(' ');
        let what = words.next().unwrap_or_default();
        let number = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
        match what {
            "opened" => {
                self.opens += 1;
                self.file_bytes = line.rsplit(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0);
            }
            "checked" => self.checks += 1,
            "acked" => (self.acked, self.commits) = (number, self.commits + 1),
            "folded" => (self.folds, self.folded_bytes) = (self.folds + 1, self.folded_bytes + number),
            "floor" => (self.floor, self.trims) = (number, self.trims + 1),
            _ => {}
        }
    }
}
