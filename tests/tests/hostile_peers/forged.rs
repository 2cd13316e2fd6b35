//! Well-formed lies: acks of what was not sent, positions in no history, numbers that cannot be, events that no log takes.

use std::time::Duration;

use redeliver_protocol::codec::{encode_client, encode_hello};
use redeliver_protocol::config::ServerConfig;
use redeliver_protocol::error::{CloseCode, RefusalCode};
use redeliver_protocol::event::EmitOptions;
use redeliver_protocol::frame::{ClientFrame, Hello, ServerFrame, Subscribe, Subscribed};
use redeliver_protocol::history::{EmitFate, GapCause, Place, PublisherState, Start};
use redeliver_protocol::limits::{EARLIER_EPOCHS_MAX, EMITS_PER_FRAME_MAX};
use redeliver_protocol::name::TopicName;
use redeliver_protocol::seq::{EmitNumber, Epoch, Nth, Position, Seq};
use redeliver_protocol::time::Timestamp;

use crate::attack::{Site, attack};
use crate::peer::*;

/// Puts five events into a topic, and returns the position of the last.
async fn five(site: &Site, topic: &str) -> Position {
    let mut last = Position::default();
    for number in 0..5_u32 {
        last = site.server.emit_event(event(topic, number.to_string())).await.unwrap().position.unwrap();
    }
    last
}

