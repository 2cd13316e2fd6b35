//! Peers that break the rules, and peers that stop reading: the right close, nobody else notices, nothing grows.

use std::time::Duration;

use bytes::Bytes;
use futures_util::SinkExt;
use redeliver_protocol::codec::encode_hello;
use redeliver_protocol::config::ServerConfig;
use redeliver_protocol::error::{CloseCode, RetryAdvice};
use redeliver_protocol::frame::{ClientFrame, Hello};
use redeliver_protocol::history::Start;
use redeliver_protocol::limits::{FRAME_BYTES_MAX, HELLO_BYTES_MAX};
use redeliver_server::Server;
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::tungstenite::Message;

use crate::peer::*;

/// Sends bytes after Hello, and returns how the server closes.
async fn close_after(address: &str, bytes: Bytes) -> CloseCode {
    let mut peer = Peer::welcomed(address, hello_publisher()).await;
    peer.send_bytes(bytes).await;
    peer.closed().await.code
}

#[tokio::test]
async fn bytes_that_are_no_message_close_their_own_connection_only() {
    let (server, address) = serve().await;
    let mut bystander = Peer::welcomed(&address, hello()).await;
    bystander.subscribe(subscribe("t", Start::Latest)).await;
    assert_eq!(close_after(&address, Bytes::from_static(b"garbage")).await, CloseCode::MALFORMED);
    assert_eq!(close_after(&address, Bytes::new()).await, CloseCode::MALFORMED);
    assert_eq!(close_after(&address, Bytes::from_static(&[0xff; 64])).await, CloseCode::MALFORMED);
    let truncated = redeliver_protocol::codec::encode_client(&ClientFrame::Ping { token: 1 }).slice(..5);
    assert_eq!(close_after(&address, truncated).await, CloseCode::MALFORMED);
    assert_eq!(close_after(&address, encode_hello(&hello())).await, CloseCode::MALFORMED);
    server.emit_event(event("t", "still here")).await.expect("stored");
    assert_eq!(payloads(&bystander.events(1).await), ["still here"]);
}

#[tokio::test]
async fn a_stranger_may_not_send_more_than_a_hello() {
    let (_server, address) = serve().await;
    let mut peer = Peer::connect(&address).await;
    peer.send_bytes(vec![0; HELLO_BYTES_MAX + 1].into()).await;
    assert_eq!(peer.closed().await.code, CloseCode::TOO_LARGE);

    let mut peer = Peer::connect(&address).await;
    peer.send_bytes(encode_hello(&Hello { auth: Some(vec![1; HELLO_BYTES_MAX].into()), ..hello() })).await;
    assert_eq!(peer.closed().await.code, CloseCode::TOO_LARGE);
}

#[tokio::test]
async fn an_oversized_message_is_refused_with_its_code() {
    let (_server, address) = serve().await;
    assert_eq!(close_after(&address, vec![0; FRAME_BYTES_MAX + 1].into()).await, CloseCode::TOO_LARGE);
}

#[tokio::test]
async fn a_text_message_is_refused_with_its_code() {
    let (_server, address) = serve().await;
    let mut peer = Peer::welcomed(&address, hello()).await;
    peer.socket.send(Message::Text("hello".into())).await.expect("sends");
    let close = peer.closed().await;
    assert_eq!((close.code, close.retry), (CloseCode::MALFORMED, RetryAdvice::Never));
}

#[tokio::test]
async fn a_frame_that_breaks_the_websocket_protocol_is_refused_with_its_code() {
    let (_server, address) = serve().await;
    let mut peer = Peer::welcomed(&address, hello()).await;
    // A reserved opcode, masked.
    peer.socket.get_mut().write_all(&[0x83, 0x80, 0, 0, 0, 0]).await.expect("sends");
    assert_eq!(peer.closed().await.code, CloseCode::MALFORMED);
}

#[tokio::test]
async fn a_peer_of_another_version_is_told_so_in_words() {
    let (_server, address) = serve().await;
    let mut peer = Peer::connect(&address).await;
    let mut bytes = encode_hello(&hello()).to_vec();
    bytes[4] = 9;
    peer.send_bytes(bytes.into()).await;
    let close = peer.closed().await;
    assert_eq!(close.code, CloseCode::VERSION_MISMATCH);
    assert!(close.reason.contains("version 9"), "{}", close.reason);
}

#[tokio::test]
async fn a_peer_that_says_nothing_is_closed_in_time() {
    let (server, _) = serve().await;
    let mut peer = Peer::over_pipe(&server, 4096).await;
    tokio::time::pause();
    let before = tokio::time::Instant::now();
    assert_eq!(peer.closed().await.code, CloseCode::HELLO_TIMEOUT);
    assert!(before.elapsed() < 2 * ServerConfig::default().hello_timeout);
}

#[tokio::test]
async fn a_peer_that_has_fallen_silent_is_closed_within_two_heartbeats_and_a_moment() {
    let (server, _) = serve().await;
    let mut peer = Peer::over_pipe(&server, 4096).await;
    let heartbeat = peer.hello(hello()).await.heartbeat;
    tokio::time::pause();
    tokio::time::sleep(heartbeat * 3).await;
    // It was closed meanwhile: what it reads now is a ping and the close.
    assert_eq!(peer.closed().await.code, CloseCode::HEARTBEAT_TIMEOUT);
}

#[tokio::test]
async fn a_reader_that_takes_no_byte_is_closed_and_costs_nothing_until_then() {
    let mut config = ServerConfig::default();
    config.write_timeout = Duration::from_secs(5);
    let output_bytes_max = config.output_bytes_max;
    let server = Server::builder().in_memory().session_config(config).open().await.expect("opens");
    for _ in 0..200 {
        server.emit_event(event("t", vec![1; 10_000])).await.expect("stored");
    }
    let mut stuck = Peer::over_pipe(&server, 1000).await;
    stuck.hello(hello()).await;
    stuck.subscribe(subscribe("t", Start::Earliest)).await;
    assert_eq!(server.stats().connections, 1);
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(server.stats().connections, 1, "it may take its time");
    let taken = server.stats().deliveries * 10_000;
    assert!(taken <= output_bytes_max as u64 + 32 * 1024, "{taken} bytes were read for a reader that takes none");
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(server.stats().connections, 0);
}

#[tokio::test]
async fn a_slow_reader_that_takes_some_bytes_is_left_in_peace() {
    let mut config = ServerConfig::default();
    config.write_timeout = Duration::from_secs(5);
    config.heartbeat = Duration::from_secs(3600);
    let server = Server::builder().in_memory().session_config(config).open().await.expect("opens");
    for _ in 0..3 {
        server.emit_event(event("t", vec![1; 10_000])).await.expect("stored");
    }
    let mut slow = Peer::over_pipe(&server, 1000).await;
    slow.hello(hello()).await;
    slow.subscribe(subscribe("t", Start::Earliest)).await;
    tokio::time::pause();
    let mut taken = 0;
    while taken < 20_000 {
        tokio::time::sleep(Duration::from_secs(4)).await;
        let mut bytes = [0; 1000];
        let read = tokio::io::AsyncReadExt::read(slow.socket.get_mut(), &mut bytes).await.expect("open");
        assert!(read > 0, "it was closed after {taken} bytes");
        taken += read;
    }
    assert_eq!(server.stats().connections, 1);
}
