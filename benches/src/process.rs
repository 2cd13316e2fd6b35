//! The processes that are measured: the server and the raw program, and what the operating system says of them. Linux only:
//! it reads /proc.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
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

impl Usage {
    /// With the CPU time since an earlier moment.
    #[must_use]
    pub fn since(self, before: Usage) -> Usage {
        Usage { cpu_s: self.cpu_s - before.cpu_s, ..self }
    }
}

impl Process {
    /// Starts a server that keeps its log in this directory.
    ///
    /// # Errors
    ///
    /// If `redeliver` does not lie beside this program, or does not become ready.
    pub fn server(data: &Path) -> Result<Process> {
        Process::server_with(data, "")
    }

    /// Starts a server with a configuration file of this content.
    ///
    /// # Errors
    ///
    /// If `redeliver` does not lie beside this program, or does not become ready.
    pub fn server_with(data: &Path, config: &str) -> Result<Process> {
        let file = data.join("redeliver.toml");
        std::fs::write(&file, config).context("the configuration cannot be written")?;
        let mut command = program("redeliver")?;
        command.args(["serve", "--listen", "127.0.0.1:0", "--log", "warn", "--config"]).arg(file);
        command.arg("--data").arg(data.join("log"));
        // What it says to people would disturb the bar.
        let words = std::fs::File::options().create(true).append(true).open(data.with_file_name("server.log"));
        command.stderr(words.context("server.log cannot be written")?);
        Process::start(command)
    }

    /// Starts the raw fan-out: `rounds` times `per_round` events, each shown when it is told to.
    ///
    /// # Errors
    ///
    /// If `raw` does not lie beside this program, or does not become ready.
    pub fn raw(per_round: u64, rounds: u64) -> Result<Process> {
        let mut command = program("raw")?;
        command.args(["fanout", "--per-round", &per_round.to_string(), "--rounds", &rounds.to_string()]);
        Process::start(command)
    }

    /// Starts a program that says `ready PORT` once it listens on this machine.
    ///
    /// # Errors
    ///
    /// If it cannot be started, or does not become ready.
    pub fn other(command: Command) -> Result<Process> {
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

    /// Waits until it does nothing any more: what it put off, as folding, is part of what it was asked for.
    ///
    /// # Errors
    ///
    /// If it is gone, or still works after the patience of a run.
    pub fn settle(&self) -> Result<Usage> {
        let begun = Instant::now();
        let mut before = self.usage()?;
        loop {
            std::thread::sleep(SETTLED);
            let now = self.usage()?;
            if now.since(before).cpu_s <= 1.5 / TICKS_PER_SECOND {
                return Ok(now);
            }
            ensure!(begun.elapsed() < PATIENCE * 3, "it still works after {:?}", begun.elapsed());
            before = now;
        }
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
        let mut process = Process { child, address: SocketAddr::from(([127, 0, 0, 1], 0)), ready_after };
        let line = line.trim();
        process.address = address_in(line).with_context(|| format!("`{line}` is no ready line"))?;
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

/// The bytes that a server's log takes on the disk, as `du` counts them.
///
/// # Errors
///
/// If the directory cannot be read.
pub fn disk_bytes(data: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0;
    let mut folders = vec![data.join("log")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| format!("{} cannot be read", folder.display()))? {
            let entry = entry.context("the data directory cannot be read")?;
            // A file may be gone by now.
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                folders.push(entry.path());
            } else {
                bytes += metadata.blocks() * 512;
            }
        }
    }
    Ok(bytes)
}

/// A program that lies beside this one.
///
/// # Errors
///
/// If it is not there.
pub fn program(name: &str) -> Result<Command> {
    let own = std::env::current_exe().context("this program has no path")?;
    let path = own.with_file_name(name);
    ensure!(path.exists(), "{} is not there: `make bench` builds it", path.display());
    Ok(Command::new(path))
}

/// `… on scheme://HOST:PORT`, or `ready PORT`.
fn address_in(line: &str) -> Option<SocketAddr> {
    if let Some(port) = line.strip_prefix("ready ") {
        return Some(SocketAddr::from(([127, 0, 0, 1], port.parse().ok()?)));
    }
    line.rsplit('/').next()?.parse().ok()
}

/// Who uses no more than a hundredth of a second in this time is idle.
const SETTLED: Duration = Duration::from_millis(200);

/// Linux tells CPU times to programs in hundredths, whatever it counts in itself.
const TICKS_PER_SECOND: f64 = 100.0;

/// How long any single step may take before the run is given up.
pub const PATIENCE: Duration = Duration::from_secs(60);
