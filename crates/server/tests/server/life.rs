//! A server's end: shutdown, and a log that fails.

use std::sync::Arc;
use std::time::Duration;

use redeliver_log::kv::faulty::{Faults, FaultyKv};
use redeliver_protocol::error::{CloseCode, RefusalCode, RetryAdvice};
use redeliver_protocol::history::Start;
use redeliver_protocol::seq::Epoch;
use redeliver_protocol::time::{Instant, Timestamp};
use redeliver_server::{EmitError, Log, LogConfig, Outcome, Server};

use crate::http::{get, status};
use crate::peer::*;

#[tokio::test]
async fn a_shutdown_sends_everybody_away_and_takes_nothing_more() {
    let (server, address) = serve().await;
    let mut peers = Vec::new();
    for _ in 0..5 {
        peers.push(Peer::welcomed(&address, hello()).await);
    }
    let mut stranger = Peer::connect(&address).await;
    let shutdown = tokio::spawn({
        let server = server.clone();
        async move { server.shutdown(Duration::from_secs(60)).await }
    });
    let mut pauses = Vec::new();
    for peer in &mut peers {
        let close = peer.closed().await;
        assert_eq!(close.code, CloseCode::DRAINING);
        let RetryAdvice::After(pause) = close.retry else { panic!("expected a pause, got {close:?}") };
        pauses.push(pause);
    }
    assert_eq!(stranger.closed().await.code, CloseCode::DRAINING);
    pauses.dedup();
    assert!(pauses.len() > 1, "they do not come back at once");
    drop((peers, stranger));
    assert_eq!(shutdown.await.expect("no panic"), Ok(()), "nobody is left");
    assert!(!server.is_ready());
    assert_eq!(server.emit_event(event("t", "late")).await, Err(EmitError::refused(RefusalCode::DRAINING)));
    assert_eq!(server.stats().connections, 0);
}

#[tokio::test]
async fn what_was_emitted_before_a_shutdown_is_answered() {
    let (server, _) = serve().await;
    let emits: Vec<_> = (0..20)
        .map(|n| {
            let server = server.clone();
            tokio::spawn(async move { server.emit_event(event("t", n.to_string())).await })
        })
        .collect();
    tokio::task::yield_now().await;
    server.shutdown(Duration::from_secs(60)).await.expect("ends in time");
    let mut stored = 0;
    for emit in emits {
        match emit.await.expect("no panic") {
            Ok(_) => stored += 1,
            Err(error) => assert_eq!(error, EmitError::refused(RefusalCode::DRAINING)),
        }
    }
    assert_eq!(server.head().seq.0, stored);
}

#[tokio::test]
async fn a_failed_log_is_told_to_everybody_and_answers_nothing_more() {
    let kv = Arc::new(FaultyKv::new());
    let epoch = Epoch([1; 16]);
    let log = Log::open(kv.clone(), LogConfig::default(), epoch, Timestamp(1), Instant::ORIGIN).expect("opens");
    let server = Server::builder().log(log).open().await.expect("starts");
    let address = listen(&server).await;
    let mut peer = Peer::welcomed(&address, hello()).await;
    server.emit_event(event("t", "good")).await.expect("stored");
    let (_, syncs) = kv.operations();
    kv.set_faults(Faults { fail_sync: Some(syncs + 1), ..Faults::default() });

    let error = server.emit_event(event("t", "lost")).await.expect_err("the sync failed");
    assert_eq!(error, EmitError::Unknown);
    assert_eq!(error.outcome(), Outcome::Unknown, "it may be stored");
    assert!(server.failed().await.reason().contains("sync failed"));
    let close = peer.closed().await;
    assert_eq!(close.code, CloseCode::LOG_FAILED);
    assert!(matches!(close.retry, RetryAdvice::After(_)));
    assert!(!server.is_ready());
    assert_eq!(server.emit_event(event("t", "later")).await, Err(EmitError::refused(RefusalCode::LOG_FAILED)));
    assert_eq!(server.head().seq.0, 1, "what was not synced is not visible");
    server.shutdown(Duration::from_secs(60)).await.expect("the server still ends");
}

