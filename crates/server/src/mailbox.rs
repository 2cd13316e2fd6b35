//! Where others leave word for a connection: merged wake-ups, and answers to what the session itself asked for. Never
//! holds an event that is in the log, and is bounded by the session's own subscriptions and requests. Of events that are not
//! logged it holds a few, and lets the oldest go first.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use redeliver_protocol::event::VolatileEvent;
use redeliver_protocol::seq::SubscriptionId;
use redeliver_protocol::server::Input;

/// A connection's mailbox. Leaving word never blocks and never waits for the connection. One task at a time waits for it.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    content: Mutex<Content>,
}

#[derive(Debug, Default)]
struct Content {
    /// The task that looks into this mailbox. It stays when something is taken, so that a task which is woken again and
    /// again registers once.
    reader: Option<Waker>,
    /// Whether the reader was woken for what lies here.
    is_rung: bool,
    wakes: Wakes,
    /// Answers, in order. Bounded by what the session has under way.
    answers: Vec<Input>,
    /// Events that are not logged, oldest first, with those who follow them.
    volatile: VecDeque<(Arc<VolatileEvent>, Vec<SubscriptionId>)>,
}

/// Subscriptions whose topic grew: a set, so that a reader who is slow to look costs nothing. Most readers have one
/// subscription, which takes no allocation.
#[derive(Debug, Default)]
struct Wakes {
    first: Option<SubscriptionId>,
    more: BTreeSet<SubscriptionId>,
}

/// What was taken out of a mailbox.
#[derive(Debug)]
#[must_use = "it is in no mailbox any more"]
pub(crate) struct Letters {
    answers: Vec<Input>,
    wakes: Wakes,
    volatile: VecDeque<(Arc<VolatileEvent>, Vec<SubscriptionId>)>,
}

impl Mailbox {
    /// Says that a subscription's topic grew.
    pub(crate) fn grew(&self, id: SubscriptionId) {
        self.leave(|content| content.wakes.add(id));
    }

    /// Leaves an answer.
    pub(crate) fn answer(&self, input: Input) {
        self.leave(|content| content.answers.push(input));
    }

    /// Leaves an event that is not logged for one of the connection's subscriptions. Those for its other ones come right
    /// behind. If the reader is slow, the oldest is lost.
    pub(crate) fn volatile(&self, id: SubscriptionId, event: &Arc<VolatileEvent>) {
        self.leave(|content| match content.volatile.back_mut() {
            Some((last, ids)) if Arc::ptr_eq(last, event) => ids.push(id),
            Some(_) | None => {
                if content.volatile.len() >= VOLATILE_MAX {
                    content.volatile.pop_front();
                }
                content.volatile.push_back((Arc::clone(event), vec![id]));
            }
        });
    }

    /// Takes everything, answers first, in order, then the wake-ups; or has the task woken once there is something. The
    /// task is woken for all that comes later, also if it does not ask again before that.
    pub(crate) fn poll_take(&self, cx: &Context<'_>) -> Poll<Letters> {
        let mut content = self.content.lock();
        content.register(cx);
        if content.is_empty() { Poll::Pending } else { Poll::Ready(content.take()) }
    }

    /// Takes everything that is there now.
    pub(crate) fn take(&self) -> Letters {
        self.content.lock().take()
    }

