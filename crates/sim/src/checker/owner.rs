//! Whose a durable cursor is.

use redeliver_protocol::name::{SubscriberName, TopicName};

/// Who keeps it, and which topic it is of.
pub(super) type DurableKey = (Owner, TopicName);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Owner {
    Server(SubscriberName),
    Client(u32),
}

impl Owner {
    pub(super) fn is_server(&self) -> bool {
        matches!(self, Owner::Server(_))
    }
}
