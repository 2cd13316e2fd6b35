//! The real binary, in processes of its own: servers that are killed and started again, emitters, listeners.
//!
//! Nothing here waits without a deadline: a program that hangs fails its test and shows what it said.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use uuid::Uuid;

use crate::power_cut::PowerCutDisk;
pub use crate::waiting::PATIENCE;

/// The built binary with these arguments, and nothing of the caller's environment that could lead it elsewhere.
///
/// # Errors
///
/// If it was not built.
pub fn redeliver<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Result<Command> {
    let binary = match std::env::var_os("REDELIVER_BIN") {
        Some(binary) => PathBuf::from(binary),
        // Tests are built into target/PROFILE/deps, binaries beside that folder.
        None => std::env::current_exe()?.parent().and_then(Path::parent).context("no target folder")?.join("redeliver"),
    };
    ensure!(binary.is_file(), "{} is not there: cargo build --workspace --bins", binary.display());
    let mut command = Command::new(binary);
    command.args(args).env_remove("REDELIVER_URL").env_remove("REDELIVER_TOKEN").env_remove("RUST_LOG");
    command.stdin(Stdio::null());
    Ok(command)
}

/// A command that runs an example of one of the crates.
///
/// # Errors
///
/// If it was not built.
pub fn example(name: &str, args: &[&str]) -> Result<Command> {
    let profile = std::env::current_exe()?;
    let profile = profile.parent().and_then(Path::parent).context("no target folder")?;
    let binary = profile.join("examples").join(name);
    ensure!(binary.is_file(), "{} is not there: cargo build --workspace --examples", binary.display());
    let mut command = Command::new(binary);
    command.args(args).env_remove("RUST_LOG");
    Ok(command)
}

/// Runs a command to its end.
///
/// # Errors
///
/// If it cannot be run, or does not end within [`PATIENCE`].
pub fn run(command: Command) -> Result<Finished> {
    Running::start(command)?.finish()
}

/// Runs a command to its end, with this on its stdin.
///
/// # Errors
///
/// As [`run`].
pub fn run_with_input(mut command: Command, input: &[u8]) -> Result<Finished> {
    command.stdin(Stdio::piped());
    let mut running = Running::start(command)?;
    let mut stdin = running.take_stdin()?;
    let input = input.to_vec();
    // On a thread of its own: the program may end, or stop reading, before it has taken everything.
    let writer = std::thread::spawn(move || {
        let _ = stdin.write_all(&input);
    });
    let finished = running.finish();
    let _ = writer.join();
    finished
}

/// How a program ended, and what it said.
#[derive(Debug)]
pub struct Finished {
    /// How.
    pub status: ExitStatus,
    /// Its stdout, as it is.
    pub stdout_bytes: Vec<u8>,
    /// Its stdout as text.
    pub stdout: String,
    /// Its stderr as text.
    pub stderr: String,
}

impl Finished {
    /// The exit code; none if a signal ended it.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The lines of stdout.
    #[must_use]
    pub fn lines(&self) -> Vec<&str> {
        self.stdout.lines().collect()
    }

    /// The same if it succeeded.
    ///
    /// # Errors
    ///
    /// What it said if it did not.
    pub fn succeeded(self) -> Result<Finished> {
        ensure!(self.status.success(), "it failed: {self:?}");
        Ok(self)
    }
}

/// A program that runs. Killed when it is dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
    stderr_lines: mpsc::Receiver<String>,
    stdout: Arc<Mutex<Vec<u8>>>,
    stderr: Arc<Mutex<Vec<u8>>>,
    /// Hears of the ends of stdout and stderr.
    ends: mpsc::Receiver<()>,
}

