//! Emits, subscriptions, acks and resumes over real sockets.

use futures_util::{SinkExt, StreamExt};
use redeliver_protocol::error::CloseCode;
use redeliver_protocol::frame::{ClientFrame, Hello, ServerFrame, Subscribe, Window};
use redeliver_protocol::history::{EmitFate, EmitRun, Place, PublisherState, Start};
use redeliver_protocol::seq::{EmitNumber, Nth, Position, Seq, SubscriptionId};
use tokio_tungstenite::tungstenite::Message;

use crate::peer::*;

#[tokio::test]
async fn hello_is_answered_with_the_head_and_the_limits() {
    let (server, address) = serve().await;
    emit_numbered(&server, "t", 0..3).await;
    let welcome = Peer::connect(&address).await.hello(hello_publisher()).await;
    assert_eq!((welcome.epoch, welcome.head), (server.head().epoch, Seq(3)));
    assert_eq!(welcome.publisher, PublisherState::New);
    assert_eq!(welcome.limits, redeliver_server::Limits::default());
}

#[tokio::test]
async fn an_emit_is_answered_with_its_position_and_reaches_the_readers_of_its_topic_only() {
    let (server, address) = serve().await;
    let mut reader = Peer::welcomed(&address, hello()).await;
    reader.subscribe(subscribe("orders", Start::Latest)).await;
    let mut emitter = Peer::welcomed(&address, hello_publisher()).await;
    let runs = emitter.emit(1, vec![event("other", "x"), event("orders", "a"), event("orders", "b")]).await;
    let stored = EmitFate::Stored(Position::new(server.head().epoch, Seq(1)));
    assert_eq!(runs, [EmitRun { first: EmitNumber(1), count: 3, fate: stored }]);
    let records = reader.events(2).await;
    assert_eq!(payloads(&records), ["a", "b"]);
    assert_eq!(seqs_and_nths(&records), [(Seq(2), Nth(1)), (Seq(3), Nth(2))]);
}

#[tokio::test]
async fn an_emit_that_is_sent_again_on_a_new_connection_is_not_stored_twice() {
    let (server, address) = serve().await;
    let hello = hello_publisher();
    Peer::welcomed(&address, hello.clone()).await.emit(1, vec![event("t", "a"), event("t", "b")]).await;
    let mut again = Peer::connect(&address).await;
    assert_eq!(again.hello(hello).await.publisher, PublisherState::Reached(EmitNumber(2)));
    let runs = again.emit(1, vec![event("t", "a"), event("t", "b"), event("t", "c")]).await;
    let fates: Vec<_> = runs.iter().map(|run| (run.count, run.fate)).collect();
    let at = |seq| Position::new(server.head().epoch, Seq(seq));
    assert_eq!(fates, [(2, EmitFate::Duplicate(at(1))), (1, EmitFate::Stored(at(3)))]);
    assert_eq!(server.head().seq, Seq(3));
}

#[tokio::test]
async fn a_reader_that_missed_events_gets_them_in_order_and_then_the_live_ones() {
    let (server, address) = serve().await;
    emit_numbered(&server, "t", 0..10).await;
    let mut reader = Peer::welcomed(&address, hello()).await;
    reader.subscribe(subscribe("t", Start::Earliest)).await;
    let seen = reader.events(10).await;
    drop(reader);
    emit_numbered(&server, "t", 10..40).await;

    let mut reader = Peer::welcomed(&address, hello()).await;
    let last = &seen[6];
    let position = Position::new(server.head().epoch, last.seq);
    let known = Place { position, nth: last.nth, earlier: [].into() };
    let subscribed = reader.subscribe(subscribe("t", Start::After(known))).await;
    assert_eq!((subscribed.after, subscribed.nth, subscribed.pending), (position, Nth(7), 33));
    assert_eq!(payloads(&reader.events(33).await), numbers(7..40));
    emit_numbered(&server, "t", 40..45).await;
    assert_eq!(payloads(&reader.events(5).await), numbers(40..45));
}

#[tokio::test]
async fn the_window_bounds_what_a_reader_is_sent_without_acks() {
    let (server, address) = serve().await;
    emit_numbered(&server, "t", 0..100).await;
    let mut reader = Peer::welcomed(&address, hello()).await;
    let window = Window::of_events(10);
    reader.subscribe(Subscribe { window, ..subscribe("t", Start::Earliest) }).await;
    let first = reader.events(10).await;
    assert_eq!(payloads(&first), numbers(0..10));
    // The pong comes after everything that the server had to say before it.
    reader.send(ClientFrame::Ping { token: 5 }).await;
    assert_eq!(reader.frame().await, ServerFrame::Pong { token: 5 });
    assert_eq!(server.stats().deliveries, 10);
    reader.ack(&first[3]).await;
    assert_eq!(payloads(&collect_events(&mut reader, 4).await), numbers(10..14));
    assert_eq!(server.stats().deliveries, 14);
}

/// Events between other frames, such as confirmations.
async fn collect_events(
    peer: &mut Peer<tokio::net::TcpStream>,
    count: usize,
) -> Vec<redeliver_protocol::event::Record> {
    let mut records = Vec::new();
    while records.len() < count {
        if let ServerFrame::Events(events) = peer.frame().await {
            records.extend(
                redeliver_protocol::codec::Records::new(events.records).map(|record| record.expect("a record")),
            );
        }
    }
    records
}