    /// Waits until there is something.
    ///
    /// Cancel safe: nothing is taken.
    pub(crate) async fn waiting(&self) {
        std::future::poll_fn(|cx| {
            let mut content = self.content.lock();
            content.register(cx);
            if content.is_empty() { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
    }

    fn leave(&self, word: impl FnOnce(&mut Content)) {
        let mut content = self.content.lock();
        word(&mut content);
        if content.is_rung {
            return;
        }
        // Under the lock: a runtime's task is only put into a queue by that, and a copy of its waker would cost as much.
        if let Some(reader) = &content.reader {
            reader.wake_by_ref();
            content.is_rung = true;
        }
    }
}

impl Letters {
    /// Gives them one by one: answers first, in order, then the wake-ups.
    pub(crate) fn open(self, mut each: impl FnMut(Input)) {
        // Most often there is one wake-up and nothing else.
        let Letters { answers, wakes: Wakes { first, more }, volatile } = self;
        if !answers.is_empty() {
            answers.into_iter().for_each(&mut each);
        }
        if let Some(id) = first {
            each(Input::Grew { id });
        }
        if !more.is_empty() {
            more.into_iter().for_each(|id| each(Input::Grew { id }));
        }
        if !volatile.is_empty() {
            volatile.into_iter().for_each(|(event, ids)| each(Input::Volatile { ids, event }));
        }
    }
}

impl Content {
    /// Remembers the task that is to be woken for what comes.
    fn register(&mut self, cx: &Context<'_>) {
        if self.reader.as_ref().is_none_or(|reader| !reader.will_wake(cx.waker())) {
            self.reader = Some(cx.waker().clone());
        }
        self.is_rung = false;
    }

    fn is_empty(&self) -> bool {
        self.answers.is_empty() && self.wakes.first.is_none() && self.volatile.is_empty()
    }

    fn take(&mut self) -> Letters {
        self.is_rung = false;
        let Content { answers, wakes, volatile, .. } = self;
        Letters { answers: std::mem::take(answers), wakes: std::mem::take(wakes), volatile: std::mem::take(volatile) }
    }
}

impl Wakes {
    fn add(&mut self, id: SubscriptionId) {
        match self.first {
            None => self.first = Some(id),
            Some(first) if first == id => {}
            Some(_) => drop(self.more.insert(id)),
        }
    }
}

/// Events that are not logged which may wait for a slow reader. They are shared with all other readers.
const VOLATILE_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Counted(AtomicUsize);

    impl Wake for Counted {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn taken(mailbox: &Mailbox, waker: &Waker) -> Vec<Input> {
        match mailbox.poll_take(&Context::from_waker(waker)) {
            Poll::Ready(letters) => {
                let mut inputs = Vec::new();
                letters.open(|input| inputs.push(input));
                inputs
            }
            Poll::Pending => Vec::new(),
        }
    }

    #[test]
    fn wake_ups_of_one_subscription_merge_and_answers_keep_their_order() {
        let mailbox = Mailbox::default();
        for _ in 0..1000 {
            mailbox.grew(SubscriptionId(2));
            mailbox.grew(SubscriptionId(7));
        }
        mailbox.answer(Input::Claimed { id: SubscriptionId(1) });
        mailbox.answer(Input::TakenOver { id: SubscriptionId(1) });
        let inputs = taken(&mailbox, Waker::noop());
        assert!(
            matches!(
                inputs[..],
                [
                    Input::Claimed { .. },
                    Input::TakenOver { .. },
                    Input::Grew { id: SubscriptionId(2) },
                    Input::Grew { id: SubscriptionId(7) }
                ]
            ),
            "{inputs:?}"
        );
        assert!(taken(&mailbox, Waker::noop()).is_empty());
    }

    #[test]
    fn the_reader_is_woken_once_for_all_that_it_has_not_taken_and_again_after_that() {
        let (mailbox, counted) = (Mailbox::default(), Arc::<Counted>::default());
        let waker = Waker::from(Arc::clone(&counted));
        let woken = || counted.0.load(Ordering::Relaxed);
        mailbox.grew(SubscriptionId(1));
        assert_eq!(taken(&mailbox, &waker).len(), 1);
        for round in 1..=3 {
            for id in 0..10 {
                mailbox.grew(SubscriptionId(id));
            }
            mailbox.answer(Input::Drained);
            assert_eq!(woken(), round, "the reader did not ask again after it took something");
            assert_eq!(taken(&mailbox, &waker).len(), 11);
        }
    }

    #[test]
    fn another_task_that_takes_over_is_the_one_that_is_woken() {
        let mailbox = Mailbox::default();
        let (one, other) = (Arc::<Counted>::default(), Arc::<Counted>::default());
        taken(&mailbox, &Waker::from(Arc::clone(&one)));
        taken(&mailbox, &Waker::from(Arc::clone(&other)));
        mailbox.grew(SubscriptionId(1));
        assert_eq!((one.0.load(Ordering::Relaxed), other.0.load(Ordering::Relaxed)), (0, 1));
    }
}
