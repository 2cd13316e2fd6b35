//! What a session asks of the log that may have to wait for the disk: done off the runtime, in order, one batch at a time
//! per connection. Bounded by the session's own requests.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use redeliver_log::{Log, LogError};
use redeliver_protocol::history::{Cursor, Start};
use redeliver_protocol::name::{SubscriberName, TopicName};
use redeliver_protocol::seq::{Nth, Seq, SubscriptionId};
use redeliver_protocol::server::Input;

use crate::clock::wall_clock;
use crate::shared::Shared;
use crate::stats::add;

/// A question to the log.
#[derive(Debug)]
pub(crate) enum Errand {
    /// Where a subscription starts.
    Open { id: SubscriptionId, topic: TopicName, start: Start, subscriber: Option<SubscriberName> },
    /// The next events.
    Read { id: SubscriptionId, topic: TopicName, after: Seq, nth: Nth, events_max: u32, bytes_max: usize },
}

/// A connection's questions that are not answered yet.
pub(crate) struct Errands {
    shared: Arc<Shared>,
    waiting: VecDeque<Errand>,
    running: Option<Pin<Box<dyn Future<Output = Vec<Input>> + Send>>>,
}

impl Errands {
    pub(crate) fn new(shared: Arc<Shared>) -> Errands {
        Errands { shared, waiting: VecDeque::new(), running: None }
    }

    pub(crate) fn push(&mut self, errand: Errand) {
        self.waiting.push_back(errand);
    }

    /// The next answers. Nothing while nothing is asked.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Vec<Input>> {
        if self.running.is_none() && !self.waiting.is_empty() {
            let batch = self.waiting.drain(..self.waiting.len().min(BATCH_MAX)).collect();
            self.running = Some(Box::pin(run(Arc::clone(&self.shared), batch)));
        }
        let Some(running) = &mut self.running else { return Poll::Pending };
        let answers = ready!(running.as_mut().poll(cx));
        self.running = None;
        Poll::Ready(answers)
    }
}

async fn run(shared: Arc<Shared>, batch: Vec<Errand>) -> Vec<Input> {
    // The semaphore is never closed.
    let permit = Arc::clone(&shared.cold_reads).acquire_owned().await;
    let (worker, helping) = (Arc::clone(&shared), shared.help());
    let answers = tokio::task::spawn_blocking(move || {
        let answers = batch.into_iter().map(|errand| answer(&worker, errand)).collect::<Result<Vec<_>, _>>();
        // The connection may be gone: then this was the last to hold the log.
        drop(worker);
        drop((permit, helping));
        answers
    });
    match answers.await {
        Ok(Ok(answers)) => answers,
        Ok(Err(error)) => {
            shared.fail(&error.to_string());
            Vec::new()
        }
        Err(panic) => {
            shared.fail(&format!("a read of the log panicked: {panic}"));
            Vec::new()
        }
    }
}

fn answer(shared: &Shared, errand: Errand) -> Result<Input, LogError> {
    match errand {
        Errand::Open { id, topic, start, subscriber } => {
            let stored = match subscriber {
                Some(subscriber) => stored_cursor(shared, subscriber, &topic)?,
                None => None,
            };
            let opened = shared.log.open_subscription(&topic, &start, stored.as_ref(), wall_clock())?;
            Ok(Input::Opened { id, result: Ok(opened) })
        }
        Errand::Read { id, topic, after, nth, events_max, bytes_max } => {
            add(&shared.counters.cold_reads, 1);
            let outcome = shared.log.read(&topic, after, nth, events_max, bytes_max)?;
            Ok(Input::Read { id, outcome })
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

/// Questions answered in one go. A client that comes back with thousands of subscriptions must not keep a thread.
const BATCH_MAX: usize = 64;

impl std::fmt::Debug for Errands {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Errands").field("waiting", &self.waiting.len()).finish_non_exhaustive()
    }
}

/// Asks the log something that may have to wait for the disk, off the runtime. Nothing if the log has failed.
pub(crate) async fn ask<T: Send + 'static>(
    shared: &Arc<Shared>,
    question: impl FnOnce(&Log) -> Result<T, LogError> + Send + 'static,
) -> Option<T> {
    // The semaphore is never closed.
    let permit = Arc::clone(&shared.cold_reads).acquire_owned().await;
    let (worker, helping) = (Arc::clone(shared), shared.help());
    let answering = tokio::task::spawn_blocking(move || {
        let answer = question(&worker.log);
        drop(worker);
        drop((permit, helping));
        answer
    });
    match answering.await {
        Ok(Ok(answer)) => Some(answer),
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
