//! Sessions that their clients abandon give back all that they held: 10,000 of them, in virtual time. A process of its
//! own, whose memory is measured.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::{SinkExt, StreamExt};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use redeliver_socketio::engine::{Engine, EngineConfig, EngineEvent};
use tokio_tungstenite::tungstenite::Message;

use self::pipe::served_pipe;

#[path = "engine/pipe.rs"]
mod pipe;

/// One opens a session and is never heard of again.
async fn shake_hands(engine: &Engine) -> String {
    let request = Request::get("/socket.io/?EIO=4&transport=polling").body(Full::<Bytes>::default()).unwrap();
    let response = engine.respond(request, None).await;
    assert_eq!(response.status(), StatusCode::OK);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let opening: serde_json::Value = serde_json::from_slice(&body[1..]).unwrap();
    opening["sid"].as_str().unwrap().to_owned()
}

/// One probes a WebSocket, never switches to it, and leaves it to the server to end it.
async fn abandon_upgrade(engine: Engine) {
    let sid = shake_hands(&engine).await;
    let (near, serving) = served_pipe(&engine);
    let url = format!("ws://engine/socket.io/?EIO=4&transport=websocket&sid={sid}");
    let (mut socket, _) = tokio_tungstenite::client_async(url, near).await.unwrap();
    socket.send(Message::text("2probe")).await.unwrap();
    while let Some(Ok(message)) = socket.next().await {
        assert!(message == Message::text("3probe") || message.is_close(), "{message:?}");
    }
    serving.await.unwrap();
}

async fn abandon(engine: &Engine) {
    for _ in 0..10_000 {
        shake_hands(engine).await;
    }
    assert_eq!(engine.sessions(), 10_000);
    tokio::time::sleep(Duration::from_secs(46)).await;
    assert_eq!(engine.sessions(), 0, "their heartbeat has ended them");
    for _ in 0..10 {
        join_all((0..1_000).map(|_| abandon_upgrade(engine.clone()))).await;
    }
    tokio::time::sleep(Duration::from_secs(46)).await;
    assert_eq!(engine.sessions(), 0);
}

#[cfg(target_os = "linux")]
#[tokio::test(start_paused = true)]
async fn ten_thousand_abandoned_handshakes_and_upgrades_give_their_memory_back() {
    let engine = Engine::new(EngineConfig::default(), |mut connection| async move {
        while !matches!(connection.next().await, EngineEvent::Closed(_)) {}
    });
    // A session left behind would be a kilobyte or more, and so 20 MB in each round. What the allocator keeps for next
    // time grows in the first ones only.
    let mut grown = Vec::new();
    while grown.len() < ROUNDS_MAX && grown.last().is_none_or(|grown| *grown >= 5_000_000) {
        let before = resident_bytes();
        abandon(&engine).await;
        grown.push(resident_bytes().saturating_sub(before));
    }
    let last = grown.last().copied().unwrap();
    assert!(last < 5_000_000, "each round of 20,000 sessions leaves more behind, in bytes: {grown:?}");
}

#[cfg(target_os = "linux")]
fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

#[cfg(target_os = "linux")]
const ROUNDS_MAX: usize = 5;
