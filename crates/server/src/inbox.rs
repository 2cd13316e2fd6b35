//! A connection's inbox: coalesced wake-ups and inputs from other tasks. Never holds an event that is in the log, and is
//! bounded by the session's own subscriptions and requests. Of events that are not logged it holds a few, and drops the
//! oldest first.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use redeliver_protocol::event::VolatileEmit;
use redeliver_protocol::seq::SubscriptionId;
use redeliver_protocol::server::{Input, Reply};

/// A connection's inbox. A push never blocks and never waits for the connection. One task at a time reads it.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The task that reads this inbox. It stays when something is taken, so that a task which is woken again and again
    /// registers once.
    reader: Option<Waker>,
    /// Whether the reader was woken for what lies here.
    is_notified: bool,
    /// Whether what the connection may do is to be asked again.
    reviews: bool,
    wakes: Wakes,
    /// In order. Bounded by what the session has under way.
    inputs: Vec<Input>,
    /// Events that are not logged, oldest first, with the subscriptions that follow them.
    volatile: VecDeque<(Arc<VolatileEmit>, Vec<SubscriptionId>)>,
}

/// Subscriptions whose topic grew: a set, so that a reader who is slow to look costs nothing. Most readers have one
/// subscription, which takes no allocation.
#[derive(Debug, Default)]
struct Wakes {
    first: Option<SubscriptionId>,
    more: BTreeSet<SubscriptionId>,
}

/// What was taken out of an inbox.
#[derive(Debug)]
#[must_use = "what was drained is in no inbox any more"]
pub(crate) struct Drained {
    /// Whether what the connection may do is to be asked again, before anything else.
    pub(crate) reviews: bool,
    inputs: Vec<Input>,
    wakes: Wakes,
    volatile: VecDeque<(Arc<VolatileEmit>, Vec<SubscriptionId>)>,
}

impl Inbox {
    /// Says that a subscription's topic grew.
    pub(crate) fn grew(&self, id: SubscriptionId) {
        self.put(|state| state.wakes.add(id));
    }

    /// Adds an input for the session.
    pub(crate) fn push(&self, input: Input) {
        self.put(|state| state.inputs.push(input));
    }

    /// Says that what the connection may do is to be asked again.
    pub(crate) fn review(&self) {
        self.put(|state| state.reviews = true);
    }

    /// Adds an event that is not logged for one of the connection's subscriptions. Those for its other ones must come
    /// right behind. If the reader is slow, the oldest is lost.
    pub(crate) fn push_volatile(&self, id: SubscriptionId, event: &Arc<VolatileEmit>) {
        self.put(|state| match state.volatile.back_mut() {
            Some((last, ids)) if Arc::ptr_eq(last, event) => ids.push(id),
            Some(_) | None => {
                if state.volatile.len() >= VOLATILE_MAX {
                    state.volatile.pop_front();
                }
                state.volatile.push_back((Arc::clone(event), vec![id]));
            }
        });
    }

    /// Takes everything, or has the task woken once there is something. The
    /// task is woken for all that comes later, also if it does not ask again before that.
    pub(crate) fn poll_take(&self, cx: &Context<'_>) -> Poll<Drained> {
        let mut state = self.state.lock();
        state.register(cx);
        if state.is_empty() { Poll::Pending } else { Poll::Ready(state.take()) }
    }

    /// Takes everything that is there now.
    pub(crate) fn take(&self) -> Drained {
        self.state.lock().take()
    }

