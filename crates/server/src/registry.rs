//! Who is connected now, over whatever protocol: for operators and for gateways. Looks on; decides nothing.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;
use redeliver_protocol::error::{Close, CloseCode, RetryAdvice};
use redeliver_protocol::server::ConnectionId;
use redeliver_protocol::time::Timestamp;

use crate::access::Identity;
use crate::clock::wall_clock;

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

/// All connections that are authenticated.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    entries: Mutex<BTreeMap<ConnectionId, (ConnectionInfo, Arc<AtomicU64>)>>,
}

/// A connection's place in the registry. Dropped, the connection stands there no longer.
#[derive(Debug)]
pub(crate) struct Entry {
    id: ConnectionId,
    subscriptions: Arc<AtomicU64>,
    registry: Arc<Registry>,
}

impl Registry {
    pub(crate) fn enter(
        self: &Arc<Self>,
        id: ConnectionId,
        identity: Identity,
        peer: Option<SocketAddr>,
        protocol: &'static str,
    ) -> Entry {
        let info = ConnectionInfo { id, identity, peer, protocol, since: wall_clock(), subscriptions: 0 };
        let subscriptions = Arc::new(AtomicU64::new(0));
        self.entries.lock().insert(id, (info, Arc::clone(&subscriptions)));
        Entry { id, subscriptions, registry: Arc::clone(self) }
    }

    pub(crate) fn connections(&self) -> Vec<ConnectionInfo> {
        let entries = self.entries.lock();
        let info = |(info, subscriptions): &(ConnectionInfo, Arc<AtomicU64>)| ConnectionInfo {
            subscriptions: subscriptions.load(Relaxed),
            ..info.clone()
        };
        entries.values().map(info).collect()
    }
}

impl Entry {
    pub(crate) fn id(&self) -> ConnectionId {
        self.id
    }

    /// Sets how many topics the connection follows now.
    pub(crate) fn follows(&self, subscriptions: u64) {
        self.subscriptions.store(subscriptions, Relaxed);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.registry.entries.lock().remove(&self.id);
    }
}

/// The close of a connection that the app sends away.
pub(crate) fn sent_away(reason: String) -> Close {
    Close::new(CloseCode::DISCONNECTED, reason, RetryAdvice::Never)
}
