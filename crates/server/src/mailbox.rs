//! Where others leave word for a connection: merged wake-ups, and answers to what the session itself asked for. Never
//! holds an event, and is bounded by the session's own subscriptions and requests.

use std::collections::BTreeSet;

use parking_lot::Mutex;
use redeliver_protocol::seq::SubscriptionId;
use redeliver_protocol::server::Input;
use tokio::sync::Notify;

/// A connection's mailbox. Leaving word never blocks and never waits for the connection.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    notify: Notify,
    content: Mutex<Content>,
}

#[derive(Debug, Default)]
struct Content {
    /// Subscriptions whose topic grew: a set, so that a reader who is slow to look costs nothing.
    grew: BTreeSet<SubscriptionId>,
    /// Answers, in order. Bounded by what the session has under way.
    answers: Vec<Input>,
}

impl Mailbox {
    /// Says that a subscription's topic grew.
    pub(crate) fn grew(&self, id: SubscriptionId) {
        if self.content.lock().grew.insert(id) {
            self.notify.notify_one();
        }
    }

    /// Leaves an answer.
    pub(crate) fn answer(&self, input: Input) {
        self.content.lock().answers.push(input);
        self.notify.notify_one();
    }

    /// Waits until there may be something.
    ///
    /// Cancel safe: nothing is taken.
    pub(crate) async fn waiting(&self) {
        self.notify.notified().await;
    }

    /// Takes everything: answers first, in order, then the wake-ups.
    pub(crate) fn take(&self) -> impl Iterator<Item = Input> + use<> {
        let Content { grew, answers } = std::mem::take(&mut *self.content.lock());
        answers.into_iter().chain(grew.into_iter().map(|id| Input::Grew { id }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wake_ups_of_one_subscription_merge_and_answers_keep_their_order() {
        let mailbox = Mailbox::default();
        for _ in 0..1000 {
            mailbox.grew(SubscriptionId(2));
        }
        mailbox.answer(Input::Claimed { id: SubscriptionId(1) });
        mailbox.answer(Input::TakenOver { id: SubscriptionId(1) });
        let taken: Vec<_> = mailbox.take().collect();
        assert!(
            matches!(
                taken[..],
                [Input::Claimed { .. }, Input::TakenOver { .. }, Input::Grew { id: SubscriptionId(2) }]
            ),
            "{taken:?}"
        );
        assert_eq!(mailbox.take().count(), 0);
    }
}
