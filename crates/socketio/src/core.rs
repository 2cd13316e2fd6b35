//! What all handles of one gateway share. Knows no connection.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use parking_lot::RwLock;
use redeliver_server::{Gateway, Server};
use tokio::sync::watch;

use crate::config::Config;
use crate::namespace::NamespaceCore;
use crate::presence::Presence;
use crate::refusals::RefusalLog;

pub(crate) struct Core {
    pub(crate) config: Arc<Config>,
    pub(crate) server: Server,
    pub(crate) gateway: Gateway,
    pub(crate) namespaces: RwLock<BTreeMap<String, Arc<NamespaceCore>>>,
    pub(crate) shutdown: watch::Sender<bool>,
    /// Set before `shutdown` tells, for a look that costs nothing.
    pub(crate) is_ending: AtomicBool,
    pub(crate) presence: Presence,
    pub(crate) refusals: RefusalLog,
}

impl Core {
    pub(crate) fn namespace(&self, name: &str) -> Option<Arc<NamespaceCore>> {
        self.namespaces.read().get(name).cloned()
    }
}
