//! Who owns a durable subscriber's topic: one live reader each, others stand by in a queue.
//!
//! A registry without IO. Cursors must be saved only while [`Owners::is_owner`] says so: that is the fence which keeps a
//! displaced reader's late acks away from its successor's cursor.

use std::collections::{BTreeMap, VecDeque};

use super::ConnectionId;
use crate::frame::Ownership;
use crate::name::{SubscriberName, TopicName};
use crate::seq::{InstanceId, SubscriptionId};

/// All claims of all connections of a server.
#[derive(Clone, Debug, Default)]
pub struct Owners {
    followed: BTreeMap<Key, Followed>,
    by_connection: BTreeMap<ConnectionId, BTreeMap<SubscriptionId, Key>>,
}

/// A connection's wish to be the reader of a durable subscriber's topic.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The connection.
    pub connection: ConnectionId,
    /// Its subscription.
    pub subscription: SubscriptionId,
    /// The durable subscriber.
    pub subscriber: SubscriberName,
    /// Its topic.
    pub topic: TopicName,
    /// The running client, which never takes over from itself.
    pub instance: InstanceId,
    /// What to do with a present owner.
    pub ownership: Ownership,
}

/// What became of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimOutcome {
    /// The claimant owns the topic now: give it [`super::Reply::Claimed`].
    Granted {
        /// Whoever lost a claim by it.
        displaced: Vec<Displaced>,
    },
    /// The claimant stands by; [`Owners::release`] or [`Owners::release_all`] will name it.
    Waiting {
        /// An older connection of the same client instance, whose place in the queue the claimant got.
        displaced: Vec<Displaced>,
    },
}

/// A claim that is gone because of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Displaced {
    /// Whose it was.
    pub connection: ConnectionId,
    /// The subscription.
    pub subscription: SubscriptionId,
    /// What its session is to be told.
    pub how: Displacement,
}

/// Why a claim is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Displacement {
    /// Another client took over: give the session [`super::Reply::TakenOver`].
    TakenOver,
    /// The same client has come again: end the connection with [`super::Input::Displaced`] and
    /// [`crate::error::CloseCode::SUPERSEDED`].
    SameInstance,
}

/// A standby whose turn has come: give its session [`super::Reply::Claimed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promoted {
    /// Whose it is.
    pub connection: ConnectionId,
    /// The subscription.
    pub subscription: SubscriptionId,
}

impl Owners {
    /// An empty registry.
    #[must_use]
    pub fn new() -> Owners {
        Owners::default()
    }

    /// Claims a durable subscriber's topic. The older claims of the same client instance on it go in any case.
    ///
    /// A subscription has at most one claim: whoever claims something else under the same id releases it first.
    pub fn claim(&mut self, claim: Claim) -> ClaimOutcome {
        let holder =
            Holder { connection: claim.connection, subscription: claim.subscription, instance: claim.instance };
        let key = Key { subscriber: claim.subscriber, topic: claim.topic };
        let mut displaced = Vec::new();
        let held = self.by_connection.entry(holder.connection).or_default();
        let earlier = held.insert(holder.subscription, key.clone());
        debug_assert!(earlier.is_none(), "a subscription has at most one claim");

        let Some(followed) = self.followed.get_mut(&key) else {
            self.followed.insert(key, Followed { owner: holder, waiting: VecDeque::new() });
            return ClaimOutcome::Granted { displaced };
        };
        let same_owner = followed.owner.instance == holder.instance;
        let stood_by = followed.waiting.iter().position(|waiting| waiting.instance == holder.instance);
        if same_owner || claim.ownership == Ownership::Takeover {
            displaced.push(followed.owner.displaced_by(&holder));
            followed.owner = holder;
            if let Some(older) = stood_by.and_then(|place| followed.waiting.remove(place)) {
                displaced.push(older.displaced_by(&holder));
            }
            self.forget(&displaced);
            return ClaimOutcome::Granted { displaced };
        }
        match stood_by.and_then(|place| followed.waiting.get_mut(place)) {
            Some(place) => {
                displaced.push(place.displaced_by(&holder));
                *place = holder;
            }
            None => followed.waiting.push_back(holder),
        }
        self.forget(&displaced);
        ClaimOutcome::Waiting { displaced }
    }

