//! The journal before a store: cut at any time, damaged, over a store that fails or is full. That it is a store like any
//! other is tested with the others (`kv.rs`); power cuts are tested in `tests/`.

#![allow(clippy::unwrap_used, reason = "a test may fail, and says what it did")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;
use redeliver_log::kv::faulty::{Faults, FaultyKv, Unsynced};
use redeliver_log::kv::journaled::{JournalConfig, JournaledKv};
use redeliver_log::kv::{Direction, Kv, KvError, WriteBatch};
use tempfile::TempDir;

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

struct Subject {
    kv: JournaledKv,
    inner: Arc<FaultyKv>,
    dir: TempDir,
}

impl Subject {
    fn new() -> Subject {
        Subject::open(FaultyKv::new(), tempfile::tempdir().unwrap()).unwrap()
    }

    fn open(inner: FaultyKv, dir: TempDir) -> Result<Subject, KvError> {
        let inner = Arc::new(inner);
        let mut config = JournalConfig::default();
        // The least: a few batches to a generation.
        config.bytes_max = 0;
        config.settled_last = Some(b'k');
        let kv = JournaledKv::open(Arc::clone(&inner) as Arc<dyn Kv>, dir.path(), &config)?;
        Ok(Subject { kv, inner, dir })
    }

    /// What the next process finds: the journals as they are, and what the inner store durably holds.
    fn cut(&self) -> (FaultyKv, TempDir) {
        let dir = tempfile::tempdir().unwrap();
        for journal in journals(self.dir.path()) {
            fs::copy(&journal, dir.path().join(journal.file_name().unwrap())).unwrap();
        }
        (self.inner.crash(Unsynced::Lost), dir)
    }

    fn write(&self, changes: &[(u8, Option<usize>)], model: &mut Model) {
        self.kv.apply_batch(&batch(changes, model)).unwrap();
        self.kv.sync().unwrap();
    }

    fn content(&self) -> Model {
        let up: Model = self.kv.range(b"a", b"z", Direction::Up).map(Result::unwrap).collect();
        let down: Model = self.kv.range(b"a", b"z", Direction::Down).map(Result::unwrap).collect();
        assert_eq!(up, down);
        for (key, value) in &up {
            assert_eq!(self.kv.get(key).unwrap().as_ref(), Some(value));
        }
        up
    }
}

/// The journals that were begun. The others are there already, and empty.
fn journals(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| fs::metadata(path).unwrap().len() > 0);
    paths.sort();
    paths
}

fn batch(changes: &[(u8, Option<usize>)], model: &mut Model) -> WriteBatch {
    let mut batch = WriteBatch::default();
    for (key, bytes) in changes {
        let key = vec![b'k', *key];
        match bytes {
            Some(bytes) => {
                let value = vec![u8::try_from(bytes % 251).unwrap(); *bytes];
                batch.put(key.clone(), value.clone());
                model.insert(key, value);
            }
            None => {
                batch.delete(key.clone());
                model.remove(&key);
            }
        }
    }
    batch
}

#[derive(Clone, Debug)]
enum Step {
    Write(Vec<(u8, Option<usize>)>),
    Settle,
    Cut,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let change = (any::<u8>(), proptest::option::weighted(0.8, 0..7_000_usize));
    let step = prop_oneof![
        20 => proptest::collection::vec(change, 1..140).prop_map(Step::Write),
        1 => Just(Step::Settle),
        4 => Just(Step::Cut),
    ];
    proptest::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn wherever_it_is_cut_every_synced_batch_is_there_afterwards(steps in steps()) {
        let (mut subject, mut model) = (Subject::new(), Model::new());
        for step in &steps {
            match step {
                Step::Write(changes) => subject.write(changes, &mut model),
                Step::Settle => subject.kv.settle().unwrap(),
                Step::Cut => {
                    let (inner, dir) = subject.cut();
                    subject = Subject::open(inner, dir).unwrap();
                }
            }
            prop_assert_eq!(&subject.content(), &model);
        }
        subject.kv.settle().unwrap();
        let inner: Model = subject.inner.range(b"a", b"z", Direction::Up).map(Result::unwrap).collect();
        prop_assert_eq!(&inner, &model);
    }
}

#[test]
fn a_record_that_was_torn_disappears_and_those_before_it_stay() {
    let (subject, mut model) = (Subject::new(), Model::new());
    subject.write(&[(1, Some(6_000)), (2, Some(10))], &mut model);
    let (before, confirmed) = (fs::read(&journals(subject.dir.path())[0]).unwrap(), model.clone());
    subject.write(&[(1, None), (3, Some(6_000))], &mut model);
    let after = fs::read(&journals(subject.dir.path())[0]).unwrap();
    let changed: Vec<_> = (0..after.len()).filter(|at| before.get(*at) != Some(&after[*at])).collect();
    let (first, last) = (*changed.first().unwrap(), *changed.last().unwrap());
    for cut in [first, first + 1, first + 30, first + 4_096, last] {
        let (inner, dir) = subject_with(&subject, |bytes| bytes[cut..].copy_from_slice(&before[cut..]));
        let torn = Subject::open(inner, dir).unwrap();
        assert_eq!(torn.content(), confirmed, "cut at {cut}");
    }
    let (inner, dir) = subject_with(&subject, |_| {});
    assert_eq!(Subject::open(inner, dir).unwrap().content(), model);
}

