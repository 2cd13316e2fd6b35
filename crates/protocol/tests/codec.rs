//! What holds for all messages: what is written is read back, and what is not a message is an error, never a panic and
//! never much memory.

#![allow(clippy::unwrap_used, reason = "what cannot be made here fails the test")]

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use redeliver_protocol::codec::{self, FromClient, FromServer, Records};
use redeliver_protocol::error::{Close, CloseCode, DecodeError, RefusalCode, RetryAdvice};
use redeliver_protocol::event::{EmitOptions, NewEvent, PayloadKind, Record, RecordKind};
use redeliver_protocol::features::Features;
use redeliver_protocol::frame::{
    ClientFrame, Events, Hello, Ownership, ReplyFrame, ReplyOutcome, RequestFrame, ServerFrame, Subscribe,
    SubscribeMerged, Subscribed, Volatile, Welcome, Window,
};
use redeliver_protocol::history::{EmitFate, EmitRun, FirstStart, Gap, GapCause, Place, PublisherState, Start};
use redeliver_protocol::limits::{FRAME_BYTES_MAX, HELLO_BYTES_MAX, Limits};
use redeliver_protocol::name::{EventName, SubscriberName, TopicName};
use redeliver_protocol::payload::Payload;
use redeliver_protocol::redelivery::DeliveredThrough;
use redeliver_protocol::seq::{
    EmitNumber, Epoch, InstanceId, Nth, Position, PublisherId, RequestId, Seq, SubscriptionId,
};
use redeliver_protocol::time::Timestamp;

