//! `redeliver serve`: makes one configuration of flags and file, opens the server, and ends it cleanly.
//!
//! Never starts with less protection than it was asked for, and never goes on with a log that has failed.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use redeliver_server::{EVENT_BYTES_MAX, EVENT_TOPICS_MAX, Limits, LogConfig, Server, ServerBuilder, ServerConfig};
use redeliver_socketio::SocketIo;
use tokio::net::{TcpListener, TcpSocket};
use tracing::{info, warn};

use crate::args::ServeArgs;
use crate::config_file::{ConfigFile, LimitsSection, SocketIoSection};
use crate::exit::{Exit, Problem};
use crate::stop::Stop;
use crate::units::{ByteCount, Count};

/// Serves until it is asked to end, or the log fails.
pub(crate) async fn run(args: ServeArgs, mut stop: Stop) -> Result<Exit> {
    let file = args.config.as_deref().map(ConfigFile::read).transpose()?.unwrap_or_default();
    let listen = args.listen.or_else(|| file.listen.clone()).unwrap_or_else(|| LISTEN.to_owned());
    let data = args.data.or_else(|| file.data.clone()).unwrap_or_else(|| PathBuf::from(DATA));
    let builder = configured(&file, &data)?;
    let addresses = addresses(&listen).await?;
    if !args.insecure && file.auth.token.is_empty() {
        refuse_open_door(&addresses)?;
    }
    raise_descriptors();
    let listener = bind(&listen, &addresses)?;
    let address = listener.local_addr().context("the listener has no address")?;

    let server = tokio::select! {
        // The log's own words say what can be done.
        opened = builder.open() => opened?,
        _ = stop.asked() => return Ok(Exit::Success),
    };
    let gateway = gateway(&file.socketio, &server, args.no_socketio)?;
    match &gateway {
        Some(io) => drop(tokio::spawn(server.serve_with(listener, io.with_page()))),
        None => drop(tokio::spawn(server.serve(listener))),
    }
    announce(address)?;
    info!(%address, data = %data.display(), "ready");

    tokio::select! {
        _ = stop.asked() => {}
        reason = server.failed() => {
            let problem = Problem::new(format!("the log has failed: {reason}"));
            return Err(problem.hint("nothing acknowledged is lost; see to the disk, then start again").into());
        }
    }
    info!("ending");
    if let Some(io) = gateway
        && !io.shutdown(GATEWAY_PATIENCE).await
    {
        warn!("some Socket.IO clients did not end in time and are cut");
    }
    if !server.shutdown(SHUTDOWN_PATIENCE).await {
        warn!("some connections did not end in time and are cut");
    }
    Ok(Exit::Success)
}

/// Each connection takes a file descriptor, and the usual soft limit of 1,024 is there for programs that cannot handle more:
/// the hard one is the operator's word.
fn raise_descriptors() {
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(descriptors) => info!(descriptors, "file descriptors, some thirty fewer connections"),
        Err(error) => warn!(%error, "the limit of file descriptors stays as it was"),
    }
}

/// The Socket.IO gateway, unless it is not wanted.
fn gateway(section: &SocketIoSection, server: &Server, is_off: bool) -> Result<Option<SocketIo>, Problem> {
    if is_off || section.enabled == Some(false) {
        return Ok(None);
    }
    Ok(Some(SocketIo::builder(server.clone()).config(gateway_config(section)?).build()))
}

fn gateway_config(section: &SocketIoSection) -> Result<redeliver_socketio::Config, Problem> {
    let mut config = redeliver_socketio::Config::default();
    config.builtin_events = true;
    if let Some(path) = &section.path {
        config.path.clone_from(path);
    }
    if let Some(recovery) = section.recovery {
        config.recovery = recovery.into();
    }
    for (name, span, setting) in [
        ("ping_interval", section.ping_interval, &mut config.ping_interval),
        ("ping_timeout", section.ping_timeout, &mut config.ping_timeout),
        ("connect_timeout", section.connect_timeout, &mut config.connect_timeout),
        ("session_idle", section.session_idle, &mut config.session_idle_max),
        ("ack_timeout", section.ack_timeout, &mut config.ack_timeout),
    ] {
        let Some(span) = span else { continue };
        if span.0.is_zero() {
            return Err(Problem::new(format!("socketio.{name} must be more than nothing")));
        }
        *setting = span.0;
    }
    if let Some(ByteCount(bytes)) = section.payload_bytes {
        config.payload_bytes_max = usize::try_from(bytes).unwrap_or(usize::MAX);
    }
    if let Some(Count(sessions)) = section.sessions {
        config.sessions_max = usize::try_from(sessions).unwrap_or(usize::MAX);
    }
    Ok(config)
}

fn configured(file: &ConfigFile, data: &Path) -> Result<ServerBuilder> {
    let mut session = ServerConfig::default();
    if let Some(heartbeat) = file.heartbeat {
        anyhow::ensure!(heartbeat.0 >= HEARTBEAT_MIN, Problem::new("heartbeat must be at least 1s"));
        session.heartbeat = heartbeat.0;
    }
    session.limits = limits(&file.limits)?;
    let mut log = LogConfig::default();
    log.retention.age = file.retention.age.map(|age| age.0);
    log.retention.bytes = file.retention.bytes.map(|bytes| bytes.0);
    log.retention.count = file.retention.count.map(|count| count.0);

    let mut builder = Server::builder().data_dir(data).session_config(session).log_config(log);
    if let Some(connections) = file.limits.connections {
        builder = builder.connections_max(usize::try_from(connections.0).unwrap_or(usize::MAX));
    }
    if let Some(origins) = &file.allowed_origins {
        builder = builder.allowed_origins(origins.clone());
    }
    let tokens = file.tokens()?;
    for name in file.weak_tokens() {
        warn!(token = name, "this token can be guessed: use at least 128 random bits, as from `openssl rand -hex 32`");
    }
    Ok(if tokens.is_empty() { builder } else { builder.access(tokens) })
}