impl Running {
    /// Starts it.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn start(mut command: Command) -> Result<Running> {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let (line_sender, lines) = mpsc::channel();
        let (end_sender, ends) = mpsc::channel();
        let stdout = gather(child.stdout.take().context("no stdout")?, line_sender, end_sender.clone());
        let (line_sender, stderr_lines) = mpsc::channel();
        let stderr = gather(child.stderr.take().context("no stderr")?, line_sender, end_sender);
        Ok(Running { child, lines, stderr_lines, stdout, stderr, ends })
    }

    /// The next line of its stdout.
    ///
    /// # Errors
    ///
    /// If none comes: it ended, or took too long.
    pub fn next_line(&mut self) -> Result<String> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => Ok(line),
            Err(RecvTimeoutError::Timeout) => Err(self.complaint("it says nothing more")),
            Err(RecvTimeoutError::Disconnected) => Err(self.complaint("it ended")),
        }
    }

    /// The next line of its stdout if there is one already.
    pub fn line_so_far(&mut self) -> Option<String> {
        self.lines.try_recv().ok()
    }

    /// Waits for a line on its stderr that has these words.
    ///
    /// # Errors
    ///
    /// If none comes.
    pub fn wait_for_stderr(&mut self, words: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.stderr_lines.recv_timeout(left) {
                Ok(line) if line.contains(words) => return Ok(()),
                Ok(_) => {}
                Err(_) => return Err(self.complaint(&format!("it does not say `{words}`"))),
            }
        }
    }

    /// Writes to its stdin, which must be piped, and leaves it open.
    ///
    /// # Errors
    ///
    /// If it has none, or takes nothing more.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let stdin = self.child.stdin.as_mut().context("no stdin")?;
        stdin.write_all(bytes)?;
        Ok(stdin.flush()?)
    }

    /// Its stdin, which must be piped. It ends when this is dropped.
    ///
    /// # Errors
    ///
    /// If it has none.
    pub fn take_stdin(&mut self) -> Result<ChildStdin> {
        self.child.stdin.take().context("no stdin")
    }

    /// Its process id, for as long as this lives.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    ///
    /// # Errors
    ///
    /// If it cannot be sent.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("no pid")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Kills it with -9, at once, and gives what it had said.
    ///
    /// # Errors
    ///
    /// If it cannot be waited for.
    pub fn kill(mut self) -> Result<Finished> {
        self.child.kill()?;
        self.finish()
    }

    /// Waits until it ends. Its stdin, if it is piped, stays open.
    ///
    /// # Errors
    ///
    /// If it does not end within [`PATIENCE`]; it is killed then.
    pub fn finish(mut self) -> Result<Finished> {
        let deadline = Instant::now() + PATIENCE;
        for _ in 0..2 {
            let left = deadline.saturating_duration_since(Instant::now());
            if self.ends.recv_timeout(left).is_err() {
                let complaint = self.complaint("it does not end");
                let _ = self.child.kill();
                return Err(complaint);
            }
        }
        // Both outputs are closed, so it is ending.
        let status = self.child.wait()?;
        let stdout_bytes = self.stdout.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let stdout = String::from_utf8_lossy(&stdout_bytes).into_owned();
        Ok(Finished { status, stdout_bytes, stdout, stderr: text(&self.stderr) })
    }

    /// Whether it still runs.
    ///
    /// # Errors
    ///
    /// If that cannot be asked.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    fn complaint(&self, what: &str) -> anyhow::Error {
        anyhow!("{what}; stdout: {:?}, stderr: {}", text(&self.stdout), text(&self.stderr))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server in a process of its own, with a data directory and a port that outlive the process.
#[derive(Debug)]
pub struct ServerProcess {
    running: Option<Running>,
    port: u16,
    args: Vec<String>,
    environment: Vec<(String, OsString)>,
    /// How many file descriptors it may have, if not as many as this process.
    descriptors: Option<u32>,
    data: PathBuf,
    /// Holds the data directory, unless it lies elsewhere, and whatever else a test wants to put down.
    dir: TempDir,
}

impl ServerProcess {
    /// Starts one on an empty data directory.
    ///
    /// # Errors
    ///
    /// If it does not become ready.
    pub fn start() -> Result<ServerProcess> {
        ServerProcess::start_with(&[])
    }

    /// Starts one with further arguments.
    ///
    /// # Errors
    ///
    /// If it does not become ready.
    pub fn start_with(args: &[&str]) -> Result<ServerProcess> {
        let dir = TempDir::new()?;
        let data = dir.path().join("data");
        let mut server = ServerProcess::prepare(data, dir, args)?;
        server.restart()?;
        Ok(server)
    }

    /// Starts one that may have no more than so many file descriptors, with further arguments.
    ///
    /// # Errors
    ///
    /// If it does not become ready.
    pub fn start_with_descriptors(descriptors: u32, args: &[&str]) -> Result<ServerProcess> {
        let dir = TempDir::new()?;
        let data = dir.path().join("data");
        let mut server = ServerProcess::prepare(data, dir, args)?;
        server.descriptors = Some(descriptors);
        server.restart()?;
        Ok(server)
    }

    /// One whose data directory lies where the caller says, with further arguments, not started yet.
    ///
    /// # Errors
    ///
    /// If there is no port for it.
    pub fn at(data: PathBuf, args: &[&str]) -> Result<ServerProcess> {
        ServerProcess::prepare(data, TempDir::new()?, args)
    }

    fn prepare(data: PathBuf, dir: TempDir, args: &[&str]) -> Result<ServerProcess> {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        let environment = Vec::new();
        Ok(ServerProcess { running: None, port: free_port()?, args, environment, descriptors: None, data, dir })
    }

    /// Sets what is in its environment from its next start on.
    pub fn set_environment(&mut self, environment: Vec<(String, OsString)>) {
        self.environment = environment;
    }

