//! Socket.IO clients of this server beside those of `socket.io` on Node, in the same run and with the same load: fan-out to
//! a thousand readers, and a thousand that come back at once to a hundred missed events each, in rooms of their own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::{PATIENCE, Run};
use crate::fleet::Fleet;
use crate::process::Process;
use crate::report::{Row, Wanted};
use crate::socketio::{Sockets, UPGRADE};

/// Deliveries per CPU second of the server, with so many events in a burst.
///
/// # Errors
///
/// If anything did not arrive as it was sent.
pub fn fan_out(run: &Run, readers: usize, burst: u64) -> Result<Row> {
    let data = run.data()?;
    let ours = rounds(run, &Process::server(data.path())?, readers, burst)?;
    let parameters = format!("{readers} readers, {burst} in a burst");
    let row = Row::new("Socket.IO fan-out", parameters, ours.per_cpu_s, "deliveries/CPU-s")
        .server(ours.cpu_s, ours.rss_peak_bytes);
    Ok(match node()? {
        Some(node) => {
            let node = rounds(run, &node, readers, burst)?;
            row.limit(node.per_cpu_s).wanted(Wanted::Ratio(3.0)).note(format!(
                "limit: socket.io on Node, in memory; it held {:.0} MB",
                node.rss_peak_bytes as f64 / 1e6
            ))
        }
        None => row.note(NO_NODE.to_owned()),
    })
}

/// Seconds until a thousand readers that were cut off have what they missed, handshakes included.
///
/// # Errors
///
/// If one is not known again, or anything did not arrive as it was sent.
pub fn recovery(run: &Run, readers: usize, missed: u64) -> Result<Row> {
    let data = run.data()?;
    let server = Process::server(data.path())?;
    let before = server.usage()?;
    let ours = come_back(run, &server, readers, missed)?;
    let used = server.usage()?.since(before);
    drop(server);
    let parameters = format!("{readers} readers × {missed} events, own rooms");
    let row = Row::new("Socket.IO recovery", parameters, ours, "s").server(used.cpu_s, used.rss_peak_bytes);
    Ok(match node()? {
        Some(node) => {
            let row = row
                .limit_of_cost(come_back(run, &node, readers, missed)?)
                .note("limit: socket.io on Node, in memory".to_owned());
            // Node's time grows with the square of the readers, so with fewer of them nothing is wanted.
            if readers >= 1000 { row.wanted(Wanted::Ratio(20.0)) } else { row }
        }
        None => row.note(NO_NODE.to_owned()),
    })
}

struct Rounds {
    per_cpu_s: f64,
    cpu_s: f64,
    rss_peak_bytes: u64,
}

fn rounds(run: &Run, server: &Process, count: usize, burst: u64) -> Result<Rounds> {
    let mut fleet = Fleet::new()?;
    let mut sockets = Sockets::readers(count, 1);
    connect(&mut fleet, &mut sockets, server, count)?;
    let emitter = connect_emitter(&mut fleet, &mut sockets, server)?;
    let before = server.usage()?;
    let begun = Instant::now();
    while begun.elapsed() < run.span() {
        for _ in 0..burst {
            sockets.put_emit(fleet.out(emitter));
        }
        fleet.flush(emitter)?;
        let (events, wanted) = (sockets.sent(), sockets.sent() * count as u64);
        fleet.until(PATIENCE, &mut sockets, |sockets| sockets.arrived >= wanted && sockets.acked >= events)?;
    }
    let used = server.usage()?.since(before);
    Ok(Rounds {
        per_cpu_s: sockets.arrived as f64 / used.cpu_s,
        cpu_s: used.cpu_s,
        rss_peak_bytes: used.rss_peak_bytes,
    })
}

/// Connects readers of topics of their own, cuts them off after their first event, emits what they miss, and has all come
/// back at once.
fn come_back(run: &Run, server: &Process, count: usize, missed: u64) -> Result<f64> {
    let mut fleet = Fleet::new()?;
    let mut sockets = Sockets::readers(count, count as u64);
    connect(&mut fleet, &mut sockets, server, count)?;
    let mut emitting = Fleet::new()?;
    let mut emitter = Sockets::readers(0, count as u64);
    connect_emitter(&mut emitting, &mut emitter, server)?;
    emit(&mut emitting, &mut emitter, count as u64)?;
    fleet.until(PATIENCE, &mut sockets, |sockets| sockets.arrived >= count as u64)?;
    drop(fleet);
    let events = missed * count as u64;
    while emitter.acked < events + count as u64 {
        let left = events + count as u64 - emitter.sent();
        emit(&mut emitting, &mut emitter, EMITS_TOGETHER.min(left))?;
        run.tell(format!("{} of {events} events missed", emitter.acked));
    }
    run.tell(String::new());
    let (mut fleet, mut back) = (Fleet::new()?, sockets.returning());
    let begun = Instant::now();
    for _ in 0..count {
        fleet.connect_with(server.address(), UPGRADE)?;
    }
    // Node takes a minute for this when it is not alone on the machine. It sends what was missed before it says hello.
    fleet.until(PATIENCE * 4, &mut back, |back| back.arrived >= events && back.ready >= count)?;
    let seconds = begun.elapsed().as_secs_f64();
    ensure!(back.arrived == events, "{} of {events} events arrived", back.arrived);
    ensure!(back.ready == count, "{} of {count} readers were known again", back.ready);
    Ok(seconds)
}

fn emit(fleet: &mut Fleet, emitter: &mut Sockets, count: u64) -> Result<()> {
    for _ in 0..count {
        emitter.put_emit(fleet.out(0));
    }
    fleet.flush(0)?;
    let wanted = emitter.sent();
    fleet.until(PATIENCE, emitter, |emitter| emitter.acked >= wanted)
}

fn connect(fleet: &mut Fleet, sockets: &mut Sockets, server: &Process, count: usize) -> Result<()> {
    for at in 0..count {
        fleet.connect_with(server.address(), UPGRADE)?;
        // No more at once than a listener lets wait.
        if at % 128 == 127 {
            fleet.until(PATIENCE, sockets, |sockets| sockets.ready > at)?;
        }
    }
    fleet.until(PATIENCE, sockets, |sockets| sockets.ready >= count)
}

fn connect_emitter(fleet: &mut Fleet, sockets: &mut Sockets, server: &Process) -> Result<usize> {
    sockets.add_emitter();
    let wanted = sockets.ready + 1;
    let emitter = fleet.connect_with(server.address(), UPGRADE)?;
    fleet.until(PATIENCE, sockets, |sockets| sockets.ready >= wanted)?;
    Ok(emitter)
}

/// The reference, if Node is there. Its packages are installed on demand.
fn node() -> Result<Option<Process>> {
    let quiet =
        |program: &str| Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if quiet("node").is_err() || quiet("npm").is_err() {
        return Ok(None);
    }
    let dir: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("socketio");
    if !dir.join("node_modules/socket.io").exists() {
        let mut install = Command::new("npm");
        install.args(["ci", "--silent", "--no-audit", "--no-fund", "--prefix"]).arg(&dir).stdout(Stdio::null());
        let installed = install.status().context("npm cannot be started")?;
        ensure!(installed.success(), "`npm ci --prefix {}` failed", dir.display());
    }
    let mut command = Command::new("node");
    command.arg(dir.join("reference.mjs")).env("PORT", "0").env("NODE_ENV", "production");
    Process::other(command).context("socket.io on Node").map(Some)
}

const NO_NODE: &str = "Node is not installed: nothing stands beside it";

const EMITS_TOGETHER: u64 = 1000;
