//! Stories: programs in other languages (`tests/interop`) that use stock Socket.IO clients and a browser against a real server
//! in a process of its own. A story prints what it has checked as lines of JSON, and asks for what it cannot do itself.
//!
//! What `tests/setup.sh` could not install is said loudly, and the stories that need it do not run.

#![allow(clippy::print_stdout, reason = "a test that does not run says so")]

use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};

use crate::process::{Running, ServerProcess, free_port};
use crate::waiting::PATIENCE;

/// What runs a story.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runner {
    /// Node, with the packages of `tests/interop/package-lock.json`.
    Node,
    /// Python, with the packages of `tests/interop/requirements.txt`.
    Python,
    /// Node, and Chromium besides.
    Browser,
}

impl Runner {
    /// Why it cannot run here, in words, or `None` if it can.
    #[must_use]
    pub fn unavailable(self) -> Option<String> {
        let has = |path: &str| folder().join(path).exists();
        match self {
            Runner::Node if !has("node_modules/.from") => Some("its npm packages are not installed".to_owned()),
            Runner::Python if !has(".venv/.from") => Some("its Python packages are not installed".to_owned()),
            Runner::Browser => Runner::Node
                .unavailable()
                .or_else(|| chromium().is_none().then(|| "Chromium is not installed".to_owned())),
            Runner::Node | Runner::Python => None,
        }
    }

    fn command(self, story: &str) -> Command {
        match self {
            Runner::Node => {
                let mut command = Command::new("node");
                command.arg(folder().join(story));
                command
            }
            Runner::Python => {
                let mut command = Command::new(folder().join(".venv/bin/python"));
                command.arg("-u").arg(folder().join(story));
                command
            }
            Runner::Browser => {
                let mut command = Command::new("node");
                command.arg(folder().join(story)).env("CHROMIUM", chromium().unwrap_or_default());
                command
            }
        }
    }
}

/// The server that a story is told against.
pub trait Stage {
    /// Where it listens, as `http://…`.
    fn url(&self) -> String;

    /// Does what a story asks for, and gives the answer.
    ///
    /// # Errors
    ///
    /// What went wrong. The story is told.
    fn answer(&mut self, ask: &str, request: &Value) -> Result<Value>;
}

impl Stage for ServerProcess {
    fn url(&self) -> String {
        ServerProcess::url(self).replacen("ws", "http", 1)
    }

    fn answer(&mut self, ask: &str, request: &Value) -> Result<Value> {
        match ask {
            "kill" => self.kill()?,
            "start" | "restart" => self.restart()?,
            "redeliver" => {
                let args: Vec<&str> =
                    request["args"].as_array().context("no args")?.iter().filter_map(Value::as_str).collect();
                let finished = self.run(&args)?.succeeded()?;
                return Ok(json!({ "stdout": finished.stdout }));
            }
            other => bail!("nobody can do `{other}`"),
        }
        Ok(json!({}))
    }
}

/// A program under `crates/socketio/examples`, in a process of its own: it takes the port in PORT and
/// can be killed and started again. It gets a folder for its data in DATA.
#[derive(Debug)]
pub struct ExampleProcess {
    name: &'static str,
    port: u16,
    running: Option<Running>,
    dir: tempfile::TempDir,
}

impl ExampleProcess {
    /// Starts one.
    ///
    /// # Errors
    ///
    /// If it was not built, or does not become ready.
    pub fn start(name: &'static str) -> Result<ExampleProcess> {
        let port = free_port()?;
        let mut example = ExampleProcess { name, port, running: None, dir: tempfile::TempDir::new()? };
        example.restart()?;
        Ok(example)
    }

    /// Kills it with -9, if it runs.
    ///
    /// # Errors
    ///
    /// If that cannot be done.
    pub fn kill(&mut self) -> Result<()> {
        self.running.take().map_or(Ok(()), |running| running.kill().map(|_| ()))
    }

