//! Readers that come back: one that missed everything, and all at once that missed the last hundred. The time counts from
//! the first connect to the last event, handshakes included.

use std::time::Instant;

use anyhow::Result;
use futures_util::future::try_join_all;
use redeliver_client::{Client, Start, TopicName};

use super::crowd::Crowd;
use super::emit::emit_all;
use super::events::Checker;
use super::figures::Row;

pub(super) async fn measure(crowd: &Crowd<'_>) -> Result<Vec<Row>> {
    let args = crowd.args;
    let topic = crowd.topic("recovery")?;
    let emitter = crowd.client().await?;
    crowd.begin("recovery: fill", args.events);
    emit_all(crowd, &emitter, &topic, 0, args.events).await?;

    crowd.begin("recovery of one", args.events);
    let begun = Instant::now();
    let one = come_back(crowd, &topic, args.events, Start::Earliest).await?;
    let alone_s = begun.elapsed().as_secs_f64();
    drop(one);

    let missed = args.events.min(MISSED);
    let readers = args.readers as u64;
    crowd.begin("recovery at once", missed * readers);
    let begun = Instant::now();
    let coming: Vec<_> = (0..readers).map(|_| come_back(crowd, &topic, missed, Start::Last(missed))).collect();
    let all = try_join_all(coming).await?;
    let together_s = begun.elapsed().as_secs_f64();
    drop(all);
    let bytes = args.payload;
    Ok(vec![
        Row::new("recovery", format!("one reader, {} missed events of {bytes} B", args.events), alone_s, "s"),
        Row::new(
            "recovery",
            format!("{readers} readers at once, {missed} missed events of {bytes} B each"),
            together_s,
            "s",
        ),
    ])
}

/// Connects and takes the last so many events. Returns the client, whose end is not part of the time.
async fn come_back(crowd: &Crowd<'_>, topic: &TopicName, missed: u64, start: Start) -> Result<Client> {
    let client = crowd.client().await?;
    let mut subscription = client.subscribe(topic).start(start).window((65_536, 16 * 1024 * 1024)).auto_ack().await?;
    let mut checker = Checker::new(crowd.args.payload, 1, crowd.args.events - missed);
    for _ in 0..missed {
        checker.next(&mut subscription).await?;
        crowd.bar.inc(1);
    }
    Ok(client)
}

const MISSED: u64 = 100;
