//! What a session remembers of its subscriptions' ids and topics: which ids may be used, who has a durable topic, which
//! topics are followed at all.

use std::collections::{BTreeMap, BTreeSet};

use crate::name::TopicName;
use crate::seq::SubscriptionId;

/// The ids and topics of a session's subscriptions.
#[derive(Clone, Debug, Default)]
pub(super) struct Registry {
    /// Ids of ended subscriptions for which the shell's answer may still be under way: they cannot be used again, or the
    /// answer would be taken for another's.
    spent: BTreeSet<SubscriptionId>,
    highest: Option<SubscriptionId>,
    /// How many subscriptions follow each topic.
    topics: BTreeMap<TopicName, usize>,
    /// The durable topics and which subscription has them (or the next one, if that is ending).
    durable_topics: BTreeMap<TopicName, SubscriptionId>,
}

impl Registry {
    /// Whether the shell's answer for an ended subscription of this id may still come.
    pub(super) fn is_spent(&self, id: SubscriptionId) -> bool {
        self.spent.contains(&id)
    }

    /// How many ids cannot be used because of that.
    pub(super) fn spent(&self) -> usize {
        self.spent.len()
    }

    /// The shell's answer for this id is still under way.
    pub(super) fn spend(&mut self, id: SubscriptionId) {
        self.spent.insert(id);
    }

    /// The answer has come.
    pub(super) fn answered(&mut self, id: SubscriptionId) {
        self.spent.remove(&id);
    }

    /// An id was used.
    pub(super) fn used(&mut self, id: SubscriptionId) {
        self.highest = self.highest.max(Some(id));
    }

    /// Whether an id may have been used before. Ids are not remembered one by one.
    pub(super) fn may_be_known(&self, id: SubscriptionId) -> bool {
        Some(id) <= self.highest
    }

    /// A subscription follows a topic.
    pub(super) fn follow(&mut self, topic: &TopicName) {
        *self.topics.entry(topic.clone()).or_default() += 1;
    }

    /// One follows it no longer.
    pub(super) fn unfollow(&mut self, topic: &TopicName) {
        if let Some(count) = self.topics.get_mut(topic) {
            *count -= 1;
            if *count == 0 {
                self.topics.remove(topic);
            }
        }
    }

    /// Whether any subscription follows one of these topics.
    pub(super) fn follows_any(&self, topics: &[TopicName]) -> bool {
        topics.iter().any(|topic| self.topics.contains_key(topic))
    }

    /// Which subscription has a durable topic, or is next.
    pub(super) fn holder(&self, topic: &TopicName) -> Option<SubscriptionId> {
        self.durable_topics.get(topic).copied()
    }

    /// A durable topic belongs to this subscription now.
    pub(super) fn hold(&mut self, topic: TopicName, id: SubscriptionId) {
        self.durable_topics.insert(topic, id);
    }

    /// A durable topic belongs to nobody now.
    pub(super) fn release(&mut self, topic: &TopicName) {
        self.durable_topics.remove(topic);
    }
}