#[tokio::test]
async fn a_full_disk_refuses_events_and_goes_on_when_there_is_room() {
    let kv = Arc::new(FaultyKv::new());
    let log =
        Log::open(kv.clone(), LogConfig::default(), Epoch([1; 16]), Timestamp(1), Instant::ORIGIN).expect("opens");
    let server = Server::builder().log(log).open().await.expect("starts");
    server.emit_event(event("t", "first")).await.expect("stored");
    kv.set_faults(Faults { capacity_bytes: Some(1), foresees_full: true, ..Faults::default() });
    let error = server.emit_event(event("t", "no room")).await.expect_err("the disk is full");
    assert_eq!(error, EmitError::refused(RefusalCode::STORAGE_FULL));
    assert!(error.is_retryable() && server.is_ready() && server.stats().storage_full);
    let address = listen(&server).await;
    let ready = get(&address, "/readyz").await;
    assert!(status(&ready) == "200" && ready.contains("the disk is full"), "reads go on: {ready}");
    kv.set_faults(Faults::default());
    server.emit_event(event("t", "second")).await.expect("stored");
    assert_eq!(server.head().seq.0, 2);
    assert!(!server.stats().storage_full);
    assert!(!get(&address, "/readyz").await.contains("full"));
}

#[tokio::test]
async fn that_the_disk_has_room_again_is_told_also_if_nobody_emits() {
    let kv = Arc::new(FaultyKv::new());
    let log =
        Log::open(kv.clone(), LogConfig::default(), Epoch([1; 16]), Timestamp(1), Instant::ORIGIN).expect("opens");
    let server = Server::builder().log(log).open().await.expect("starts");
    kv.set_faults(Faults { capacity_bytes: Some(1), foresees_full: true, ..Faults::default() });
    server.emit_event(event("t", "no room")).await.expect_err("the disk is full");
    let address = listen(&server).await;
    assert!(get(&address, "/readyz").await.contains("the disk is full"));
    kv.set_faults(Faults::default());
    within(async { while get(&address, "/readyz").await.contains("full") {} }).await;
    assert!(!server.stats().storage_full);
}

#[tokio::test]
async fn a_server_that_starts_on_a_full_disk_serves_readers_and_says_so() {
    let kv = Arc::new(FaultyKv::new());
    let log = |epoch| Log::open(kv.clone(), LogConfig::default(), Epoch([epoch; 16]), Timestamp(1), Instant::ORIGIN);
    let server = Server::builder().log(log(1).expect("opens")).open().await.expect("starts");
    server.emit_event(event("t", "first")).await.expect("stored");
    server.shutdown(Duration::from_secs(60)).await.expect("ends");
    drop(server);

    kv.set_faults(Faults { capacity_bytes: Some(1), foresees_full: true, ..Faults::default() });
    let server = Server::builder().log(log(2).expect("opens all the same")).open().await.expect("starts");
    let address = listen(&server).await;
    within(async { while !get(&address, "/readyz").await.contains("the disk is full") {} }).await;
    let mut reader = Peer::welcomed(&address, hello_subscriber("billing")).await;
    reader.subscribe(subscribe("t", Start::Earliest)).await;
    let records = reader.events(1).await;
    assert_eq!(payloads(&records), ["first"]);
    let error = server.emit_event(event("t", "no room")).await.expect_err("the disk is full");
    assert_eq!(error, EmitError::refused(RefusalCode::STORAGE_FULL));

    kv.set_faults(Faults::default());
    server.emit_event(event("t", "second")).await.expect("stored");
    let records = reader.events(1).await;
    assert_eq!(payloads(&records), ["second"]);
    reader.ack_confirmed(&records[0]).await;
    assert!(!server.stats().storage_full);
}

#[tokio::test]
async fn the_last_handle_ends_the_server() {
    let (server, address) = serve().await;
    drop(server);
    // The listener holds a handle: the server lives while it is served.
    let mut peer = Peer::welcomed(&address, hello()).await;
    peer.subscribe(subscribe("t", redeliver_protocol::history::Start::Latest)).await;

    let server = Server::builder().in_memory().open().await.expect("opens");
    let mut reader = server.subscribe("t").await.expect("stands");
    drop(server);
    within(async { while reader.next().await.is_some() {} }).await;
}
