//! Several topics read as one row, between real clients and a real server that is killed with -9.

#![allow(clippy::unwrap_used, reason = "what cannot be unwrapped fails its test")]

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use redeliver_client::{
    Client, ClientBuilder, CursorStoreError, Delivery, Event, EventName, FileCursorStore, NewEvent, PayloadKind, Start,
    Subscription, TopicName,
};
use redeliver_server::Server;
use redeliver_tests::chance::Chance;
use redeliver_tests::process::ServerProcess;
use tokio::net::TcpListener;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(120);
const TOPICS: [&str; 3] = ["a", "b", "c"];

fn client(url: &str) -> ClientBuilder {
    Client::builder(url).backoff(Duration::from_millis(5), Duration::from_millis(50)).connect_within(PATIENCE)
}

/// An event of some of the topics, and of one that nobody here follows.
fn event(number: u64, chance: &mut Chance) -> NewEvent {
    let topic = |name: &str| TopicName::new(name).unwrap();
    let name = EventName::new("counted").unwrap();
    let mut event = NewEvent::new(topic("elsewhere"), name, PayloadKind::Text, number.to_string());
    let mut topics: Vec<_> = TOPICS.iter().filter(|_| chance.once_in(2)).map(|name| topic(name)).collect();
    if topics.is_empty() {
        topics.push(topic(TOPICS[usize::try_from(number % 3).unwrap()]));
    }
    event.topics.extend(topics);
    event
}

/// The next event.
async fn next(row: &mut Subscription) -> Event {
    loop {
        match row.next().await.unwrap() {
            Delivery::Event(event) => return event,
            Delivery::Gap(gap) => panic!("nothing is gone, but {gap:?}"),
            Delivery::CaughtUp { .. } | Delivery::Resumed { .. } | _ => {}
        }
    }
}

#[tokio::test]
async fn a_row_has_every_event_of_its_topics_once_and_in_the_order_of_the_log() -> Result<()> {
    let server = Server::builder().in_memory().open().await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("ws://{}", listener.local_addr()?);
    tokio::spawn(server.serve(listener));
    let client = client(&url).subscriber("audit").connect().await?;
    let mut chance = Chance::new(7);
    let mut row = client.subscribe_merged(TOPICS).durable().auto_ack().start(Start::Earliest).await?;
    assert_eq!(row.topics().map(TopicName::as_str).collect::<Vec<_>>(), TOPICS);
    let mut receipts = Vec::new();
    for number in 1..=500 {
        receipts.push(client.queue(event(number, &mut chance)).await?);
    }
    for receipt in receipts {
        receipt.await?;
    }
    let mut seqs = Vec::new();
    for number in 1..=300 {
        let event = next(&mut row).await;
        assert_eq!(event.text()?, number.to_string());
        assert!(TOPICS.contains(&event.topic.as_str()) && !event.redelivered);
        seqs.push(event.seq());
    }
    assert!(seqs.is_sorted_by(|one, next| one < next));
    row.close().await?;
    // A clean end: the rest comes, and nothing of the first part, whichever of the topics is read.
    let mut row = client.subscribe_merged(["c", "b", "a"]).durable().auto_ack().await?;
    for number in 301..=400 {
        let event = next(&mut row).await;
        assert_eq!(event.text()?, number.to_string());
    }
    row.close().await?;
    let mut alone = client.subscribe("b").durable().auto_ack().await?;
    assert!(next(&mut alone).await.text()?.parse::<u64>()? > 400, "what came by another topic is handled here too");
    // A position of a row is one for all of its topics.
    let known = {
        let mut row = client.subscribe_merged(TOPICS).start(Start::Earliest).await?;
        let mut last = next(&mut row).await;
        for _ in 1..123 {
            last = next(&mut row).await;
        }
        last.known()
    };
    let mut row = client.subscribe_merged(TOPICS).start(Start::After(known)).await?;
    assert_eq!(next(&mut row).await.text()?, "124");
    Ok(())
}

/// The last life's client may still be putting its store away.
fn open_when_free(path: &Path) -> Result<FileCursorStore> {
    let begun = Instant::now();
    loop {
        match FileCursorStore::open(path) {
            Err(CursorStoreError::InUse { .. }) if begun.elapsed() < PATIENCE => std::thread::yield_now(),
            opened => return Ok(opened?),
        }
    }
}

/// What a reader that is killed with its server now and then has seen, life by life.
async fn lives(server: &mut ServerProcess, in_file: bool, chance: &mut Chance) -> Result<()> {
    const EVENTS: u64 = 1500;
    let emitter = client(&server.url()).connect().await?;
    let mut receipts = Vec::new();
    let mut emitted = 0;
    let (mut ever, mut confirmed) = (BTreeSet::new(), 0);
    let (mut life, mut kills) = (0, 0);
    while confirmed < EVENTS {
        life += 1;
        let mut builder = client(&server.url());
        builder = if in_file {
            builder.cursor_store(open_when_free(&server.folder().join("cursors"))?)
        } else {
            builder.subscriber("audit")
        };
        let reader = builder.connect().await?;
        let wanted = reader.subscribe_merged(TOPICS).window((64, 1 << 20));
        let mut row = if in_file {
            wanted.stored().start(Start::Earliest)
        } else {
            wanted.durable().start(if life == 1 { Start::Earliest } else { Start::Resume { at_least: None } })
        }
        .await?;
        let mut last = 0;
        for _ in 0..chance.between(20, 400) {
            if emitted < EVENTS && chance.once_in(2) {
                for _ in 0..chance.between(1, 10) {
                    if emitted < EVENTS {
                        emitted += 1;
                        receipts.push(emitter.queue(event(emitted, chance)).await?);
                    }
                }
            }
            if chance.once_in(60) {
                server.kill()?;
                server.launch()?;
                kills += 1;
            }
            if confirmed.max(last) >= emitted {
                continue;
            }
            let event = next(&mut row).await;
            let number = event.text()?.parse::<u64>()?;
            assert!(number > last, "life {life}: {number} came after {last}");
            assert!(number > confirmed, "life {life}: {number} again, although {confirmed} was confirmed");
            assert!(event.redelivered || !ever.contains(&number), "life {life}: {number} again without a mark");
            ever.insert(number);
            last = number;
            if chance.once_in(3) {
                event.ack();
                if chance.once_in(5) {
                    row.flush().await?;
                    confirmed = number;
                }
            }
        }
        if chance.once_in(2) && last > 0 {
            row.close().await?;
        }
        // Ended without confirming anything more.
        let _ = reader.shutdown(Duration::ZERO).await;
        if emitted == EVENTS && ever.len() as u64 == EVENTS {
            break;
        }
    }
    for receipt in receipts {
        receipt.await?;
    }
    assert_eq!(ever, (1..=EVENTS).collect());
    assert!(kills > 5 && life > 3, "hardly anything happened: {kills} kills, {life} lives");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_survives_kills_of_its_server_with_its_cursors_there() -> Result<()> {
    let mut server = ServerProcess::start()?;
    lives(&mut server, false, &mut Chance::new(11)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_survives_kills_of_its_server_with_its_cursors_in_a_file() -> Result<()> {
    let mut server = ServerProcess::start()?;
    lives(&mut server, true, &mut Chance::new(12)).await
}
