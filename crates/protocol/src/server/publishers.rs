//! Which connection speaks for a publisher: the newest. Older ones are fenced.
//!
//! A registry without IO. Emits must be appended only while [`Publishers::is_current`] says so, and otherwise be refused
//! with [`crate::error::RefusalCode::FENCED`]: a half-open old connection must not write behind the newer one's back.

use std::collections::BTreeMap;

use super::ConnectionId;
use crate::seq::{IdentityTag, PublisherId};

/// The publisher belongs to another identity. Its connection is to be closed with
/// [`crate::error::CloseCode::NOT_YOUR_PUBLISHER`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the publisher belongs to another identity")]
pub struct NotYours;

/// All publishers that are connected to a server.
#[derive(Clone, Debug, Default)]
pub struct Publishers {
    current: BTreeMap<PublisherId, (ConnectionId, IdentityTag)>,
    by_connection: BTreeMap<ConnectionId, PublisherId>,
}

impl Publishers {
    /// An empty registry.
    #[must_use]
    pub fn new() -> Publishers {
        Publishers::default()
    }

    /// Makes a connection the publisher's newest. Returns the one that it fences, which is to be ended with
    /// [`super::Input::Displaced`] and [`crate::error::CloseCode::PUBLISHER_FENCED`] (or `Superseded` if it is the same
    /// client instance's).
    ///
    /// # Errors
    ///
    /// [`NotYours`] if another identity is connected as this publisher: nothing is changed then.
    pub fn claim(
        &mut self,
        publisher: PublisherId,
        owner: IdentityTag,
        connection: ConnectionId,
    ) -> Result<Option<ConnectionId>, NotYours> {
        if self.current.get(&publisher).is_some_and(|(_, current)| *current != owner) {
            return Err(NotYours);
        }
        self.release(connection);
        self.by_connection.insert(connection, publisher);
        let Some((fenced, _)) = self.current.insert(publisher, (connection, owner)) else { return Ok(None) };
        self.by_connection.remove(&fenced);
        Ok(Some(fenced))
    }

    /// Whether this connection speaks for the publisher.
    #[must_use]
    pub fn is_current(&self, publisher: PublisherId, connection: ConnectionId) -> bool {
        self.current.get(&publisher).is_some_and(|(current, _)| *current == connection)
    }

    /// Forgets a connection that has ended. Does nothing if it was fenced, so that a late end of the old connection never
    /// touches its successor.
    pub fn release(&mut self, connection: ConnectionId) {
        if let Some(publisher) = self.by_connection.remove(&connection) {
            self.current.remove(&publisher);
        }
    }

    /// Whether no publisher is connected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.current.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLISHER: PublisherId = PublisherId([1; 16]);
    const OTHER: PublisherId = PublisherId([2; 16]);
    const OWNER: IdentityTag = IdentityTag([7; 16]);
    const OLD: ConnectionId = ConnectionId(1);
    const NEW: ConnectionId = ConnectionId(2);

    #[test]
    fn the_newest_connection_of_a_publisher_fences_the_older() {
        let mut publishers = Publishers::new();
        assert_eq!(publishers.claim(PUBLISHER, OWNER, OLD), Ok(None));
        assert_eq!(publishers.claim(PUBLISHER, OWNER, NEW), Ok(Some(OLD)));
        assert!(publishers.is_current(PUBLISHER, NEW));
        assert!(!publishers.is_current(PUBLISHER, OLD));
    }

    #[test]
    fn a_late_end_of_the_fenced_connection_leaves_the_newer_one_alone() {
        let mut publishers = Publishers::new();
        publishers.claim(PUBLISHER, OWNER, OLD).unwrap();
        publishers.claim(PUBLISHER, OWNER, NEW).unwrap();
        publishers.release(OLD);
        assert!(publishers.is_current(PUBLISHER, NEW));
        publishers.release(NEW);
        assert!(publishers.is_empty());
    }

    #[test]
    fn a_connection_does_not_fence_itself() {
        let mut publishers = Publishers::new();
        publishers.claim(PUBLISHER, OWNER, OLD).unwrap();
        assert_eq!(publishers.claim(PUBLISHER, OWNER, OLD), Ok(None));
        assert!(publishers.is_current(PUBLISHER, OLD));
    }

    #[test]
    fn publishers_do_not_fence_each_other() {
        let mut publishers = Publishers::new();
        publishers.claim(PUBLISHER, OWNER, OLD).unwrap();
        assert_eq!(publishers.claim(OTHER, OWNER, NEW), Ok(None));
        assert!(publishers.is_current(PUBLISHER, OLD) && publishers.is_current(OTHER, NEW));
    }

    #[test]
    fn another_identity_fences_nobody() {
        let mut publishers = Publishers::new();
        publishers.claim(PUBLISHER, OWNER, OLD).unwrap();
        assert_eq!(publishers.claim(PUBLISHER, IdentityTag([8; 16]), NEW), Err(NotYours));
        assert!(publishers.is_current(PUBLISHER, OLD));
        publishers.release(NEW);
        assert!(publishers.is_current(PUBLISHER, OLD));
    }
}
