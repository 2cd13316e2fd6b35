//! The credentials of a running `redeliver serve`: what SIGHUP and time do to who is connected, on both protocols.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;
use redeliver_server::Timestamp;
use redeliver_tests::process::ServerProcess;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const ALI: &str = "ali-0123456789abcdef0123456789abcdef";
const BOB: &str = "bob-0123456789abcdef0123456789abcdef";

/// A token's block of the configuration file.
fn token(name: &str, token: &str, subscribe: &str, more: &str) -> String {
    format!("[[auth.token]]\nname = \"{name}\"\ntoken = \"{token}\"\nemit = [\"*\"]\nsubscribe = {subscribe}\n{more}\n")
}

fn hang_up(server: &ServerProcess) -> Result<()> {
    let pid = i32::try_from(server.pid().unwrap())?;
    Ok(kill_process(Pid::from_raw(pid).unwrap(), Signal::HUP)?)
}

fn start(config: &Path) -> Result<ServerProcess> {
    ServerProcess::start_with(&["--config", config.to_str().unwrap()])
}

/// A Socket.IO client over polling: the path of its session.
fn socketio(server: &ServerProcess, token: &str) -> Result<String> {
    let opening = http(server, "GET /socket.io/?EIO=4&transport=polling", "")?;
    let opening: serde_json::Value = serde_json::from_str(opening.strip_prefix('0').unwrap())?;
    let session = format!("/socket.io/?EIO=4&transport=polling&sid={}", opening["sid"].as_str().unwrap());
    assert_eq!(http(server, &format!("POST {session}"), &format!("40{{\"token\":\"{token}\"}}"))?, "ok");
    assert!(http(server, &format!("GET {session}"), "")?.starts_with("40"), "connected");
    Ok(session)
}

fn http(server: &ServerProcess, request: &str, body: &str) -> Result<String> {
    let mut wire = TcpStream::connect(server.url().strip_prefix("ws://").unwrap())?;
    wire.set_read_timeout(Some(Duration::from_secs(20)))?;
    let length = body.len();
    write!(wire, "{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}")?;
    let mut answer = String::new();
    wire.read_to_string(&mut answer)?;
    Ok(answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}

#[test]
fn a_token_that_is_taken_back_is_out_within_a_second_of_a_hangup_on_both_protocols() -> Result<()> {
    let dir = TempDir::new()?;
    let config = dir.path().join("config.toml");
    fs::write(&config, token("ali", ALI, "[\"*\"]", "") + &token("bob", BOB, "[\"*\"]", ""))?;
    let server = start(&config)?;
    let mut ali = server.spawn(&["listen", "orders", "--start", "earliest", "--token", ALI])?;
    let mut bob = server.spawn(&["listen", "orders", "--start", "earliest", "--token", BOB])?;
    let session = socketio(&server, ALI)?;
    server.run(&["emit", "orders", "one", "--token", BOB])?.succeeded()?;
    assert_eq!((ali.next_line()?.as_str(), bob.next_line()?.as_str()), ("one", "one"));

    // A file that is not valid changes nothing.
    fs::write(&config, "[[auth.token]]\nname = \"bob\"\n")?;
    hang_up(&server)?;
    server.run(&["emit", "orders", "two", "--token", ALI])?.succeeded()?;
    assert_eq!((ali.next_line()?.as_str(), bob.next_line()?.as_str()), ("two", "two"));

    fs::write(&config, token("bob", BOB, "[\"*\"]", ""))?;
    let since = Instant::now();
    hang_up(&server)?;
    // The poll that waits brings the end; if none waited just then, the session is gone for the next one.
    let is_out = |polled: &str| polled.contains("41") || polled.contains("Session ID unknown");
    let mut polled = http(&server, &format!("GET {session}"), "")?;
    while polled.contains('2') && !is_out(&polled) {
        polled = http(&server, &format!("GET {session}"), "")?;
    }
    assert!(is_out(&polled), "the socket is disconnected: {polled}");
    let finished = ali.finish()?;
    assert!(since.elapsed() < Duration::from_secs(5), "a second, and some for a busy machine");
    assert_ne!(finished.code(), Some(0));
    assert!(finished.stderr.contains("taken back"), "{}", finished.stderr);
    server.run(&["emit", "orders", "three", "--token", BOB])?.succeeded()?;
    assert_eq!(bob.next_line()?, "three", "who keeps its token notices nothing");
    assert_ne!(server.run(&["emit", "orders", "four", "--token", ALI])?.code(), Some(0));
    Ok(())
}

#[test]
fn a_right_that_is_taken_back_ends_its_subscription_and_a_token_ends_when_it_expires() -> Result<()> {
    let dir = TempDir::new()?;
    let config = dir.path().join("config.toml");
    fs::write(&config, token("ali", ALI, "[\"*\"]", ""))?;
    let server = start(&config)?;
    let mut ali = server.spawn(&["listen", "orders", "--start", "earliest", "--token", ALI])?;
    server.run(&["emit", "orders", "one", "--token", ALI])?.succeeded()?;
    assert_eq!(ali.next_line()?, "one");
    fs::write(&config, token("ali", ALI, "[\"invoices\"]", ""))?;
    hang_up(&server)?;
    let finished = ali.finish()?;
    assert!(finished.stderr.contains("permission") || finished.stderr.contains("followed"), "{}", finished.stderr);

    let mut ali = server.spawn(&["listen", "invoices", "--start", "earliest", "--token", ALI])?;
    server.run(&["emit", "invoices", "one", "--token", ALI])?.succeeded()?;
    assert_eq!(ali.next_line()?, "one");
    let soon = Timestamp::from(SystemTime::now() + Duration::from_secs(3));
    fs::write(&config, token("ali", ALI, "[\"invoices\"]", &format!("expires = \"{soon}\"")))?;
    hang_up(&server)?;
    let finished = ali.finish()?;
    assert!(finished.stderr.contains("expired"), "{}", finished.stderr);
    Ok(())
}