fn durable(topic: &str, start: Start) -> Subscribe {
    Subscribe { durable: true, ..subscribe(topic, start) }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ack_of_what_was_not_sent_ends_the_conversation_and_moves_no_cursor() {
    attack(ServerConfig::default(), async |site| {
        five(site, "t").await;
        let lies: [(&str, Lie); 7] = [
            ("the next event", |last| (last.seq + 1, last.nth + 1)),
            ("the last event with another's nth", |last| (last.seq, last.nth - 1)),
            ("the last event with an nth to come", |last| (last.seq, last.nth + 1)),
            ("the last event without nth", |last| (last.seq, 0)),
            ("the last nth at another event", |last| (last.first_seq, last.nth)),
            ("everything there ever will be", |_| (u64::MAX, u64::MAX)),
            ("a small nth far away", |_| (u64::MAX, 1)),
        ];
        for (what, lie) in lies {
            for is_durable in [false, true] {
                let mut peer = Peer::welcomed(&site.address, &hello_subscriber("forger")).await;
                let request = Subscribe { durable: is_durable, ..subscribe("t", Start::Earliest) };
                assert_eq!(peer.subscribe(request).await.nth, Nth(0));
                let events = peer.until_caught_up().await;
                let last = Sent { first_seq: events[0].seq.0, seq: events[4].seq.0, nth: events[4].nth.0 };
                let (seq, nth) = lie(last);
                peer.send(&ClientFrame::Ack { id: ID, seq: Seq(seq), nth: Nth(nth) }).await;
                let close = peer.closed().await;
                assert_eq!(close.code, CloseCode::LIMIT_BROKEN, "{what}, durable: {is_durable}: {close:?}");
            }
        }
        let mut peer = Peer::welcomed(&site.address, &hello_subscriber("forger")).await;
        let place = peer.subscribe(durable("t", Start::Resume { at_least: None })).await;
        assert_eq!((place.nth, place.pending, place.gap), (Nth(0), 5, None));
    })
    .await;
}

/// Of the five events that were sent: the first one's seq, the last one's seq and nth.
#[derive(Clone, Copy)]
struct Sent {
    first_seq: u64,
    seq: u64,
    nth: u64,
}

/// The seq and nth of a forged ack.
type Lie = fn(Sent) -> (u64, u64);

#[tokio::test(flavor = "multi_thread")]
async fn a_position_in_no_history_is_told_a_gap_and_gets_what_is_there() {
    let stranger = Epoch([0xab; 16]);
    let at = |epoch, seq, nth| Place::new(Position::new(epoch, Seq(seq)), Nth(nth));
    attack(ServerConfig::default(), async |site| {
        let last = five(site, "t").await;
        let here = last.epoch;
        // The head lies behind it now.
        site.bystanders.go_on().await;
        let many = vec![Position::new(stranger, Seq(u64::MAX)); EARLIER_EPOCHS_MAX];
        let with_many = Place { earlier: many.clone().into(), ..at(stranger, 7, 7) };
        let changed = Some(GapCause::EpochChanged);
        let cases = [
            ("an unknown epoch", Start::After(at(stranger, 3, 3)), changed, 0),
            ("an unknown epoch's end", Start::After(at(stranger, u64::MAX, u64::MAX)), changed, 0),
            ("many unknown epochs", Start::After(with_many), changed, 0),
            ("a seq to come", Start::After(at(here, u64::MAX / 2, 5)), changed, 5),
            ("the last seq there can be", Start::After(at(here, u64::MAX, u64::MAX)), changed, 5),
            // As if the log had lost what it knew of the topic.
            ("an nth to come", Start::After(at(here, last.seq.0, u64::MAX)), Some(GapCause::LogDamaged), 5),
            ("a resume from nowhere", Start::Resume { at_least: Some(at(stranger, u64::MAX, 1)) }, changed, 0),
            ("a bare seq to come", Start::AfterSeq(Seq(u64::MAX)), None, 5),
            ("a time to come", Start::Since(Timestamp(u64::MAX)), None, 5),
            ("longer than there was time", Start::Within(Duration::MAX), None, 0),
            ("more than there are", Start::Last(u64::MAX), None, 0),
        ];
        for (what, start, cause, nth) in cases {
            let mut peer = Peer::welcomed(&site.address, &hello()).await;
            let place = peer.subscribe(subscribe("t", start)).await;
            assert_eq!(place.gap.as_ref().map(|gap| gap.cause), cause, "{what}: {place:?}");
            assert_eq!((place.nth, place.pending), (Nth(nth), 5 - nth), "{what}: {place:?}");
            let nths: Vec<u64> = peer.until_caught_up().await.iter().map(|record| record.nth.0).collect();
            assert_eq!(nths, (nth + 1..=5).collect::<Vec<_>>(), "{what}");
        }
        let too_many = [&many[..], &many[..1]].concat();
        let mut peer = Peer::welcomed(&site.address, &hello()).await;
        let start = Start::After(Place { earlier: too_many.into(), ..at(stranger, 7, 7) });
        peer.send(&ClientFrame::Subscribe(subscribe("t", start))).await;
        assert_eq!(peer.closed().await.code, CloseCode::LIMIT_BROKEN);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_position_never_moves_a_durable_cursor() {
    attack(ServerConfig::default(), async |site| {
        five(site, "t").await;
        let mut peer = Peer::welcomed(&site.address, &hello_subscriber("honest")).await;
        peer.subscribe(durable("t", Start::Earliest)).await;
        let events = peer.until_caught_up().await;
        peer.send(&ClientFrame::Ack { id: ID, seq: events[2].seq, nth: events[2].nth }).await;
        assert_eq!(peer.frame().await, ServerFrame::Acked { id: ID, seq: events[2].seq });
        drop(peer);

        let forged = Place::new(Position::new(Epoch([0xab; 16]), Seq(u64::MAX)), Nth(u64::MAX));
        for start in [Start::Resume { at_least: Some(forged.clone()) }, Start::After(forged)] {
            let mut peer = Peer::welcomed(&site.address, &hello_subscriber("honest")).await;
            let place = peer.subscribe(durable("t", start)).await;
            assert_eq!(place.gap.map(|gap| gap.cause), Some(GapCause::EpochChanged));
            peer.until_caught_up().await;
            drop(peer);
            let mut peer = Peer::welcomed(&site.address, &hello_subscriber("honest")).await;
            let place: Subscribed = peer.subscribe(durable("t", Start::Resume { at_least: None })).await;
            assert_eq!((place.after.seq, place.nth, place.gap), (events[2].seq, Nth(3), None));
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_that_an_emit_cannot_have_are_refused_and_a_hole_is_asked_for() {
    let event = || event("t", "x");
    attack(ServerConfig::default(), async |site| {
        let lies = [
            ("number zero", emit(0, vec![event()]), CloseCode::UNEXPECTED),
            ("the last number", emit(u64::MAX, vec![event()]), CloseCode::UNEXPECTED),
            ("numbers beyond the last", emit(u64::MAX - 2, vec![event(); 3]), CloseCode::UNEXPECTED),
            ("no events", emit(1, vec![]), CloseCode::LIMIT_BROKEN),
            ("too many events", emit(1, vec![event(); EMITS_PER_FRAME_MAX + 1]), CloseCode::LIMIT_BROKEN),
        ];
        for (what, lie, code) in lies {
            let mut peer = Peer::welcomed(&site.address, &hello_publisher()).await;
            peer.send(&lie).await;
            let close = peer.closed().await;
            assert_eq!(close.code, code, "{what}: {close:?}");
        }

        let mut peer = Peer::welcomed(&site.address, &hello_publisher()).await;
        for first in [2, 1_000, u64::MAX - 1] {
            peer.send(&emit(first, vec![event()])).await;
            assert_eq!(peer.frame().await, ServerFrame::OutOfOrder { expected: EmitNumber(1) });
        }
        assert!(matches!(fate(&mut peer, emit(1, vec![event()])).await, EmitFate::Stored(_)));

        // Whoever claims to have emitted nearly everything has nearly nothing left.
        let hello = Hello { settled: EmitNumber(u64::MAX - 2), ..hello_publisher() };
        let mut peer = Peer::connect(&site.address).await;
        peer.send_bytes(encode_hello(&hello)).await;
        let ServerFrame::Welcome(welcome) = peer.frame().await else { panic!("not welcome") };
        assert_eq!(welcome.publisher, PublisherState::Forgotten);
        assert_eq!(fate(&mut peer, emit(1, vec![event()])).await, EmitFate::DuplicateForgotten);
        assert!(matches!(fate(&mut peer, emit(u64::MAX - 1, vec![event()])).await, EmitFate::Stored(_)));
        assert!(matches!(fate(&mut peer, emit(u64::MAX - 1, vec![event()])).await, EmitFate::Duplicate(_)));
        let mut peer = Peer::welcomed(&site.address, &Hello { settled: EmitNumber(u64::MAX), ..hello }).await;
        assert!(matches!(fate(&mut peer, emit(u64::MAX - 1, vec![event()])).await, EmitFate::Duplicate(_)));
        peer.send(&emit(u64::MAX, vec![event()])).await;
        assert_eq!(peer.closed().await.code, CloseCode::UNEXPECTED);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_no_log_takes_is_refused_in_its_place_between_good_ones() {
    let topics = |count: usize| (0..count).map(|n| TopicName::new(format!("t/{n}")).unwrap()).collect::<Vec<_>>();
    let good = || event("t", "x");
    let with = |topics| good().with_topics(topics);
    let mut config = ServerConfig::default();
    config.limits.event_topics_max = 64;
    let event_bytes_max = usize::try_from(config.limits.event_bytes_max).unwrap();
    let cases = [
        ("no topic", with(vec![]), RefusalCode::INVALID),
        ("65 topics", with(topics(65)), RefusalCode::INVALID),
        ("a topic twice", with([topics(2), topics(1)].concat()), RefusalCode::INVALID),
        ("an option to come", good().with_options(EmitOptions(1 << 31)), RefusalCode::INVALID),
        ("every option", good().with_options(EmitOptions(u32::MAX)), RefusalCode::INVALID),
        ("too many bytes", event("t", vec![0; event_bytes_max + 1]), RefusalCode::TOO_LARGE),
    ];
    attack(config, async |site| {
        let mut peer = Peer::welcomed(&site.address, &hello_publisher()).await;
        let mut first = 1;
        for (what, bad, code) in cases {
            let frame = emit(first, vec![good(), bad, with(topics(64))]);
            let fates = fates(&mut peer, frame, 3).await;
            assert!(matches!(fates[0], EmitFate::Stored(_)), "{what}: {fates:?}");
            assert_eq!(fates[1], EmitFate::Refused(code), "{what}");
            assert!(matches!(fates[2], EmitFate::Stored(_)), "{what}: {fates:?}");
            first += 3;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_a_field_cannot_have_is_no_message() {
    let emitted = encode_client(&emit(1, vec![event("abc", "x")])).to_vec();
    let name = emitted.windows(3).position(|bytes| bytes == b"abc").unwrap();
    let within = Duration::new(0x1122_3344_5566_7788, 0x0011_2233);
    let subscribed = encode_client(&ClientFrame::Subscribe(subscribe("t", Start::Within(within)))).to_vec();
    let nanos = 0x0011_2233_u32.to_le_bytes();
    let nanos = subscribed.windows(4).position(|bytes| bytes == nanos).unwrap();
    let cases = [
        ("a topic that is no text", patched(&emitted, name, &[0xff])),
        ("a variant to come", patched(&emitted, 0, &[6])),
        ("a variant that never comes", patched(&emitted, 0, &[0xff; 4])),
        ("a time that overflows", patched(&subscribed, nanos - 8, &[0xff; 12])),
        ("a flag that is neither", patched(&subscribed, subscribed.len() - 1, &[2])),
    ];
    attack(ServerConfig::default(), async |site| {
        for (what, bytes) in cases {
            let mut peer = Peer::welcomed(&site.address, &hello_publisher()).await;
            peer.send_bytes(bytes).await;
            let close = peer.closed().await;
            assert_eq!(close.code, CloseCode::MALFORMED, "{what}: {close:?}");
        }
    })
    .await;
}

fn patched(bytes: &[u8], at: usize, with: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at..at + with.len()].copy_from_slice(with);
    bytes
}

/// Emits one event and returns what became of it.
async fn fate(peer: &mut Peer, frame: ClientFrame) -> EmitFate {
    fates(peer, frame, 1).await[0]
}

/// Emits so many events and returns what became of each, in order.
async fn fates(peer: &mut Peer, frame: ClientFrame, count: usize) -> Vec<EmitFate> {
    peer.send(&frame).await;
    let mut fates = Vec::new();
    while fates.len() < count {
        match peer.frame().await {
            ServerFrame::Emitted { runs } => {
                fates.extend(runs.iter().flat_map(|run| vec![run.fate; usize::try_from(run.count).unwrap()]));
            }
            other => panic!("expected Emitted, got {other:?}"),
        }
    }
    fates
}