proptest! {
    #[test]
    fn a_hello_is_read_as_it_was_written(hello in hello()) {
        let bytes = codec::encode_hello(&hello);
        prop_assert_eq!(codec::decode_hello(&bytes), Ok(hello));
    }

    #[test]
    fn a_client_frame_is_read_as_it_was_written(frame in client_frame()) {
        let bytes = codec::encode_client(&frame);
        prop_assert_eq!(codec::decode_from_client(&bytes), Ok(FromClient::Frame(frame)));
    }

    #[test]
    fn a_server_frame_is_read_as_it_was_written(frame in server_frame()) {
        let bytes = codec::encode_server(&frame);
        prop_assert_eq!(codec::decode_from_server(&bytes), Ok(FromServer::Frame(frame)));
    }

    #[test]
    fn a_close_is_read_as_it_was_written(close in close()) {
        let bytes = codec::encode_close(&close);
        prop_assert_eq!(codec::decode_from_client(&bytes), Ok(FromClient::Close(close.clone())));
        prop_assert_eq!(codec::decode_from_server(&bytes), Ok(FromServer::Close(close)));
    }

    #[test]
    fn a_close_of_another_version_is_read_all_the_same(close in close(), version: u16, features: u32) {
        let mut bytes = codec::encode_close(&close).to_vec();
        bytes[4..6].copy_from_slice(&version.to_le_bytes());
        bytes[6..10].copy_from_slice(&features.to_le_bytes());
        prop_assert_eq!(codec::decode_from_server(&Bytes::from(bytes)), Ok(FromServer::Close(close)));
    }

    #[test]
    fn a_hello_that_ends_early_or_late_is_an_error(hello in hello(), extra in vec(any::<u8>(), 1..9)) {
        let bytes = codec::encode_hello(&hello);
        for end in 0..bytes.len() {
            prop_assert!(codec::decode_hello(&bytes[..end]).is_err(), "{end} of {} bytes", bytes.len());
        }
        let longer = [&bytes[..], &extra[..]].concat();
        prop_assert_eq!(codec::decode_hello(&longer), Err(DecodeError::Trailing(extra.len())));
    }

    #[test]
    fn a_client_frame_that_ends_early_or_late_is_an_error(frame in client_frame(), extra in vec(any::<u8>(), 1..9)) {
        let bytes = codec::encode_client(&frame);
        for end in 0..bytes.len() {
            prop_assert!(codec::decode_from_client(&bytes[..end]).is_err(), "{end} of {} bytes", bytes.len());
        }
        let longer = [&bytes[..], &extra[..]].concat();
        prop_assert_eq!(codec::decode_from_client(&longer), Err(DecodeError::Trailing(extra.len())));
    }

    #[test]
    fn a_server_frame_that_ends_early_or_late_is_an_error(frame in server_frame(), extra in vec(any::<u8>(), 1..9)) {
        let bytes = codec::encode_server(&frame);
        for end in 0..bytes.len() {
            prop_assert!(codec::decode_from_server(&bytes.slice(..end)).is_err(), "{end} of {} bytes", bytes.len());
        }
        let longer = Bytes::from([&bytes[..], &extra[..]].concat());
        prop_assert!(matches!(codec::decode_from_server(&longer), Err(DecodeError::Trailing(_))));
    }

    #[test]
    fn any_bytes_are_a_message_or_an_error(bytes in vec(any::<u8>(), 0..300)) {
        read_all_ways(&Bytes::from(bytes));
    }

    #[test]
    fn bytes_that_begin_like_a_message_are_a_message_or_an_error(
        start in prop::sample::select(vec![&b"RDLH\x01\0\0\0\0\0"[..], b"RDLC\x01\0\0\0\0\0"]),
        variant in 0u8..16,
        bytes in vec(any::<u8>(), 0..300),
    ) {
        read_all_ways(&Bytes::from([start, &bytes].concat()));
        read_all_ways(&Bytes::from([&[variant, 0, 0, 0], &bytes[..]].concat()));
    }

    #[test]
    fn a_message_with_a_wrong_byte_is_a_message_or_an_error(
        frame in server_frame(),
        other in client_frame(),
        at: prop::sample::Index,
        flip in 1u8..,
    ) {
        for bytes in [codec::encode_server(&frame), codec::encode_client(&other)] {
            let mut bytes = bytes.to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            read_all_ways(&Bytes::from(bytes));
        }
    }

    #[test]
    fn records_are_read_one_by_one_as_they_were_written(written in vec(record(), 0..8)) {
        let mut bytes = BytesMut::new();
        for (place, kind, name, payload) in &written {
            codec::encode_record(&mut bytes, *place, *kind, name.as_str(), payload);
        }
        let bytes = bytes.freeze();
        let read: Vec<_> = Records::new(bytes.clone()).map(Result::unwrap).collect();
        prop_assert_eq!(read.len(), written.len());
        let mut rest = &bytes[..];
        for (record, ((seq, nth, time), kind, name, payload)) in read.iter().zip(&written) {
            prop_assert_eq!((record.seq, record.nth, record.time), (*seq, *nth, *time));
            let marks = RecordKind { payload: record.kind, asks: record.asks, has_except: record.has_except };
            prop_assert_eq!(marks, *kind);
            prop_assert_eq!(codec::peek_record_kind(rest).unwrap(), *kind);
            prop_assert_eq!((&record.name, &record.payload[..]), (name, &payload[..]));
            let (_, _, _, length) = codec::peek_record(rest).unwrap();
            prop_assert_eq!(length, codec::record_bytes(name.as_str(), payload));
            rest = &rest[length..];
        }
        prop_assert!(rest.is_empty());
        let plain: Vec<_> = Records::new(codec::without_marks(&bytes).unwrap()).map(Result::unwrap).collect();
        let unmarked: Vec<_> =
            read.iter().cloned().map(|record| Record { asks: false, has_except: false, ..record }).collect();
        prop_assert_eq!(plain, unmarked);
        for end in 0..bytes.len() {
            let cut: Vec<_> = Records::new(bytes.slice(..end)).collect();
            prop_assert!(cut.len() <= written.len());
            prop_assert!(cut.iter().rev().skip(1).all(Result::is_ok), "nothing comes after an error");
        }
    }
}

