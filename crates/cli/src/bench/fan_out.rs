//! Readers of one topic, each with a connection of its own, and one emitter as fast as it may.

use std::time::Instant;

use anyhow::{Context, Result};
use futures_util::future::try_join_all;
use hdrhistogram::Histogram;
use redeliver_client::Subscription;

use super::crowd::Crowd;
use super::emit::emit_all;
use super::events::Checker;
use super::figures::{self, Row};

pub(super) async fn measure(crowd: &Crowd<'_>) -> Result<Vec<Row>> {
    let args = crowd.args;
    let topic = crowd.topic("fan-out")?;
    let events = (args.events / args.readers as u64).max(EVENTS_MIN).min(args.events);
    crowd.begin("fan-out: connect", 0);
    let clients = crowd.clients(args.readers).await?;
    let subscribing = clients.iter().map(|client| client.subscribe(&topic).auto_ack().into_future());
    let subscriptions = try_join_all(subscribing).await?;
    let emitter = crowd.client().await?;
    crowd.begin("fan-out", events * (args.readers as u64 + 1));
    let begun = Instant::now();
    let reading: Vec<_> = subscriptions.into_iter().map(|subscription| read(crowd, subscription, events)).collect();
    let (_, latencies) = tokio::try_join!(emit_all(crowd, &emitter, &topic, 0, events), try_join_all(reading))?;
    let seconds = begun.elapsed().as_secs_f64();
    let mut all = figures::latencies()?;
    for latencies in &latencies {
        all.add(latencies).context("latencies of one kind")?;
    }
    crowd.expect_stored(&emitter, &topic, events).await?;
    let deliveries = events * args.readers as u64;
    let parameters =
        format!("{} readers, {events} events of {} B, {} outstanding", args.readers, args.payload, args.outstanding);
    Ok(vec![Row::new("fan-out", parameters, deliveries as f64 / seconds, "deliveries/s").latency(&all)])
}

/// From sent to handed over, in microseconds.
async fn read(crowd: &Crowd<'_>, mut subscription: Subscription, events: u64) -> Result<Histogram<u64>> {
    let mut latencies = figures::latencies()?;
    let mut checker = Checker::new(crowd.args.payload, 1, 0);
    for _ in 0..events {
        let stamp = checker.next(&mut subscription).await?;
        latencies.saturating_record(crowd.now_us().saturating_sub(stamp.sent_us).max(1));
        crowd.bar.inc(1);
    }
    Ok(latencies)
}

/// Of one topic: fewer say nothing.
const EVENTS_MIN: u64 = 100;
