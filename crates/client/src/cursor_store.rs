//! Where a client keeps the cursors of its stored subscriptions: a trait, and a store in memory. A store must never
//! answer "no cursor" when it cannot tell.

#[cfg(feature = "file-cursors")]
mod file;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use redeliver_protocol::history::Cursor;
use redeliver_protocol::name::TopicName;

#[cfg(feature = "file-cursors")]
pub use self::file::FileCursorStore;
use crate::error::CursorStoreError;

/// Keeps cursors beyond the life of a client.
///
/// The methods of a store may block: they are called on threads of their own, never two saves at once. Each subscription has its
/// own key; two clients that run at once must not share a key.
pub trait CursorStore: Send + Sync + 'static {
    /// Returns the cursor that was saved last under this key, if there ever was one.
    ///
    /// # Errors
    ///
    /// [`CursorStoreError`] if that cannot be told. The subscription is then not made.
    fn load(&self, key: &CursorKey) -> Result<Option<Cursor>, CursorStoreError>;

    /// Saves cursors, all or none, durably: once this has returned, they survive a power cut.
    ///
    /// # Errors
    ///
    /// [`CursorStoreError`] if they may not be durable. They are saved again later, unless newer ones have come.
    fn save(&self, cursors: &[(CursorKey, Cursor)]) -> Result<(), CursorStoreError>;
}

/// Under which name a subscription's cursor is kept: by default its topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CursorKey(Arc<str>);

impl CursorKey {
    /// Returns a key of the app's choice.
    #[must_use]
    pub fn new(key: impl AsRef<str>) -> CursorKey {
        CursorKey(key.as_ref().into())
    }

    /// Returns the key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&TopicName> for CursorKey {
    fn from(topic: &TopicName) -> CursorKey {
        CursorKey::new(topic.as_str())
    }
}

impl fmt::Display for CursorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_debug())
    }
}

/// Cursors in memory: they outlive a client, not the process. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct MemoryCursorStore {
    cursors: Arc<Mutex<BTreeMap<CursorKey, Cursor>>>,
}

impl MemoryCursorStore {
    /// Returns an empty store.
    #[must_use]
    pub fn new() -> MemoryCursorStore {
        MemoryCursorStore::default()
    }
}

impl CursorStore for MemoryCursorStore {
    fn load(&self, key: &CursorKey) -> Result<Option<Cursor>, CursorStoreError> {
        Ok(self.cursors.lock().get(key).cloned())
    }

    fn save(&self, cursors: &[(CursorKey, Cursor)]) -> Result<(), CursorStoreError> {
        self.cursors.lock().extend(cursors.iter().cloned());
        Ok(())
    }
}

/// The keys that live subscriptions of one client use.
#[derive(Debug, Default)]
pub(crate) struct KeyRegistry(Mutex<BTreeSet<CursorKey>>);

/// A key in use, until the last clone is dropped.
#[derive(Debug)]
pub(crate) struct KeyClaim {
    key: CursorKey,
    registry: Arc<KeyRegistry>,
}

impl KeyClaim {
    /// Claims a key, unless it is in use.
    pub(crate) fn of(key: CursorKey, registry: &Arc<KeyRegistry>) -> Option<Arc<KeyClaim>> {
        let is_new = registry.0.lock().insert(key.clone());
        is_new.then(|| Arc::new(KeyClaim { key, registry: Arc::clone(registry) }))
    }

    pub(crate) fn key(&self) -> &CursorKey {
        &self.key
    }
}

impl Drop for KeyClaim {
    fn drop(&mut self) {
        self.registry.0.lock().remove(&self.key);
    }
}
