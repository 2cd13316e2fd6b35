//! A gateway's client as one of the server's connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use redeliver_protocol::error::Close;
use redeliver_protocol::server::{ConnectionId, Input};

use crate::access::Identity;
use crate::access::denial::{expired_close, revocation_close};
use crate::clock::wall_clock;
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
    identity: Identity,
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
        let entry = shared.registry.enter(id, identity.clone(), peer, protocol);
        let mut registration = Registration {
            entry,
            inbox,
            ended: None,
            identity,
            shared: Arc::clone(shared),
            _membership: membership,
            _presence: presence,
        };
        // The rights may have changed since the client was authenticated.
        registration.review();
        Some(registration)
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

    /// Waits for what the server has to say about the client.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: once ended, each call returns that at once.
    pub async fn next(&mut self) -> RegistrationEvent {
        loop {
            if let Some(close) = &self.ended {
                return RegistrationEvent::Ended(close.clone());
            }
            let expiry = self.identity.expiry_look();
            tokio::select! {
                biased;
                () = self.inbox.waiting() => {}
                () = wait(expiry) => {
                    if self.identity.has_expired(wall_clock()) {
                        self.ended.get_or_insert(expired_close());
                    }
                    continue;
                }
            }
            let drained = self.inbox.take();
            let reviews = drained.reviews;
            drained.for_each(|input| {
                if let Input::End(close) | Input::Displaced(close) = input {
                    self.ended.get_or_insert(close);
                }
            });
            if reviews {
                self.review();
                if self.ended.is_none() {
                    return RegistrationEvent::Reviewed;
                }
            }
        }
    }

    fn review(&mut self) {
        if let Err(denied) = self.shared.credentials_hold(&*self.shared.access, &self.identity) {
            self.ended.get_or_insert(revocation_close(&denied));
        }
    }
}

/// What a gateway hears about one of its clients.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum RegistrationEvent {
    /// The client is to be sent away: by [`Server::disconnect`](crate::Server::disconnect), because its credentials hold no
    /// longer ([`CloseCode::EXPIRED`](crate::CloseCode::EXPIRED)), or because the server is shutting down or its log has
    /// failed.
    Ended(Close),
    /// What the client may do may have changed: the gateway asks [`Gateway::allow`](crate::Gateway::allow) again for all that
    /// it still does for it.
    Reviewed,
}

async fn wait(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.shared.hub.leave(self.entry.id());
    }
}
