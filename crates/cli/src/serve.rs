//! `redeliver serve`: makes one configuration of flags and file, opens the server, and ends it cleanly.
//!
//! Never starts with less protection than it was asked for, and never goes on with a log that has failed.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use redeliver_server::{Server, Tls};
use redeliver_socketio::SocketIo;
use tokio::net::{TcpListener, TcpSocket};
use tracing::{debug, info, warn};

use crate::access::LiveTokens;
use crate::args::ServeArgs;
use crate::config_file::ConfigFile;
use crate::exit::{Exit, Problem};
use crate::reload::{self, Reload};
use crate::settings::{self, ADMIN_LISTEN, LISTEN, OFF};
use crate::stop::Stop;

/// Serves until it is asked to end, or the log fails.
pub(crate) async fn run(args: ServeArgs, mut stop: Stop) -> Result<Exit> {
    if args.example_config {
        write!(std::io::stdout(), "{}", settings::example()).context("stdout cannot be written")?;
        return Ok(Exit::Success);
    }
    let file = args.config.as_deref().map(ConfigFile::read).transpose()?.unwrap_or_default();
    reload::warn_of_tokens(&file);
    let configuration = file.configuration;
    let running = configuration.clone();
    let listen = args.listen.unwrap_or(configuration.listen);
    let data = args.data.unwrap_or_else(|| PathBuf::from(configuration.data));
    let addresses = addresses(&listen).await?;
    let without_tokens = if args.insecure { Ok(()) } else { refuse_open_door(&addresses) };
    let may_be_open = without_tokens.is_ok();
    if file.tokens.is_empty() {
        without_tokens?;
    }
    let has_tokens = !file.tokens.is_empty();
    if let Some(path) = args.config.as_deref().filter(|path| has_tokens && may_be_read_by_others(path)) {
        warn!(file = %path.display(), "others may read the tokens in the configuration file: chmod 600");
    }
    let tokens = LiveTokens::new(file.tokens);
    let reload = args.config.map(|path| Reload::on_hangup(path, running, tokens.clone(), may_be_open)).transpose()?;
    let builder = Server::builder()
        .data_dir(&data)
        .session_config(configuration.session)
        .log_config(configuration.log)
        .connections_max(configuration.connections_max)
        .strangers(configuration.strangers)
        .queue_bytes_max(configuration.queue_bytes_max)
        .allowed_origins(configuration.allowed_origins)
        .access(tokens.clone());
    let tls = configuration.tls.files().map(Tls::from_files).transpose().map_err(|error| {
        Problem::new(format!("TLS cannot be had: {error}"))
            .hint("see `tls.cert` and `tls.key` in the configuration file")
    })?;
    warn_of_open_doors(&addresses, args.insecure, has_tokens, tls.is_some());
    raise_descriptors();
    let listener = bind(&listen, &addresses)?;
    let address = listener.local_addr().context("the listener has no address")?;
    let admin = bind_admin(&args.admin.unwrap_or(configuration.admin_listen)).await?;

    let server = tokio::select! {
        // The log's own words say what can be done.
        opened = builder.open() => opened?,
        _ = stop.asked() => return Ok(Exit::Success),
    };
    let serves_socketio = configuration.socketio_enabled && !args.no_socketio;
    let gateway = serves_socketio.then(|| SocketIo::builder(server.clone()).config(configuration.socketio).build());
    match (&gateway, tls.clone()) {
        (Some(io), Some(tls)) => drop(tokio::spawn(server.serve_tls_with(listener, io.with_page(), tls))),
        (Some(io), None) => drop(tokio::spawn(server.serve_with(listener, io.with_page()))),
        (None, Some(tls)) => drop(tokio::spawn(server.serve_tls(listener, tls))),
        (None, None) => drop(tokio::spawn(server.serve(listener))),
    }
    let scheme = if tls.is_some() { "wss" } else { "ws" };
    if let Some(tls) = tls {
        drop(tokio::spawn(reload::follow_certificate(tls)));
    }
    if let Some(listener) = admin {
        drop(tokio::spawn(server.serve_admin(listener)));
    }
    let watching = tokio::spawn(reload::watch_expiry(tokens, server.clone()));
    let reloading = reload.map(|reload| tokio::spawn(reload.run(server.clone())));
    announce(scheme, address);
    info!(%address, data = %data.display(), "ready");

    tokio::select! {
        _ = stop.asked() => {}
        failure = server.failed() => {
            let problem = Problem::new(failure.to_string());
            return Err(problem.hint("nothing acknowledged is lost; see to the disk, then start again").into());
        }
    }
    info!("ending");
    watching.abort();
    reloading.inspect(tokio::task::JoinHandle::abort);
    if let Some(io) = gateway
        && !io.close(GATEWAY_PATIENCE).await
    {
        warn!("some Socket.IO clients did not end in time and are cut");
    }
    if let Err(error) = server.shutdown(SHUTDOWN_PATIENCE).await {
        warn!(%error, "what did not end in time is cut");
    }
    Ok(Exit::Success)
}

fn may_be_read_by_others(path: &std::path::Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o044 != 0)
}

