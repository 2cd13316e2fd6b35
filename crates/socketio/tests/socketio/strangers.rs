//! Clients that are in no namespace, and clients that ask and do not read: what they may take.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use redeliver_server::{Server, StrangerLimits};
use redeliver_socketio::{Config, ConnectError};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::Host;

async fn host_with(strangers_max: usize, deadline: Duration) -> Host {
    let mut limits = StrangerLimits::default();
    (limits.strangers_max, limits.deadline) = (strangers_max, deadline);
    Host::with(Server::builder().in_memory().strangers(limits), Config::default()).await
}

/// One HTTP connection.
struct Http(TcpStream);

impl Http {
    async fn connect(host: &Host) -> Http {
        Http(TcpStream::connect(host.address).await.unwrap())
    }

    async fn send(&mut self, request: &str) {
        self.0.write_all(request.as_bytes()).await.unwrap();
    }

    /// The next answer: its status and body.
    async fn answer(&mut self) -> (u16, String) {
        let mut read = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&read).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.to_lowercase().split_once("content-length: ").unwrap().1.to_owned();
                let length: usize = length.lines().next().unwrap().trim().parse().unwrap();
                if body.len() >= length {
                    return (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned());
                }
            }
            let bytes = tokio::time::timeout(Duration::from_secs(20), self.0.read_buf(&mut read)).await;
            assert!(bytes.expect("it is answered").unwrap() > 0, "it was closed after {text:?}");
        }
    }

    async fn open(&mut self) -> String {
        self.send(&get("")).await;
        let (status, body) = self.answer().await;
        assert_eq!(status, 200, "{body}");
        body.split_once("\"sid\":\"").unwrap().1.split_once('"').unwrap().0.to_owned()
    }

    /// Reads until the other end has closed it, and gives all that came.
    async fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(20), self.0.read_to_end(&mut rest)).await;
        // An end or a reset: either way it is over.
        drop(ended.expect("it is closed"));
        String::from_utf8_lossy(&rest).into_owned()
    }
}

fn get(query: &str) -> String {
    format!("GET /socket.io/?EIO=4&transport=polling{query} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
}

fn post(sid: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST /socket.io/?EIO=4&transport=polling&sid={sid} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

/// A client over polling that has joined the main namespace, and its session.
async fn joined(host: &Host) -> (Http, String) {
    let mut http = Http::connect(host).await;
    let sid = http.open().await;
    http.send(&post(&sid, "40")).await;
    assert_eq!(http.answer().await.0, 200);
    http.send(&get(&format!("&sid={sid}"))).await;
    assert!(http.answer().await.1.contains("40{"));
    (http, sid)
}

#[tokio::test]
async fn a_client_that_joins_no_namespace_in_time_is_closed_over_either_transport_and_one_that_does_stays() {
    let host = host_with(100, Duration::from_millis(400)).await;
    let mut known = host.connect().await;
    let mut websocket = host.open().await;
    let mut polling = Http::connect(&host).await;
    let sid = polling.open().await;
    assert_eq!(websocket.packet().await, None);
    polling.rest().await;
    let mut again = Http::connect(&host).await;
    again.send(&get(&format!("&sid={sid}"))).await;
    assert_eq!(again.answer().await.0, 400, "its session is gone");
    let main = host.io.of("/").unwrap();
    main.emit("still", "here").await.unwrap();
    assert_eq!(known.event().await, json!(["still", "here"]));
}

#[tokio::test]
async fn a_client_over_polling_that_has_joined_outlives_the_time_of_strangers() {
    let host = host_with(100, Duration::from_millis(500)).await;
    let (mut http, sid) = joined(&host).await;
    // Its poll waits for longer than a stranger may.
    http.send(&get(&format!("&sid={sid}"))).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    host.io.of("/").unwrap().emit("late", 1).await.unwrap();
    assert!(http.answer().await.1.contains("late"));
}

#[tokio::test]
async fn one_connection_opens_a_few_sessions_and_is_closed_before_it_takes_all_of_them() {
    let host = host_with(100, Duration::from_secs(3600)).await;
    let mut flood = Http::connect(&host).await;
    flood.send(&get("").repeat(500)).await;
    let opened = flood.rest().await.matches("\"sid\"").count();
    assert!((1..=16).contains(&opened), "{opened} sessions");
    host.connect().await;
}

#[tokio::test]
async fn sessions_that_nobody_uses_make_room_for_a_client_and_never_for_each_other_at_once() {
    let host = host_with(4, Duration::from_secs(3600)).await;
    let mut refused = 0;
    for _ in 0..10 {
        let mut http = Http::connect(&host).await;
        http.send(&get("")).await;
        refused += usize::from(http.answer().await.0 == 503);
    }
    assert!(refused > 0, "more sessions than there may be");
    // A WebSocket needs no place among sessions.
    host.connect().await;
}

#[tokio::test]
async fn a_client_that_is_in_no_namespace_sends_little() {
    let host = Host::start().await;
    let mut websocket = host.open().await;
    websocket.send(&format!("40{{\"token\":\"{}\"}}", "x".repeat(10_000))).await;
    assert_eq!(websocket.packet().await, None);
    let mut attaching = host.open().await;
    attaching.send("451-[\"event\",{\"_placeholder\":true,\"num\":0}]").await;
    attaching.send_binary(&[1]).await;
    assert_eq!(attaching.packet().await, None);
    let mut polling = Http::connect(&host).await;
    let sid = polling.open().await;
    polling.send(&post(&sid, &"x".repeat(10_000))).await;
    assert_eq!(polling.answer().await.0, 413);
    let mut known = host.connect().await;
    known.send(&format!("42[\"large\",\"{}\"]", "x".repeat(500_000))).await;
    host.io.of("/").unwrap().emit("still", "here").await.unwrap();
    assert_eq!(known.event().await, json!(["still", "here"]));
}

#[tokio::test]
async fn who_is_refused_again_and_again_is_sent_away() {
    let host = Host::start().await;
    host.io.of("/private").unwrap().middleware(|_| async { Err(ConnectError::new("no")) });
    let mut client = host.open().await;
    for _ in 0..20 {
        client.send("40/private,").await;
    }
    let mut refusals = 0;
    while client.packet().await.is_some() {
        refusals += 1;
    }
    assert!(refusals <= 8, "{refusals} refusals");
}

#[tokio::test]
async fn a_client_that_reads_none_of_its_answers_is_not_read_and_costs_little() {
    let host = Host::start().await;
    let handled = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&handled);
    host.io.of("/").unwrap().on_connection(move |socket| {
        let counter = Arc::clone(&counter);
        async move {
            socket.on("ask", move |incoming| {
                counter.fetch_add(1, Relaxed);
                async move { incoming.answer("x".repeat(1_000)).unwrap() }
            });
        }
    });
    let (_http, sid) = joined(&host).await;
    // Nobody fetches the answers.
    let question = "420[\"ask\"]\u{1e}".repeat(10_000);
    let question = question.trim_end_matches('\u{1e}');
    let mut asking = Http::connect(&host).await;
    asking.send(&post(&sid, question)).await;
    let has_begun = async {
        while handled.load(Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), has_begun).await.expect("it is answered at first");
    // All that can be done is done before time passes.
    tokio::time::pause();
    let mut closed = Vec::new();
    asking.0.read_to_end(&mut closed).await.unwrap();
    let handled = handled.load(Relaxed);
    assert!(handled < 2_000, "{handled} questions were answered to nobody");
}