#[test]
fn a_length_that_is_not_there_is_an_error_before_anything_is_allocated() {
    let huge = [u64::MAX, u64::MAX / 2, 1 << 62, 1 << 40, FRAME_BYTES_MAX as u64 + 1];
    for length in huge {
        let length = length.to_le_bytes();
        // Emit with that many events, and with an event of that many topics.
        let events = [&[3, 0, 0, 0][..], &[1, 0, 0, 0, 0, 0, 0, 0], &length].concat();
        assert!(codec::decode_from_client(&events).is_err());
        let topics = [&events[..12], &[1, 0, 0, 0, 0, 0, 0, 0], &length].concat();
        assert!(codec::decode_from_client(&topics).is_err());
        // EmitExcept with that many events, and Volatile with an except list of that many topics.
        assert!(codec::decode_from_client(&[&[7, 0, 0, 0][..], &[1, 0, 0, 0, 0, 0, 0, 0], &length].concat()).is_err());
        let one = [1, 0, 0, 0, 0, 0, 0, 0, b'x'];
        let event = [&[1, 0, 0, 0, 0, 0, 0, 0][..], &one, &one, &[0; 4], &[0; 8], &[0; 4]].concat();
        assert!(codec::decode_from_client(&[&[8, 0, 0, 0][..], &event, &length].concat()).is_err());
        // Subscribe to a topic, Emitted with runs, a refusal with a reason, a batch with records: of that many bytes.
        assert!(codec::decode_from_client(&[&[0; 8][..], &length].concat()).is_err());
        for server in [
            [&[10, 0, 0, 0][..], &length].concat(),
            [&[2, 0, 0, 0, 1, 0, 0, 0, 1, 0][..], &length].concat(),
            [&[3, 0, 0, 0][..], &[0; 24], &length].concat(),
        ] {
            assert!(codec::decode_from_server(&Bytes::from(server)).is_err());
        }
        let record = [&[0; 25][..], &length].concat();
        assert!(codec::peek_record(&record).is_err());
        assert!(matches!(Records::new(Bytes::from(record)).next(), Some(Err(_))));
    }
}

#[test]
fn what_is_larger_than_allowed_is_refused_by_its_size_alone() {
    let large = Bytes::from(vec![4; FRAME_BYTES_MAX + 1]);
    let (bytes, bytes_max) = (large.len(), FRAME_BYTES_MAX);
    assert_eq!(codec::decode_from_client(&large), Err(DecodeError::TooLarge { bytes, bytes_max }));
    assert_eq!(codec::decode_from_server(&large), Err(DecodeError::TooLarge { bytes, bytes_max }));
    let mut hello = b"RDLH\x01\0\0\0\0\0".to_vec();
    hello.resize(HELLO_BYTES_MAX + 1, 0);
    assert!(matches!(codec::decode_hello(&hello), Err(DecodeError::TooLarge { .. })));
}

#[test]
fn another_version_is_named_whatever_follows() {
    assert_eq!(codec::decode_hello(b"RDLH\x02\0\0\0\0\0\xff"), Err(DecodeError::Version { theirs: 2, ours: 1 }));
    assert_eq!(codec::decode_hello(b"RDLH\x01\0\0\0\0\x80"), Err(DecodeError::Features(1 << 31)));
    assert_eq!(codec::decode_hello(b"GET / HTTP/1.1"), Err(DecodeError::BadMagic("Hello")));
}

