//! What a batch costs in the server's session: from the wake to the batch that goes out, and the ack that comes back.
#![allow(missing_docs, clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "a benchmark")]

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use redeliver_benches::wire::{NAME, SUBSCRIPTION, ack, hello, subscribe};
use redeliver_protocol::codec::encode_record;
use redeliver_protocol::config::ServerConfig;
use redeliver_protocol::event::PayloadKind;
use redeliver_protocol::history::{Batch, Opened, PublisherState, ReadOutcome, Start};
use redeliver_protocol::redelivery::DeliveredThrough;
use redeliver_protocol::seq::{Epoch, Nth, Position, Seq};
use redeliver_protocol::server::{Admitted, Input, Output, Reply, ServerSession};
use redeliver_protocol::time::{Instant, Timestamp};

fn session(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("session");
    group.throughput(Throughput::Elements(BATCH));
    let mut session = subscribed();
    let records = records(1);
    let mut through = 0;
    group.bench_function("deliver a batch of 64", |bencher| {
        bencher.iter(|| {
            session.handle(Input::Reply(Reply::Grew { id: SUBSCRIPTION }), NOW);
            let mut sent = 0;
            while let Some(output) = session.poll_output() {
                let outcome = match output {
                    Output::Read { after, nth, .. } if after.0 == through => ReadOutcome::Batch(Batch {
                        epoch: EPOCH,
                        count: 64,
                        first_nth: nth.next(),
                        last_seq: Seq(after.0 + BATCH),
                        records: records.clone(),
                        except: None,
                        is_end: true,
                    }),
                    Output::Read { .. } => ReadOutcome::End,
                    Output::SendEvents { count, .. } => {
                        sent += count;
                        continue;
                    }
                    _ => continue,
                };
                session.handle(Input::Reply(Reply::Read { id: SUBSCRIPTION, outcome }), NOW);
            }
            assert_eq!(sent, 64);
            through += BATCH;
            session.handle(Input::Drained, NOW);
            session.handle(Input::Message(ack(Seq(through), Nth(through))), NOW);
        });
    });
    group.finish();
}

fn subscribed() -> ServerSession {
    let mut session = ServerSession::new(Arc::new(ServerConfig::default()), NOW);
    session.handle(Input::Message(hello(false)), NOW);
    let admitted = Admitted { epoch: EPOCH, head: Seq::ZERO, publisher: PublisherState::New };
    session.handle(Input::Authenticated(Ok(admitted)), NOW);
    session.handle(Input::Message(subscribe(0, &Start::Latest).unwrap()), NOW);
    let opened = Opened {
        after: Position::new(EPOCH, Seq::ZERO),
        nth: Nth::ZERO,
        head: Position::new(EPOCH, Seq::ZERO),
        pending: 0,
        gap: None,
        delivered_through: DeliveredThrough::NOTHING,
        stored_through: DeliveredThrough::NOTHING,
        reader: None,
        stored: None,
        epochs: Vec::new(),
    };
    session.handle(Input::Reply(Reply::Opened { id: SUBSCRIPTION, result: Ok(opened) }), NOW);
    while let Some(output) = session.poll_output() {
        if let Output::Read { id, .. } = output {
            session.handle(Input::Reply(Reply::Read { id, outcome: ReadOutcome::End }), NOW);
        }
    }
    session.handle(Input::Drained, NOW);
    session
}

fn records(first: u64) -> Bytes {
    let mut out = BytesMut::new();
    for number in first..first + BATCH {
        encode_record(&mut out, (Seq(number), Nth(number), Timestamp(1)), PayloadKind::Bytes, NAME, &PAYLOAD);
    }
    out.freeze()
}

criterion_group!(benches, session);
criterion_main!(benches);

const BATCH: u64 = 64;
static PAYLOAD: [u8; 128] = [7; 128];
const EPOCH: Epoch = Epoch([3; 16]);
const NOW: Instant = Instant::ORIGIN;
