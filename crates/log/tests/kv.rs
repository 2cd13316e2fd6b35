//! One conformance suite for every store: what the log relies on, and nothing else. Power cuts are tested in `tests/`.

#![allow(clippy::unwrap_used, reason = "a test may fail, and says what it did")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;
use redeliver_log::kv::faulty::{FaultyKv, Unsynced};
use redeliver_log::kv::journaled::{JournalConfig, JournaledKv};
use redeliver_log::kv::sled::{SledConfig, SledKv};
use redeliver_log::kv::{BATCH_BYTES_MAX, Direction, KEY_BYTES_MAX, Kv, KvError, VALUE_BYTES_MAX, WriteBatch};
use tempfile::TempDir;

/// A store that can be closed and opened again.
trait Subject {
    fn kv(&self) -> &dyn Kv;
    fn reopen(self: Box<Self>) -> Box<dyn Subject>;
}

struct Memory(FaultyKv);

impl Subject for Memory {
    fn kv(&self) -> &dyn Kv {
        &self.0
    }

    fn reopen(self: Box<Self>) -> Box<dyn Subject> {
        Box::new(Memory(self.0.crash(Unsynced::Lost)))
    }
}

struct Sled {
    kv: SledKv,
    dir: TempDir,
}

impl Subject for Sled {
    fn kv(&self) -> &dyn Kv {
        &self.kv
    }

    fn reopen(self: Box<Self>) -> Box<dyn Subject> {
        let Sled { kv, dir } = *self;
        drop(kv);
        Box::new(Sled { kv: SledKv::open(dir.path(), &SledConfig::default()).unwrap(), dir })
    }
}

struct Journaled {
    kv: JournaledKv,
    dir: TempDir,
}

impl Journaled {
    fn open(dir: TempDir) -> Journaled {
        let sled = SledKv::open(dir.path(), &SledConfig::default()).unwrap();
        let kv = JournaledKv::open(Arc::new(sled), dir.path(), &JournalConfig::default()).unwrap();
        Journaled { kv, dir }
    }
}

impl Subject for Journaled {
    fn kv(&self) -> &dyn Kv {
        &self.kv
    }

    fn reopen(self: Box<Self>) -> Box<dyn Subject> {
        let Journaled { kv, dir } = *self;
        drop(kv);
        Box::new(Journaled::open(dir))
    }
}

fn stores() -> Vec<Box<dyn Subject>> {
    let dir = tempfile::tempdir().unwrap();
    let kv = SledKv::open(dir.path(), &SledConfig::default()).unwrap();
    let journaled = Journaled::open(tempfile::tempdir().unwrap());
    vec![Box::new(Memory(FaultyKv::new())), Box::new(Sled { kv, dir }), Box::new(journaled)]
}

fn batch(changes: &[(&[u8], Option<&[u8]>)]) -> WriteBatch {
    let mut batch = WriteBatch::default();
    for (key, value) in changes {
        match value {
            Some(value) => batch.put(key.to_vec(), value.to_vec()),
            None => batch.delete(key.to_vec()),
        }
    }
    batch
}

fn write(kv: &dyn Kv, changes: &[(&[u8], Option<&[u8]>)]) {
    kv.apply_batch(&batch(changes)).unwrap();
    kv.sync().unwrap();
}

fn keys(kv: &dyn Kv, from: &[u8], to: &[u8], direction: Direction) -> Vec<Vec<u8>> {
    kv.range(from, to, direction).map(|entry| entry.unwrap().0).collect()
}

#[test]
fn ranges_are_half_open_and_in_key_order_both_ways() {
    for store in stores() {
        let kv = store.kv();
        write(kv, &[(b"b", Some(b"2")), (b"a\xff\xff", Some(b"1")), (b"a", Some(b"0")), (b"c", Some(b"3"))]);
        assert_eq!(keys(kv, b"a", b"c", Direction::Up), [&b"a"[..], b"a\xff\xff", b"b"]);
        assert_eq!(keys(kv, b"a", b"c", Direction::Down), [&b"b"[..], b"a\xff\xff", b"a"]);
        assert_eq!(keys(kv, b"a\0", b"\xff", Direction::Down), [&b"c"[..], b"b", b"a\xff\xff"]);
        for (from, to) in [(b"b", b"b"), (b"c", b"a"), (b"d", b"e")] {
            assert!(keys(kv, from, to, Direction::Up).is_empty(), "{from:?}..{to:?}");
            assert!(keys(kv, from, to, Direction::Down).is_empty(), "{from:?}..{to:?}");
        }
    }
}

