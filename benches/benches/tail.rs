//! What a reader near the head costs: one read of the newest events from memory, as each of a thousand woken readers does it.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use redeliver_benches::event;
use redeliver_log::kv::memory::MemoryKv;
use redeliver_log::{Log, LogConfig, WriteRequest};
use redeliver_protocol::history::ReadOutcome;
use redeliver_protocol::name::TopicName;
use redeliver_protocol::seq::{EmitNumber, Epoch, Nth, Seq};
use redeliver_protocol::time::{Instant, Timestamp};

const NOW: Timestamp = Timestamp(1_800_000_000_000);
const EVENTS: u64 = 16_384;
const BATCH_BYTES: usize = 32 * 1024;

fn near_the_head(c: &mut Criterion) {
    let (alone, topic) = (log(1), TopicName::new("topic 0").unwrap());
    let among_others = log(64);
    let mut group = c.benchmark_group("tail/read near the head");
    for events in [1, 8, 64] {
        group.throughput(Throughput::Elements(events));
        for (log, topics, what) in [(&alone, 1, "one topic"), (&among_others, 64, "one of 64 topics")] {
            let head = EVENTS / topics;
            let (nth, seq) = (head - events, (head - events) * topics);
            group.bench_function(format!("{events} events, {what}"), |b| {
                b.iter(|| {
                    let read = log.read_recent(&topic, Seq(seq), Nth(nth), u32::MAX, BATCH_BYTES);
                    let Some(ReadOutcome::Batch(batch)) = read else { panic!("{read:?}") };
                    assert_eq!(u64::from(batch.count), events);
                    batch
                });
            });
        }
    }
    group.finish();
}

fn all_of_it(c: &mut Criterion) {
    let (log, topic) = (log(1), TopicName::new("topic 0").unwrap());
    let mut group = c.benchmark_group("tail/replay from memory");
    group.throughput(Throughput::Elements(EVENTS));
    group.bench_function("in batches of 32 KiB", |b| {
        b.iter(|| {
            let (mut after, mut nth) = (Seq::ZERO, Nth::ZERO);
            while let Some(ReadOutcome::Batch(batch)) = log.read_recent(&topic, after, nth, u32::MAX, BATCH_BYTES) {
                (after, nth) = (batch.last_seq, batch.last_nth());
            }
            assert_eq!(nth, Nth(EVENTS), "everything was read");
        });
    });
    group.finish();
}

/// A log with events of so many topics in turn, all of them still in memory.
fn log(topics: u64) -> Log {
    let config = LogConfig::default();
    let log = Log::open(Arc::new(MemoryKv::new()), config, Epoch([1; 16]), NOW, Instant::ORIGIN).unwrap();
    for commit in 0..EVENTS / 64 {
        let topic = |i: u64| format!("topic {}", (commit * 64 + i) % topics);
        let events = (0..64).map(|i| Ok(event(&topic(i), 128).unwrap())).collect();
        let request = WriteRequest::Emit { publisher: None, first: EmitNumber(1), events };
        let staged = log.stage(vec![request], NOW, Instant::ORIGIN).unwrap();
        log.publish(staged).unwrap();
    }
    log
}

criterion_group!(benches, near_the_head, all_of_it);
criterion_main!(benches);
