//! An in-memory store with a crash image: the test double of the durable store, for the simulation and for conformance tests.
//!
//! It keeps the contract of [`Kv`] strictly and deterministically, and never touches a disk, a clock or randomness.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::kv::{Direction, Entries, Entry, Kv, KvError, WriteBatch};

type Map = BTreeMap<Arc<[u8]>, Arc<[u8]>>;

/// A [`Kv`] in memory. What was applied and not synced is volatile: [`MemoryKv::crash`] decides what is left of it.
#[derive(Debug, Default)]
pub struct MemoryKv {
    state: Mutex<State>,
}

/// What a store held at some moment. Cloning is cheap, and so is making a store of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    map: Arc<Map>,
}

/// What a crash leaves of the batches that were applied and not synced. Batches stay atomic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsynced {
    /// None of them.
    Lost,
    /// All of them.
    Kept,
    /// The first so many, the later ones are lost.
    First(usize),
}

/// How a store misbehaves. Numbers count from 1 over the store's life.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// The batch with this number is refused as [`KvError::Failed`] and changes nothing; the store is dead from there.
    pub fail_batch: Option<u64>,
    /// The sync with this number fails; the store is dead from there, and what was not synced stays volatile.
    pub fail_sync: Option<u64>,
    /// Batches that would take the store above so many bytes of keys and values are refused as [`KvError::Full`].
    pub capacity_bytes: Option<u64>,
    /// Syncs say that they succeeded and do nothing: a disk that lies. Several batches can then be unsynced at once.
    pub sync_is_a_lie: bool,
}

impl MemoryKv {
    /// An empty store.
    #[must_use]
    pub fn new() -> MemoryKv {
        MemoryKv::default()
    }

    /// A store that holds an image, durably: what was copied away, restored from a backup, or rolled back.
    #[must_use]
    pub fn from_image(image: &Image) -> MemoryKv {
        let bytes = image.map.iter().map(|(key, value)| weight(key, value)).sum();
        let state = State { map: Arc::clone(&image.map), bytes, ..State::default() };
        MemoryKv { state: Mutex::new(state) }
    }

    /// Sets how the store misbehaves from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.state.lock().faults = faults;
    }

    /// Cuts the power: gives what the next process finds, and kills this store, whose holders get [`KvError::Failed`].
    #[must_use]
    pub fn crash(&self, unsynced: Unsynced) -> MemoryKv {
        let mut state = self.state.lock();
        state.failed = Some("the power was cut".to_owned());
        MemoryKv::from_image(&Image { map: state.after_crash(unsynced) })
    }

    /// What is durable now, whatever happens next.
    #[must_use]
    pub fn durable(&self) -> Image {
        Image { map: self.state.lock().after_crash(Unsynced::Lost) }
    }

    /// How many batches are applied and not synced.
    #[must_use]
    pub fn unsynced_batches(&self) -> usize {
        self.state.lock().undo.len()
    }

    /// How many batches were applied and how many syncs were asked for, over the store's life.
    #[must_use]
    pub fn operations(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.batches, state.syncs)
    }
}

impl Image {
    /// How many entries it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether it holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// The entries in key order.
    pub fn entries(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.map.iter().map(|(key, value)| (key.as_ref(), value.as_ref()))
    }

    /// Changes what a key holds, or removes it: damage, for tests of what the log makes of it.
    pub fn set(&mut self, key: &[u8], value: Option<&[u8]>) {
        let map = Arc::make_mut(&mut self.map);
        match value {
            Some(value) => map.insert(key.into(), value.into()),
            None => map.remove(key),
        };
    }
}

impl Kv for MemoryKv {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        let state = self.state.lock();
        state.check_alive()?;
        Ok(state.map.get(key).map(|value| value.to_vec()))
    }

    fn range(&self, from: &[u8], to: &[u8], direction: Direction) -> Entries<'_> {
        Box::new(MemoryRange {
            kv: self,
            from: Bound::Included(from.to_vec()),
            to: to.to_vec(),
            direction,
            failed: false,
        })
    }

    fn apply_batch(&self, batch: &WriteBatch) -> Result<(), KvError> {
        self.state.lock().apply(batch)
    }

    fn sync(&self) -> Result<(), KvError> {
        let mut state = self.state.lock();
        state.check_alive()?;
        state.syncs += 1;
        if state.faults.fail_sync == Some(state.syncs) {
            return Err(state.fail("the sync failed, as ordered"));
        }
        if !state.faults.sync_is_a_lie {
            state.undo.clear();
        }
        state.synced = true;
        Ok(())
    }

    fn bytes_on_disk(&self) -> u64 {
        self.state.lock().bytes
    }
}

