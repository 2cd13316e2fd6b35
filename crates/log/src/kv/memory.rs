//! The store in memory, for servers without a directory and for tests. Everything that is applied is as durable as the
//! process is. It never touches a disk, a clock or randomness.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::kv::{Direction, Entries, Entry, Kv, KvError, WriteBatch};

pub(super) type Map = BTreeMap<Arc<[u8]>, Arc<[u8]>>;

/// A [`Kv`] in memory. It is gone when it is dropped.
#[derive(Debug, Default)]
pub struct MemoryKv {
    content: Mutex<Content>,
}

#[derive(Debug, Default)]
struct Content {
    map: Arc<Map>,
    /// Size of its keys and values.
    bytes: u64,
}

impl MemoryKv {
    /// An empty store.
    #[must_use]
    pub fn new() -> MemoryKv {
        MemoryKv::default()
    }

    /// A store with these entries.
    #[cfg(feature = "faults")]
    pub(super) fn with_map(map: Arc<Map>) -> MemoryKv {
        let bytes = map.iter().map(|(key, value)| weight(key, value)).sum();
        MemoryKv { content: Mutex::new(Content { map, bytes }) }
    }

    /// The entries as they are now. What is applied later does not change them.
    #[cfg(feature = "faults")]
    pub(super) fn map(&self) -> Arc<Map> {
        Arc::clone(&self.content.lock().map)
    }
}

impl Kv for MemoryKv {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        Ok(self.content.lock().map.get(key).map(|value| value.to_vec()))
    }

    fn range(&self, from: &[u8], to: &[u8], direction: Direction) -> Entries<'_> {
        Box::new(MemoryRange { kv: self, from: Bound::Included(from.to_vec()), to: to.to_vec(), direction })
    }

    fn apply_batch(&self, batch: &WriteBatch) -> Result<(), KvError> {
        batch.check()?;
        let mut guard = self.content.lock();
        let Content { map, bytes } = &mut *guard;
        // Copies the entries only if somebody holds an image of them.
        let map = Arc::make_mut(map);
        for (key, value) in batch.entries() {
            let before = match value {
                Some(value) => {
                    *bytes += weight(key, value);
                    map.insert(key.as_slice().into(), value[..].into())
                }
                None => map.remove(key.as_slice()),
            };
            *bytes -= before.map_or(0, |before| weight(key, &before));
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), KvError> {
        Ok(())
    }

    fn bytes_on_disk(&self) -> u64 {
        self.content.lock().bytes
    }
}

/// Reads on from the last key each time, so that it holds no lock and may run beside the writer.
struct MemoryRange<'a> {
    kv: &'a MemoryKv,
    from: Bound<Vec<u8>>,
    to: Vec<u8>,
    direction: Direction,
}

impl Iterator for MemoryRange<'_> {
    type Item = Result<Entry, KvError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (Bound::Included(from) | Bound::Excluded(from)) = &self.from else { return None };
        if *from >= self.to {
            return None;
        }
        let content = self.kv.content.lock();
        let from = self.from.as_ref().map(Vec::as_slice);
        let mut left = content.map.range::<[u8], _>((from, Bound::Excluded(self.to.as_slice())));
        let (key, value) = match self.direction {
            Direction::Up => left.next(),
            Direction::Down => left.next_back(),
        }?;
        let entry = (key.to_vec(), value.to_vec());
        match self.direction {
            Direction::Up => self.from = Bound::Excluded(entry.0.clone()),
            Direction::Down => self.to.clone_from(&entry.0),
        }
        Some(Ok(entry))
    }
}

pub(super) fn weight(key: &[u8], value: &[u8]) -> u64 {
    u64::try_from(key.len() + value.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_size_is_that_of_the_keys_and_values_that_are_there() {
        let kv = MemoryKv::new();
        let mut batch = WriteBatch::default();
        batch.put(b"a".to_vec(), b"1234".to_vec());
        batch.put(b"b".to_vec(), b"12".to_vec());
        kv.apply_batch(&batch).unwrap();
        assert_eq!(kv.bytes_on_disk(), 8);
        let mut batch = WriteBatch::default();
        batch.put(b"a".to_vec(), b"1".to_vec());
        batch.delete(b"b".to_vec());
        batch.delete(b"c".to_vec());
        kv.apply_batch(&batch).unwrap();
        assert_eq!(kv.bytes_on_disk(), 2);
    }
}