    /// Gives a claim up, granted or waiting. Does nothing if it is already gone, so that a late release by a displaced
    /// connection never touches its successor.
    pub fn release(&mut self, connection: ConnectionId, subscription: SubscriptionId) -> Option<Promoted> {
        let held = self.by_connection.get_mut(&connection)?;
        let key = held.remove(&subscription)?;
        if held.is_empty() {
            self.by_connection.remove(&connection);
        }
        self.give_up(&key, connection, subscription)
    }

    /// Gives up all claims of a connection that has ended.
    pub fn release_all(&mut self, connection: ConnectionId) -> Vec<Promoted> {
        let held = self.by_connection.remove(&connection).unwrap_or_default();
        // Waiting claims go first: a connection that ends must not promote itself.
        let (owned, waiting): (Vec<_>, Vec<_>) =
            held.into_iter().partition(|(subscription, key)| self.owns(key, connection, *subscription));
        let gone = waiting.into_iter().chain(owned);
        gone.filter_map(|(subscription, key)| self.give_up(&key, connection, subscription)).collect()
    }

    /// Whether this subscription owns its claim's topic now.
    #[must_use]
    pub fn is_owner(&self, connection: ConnectionId, subscription: SubscriptionId) -> bool {
        let key = self.by_connection.get(&connection).and_then(|held| held.get(&subscription));
        key.is_some_and(|key| self.owns(key, connection, subscription))
    }

    /// Who owns a durable subscriber's topic.
    #[must_use]
    pub fn owner_of(&self, subscriber: &SubscriberName, topic: &TopicName) -> Option<(ConnectionId, SubscriptionId)> {
        let key = Key { subscriber: subscriber.clone(), topic: topic.clone() };
        self.followed.get(&key).map(|followed| (followed.owner.connection, followed.owner.subscription))
    }

