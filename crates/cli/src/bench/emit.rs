//! Emitters that keep so many events outstanding, and how long each waits for its receipt. A reader takes all of it
//! afterwards.

use std::collections::VecDeque;
use std::time::Instant;

use anyhow::{Context, Result};
use futures_util::future::try_join_all;
use hdrhistogram::Histogram;
use redeliver_client::{Client, Start, TopicName};

use super::crowd::Crowd;
use super::events::Checker;
use super::figures::{self, Row};

pub(super) async fn measure(crowd: &Crowd<'_>) -> Result<Vec<Row>> {
    let args = crowd.args;
    let topic = crowd.topic("emit")?;
    let clients = crowd.clients(args.emitters).await?;
    crowd.begin("emit", args.events);
    let begun = Instant::now();
    let emitting = clients.iter().enumerate().map(|(source, client)| {
        // The first ones take what cannot be shared evenly.
        let rest = u64::from((source as u64) < args.events % args.emitters as u64);
        emit_all(crowd, client, &topic, source as u64, args.events / args.emitters as u64 + rest)
    });
    let latencies = try_join_all(emitting).await?;
    let seconds = begun.elapsed().as_secs_f64();
    let mut all = figures::latencies()?;
    for latencies in &latencies {
        all.add(latencies).context("latencies of one kind")?;
    }
    let mut subscription = clients[0].subscribe(&topic).start(Start::Earliest).auto_ack().await?;
    let mut checker = Checker::new(args.payload, args.emitters, 0);
    crowd.begin("emit: read back", args.events);
    for _ in 0..args.events {
        checker.next(&mut subscription).await?;
        crowd.bar.inc(1);
    }
    let parameters = format!(
        "{} events of {} B, {} emitters, {} outstanding each",
        args.events, args.payload, args.emitters, args.outstanding
    );
    Ok(vec![Row::new("emit", parameters, args.events as f64 / seconds, "events/s").latency(&all)])
}

/// Emits events numbered from 0, and returns how long each waited for its receipt, in microseconds.
pub(super) async fn emit_all(
    crowd: &Crowd<'_>,
    client: &Client,
    topic: &TopicName,
    source: u64,
    count: u64,
) -> Result<Histogram<u64>> {
    let mut latencies = figures::latencies()?;
    let mut waiting = VecDeque::new();
    let mut index = 0;
    while index < count || !waiting.is_empty() {
        while index < count && waiting.len() < crowd.args.outstanding {
            let event = crowd.event(topic, source, index)?;
            waiting.push_back((crowd.now_us(), client.queue(event).await?));
            index += 1;
        }
        let Some((queued_us, receipt)) = waiting.pop_front() else { break };
        // A duplicate is one that was sent again after a reconnect, and is stored once.
        receipt.await?;
        latencies.saturating_record((crowd.now_us() - queued_us).max(1));
        crowd.bar.inc(1);
    }
    Ok(latencies)
}