#[test]
fn names_that_may_not_be_are_refused_when_they_are_read() {
    let subscribe = |topic: &[u8]| {
        let length = (topic.len() as u64).to_le_bytes();
        let start_to_end = [1u8, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        codec::decode_from_client(&[&[0; 4][..], &[1, 0, 0, 0], &length, topic, &start_to_end].concat())
    };
    assert!(subscribe(b"orders").is_ok());
    for bad in [&b""[..], &[b'x'; 256], b"\xff\xfe"] {
        assert!(matches!(subscribe(bad), Err(DecodeError::Invalid(_))), "{bad:?}");
    }
}

#[test]
fn a_long_reason_is_cut_at_a_character() {
    let close = Close::new(CloseCode::INTERNAL, "ä".repeat(600), RetryAdvice::Never);
    let Ok(FromClient::Close(read)) = codec::decode_from_client(&codec::encode_close(&close)) else { panic!() };
    assert_eq!(read.reason, "ä".repeat(512));
}

fn read_all_ways(bytes: &Bytes) {
    drop(codec::decode_hello(bytes));
    drop(codec::decode_from_client(bytes));
    drop(codec::decode_from_server(bytes));
    drop(codec::peek_record(bytes));
    assert!(Records::new(bytes.clone()).count() <= bytes.len());
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![4 => "[a-z/]{1,12}", 1 => "\\PC{1,60}", 1 => Just("x".repeat(255))]
}

fn topic() -> impl Strategy<Value = TopicName> {
    name().prop_map(|name| TopicName::new(name).unwrap())
}

fn event_name() -> impl Strategy<Value = EventName> {
    name().prop_map(|name| EventName::new(name).unwrap())
}

fn position() -> impl Strategy<Value = Position> {
    (any::<[u8; 16]>(), any::<u64>()).prop_map(|(epoch, seq)| Position::new(Epoch(epoch), Seq(seq)))
}

fn known() -> impl Strategy<Value = Place> {
    (position(), any::<u64>(), vec(position(), 0..9)).prop_map(|(position, nth, earlier)| Place {
        position,
        nth: Nth(nth),
        earlier: earlier.into(),
    })
}

fn first_start() -> impl Strategy<Value = FirstStart> {
    prop_oneof![
        Just(FirstStart::Earliest),
        Just(FirstStart::Latest),
        any::<u64>().prop_map(|seq| FirstStart::AfterSeq(Seq(seq))),
        any::<u64>().prop_map(|ms| FirstStart::Since(Timestamp(ms))),
        duration().prop_map(FirstStart::Within),
        any::<u64>().prop_map(FirstStart::Last),
    ]
}

fn duration() -> impl Strategy<Value = Duration> {
    (any::<u64>(), 0u32..1_000_000_000).prop_map(|(secs, nanos)| Duration::new(secs, nanos))
}

fn payload() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..80).prop_map(Bytes::from)
}

fn kind() -> impl Strategy<Value = PayloadKind> {
    prop_oneof![Just(PayloadKind::Bytes), Just(PayloadKind::Text), Just(PayloadKind::Json)]
}

fn hello() -> impl Strategy<Value = Hello> {
    let subscriber = name().prop_map(|name| SubscriberName::new(name).unwrap());
    (
        any::<[u8; 16]>(),
        any::<Option<[u8; 16]>>(),
        any::<u64>(),
        option::of(subscriber),
        option::of(payload()),
        ".{0,20}",
    )
        .prop_map(|(instance, publisher, settled, subscriber, auth, client_name)| Hello {
            instance: InstanceId(instance),
            publisher: publisher.map(PublisherId),
            settled: EmitNumber(settled),
            subscriber,
            auth,
            client_name,
            features: Features::NONE,
        })
}

fn close() -> impl Strategy<Value = Close> {
    let retry = prop_oneof![
        Just(RetryAdvice::Never),
        Just(RetryAdvice::Now),
        any::<u64>().prop_map(|ms| RetryAdvice::After(Duration::from_millis(ms))),
    ];
    (any::<u16>(), ".{0,60}", retry).prop_map(|(code, reason, retry)| Close::new(CloseCode(code), reason, retry))
}

fn start() -> impl Strategy<Value = Start> {
    prop_oneof![
        option::of(known()).prop_map(|at_least| Start::Resume { at_least }),
        Just(Start::Latest),
        Just(Start::Earliest),
        known().prop_map(Start::After),
        any::<u64>().prop_map(|seq| Start::AfterSeq(Seq(seq))),
        any::<u64>().prop_map(|ms| Start::Since(Timestamp(ms))),
        duration().prop_map(Start::Within),
        any::<u64>().prop_map(Start::Last),
        (option::of(known()), first_start()).prop_map(|(at_least, first)| Start::ResumeOr { at_least, first }),
    ]
}

fn window() -> impl Strategy<Value = Window> {
    any::<(u32, u32)>().prop_map(|(events, bytes)| Window::new(events, bytes))
}

fn new_event() -> impl Strategy<Value = NewEvent> {
    (vec(topic(), 0..4), event_name(), kind(), payload(), any::<u32>()).prop_map(
        |(topics, name, kind, payload, options)| {
            NewEvent::to_all(topics, name, Payload::new(kind, payload)).with_options(EmitOptions(options))
        },
    )
}

fn event_to_some() -> impl Strategy<Value = NewEvent> {
    (new_event(), vec(topic(), 0..4)).prop_map(|(event, except)| event.with_except(except))
}

