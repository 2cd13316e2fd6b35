//! A mutation fuzzer for each decoder that a peer can reach, on stable Rust: good messages, changed by a seed. Whatever
//! comes is a message or an error: no panic, nothing without an end, and nobody else notices.
//!
//! `FUZZ_ROUNDS` says how much is tried (1 by default: a few seconds); `FUZZ_SEED` where it begins.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use redeliver_protocol::codec::{self, FromClient, FromServer, Records};
use redeliver_protocol::frame::ServerFrame;
use redeliver_protocol::history::Place;
use redeliver_protocol::seq::Position;
use redeliver_protocol::time::Timestamp;
use redeliver_tests::mutation::Mutator;
use redeliver_tests::process::ServerProcess;
use redeliver_tests::waiting::within;
use redeliver_websocket::{BINARY, SocketEvent, TEXT, WebSocket};
use tokio::io::AsyncWriteExt;

#[test]
fn messages_of_the_protocol_are_read_back_or_refused() {
    let good = vectors();
    let mut mutator = Mutator::new(seed());
    let mut read = 0;
    for _ in 0..500_000 * rounds() {
        let bytes = Bytes::from(mutator.mutated(&good));
        let _ = codec::decode_hello(&bytes).map(|hello| {
            assert_eq!(codec::decode_hello(&codec::encode_hello(&hello)), Ok(hello));
        });
        if let Ok(FromClient::Frame(frame)) = codec::decode_from_client(&bytes) {
            read += 1;
            assert_eq!(codec::decode_from_client(&codec::encode_client(&frame)), Ok(FromClient::Frame(frame)));
        }
        match codec::decode_from_server(&bytes) {
            Ok(FromServer::Frame(ServerFrame::Events(events))) => {
                let most = events.records.len();
                assert!(Records::new(events.records).count() <= most, "records that take no bytes");
            }
            Ok(FromServer::Frame(frame)) => {
                assert_eq!(codec::decode_from_server(&codec::encode_server(&frame)), Ok(FromServer::Frame(frame)));
            }
            Ok(FromServer::Close(_)) | Err(_) => {}
        }
    }
    assert!(read > 1_000, "only {read} were still messages: the fuzzer changes too much");
}

#[test]
fn places_and_times_as_text_are_read_back_or_refused() {
    let position = format!("{}", Position::default());
    let good: Vec<Vec<u8>> = [
        position.clone(),
        format!("{}", Place::default()),
        format!("{position}#7"),
        "2026-01-31T23:59:60.123Z".to_owned(),
        "1767225600000".to_owned(),
    ]
    .map(String::into_bytes)
    .into();
    let mut mutator = Mutator::new(seed());
    for _ in 0..500_000 * rounds() {
        let bytes = mutator.mutated(&good);
        let text = String::from_utf8_lossy(&bytes);
        if let Ok(position) = text.parse::<Position>() {
            assert_eq!(position.to_string().parse::<Position>(), Ok(position));
        }
        if let Ok(place) = text.parse::<Place>() {
            assert_eq!(place.to_string().parse::<Place>(), Ok(place));
        }
        if let Ok(time) = text.parse::<Timestamp>() {
            assert_eq!(time.to_string().parse::<Timestamp>(), Ok(time));
        }
    }
}

#[tokio::test]
async fn a_websocket_ends_or_goes_on_but_keeps_no_more_than_its_limit() -> Result<()> {
    const LIMIT: usize = 1_000;
    let good = vec![
        frames(&[(0x82, b"a binary message"), (0x81, "ä text".as_bytes()), (0x88, &[3, 0xe8])]),
        frames(&[(0x02, b"in "), (0x89, b"ping"), (0x00, b"three "), (0x80, b"parts"), (0x8a, b"")]),
        frames(&[(0x82, &[7; 126]), (0x82, &[8; 900]), (0x81, b"")]),
    ];
    let mut mutator = Mutator::new(seed());
    for _ in 0..100_000 * rounds() {
        let bytes = mutator.mutated(&good);
        let pieces: Vec<Vec<u8>> = mutator.pieces(&bytes).into_iter().map(<[u8]>::to_vec).collect();
        let (mut near, far) = tokio::io::duplex(256);
        let writing = tokio::spawn(async move {
            for piece in pieces {
                if near.write_all(&piece).await.is_err() {
                    return;
                }
            }
        });
        let mut socket = WebSocket::new(far, LIMIT, LIMIT);
        let reading = async {
            loop {
                match std::future::poll_fn(|cx| socket.poll(cx, true)).await {
                    SocketEvent::Message(message) => assert!(message.len() <= LIMIT),
                    SocketEvent::Text(text) => assert!(text.len() <= LIMIT),
                    SocketEvent::Drained => {}
                    SocketEvent::Broken(code, _) => {
                        assert!((1000..=1015).contains(&code), "{code} of {bytes:02x?}");
                        return;
                    }
                    SocketEvent::Ended => return,
                }
            }
        };
        within(reading).await?;
        drop(socket);
        within(writing).await??;
    }
    Ok(())
}