    /// Kills it if it runs, and starts it again on the same port and data.
    ///
    /// # Errors
    ///
    /// If it does not become ready.
    pub fn restart(&mut self) -> Result<()> {
        self.kill()?;
        let profile = std::env::current_exe()?;
        let profile = profile.parent().and_then(Path::parent).context("no target folder")?;
        let binary = profile.join("examples").join(self.name);
        ensure!(binary.is_file(), "{} is not there: cargo build --workspace --examples", binary.display());
        let mut command = Command::new(binary);
        command
            .env("PORT", self.port.to_string())
            .env("DATA", self.dir.path())
            .stdin(Stdio::null())
            .env_remove("RUST_LOG");
        let mut running = Running::start(command)?;
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            ensure!(running.is_running()?, "it ended: {:?}", running.finish());
            ensure!(Instant::now() < deadline, "it does not listen");
            // Nothing tells that it listens but that it does.
            thread::sleep(POLL_INTERVAL);
        }
        self.running = Some(running);
        Ok(())
    }

    /// The id of its process, if it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(Running::pid)
    }
}

impl Stage for ExampleProcess {
    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn answer(&mut self, ask: &str, _request: &Value) -> Result<Value> {
        match ask {
            "kill" => self.kill()?,
            "start" | "restart" => self.restart()?,
            "memory" => {
                let pid = self.pid().context("it does not run")?;
                let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
                let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
                let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
                return Ok(json!({ "rss_bytes": kib * 1024 }));
            }
            other => bail!("nobody can do `{other}`"),
        }
        Ok(json!({}))
    }
}

/// Tells a story against a server, and insists that all its checks hold.
///
/// Says so and passes if the story cannot run here.
///
/// # Errors
///
/// The checks that do not hold, and what the story said.
pub fn tell(runner: Runner, story: &str, stage: &mut impl Stage) -> Result<()> {
    if let Some(why) = runner.unavailable() {
        println!("SKIPPED: {story}: {why}");
        return Ok(());
    }
    let mut command = runner.command(story);
    command.env("URL", stage.url()).stdin(Stdio::piped());
    let mut running = Running::start(command)?;
    let (mut held, mut broken) = (0_usize, Vec::new());
    // A story's end closes its stdout.
    while let Ok(line) = running.next_line() {
        let Ok(said) = serde_json::from_str::<Value>(&line) else { continue };
        if let Some(ask) = said["ask"].as_str() {
            let answer = stage.answer(ask, &said).unwrap_or_else(|error| json!({ "error": format!("{error:#}") }));
            running.write(format!("{answer}\n").as_bytes())?;
        } else if said["ok"] == Value::Bool(true) {
            held += 1;
        } else {
            broken.push(line);
        }
    }
    let finished = running.finish()?;
    if !broken.is_empty() || !finished.status.success() || held == 0 {
        let broken = broken.join("\n");
        return Err(anyhow!(
            "{story}: {held} checks hold, these do not:\n{broken}\n{:?}\n{}",
            finished.status,
            finished.stderr
        ));
    }
    println!("{story}: {held} checks hold");
    Ok(())
}

/// Lets this process, and what it starts from now on, have as many files open as it may: a thousand clients are more than many
/// systems allow at first.
///
/// # Errors
///
/// If they may still be too few.
pub fn allow_many_files() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    let enough = limit.maximum.is_none_or(|most| most >= MANY_FILES);
    ensure!(enough, "at most {:?} files may be open here, {MANY_FILES} are needed", limit.maximum);
    Ok(())
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("interop")
}

fn chromium() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let places: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let names = ["chromium", "chromium-browser", "google-chrome"];
    names.iter().find_map(|name| places.iter().map(|place| place.join(name)).find(|file| file.is_file()))
}

const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Those of a thousand clients that upgrade, and of a server with its log.
const MANY_FILES: u64 = 3_000;
