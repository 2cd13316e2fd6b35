//! Many readers behind at once: what one has read from the store the others share.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use redeliver_log::kv::faulty::FaultyKv;
use redeliver_log::kv::{Direction, Entries, Kv, KvError, WriteBatch};
use redeliver_log::{Log, LogConfig};
use redeliver_protocol::history::{ReadOutcome, Start};
use redeliver_protocol::seq::{Nth, Seq};
use redeliver_protocol::time::{Instant, Timestamp};

use crate::bench::{Bench, at, epoch, event, topic};
use crate::folding::small;

/// A store that counts how often it is asked for something.
#[derive(Debug)]
struct Counting {
    inner: FaultyKv,
    asked: AtomicUsize,
}

impl Kv for Counting {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.inner.get(key)
    }

    fn range(&self, from: &[u8], to: &[u8], direction: Direction) -> Entries<'_> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.inner.range(from, to, direction)
    }

    fn apply_batch(&self, batch: &WriteBatch) -> Result<(), KvError> {
        self.inner.apply_batch(batch)
    }

    fn sync(&self) -> Result<(), KvError> {
        self.inner.sync()
    }

    fn bytes_on_disk(&self) -> u64 {
        self.inner.bytes_on_disk()
    }
}

const TOPICS: usize = 10;
const EVENTS: u64 = 60;

/// A log that was filled, folded in part and opened again.
fn reopened(config: LogConfig) -> (Arc<Counting>, Log) {
    let bench = Bench::with(config);
    for number in 0..EVENTS {
        bench.emit((0..TOPICS).map(|of| event(&[&format!("t{of}")], &number.to_string())).collect());
        if number == EVENTS / 3 * 2 {
            bench.tend_all();
        }
    }
    let inner = FaultyKv::from_image(&bench.kv.durable());
    let kv = Arc::new(Counting { inner, asked: AtomicUsize::new(0) });
    let opened = Log::open(Arc::clone(&kv) as Arc<dyn Kv>, bench.config, epoch(2), Timestamp(0), Instant::ORIGIN);
    (kv, opened.unwrap())
}

/// Reads a topic to its end as a subscription does.
fn catch_up(log: &Log, name: &str) {
    let name = topic(name);
    let opened = log.open_subscription(&name, &Start::Earliest, None, Timestamp(0)).unwrap();
    let (mut after, mut nth) = (opened.after.seq, opened.nth);
    loop {
        match log.read(&name, after, nth, 7, 1_000).unwrap() {
            ReadOutcome::Batch(batch) => {
                assert_eq!(batch.first_nth, nth.next());
                (after, nth) = (batch.last_seq, batch.last_nth());
            }
            ReadOutcome::End => break,
            ReadOutcome::Gap(gap) => panic!("nothing is missing: {gap:?}"),
        }
    }
    assert_eq!(nth, Nth(EVENTS));
}

fn asked(kv: &Counting, readers: usize, name: impl Fn(usize) -> String + Sync, log: &Log) -> usize {
    let before = kv.asked.load(Ordering::Relaxed);
    std::thread::scope(|scope| {
        for reader in 0..readers {
            let name = name(reader);
            scope.spawn(move || catch_up(log, &name));
        }
    });
    kv.asked.load(Ordering::Relaxed) - before
}

#[test]
fn readers_who_come_back_to_one_place_at_once_cost_about_as_much_as_one() {
    for recent_bytes_max in [0, 1_000_000] {
        let (kv, log) = reopened(small(recent_bytes_max));
        let alone = asked(&kv, 1, |_| "t0".to_owned(), &log);
        assert!(alone > 0, "it is not all in memory");
        let (kv, log) = reopened(small(recent_bytes_max));
        let together = asked(&kv, 32, |_| "t0".to_owned(), &log);
        assert!(together <= 2 * alone, "{together} for all, {alone} for one");
    }
}

#[test]
fn a_reader_is_not_read_from_the_store_what_is_in_memory() {
    let (kv, log) = reopened(small(1_000_000));
    let alone = asked(&kv, 1, |_| "t0".to_owned(), &log);
    assert!(alone > 0, "the beginning is in the store alone");
    let tail_commits = usize::try_from(EVENTS / 3).unwrap();
    assert!(alone < tail_commits / 2, "no commit of the tail was read: {alone} questions");
}

#[test]
fn a_row_of_very_many_topics_reads_only_those_that_have_something_in_it() {
    let mut config = small(0);
    config.read_cache_bytes_max = 0;
    let bench = Bench::with(config);
    let name = |of: u64| format!("t{of}");
    // One topic after another: each row's events are in one or two of them.
    let (topics, events) = (100, 20);
    for of in 0..topics {
        bench.emit((0..events).map(|number| event(&[&name(of)], &number.to_string())).collect());
    }
    bench.tend_all();
    let inner = FaultyKv::from_image(&bench.kv.durable());
    let kv = Arc::new(Counting { inner, asked: AtomicUsize::new(0) });
    let opened = Log::open(Arc::clone(&kv) as Arc<dyn Kv>, bench.config, epoch(2), Timestamp(0), Instant::ORIGIN);
    let log = opened.unwrap();
    let mut reader = log.merged_reader(at(1, 0));
    (0..topics).for_each(|of| reader.follow(topic(&name(of)), Seq(0), None));
    let first = log.read_merged(&mut reader, 5, 100_000).unwrap();
    assert!(first.is_cut && !first.items.is_empty());
    let (before, mut given) = (kv.asked.load(Ordering::Relaxed), first.items.len() as u64);
    while reader.place().seq < Seq(topics * events) {
        given += log.read_merged(&mut reader, 5, 100_000).unwrap().items.len() as u64;
    }
    assert_eq!(given, topics * events);
    let asked = (kv.asked.load(Ordering::Relaxed) - before) as u64;
    assert!(asked < 4 * topics * events, "{asked} questions for {given} events of {topics} topics");
}

#[test]
fn what_is_shared_is_bounded_and_what_retention_took_is_not_given_from_there() {
    let mut config = small(0);
    config.read_cache_bytes_max = 2_000;
    config.retention.count = Some(100);
    let bench = Bench::with(config);
    for number in 0..40 {
        bench.emit(vec![event(&["t"], &number.to_string()), event(&["u"], "x")]);
    }
    bench.tend_all();
    assert_eq!(bench.payloads("t").len(), 40);
    assert_eq!(bench.payloads("u").len(), 40);
    for number in 40..80 {
        bench.emit(vec![event(&["t"], &number.to_string()), event(&["u"], "x")]);
    }
    bench.tend_all();
    let floor = bench.log.stats().floor;
    assert!(floor > Seq(40));
    let left = bench.payloads("t");
    assert_eq!(left.last().map(String::as_str), Some("79"));
    assert!(left[0].parse::<u64>().unwrap() >= floor.0 / 2, "nothing from below the floor: {}", left[0]);
}