#[test]
fn a_damaged_record_costs_no_other() {
    let (subject, mut model) = (Subject::new(), Model::new());
    subject.write(&[(1, Some(100))], &mut model);
    subject.write(&[(2, Some(100))], &mut Model::new());
    subject.write(&[(3, Some(100)), (1, Some(50))], &mut model);
    // Two pages of head, then a page for each record.
    let (inner, dir) = subject_with(&subject, |bytes| bytes[3 * 4_096 + 60] ^= 1);
    assert_eq!(Subject::open(inner, dir).unwrap().content(), model);
}

#[test]
fn one_of_two_heads_is_enough() {
    let (subject, mut model) = (Subject::new(), Model::new());
    subject.write(&[(1, Some(100))], &mut model);
    for head in 0..2 {
        let (inner, dir) = subject_with(&subject, |bytes| bytes[head * 4_096 + 13] ^= 1);
        assert_eq!(Subject::open(inner, dir).unwrap().content(), model);
    }
}

#[test]
fn an_older_copy_of_the_store_under_the_journal_is_refused() {
    let (subject, mut model) = (Subject::new(), Model::new());
    subject.write(&[(1, Some(100))], &mut model);
    let older = subject.inner.durable();
    subject.kv.settle().unwrap();
    subject.kv.settle().unwrap();
    subject.kv.settle().unwrap();
    subject.write(&[(2, Some(100))], &mut model);
    let (_, dir) = subject.cut();
    let Err(KvError::Failed(words)) = Subject::open(FaultyKv::from_image(&older), dir).map(|_| ()) else {
        panic!("it was opened");
    };
    assert!(words.contains("backup"), "{words}");
}

#[test]
fn while_the_inner_store_is_full_batches_are_refused_in_the_end_and_nothing_is_lost() {
    let (subject, mut model) = (Subject::new(), Model::new());
    subject.inner.set_faults(Faults { capacity_bytes: Some(1_000), ..Faults::default() });
    let mut key = 0;
    loop {
        let mut next = model.clone();
        let batch = batch(&[(key, Some(7_000)), (key.wrapping_add(1), Some(6_999))], &mut next);
        match subject.kv.apply_batch(&batch) {
            Ok(()) => subject.kv.sync().unwrap(),
            Err(KvError::Full) => break,
            Err(error) => panic!("{error}"),
        }
        (model, key) = (next, key.wrapping_add(1));
    }
    assert_eq!(subject.content(), model);
    assert!(matches!(subject.kv.settle(), Err(KvError::Full)));
    subject.inner.set_faults(Faults::default());
    subject.kv.settle().unwrap();
    subject.write(&[(7, None), (8, Some(1))], &mut model);
    assert_eq!(subject.content(), model);
}

/// Writes all 256 keys until the first generation is frozen over an inner store that has no room for it.
fn frozen(model: &mut Model) -> Subject {
    let subject = Subject::new();
    subject.inner.set_faults(Faults { capacity_bytes: Some(1_000), ..Faults::default() });
    let mut key = 0_u8;
    while journals(subject.dir.path()).len() < 2 {
        subject.write(&[(key, Some(6_000))], model);
        key = key.wrapping_add(1);
    }
    assert_eq!(model.len(), 256);
    subject
}

#[test]
fn what_the_next_generation_has_deleted_never_reaches_the_inner_store() {
    let mut model = Model::new();
    let subject = frozen(&mut model);
    for key in 0..200 {
        subject.write(&[(key, None)], &mut model);
    }
    // Room for what is left, not for what was there.
    subject.inner.set_faults(Faults { capacity_bytes: Some(500_000), ..Faults::default() });
    subject.kv.settle().unwrap();
    assert_eq!(subject.content(), model);
    let (inner, dir) = subject.cut();
    assert_eq!(Subject::open(inner, dir).unwrap().content(), model);
}

#[test]
fn a_delete_that_is_not_durable_keeps_nothing_from_being_settled() {
    let mut model = Model::new();
    let subject = frozen(&mut model);
    let before: Vec<_> =
        journals(subject.dir.path()).into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    subject.kv.apply_batch(&batch(&[(1, None), (2, Some(5)), (3, None)], &mut model.clone())).unwrap();
    subject.inner.set_faults(Faults::default());
    while subject.inner.get(b"\xff\xffsettled").unwrap().is_none() {
        std::thread::yield_now();
    }
    // The power goes before its sync.
    let (inner, dir) = subject.cut();
    for (path, bytes) in before {
        fs::write(dir.path().join(path.file_name().unwrap()), bytes).unwrap();
    }
    assert_eq!(Subject::open(inner, dir).unwrap().content(), model);
}

#[test]
fn a_failure_of_the_inner_store_is_the_end() {
    let subject = Subject::new();
    subject.write(&[(1, Some(100))], &mut Model::new());
    subject.inner.set_faults(Faults { fail_sync: Some(1), ..Faults::default() });
    assert!(matches!(subject.kv.settle(), Err(KvError::Failed(_))));
    assert!(matches!(subject.kv.get(b"k"), Err(KvError::Failed(_))));
    assert!(matches!(subject.kv.sync(), Err(KvError::Failed(_))));
    assert!(matches!(subject.kv.apply_batch(&batch(&[(1, None)], &mut Model::new())), Err(KvError::Failed(_))));
    assert!(matches!(subject.kv.range(b"a", b"z", Direction::Up).next(), Some(Err(KvError::Failed(_)))));
}

/// What the next process would find, with the first journal changed.
fn subject_with(subject: &Subject, change: impl FnOnce(&mut Vec<u8>)) -> (FaultyKv, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let journal = &journals(subject.dir.path())[0];
    let mut bytes = fs::read(journal).unwrap();
    change(&mut bytes);
    fs::write(dir.path().join(journal.file_name().unwrap()), bytes).unwrap();
    (FaultyKv::from_image(&subject.inner.durable()), dir)
}
