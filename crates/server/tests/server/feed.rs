//! Merged reading within the process: one row of several topics.

use std::future::Future;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use redeliver_server::{
    CloseCode, EventName, Feed, FeedError, FeedItem, GapCause, LogConfig, NewEvent, PayloadKind, Position, Seq, Server,
    TopicName,
};

use crate::peer::emit_numbered;

fn topic(name: &str) -> TopicName {
    TopicName::new(name).expect("a name")
}

fn event(topics: &[&str], payload: &str) -> NewEvent {
    let name = EventName::new("said").expect("a name");
    let mut event = NewEvent::new(topic(topics[0]), name, PayloadKind::Text, payload.to_owned());
    event.topics = topics.iter().map(|name| topic(name)).collect();
    event
}

async fn open() -> Server {
    Server::builder().in_memory().open().await.expect("opens")
}

/// A server that has nothing in memory: each read goes to the store.
async fn open_cold() -> Server {
    let mut config = LogConfig::default();
    config.recent_bytes_max = 0;
    Server::builder().in_memory().log_config(config).open().await.expect("opens")
}

async fn say(server: &Server, topics: &[&str], payload: &str) -> Position {
    server.emit_event(event(topics, payload)).await.expect("stored").position.expect("no duplicate")
}

fn text(item: &FeedItem) -> String {
    match item {
        FeedItem::Event(event) => String::from_utf8_lossy(&event.payload).into_owned(),
        FeedItem::Gap { topic, gap } => format!("{topic}: {} {:?}", gap.count, gap.cause),
        other => panic!("{other:?}"),
    }
}

async fn texts(feed: &mut Feed, count: usize) -> Vec<String> {
    let mut texts = Vec::new();
    while texts.len() < count {
        texts.extend(feed.next(100, 100_000).await.expect("goes on").iter().map(text));
    }
    texts
}

#[tokio::test]
async fn events_of_several_topics_come_in_the_order_of_the_log_and_each_once() {
    for server in [open().await, open_cold().await] {
        let mut feed = server.gateway().feed(server.head());
        feed.follow(topic("/"), Seq::ZERO, None);
        feed.follow(topic("/#me"), Seq::ZERO, None);
        say(&server, &["/"], "1").await;
        say(&server, &["/#me", "/"], "2").await;
        say(&server, &["/#you"], "not mine").await;
        let last = say(&server, &["/#me"], "3").await;
        assert_eq!(texts(&mut feed, 3).await, ["1", "2", "3"]);
        assert_eq!(feed.place(), last);
        let both = say(&server, &["/", "/#you", "/#me"], "4").await;
        let row = feed.next(1, 1).await.expect("goes on");
        let [FeedItem::Event(event)] = &row[..] else { panic!("{row:?}") };
        assert_eq!((event.position, event.name.as_str(), event.kind), (both, "said", PayloadKind::Text));
        let mut topics = event.topics.clone();
        topics.sort();
        assert_eq!(topics, [topic("/"), topic("/#me")]);
    }
}

async fn poll_once<F: Future + Unpin>(future: &mut F) -> bool {
    std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut *future).poll(cx).is_pending())).await
}

#[tokio::test]
async fn a_feed_that_waits_is_woken_and_one_that_was_cancelled_lost_nothing() {
    for server in [open().await, open_cold().await] {
        let mut feed = server.gateway().feed(server.head());
        feed.follow(topic("a"), Seq::ZERO, None);
        for number in 0..50_u64 {
            // Cancelled after however many polls that this takes.
            for polls in 0..number % 5 {
                let mut next = Box::pin(feed.next(100, 100_000));
                for _ in 0..polls {
                    let is_pending = poll_once(&mut next).await;
                    assert!(is_pending, "there is nothing yet");
                    tokio::task::yield_now().await;
                }
            }
            let (given, ()) = tokio::join!(texts(&mut feed, 1), emit_numbered(&server, "a", number..number + 1));
            assert_eq!(given, [number.to_string()]);
        }
    }
}

