//! The task that wakes the readers of topics that grew. The writer only names the topics: a wake from a thread outside the
//! runtime costs a lock and often a system call each, one from a task of the runtime costs a push to a run queue. Never
//! loses the last growth of a topic: while there is no such task, the writer wakes the readers itself.

use std::collections::HashSet;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use redeliver_protocol::name::TopicName;

use crate::watching::Watching;

/// The topics that grew and whose watchers are not woken yet.
#[derive(Debug, Default)]
pub(crate) struct PendingWakes {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// A set: however slow the task is, no more than there are topics.
    grown: HashSet<TopicName>,
    /// The wake task, while it waits.
    task: Option<Waker>,
    /// Whether there is a wake task, at work or about to begin.
    has_task: bool,
    is_over: bool,
}

impl PendingWakes {
    /// Hands topics that grew to the wake task. Returns them, with all that still waited, if there is no task.
    pub(crate) fn add(&self, topics: Vec<TopicName>) -> Vec<TopicName> {
        if topics.is_empty() {
            return topics;
        }
        let mut state = self.state.lock();
        state.grown.extend(topics);
        if !state.has_task {
            return state.grown.drain().collect();
        }
        let task = state.task.take();
        drop(state);
        if let Some(task) = task {
            task.wake();
        }
        Vec::new()
    }

    /// Ends the wake task: nobody is to be woken any more.
    pub(crate) fn end(&self) {
        let mut state = self.state.lock();
        state.is_over = true;
        let task = state.task.take();
        drop(state);
        if let Some(task) = task {
            task.wake();
        }
    }

    fn poll_take(&self, cx: &Context<'_>) -> Poll<Option<HashSet<TopicName>>> {
        let mut state = self.state.lock();
        if state.is_over {
            return Poll::Ready(None);
        }
        if state.grown.is_empty() {
            state.task = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Some(std::mem::take(&mut state.grown)))
    }
}

/// Starts the wake task unless there is one. Does nothing outside a runtime.
pub(crate) fn start_if_missing(pending: &Arc<PendingWakes>, watching: &Arc<Watching>) {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    let mut state = pending.state.lock();
    if state.has_task {
        return;
    }
    state.has_task = true;
    drop(state);
    // Made outside the task: also a task that is dropped before it runs must drop its guard.
    let guard = Guard { pending: Arc::clone(pending) };
    runtime.spawn(run(guard, Arc::clone(watching)));
}

/// Held by the wake task. Dropping it, whatever the reason (a runtime that ends drops its tasks), tells the writer that
/// there is no task any more.
struct Guard {
    pending: Arc<PendingWakes>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut state = self.pending.state.lock();
        state.has_task = false;
        state.task = None;
    }
}

async fn run(guard: Guard, watching: Arc<Watching>) {
    let mut woken = 0;
    while let Some(topics) = std::future::poll_fn(|cx| guard.pending.poll_take(cx)).await {
        for topic in topics {
            let mut after = None;
            loop {
                let (some, last) = watching.wake_some(&topic, after, WAKES_AT_ONCE - woken);
                woken += some;
                if woken == WAKES_AT_ONCE {
                    woken = 0;
                    // Those that were woken write now, before the run queue overflows.
                    tokio::task::yield_now().await;
                }
                after = last;
                if after.is_none() {
                    break;
                }
            }
        }
    }
}

/// So many watchers are woken before they get their turn. A worker's run queue has room for 256.
const WAKES_AT_ONCE: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn topics(names: &[&str]) -> Vec<TopicName> {
        names.iter().map(|name| TopicName::new(name).unwrap()).collect()
    }

    #[test]
    fn without_a_wake_task_the_writer_gets_its_topics_back() {
        let pending = PendingWakes::default();
        assert_eq!(pending.add(topics(&["a"])), topics(&["a"]));
    }

    #[test]
    fn what_a_wake_task_leaves_undone_comes_back_with_the_next_growth() {
        let pending = Arc::new(PendingWakes::default());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async { start_if_missing(&pending, &Arc::default()) });
        assert_eq!(pending.add(topics(&["a"])), topics(&[]));
        drop(runtime);
        let mut left = pending.add(topics(&["b"]));
        left.sort();
        assert_eq!(left, topics(&["a", "b"]));
    }

    #[test]
    fn topics_merge_until_the_wake_task_takes_them() {
        let pending = PendingWakes::default();
        pending.state.lock().has_task = true;
        for _ in 0..100 {
            assert!(pending.add(topics(&["a", "b"])).is_empty());
        }
        let cx = Context::from_waker(Waker::noop());
        let Poll::Ready(Some(taken)) = pending.poll_take(&cx) else { panic!("nothing was added") };
        assert_eq!(taken.len(), 2);
        assert!(pending.poll_take(&cx).is_pending());
        pending.end();
        assert!(matches!(pending.poll_take(&cx), Poll::Ready(None)));
    }
}
