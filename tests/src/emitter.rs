//! An emitter on a thread of its own: many emits under way at once, through whatever happens to the server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use redeliver_client::Client;
use tokio::task::JoinSet;

use crate::chance::Chance;
use crate::emission::Origin;
use crate::ledger::Ledger;
use crate::waiting::join;

/// A running emitter.
#[derive(Debug)]
pub struct Emitter {
    publisher: u32,
    thread: JoinHandle<Result<()>>,
    stop: Arc<AtomicBool>,
}

impl Emitter {
    /// Starts one, which emits until it is told to stop, as fast as it gets receipts and readers can follow.
    #[must_use]
    pub fn start(url: String, publisher: u32, ledger: Arc<Ledger>) -> Emitter {
        let stop = Arc::new(AtomicBool::new(false));
        let is_stopping = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let emitted = runtime.block_on(emit(&url, publisher, &ledger, &is_stopping));
            if let Err(error) = &emitted {
                ledger.violation(format!("emitter {publisher}: {error:#}"));
            }
            emitted
        });
        Emitter { publisher, thread, stop }
    }

    /// Emits nothing more.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Waits until all that was emitted has its receipt.
    ///
    /// # Errors
    ///
    /// If an emit failed.
    pub fn finish(self) -> Result<()> {
        self.stop();
        join(self.thread, &format!("emitter {}", self.publisher))
    }
}

async fn emit(url: &str, publisher: u32, ledger: &Arc<Ledger>, stop: &AtomicBool) -> Result<()> {
    let client = Client::builder(url)
        .replay_as(Origin::publisher_id(publisher))
        .outbox(OUTBOX_EVENTS, OUTBOX_BYTES)
        .backoff(BACKOFF_FIRST, BACKOFF_MAX)
        .connect_lazy()?;
    let mut chance = Chance::new(u64::from(publisher));
    let mut receipts = JoinSet::new();
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..chance.between(1, BURST_MAX) {
            number += 1;
            let origin = Origin { publisher, number };
            ledger.invoke(origin);
            let pending = client.queue(ledger.load().event(origin)?).await.with_context(|| origin.to_string())?;
            let ledger = Arc::clone(ledger);
            receipts.spawn(async move {
                let receipt = pending.await.with_context(|| origin.to_string())?;
                ledger.acknowledge(origin, receipt.position, receipt.duplicate);
                anyhow::Ok(())
            });
        }
        while let Some(done) = receipts.try_join_next() {
            done??;
        }
        // The pace of the load, which waits for nothing in particular.
        tokio::time::sleep(Duration::from_millis(chance.below(10))).await;
        while ledger.lag() > ledger.load().lag_max && !stop.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    while let Some(done) = receipts.join_next().await {
        done??;
    }
    client.shutdown(Duration::from_secs(30)).await.context("ending")
}

/// Pauses between tries to connect: short ones, so that most of a test's time goes into its subject.
pub const BACKOFF_FIRST: Duration = Duration::from_millis(10);
/// See [`BACKOFF_FIRST`].
pub const BACKOFF_MAX: Duration = Duration::from_millis(200);

const OUTBOX_EVENTS: usize = 400;
const OUTBOX_BYTES: usize = 2 * 1024 * 1024;
const BURST_MAX: u64 = 60;