    /// Starts it, if it does not run, without waiting until it is ready.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn launch(&mut self) -> Result<()> {
        if self.running.is_none() {
            self.running = Some(Running::start(self.serve_command()?)?);
        }
        Ok(())
    }

    /// Cuts the power of the disk that its data is on, and brings the disk back without it.
    ///
    /// # Errors
    ///
    /// If it had ended by itself, or the disk does not come back.
    pub fn cut_power(&mut self, disk: &mut PowerCutDisk) -> Result<()> {
        self.insist_on_running()?;
        let mut running = self.running.take().context("it does not run")?;
        disk.cut(&mut running.child)
    }

    /// Makes sure that it has not ended by itself.
    ///
    /// # Errors
    ///
    /// What it said before it ended.
    pub fn insist_on_running(&mut self) -> Result<()> {
        let running = self.running.as_mut().context("it was not started")?;
        if running.is_running()? {
            return Ok(());
        }
        match self.running.take() {
            Some(running) => bail!("it ended by itself: {:?}", running.finish()?),
            None => Ok(()),
        }
    }

    /// Kills it if it runs, and starts it again on the same port and data.
    ///
    /// # Errors
    ///
    /// If it does not become ready.
    pub fn restart(&mut self) -> Result<()> {
        self.kill()?;
        let mut running = Running::start(self.serve_command()?)?;
        let line = running.next_line()?;
        ensure!(line == format!("redeliver listening on {}", self.url()), "not the ready line: {line}");
        self.running = Some(running);
        Ok(())
    }

    /// Kills it with -9, if it runs.
    ///
    /// # Errors
    ///
    /// If that cannot be done.
    pub fn kill(&mut self) -> Result<()> {
        self.running.take().map_or(Ok(()), |running| running.kill().map(|_| ()))
    }

    /// Ends it with SIGTERM and waits for it.
    ///
    /// # Errors
    ///
    /// If it does not end.
    pub fn terminate(&mut self) -> Result<Finished> {
        let running = self.running.take().context("it does not run")?;
        running.signal(Signal::TERM)?;
        running.finish()
    }

    /// Waits for a line on its stderr that has these words.
    ///
    /// # Errors
    ///
    /// If none comes, or it does not run.
    pub fn wait_for_stderr(&mut self, words: &str) -> Result<()> {
        self.running.as_mut().context("it does not run")?.wait_for_stderr(words)
    }

    /// The id of its process, if it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(Running::pid)
    }

    /// The command that starts it.
    ///
    /// # Errors
    ///
    /// If the binary was not built.
    pub fn serve_command(&self) -> Result<Command> {
        let mut command = redeliver(["serve", "--listen", &format!("127.0.0.1:{}", self.port)])?;
        command.arg("--data").arg(self.data()).args(&self.args);
        command.envs(self.environment.iter().cloned());
        let Some(descriptors) = self.descriptors else { return Ok(command) };
        let mut limited = Command::new("sh");
        limited.args(["-c", &format!("ulimit -n {descriptors} && exec \"$0\" \"$@\"")]).stdin(Stdio::null());
        limited.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => limited.env(name, value),
                None => limited.env_remove(name),
            };
        }
        Ok(limited)
    }

    /// A client's command for this server.
    ///
    /// # Errors
    ///
    /// If the binary was not built.
    pub fn command(&self, args: &[&str]) -> Result<Command> {
        let mut command = redeliver(args)?;
        command.env("REDELIVER_URL", self.url());
        Ok(command)
    }

    /// Runs a client's command for this server to its end.
    ///
    /// # Errors
    ///
    /// If it does not end.
    pub fn run(&self, args: &[&str]) -> Result<Finished> {
        run(self.command(args)?)
    }

    /// Starts a client's command for this server.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn spawn(&self, args: &[&str]) -> Result<Running> {
        Running::start(self.command(args)?)
    }

    /// Where it listens.
    #[must_use]
    pub fn url(&self) -> String {
        format!("ws://127.0.0.1:{}", self.port)
    }

    /// Its data directory.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.data.clone()
    }

    /// A folder that is removed with it.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.dir.path()
    }
}

/// A port that nothing listens on, outside of the range from which the kernel takes ports for outgoing connections: a
/// client that tries to reach a killed server on such a port could be given it, and be connected to itself.
///
/// # Errors
///
/// If there is none.
pub fn free_port() -> Result<u16> {
    const FIRST: u128 = 20_000;
    const COUNT: u128 = 12_000;
    for _ in 0..100 {
        let port = u16::try_from(FIRST + Uuid::new_v4().as_u128() % COUNT)?;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port was found")
}

/// Reads a pipe to its end on a thread, and sends its lines on.
fn gather(
    mut pipe: impl Read + Send + 'static,
    lines: mpsc::Sender<String>,
    end: mpsc::Sender<()>,
) -> Arc<Mutex<Vec<u8>>> {
    let gathered = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&gathered);
    std::thread::spawn(move || {
        let mut reader = BufReader::new(&mut pipe);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|bytes| bytes > 0) {
            keep.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&line);
            // Nobody may want them.
            let _ = lines.send(String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(&line)).into_owned());
            line.clear();
        }
        drop(lines);
        let _ = end.send(());
    });
    gathered
}

fn text(bytes: &Mutex<Vec<u8>>) -> String {
    String::from_utf8_lossy(&bytes.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
}