fn request() -> impl Strategy<Value = RequestFrame> {
    (any::<u64>(), event_name(), kind(), payload(), any::<u32>()).prop_map(|(id, name, kind, payload, timeout_ms)| {
        RequestFrame { id: RequestId(id), name, kind, payload, timeout_ms }
    })
}

fn reply() -> impl Strategy<Value = ReplyFrame> {
    let outcome = prop_oneof![
        (kind(), payload()).prop_map(|(kind, payload)| ReplyOutcome::Answered { kind, payload }),
        (any::<u16>(), ".{0,30}").prop_map(|(code, reason)| ReplyOutcome::Refused { code: RefusalCode(code), reason }),
    ];
    (any::<u64>(), outcome).prop_map(|(id, outcome)| ReplyFrame { id: RequestId(id), outcome })
}

fn volatile() -> impl Strategy<Value = Volatile> {
    (any::<(u32, u64)>(), event_name(), kind(), payload()).prop_map(|((id, time), name, kind, payload)| Volatile {
        id: SubscriptionId(id),
        time: Timestamp(time),
        name,
        kind,
        payload,
    })
}

fn client_frame() -> impl Strategy<Value = ClientFrame> {
    let ownership = prop_oneof![Just(Ownership::Takeover), Just(Ownership::Standby)];
    let subscribe = (any::<u32>(), topic(), start(), window(), ownership, any::<bool>()).prop_map(
        |(id, topic, start, window, ownership, durable)| Subscribe {
            id: SubscriptionId(id),
            topic,
            start,
            window,
            ownership,
            durable,
        },
    );
    prop_oneof![
        (subscribe, option::of(any::<u32>())).prop_map(|(request, group)| match group {
            Some(group) => ClientFrame::SubscribeMerged(SubscribeMerged { group, request }),
            None => ClientFrame::Subscribe(request),
        }),
        (any::<u64>(), vec(event_to_some(), 0..4))
            .prop_map(|(first, events)| ClientFrame::EmitExcept { first: EmitNumber(first), events }),
        event_to_some().prop_map(|event| ClientFrame::Volatile { event }),
        request().prop_map(ClientFrame::Request),
        reply().prop_map(ClientFrame::Reply),
        any::<(u32, u64, u64)>().prop_map(|(id, seq, nth)| ClientFrame::Ack {
            id: SubscriptionId(id),
            seq: Seq(seq),
            nth: Nth(nth)
        }),
        any::<u32>().prop_map(|id| ClientFrame::Unsubscribe { id: SubscriptionId(id) }),
        (any::<u64>(), vec(new_event(), 0..4))
            .prop_map(|(first, events)| ClientFrame::Emit { first: EmitNumber(first), events }),
        any::<u32>().prop_map(|group| ClientFrame::BeginMerged { group }),
        (any::<u32>(), any::<u64>())
            .prop_map(|(id, nth)| ClientFrame::Taking { id: SubscriptionId(id), nth: Nth(nth) }),
        (any::<u32>(), any::<u64>())
            .prop_map(|(id, nth)| ClientFrame::Resuming { id: SubscriptionId(id), nth: Nth(nth) }),
        any::<u64>().prop_map(|token| ClientFrame::Ping { token }),
        any::<u64>().prop_map(|token| ClientFrame::Pong { token }),
    ]
}

fn gap() -> impl Strategy<Value = Gap> {
    let cause = prop_oneof![
        Just(GapCause::RetentionAge),
        Just(GapCause::RetentionSize),
        Just(GapCause::Purged),
        Just(GapCause::LogDamaged),
        Just(GapCause::EpochChanged),
    ];
    (position(), position(), any::<(u64, u64, bool)>(), cause).prop_map(
        |(after, through, (nth, count, count_is_exact), cause)| Gap {
            after,
            through,
            nth_through: Nth(nth),
            count,
            count_is_exact,
            cause,
        },
    )
}

