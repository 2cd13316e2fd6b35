//! Events that are not logged, and events that are not for everybody, from the outside.

use redeliver_protocol::features::Features;
use redeliver_protocol::frame::{ClientFrame, Hello, ServerFrame};
use redeliver_protocol::history::Start;
use redeliver_server::{EmitError, Feed, FeedItem, NewEvent, Seq, Server, TopicName};

use crate::peer::*;

fn topic(name: &str) -> TopicName {
    TopicName::new(name).expect("a name")
}

fn to(topics: &[&str], payload: &str) -> NewEvent {
    event("x", payload.to_owned()).with_topics(topics.iter().map(|name| topic(name)).collect())
}

fn follow(server: &Server, topics: &[&str]) -> Feed {
    let mut feed = server.gateway().feed(server.head());
    for name in topics {
        feed.follow(topic(name), Seq::ZERO, None);
    }
    feed
}

async fn next(feed: &mut Feed) -> Vec<String> {
    let words = |item: &FeedItem| match item {
        FeedItem::Event(event) => format!("logged {}", String::from_utf8_lossy(&event.payload)),
        FeedItem::Volatile(event) => format!("volatile {}", String::from_utf8_lossy(&event.event.payload)),
        other => panic!("{other:?}"),
    };
    feed.next(100, 100_000).await.expect("goes on").iter().map(words).collect()
}

#[tokio::test]
async fn what_is_not_logged_reaches_a_feed_once_and_behind_what_was_logged_before() {
    let (server, _) = serve().await;
    let mut feed = follow(&server, &["/", "/#me"]);
    server.emit_event(to(&["/"], "1")).await.expect("stored");
    server.emit_volatile_event(to(&["/", "/#me"], "2")).expect("taken");
    server.emit_volatile_event(to(&["/#you"], "not mine")).expect("taken");
    assert_eq!(next(&mut feed).await, ["logged 1", "volatile 2"]);
    assert_eq!(feed.place(), server.head());
    let (given, ()) =
        tokio::join!(next(&mut feed), async { server.emit_volatile_event(to(&["/#me"], "3")).expect("taken") });
    assert_eq!(given, ["volatile 3"]);
    feed.unfollow(&topic("/#me"));
    server.emit_volatile_event(to(&["/#me"], "left")).expect("taken");
    server.emit_volatile_event(to(&["/"], "4")).expect("taken");
    assert_eq!(next(&mut feed).await, ["volatile 4"]);
    assert_eq!(server.stats().events_in, 1);
}

#[tokio::test]
async fn a_feed_that_does_not_keep_up_loses_the_oldest_and_costs_no_more_than_a_few() {
    let (server, _) = serve().await;
    let mut feed = follow(&server, &["a"]);
    for number in 0..10_000 {
        server.emit_volatile_event(to(&["a"], &number.to_string())).expect("taken");
    }
    let given = next(&mut feed).await;
    assert!(given.len() < 1000, "{}", given.len());
    assert_eq!(given.last().map(String::as_str), Some("volatile 9999"));
}

#[tokio::test]
async fn a_feed_is_told_who_is_not_to_get_an_event_and_whether_it_asks_for_an_answer() {
    let (server, _) = serve().await;
    let mut feed = follow(&server, &["a"]);
    let withheld = to(&["a"], "1").with_except(vec![topic("b"), topic("c")]);
    server.emit_event(withheld).await.expect("stored");
    server.emit_event(to(&["a"], "2").asks()).await.expect("stored");
    server.emit_event(to(&["a"], "3")).await.expect("stored");
    let row = feed.next(100, 100_000).await.expect("goes on");
    let events = row.iter().map(|item| match item {
        FeedItem::Event(event) => (event.asks, event.except.len()),
        other => panic!("{other:?}"),
    });
    assert_eq!(events.collect::<Vec<_>>(), [(false, 2), (true, 0), (false, 0)]);
}

#[tokio::test]
async fn remote_peers_give_and_get_what_is_not_logged_if_they_may() {
    let server = Server::builder().in_memory().access(crate::access::Names).open().await.expect("opens");
    let address = listen(&server).await;
    let named = |name: &'static str| Hello {
        auth: Some(name.as_bytes().into()),
        features: Features::VOLATILE.or(Features::EXCEPT),
        ..hello_publisher()
    };
    let mut reader = Peer::welcomed(&address, named("ali")).await;
    reader.subscribe(subscribe("ali/x", Start::Latest)).await;
    let mut bob = Peer::welcomed(&address, named("bob")).await;
    bob.send(ClientFrame::Volatile { event: to(&["ali/x"], "forged") }).await;
    // It is answered behind what came before.
    bob.emit(1, vec![to(&["bob/x"], "stored")]).await;
    let mut ali = Peer::welcomed(&address, named("ali")).await;
    ali.send(ClientFrame::Volatile { event: to(&["ali/x"], "mine") }).await;
    let got = loop {
        match reader.frame().await {
            ServerFrame::Volatile(event) => break event,
            ServerFrame::CaughtUp { .. } => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((got.id, &got.payload[..]), (ID, &b"mine"[..]));
}

#[tokio::test]
async fn a_remote_reader_skips_what_is_not_for_it_also_out_of_the_past() {
    let (server, address) = serve().await;
    let withheld = to(&["chat"], "not for me").with_except(vec![topic("me")]);
    for event in [to(&["chat"], "1"), withheld, to(&["chat"], "3")] {
        server.emit_event(event).await.expect("stored");
    }
    let mut peer = Peer::welcomed(&address, hello()).await;
    let mine = redeliver_protocol::frame::Subscribe {
        id: redeliver_protocol::seq::SubscriptionId(1),
        ..subscribe("me", Start::Latest)
    };
    peer.subscribe(mine).await;
    peer.send(ClientFrame::Subscribe(subscribe("chat", Start::Earliest))).await;
    let mut seen = Vec::new();
    while seen.len() < 3 {
        match peer.frame().await {
            ServerFrame::Events(events) => seen.push(format!("{} events", events.count)),
            ServerFrame::Skip { nth_through, .. } => seen.push(format!("skip to {nth_through}")),
            ServerFrame::CaughtUp { .. } | ServerFrame::Subscribed(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(seen, ["1 events", "skip to 2", "1 events"]);
}

#[tokio::test]
async fn what_cannot_be_given_is_refused() {
    let (server, _) = serve().await;
    let refused = server.emit_volatile_event(to(&[], "x"));
    assert!(matches!(refused, Err(EmitError::Invalid(_))), "{refused:?}");
    server.shutdown(std::time::Duration::from_secs(60)).await.expect("ends in time");
    assert!(server.emit_volatile_event(to(&["a"], "x")).expect_err("it is over").is_retryable());
}