    /// Waits until there is something.
    ///
    /// Cancel safe: nothing is taken.
    pub(crate) async fn waiting(&self) {
        std::future::poll_fn(|cx| {
            let mut state = self.state.lock();
            state.register(cx);
            if state.is_empty() { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
    }

    fn put(&self, add: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        add(&mut state);
        if state.is_notified {
            return;
        }
        // Under the lock: a runtime's task is only put into a queue by that, and a copy of its waker would cost as much.
        if let Some(reader) = &state.reader {
            reader.wake_by_ref();
            state.is_notified = true;
        }
    }
}

impl Drained {
    /// Calls `each` for one after the other: inputs first, in order, then the wake-ups, then what is not logged.
    pub(crate) fn for_each(self, mut each: impl FnMut(Input)) {
        // Most often there is one wake-up and nothing else.
        let Drained { reviews: _, inputs, wakes: Wakes { first, more }, volatile } = self;
        if !inputs.is_empty() {
            inputs.into_iter().for_each(&mut each);
        }
        if let Some(id) = first {
            each(Input::Reply(Reply::Grew { id }));
        }
        if !more.is_empty() {
            more.into_iter().for_each(|id| each(Input::Reply(Reply::Grew { id })));
        }
        if !volatile.is_empty() {
            volatile.into_iter().for_each(|(event, ids)| each(Input::Reply(Reply::Volatile { ids, event })));
        }
    }
}

impl State {
    /// Remembers the task that is to be woken for what comes.
    fn register(&mut self, cx: &Context<'_>) {
        if self.reader.as_ref().is_none_or(|reader| !reader.will_wake(cx.waker())) {
            self.reader = Some(cx.waker().clone());
        }
        self.is_notified = false;
    }

    fn is_empty(&self) -> bool {
        self.inputs.is_empty() && self.wakes.first.is_none() && self.volatile.is_empty() && !self.reviews
    }

    fn take(&mut self) -> Drained {
        self.is_notified = false;
        let State { reviews, inputs, wakes, volatile, .. } = self;
        Drained {
            reviews: std::mem::take(reviews),
            inputs: std::mem::take(inputs),
            wakes: std::mem::take(wakes),
            volatile: std::mem::take(volatile),
        }
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
pub(crate) const VOLATILE_MAX: usize = 128;

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

    fn taken(inbox: &Inbox, waker: &Waker) -> Vec<Input> {
        match inbox.poll_take(&Context::from_waker(waker)) {
            Poll::Ready(drained) => {
                let mut inputs = Vec::new();
                drained.for_each(|input| inputs.push(input));
                inputs
            }
            Poll::Pending => Vec::new(),
        }
    }

    #[test]
    fn wake_ups_of_one_subscription_merge_and_inputs_keep_their_order() {
        let inbox = Inbox::default();
        for _ in 0..1000 {
            inbox.grew(SubscriptionId(2));
            inbox.grew(SubscriptionId(7));
        }
        inbox.push(Input::Reply(Reply::Claimed { id: SubscriptionId(1) }));
        inbox.push(Input::Reply(Reply::TakenOver { id: SubscriptionId(1) }));
        let inputs = taken(&inbox, Waker::noop());
        assert!(
            matches!(
                inputs[..],
                [
                    Input::Reply(Reply::Claimed { .. }),
                    Input::Reply(Reply::TakenOver { .. }),
                    Input::Reply(Reply::Grew { id: SubscriptionId(2) }),
                    Input::Reply(Reply::Grew { id: SubscriptionId(7) })
                ]
            ),
            "{inputs:?}"
        );
        assert!(taken(&inbox, Waker::noop()).is_empty());
    }

    #[test]
    fn the_reader_is_woken_once_for_all_that_it_has_not_taken_and_again_after_that() {
        let (inbox, counted) = (Inbox::default(), Arc::<Counted>::default());
        let waker = Waker::from(Arc::clone(&counted));
        let woken = || counted.0.load(Ordering::Relaxed);
        inbox.grew(SubscriptionId(1));
        assert_eq!(taken(&inbox, &waker).len(), 1);
        for round in 1..=3 {
            for id in 0..10 {
                inbox.grew(SubscriptionId(id));
            }
            inbox.push(Input::Drained);
            assert_eq!(woken(), round, "the reader did not ask again after it took something");
            assert_eq!(taken(&inbox, &waker).len(), 11);
        }
    }

    #[test]
    fn another_task_that_takes_over_is_the_one_that_is_woken() {
        let inbox = Inbox::default();
        let (one, other) = (Arc::<Counted>::default(), Arc::<Counted>::default());
        taken(&inbox, &Waker::from(Arc::clone(&one)));
        taken(&inbox, &Waker::from(Arc::clone(&other)));
        inbox.grew(SubscriptionId(1));
        assert_eq!((one.0.load(Ordering::Relaxed), other.0.load(Ordering::Relaxed)), (0, 1));
    }
}
