//! The processes that are measured: the server and the raw program, and what the operating system says of them. Linux only:
//! it reads /proc.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// A running process that listens. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    address: SocketAddr,
    ready_after: Duration,
}

/// What a process has used.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// CPU time since it began, in seconds, of user and system.
    pub cpu_s: f64,
    /// Most memory it ever held, in bytes.
    pub rss_peak_bytes: u64,
    /// What it holds now, in bytes.
    pub rss_bytes: u64,
}

impl Process {
    /// Starts a server on a data directory.
    ///
    /// # Errors
    ///
    /// If `redeliver` does not lie beside this program, or does not become ready.
    pub fn server(data: &Path) -> Result<Process> {
        let mut command = Command::new(beside("redeliver")?);
        command.args(["serve", "--listen", "127.0.0.1:0", "--log", "warn", "--data"]).arg(data);
        Process::start(command)
    }

    /// Starts the raw fan-out: `rounds` times `per_round` events, each shown when it is told to.
    ///
    /// # Errors
    ///
    /// If `raw` does not lie beside this program, or does not become ready.
    pub fn raw(per_round: u64, rounds: u64) -> Result<Process> {
        let mut command = Command::new(beside("raw")?);
        command.args(["fanout", "--per-round", &per_round.to_string(), "--rounds", &rounds.to_string()]);
        Process::start(command)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How long it took from its start until it listened.
    #[must_use]
    pub fn ready_after(&self) -> Duration {
        self.ready_after
    }

    /// What it has used so far.
    ///
    /// # Errors
    ///
    /// If it is gone.
    pub fn usage(&self) -> Result<Usage> {
        let pid = self.child.id();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("the process is gone")?;
        // The name in brackets may have blanks: fields are counted behind it.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or_default();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("the process is gone")?;
        let kib = |key: &str| {
            let line = status.lines().find(|line| line.starts_with(key)).unwrap_or_default();
            line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_default()
        };
        Ok(Usage {
            cpu_s: (ticks(11) + ticks(12)) / TICKS_PER_SECOND,
            rss_peak_bytes: kib("VmHWM:") * 1024,
            rss_bytes: kib("VmRSS:") * 1024,
        })
    }

    /// Ends it as a crash would.
    pub fn kill(mut self) {
        self.end();
    }

    fn start(mut command: Command) -> Result<Process> {
        let begun = Instant::now();
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot be started")?;
        let stdout = child.stdout.take().context("its stdout is a pipe")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).context("it said nothing")?;
        let ready_after = begun.elapsed();
        let address = line.trim().rsplit('/').next().and_then(|address| address.parse().ok());
        let mut process = Process { child, address: SocketAddr::from(([127, 0, 0, 1], 0)), ready_after };
        process.address = address.with_context(|| format!("`{}` is no ready line", line.trim()))?;
        Ok(process)
    }

    fn end(&mut self) {
        // It may have ended by itself; then there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// What the raw appender reached.
#[derive(Clone, Copy, Debug)]
pub struct Appended {
    /// Commits, each with its own fdatasync.
    pub commits: u64,
    /// In this time.
    pub seconds: f64,
}

/// Appends commits of a size to a plain file, with an fdatasync each, in a process of its own.
///
/// # Errors
///
/// If `raw` does not lie beside this program, or fails.
pub fn append(file: &Path, commit_bytes: usize, patience: Duration) -> Result<Appended> {
    let output = Command::new(beside("raw")?)
        .args(["append", "--commit-bytes", &commit_bytes.to_string()])
        .args(["--milliseconds", &patience.as_millis().to_string(), "--file"])
        .arg(file)
        .stderr(Stdio::inherit())
        .output()
        .context("the raw program cannot be started")?;
    ensure!(output.status.success(), "the raw program failed");
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut words = words.split_whitespace();
    let commits = words.next().and_then(|word| word.parse().ok()).context("the raw program told no commits")?;
    let seconds = words.next().and_then(|word| word.parse().ok()).context("the raw program told no time")?;
    Ok(Appended { commits, seconds })
}

fn beside(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("this program has no path")?;
    let path = own.with_file_name(name);
    ensure!(path.exists(), "{} is not there: `make bench` builds it", path.display());
    Ok(path)
}

/// Linux tells CPU times to programs in hundredths, whatever it counts in itself.
const TICKS_PER_SECOND: f64 = 100.0;
