//! Who is connected now, over whatever protocol: for operators and for gateways. Looks on; decides nothing.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;
use redeliver_protocol::error::{Close, CloseCode, RetryAdvice};
use redeliver_protocol::server::{ConnectionId, Input};
use redeliver_protocol::time::Timestamp;

use crate::access::Identity;
use crate::clock::wall_clock;
use crate::inbox::Inbox;
use crate::shared::{Presence, Shared};

/// A connection that is authenticated.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConnectionInfo {
    /// Its number, never used twice in a server's life.
    pub id: ConnectionId,
    /// Who it is.
    pub identity: Identity,
    /// Where it comes from, if that is known.
    pub peer: Option<SocketAddr>,
    /// What it speaks: `redeliver.v1`, or what its gateway calls its own.
    pub protocol: &'static str,
    /// Since when, by the wall clock.
    pub since: Timestamp,
    /// How many topics it follows.
    pub subscriptions: u64,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    entries: Mutex<BTreeMap<ConnectionId, (ConnectionInfo, Arc<AtomicU64>)>>,
}

/// A place in the registry, for as long as this is held.
#[derive(Debug)]
pub(crate) struct Entry {
    id: ConnectionId,
    subscriptions: Arc<AtomicU64>,
    shared: Arc<Shared>,
}

impl Entry {
    pub(crate) fn new(
        shared: &Arc<Shared>,
        id: ConnectionId,
        identity: Identity,
        peer: Option<SocketAddr>,
        protocol: &'static str,
    ) -> Entry {
        let info = ConnectionInfo { id, identity, peer, protocol, since: wall_clock(), subscriptions: 0 };
        let subscriptions = Arc::new(AtomicU64::new(0));
        shared.registry.entries.lock().insert(id, (info, Arc::clone(&subscriptions)));
        Entry { id, subscriptions, shared: Arc::clone(shared) }
    }

    /// It follows so many topics now.
    pub(crate) fn follows(&self, subscriptions: u64) {
        self.subscriptions.store(subscriptions, Relaxed);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.shared.registry.entries.lock().remove(&self.id);
    }
}

impl Registry {
    pub(crate) fn connections(&self) -> Vec<ConnectionInfo> {
        let entries = self.entries.lock();
        let info = |(info, subscriptions): &(ConnectionInfo, Arc<AtomicU64>)| ConnectionInfo {
            subscriptions: subscriptions.load(Relaxed),
            ..info.clone()
        };
        entries.values().map(info).collect()
    }
}

/// A gateway's client in the server's registry, and among its connections, until this is dropped. Made by
/// [`Server::register`](crate::Server::register).
#[derive(Debug)]
pub struct Registration {
    entry: Entry,
    inbox: Arc<Inbox>,
    ended: Option<Close>,
    shared: Arc<Shared>,
    /// Last, when nothing of the server is held any more.
    _presence: Presence,
}

impl Registration {
    /// Nothing if no connection is taken now.
    pub(crate) fn new(
        shared: &Arc<Shared>,
        identity: Identity,
        peer: Option<SocketAddr>,
        protocol: &'static str,
    ) -> Option<Registration> {
        let presence = if shared.is_ready() { shared.enter_if_room()? } else { return None };
        let (id, inbox) = shared.hub.join();
        let entry = Entry::new(shared, id, identity, peer, protocol);
        Some(Registration { entry, inbox, ended: None, shared: Arc::clone(shared), _presence: presence })
    }

    /// The connection's number.
    #[must_use]
    pub fn id(&self) -> ConnectionId {
        self.entry.id
    }

    /// Says how many topics the client follows now, for [`ConnectionInfo::subscriptions`].
    pub fn follows(&self, subscriptions: u64) {
        self.entry.follows(subscriptions);
    }

    /// Waits until the client is to be sent away: by [`Server::disconnect`](crate::Server::disconnect), or because the
    /// server is shutting down or its log has failed.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: once ended, it says so again at each call.
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
        self.shared.hub.leave(self.entry.id);
    }
}

/// The close of a connection that the app sends away.
pub(crate) fn sent_away(reason: String) -> Close {
    Close { code: CloseCode::Disconnected, reason, retry: RetryAdvice::Never }
}