/// Each connection takes a file descriptor, and the usual soft limit of 1,024 is there for programs that cannot handle more:
/// the hard one is the operator's word.
fn raise_descriptors() {
    match rlimit::increase_nofile_limit(u64::MAX) {
        // What follows from it the server says when it is opened.
        Ok(descriptors) => debug!(descriptors, "the limit of file descriptors"),
        Err(error) => warn!(%error, "the limit of file descriptors stays as it was"),
    }
}

async fn addresses(listen: &str) -> Result<Vec<SocketAddr>> {
    let problem = |words: String| {
        Problem::new(format!("cannot listen on `{listen}`: {words}"))
            .hint("give HOST:PORT, as in 127.0.0.1:7400 or [::1]:7400")
    };
    let addresses: Vec<_> =
        tokio::net::lookup_host(listen).await.map_err(|error| problem(error.to_string()))?.collect();
    if addresses.is_empty() {
        return Err(problem("the host has no address".to_owned()).into());
    }
    Ok(addresses)
}

fn refuse_open_door(addresses: &[SocketAddr]) -> Result<(), Problem> {
    match addresses.iter().find(|address| !address.ip().is_loopback()) {
        None => Ok(()),
        Some(address) => {
            let words = format!(
                "listening on {address} without authentication would let anybody in the network emit and listen"
            );
            Err(Problem::new(words)
                .hint("set tokens in a --config file, listen on 127.0.0.1, or say --insecure if that is what you want"))
        }
    }
}

fn bind(listen: &str, addresses: &[SocketAddr]) -> Result<TcpListener> {
    let mut bound = Err(std::io::ErrorKind::AddrNotAvailable.into());
    for address in addresses {
        bound = bind_one(*address);
        if bound.is_ok() {
            break;
        }
    }
    bound.map_err(|error: std::io::Error| {
        let problem = Problem::new(format!("cannot listen on {listen}: {error}"));
        if error.kind() == std::io::ErrorKind::AddrInUse {
            let hint =
                "another server runs there: end it, or choose another port with --listen (port 0 takes a free one)";
            problem.hint(hint).into()
        } else {
            problem.into()
        }
    })
}

/// Says what is not as safe as it looks.
fn warn_of_open_doors(addresses: &[SocketAddr], is_insecure: bool, has_tokens: bool, has_tls: bool) {
    let Some(address) = addresses.iter().find(|address| !address.ip().is_loopback()) else { return };
    if has_tokens && !has_tls {
        warn!(%address, "tokens and events travel in clear beyond this machine: set tls.cert and tls.key, or keep it behind a proxy that speaks TLS");
    }
    if is_insecure && !has_tokens {
        warn!(%address, "--insecure: anybody who reaches this address may emit and follow");
    }
}

/// The listener for operators. Without having been asked for it, a server that finds its port taken goes on without: it may
/// be the second one on this machine.
async fn bind_admin(listen: &str) -> Result<Option<TcpListener>> {
    if listen == OFF {
        return Ok(None);
    }
    let addresses = addresses(listen).await?;
    if let Some(address) = addresses.iter().find(|address| !address.ip().is_loopback()) {
        warn!(%address, "whoever can reach this address can ask for the state of the server: keep it to operators");
    }
    match bind(listen, &addresses) {
        Ok(listener) => {
            let address = listener.local_addr().context("the listener for operators has no address")?;
            info!(%address, "answering operators: /healthz, /readyz");
            Ok(Some(listener))
        }
        Err(error) if listen == ADMIN_LISTEN => {
            warn!(%error, "operators are answered on the public port only: choose another with --admin, or `--admin off`");
            Ok(None)
        }
        Err(error) => Err(error.context("the listener for operators (`admin.listen`) is not there")),
    }
}

fn bind_one(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A server that was just ended leaves its port in a state that is no obstacle. On Windows the option means another thing.
    #[cfg(not(windows))]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// The ready line on stdout, and on stderr what to do next.
fn announce(scheme: &str, address: SocketAddr) {
    let mut stdout = std::io::stdout();
    if let Err(error) = writeln!(stdout, "redeliver listening on {scheme}://{address}").and_then(|()| stdout.flush()) {
        warn!(%error, "stdout cannot be written; it serves all the same");
    }
    let pid = std::process::id();
    let program = std::env::args().next().unwrap_or_else(|| "redeliver".to_owned());
    let url = if scheme == "ws" && address.to_string() == LISTEN {
        String::new()
    } else {
        format!(" --url {scheme}://{address}")
    };
    // Nothing can be done about an stderr that is closed.
    let _ = write!(
        std::io::stderr(),
        "\nNow, in other terminals:\n  {program} listen orders --as alice{url}\n  {program} emit orders 'order 1: tea'{url}\n\
         Stop the listener, emit some more, start it again: it prints what it missed.\n\
         kill -9 {pid} ends this server as a crash would.\n\n"
    );
}

/// Connections that may wait to be accepted. With the usual 128, most of a thousand clients that reconnect at once are
/// dropped by the kernel and come again after a second. The system may allow less.
const BACKLOG: u32 = 4096;

/// With the gateway's, below the 5 seconds after which people reach for kill -9.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(3);

/// What Socket.IO clients get to be sent away and stored.
const GATEWAY_PATIENCE: Duration = Duration::from_secs(1);
