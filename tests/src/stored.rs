//! All that a log holds, as JSON: what a data directory of an earlier version must still hold when it is opened today.
//! Reads the log alone, and changes nothing in it.

use anyhow::Result;
use bytes::Bytes;
use redeliver_log::Log;
use redeliver_protocol::codec::Records;
use redeliver_protocol::event::Record;
use redeliver_protocol::history::{Gap, PublisherState, ReadOutcome, Start};
use redeliver_protocol::name::{SubscriberName, TopicName};
use redeliver_protocol::seq::{EmitNumber, Epoch, Position, PublisherId, Seq};
use redeliver_protocol::time::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

/// What is asked of a log that cannot list it by itself.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// Topics.
    pub topics: Vec<String>,
    /// Durable subscribers, each with a topic.
    pub cursors: Vec<(String, String)>,
    /// Publishers.
    pub publishers: Vec<Uuid>,
    /// Positions, some of which are in the log's history.
    pub positions: Vec<(Uuid, u64)>,
}

impl Names {
    /// Those that [`content`] was asked for, from what it gave.
    #[must_use]
    pub fn in_content(content: &Value) -> Names {
        let rows = |what: &str| content[what].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let id = |value: &Value| Uuid::parse_str(value.as_str().unwrap_or_default()).unwrap_or_default();
        Names {
            topics: rows("topics").iter().map(|row| text(&row["topic"])).collect(),
            cursors: rows("cursors").iter().map(|row| (text(&row["subscriber"]), text(&row["topic"]))).collect(),
            publishers: rows("publishers").iter().map(|row| id(&row["publisher"])).collect(),
            positions: rows("positions")
                .iter()
                .map(|row| (id(&row["epoch"]), row["seq"].as_u64().unwrap_or_default()))
                .collect(),
        }
    }
}

/// Reads all of it. Of the head only the seq is told: its epoch is the one that this opening has begun.
///
/// # Errors
///
/// What the log fails with.
pub fn content(log: &Log, names: &Names) -> Result<Value> {
    let topics = names.topics.iter().map(|topic| topic_content(log, topic)).collect::<Result<Vec<_>>>()?;
    let cursors = names.cursors.iter().map(|(name, topic)| cursor(log, name, topic)).collect::<Result<Vec<_>>>()?;
    let publishers = names.publishers.iter().map(|id| publisher(log, *id)).collect::<Result<Vec<_>>>()?;
    let positions: Vec<Value> = names
        .positions
        .iter()
        .map(|(epoch, seq)| {
            let is_known = log.knows(Position::new(Epoch::from(*epoch), Seq(*seq)));
            json!({ "epoch": epoch.to_string(), "seq": seq, "known": is_known })
        })
        .collect();
    let states: Vec<Value> = log
        .states(b"", None, usize::MAX, usize::MAX)?
        .iter()
        .map(|(key, value)| json!({ "key": shown(key), "value": shown(value) }))
        .collect();
    let stats = log.stats();
    Ok(json!({
        "head": stats.head.0,
        "floor": stats.floor.0,
        "damaged_reads": stats.damaged_reads,
        "topics": topics,
        "cursors": cursors,
        "publishers": publishers,
        "positions": positions,
        "states": states,
    }))
}

fn topic_content(log: &Log, topic: &str) -> Result<Value> {
    let name = TopicName::new(topic)?;
    // The time matters to none of these starts.
    let earliest = log.open_subscription(&name, &Start::Earliest, None, Timestamp(0))?;
    let latest = log.open_subscription(&name, &Start::Latest, None, Timestamp(0))?;
    let (mut after, mut nth) = (Seq::ZERO, redeliver_protocol::seq::Nth::ZERO);
    let mut found = Vec::new();
    loop {
        match log.read(&name, after, nth, 1_000, 1024 * 1024)? {
            ReadOutcome::End => break,
            ReadOutcome::Gap(gap) => {
                found.push(gap_content(&gap));
                (after, nth) = (gap.through.seq, gap.nth_through);
            }
            ReadOutcome::Batch(batch) => {
                let except: Option<Vec<&str>> =
                    batch.except.as_ref().map(|topics| topics.iter().map(|topic| topic.as_str()).collect());
                for record in Records::new(batch.records.clone()) {
                    found.push(event_content(batch.epoch, &record?, except.as_deref()));
                }
                (after, nth) = (batch.last_seq, batch.last_nth());
            }
        }
    }
    Ok(json!({
        "topic": topic,
        "earliest": { "after": earliest.after.seq.0, "nth": earliest.nth.0, "pending": earliest.pending },
        "last_nth": latest.nth.0,
        "events": found,
    }))
}

fn gap_content(gap: &Gap) -> Value {
    json!({
        "gap": format!("{:?}", gap.cause),
        "through": at(gap.through),
        "nth_through": gap.nth_through.0,
        "count": gap.count,
        "count_is_exact": gap.count_is_exact,
    })
}

fn event_content(epoch: Epoch, record: &Record, except: Option<&[&str]>) -> Value {
    let mut event = json!({
        "epoch": Uuid::from_bytes(epoch.0).to_string(),
        "seq": record.seq.0,
        "nth": record.nth.0,
        "time": record.time.0,
        "name": record.name.as_str(),
        "kind": format!("{:?}", record.kind),
        "payload": shown(&record.payload),
    });
    if let Some(except) = except {
        event["except"] = json!(except);
    }
    event
}

fn cursor(log: &Log, subscriber: &str, topic: &str) -> Result<Value> {
    let name = TopicName::new(topic)?;
    let found = log.cursor(&SubscriberName::new(subscriber)?, &name)?;
    let resume = Start::Resume { at_least: None };
    let opened = found.as_ref().map(|cursor| log.open_subscription(&name, &resume, Some(cursor), Timestamp(0)));
    let resumed = opened.transpose()?.map(|opened| {
        json!({
            "after": at(opened.after),
            "nth": opened.nth.0,
            "pending": opened.pending,
            "gap": opened.gap.as_ref().map(gap_content),
            "redelivered_through": opened.delivered_through.0.0,
        })
    });
    let cursor = found.map(|cursor| {
        json!({
            "position": at(cursor.place.position),
            "nth": cursor.place.nth.0,
            "earlier": cursor.place.earlier.iter().map(|earlier| at(*earlier)).collect::<Vec<_>>(),
            "handed_through": cursor.delivered_through.0.0,
        })
    });
    Ok(json!({ "subscriber": subscriber, "topic": topic, "cursor": cursor, "resumed": resumed }))
}

fn publisher(log: &Log, id: Uuid) -> Result<Value> {
    let reached = match log.publisher(PublisherId::from(id), EmitNumber::ZERO)? {
        PublisherState::Reached(number) => json!(number.0),
        PublisherState::New => json!("new"),
        PublisherState::Forgotten => json!("forgotten"),
    };
    Ok(json!({ "publisher": id.to_string(), "reached": reached }))
}

fn at(position: Position) -> String {
    format!("{}@{}", position.seq.0, Uuid::from_bytes(position.epoch.0))
}

/// Short text as it is, anything else as its length and a checksum.
fn shown(bytes: &Bytes) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.len() <= 2_000 => json!(text),
        _ => json!({ "bytes": bytes.len(), "fnv1a": format!("{:016x}", fnv1a(bytes)) }),
    }
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