    /// Whether nobody claims anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.followed.is_empty() && self.by_connection.is_empty()
    }

    fn owns(&self, key: &Key, connection: ConnectionId, subscription: SubscriptionId) -> bool {
        self.followed.get(key).is_some_and(|followed| followed.owner.is(connection, subscription))
    }

    fn give_up(&mut self, key: &Key, connection: ConnectionId, subscription: SubscriptionId) -> Option<Promoted> {
        let followed = self.followed.get_mut(key)?;
        if !followed.owner.is(connection, subscription) {
            followed.waiting.retain(|waiting| !waiting.is(connection, subscription));
            return None;
        }
        let Some(next) = followed.waiting.pop_front() else {
            self.followed.remove(key);
            return None;
        };
        followed.owner = next;
        Some(Promoted { connection: next.connection, subscription: next.subscription })
    }

    fn forget(&mut self, displaced: &[Displaced]) {
        for gone in displaced {
            if let Some(held) = self.by_connection.get_mut(&gone.connection) {
                held.remove(&gone.subscription);
                if held.is_empty() {
                    self.by_connection.remove(&gone.connection);
                }
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    subscriber: SubscriberName,
    topic: TopicName,
}

#[derive(Clone, Debug)]
struct Followed {
    owner: Holder,
    waiting: VecDeque<Holder>,
}

#[derive(Clone, Copy, Debug)]
struct Holder {
    connection: ConnectionId,
    subscription: SubscriptionId,
    instance: InstanceId,
}

impl Holder {
    fn is(&self, connection: ConnectionId, subscription: SubscriptionId) -> bool {
        self.connection == connection && self.subscription == subscription
    }

    fn displaced_by(&self, newcomer: &Holder) -> Displaced {
        // A connection that claims twice must not be told to close itself.
        let how = if self.instance == newcomer.instance && self.connection != newcomer.connection {
            Displacement::SameInstance
        } else {
            Displacement::TakenOver
        };
        Displaced { connection: self.connection, subscription: self.subscription, how }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUBSCRIPTION: SubscriptionId = SubscriptionId(1);

    fn claim(connection: u64, instance: u8, ownership: Ownership) -> Claim {
        Claim {
            connection: ConnectionId(connection),
            subscription: SUBSCRIPTION,
            subscriber: SubscriberName::new("billing").unwrap(),
            topic: TopicName::new("orders").unwrap(),
            instance: InstanceId([instance; 16]),
            ownership,
        }
    }

    fn displaced(connection: u64, how: Displacement) -> Displaced {
        Displaced { connection: ConnectionId(connection), subscription: SUBSCRIPTION, how }
    }

    fn promoted(connection: u64) -> Promoted {
        Promoted { connection: ConnectionId(connection), subscription: SUBSCRIPTION }
    }

    fn owner(owners: &Owners) -> Option<u64> {
        let (subscriber, topic) = (SubscriberName::new("billing").unwrap(), TopicName::new("orders").unwrap());
        owners.owner_of(&subscriber, &topic).map(|(connection, _)| connection.0)
    }

    use Displacement::{SameInstance, TakenOver};
    use Ownership::{Standby, Takeover};

    #[test]
    fn a_newcomer_takes_over_and_the_old_owner_is_told() {
        let mut owners = Owners::new();
        assert_eq!(owners.claim(claim(1, 1, Takeover)), ClaimOutcome::Granted { displaced: vec![] });
        let outcome = owners.claim(claim(2, 2, Takeover));
        assert_eq!(outcome, ClaimOutcome::Granted { displaced: vec![displaced(1, TakenOver)] });
        assert!(owners.is_owner(ConnectionId(2), SUBSCRIPTION));
        assert!(!owners.is_owner(ConnectionId(1), SUBSCRIPTION));
    }

    #[test]
    fn a_late_release_by_the_displaced_does_not_evict_the_newcomer() {
        let mut owners = Owners::new();
        owners.claim(claim(1, 1, Takeover));
        owners.claim(claim(2, 2, Takeover));
        owners.claim(claim(3, 3, Standby));
        assert_eq!(owners.release(ConnectionId(1), SUBSCRIPTION), None);
        assert_eq!(owners.release_all(ConnectionId(1)), vec![]);
        assert_eq!(owner(&owners), Some(2));
    }

    #[test]
    fn the_same_instance_reconnecting_is_not_a_takeover() {
        let mut owners = Owners::new();
        owners.claim(claim(1, 1, Takeover));
        let outcome = owners.claim(claim(2, 1, Takeover));
        assert_eq!(outcome, ClaimOutcome::Granted { displaced: vec![displaced(1, SameInstance)] });
        assert_eq!(owners.release_all(ConnectionId(1)), vec![]);
        assert_eq!(owner(&owners), Some(2));
    }

    #[test]
    fn an_owner_that_reconnects_as_a_standby_keeps_its_topic() {
        let mut owners = Owners::new();
        owners.claim(claim(1, 1, Standby));
        owners.claim(claim(9, 9, Standby));
        let outcome = owners.claim(claim(2, 1, Standby));
        assert_eq!(outcome, ClaimOutcome::Granted { displaced: vec![displaced(1, SameInstance)] });
        assert_eq!(owner(&owners), Some(2));
    }

    #[test]
    fn standbys_are_promoted_in_the_order_in_which_they_came() {
        let mut owners = Owners::new();
        owners.claim(claim(1, 1, Takeover));
        assert_eq!(owners.claim(claim(2, 2, Standby)), ClaimOutcome::Waiting { displaced: vec![] });
        assert_eq!(owners.claim(claim(3, 3, Standby)), ClaimOutcome::Waiting { displaced: vec![] });
        assert_eq!(owners.release(ConnectionId(1), SUBSCRIPTION), Some(promoted(2)));
        assert_eq!(owners.release_all(ConnectionId(2)), vec![promoted(3)]);
        assert_eq!(owners.release_all(ConnectionId(3)), vec![]);
        assert!(owners.is_empty());
    }

    #[test]
    fn a_standby_that_reconnects_keeps_its_place_in_the_queue() {
        let mut owners = Owners::new();
        owners.claim(claim(1, 1, Takeover));
        owners.claim(claim(2, 2, Standby));
        owners.claim(claim(3, 3, Standby));
        let outcome = owners.claim(claim(4, 2, Standby));
        assert_eq!(outcome, ClaimOutcome::Waiting { displaced: vec![displaced(2, SameInstance)] });
        assert_eq!(owners.release_all(ConnectionId(2)), vec![]);
        assert_eq!(owners.release_all(ConnectionId(1)), vec![promoted(4)]);
    }

    #[test]
    fn a_takeover_passes_the_standbys_and_leaves_them_waiting() {
        let mut owners = Owners::new();
        owners.claim(claim(1, 1, Takeover));
        owners.claim(claim(2, 2, Standby));
        let outcome = owners.claim(claim(3, 3, Takeover));
        assert_eq!(outcome, ClaimOutcome::Granted { displaced: vec![displaced(1, TakenOver)] });
        assert_eq!(owners.release_all(ConnectionId(3)), vec![promoted(2)]);
    }

    #[test]
    fn a_standby_that_takes_over_gives_up_its_older_place_in_the_queue() {
        let mut owners = Owners::new();
        owners.claim(claim(1, 1, Takeover));
        owners.claim(claim(2, 2, Standby));
        let outcome = owners.claim(claim(3, 2, Takeover));
        let expected = vec![displaced(1, TakenOver), displaced(2, SameInstance)];
        assert_eq!(outcome, ClaimOutcome::Granted { displaced: expected });
        assert_eq!(owners.release_all(ConnectionId(3)), vec![]);
    }

    #[test]
    fn a_standby_that_leaves_is_not_promoted() {
        let mut owners = Owners::new();
        owners.claim(claim(1, 1, Takeover));
        owners.claim(claim(2, 2, Standby));
        assert_eq!(owners.release(ConnectionId(2), SUBSCRIPTION), None);
        assert_eq!(owners.release_all(ConnectionId(1)), vec![]);
        assert!(owners.is_empty());
    }

    #[test]
    fn a_connection_that_ends_never_promotes_itself() {
        let mut owners = Owners::new();
        owners.claim(claim(1, 1, Takeover));
        // The same connection under another instance id: forged, but it must not bring the registry out of step.
        owners.claim(Claim { subscription: SubscriptionId(0), ..claim(1, 2, Standby) });
        owners.claim(Claim { subscription: SubscriptionId(7), ..claim(1, 3, Standby) });
        assert_eq!(owners.release_all(ConnectionId(1)), vec![]);
        assert!(owners.is_empty());
    }

    #[test]
    fn topics_and_subscribers_are_owned_apart() {
        let mut owners = Owners::new();
        owners.claim(claim(1, 1, Takeover));
        let other_topic = Claim { topic: TopicName::new("invoices").unwrap(), ..claim(2, 2, Takeover) };
        assert_eq!(owners.claim(other_topic), ClaimOutcome::Granted { displaced: vec![] });
        let other_name = Claim { subscriber: SubscriberName::new("audit").unwrap(), ..claim(3, 3, Takeover) };
        assert_eq!(owners.claim(other_name), ClaimOutcome::Granted { displaced: vec![] });
        assert!(owners.is_owner(ConnectionId(1), SUBSCRIPTION));
    }

    #[test]
    fn a_connection_that_claims_twice_is_not_closed_by_itself() {
        let mut owners = Owners::new();
        owners.claim(claim(1, 1, Takeover));
        let again = Claim { subscription: SubscriptionId(2), ..claim(1, 1, Takeover) };
        let outcome = owners.claim(again);
        assert_eq!(outcome, ClaimOutcome::Granted { displaced: vec![displaced(1, TakenOver)] });
        assert!(owners.is_owner(ConnectionId(1), SubscriptionId(2)));
    }
}
