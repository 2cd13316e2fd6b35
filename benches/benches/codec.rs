//! What an event costs on its way over the wire: emits decoded, records encoded once, batches read.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use redeliver_benches::event;
use redeliver_protocol::codec::{self, Records};
use redeliver_protocol::event::PayloadKind;
use redeliver_protocol::frame::ClientFrame;
use redeliver_protocol::seq::{EmitNumber, Nth, Seq};
use redeliver_protocol::time::Timestamp;

const EVENTS: u64 = 64;
const PAYLOAD: [u8; 128] = [b'x'; 128];

fn emits(c: &mut Criterion) {
    let events = (0..EVENTS).map(|_| event("orders", PAYLOAD.len()).unwrap()).collect();
    let frame = ClientFrame::Emit { first: EmitNumber(1), events };
    let message = codec::encode_client(&frame);
    let mut group = c.benchmark_group("codec/emit of 64 events");
    group.throughput(Throughput::Elements(EVENTS));
    group.bench_function("encode", |b| b.iter(|| codec::encode_client(&frame)));
    group.bench_function("decode", |b| b.iter(|| codec::decode_from_client(&message).unwrap()));
    group.finish();
}

fn records(c: &mut Criterion) {
    let encode = |out: &mut BytesMut| {
        for i in 1..=EVENTS {
            codec::encode_record(out, (Seq(i), Nth(i), Timestamp(1)), PayloadKind::Bytes, "message", &PAYLOAD);
        }
    };
    let mut batch = BytesMut::new();
    encode(&mut batch);
    let bytes = batch.len();
    let batch: Bytes = batch.freeze();
    let mut group = c.benchmark_group("codec/batch of 64 records");
    group.throughput(Throughput::Elements(EVENTS));
    group.bench_function("encode", |b| {
        b.iter_batched_ref(|| BytesMut::with_capacity(bytes), encode, BatchSize::SmallInput);
    });
    group.bench_function("decode", |b| {
        b.iter(|| Records::new(batch.clone()).map(|record| record.unwrap().seq.0).sum::<u64>());
    });
    group.finish();
}

criterion_group!(benches, emits, records);
criterion_main!(benches);