#[derive(Debug)]
struct State {
    /// What readers see: the durable entries with every applied batch on top.
    map: Arc<Map>,
    bytes: u64,
    /// What each batch since the last real sync replaced, oldest batch first.
    undo: Vec<Vec<Replaced>>,
    /// Whether a sync was asked for since the last batch.
    synced: bool,
    batches: u64,
    syncs: u64,
    faults: Faults,
    failed: Option<String>,
}

type Replaced = (Arc<[u8]>, Option<Arc<[u8]>>);

impl Default for State {
    fn default() -> State {
        State {
            map: Arc::default(),
            bytes: 0,
            undo: Vec::new(),
            synced: true,
            batches: 0,
            syncs: 0,
            faults: Faults::default(),
            failed: None,
        }
    }
}

impl State {
    fn apply(&mut self, batch: &WriteBatch) -> Result<(), KvError> {
        self.check_alive()?;
        batch.check()?;
        if !self.synced {
            return Err(self.fail("a batch was applied before the one before it was synced"));
        }
        self.batches += 1;
        if self.faults.fail_batch == Some(self.batches) {
            return Err(self.fail("the batch failed, as ordered"));
        }
        let (replaced, bytes) = self.replace(batch);
        let is_full = self.faults.capacity_bytes.is_some_and(|capacity| bytes > capacity && bytes > self.bytes);
        if is_full {
            roll_back(Arc::make_mut(&mut self.map), replaced);
            return Err(KvError::Full);
        }
        self.undo.push(replaced);
        self.bytes = bytes;
        self.synced = false;
        Ok(())
    }

    /// Puts a batch into the map. Gives what it replaced, and the new weight of the map.
    fn replace(&mut self, batch: &WriteBatch) -> (Vec<Replaced>, u64) {
        let map = Arc::make_mut(&mut self.map);
        let mut bytes = self.bytes;
        let mut replaced = Vec::with_capacity(batch.entries.len());
        for (key, value) in &batch.entries {
            let key: Arc<[u8]> = key.as_slice().into();
            let before = match value {
                Some(value) => {
                    bytes += weight(&key, value);
                    map.insert(Arc::clone(&key), value[..].into())
                }
                None => map.remove(&key),
            };
            bytes -= before.as_ref().map_or(0, |before| weight(&key, before));
            replaced.push((key, before));
        }
        (replaced, bytes)
    }

    fn after_crash(&self, unsynced: Unsynced) -> Arc<Map> {
        let kept = match unsynced {
            Unsynced::Lost => 0,
            Unsynced::Kept => self.undo.len(),
            Unsynced::First(batches) => batches.min(self.undo.len()),
        };
        let mut image = Arc::clone(&self.map);
        for replaced in self.undo[kept..].iter().rev() {
            roll_back(Arc::make_mut(&mut image), replaced.clone());
        }
        image
    }

    fn check_alive(&self) -> Result<(), KvError> {
        match &self.failed {
            Some(why) => Err(KvError::Failed(why.clone())),
            None => Ok(()),
        }
    }

    fn fail(&mut self, why: &str) -> KvError {
        self.failed = Some(why.to_owned());
        KvError::Failed(why.to_owned())
    }
}

/// Reads on from the last key each time, so that it holds no lock and may run beside the writer.
struct MemoryRange<'a> {
    kv: &'a MemoryKv,
    from: Bound<Vec<u8>>,
    to: Vec<u8>,
    direction: Direction,
    failed: bool,
}

impl Iterator for MemoryRange<'_> {
    type Item = Result<Entry, KvError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (Bound::Included(from) | Bound::Excluded(from)) = &self.from else { return None };
        if self.failed || *from >= self.to {
            return None;
        }
        let state = self.kv.state.lock();
        if let Err(error) = state.check_alive() {
            self.failed = true;
            return Some(Err(error));
        }
        let from = self.from.as_ref().map(Vec::as_slice);
        let mut left = state.map.range::<[u8], _>((from, Bound::Excluded(self.to.as_slice())));
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

fn roll_back(map: &mut Map, replaced: Vec<Replaced>) {
    for (key, before) in replaced.into_iter().rev() {
        match before {
            Some(value) => map.insert(key, value),
            None => map.remove(&key),
        };
    }
}