#[tokio::test]
async fn large_and_small_events_arrive_whole_through_a_narrow_pipe() {
    let (server, _) = serve().await;
    let sizes = [0, 1, 125, 126, 70_000, 65_535, 200_000, 3];
    for size in sizes {
        server.emit_event(event("t", vec![7; size])).await.expect("stored");
    }
    let mut reader = Peer::over_pipe(&server, 1000).await;
    reader.hello(hello()).await;
    reader.subscribe(subscribe("t", Start::Earliest)).await;
    let records = reader.events(sizes.len()).await;
    assert_eq!(records.iter().map(|record| record.payload.len()).collect::<Vec<_>>(), sizes);
}

#[tokio::test]
async fn a_websocket_ping_is_answered_while_events_flow() {
    let (server, _) = serve().await;
    server.emit_event(event("t", vec![1; 100_000])).await.expect("stored");
    let mut reader = Peer::over_pipe(&server, 4000).await;
    reader.hello(hello()).await;
    reader.send(ClientFrame::Subscribe(subscribe("t", Start::Earliest))).await;
    reader.socket.send(Message::Ping("are you there".into())).await.expect("sends");
    let mut has_pong = false;
    let mut event_bytes = 0;
    while !has_pong || event_bytes == 0 {
        match within(reader.socket.next()).await.expect("open").expect("a whole message") {
            Message::Pong(token) => has_pong = &token[..] == b"are you there",
            Message::Binary(bytes) if bytes.len() > 100_000 => event_bytes = bytes.len(),
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_newer_connection_of_a_publisher_ends_the_older() {
    let (_server, address) = serve().await;
    let publisher = hello_publisher();
    let mut old = Peer::welcomed(&address, publisher.clone()).await;
    let mut new = Peer::welcomed(&address, Hello { instance: hello().instance, ..publisher.clone() }).await;
    let close = old.closed().await;
    assert_eq!(close.code, CloseCode::PUBLISHER_FENCED);
    assert_eq!(new.emit(1, vec![event("t", "a")]).await.len(), 1);

    // The same client coming again after a half-open connection is told apart.
    let again = Hello { instance: hello().instance, ..publisher };
    let mut half_open = Peer::welcomed(&address, again.clone()).await;
    let mut back = Peer::welcomed(&address, again).await;
    assert_eq!(half_open.closed().await.code, CloseCode::SUPERSEDED);
    assert_eq!(back.emit(2, vec![event("t", "b")]).await.len(), 1);
}

#[tokio::test]
async fn thousands_of_pipelined_emits_are_all_answered_in_order() {
    let (server, address) = serve().await;
    let mut emitter = Peer::welcomed(&address, hello_publisher()).await;
    for batch in 0..50_u64 {
        let events = (0..100).map(|n| event("t", (batch * 100 + n).to_string())).collect();
        emitter.send(ClientFrame::Emit { first: EmitNumber(batch * 100 + 1), events }).await;
    }
    let mut next = EmitNumber(1);
    while next.0 <= 5000 {
        let ServerFrame::Emitted { runs } = emitter.frame().await else { panic!("expected Emitted") };
        for run in runs {
            assert_eq!(run.first, next);
            assert_eq!(run.fate, EmitFate::Stored(Position::new(server.head().epoch, Seq(next.0))));
            next = run.last().next();
        }
    }
    assert_eq!(server.stats().events_in, 5000);
    let commits = server.stats().commits;
    assert!(commits <= 50, "emits share commits: {commits}");
}

#[tokio::test]
async fn a_client_with_many_subscriptions_gets_each_topics_events() {
    const TOPICS: u32 = 1000;
    let (server, address) = serve().await;
    let mut reader = Peer::welcomed(&address, hello()).await;
    let id = SubscriptionId;
    for n in 0..TOPICS {
        reader
            .send(ClientFrame::Subscribe(Subscribe { id: id(n), ..subscribe(&format!("t{n}"), Start::Earliest) }))
            .await;
    }
    let mut emitter = Peer::welcomed(&address, hello_publisher()).await;
    emitter.emit(1, (0..TOPICS).map(|n| event(&format!("t{n}"), n.to_string())).collect()).await;
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < 1000 {
        if let ServerFrame::Events(events) = reader.frame().await {
            let mut records = redeliver_protocol::codec::Records::new(events.records);
            let record = records.next().expect("one event").expect("a record");
            assert_eq!((payloads(&[record]), records.next()), (vec![events.id.to_string()], None));
            assert!(seen.insert(events.id), "each once");
        }
    }
    assert_eq!(server.stats().subscriptions, u64::from(TOPICS));
    drop(reader);
    while server.stats().connections > 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!(server.stats().subscriptions, 0, "nothing is left of it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_reader_of_a_topic_gets_every_event_once_and_in_order() {
    let (server, address) = serve().await;
    let mut readers = Vec::new();
    for _ in 0..50 {
        let mut reader = Peer::welcomed(&address, hello()).await;
        reader.subscribe(subscribe("t", Start::Latest)).await;
        readers.push(tokio::spawn(async move { payloads(&reader.events(500).await) }));
    }
    emit_numbered(&server, "t", 0..500).await;
    for reader in readers {
        assert_eq!(reader.await.expect("no panic"), numbers(0..500));
    }
}