#[tokio::test]
async fn a_topic_belongs_to_the_row_from_where_it_was_joined_to_where_it_was_left() {
    let server = open().await;
    let mut feed = server.gateway().feed(server.head());
    feed.follow(topic("/"), Seq::ZERO, None);
    for number in 1..=9 {
        say(&server, &["room"], &format!("room{number}")).await;
    }
    feed.follow(topic("room"), Seq(2), Some(Seq(4)));
    feed.follow(topic("room"), Seq(7), None);
    assert_eq!(texts(&mut feed, 4).await, ["room3", "room4", "room8", "room9"]);
    say(&server, &["room"], "in").await;
    let left = say(&server, &["/"], "leaving").await;
    feed.unfollow_after(&topic("room"), left.seq);
    say(&server, &["room"], "after").await;
    say(&server, &["/"], "last").await;
    assert_eq!(texts(&mut feed, 3).await, ["in", "leaving", "last"]);
}

#[tokio::test]
async fn a_feed_goes_on_from_its_place_also_over_a_history_that_was_trimmed() {
    let mut config = LogConfig::default();
    config.retention.count = Some(2);
    let server = Server::builder().in_memory().log_config(config).open().await.expect("opens");
    let mut feed = server.gateway().feed(server.head());
    feed.follow(topic("a"), Seq::ZERO, None);
    emit_numbered(&server, "a", 0..5).await;
    assert_eq!(texts(&mut feed, 3).await, ["a: 3 RetentionSize", "3", "4"]);
    let place = feed.place();
    emit_numbered(&server, "a", 5..6).await;
    drop(feed);
    let mut again = server.gateway().feed(place);
    again.follow(topic("a"), Seq::ZERO, None);
    assert_eq!(texts(&mut again, 1).await, ["5"]);
}

#[tokio::test]
async fn a_place_of_another_history_is_told_as_a_gap() {
    let server = open().await;
    let elsewhere = open().await;
    say(&elsewhere, &["a"], "elsewhere").await;
    assert!(!server.gateway().knows(elsewhere.head()) && server.gateway().knows(server.head()));
    say(&server, &["a"], "here").await;
    let mut feed = server.gateway().feed(elsewhere.head());
    feed.follow(topic("a"), Seq::ZERO, None);
    let row = feed.next(100, 100_000).await.expect("goes on");
    let FeedItem::Gap { gap, .. } = &row[0] else { panic!("{row:?}") };
    assert_eq!((gap.cause, gap.after), (GapCause::EpochChanged, elsewhere.head()));
    assert_eq!(text(&row[1]), "here");
}

#[tokio::test]
async fn a_quiet_feed_keeps_up_with_the_head_when_it_is_asked_to() {
    let server = open().await;
    let mut feed = server.gateway().feed(server.head());
    feed.follow(topic("quiet"), Seq::ZERO, None);
    emit_numbered(&server, "busy", 0..10).await;
    assert_eq!(feed.refresh(), server.head());
    say(&server, &["quiet"], "at last").await;
    assert!(feed.refresh().seq < server.head().seq, "what was not given is not passed");
    assert_eq!(texts(&mut feed, 1).await, ["at last"]);
}

#[tokio::test]
async fn a_shutdown_ends_every_feed_and_waits_until_they_are_gone() {
    let server = open().await;
    let mut feed = server.gateway().feed(server.head());
    feed.follow(topic("a"), Seq::ZERO, None);
    assert_eq!(server.stats().subscriptions, 1);
    let reading = tokio::spawn(async move {
        let error = feed.next(100, 100_000).await.expect_err("ends");
        assert_eq!(feed.next(1, 1).await.expect_err("still"), error);
        error
    });
    server.shutdown(Duration::from_secs(60)).await.expect("ends in time");
    let FeedError::Ended(close) = reading.await.expect("ends") else { panic!("not ended") };
    assert_eq!(close.code, CloseCode::DRAINING);
    assert_eq!(server.stats().subscriptions, 0);
}