/// The file's limits, none of which may be zero or above what the protocol allows.
fn limits(section: &LimitsSection) -> Result<Limits, Problem> {
    let mut limits = Limits::default();
    let count = |count: Option<Count>| count.map(|count| count.0);
    let bytes = |bytes: Option<ByteCount>| bytes.map(|bytes| bytes.0);
    let most = |bound: usize| u32::try_from(bound).unwrap_or(u32::MAX);
    for (name, wanted, limit, most) in [
        ("event_bytes", bytes(section.event_bytes), &mut limits.event_bytes_max, most(EVENT_BYTES_MAX)),
        ("event_topics", count(section.event_topics), &mut limits.event_topics_max, most(EVENT_TOPICS_MAX)),
        ("emits_in_flight", count(section.emits_in_flight), &mut limits.emits_in_flight_max, u32::MAX),
        ("emit_bytes_in_flight", bytes(section.emit_bytes_in_flight), &mut limits.emit_bytes_in_flight_max, u32::MAX),
        ("subscriptions", count(section.subscriptions), &mut limits.subscriptions_max, u32::MAX),
        ("window_events", count(section.window_events), &mut limits.window_events_max, u32::MAX),
        ("window_bytes", bytes(section.window_bytes), &mut limits.window_bytes_max, u32::MAX),
    ] {
        let Some(wanted) = wanted else { continue };
        match u32::try_from(wanted) {
            Ok(wanted) if (1..=most).contains(&wanted) => *limit = wanted,
            _ => return Err(Problem::new(format!("limits.{name} must be between 1 and {most}, not {wanted}"))),
        }
    }
    Ok(limits)
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

fn bind_one(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A server that was just ended leaves its port in a state that is no obstacle. On Windows the option means another thing.
    #[cfg(not(windows))]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// The ready line on stdout, and on stderr what to do next.
fn announce(address: SocketAddr) -> Result<()> {
    let mut stdout = std::io::stdout();
    writeln!(stdout, "redeliver listening on ws://{address}")
        .and_then(|()| stdout.flush())
        .context("stdout cannot be written")?;
    let program = std::env::args().next().unwrap_or_else(|| "redeliver".to_owned());
    let url = if address.to_string() == LISTEN { String::new() } else { format!(" --url ws://{address}") };
    // Nothing can be done about an stderr that is closed.
    let _ = write!(
        std::io::stderr(),
        "\nNow, in other terminals:\n  {program} listen orders --as alice{url}\n  {program} emit orders 'order 1: tea'{url}\n\
         Stop the listener, emit some more, start it again: it prints what it missed.\n\n"
    );
    Ok(())
}

const LISTEN: &str = "127.0.0.1:7400";
const DATA: &str = "./redeliver-data";

/// Connections that may wait to be accepted. With the usual 128, most of a thousand clients that reconnect at once are
/// dropped by the kernel and come again after a second. The system may allow less.
const BACKLOG: u32 = 4096;

/// With the gateway's, below the 5 seconds after which people reach for kill -9.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(3);

/// What Socket.IO clients get to be sent away and stored.
const GATEWAY_PATIENCE: Duration = Duration::from_secs(1);

const HEARTBEAT_MIN: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use redeliver_socketio::Recovery;

    use super::*;

    fn section(keys: &str) -> SocketIoSection {
        toml::from_str(keys).unwrap()
    }

    #[test]
    fn each_key_of_the_gateways_section_sets_what_it_says() {
        let keys = "path = \"/rt\"\nrecovery = \"off\"\nping_interval = \"1s\"\nping_timeout = \"2s\"\nconnect_timeout = \"3s\"\n\
                    session_idle = \"4d\"\nack_timeout = \"5s\"\npayload_bytes = \"6 KiB\"\nsessions = 7";
        let config = gateway_config(&section(keys)).unwrap();
        assert_eq!((config.path.as_str(), config.recovery), ("/rt", Recovery::Off));
        assert_eq!((config.ping_interval, config.ping_timeout), (Duration::from_secs(1), Duration::from_secs(2)));
        assert_eq!((config.connect_timeout, config.ack_timeout), (Duration::from_secs(3), Duration::from_secs(5)));
        assert_eq!((config.session_idle_max, config.payload_bytes_max), (Duration::from_secs(4 * 86_400), 6 * 1024));
        assert_eq!(config.sessions_max, 7);
    }

    #[test]
    fn a_span_of_nothing_is_refused_by_its_name() {
        for name in ["ping_interval", "ping_timeout", "connect_timeout", "session_idle", "ack_timeout"] {
            let problem = gateway_config(&section(&format!("{name} = \"0s\""))).unwrap_err().to_string();
            assert!(problem.contains(&format!("socketio.{name}")), "{problem}");
        }
    }
}