#[test]
fn a_server_that_is_sent_mutated_conversations_serves_everybody_else() -> Result<()> {
    let mut server = ServerProcess::start()?;
    // In a topic that the conversations do not name: some of them are still good enough to emit.
    server.run(&["emit", "bystanders", "before"])?.succeeded()?;
    let mut reader = server.spawn(&["listen", "bystanders", "--start", "earliest"])?;
    ensure!(reader.next_line()? == "before");
    let url = server.url();
    let address = url.strip_prefix("ws://").context("a URL without TLS")?.to_owned();
    let good = conversations();
    let mut mutator = Mutator::new(seed());
    for round in 0..6_000 * rounds() {
        let bytes = mutator.mutated(&good);
        converse(&address, &bytes).with_context(|| format!("{round}: {}", bytes.escape_ascii()))?;
        if round % 1_000 == 999 {
            let word = format!("after {round}");
            server.run(&["emit", "bystanders", &word])?.succeeded()?;
            ensure!(reader.next_line()? == word);
        }
    }
    ensure!(reader.is_running()?);
    let finished = server.terminate()?;
    ensure!(finished.code() == Some(0) && !finished.stderr.contains("panicked"), "{}", finished.stderr);
    Ok(())
}

/// Says this to the server, and hears what it answers until the server ends it or says no more.
fn converse(address: &str, bytes: &[u8]) -> Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_write_timeout(Some(Duration::from_secs(10)))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    // A server that has closed the connection takes no more, which is an answer.
    if stream.write_all(bytes).is_err() || stream.shutdown(Shutdown::Write).is_err() {
        return Ok(());
    }
    let mut answer = [0; 4_096];
    loop {
        match stream.read(&mut answer) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(error).context("the server neither ends the connection nor answers"),
        }
    }
}

/// What clients of both protocols say, from the first byte of HTTP on.
fn conversations() -> Vec<Vec<u8>> {
    let upgrade = |path: &str, protocol: &str| {
        format!(
            "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{protocol}\r\n"
        )
        .into_bytes()
    };
    let native = upgrade("/", "Sec-WebSocket-Protocol: redeliver.v1\r\n");
    let gateway = upgrade("/socket.io/?EIO=4&transport=websocket", "");
    let mut all: Vec<Vec<u8>> = Vec::new();
    let vectors = vectors();
    let hello = vectors.iter().find(|vector| vector.starts_with(b"RDLH")).unwrap();
    for message in &vectors {
        let said = frames(&[(0x80 | BINARY, hello), (0x80 | BINARY, message)]);
        all.push([&native[..], &said].concat());
    }
    let words = [
        "40",
        "40/,{\"token\":\"x\"}",
        "42[\"subscribe\",\"t\"]",
        "421[\"emit\",\"t\",\"name\",{\"id\":7}]",
        "451-[\"message\",{\"_placeholder\":true,\"num\":0}]",
        "2probe",
        "3",
        "41",
    ];
    for word in words {
        let said = frames(&[(0x80 | TEXT, b"40"), (0x80 | TEXT, word.as_bytes()), (0x80 | BINARY, b"bytes")]);
        all.push([&gateway[..], &said].concat());
    }
    for path in ["/", "/healthz", "/socket.io/socket.io.js", "/socket.io/?EIO=4&transport=polling", "/nothing"] {
        all.push(format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n").into_bytes());
    }
    let body = "40\x1e42[\"emit\",\"t\",\"n\",1]\x1ebAAEC";
    let post = format!(
        "POST /socket.io/?EIO=4&transport=polling&sid=AAAAAAAAAAAAAAAAAAAA HTTP/1.1\r\nHost: 127.0.0.1\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    all.push(post.into_bytes());
    all
}

/// Frames as a client writes them, each with its first byte; the mask is zero.
fn frames(frames: &[(u8, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (first, payload) in frames {
        bytes.push(*first);
        match u8::try_from(payload.len()) {
            Ok(length) if length < 126 => bytes.push(0x80 | length),
            _ => {
                bytes.push(0x80 | 126);
                bytes.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
            }
        }
        bytes.extend([0; 4]);
        bytes.extend_from_slice(payload);
    }
    bytes
}

/// The bytes of every message, from the fixtures of the protocol.
fn vectors() -> Vec<Vec<u8>> {
    let text = include_str!("../../crates/protocol/tests/fixtures/vectors.txt");
    let mut digits: Vec<String> = Vec::new();
    for line in text.lines().map(|line| line.split('#').next().unwrap_or_default().trim()) {
        if line.starts_with('[') {
            digits.push(String::new());
        } else if !line.is_empty() {
            digits.last_mut().unwrap().push_str(line);
        }
    }
    let bytes = |digits: &String| {
        let pairs = digits.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
        pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
    };
    digits.iter().map(bytes).collect()
}

fn rounds() -> u64 {
    number("FUZZ_ROUNDS", 1)
}

fn seed() -> u64 {
    number("FUZZ_SEED", 7)
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |value| value.parse().unwrap())
}
