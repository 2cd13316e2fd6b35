//! What a test server promises, seen without a client.

#![allow(clippy::unwrap_used, reason = "what cannot be unwrapped fails its test")]

use std::time::Duration;

use redeliver_server::{Delivery, Start};
use redeliver_testing::TestServer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);

async fn within<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("it takes too long")
}

async fn texts(server: &TestServer, count: usize) -> Vec<String> {
    let mut orders = server.server().subscribe("orders").start(Start::Earliest).await.unwrap();
    let mut texts = Vec::new();
    while texts.len() < count {
        if let Delivery::Event(event) = within(orders.next()).await.unwrap() {
            texts.push(event.text().unwrap().to_owned());
        }
    }
    texts
}

#[tokio::test(start_paused = true)]
async fn an_emit_needs_no_time_when_time_is_paused() {
    let server = TestServer::start().await.unwrap();
    let begun = tokio::time::Instant::now();
    for _ in 0..100 {
        let emitting = server.server();
        let emitting = emitting.emit_json("orders", "created", "tea");
        timeout(Duration::from_secs(5), emitting).await.expect("time does not pass meanwhile").unwrap();
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(texts(&server, 100).await.len(), 100);
}

#[tokio::test(start_paused = true)]
async fn a_restart_keeps_the_events_and_the_port_and_begins_an_epoch() {
    let server = TestServer::start().await.unwrap();
    let (url, before) = (server.url(), server.server());
    let first = before.emit("orders", "created", "1").await.unwrap();
    within(server.restart()).await.unwrap();
    assert!(before.emit("orders", "created", "lost").await.is_err(), "the server from before takes nothing");
    let second = server.server().emit("orders", "created", "2").await.unwrap();
    assert_eq!(texts(&server, 2).await, ["1", "2"]);
    assert_ne!(first.position.unwrap().epoch, second.position.unwrap().epoch);
    assert_eq!(server.url(), url);
}

#[tokio::test]
async fn a_cut_ends_a_connection_without_an_answer() {
    let server = TestServer::start().await.unwrap();
    let address = server.url().replace("ws://", "");
    let mut stream = within(TcpStream::connect(&address)).await.unwrap();
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: test\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    within(stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.ends_with("ready\n"), "{answer}");

    let mut stream = within(TcpStream::connect(&address)).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    let mut rest = Vec::new();
    // Again and again: the first may come before the connection was accepted.
    let cutting = async {
        loop {
            server.cut_connections().await;
            tokio::task::yield_now().await;
        }
    };
    let ended = async {
        tokio::select! {
            ended = stream.read_to_end(&mut rest) => ended,
            () = cutting => unreachable!("it goes on"),
        }
    };
    let _reset = within(ended).await;
    assert!(rest.is_empty());
}

#[tokio::test]
async fn the_server_ends_with_its_last_handle() {
    let server = TestServer::start().await.unwrap();
    let inside = server.server();
    let address = server.url().replace("ws://", "");
    drop(server.clone());
    assert!(TcpStream::connect(&address).await.is_ok(), "a clone is a handle");
    drop(server);
    drop(inside);
    let gone = async { while TcpStream::connect(&address).await.is_ok() {} };
    within(gone).await;
}
