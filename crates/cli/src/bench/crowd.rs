//! The clients of a bench: how they are connected, and the topics and events that all workloads share.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures_util::future::try_join_all;
use indicatif::ProgressBar;
use redeliver_client::{Client, ConnectError, EventName, NewEvent, PayloadKind, Start, TopicName};
use uuid::Uuid;

use super::events::Stamp;
use crate::args::BenchArgs;
use crate::exit::Problem;
use crate::remote;

/// What all workloads of a run share.
#[derive(Debug)]
pub(super) struct Crowd<'a> {
    pub(super) args: &'a BenchArgs,
    pub(super) bar: ProgressBar,
    run: Uuid,
    origin: Instant,
}

impl<'a> Crowd<'a> {
    pub(super) fn new(args: &'a BenchArgs, run: Uuid, bar: ProgressBar) -> Crowd<'a> {
        Crowd { args, bar, run, origin: Instant::now() }
    }

    /// So many clients, connected.
    pub(super) async fn clients(&self, count: usize) -> Result<Vec<Client>> {
        let mut clients = Vec::new();
        while clients.len() < count {
            // No more at once than a listener lets wait.
            let here = (count - clients.len()).min(CONNECTING_MAX);
            clients.extend(try_join_all((0..here).map(|_| self.client())).await?);
        }
        Ok(clients)
    }

    /// One client, connected.
    pub(super) async fn client(&self) -> Result<Client> {
        let builder = remote::builder(&self.args.remote)?.name("redeliver bench");
        let builder = builder.connect_within(CONNECT_WITHIN.min(self.args.time_limit / 2));
        builder.connect().await.map_err(|error| {
            if let ConnectError::Refused(close) = &error {
                remote::why_ended(Some(close)).into()
            } else {
                remote::why_not_made(error).into()
            }
        })
    }

    /// A workload's topic, which no other run has.
    pub(super) fn topic(&self, workload: &str) -> Result<TopicName> {
        let name = format!("{}/{}/{workload}", self.args.topic, self.run.simple());
        TopicName::new(&name).map_err(|error| Problem::new(format!("--topic: {error}")).into())
    }

    /// The event with this number of this emitter.
    pub(super) fn event(&self, topic: &TopicName, source: u64, index: u64) -> Result<NewEvent> {
        let stamp = Stamp { source, index, sent_us: self.now_us() };
        let payload = Bytes::from(stamp.payload(self.args.payload));
        Ok(NewEvent::new(
            topic.clone(),
            EventName::new("bench").context("the event's name")?,
            PayloadKind::Bytes,
            payload,
        ))
    }

    /// Holds the number of events in a topic against what was stored there: nothing came in twice.
    pub(super) async fn expect_stored(&self, client: &Client, topic: &TopicName, events: u64) -> Result<()> {
        let pending = client.subscribe(topic).start(Start::Earliest).await?.pending();
        ensure!(pending == events, "{topic} holds {pending} events instead of {events}");
        Ok(())
    }

    /// Microseconds since the run began.
    pub(super) fn now_us(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Begins to count something for whoever watches.
    pub(super) fn begin(&self, what: &'static str, count: u64) {
        self.bar.set_message(what);
        self.bar.set_length(count);
        self.bar.set_position(0);
    }
}

const CONNECT_WITHIN: Duration = Duration::from_secs(10);

const CONNECTING_MAX: usize = 64;
