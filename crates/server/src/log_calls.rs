//! A session's calls to the log that may have to wait for the disk: made off the runtime, in order, one batch at a time
//! per connection. Bounded by the session's own requests.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use redeliver_log::LogError;
use redeliver_protocol::history::{Cursor, Start};
use redeliver_protocol::name::{SubscriberName, TopicName};
use redeliver_protocol::seq::{Nth, Seq, SubscriptionId};
use redeliver_protocol::server::marks::Reader;
use redeliver_protocol::server::{Input, Reply};

use crate::clock::wall_clock;
use crate::shared::Shared;
use crate::stats::add;

/// A call to the log whose result goes to the session.
#[derive(Debug)]
pub(crate) enum LogCall {
    /// Where a subscription starts.
    Open { id: SubscriptionId, topic: TopicName, start: Start, subscriber: Option<SubscriberName>, reader: Reader },
    /// The next events.
    Read { id: SubscriptionId, topic: TopicName, after: Seq, nth: Nth, events_max: u32, bytes_max: usize },
}

/// A connection's calls that have no result yet.
pub(crate) struct LogCalls {
    shared: Arc<Shared>,
    waiting: VecDeque<LogCall>,
    running: Option<Pin<Box<dyn Future<Output = Vec<Input>> + Send>>>,
}

impl LogCalls {
    pub(crate) fn new(shared: Arc<Shared>) -> LogCalls {
        LogCalls { shared, waiting: VecDeque::new(), running: None }
    }

    pub(crate) fn push(&mut self, call: LogCall) {
        self.waiting.push_back(call);
    }

    /// Polls the next batch of results. Pending while there is no call.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Vec<Input>> {
        if self.running.is_none() && !self.waiting.is_empty() {
            let batch = self.waiting.drain(..self.waiting.len().min(BATCH_MAX)).collect();
            self.running = Some(Box::pin(run_batch(Arc::clone(&self.shared), batch)));
        }
        let Some(running) = &mut self.running else { return Poll::Pending };
        let inputs = ready!(running.as_mut().poll(cx));
        self.running = None;
        Poll::Ready(inputs)
    }
}

async fn run_batch(shared: Arc<Shared>, batch: Vec<LogCall>) -> Vec<Input> {
    let inputs = run(&shared, move |shared| batch.into_iter().map(|call| perform(shared, call)).collect());
    inputs.await.unwrap_or_default()
}

fn perform(shared: &Shared, call: LogCall) -> Result<Input, LogError> {
    match call {
        LogCall::Open { id, topic, start, subscriber, reader } => {
            let stored = match subscriber.clone() {
                Some(subscriber) => stored_cursor(shared, subscriber, &topic)?,
                None => None,
            };
            let mut opened = shared.log.open_subscription(&topic, &start, stored.as_ref(), wall_clock())?;
            if let Some(subscriber) = subscriber {
                shared.hub.mark_opened(&(subscriber, topic), reader, &mut opened);
            }
            Ok(Input::Reply(Reply::Opened { id, result: Ok(opened) }))
        }
        LogCall::Read { id, topic, after, nth, events_max, bytes_max } => {
            add(&shared.counters.cold_reads, 1);
            let outcome = shared.log.read(&topic, after, nth, events_max, bytes_max)?;
            Ok(Input::Reply(Reply::Read { id, outcome }))
        }
    }
}

/// A durable subscriber's cursor, also one that is still on its way into the log: the fence let it through, so a successor
/// must start from it.
fn stored_cursor(shared: &Shared, subscriber: SubscriberName, topic: &TopicName) -> Result<Option<Cursor>, LogError> {
    let key = (subscriber, topic.clone());
    if let Some(cursor) = shared.queue.cursor(&key) {
        return Ok(Some(cursor));
    }
    shared.log.cursor(&key.0, topic)
}

/// Calls made in one go. A client that comes back with thousands of subscriptions must not keep a thread.
const BATCH_MAX: usize = 64;

impl std::fmt::Debug for LogCalls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogCalls").field("waiting", &self.waiting.len()).finish_non_exhaustive()
    }
}

/// Runs a call that may have to wait for the disk off the runtime. Returns `None` if the log has failed.
///
/// Cancel safe: a call that has begun goes on, and its result is dropped.
pub(crate) async fn run<T: Send + 'static>(
    shared: &Arc<Shared>,
    call: impl FnOnce(&Shared) -> Result<T, LogError> + Send + 'static,
) -> Option<T> {
    // The semaphore is never closed.
    let permit = Arc::clone(&shared.cold_reads).acquire_owned().await;
    let (worker, helping) = (Arc::clone(shared), shared.help());
    let running = tokio::task::spawn_blocking(move || {
        let result = call(&worker);
        // Whoever asked may be gone: then this was the last to hold the log.
        drop(worker);
        drop((permit, helping));
        result
    });
    match running.await {
        Ok(Ok(result)) => Some(result),
        Ok(Err(error)) => {
            shared.fail(&error.to_string());
            None
        }
        Err(panic) => {
            shared.fail(&format!("a read of the log panicked: {panic}"));
            None
        }
    }
}
