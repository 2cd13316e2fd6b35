//! The newest state of the keys of one generation, in memory, and how tables and the inner store are read as one. Knows
//! nothing of journals.

use std::collections::{BTreeMap, btree_map};
use std::iter::Peekable;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;

use crate::kv::{Change, Direction, Entries, Entry, KvError, WriteBatch};

/// The keys that a generation has changed, each with its newest value, or nothing if it is deleted.
#[derive(Default)]
pub(in crate::kv) struct Table {
    entries: BTreeMap<Vec<u8>, Option<Bytes>>,
    bytes: u64,
    /// Whether the last batch deletes something, and is not synced yet.
    has_unsynced_deletes: bool,
}

impl Table {
    pub(in crate::kv) fn apply(&mut self, batch: WriteBatch) {
        for (key, value) in batch.into_entries() {
            self.bytes += cost(&key, value.as_deref());
            self.has_unsynced_deletes |= value.is_none();
            match self.entries.entry(key) {
                btree_map::Entry::Vacant(entry) => {
                    entry.insert(value);
                }
                btree_map::Entry::Occupied(mut entry) => {
                    let replaced = entry.insert(value);
                    self.bytes -= cost(entry.key(), replaced.as_deref());
                }
            }
        }
    }

    /// What the table says of a key: nothing, that it is deleted, or its value.
    #[cfg(feature = "faults")]
    #[allow(clippy::option_option, reason = "a key that is deleted is not one that the table does not know")]
    pub(in crate::kv) fn get(&self, key: &[u8]) -> Option<Option<Bytes>> {
        self.entries.get(key).cloned()
    }

    /// What was applied is durable.
    pub(super) fn synced(&mut self) {
        self.has_unsynced_deletes = false;
    }

    /// Whether a key is durably deleted. Rather not, as long as there is a delete that is not durable.
    pub(super) fn has_deleted(&self, key: &[u8]) -> bool {
        !self.has_unsynced_deletes && matches!(self.entries.get(key), Some(None))
    }

    /// About what it holds in memory, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn iter(&self) -> btree_map::Iter<'_, Vec<u8>, Option<Bytes>> {
        self.entries.iter()
    }

    /// The next entry of a range that lies beyond `passed`.
    fn next(&self, (from, to): (&[u8], &[u8]), passed: Option<&[u8]>, direction: Direction) -> Option<Change> {
        let (lower, upper) = match direction {
            Direction::Up => (passed.map_or(Bound::Included(from), Bound::Excluded), Bound::Excluded(to)),
            Direction::Down => (Bound::Included(from), Bound::Excluded(passed.unwrap_or(to))),
        };
        let mut range = self.entries.range::<[u8], _>((lower, upper));
        let next = match direction {
            Direction::Up => range.next(),
            Direction::Down => range.next_back(),
        };
        next.map(|(key, value)| (key.clone(), value.clone()))
    }
}

/// A table that is shared. Only the active one changes.
pub(in crate::kv) type SharedTable = Arc<RwLock<Table>>;

/// The tables that lie over the inner store.
#[derive(Default)]
pub(super) struct Tables {
    active: SharedTable,
    frozen: Option<SharedTable>,
}

impl Tables {
    pub(super) fn active(&self) -> SharedTable {
        Arc::clone(&self.active)
    }

    /// Makes room for a new generation. Returns the table of the one before it, which stays in sight.
    pub(super) fn begin(&mut self) -> SharedTable {
        let frozen = std::mem::take(&mut self.active);
        self.frozen = Some(Arc::clone(&frozen));
        frozen
    }

    pub(super) fn set_frozen(&mut self, frozen: Option<SharedTable>) {
        self.frozen = frozen;
    }

    /// What the tables say of a key: nothing, that it is deleted, or its value.
    #[allow(clippy::option_option, reason = "a key that is deleted is not one that no table knows")]
    pub(super) fn get(&self, key: &[u8]) -> Option<Option<Bytes>> {
        let found = self.active.read().entries.get(key).cloned();
        found.or_else(|| self.frozen.as_ref()?.read().entries.get(key).cloned())
    }

