//! The HTTP side: health, readiness, and who may shake hands.

use std::time::Duration;

use redeliver_server::Server;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::peer::*;

/// Asks and reads the answer up to its end, or up to the end of its head if it is an upgrade.
async fn ask(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connects");
    stream.write_all(request.as_bytes()).await.expect("asks");
    let mut answer = Vec::new();
    loop {
        let mut bytes = [0; 1024];
        let read = stream.read(&mut bytes).await.expect("answers");
        answer.extend_from_slice(&bytes[..read]);
        let text = String::from_utf8_lossy(&answer);
        if read == 0 || (text.starts_with("HTTP/1.1 101") && text.contains("\r\n\r\n")) {
            return text.into_owned();
        }
    }
}

pub(crate) async fn get(address: &str, path: &str) -> String {
    ask(address, &format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n")).await
}

/// A handshake with more headers, each ending in a line break.
async fn shake_hands(address: &str, headers: &str) -> String {
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {address}\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    );
    ask(address, &request).await
}

pub(crate) fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or(answer)
}

#[tokio::test]
async fn a_server_that_works_is_healthy_and_ready() {
    let (_server, address) = serve().await;
    assert_eq!(status(&get(&address, "/healthz").await), "200");
    assert_eq!(status(&get(&address, "/readyz").await), "200");
    let front = get(&address, "/").await;
    assert_eq!(status(&front), "200");
    assert!(front.contains("redeliver.v1"), "{front}");
    assert_eq!(status(&get(&address, "/etc/passwd").await), "404");
    assert_eq!(status(&ask(&address, "POST /readyz HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").await), "405");
}

#[tokio::test]
async fn probes_that_ask_with_head_or_for_options_are_answered() {
    let (_server, address) = serve().await;
    for path in ["/", "/healthz", "/readyz"] {
        let head = ask(&address, &format!("HEAD {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
        assert!(status(&head) == "200" && head.ends_with("\r\n\r\n"), "{head}");
        let options = ask(&address, &format!("OPTIONS {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
        assert!(status(&options) == "204" && options.contains("GET, HEAD, OPTIONS"), "{options}");
    }
}

#[tokio::test]
async fn a_server_that_drains_is_healthy_and_not_ready_and_takes_nobody() {
    let (server, address) = serve().await;
    // A peer that does not read keeps the shutdown waiting for a while.
    let lingering = Peer::welcomed(&address, hello()).await;
    let shutdown = tokio::spawn({
        let server = server.clone();
        async move { server.shutdown(Duration::from_secs(60)).await }
    });
    while server.is_ready() {
        tokio::task::yield_now().await;
    }
    assert_eq!(status(&get(&address, "/healthz").await), "200");
    assert_eq!(status(&get(&address, "/readyz").await), "503");
    let answer = shake_hands(&address, "").await;
    assert_eq!(status(&answer), "503");
    assert!(answer.to_lowercase().contains("retry-after"), "{answer}");
    drop(lingering);
    shutdown.await.expect("no panic").expect("ends in time");
}

#[tokio::test]
async fn a_good_handshake_is_answered_with_its_key() {
    let (_server, address) = serve().await;
    let answer = shake_hands(&address, "").await;
    assert_eq!(status(&answer), "101");
    let answer = answer.to_lowercase();
    assert!(answer.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{answer}");
    assert!(!answer.contains("sec-websocket-protocol"), "none was offered: {answer}");
}

#[tokio::test]
async fn the_subprotocol_is_taken_if_it_is_offered_and_others_alone_are_refused() {
    let (_server, address) = serve().await;
    let answer = shake_hands(&address, "Sec-WebSocket-Protocol: mqtt, redeliver.v1\r\n").await;
    assert_eq!(status(&answer), "101");
    assert!(answer.to_lowercase().contains("sec-websocket-protocol: redeliver.v1\r\n"), "{answer}");
    let answer = shake_hands(&address, "Sec-WebSocket-Protocol: mqtt\r\nSec-WebSocket-Protocol: stomp\r\n").await;
    assert_eq!(status(&answer), "400");
    assert!(answer.contains("redeliver.v1"), "it says which one is spoken: {answer}");
}

#[tokio::test]
async fn pages_of_other_origins_are_refused_unless_they_are_allowed() {
    let server =
        Server::builder().in_memory().allowed_origins(["https://app.example.com"]).open().await.expect("opens");
    let address = listen(&server).await;
    let origin = async |origin: &str| {
        let answer = shake_hands(&address, &format!("Origin: {origin}\r\n")).await;
        status(&answer).to_owned()
    };
    assert_eq!(origin("https://app.example.com").await, "101");
    assert_eq!(origin(&format!("http://{address}")).await, "101", "the page of this very host");
    assert_eq!(origin("https://evil.example.com").await, "403");
    assert_eq!(origin("https://app.example.com.evil.com").await, "403");
    assert_eq!(origin("http://app.example.com").await, "403", "another scheme is another origin");
    assert_eq!(origin("null").await, "403");
    let twice = shake_hands(&address, "Origin: https://app.example.com\r\nOrigin: https://evil.example.com\r\n").await;
    assert_eq!(status(&twice), "403");
}

#[tokio::test]
async fn a_handshake_that_is_none_is_refused_in_words() {
    let (_server, address) = serve().await;
    let head = format!("GET / HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\n");
    let version = "Sec-WebSocket-Version: 13\r\n";
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    assert_eq!(status(&ask(&address, &format!("{head}{version}{key}\r\n")).await), "400", "no Connection: upgrade");
    let head = format!("{head}Connection: upgrade\r\n");
    assert_eq!(status(&ask(&address, &format!("{head}{version}\r\n")).await), "400", "no key");
    let old = ask(&address, &format!("{head}Sec-WebSocket-Version: 8\r\n{key}\r\n")).await;
    assert_eq!(status(&old), "426");
    assert!(old.to_lowercase().contains("sec-websocket-version: 13"), "{old}");
}

#[tokio::test]
async fn too_many_headers_or_bytes_of_them_are_refused() {
    let (_server, address) = serve().await;
    let many: String = (0..200).map(|n| format!("X-{n}: 1\r\n")).collect();
    assert_eq!(status(&shake_hands(&address, &many).await), "431");
    let large = format!("X-Large: {}\r\n", "x".repeat(64 * 1024));
    assert_eq!(status(&shake_hands(&address, &large).await), "431");
}

#[tokio::test]
async fn connections_beyond_the_cap_are_told_to_come_back() {
    let server = Server::builder().in_memory().connections_max(1).open().await.expect("opens");
    let address = listen(&server).await;
    let only = Peer::welcomed(&address, hello()).await;
    assert_eq!(status(&shake_hands(&address, "").await), "503");
    assert_eq!(status(&get(&address, "/healthz").await), "200", "it works all the same");
    drop(only);
    while server.stats().connections > 0 {
        tokio::task::yield_now().await;
    }
    Peer::welcomed(&address, hello()).await;
}

#[tokio::test]
async fn a_request_that_never_ends_is_dropped() {
    let (_server, address) = serve().await;
    let mut stream = TcpStream::connect(&address).await.expect("connects");
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n").await.expect("sends");
    tokio::time::pause();
    let before = tokio::time::Instant::now();
    let mut rest = Vec::new();
    // Whether it ends with an answer, an end or a reset is hyper's business.
    let _ = stream.read_to_end(&mut rest).await;
    assert!(before.elapsed() < Duration::from_secs(11));
    assert!(!String::from_utf8_lossy(&rest).starts_with("HTTP/1.1 200"));
}
