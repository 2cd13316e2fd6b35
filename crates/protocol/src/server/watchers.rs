//! Who is to be woken when a topic has grown. A registry without IO.
//!
//! A wake is a hint: it may come too often, and losing one delays an event until the next heartbeat, never more.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::ConnectionId;
use crate::name::TopicName;
use crate::seq::SubscriptionId;

/// All watches of all connections of a server, each with a handle by which the shell wakes it.
#[derive(Clone, Debug)]
pub struct Watchers<H> {
    by_topic: BTreeMap<TopicName, BTreeMap<(ConnectionId, SubscriptionId), H>>,
    topics: BTreeMap<(ConnectionId, SubscriptionId), TopicName>,
}

impl<H> Watchers<H> {
    /// An empty registry.
    #[must_use]
    pub fn new() -> Watchers<H> {
        Watchers { by_topic: BTreeMap::new(), topics: BTreeMap::new() }
    }

    /// From now on a subscription is woken when this topic grows. It watches one topic: an earlier watch ends.
    pub fn watch(&mut self, connection: ConnectionId, subscription: SubscriptionId, topic: TopicName, handle: H) {
        self.unwatch(connection, subscription);
        self.topics.insert((connection, subscription), topic.clone());
        self.by_topic.entry(topic).or_default().insert((connection, subscription), handle);
    }

    /// A subscription is woken no longer.
    pub fn unwatch(&mut self, connection: ConnectionId, subscription: SubscriptionId) {
        if let Some(topic) = self.topics.remove(&(connection, subscription)) {
            self.remove(&topic, connection, subscription);
        }
    }

    /// A connection has ended: none of its subscriptions is woken any more.
    pub fn remove_connection(&mut self, connection: ConnectionId) {
        let ids: Vec<_> = self.watched_by(connection).map(|(subscription, _)| subscription).collect();
        ids.into_iter().for_each(|subscription| self.unwatch(connection, subscription));
    }

    /// What a connection watches.
    pub fn watched_by(&self, connection: ConnectionId) -> impl Iterator<Item = (SubscriptionId, &TopicName)> + '_ {
        let all = (connection, SubscriptionId(0))..=(connection, SubscriptionId(u32::MAX));
        self.topics.range(all).map(|((_, subscription), topic)| (*subscription, topic))
    }

    /// The subscriptions that watch a topic, by connection, behind `after` if that is given: who wakes many can stop
    /// and go on.
    pub fn watchers_of(
        &self,
        topic: &TopicName,
        after: Option<(ConnectionId, SubscriptionId)>,
    ) -> impl Iterator<Item = (ConnectionId, SubscriptionId, &H)> + '_ {
        let begin = after.map_or(Bound::Unbounded, Bound::Excluded);
        let watchers = self.by_topic.get(topic).map(|watchers| watchers.range((begin, Bound::Unbounded)));
        watchers.into_iter().flatten().map(|((connection, id), handle)| (*connection, *id, handle))
    }

    /// Whether nobody watches anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_topic.is_empty()
    }

    fn remove(&mut self, topic: &TopicName, connection: ConnectionId, subscription: SubscriptionId) {
        if let Some(watchers) = self.by_topic.get_mut(topic) {
            watchers.remove(&(connection, subscription));
            if watchers.is_empty() {
                self.by_topic.remove(topic);
            }
        }
    }
}

impl<H> Default for Watchers<H> {
    fn default() -> Watchers<H> {
        Watchers::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ConnectionId = ConnectionId(1);
    const B: ConnectionId = ConnectionId(2);

    fn topic(name: &str) -> TopicName {
        TopicName::new(name).unwrap()
    }

    fn watching(watchers: &Watchers<()>, name: &str) -> Vec<(u64, u32)> {
        watchers.watchers_of(&topic(name), None).map(|(connection, id, ())| (connection.0, id.0)).collect()
    }

    #[test]
    fn a_topic_wakes_those_who_watch_it_and_nobody_else() {
        let mut watchers = Watchers::new();
        watchers.watch(B, SubscriptionId(1), topic("orders"), ());
        watchers.watch(A, SubscriptionId(1), topic("orders"), ());
        watchers.watch(A, SubscriptionId(2), topic("invoices"), ());
        assert_eq!(watching(&watchers, "orders"), vec![(1, 1), (2, 1)]);
        assert_eq!(watching(&watchers, "invoices"), vec![(1, 2)]);
        assert_eq!(watching(&watchers, "nothing"), vec![]);
    }

    #[test]
    fn a_connection_that_ends_leaves_nothing_behind() {
        let mut watchers = Watchers::new();
        watchers.watch(A, SubscriptionId(1), topic("orders"), ());
        watchers.watch(A, SubscriptionId(2), topic("orders"), ());
        watchers.watch(B, SubscriptionId(1), topic("orders"), ());
        watchers.remove_connection(A);
        assert_eq!(watching(&watchers, "orders"), vec![(2, 1)]);
        watchers.unwatch(B, SubscriptionId(1));
        watchers.unwatch(B, SubscriptionId(1));
        assert!(watchers.is_empty());
    }

    #[test]
    fn a_subscription_watches_one_topic() {
        let mut watchers = Watchers::new();
        watchers.watch(A, SubscriptionId(1), topic("orders"), ());
        watchers.watch(A, SubscriptionId(1), topic("invoices"), ());
        assert_eq!(watching(&watchers, "orders"), vec![]);
        assert_eq!(watching(&watchers, "invoices"), vec![(1, 1)]);
    }

    #[test]
    fn who_wakes_many_can_stop_and_go_on_without_missing_one() {
        let mut watchers = Watchers::new();
        for connection in (1..=10).rev() {
            watchers.watch(ConnectionId(connection), SubscriptionId(1), topic("orders"), connection);
            watchers.watch(ConnectionId(connection), SubscriptionId(2), topic("orders"), connection);
        }
        let (mut after, mut woken) = (None, Vec::new());
        loop {
            let some: Vec<_> = watchers.watchers_of(&topic("orders"), after).take(3).collect();
            let Some((connection, id, _)) = some.last() else { break };
            after = Some((*connection, *id));
            woken.extend(some.iter().map(|(_, _, handle)| **handle));
        }
        assert_eq!(woken, (1..=10).flat_map(|connection| [connection, connection]).collect::<Vec<_>>());
    }
}