#[test]
fn what_was_synced_is_there_after_opening_again_and_deleted_keys_are_not() {
    for store in stores() {
        write(store.kv(), &[(b"kept", Some(b"1")), (b"deleted", Some(b"2")), (b"changed", Some(b"3"))]);
        write(store.kv(), &[(b"deleted", None), (b"changed", Some(b"4")), (b"never there", None)]);
        let store = store.reopen();
        assert_eq!(store.kv().get(b"kept").unwrap(), Some(b"1".to_vec()));
        assert_eq!(store.kv().get(b"deleted").unwrap(), None);
        assert_eq!(store.kv().get(b"changed").unwrap(), Some(b"4".to_vec()));
        assert_eq!(keys(store.kv(), b"\0", b"\xff", Direction::Up), [&b"changed"[..], b"kept"]);
    }
}

#[test]
fn the_last_change_of_a_key_in_a_batch_wins() {
    for store in stores() {
        let kv = store.kv();
        write(kv, &[(b"a", Some(b"1")), (b"a", None), (b"b", None), (b"b", Some(b"1")), (b"b", Some(b"2"))]);
        assert_eq!((kv.get(b"a").unwrap(), kv.get(b"b").unwrap()), (None, Some(b"2".to_vec())));
    }
}

#[test]
fn an_empty_value_is_not_a_missing_one() {
    for store in stores() {
        write(store.kv(), &[(b"a", Some(b""))]);
        let store = store.reopen();
        assert_eq!(store.kv().get(b"a").unwrap(), Some(Vec::new()));
    }
}

#[test]
fn what_is_too_large_is_refused_before_anything_changes() {
    let long_key = vec![1; KEY_BYTES_MAX + 1];
    let long_value = vec![0; VALUE_BYTES_MAX + 1];
    for store in stores() {
        let kv = store.kv();
        for refused in [
            batch(&[(b"a", Some(b"1")), (b"b", Some(&long_value))]),
            batch(&[(b"a", Some(b"1")), (&long_key, Some(b"1"))]),
            batch(&[(b"a", Some(b"1")), (b"", Some(b"1"))]),
            batch(&(0..=BATCH_BYTES_MAX / 7_000).map(|_| (&b"a"[..], Some(&long_value[1..]))).collect::<Vec<_>>()),
        ] {
            assert!(matches!(kv.apply_batch(&refused), Err(KvError::TooLarge(_))));
        }
        assert_eq!(kv.get(b"a").unwrap(), None);
        write(kv, &[(&long_key[1..], Some(&long_value[1..]))]);
        assert_eq!(kv.get(&long_key[1..]).unwrap().unwrap().len(), VALUE_BYTES_MAX);
    }
}

#[test]
fn a_batch_before_the_sync_of_the_one_before_it_is_the_end_of_the_store() {
    for store in stores() {
        let kv = store.kv();
        kv.apply_batch(&batch(&[(b"a", Some(b"1"))])).unwrap();
        assert_eq!(kv.get(b"a").unwrap(), Some(b"1".to_vec()), "visible before it is durable");
        assert!(matches!(kv.apply_batch(&batch(&[(b"b", Some(b"1"))])), Err(KvError::Failed(_))));
        assert!(matches!(kv.sync(), Err(KvError::Failed(_))));
        assert!(matches!(kv.get(b"a"), Err(KvError::Failed(_))));
        assert!(matches!(kv.range(b"a", b"b", Direction::Up).next(), Some(Err(KvError::Failed(_)))));
    }
}

