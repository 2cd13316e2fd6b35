//! Events that some are not to get, and events that are not logged, between real clients and a real server over TCP.

#![allow(clippy::unwrap_used, reason = "what cannot be unwrapped fails its test")]

use std::net::SocketAddr;
use std::time::Duration;

use redeliver_client::{
    Client, ClientBuilder, Delivery, EventName, NewEvent, PayloadKind, Start, Subscription, TopicName,
};
use redeliver_server::Server;
use tokio::net::TcpListener;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

async fn serve() -> (Server, SocketAddr) {
    let server = Server::builder().in_memory().open().await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(server.serve(listener));
    (server, address)
}

fn client(address: SocketAddr) -> ClientBuilder {
    Client::builder(format!("ws://{address}")).connect_within(PATIENCE)
}

fn topic(name: &str) -> TopicName {
    TopicName::new(name).unwrap()
}

fn event(topics: &[&str], except: &[&str], payload: &'static str) -> NewEvent {
    let mut event = NewEvent::new(topic(topics[0]), EventName::new("said").unwrap(), PayloadKind::Text, payload);
    event.topics = topics.iter().map(|name| topic(name)).collect();
    event.except = except.iter().map(|name| topic(name)).collect();
    event
}

/// The next event: its nth and payload.
async fn next(subscription: &mut Subscription) -> (u64, String) {
    loop {
        match subscription.next().await.unwrap() {
            Delivery::Event(event) => {
                event.ack();
                return (event.nth.0, event.text().unwrap().to_owned());
            }
            Delivery::Gap(gap) => panic!("nothing is gone, but {gap:?}"),
            Delivery::CaughtUp { .. } | Delivery::Resumed { .. } | _ => {}
        }
    }
}

#[tokio::test]
async fn who_follows_an_excluded_topic_gets_everything_else_and_misses_nothing() {
    let (_server, address) = serve().await;
    let (ann, ben) = (client(address).connect().await.unwrap(), client(address).connect().await.unwrap());
    let _ann_alone = ann.subscribe("only/ann").await.unwrap();
    let _ben_alone = ben.subscribe("only/ben").await.unwrap();
    let mut of_ann = ann.subscribe("room").start(Start::Earliest).await.unwrap();
    let mut of_ben = ben.subscribe("room").start(Start::Earliest).await.unwrap();
    for (except, payload) in
        [(&[][..], "1"), (&["only/ann"], "2"), (&["only/ann", "only/ben"], "3"), (&["only/ben"], "4"), (&[], "5")]
    {
        ann.emit_event(event(&["room"], except, payload)).await.unwrap();
    }
    let mut heard = (Vec::new(), Vec::new());
    for _ in 0..3 {
        heard.0.push(next(&mut of_ann).await);
        heard.1.push(next(&mut of_ben).await);
    }
    let said = |numbers: [u64; 3]| numbers.map(|number| (number, number.to_string())).to_vec();
    assert_eq!(heard, (said([1, 4, 5]), said([1, 2, 5])));
}

#[tokio::test]
async fn a_durable_reader_goes_on_behind_what_it_was_not_to_get() {
    let (_server, address) = serve().await;
    let emitter = client(address).connect().await.unwrap();
    let reader = || client(address).subscriber("ann").connect();
    for (payload, except) in [("1", &["only/ann"][..]), ("2", &[]), ("3", &["only/ann"])] {
        emitter.emit_event(event(&["room"], except, payload)).await.unwrap();
    }
    let ann = reader().await.unwrap();
    let _alone = ann.subscribe("only/ann").await.unwrap();
    let mut room = ann.subscribe("room").durable().start(Start::Earliest).await.unwrap();
    assert_eq!(next(&mut room).await, (2, "2".to_owned()));
    room.close().await.unwrap();
    ann.shutdown(PATIENCE).await.unwrap();

    emitter.emit_event(event(&["room"], &[], "4")).await.unwrap();
    let ann = reader().await.unwrap();
    let _alone = ann.subscribe("only/ann").await.unwrap();
    let mut room = ann.subscribe("room").durable().await.unwrap();
    assert_eq!(next(&mut room).await, (4, "4".to_owned()));
}

#[tokio::test]
async fn a_reader_sees_that_the_emitter_asks_for_an_answer() {
    let (_server, address) = serve().await;
    let client = client(address).connect().await.unwrap();
    let mut room = client.subscribe("room").start(Start::Earliest).await.unwrap();
    let asking = event(&["room"], &[], "well?").asks();
    client.emit_event(asking).await.unwrap();
    client.emit_event(event(&["room"], &[], "well")).await.unwrap();
    let mut asks = Vec::new();
    while asks.len() < 2 {
        if let Some(event) = room.next().await.unwrap().into_event() {
            asks.push(event.asks);
        }
    }
    assert_eq!(asks, [true, false]);
}

#[tokio::test]
async fn what_is_not_logged_reaches_who_is_there_and_leaves_no_trace() {
    let (server, address) = serve().await;
    let (ann, ben) = (client(address).connect().await.unwrap(), client(address).connect().await.unwrap());
    let _alone = ben.subscribe("only/ben").await.unwrap();
    let mut of_ann = ann.subscribe("room").await.unwrap();
    let mut of_ben = ben.subscribe("room").await.unwrap();
    ann.emit_volatile_event(event(&["room"], &["only/ben"], "not for ben")).unwrap();
    ann.emit_volatile("room", "typing", "ann").unwrap();
    let mut volatile = Vec::new();
    while volatile.len() < 2 {
        if let Delivery::Volatile(event) = of_ann.next().await.unwrap() {
            volatile.push((event.topic.to_string(), event.payload));
        }
    }
    assert_eq!(volatile, [("room".to_owned(), "not for ben".into()), ("room".to_owned(), "ann".into())]);
    ann.emit("room", "said", "hello").await.unwrap();
    let mut of_ben_heard = Vec::new();
    while of_ben_heard.len() < 2 {
        match of_ben.next().await.unwrap() {
            Delivery::Volatile(event) => of_ben_heard.push((0, event.name.to_string())),
            Delivery::Event(event) => of_ben_heard.push((event.nth.0, event.name.to_string())),
            Delivery::Gap(_) | Delivery::CaughtUp { .. } | Delivery::Resumed { .. } | _ => {}
        }
    }
    of_ben_heard.sort();
    assert_eq!(of_ben_heard, [(0, "typing".to_owned()), (1, "said".to_owned())]);
    assert_eq!(server.head().seq.0, 1);
}
