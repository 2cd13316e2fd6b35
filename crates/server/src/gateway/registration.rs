//! A gateway's client as one of the server's connections.

use std::net::SocketAddr;
use std::sync::Arc;

use redeliver_protocol::error::Close;
use redeliver_protocol::server::{ConnectionId, Input};

use crate::access::Identity;
use crate::inbox::Inbox;
use crate::registry::Entry;
use crate::shared::{Presence, Shared};

/// A gateway's client in the server's registry, and among its connections, until this is dropped. Made by
/// [`Gateway::register`](crate::Gateway::register).
#[derive(Debug)]
#[must_use = "a registration that is dropped is none"]
pub struct Registration {
    entry: Entry,
    inbox: Arc<Inbox>,
    ended: Option<Close>,
    shared: Arc<Shared>,
    _membership: Presence,
    /// Last, when nothing of the server is held any more.
    _presence: Presence,
}

impl Registration {
    /// Returns `None` if the server accepts no more connections.
    pub(crate) fn new(
        shared: &Arc<Shared>,
        identity: Identity,
        peer: Option<SocketAddr>,
        protocol: &'static str,
    ) -> Option<Registration> {
        let membership = if shared.is_ready() { shared.join_if_room()? } else { return None };
        let presence = shared.enter();
        let (id, inbox) = shared.hub.join();
        let entry = shared.registry.enter(id, identity, peer, protocol);
        Some(Registration {
            entry,
            inbox,
            ended: None,
            shared: Arc::clone(shared),
            _membership: membership,
            _presence: presence,
        })
    }

    /// Returns the connection's number.
    #[must_use]
    pub fn id(&self) -> ConnectionId {
        self.entry.id()
    }

    /// Sets how many topics the client follows now, for [`ConnectionInfo::subscriptions`].
    ///
    /// [`ConnectionInfo::subscriptions`]: crate::ConnectionInfo::subscriptions
    pub fn follows(&self, subscriptions: u64) {
        self.entry.follows(subscriptions);
    }

    /// Waits until the client is to be sent away: by [`Server::disconnect`](crate::Server::disconnect), or because the
    /// server is shutting down or its log has failed.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: once ended, each call returns at once.
    pub async fn ended(&mut self) -> Close {
        loop {
            if let Some(close) = &self.ended {
                return close.clone();
            }
            self.inbox.waiting().await;
            self.inbox.take().for_each(|input| {
                if let Input::End(close) | Input::Displaced(close) = input {
                    self.ended.get_or_insert(close);
                }
            });
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.shared.hub.leave(self.entry.id());
    }
}
