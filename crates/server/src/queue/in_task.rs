//! The queue of a writer that is a task of the runtime instead of a thread: never blocks, and waits by tokio's clock.

use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::{Queue, Work};

impl Queue {
    /// A queue whose writer is a task and waits with [`Queue::next_in_task`].
    pub(crate) fn for_task(bytes_max: usize) -> Queue {
        Queue { task: Some(Notify::new()), ..Queue::new(bytes_max) }
    }

    /// Whether the writer is a task.
    pub(crate) fn is_for_task(&self) -> bool {
        self.task.is_some()
    }

    /// The wait of a writer that is a task, at most `patience` by tokio's clock, which tests may pause. No commit waits for
    /// others to join, since the clocks of the two would differ.
    ///
    /// Cancel safe: nothing is taken before it is returned.
    pub(crate) async fn next_in_task(&self, patience: Duration) -> Work {
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            {
                let mut content = self.content.lock();
                let due = content.cursors_due.is_some_and(|due| content.closing || due <= Instant::now());
                if !content.appends.is_empty() || !content.states.is_empty() || due {
                    return content.take_commit();
                }
                if content.closing {
                    return Work::Closed;
                }
            }
            let woken = async {
                match &self.task {
                    Some(task) => task.notified().await,
                    None => std::future::pending().await,
                }
            };
            if tokio::time::timeout_at(deadline, woken).await.is_err() {
                return Work::Idle;
            }
        }
    }

    pub(super) fn wake_writer(&self) {
        match &self.task {
            Some(task) => task.notify_one(),
            None => {
                self.work.notify_one();
            }
        }
    }
}
