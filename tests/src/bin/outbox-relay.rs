//! A relay that moves the rows of an outbox table to a server: many emits under way at once, numbered as the rows are.
//!
//! `outbox-relay URL DATABASE`, or `outbox-relay in:DATA DATABASE` with a server in the relay's own process. It says a line
//! for each receipt that it has noted. Never notes a row before those ahead of it.

use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use redeliver_client::{Client, EmitNumber, NewEvent, PendingReceipt};
use redeliver_server::{LogError, OpenError, Server};
use redeliver_tests::outbox::Outbox;
use redeliver_tests::waiting::PATIENCE;
use redeliver_tests::writer::program::say;

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let (server, database) = (args.next().context("no server")?, args.next().context("no database")?);
    let outbox = Outbox::open(Path::new(&database))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (publisher, settled) = (outbox.publisher()?, EmitNumber(outbox.settled()?));
        let client = if let Some(data) = server.strip_prefix("in:") {
            let server = open_when_free(Path::new(data)).await?;
            Client::in_process(&server).publisher_after(publisher, settled).connect().await?
        } else {
            let builder = Client::builder(&server).backoff(Duration::from_millis(5), Duration::from_millis(50));
            builder.publisher_after(publisher, settled).connect().await?
        };
        say("ready")?;
        relay(&client, &outbox, settled.0).await
    })
}

async fn relay(client: &Client, outbox: &Outbox, mut settled: u64) -> Result<()> {
    let mut sent = settled;
    let mut pending: VecDeque<PendingReceipt> = VecDeque::new();
    loop {
        for (number, row) in outbox.rows_after(sent, UNDER_WAY - pending.len())? {
            if number != sent + 1 {
                bail!("row {number} comes after row {sent}");
            }
            let event = NewEvent::to("orders", "ordered")?.payload(row);
            pending.push_back(client.queue(event).await?);
            sent = number;
        }
        let Some(first) = pending.pop_front() else {
            // A database has no wake-up call for another process: an outbox is polled.
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        first.await.with_context(|| format!("row {}", settled + 1))?;
        settled += 1;
        outbox.settle(settled)?;
        say(&format!("settled {settled}"))?;
    }
}

/// The process before this one may still have the directory.
async fn open_when_free(data: &Path) -> Result<Server> {
    let begun = Instant::now();
    loop {
        match Server::builder().data_dir(data).open().await {
            Err(OpenError::Log(LogError::InUse { .. })) if begun.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            opened => return Ok(opened?),
        }
    }
}

/// How many rows may be under way.
const UNDER_WAY: usize = 32;
