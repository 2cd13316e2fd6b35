//! Readers beside the writer: whatever is staged, folded or trimmed meanwhile, each reads on without a hole.

use std::sync::atomic::{AtomicBool, Ordering};

use redeliver_protocol::codec::Records;
use redeliver_protocol::history::{GapCause, ReadOutcome, Start};
use redeliver_protocol::seq::{Nth, Seq};
use redeliver_protocol::time::Timestamp;

use crate::bench::{Bench, event, topic};

const EVENTS: u64 = 3_000;

/// Follows a topic until an nth is reached. Gives how many events it got and how many it was told to be gone.
fn follow_until(bench: &Bench, name: &str, nth_max: u64, done: &AtomicBool) -> (u64, u64) {
    let name = topic(name);
    let (mut after, mut nth) = (Seq::ZERO, Nth::ZERO);
    let (mut got, mut gone) = (0, 0);
    while nth.0 < nth_max {
        let head = bench.log.head();
        match bench.log.read(&name, after, nth, 50, 4_000).unwrap() {
            ReadOutcome::End => {
                assert!(!done.load(Ordering::Relaxed), "the writer has ended early");
                std::thread::yield_now();
            }
            ReadOutcome::Gap(gap) => {
                assert!(matches!(gap.cause, GapCause::RetentionSize | GapCause::RetentionAge), "{gap:?}");
                assert!(gap.count > 0 && gap.count == gap.nth_through.since(nth) && gap.through.seq > after);
                gone += gap.count;
                (after, nth) = (gap.through.seq, gap.nth_through);
            }
            ReadOutcome::Batch(batch) => {
                assert!(bench.log.head().seq >= batch.last_seq, "nothing is visible beyond the head");
                for record in Records::new(batch.records) {
                    let record = record.unwrap();
                    assert_eq!(record.nth, nth.next());
                    assert_eq!(record.payload, record.nth.0.to_string());
                    (after, nth) = (record.seq, record.nth);
                    got += 1;
                }
            }
        }
        assert!(bench.log.head().seq >= head.seq, "the head never goes back");
    }
    (got, gone)
}

/// Opens subscriptions at all kinds of places, each of which must be a place of one moment.
fn open_until(bench: &Bench, name: &str, done: &AtomicBool) {
    let name = topic(name);
    while !done.load(Ordering::Relaxed) {
        for start in [Start::Earliest, Start::Latest, Start::Last(20), Start::Since(Timestamp(bench.now))] {
            let opened = bench.log.open_subscription(&name, &start, None, Timestamp(bench.now)).unwrap();
            assert!(opened.after.seq <= opened.head.seq);
            assert!(opened.pending <= opened.head.seq.0 - opened.after.seq.0);
            match bench.log.read(&name, opened.after.seq, opened.nth, 1, 0).unwrap() {
                ReadOutcome::Batch(batch) => assert_eq!(batch.first_nth, opened.nth.next()),
                ReadOutcome::Gap(gap) => assert_eq!(gap.cause, GapCause::RetentionSize, "it was trimmed meanwhile"),
                ReadOutcome::End => assert_eq!(opened.pending, 0),
            }
        }
    }
}

/// Ends the readers when the writer ends, also in a panic.
struct Writing<'a>(&'a AtomicBool);

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn readers_beside(count: Option<u64>, recent_bytes_max: usize) {
    let mut config = redeliver_log::LogConfig::default();
    config.fold_bytes = 3_000;
    config.recent_bytes_max = recent_bytes_max;
    config.retention.count = count;
    let bench = &Bench::with(config);
    let done = &AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> =
            ["all", "all", "some"].map(|name| scope.spawn(move || follow_until(bench, name, EVENTS, done))).into();
        scope.spawn(move || open_until(bench, "all", done));
        let _writing = Writing(done);
        for number in 1..=EVENTS {
            let payload = number.to_string();
            bench.emit(vec![event(&["all", "some"], &payload), event(&[&format!("other{}", number % 9)], "x")]);
            bench.maintain();
        }
        for reader in readers {
            let (got, gone) = reader.join().unwrap();
            assert_eq!(got + gone, EVENTS);
            assert!(count.is_some() || gone == 0);
        }
    });
    assert_eq!(bench.log.stats().damaged_reads, 0);
}

#[test]
fn readers_see_every_event_while_the_log_is_written_and_folded() {
    readers_beside(None, 2_000);
    readers_beside(None, 0);
}

#[test]
fn readers_are_told_exactly_what_retention_took_from_under_them() {
    readers_beside(Some(40), 2_000);
    readers_beside(Some(40), 0);
}
