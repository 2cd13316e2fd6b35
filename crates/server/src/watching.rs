//! Who is connected, and who watches which topic: the inboxes of the connections under one lock. Knows nothing of owners,
//! publishers or the log.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use redeliver_protocol::error::Close;
use redeliver_protocol::event::VolatileEmit;
use redeliver_protocol::name::TopicName;
use redeliver_protocol::seq::SubscriptionId;
use redeliver_protocol::server::watchers::Watchers;
use redeliver_protocol::server::{ConnectionId, Input};

use crate::inbox::Inbox;

/// One watch of a topic.
pub(crate) type Watch = (ConnectionId, SubscriptionId);

/// The connections' inboxes and what each watches.
#[derive(Debug, Default)]
pub(crate) struct Watching {
    members: Mutex<Members>,
    /// Held by who gives away an event that is not logged: one at a time, so that all see the same order. Taken before
    /// `members`.
    volatile: Mutex<()>,
}

#[derive(Debug, Default)]
struct Members {
    inboxes: BTreeMap<ConnectionId, Arc<Inbox>>,
    watchers: Watchers<Arc<Inbox>>,
    last: ConnectionId,
    /// Set once everybody is sent away: newcomers are too.
    ending: Option<Close>,
}

impl Watching {
    /// Takes a connection in. Its number is never used again.
    pub(crate) fn join(&self) -> (ConnectionId, Arc<Inbox>) {
        let mut members = self.members.lock();
        members.last = ConnectionId(members.last.0 + 1);
        let (connection, inbox) = (members.last, Arc::new(Inbox::default()));
        members.inboxes.insert(connection, Arc::clone(&inbox));
        if let Some(close) = &members.ending {
            inbox.push(Input::End(close.clone()));
        }
        (connection, inbox)
    }

    /// Forgets a connection and what it watches.
    pub(crate) fn leave(&self, connection: ConnectionId) {
        let mut members = self.members.lock();
        members.watchers.remove_connection(connection);
        members.inboxes.remove(&connection);
    }

    /// Wakes a subscription whenever this topic grows.
    pub(crate) fn watch(&self, connection: ConnectionId, id: SubscriptionId, topic: TopicName) {
        let mut members = self.members.lock();
        let Members { inboxes, watchers, .. } = &mut *members;
        if let Some(inbox) = inboxes.get(&connection) {
            watchers.watch(connection, id, topic, Arc::clone(inbox));
        }
    }

    /// Wakes the subscription no longer.
    pub(crate) fn unwatch(&self, connection: ConnectionId, id: SubscriptionId) {
        self.members.lock().watchers.unwatch(connection, id);
    }

    /// Wakes at most `most` of a topic's watchers behind `after`. Returns how many were woken, and behind whom to go on if
    /// there may be more.
    pub(crate) fn wake_some(&self, topic: &TopicName, after: Option<Watch>, most: usize) -> (usize, Option<Watch>) {
        let members = self.members.lock();
        let (mut woken, mut last) = (0, None);
        for (connection, id, inbox) in members.watchers.watchers_of(topic, after).take(most) {
            inbox.grew(id);
            woken += 1;
            last = Some((connection, id));
        }
        (woken, last.filter(|_| woken == most))
    }

    /// Puts an event that is not logged into the inbox of everybody who watches one of its topics.
    pub(crate) fn volatile(&self, event: &Arc<VolatileEmit>) {
        // Each inbox sees all its subscriptions of one event in a row, since no other such event comes between them.
        let _turn = self.volatile.lock();
        for topic in &event.event.topics {
            let mut after = None;
            loop {
                let watchers = self.some_watchers(topic, after);
                for (_, id, inbox) in &watchers {
                    inbox.push_volatile(*id, event);
                }
                match watchers.last() {
                    Some((connection, id, _)) if watchers.len() == VOLATILE_AT_ONCE => after = Some((*connection, *id)),
                    Some(_) | None => break,
                }
            }
        }
    }

    /// The next few of a topic's watchers, so that whoever comes, goes or subscribes waits for no more than these.
    fn some_watchers(
        &self,
        topic: &TopicName,
        after: Option<Watch>,
    ) -> Vec<(ConnectionId, SubscriptionId, Arc<Inbox>)> {
        let members = self.members.lock();
        let watchers = members.watchers.watchers_of(topic, after).take(VOLATILE_AT_ONCE);
        watchers.map(|(connection, id, inbox)| (connection, id, Arc::clone(inbox))).collect()
    }

    /// Puts an input into a connection's inbox. Returns false if there is no such connection.
    pub(crate) fn push(&self, connection: ConnectionId, input: Input) -> bool {
        let members = self.members.lock();
        let inbox = members.inboxes.get(&connection);
        if let Some(inbox) = inbox {
            inbox.push(input);
        }
        inbox.is_some()
    }

    /// Has every connection's rights asked again.
    pub(crate) fn review_all(&self) {
        self.members.lock().inboxes.values().for_each(|inbox| inbox.review());
    }

    /// What a connection watches.
    pub(crate) fn watched_by(&self, connection: ConnectionId) -> Vec<(SubscriptionId, TopicName)> {
        let members = self.members.lock();
        members.watchers.watched_by(connection).map(|(id, topic)| (id, topic.clone())).collect()
    }

    /// Sends everybody away, and whoever comes later.
    pub(crate) fn end_all(&self, mut close: impl FnMut() -> Close) {
        let mut members = self.members.lock();
        for inbox in members.inboxes.values() {
            inbox.push(Input::End(close()));
        }
        members.ending = Some(close());
    }
}

/// To so many watchers at once an event that is not logged is given.
const VOLATILE_AT_ONCE: usize = 256;