#[test]
fn a_reader_beside_the_writer_sees_whole_values_in_key_order_and_none_older_than_before() {
    for store in stores() {
        let kv = store.kv();
        let is_done = AtomicBool::new(false);
        let value = |round: u32| round.to_be_bytes().repeat(1_000);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 1..=40_u32 {
                    let value = value(round);
                    let fresh = (1_000 + round).to_be_bytes();
                    write(kv, &[(b"\x01first", Some(&value)), (&fresh, Some(&value)), (b"\x02last", Some(&value))]);
                }
                is_done.store(true, Ordering::SeqCst);
            });
            while !is_done.load(Ordering::SeqCst) {
                let newest = kv.get(b"\x01first").unwrap();
                let seen: Vec<_> = kv.range(b"\0", b"\xff", Direction::Up).map(Result::unwrap).collect();
                assert!(seen.is_sorted_by(|a, b| a.0 < b.0));
                for (_, bytes) in &seen {
                    assert!(bytes.chunks(4).all(|chunk| chunk == &bytes[..4]), "a torn value");
                }
                // A range is no snapshot, but what was there when it began is in it.
                let first = seen.iter().find(|entry| entry.0 == b"\x01first").map(|entry| &entry.1);
                assert!(first >= newest.as_ref());
            }
        });
        assert_eq!(keys(kv, b"\0", b"\x01", Direction::Up).len(), 40);
    }
}

#[test]
fn full_leaves_and_their_neighbours_stay_in_the_one_file_that_is_synced() {
    let dir = tempfile::tempdir().unwrap();
    let kv = SledKv::open(dir.path(), &SledConfig::default()).unwrap();
    let key = |number: u32| [&[7; KEY_BYTES_MAX - 4][..], &number.to_be_bytes()].concat();
    let value = vec![0xab; VALUE_BYTES_MAX];
    for numbers in (0..600).collect::<Vec<_>>().chunks(100) {
        let keys: Vec<_> = numbers.iter().map(|number| key(*number)).collect();
        write(&kv, &keys.iter().map(|key| (&key[..], Some(&value[..]))).collect::<Vec<_>>());
    }
    // Leaves that lose nearly all of their entries are merged into full neighbours.
    for numbers in (0..600).filter(|number| number / 20 % 2 == 1).collect::<Vec<_>>().chunks(7) {
        let keys: Vec<_> = numbers.iter().map(|number| key(*number)).collect();
        write(&kv, &keys.iter().map(|key| (&key[..], None)).collect::<Vec<_>>());
        assert_eq!(std::fs::read_dir(dir.path().join("blobs")).unwrap().count(), 0);
    }
    assert_eq!(keys(&kv, &key(0), &key(600), Direction::Up).len(), 300);
}

#[derive(Clone, Debug)]
enum Step {
    Write(Vec<(u8, Option<u16>)>),
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let change = (any::<u8>(), proptest::option::of(0..7_000_u16));
    let step = prop_oneof![
        20 => proptest::collection::vec(change, 1..40).prop_map(Step::Write),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..30)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_store_holds_what_a_map_would(steps in steps()) {
        for mut store in stores() {
            let mut model = BTreeMap::new();
            for step in &steps {
                match step {
                    Step::Reopen => store = store.reopen(),
                    Step::Write(changes) => {
                        let mut batch = WriteBatch::default();
                        for (key, length) in changes {
                            let key = vec![b't', *key];
                            match length {
                                Some(length) => {
                                    let value = vec![key[1]; usize::from(*length)];
                                    batch.put(key.clone(), value.clone());
                                    model.insert(key, value);
                                }
                                None => {
                                    batch.delete(key.clone());
                                    model.remove(&key);
                                }
                            }
                        }
                        store.kv().apply_batch(&batch).unwrap();
                        store.kv().sync().unwrap();
                    }
                }
                let up: Vec<_> = store.kv().range(b"t", b"u", Direction::Up).map(Result::unwrap).collect();
                let mut down: Vec<_> = store.kv().range(b"t", b"u", Direction::Down).map(Result::unwrap).collect();
                down.reverse();
                prop_assert_eq!(&up, &model.clone().into_iter().collect::<Vec<_>>());
                prop_assert_eq!(&down, &up);
            }
        }
    }
}
