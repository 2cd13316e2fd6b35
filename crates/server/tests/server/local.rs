//! The app in the server's own process: emits and subscriptions without a socket.

use redeliver_protocol::history::Start;
use redeliver_protocol::name::{SubscriberName, TopicName};
use redeliver_server::{Delivery, EmitError, LocalSubscribe, LocalSubscription, Server, SubscriptionEnd, Window};

use crate::peer::*;

fn follow(topic: &str) -> LocalSubscribe {
    LocalSubscribe::new(TopicName::new(topic).expect("a topic"))
}

fn billing(topic: &str) -> LocalSubscribe {
    follow(topic).subscriber(SubscriberName::new("billing").expect("a name"))
}

/// The payload of the next event, and the event to acknowledge.
async fn next_event(subscription: &mut LocalSubscription) -> (String, Delivery) {
    loop {
        let delivery = subscription.next().await.expect("goes on");
        if let Delivery::Event { record, .. } = &delivery {
            return (String::from_utf8_lossy(&record.payload).into_owned(), delivery);
        }
    }
}

async fn open() -> Server {
    Server::builder().in_memory().open().await.expect("opens in memory")
}

#[tokio::test]
async fn an_in_process_reader_gets_history_then_what_is_live() {
    let server = open().await;
    emit_numbered(&server, "t", 0..5).await;
    let mut reader = server.subscribe(follow("t").start(Start::Earliest));
    for number in 0..5 {
        assert_eq!(next_event(&mut reader).await.0, number.to_string());
    }
    emit_numbered(&server, "t", 5..8).await;
    for number in 5..8 {
        assert_eq!(next_event(&mut reader).await.0, number.to_string());
    }
}

#[tokio::test]
async fn an_in_process_reader_lives_by_its_window() {
    let server = open().await;
    emit_numbered(&server, "t", 0..20).await;
    let window = Window { events: 3, ..Window::default() };
    let mut reader = server.subscribe(follow("t").start(Start::Earliest).window(window));
    for number in 0..20 {
        let (payload, delivery) = next_event(&mut reader).await;
        assert_eq!(payload, number.to_string());
        assert!(server.stats().deliveries <= number + 3);
        reader.ack(&delivery);
    }
}

#[tokio::test]
async fn an_in_process_subscriber_resumes_after_its_confirmed_acks() {
    let server = open().await;
    let mut reader = server.subscribe(billing("t").start(Start::Earliest));
    emit_numbered(&server, "t", 0..5).await;
    for _ in 0..2 {
        next_event(&mut reader).await;
    }
    let (_, third) = next_event(&mut reader).await;
    reader.ack(&third);
    reader.close().await;
    let mut reader = server.subscribe(billing("t"));
    assert_eq!(next_event(&mut reader).await.0, "3");
}

#[tokio::test]
async fn an_in_process_reader_and_a_remote_one_take_over_from_each_other() {
    let (server, address) = serve().await;
    let mut local = server.subscribe(billing("t").start(Start::Earliest));
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
    let mut reader = server.subscribe(follow("t"));
    reader.next().await.expect("subscribed");
    assert_eq!(server.stats().connections, 1);
    assert!(server.shutdown(std::time::Duration::from_secs(60)).await);
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
        let error = server.emit(event).await.expect_err("not valid");
        assert!(matches!(error, EmitError::Invalid(_)) && !error.is_retryable(), "{error}");
    }
    assert!(matches!(server.emit_json("", "n", &1).await, Err(EmitError::Invalid(_))));
    assert_eq!(server.head().seq.0, 0);
}