    /// The tables, the newest first.
    pub(super) fn layers(&self) -> Vec<SharedTable> {
        [Some(&self.active), self.frozen.as_ref()].into_iter().flatten().map(Arc::clone).collect()
    }

    /// About what they hold in memory, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.active.read().bytes + self.frozen.as_ref().map_or(0, |frozen| frozen.read().bytes)
    }
}

/// A range of the tables and the inner store.
pub(in crate::kv) struct LayeredRange<'a> {
    layers: Vec<Layer>,
    inner: Peekable<Entries<'a>>,
    from: Vec<u8>,
    to: Vec<u8>,
    direction: Direction,
}

struct Layer {
    table: SharedTable,
    head: Option<Change>,
}

impl<'a> LayeredRange<'a> {
    /// The newest table first.
    pub(in crate::kv) fn new(
        tables: Vec<SharedTable>,
        inner: Entries<'a>,
        (from, to): (&[u8], &[u8]),
        direction: Direction,
    ) -> LayeredRange<'a> {
        let layer = |table: SharedTable| {
            let head = if from < to { table.read().next((from, to), None, direction) } else { None };
            Layer { table, head }
        };
        let layers = tables.into_iter().map(layer).collect();
        LayeredRange { layers, inner: inner.peekable(), from: from.to_vec(), to: to.to_vec(), direction }
    }

    /// The layer with the next key of all tables; of several, the newest.
    fn next_layer(&self) -> Option<usize> {
        let mut next: Option<(usize, &[u8])> = None;
        for (at, layer) in self.layers.iter().enumerate() {
            if let Some((key, _)) = &layer.head
                && next.is_none_or(|(_, next)| is_before(key, next, self.direction))
            {
                next = Some((at, key));
            }
        }
        next.map(|(at, _)| at)
    }

    /// Takes a layer's next change, and out of the others what it replaces.
    fn take(&mut self, at: usize) -> Option<Change> {
        let taken = self.layers[at].head.take()?;
        for (other, layer) in self.layers.iter_mut().enumerate() {
            if other == at || layer.head.as_ref().is_some_and(|(key, _)| *key == taken.0) {
                layer.head = layer.table.read().next((&self.from, &self.to), Some(&taken.0), self.direction);
            }
        }
        self.inner.next_if(|entry| entry.as_ref().is_ok_and(|(key, _)| *key == taken.0));
        Some(taken)
    }
}

impl Iterator for LayeredRange<'_> {
    type Item = Result<Entry, KvError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some(at) = self.next_layer() else { return self.inner.next() };
            let head = self.layers[at].head.as_ref().map(|(key, _)| &key[..]);
            let is_inner_next = match (self.inner.peek(), head) {
                (Some(Ok((inner, _))), Some(head)) => is_before(inner, head, self.direction),
                (Some(Ok(_)), None) | (Some(Err(_)), _) => true,
                (None, _) => false,
            };
            if is_inner_next {
                let next = self.inner.next();
                if let Some(Err(_)) = &next {
                    // It ends after that.
                    self.layers.clear();
                }
                return next;
            }
            if let Some((key, Some(value))) = self.take(at) {
                return Some(Ok((key, value.into())));
            }
        }
    }
}

fn is_before(one: &[u8], other: &[u8], direction: Direction) -> bool {
    match direction {
        Direction::Up => one < other,
        Direction::Down => one > other,
    }
}

fn cost(key: &[u8], value: Option<&[u8]>) -> u64 {
    let bytes = key.len() + value.map_or(0, <[u8]>::len) + ENTRY_OVERHEAD_BYTES;
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// What an entry costs beside its bytes, about: two vectors, their places in the map, and what the allocator adds.
const ENTRY_OVERHEAD_BYTES: usize = 160;
