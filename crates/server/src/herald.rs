//! How the writer's news reaches the readers: it names the topics that grew, and one task of the runtime wakes who watches
//! them. A wake from a thread outside the runtime costs a lock and often a system call each; the herald's cost a push to
//! a run queue. Never loses the last growth of a topic: without a herald the writer wakes by itself.

use std::collections::HashSet;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use redeliver_protocol::name::TopicName;

use crate::hub::Hub;

/// The topics that grew and whose watchers are not woken yet.
#[derive(Debug, Default)]
pub(crate) struct News {
    content: Mutex<Content>,
}

#[derive(Debug, Default)]
struct Content {
    /// A set: however slow the herald is, no more than there are topics.
    grown: HashSet<TopicName>,
    herald: Option<Waker>,
    /// Whether there is a herald, at work or about to begin.
    is_attended: bool,
    is_over: bool,
}

impl News {
    /// Takes topics that grew to the herald. Gives them back, with all that still waited, if there is none.
    pub(crate) fn tell(&self, topics: Vec<TopicName>) -> Vec<TopicName> {
        if topics.is_empty() {
            return topics;
        }
        let mut content = self.content.lock();
        content.grown.extend(topics);
        if !content.is_attended {
            return content.grown.drain().collect();
        }
        let herald = content.herald.take();
        drop(content);
        if let Some(herald) = herald {
            herald.wake();
        }
        Vec::new()
    }

    /// Nobody is to be woken any more: the herald ends.
    pub(crate) fn end(&self) {
        let mut content = self.content.lock();
        content.is_over = true;
        let herald = content.herald.take();
        drop(content);
        if let Some(herald) = herald {
            herald.wake();
        }
    }

    fn poll_take(&self, cx: &Context<'_>) -> Poll<Option<HashSet<TopicName>>> {
        let mut content = self.content.lock();
        if content.is_over {
            return Poll::Ready(None);
        }
        if content.grown.is_empty() {
            content.herald = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Some(std::mem::take(&mut content.grown)))
    }
}

/// Sees to it that there is a herald, if this is called within a runtime.
pub(crate) fn attend(news: &Arc<News>, hub: &Weak<Hub>) {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    let mut content = news.content.lock();
    if content.is_attended {
        return;
    }
    content.is_attended = true;
    drop(content);
    // Made outside the task: also a task that is dropped before it runs has left its post.
    let post = Post { news: Arc::clone(news) };
    runtime.spawn(serve(post, Weak::clone(hub)));
}

/// A herald's place. When it is given up, whatever the reason (a runtime that ends drops its tasks), the writer knows.
struct Post {
    news: Arc<News>,
}

impl Drop for Post {
    fn drop(&mut self) {
        let mut content = self.news.content.lock();
        content.is_attended = false;
        content.herald = None;
    }
}

async fn serve(post: Post, hub: Weak<Hub>) {
    let mut woken = 0;
    while let Some(topics) = std::future::poll_fn(|cx| post.news.poll_take(cx)).await {
        for topic in topics {
            let mut after = None;
            loop {
                // Not held across an await: it must be able to end.
                let Some(hub) = hub.upgrade() else { return };
                let (some, last) = hub.wake_some(&topic, after, WAKES_AT_ONCE - woken);
                drop(hub);
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
    fn without_a_herald_the_writer_gets_its_topics_back() {
        let news = News::default();
        assert_eq!(news.tell(topics(&["a"])), topics(&["a"]));
    }

    #[test]
    fn what_a_herald_leaves_undone_comes_back_with_the_next_growth() {
        let news = Arc::new(News::default());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async { attend(&news, &Weak::new()) });
        assert_eq!(news.tell(topics(&["a"])), topics(&[]));
        drop(runtime);
        let mut left = news.tell(topics(&["b"]));
        left.sort();
        assert_eq!(left, topics(&["a", "b"]));
    }

    #[test]
    fn topics_merge_until_the_herald_takes_them() {
        let news = News::default();
        news.content.lock().is_attended = true;
        for _ in 0..100 {
            assert!(news.tell(topics(&["a", "b"])).is_empty());
        }
        let cx = Context::from_waker(Waker::noop());
        let Poll::Ready(Some(taken)) = news.poll_take(&cx) else { panic!("nothing was told") };
        assert_eq!(taken.len(), 2);
        assert!(news.poll_take(&cx).is_pending());
        news.end();
        assert!(matches!(news.poll_take(&cx), Poll::Ready(None)));
    }
}
