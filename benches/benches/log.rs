//! What a durable commit costs, in memory (CPU alone) and on this machine's disk (with its fsync), and a replay after it.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use redeliver_benches::event;
use redeliver_log::kv::memory::MemoryKv;
use redeliver_log::{Log, LogConfig, Maintenance, WriteRequest, open_dir};
use redeliver_protocol::history::ReadOutcome;
use redeliver_protocol::name::TopicName;
use redeliver_protocol::seq::{EmitNumber, Epoch, Nth, Seq};
use redeliver_protocol::time::{Instant, Timestamp};

const NOW: Timestamp = Timestamp(1_800_000_000_000);
const PAYLOAD_BYTES: usize = 128;
const TOPICS: u64 = 1_000;

fn append(c: &mut Criterion) {
    let mut group = c.benchmark_group("log/durable append");
    group.sample_size(20);
    for events in [1, 64, 256, 1_024] {
        group.throughput(Throughput::Elements(events));
        let memory = in_memory();
        group.bench_function(format!("memory, {events} a commit"), |b| {
            b.iter_batched(|| request(events), |request| commit(&memory, request), BatchSize::SmallInput);
        });
        let dir = tempfile::tempdir().unwrap();
        let disk = open_dir(dir.path(), LogConfig::default(), Epoch([1; 16]), NOW, Instant::ORIGIN).unwrap();
        group.bench_function(format!("disk, {events} a commit"), |b| {
            b.iter_batched(|| request(events), |request| commit(&disk, request), BatchSize::SmallInput);
        });
    }
    group.finish();
}

fn replay(c: &mut Criterion) {
    const EVENTS: u64 = 100_000;
    let log = in_memory();
    for _ in 0..EVENTS / 1_000 {
        let events = (0..1_000).map(|_| Ok(event("orders", PAYLOAD_BYTES).unwrap())).collect();
        commit(&log, WriteRequest::Emit { publisher: None, first: EmitNumber(1), events });
    }
    let topic = TopicName::new("orders").unwrap();
    let mut group = c.benchmark_group("log/replay of one topic");
    group.sample_size(10);
    group.throughput(Throughput::Elements(EVENTS));
    group.bench_function("from the beginning", |b| {
        b.iter(|| {
            let (mut after, mut nth) = (Seq::ZERO, Nth::ZERO);
            while let ReadOutcome::Batch(batch) = log.read(&topic, after, nth, u32::MAX, 32 * 1024).unwrap() {
                (after, nth) = (batch.last_seq, batch.last_nth());
            }
            assert_eq!(nth, Nth(EVENTS), "everything was read");
        });
    });
    group.finish();
}

fn in_memory() -> Log {
    Log::open(Arc::new(MemoryKv::new()), LogConfig::default(), Epoch([1; 16]), NOW, Instant::ORIGIN).unwrap()
}

fn request(events: u64) -> WriteRequest {
    let topic = |i: u64| format!("topic {}", i % TOPICS);
    let events = (0..events).map(|i| Ok(event(&topic(i), PAYLOAD_BYTES).unwrap())).collect();
    WriteRequest::Emit { publisher: None, first: EmitNumber(1), events }
}

/// One commit, and what it makes due: folding is part of the price.
fn commit(log: &Log, request: WriteRequest) {
    let staged = log.stage(vec![request], NOW, Instant::ORIGIN).unwrap();
    log.publish(staged).unwrap();
    while log.maintain(NOW, Instant::ORIGIN).unwrap() == Maintenance::More {}
}

criterion_group!(benches, append, replay);
criterion_main!(benches);