fn weight(key: &[u8], value: &[u8]) -> u64 {
    u64::try_from(key.len() + value.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &[u8], value: &[u8]) -> WriteBatch {
        let mut batch = WriteBatch::default();
        batch.put(key.to_vec(), value.to_vec());
        batch
    }

    fn write(kv: &MemoryKv, batch: &WriteBatch) {
        kv.apply_batch(batch).unwrap();
        kv.sync().unwrap();
    }

    #[test]
    fn a_crash_keeps_what_was_synced_and_by_choice_what_was_not() {
        for (unsynced, expected) in [
            (Unsynced::Lost, Some(b"old".to_vec())),
            (Unsynced::First(0), Some(b"old".to_vec())),
            (Unsynced::First(1), Some(b"new".to_vec())),
            (Unsynced::Kept, Some(b"new".to_vec())),
        ] {
            let kv = MemoryKv::new();
            write(&kv, &put(b"a", b"old"));
            let mut batch = put(b"a", b"newer");
            batch.put(b"a".to_vec(), b"new".to_vec());
            batch.put(b"b".to_vec(), b"1".to_vec());
            kv.apply_batch(&batch).unwrap();
            assert_eq!(kv.unsynced_batches(), 1);
            let after = kv.crash(unsynced);
            assert_eq!(after.get(b"a").unwrap(), expected, "{unsynced:?}");
            assert_eq!(after.get(b"b").unwrap().is_some(), expected == Some(b"new".to_vec()), "batches are atomic");
            assert!(matches!(kv.get(b"a"), Err(KvError::Failed(_))), "the crashed store is dead");
            assert!(matches!(kv.range(b"", b"z", Direction::Up).next(), Some(Err(KvError::Failed(_)))));
        }
    }

    #[test]
    fn a_lying_disk_loses_a_suffix_of_whole_batches() {
        let kv = MemoryKv::new();
        write(&kv, &put(b"k", b"0"));
        kv.set_faults(Faults { sync_is_a_lie: true, ..Faults::default() });
        for number in 1..=3_u8 {
            write(&kv, &put(b"k", &[b'0' + number]));
        }
        assert_eq!(kv.durable().entries().collect::<Vec<_>>(), [(&b"k"[..], &b"0"[..])]);
        assert_eq!(kv.crash(Unsynced::First(2)).get(b"k").unwrap(), Some(b"2".to_vec()));
    }

    #[test]
    fn a_failed_sync_is_the_end_and_leaves_the_batch_volatile() {
        let kv = MemoryKv::new();
        kv.set_faults(Faults { fail_sync: Some(2), ..Faults::default() });
        write(&kv, &put(b"a", b"1"));
        kv.apply_batch(&put(b"a", b"2")).unwrap();
        assert!(matches!(kv.sync(), Err(KvError::Failed(_))));
        assert!(matches!(kv.sync(), Err(KvError::Failed(_))), "never retried");
        assert!(matches!(kv.apply_batch(&put(b"a", b"3")), Err(KvError::Failed(_))));
        assert_eq!(kv.crash(Unsynced::Lost).get(b"a").unwrap(), Some(b"1".to_vec()));
        assert_eq!(kv.crash(Unsynced::Kept).get(b"a").unwrap(), Some(b"2".to_vec()));
    }

    #[test]
    fn a_full_store_refuses_without_a_change_and_takes_again_once_there_is_room() {
        let kv = MemoryKv::new();
        kv.set_faults(Faults { capacity_bytes: Some(10), ..Faults::default() });
        write(&kv, &put(b"a", b"1234"));
        let mut batch = put(b"a", b"12");
        batch.put(b"b".to_vec(), b"1234567".to_vec());
        assert!(matches!(kv.apply_batch(&batch), Err(KvError::Full)));
        assert_eq!((kv.get(b"a").unwrap(), kv.get(b"b").unwrap()), (Some(b"1234".to_vec()), None));
        assert_eq!((kv.bytes_on_disk(), kv.unsynced_batches()), (5, 0));
        let mut freeing = WriteBatch::default();
        freeing.delete(b"a".to_vec());
        write(&kv, &freeing);
        write(&kv, &put(b"b", b"1234567"));
    }

    #[test]
    fn images_are_independent_of_the_store_they_came_from() {
        let kv = MemoryKv::new();
        write(&kv, &put(b"a", b"1"));
        let image = kv.durable();
        write(&kv, &put(b"a", b"2"));
        let restored = MemoryKv::from_image(&image);
        assert_eq!(restored.get(b"a").unwrap(), Some(b"1".to_vec()));
        write(&restored, &put(b"a", b"3"));
        assert_eq!(kv.get(b"a").unwrap(), Some(b"2".to_vec()));
        assert_eq!(image.len(), 1);
    }
}
