//! The app in the server's own process: emits and subscriptions without a socket.

use redeliver_protocol::history::Start;
use redeliver_server::{
    Delivery, EmitError, Event, LocalSubscription, Server, SubscribeError, SubscriptionEnd, Window,
};

use crate::peer::*;

/// The next event.
async fn next_event(subscription: &mut LocalSubscription) -> Event {
    loop {
        if let Delivery::Event(event) = subscription.next().await.expect("goes on") {
            return event;
        }
    }
}

/// The payload of the next event.
async fn next_payload(subscription: &mut LocalSubscription) -> String {
    String::from_utf8_lossy(&next_event(subscription).await.payload).into_owned()
}

async fn open() -> Server {
    Server::builder().in_memory().open().await.expect("opens in memory")
}

#[tokio::test]
async fn an_in_process_reader_gets_history_then_what_is_live() {
    let server = open().await;
    emit_numbered(&server, "t", 0..5).await;
    let mut reader = server.subscribe("t").start(Start::Earliest).await.expect("stands");
    for number in 0..5 {
        assert_eq!(next_payload(&mut reader).await, number.to_string());
    }
    emit_numbered(&server, "t", 5..8).await;
    for number in 5..8 {
        assert_eq!(next_payload(&mut reader).await, number.to_string());
    }
}

#[tokio::test]
async fn an_in_process_reader_lives_by_its_window() {
    let server = open().await;
    emit_numbered(&server, "t", 0..20).await;
    let window = Window::of_events(3);
    let mut reader = server.subscribe("t").start(Start::Earliest).window(window).await.expect("stands");
    for number in 0..20 {
        let event = next_event(&mut reader).await;
        assert_eq!(event.payload, number.to_string());
        assert!(server.stats().deliveries <= number + 3);
        event.ack();
    }
}

#[tokio::test]
async fn an_in_process_subscriber_resumes_after_its_confirmed_acks() {
    let server = open().await;
    let mut reader = server.subscribe("t").durable("billing").start(Start::Earliest).await.expect("stands");
    emit_numbered(&server, "t", 0..5).await;
    for _ in 0..2 {
        next_event(&mut reader).await;
    }
    next_event(&mut reader).await.ack();
    reader.close().await;
    let mut reader = server.subscribe("t").durable("billing").await.expect("stands");
    assert_eq!(next_payload(&mut reader).await, "3");
}

#[tokio::test]
async fn an_in_process_reader_and_a_remote_one_take_over_from_each_other() {
    let (server, address) = serve().await;
    let mut local = server.subscribe("t").durable("billing").start(Start::Earliest).await.expect("stands");
    emit_numbered(&server, "t", 0..1).await;
    next_event(&mut local).await;
    let mut remote = Peer::welcomed(&address, hello_subscriber("billing")).await;
    remote.subscribe(resume("t")).await;
    while local.next().await.is_some() {}
    assert_eq!(local.end(), Some(SubscriptionEnd::TakenOver));
    assert_eq!(payloads(&remote.events(1).await), ["0"]);
}

#[tokio::test]
async fn an_in_process_reader_ends_with_the_server() {
    let server = open().await;
    let mut reader = server.subscribe("t").await.expect("stands");
    assert_eq!(server.stats().connections, 1);
    server.shutdown(std::time::Duration::from_secs(60)).await.expect("ends in time");
    while reader.next().await.is_some() {}
    assert_eq!(reader.end(), Some(SubscriptionEnd::ClientEnded));
}

#[tokio::test]
async fn an_event_that_could_not_be_stored_is_refused_before_it_is_tried() {
    let server = open().await;
    let mut nowhere = event("t", "x");
    nowhere.topics.clear();
    let mut twice = event("t", "x");
    twice.topics.push(twice.topics[0].clone());
    let large = event("t", vec![0; 256 * 1024]);
    for event in [nowhere, twice, large] {
        let error = server.emit_event(event).await.expect_err("not valid");
        assert!(matches!(error, EmitError::Invalid(_)) && !error.is_retryable(), "{error}");
    }
    assert!(matches!(server.emit_json("", "n", &1).await, Err(EmitError::InvalidName(_))));
    assert_eq!(server.head().seq.0, 0);
}

#[tokio::test]
async fn what_is_asked_for_next_acknowledges_what_was_handed_over_before() {
    let server = open().await;
    emit_numbered(&server, "t", 0..10).await;
    let window = Window::of_events(1);
    let reader = server.subscribe("t").durable("billing").start(Start::Earliest).window(window).auto_ack();
    let mut reader = reader.await.expect("stands");
    assert_eq!((reader.pending(), reader.topic().as_str()), (10, "t"));
    for number in 0..4 {
        assert_eq!(next_payload(&mut reader).await, number.to_string());
    }
    reader.close().await;
    let mut reader = server.subscribe("t").durable("billing").await.expect("stands");
    assert_eq!(next_payload(&mut reader).await, "4", "what was handled at the end counts");
}

#[tokio::test]
async fn a_subscription_that_cannot_stand_says_why() {
    let server = open().await;
    let error = server.subscribe("").await.expect_err("no topic");
    assert!(matches!(error, SubscribeError::InvalidName(_)), "{error}");
    server.shutdown(std::time::Duration::from_secs(60)).await.expect("ends in time");
    assert_eq!(server.subscribe("t").await.expect_err("it is over"), SubscribeError::ServerEnded);
}