fn welcome() -> impl Strategy<Value = Welcome> {
    let publisher = prop_oneof![
        Just(PublisherState::New),
        any::<u64>().prop_map(|number| PublisherState::Reached(EmitNumber(number))),
        Just(PublisherState::Forgotten),
    ];
    let limits = any::<[u32; 7]>().prop_map(|n| {
        let mut limits = Limits::default();
        limits.event_bytes_max = n[0];
        limits.event_topics_max = n[1];
        limits.emits_in_flight_max = n[2];
        limits.emit_bytes_in_flight_max = n[3];
        limits.subscriptions_max = n[4];
        limits.window_events_max = n[5];
        limits.window_bytes_max = n[6];
        limits
    });
    (position(), publisher, duration(), limits, ".{0,20}").prop_map(
        |(at, publisher, heartbeat, limits, server_name)| Welcome {
            epoch: at.epoch,
            head: at.seq,
            publisher,
            heartbeat,
            limits,
            server_name,
        },
    )
}

fn subscribed() -> impl Strategy<Value = Subscribed> {
    (any::<(u32, u64, u64, u64)>(), position(), position(), option::of(gap()), window()).prop_map(
        |((id, nth, pending, redelivered), after, head, gap, window)| Subscribed {
            id: SubscriptionId(id),
            after,
            nth: Nth(nth),
            head,
            pending,
            delivered_through: DeliveredThrough(Nth(redelivered)),
            gap,
            window,
        },
    )
}

fn run() -> impl Strategy<Value = EmitRun> {
    let fate = prop_oneof![
        position().prop_map(EmitFate::Stored),
        position().prop_map(EmitFate::Duplicate),
        Just(EmitFate::DuplicateForgotten),
        any::<u16>().prop_map(|code| EmitFate::Refused(RefusalCode(code))),
    ];
    (any::<u64>(), any::<u32>(), fate).prop_map(|(first, count, fate)| EmitRun {
        first: EmitNumber(first),
        count,
        fate,
    })
}

fn server_frame() -> impl Strategy<Value = ServerFrame> {
    let id = || any::<u32>().prop_map(SubscriptionId);
    let events = (id(), any::<[u8; 16]>(), any::<u32>(), payload()).prop_map(|(id, epoch, count, records)| {
        ServerFrame::Events(Events { id, epoch: Epoch(epoch), count, records })
    });
    let refused = (id(), any::<u16>(), ".{0,30}").prop_map(|(id, code, reason)| ServerFrame::SubscribeRefused {
        id,
        code: RefusalCode(code),
        reason,
    });
    let skip = (id(), position(), any::<u64>()).prop_map(|(id, through, nth)| ServerFrame::Skip {
        id,
        through,
        nth_through: Nth(nth),
    });
    prop_oneof![
        welcome().prop_map(ServerFrame::Welcome),
        subscribed().prop_map(ServerFrame::Subscribed),
        refused,
        events,
        (id(), any::<u64>()).prop_map(|(id, seq)| ServerFrame::CaughtUp { id, seq: Seq(seq) }),
        skip,
        (id(), gap()).prop_map(|(id, gap)| ServerFrame::Gap { id, gap }),
        (id(), any::<u64>()).prop_map(|(id, seq)| ServerFrame::Acked { id, seq: Seq(seq) }),
        id().prop_map(|id| ServerFrame::Unsubscribed { id }),
        id().prop_map(|id| ServerFrame::TakenOver { id }),
        vec(run(), 0..6).prop_map(|runs| ServerFrame::Emitted { runs }),
        any::<u64>().prop_map(|number| ServerFrame::OutOfOrder { expected: EmitNumber(number) }),
        volatile().prop_map(ServerFrame::Volatile),
        request().prop_map(ServerFrame::Request),
        reply().prop_map(ServerFrame::Reply),
        any::<u64>().prop_map(|token| ServerFrame::Ping { token }),
        any::<u64>().prop_map(|token| ServerFrame::Pong { token }),
    ]
}

fn record() -> impl Strategy<Value = ((Seq, Nth, Timestamp), RecordKind, EventName, Bytes)> {
    let place = any::<(u64, u64, u64)>().prop_map(|(seq, nth, time)| (Seq(seq), Nth(nth), Timestamp(time)));
    let kind = (kind(), any::<(bool, bool)>()).prop_map(|(payload, (asks, has_except))| RecordKind {
        payload,
        asks,
        has_except,
    });
    (place, kind, event_name(), payload())
}
