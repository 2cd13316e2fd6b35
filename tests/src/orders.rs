//! A shop that emits orders, each with a number of its own as its text, through whatever happens to the server. Knows which
//! were acknowledged; never emits one twice.

use std::time::Duration;

use anyhow::{Context, Result};
use redeliver_client::{Client, NewEvent};
use tokio::task::JoinSet;

use crate::emitter::{BACKOFF_FIRST, BACKOFF_MAX};
use crate::waiting::within;

/// An emitter of orders.
#[derive(Debug)]
pub struct Orders {
    url: String,
    /// The topics of the orders: each order goes to the first, and sometimes to others, unless there is only one.
    topics: Vec<String>,
    client: Option<Client>,
    receipts: JoinSet<Result<()>>,
    emitted: u64,
}

impl Orders {
    /// Makes one.
    #[must_use]
    pub fn new(url: String, topics: &[&str]) -> Orders {
        let topics = topics.iter().map(|topic| (*topic).to_owned()).collect();
        Orders { url, topics, client: None, receipts: JoinSet::new(), emitted: 0 }
    }

    /// The number of the last order.
    #[must_use]
    pub fn emitted(&self) -> u64 {
        self.emitted
    }

    /// Emits so many orders, and does not wait for their receipts.
    ///
    /// # Errors
    ///
    /// If one was refused, or the outbox has no room for very long.
    pub async fn emit(&mut self, count: u64) -> Result<()> {
        for _ in 0..count {
            self.emitted += 1;
            let number = self.emitted;
            let event = self.order(number)?;
            let client = match &self.client {
                Some(client) => client,
                None => {
                    let builder = Client::builder(&self.url).backoff(BACKOFF_FIRST, BACKOFF_MAX);
                    self.client.insert(builder.connect_lazy()?)
                }
            };
            let pending = within(client.queue(event)).await??;
            self.receipts.spawn(async move {
                pending.await.with_context(|| format!("order {number}"))?;
                Ok(())
            });
        }
        while let Some(done) = self.receipts.try_join_next() {
            done??;
        }
        Ok(())
    }

    /// Waits until all orders are acknowledged, and ends the connection. The next order begins another one, under another
    /// publisher.
    ///
    /// # Errors
    ///
    /// If one was refused, or is not acknowledged for very long.
    pub async fn settle(&mut self) -> Result<()> {
        while let Some(done) = within(self.receipts.join_next()).await? {
            done??;
        }
        match self.client.take() {
            Some(client) => Ok(client.shutdown(Duration::from_secs(30)).await?),
            None => Ok(()),
        }
    }

    fn order(&self, number: u64) -> Result<NewEvent> {
        let count = u64::try_from(self.topics.len())?.max(1);
        // All topics in turn, and by every third order a second one.
        let first = usize::try_from(number % count)?;
        let mut event = NewEvent::to(&self.topics[first], "ordered")?.payload(number.to_string());
        if count > 1 && number.is_multiple_of(3) {
            event = event.also_to(&self.topics[(first + 1) % self.topics.len()])?;
        }
        Ok(event)
    }
}
