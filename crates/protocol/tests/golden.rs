//! The bytes of every message are fixed: what is written in `fixtures/vectors.txt` is what this crate writes and reads,
//! for ever.

#![allow(clippy::unwrap_used, reason = "what cannot be made here fails the test")]

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use redeliver_protocol::codec::{self, FromClient, FromServer};
use redeliver_protocol::error::{Close, CloseCode, RefusalCode, RetryAdvice};
use redeliver_protocol::event::{NewEvent, PayloadKind, RecordKind};
use redeliver_protocol::features::{FEATURES, Features};
use redeliver_protocol::frame::{
    ClientFrame, Events, Hello, Ownership, ReplyFrame, ReplyOutcome, RequestFrame, ServerFrame, Subscribe,
    SubscribeMerged, Subscribed, Volatile, Welcome, Window,
};
use redeliver_protocol::history::{EmitFate, EmitRun, FirstStart, Gap, GapCause, Place, PublisherState, Start};
use redeliver_protocol::limits::Limits;
use redeliver_protocol::name::{EventName, SubscriberName, TopicName};
use redeliver_protocol::payload::Payload;
use redeliver_protocol::redelivery::DeliveredThrough;
use redeliver_protocol::seq::{
    EmitNumber, Epoch, InstanceId, Nth, Position, PublisherId, RequestId, Seq, SubscriptionId,
};
use redeliver_protocol::time::Timestamp;

const ID: SubscriptionId = SubscriptionId(3);
const E: Epoch = Epoch([0xe1; 16]);
const F: Epoch = Epoch([0xe2; 16]);
const WINDOW: Window = Window::new(1024, 1024 * 1024);

#[test]
fn hello_is_written_and_read_as_fixed() {
    let full = Hello {
        instance: InstanceId([0x11; 16]),
        publisher: Some(PublisherId([0x22; 16])),
        settled: EmitNumber(7),
        subscriber: Some(SubscriberName::new("billing").unwrap()),
        auth: Some(Bytes::from_static(&[1, 2, 255])),
        client_name: "app/1".to_owned(),
        features: Features::NONE,
    };
    let bare = Hello {
        publisher: None,
        settled: EmitNumber::ZERO,
        subscriber: None,
        auth: None,
        client_name: String::new(),
        instance: full.instance,
        features: Features::NONE,
    };
    let vectors = vectors();
    let featured = Hello { features: Features(0xf), ..bare.clone() };
    for (name, hello) in [("hello", full), ("hello_bare", bare), ("hello_features", featured)] {
        assert_eq!(hex(&codec::encode_hello(&hello)), hex(&vectors[name]), "{name}");
        assert_eq!(codec::decode_hello(&vectors[name]), Ok(hello), "{name}");
    }
}

#[test]
fn closes_are_written_and_read_as_fixed() {
    let close = |code, reason: &str, retry| Close::new(code, reason.to_owned(), retry);
    let closes = [
        ("close_never", close(CloseCode::PUBLISHER_FENCED, "fenced", RetryAdvice::Never)),
        ("close_now", close(CloseCode::HEARTBEAT_TIMEOUT, "", RetryAdvice::Now)),
        ("close_after", close(CloseCode::DRAINING, "später", RetryAdvice::After(Duration::from_millis(1500)))),
    ];
    let vectors = vectors();
    for (name, close) in closes {
        let bytes = &vectors[name];
        // What the writer has is its own; the rest is fixed.
        let written = codec::encode_close(&close);
        assert_eq!(codec::features_of_close(&written), Some(FEATURES), "{name}");
        assert_eq!(codec::features_of_close(bytes), Some(Features::NONE), "{name}");
        assert_eq!(hex(&[&written[..6], &bytes[6..10], &written[10..]].concat()), hex(bytes), "{name}");
        assert_eq!(codec::decode_from_client(bytes), Ok(FromClient::Close(close.clone())), "{name}");
        assert_eq!(codec::decode_from_server(bytes), Ok(FromServer::Close(close)), "{name}");
    }
}

#[test]
fn client_frames_are_written_and_read_as_fixed() {
    let vectors = vectors();
    for (name, frame) in client_frames() {
        assert_eq!(hex(&codec::encode_client(&frame)), hex(&vectors[name]), "{name}");
        assert_eq!(codec::decode_from_client(&vectors[name]), Ok(FromClient::Frame(frame)), "{name}");
    }
}

#[test]
fn server_frames_are_written_and_read_as_fixed() {
    let vectors = vectors();
    for (name, frame) in server_frames() {
        assert_eq!(hex(&codec::encode_server(&frame)), hex(&vectors[name]), "{name}");
        assert_eq!(codec::decode_from_server(&vectors[name]), Ok(FromServer::Frame(frame)), "{name}");
    }
}

#[test]
fn no_vector_is_without_a_message() {
    let client = client_frames().into_iter().map(|(name, _)| name);
    let server = server_frames().into_iter().map(|(name, _)| name);
    let fixed = ["hello", "hello_bare", "hello_features", "close_never", "close_now", "close_after"];
    let mut tested: Vec<_> = client.chain(server).chain(fixed).collect();
    tested.sort_unstable();
    assert_eq!(vectors().keys().map(String::as_str).collect::<Vec<_>>(), tested);
}

fn client_frames() -> Vec<(&'static str, ClientFrame)> {
    let known = || Place::new(Position::new(E, Seq(41)), Nth(9));
    let came_back = Place { earlier: vec![Position::new(F, Seq(30))].into(), ..known() };
    let subscribe = |start| {
        ClientFrame::Subscribe(Subscribe {
            id: SubscriptionId(1),
            topic: topic("t"),
            start,
            window: WINDOW,
            ownership: Ownership::Takeover,
            durable: false,
        })
    };
    let resume = |at_least, ownership| {
        let start = Start::Resume { at_least };
        let (topic, window) = (topic("orders"), WINDOW);
        ClientFrame::Subscribe(Subscribe { id: ID, topic, start, window, ownership, durable: true })
    };
    vec![
        ("subscribe_resume", resume(Some(came_back), Ownership::Standby)),
        ("subscribe_resume_bare", resume(None, Ownership::Takeover)),
        ("subscribe_resume_or", subscribe(Start::ResumeOr { at_least: Some(known()), first: FirstStart::Latest })),
        ("subscribe_first_last", subscribe(Start::first(Start::Last(7)))),
        ("subscribe_latest", subscribe(Start::Latest)),
        ("subscribe_earliest", subscribe(Start::Earliest)),
        ("subscribe_after", subscribe(Start::After(known()))),
        ("subscribe_after_seq", subscribe(Start::AfterSeq(Seq(48211)))),
        ("subscribe_since", subscribe(Start::Since(Timestamp(1_767_225_600_000)))),
        ("subscribe_within", subscribe(Start::Within(Duration::from_millis(3_600_500)))),
        ("subscribe_last", subscribe(Start::Last(10))),
        ("ack", ClientFrame::Ack { id: ID, seq: Seq(48211), nth: Nth(12) }),
        ("unsubscribe", ClientFrame::Unsubscribe { id: ID }),
        ("emit", ClientFrame::Emit { first: EmitNumber(8), events: new_events() }),
        ("subscribe_merged", subscribe_merged()),
        ("begin_merged", ClientFrame::BeginMerged { group: 2 }),
        ("taking", ClientFrame::Taking { id: ID, nth: Nth(9) }),
        ("resuming", ClientFrame::Resuming { id: ID, nth: Nth(9) }),
        ("emit_except", ClientFrame::EmitExcept { first: EmitNumber(8), events: vec![event_to_some(), plain_event()] }),
        ("client_volatile", ClientFrame::Volatile { event: event_to_some() }),
        ("client_request", ClientFrame::Request(request())),
        ("client_reply", ClientFrame::Reply(answered())),
        ("client_reply_refused", ClientFrame::Reply(refused())),
        ("client_ping", ClientFrame::Ping { token: 77 }),
        ("client_pong", ClientFrame::Pong { token: 77 }),
    ]
}

fn new_events() -> Vec<NewEvent> {
    let event = |topics: &[&str], name, kind, payload| {
        let topics = topics.iter().map(|name| topic(name)).collect();
        NewEvent::to_all(topics, EventName::new(name).unwrap(), Payload::new(kind, Bytes::from_static(payload)))
    };
    vec![
        event(&["orders", "audit"], "made", PayloadKind::Json, b"{}"),
        event(&["orders"], "raw", PayloadKind::Bytes, &[0, 255]),
    ]
}

fn plain_event() -> NewEvent {
    new_events().remove(1)
}

fn event_to_some() -> NewEvent {
    plain_event().asks().with_except(vec![topic("audit"), topic("x")])
}

fn subscribe_merged() -> ClientFrame {
    let request = Subscribe {
        id: ID,
        topic: topic("t"),
        start: Start::Latest,
        window: WINDOW,
        ownership: Ownership::Takeover,
        durable: false,
    };
    ClientFrame::SubscribeMerged(SubscribeMerged { group: 2, request })
}

fn request() -> RequestFrame {
    RequestFrame {
        id: RequestId(5),
        name: EventName::new("price").unwrap(),
        kind: PayloadKind::Json,
        payload: Bytes::from_static(b"{}"),
        timeout_ms: 2500,
    }
}

fn answered() -> ReplyFrame {
    let outcome = ReplyOutcome::Answered { kind: PayloadKind::Text, payload: Bytes::from_static(b"12") };
    ReplyFrame { id: RequestId(5), outcome }
}

fn refused() -> ReplyFrame {
    let outcome = ReplyOutcome::Refused { code: RefusalCode::NO_HANDLER, reason: "nobody".to_owned() };
    ReplyFrame { id: RequestId(5), outcome }
}

fn volatile() -> ServerFrame {
    ServerFrame::Volatile(Volatile {
        id: ID,
        time: Timestamp(1_767_225_600_000),
        name: EventName::new("typing").unwrap(),
        kind: PayloadKind::Text,
        payload: Bytes::from_static(b"ann"),
    })
}

/// One that asks, one that is not for everybody, one that is both.
fn marked_records() -> Bytes {
    let mut records = BytesMut::new();
    for (nth, asks, has_except) in [(12, true, false), (13, false, true), (14, true, true)] {
        let place = (Seq(48200 + nth), Nth(nth), Timestamp(1_767_225_600_000));
        let kind = RecordKind { payload: PayloadKind::Json, asks, has_except };
        codec::encode_record(&mut records, place, kind, "x", b"1");
    }
    records.freeze()
}

fn server_frames() -> Vec<(&'static str, ServerFrame)> {
    let mut frames = vec![
        ("welcome_new", welcome(PublisherState::New)),
        ("welcome_reached", welcome(PublisherState::Reached(EmitNumber(7)))),
        ("welcome_forgotten", welcome(PublisherState::Forgotten)),
        ("subscribed", subscribed(11, None)),
        ("subscribed_gap", subscribed(0, Some(gap(E, GapCause::RetentionAge)))),
        (
            "subscribe_refused",
            ServerFrame::SubscribeRefused { id: ID, code: RefusalCode::FORBIDDEN, reason: "not this topic".to_owned() },
        ),
        ("events", ServerFrame::Events(Events { id: ID, epoch: E, count: 2, records: records() })),
        ("caught_up", ServerFrame::CaughtUp { id: ID, seq: Seq(48211) }),
        ("skip", ServerFrame::Skip { id: ID, through: Position::new(E, Seq(48220)), nth_through: Nth(14) }),
        ("acked", ServerFrame::Acked { id: ID, seq: Seq(48211) }),
        ("unsubscribed", ServerFrame::Unsubscribed { id: ID }),
        ("taken", ServerFrame::Taken { id: ID, nth: Nth(9) }),
        ("taken_over", ServerFrame::TakenOver { id: ID }),
        ("emitted", emitted()),
        ("out_of_order", ServerFrame::OutOfOrder { expected: EmitNumber(8) }),
        ("server_volatile", volatile()),
        ("server_request", ServerFrame::Request(request())),
        ("server_reply", ServerFrame::Reply(answered())),
        ("server_reply_refused", ServerFrame::Reply(refused())),
        ("events_marked", ServerFrame::Events(Events { id: ID, epoch: E, count: 3, records: marked_records() })),
        ("server_ping", ServerFrame::Ping { token: 77 }),
        ("server_pong", ServerFrame::Pong { token: 77 }),
    ];
    let causes = [
        ("gap_retention_age", GapCause::RetentionAge),
        ("gap_retention_size", GapCause::RetentionSize),
        ("gap_purged", GapCause::Purged),
        ("gap_log_damaged", GapCause::LogDamaged),
        ("gap_epoch_changed", GapCause::EpochChanged),
    ];
    frames.extend(causes.map(|(name, cause)| (name, ServerFrame::Gap { id: ID, gap: gap(F, cause) })));
    frames
}

fn welcome(publisher: PublisherState) -> ServerFrame {
    let mut limits = Limits::default();
    limits.event_bytes_max = 256 * 1024;
    limits.event_topics_max = 16;
    limits.emits_in_flight_max = 16 * 1024;
    limits.emit_bytes_in_flight_max = 4 * 1024 * 1024;
    limits.subscriptions_max = 10_000;
    limits.window_events_max = 65_536;
    limits.window_bytes_max = 16 * 1024 * 1024;
    ServerFrame::Welcome(Welcome {
        epoch: E,
        head: Seq(48211),
        publisher,
        heartbeat: Duration::from_secs(15),
        limits,
        server_name: "redeliver/1".to_owned(),
    })
}

fn subscribed(delivered_through: u64, gap: Option<Gap>) -> ServerFrame {
    ServerFrame::Subscribed(Subscribed {
        id: ID,
        after: Position::new(E, Seq(41)),
        nth: Nth(9),
        head: Position::new(F, Seq(50)),
        pending: 4,
        delivered_through: DeliveredThrough(Nth(delivered_through)),
        gap,
        window: WINDOW,
    })
}

fn gap(through: Epoch, cause: GapCause) -> Gap {
    let count_is_exact = !matches!(cause, GapCause::LogDamaged | GapCause::EpochChanged);
    let (after, through) = (Position::new(E, Seq(20)), Position::new(through, Seq(41)));
    Gap { after, through, nth_through: Nth(9), count: 5, count_is_exact, cause }
}

fn records() -> Bytes {
    let mut records = BytesMut::new();
    let first = (Seq(48211), Nth(12), Timestamp(1_767_225_600_000));
    codec::encode_record(&mut records, first, PayloadKind::Text, "made", b"hello");
    let second = (Seq(48215), Nth(13), Timestamp(1_767_225_600_001));
    codec::encode_record(&mut records, second, PayloadKind::Json, "x", b"");
    records.freeze()
}

fn emitted() -> ServerFrame {
    let run = |first, count, fate| EmitRun { first: EmitNumber(first), count, fate };
    ServerFrame::Emitted {
        runs: vec![
            run(8, 2, EmitFate::Stored(Position::new(E, Seq(48216)))),
            run(10, 1, EmitFate::Duplicate(Position::new(E, Seq(48000)))),
            run(11, 3, EmitFate::DuplicateForgotten),
            run(14, 1, EmitFate::Refused(RefusalCode::STORAGE_FULL)),
        ],
    }
}

fn topic(name: &str) -> TopicName {
    TopicName::new(name).unwrap()
}

/// The fixture: messages by name.
fn vectors() -> BTreeMap<String, Bytes> {
    let mut vectors = BTreeMap::new();
    let mut name = String::new();
    let mut digits: BTreeMap<String, String> = BTreeMap::new();
    for line in include_str!("fixtures/vectors.txt").lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if let Some(begun) = line.strip_prefix('[') {
            name = begun.trim_end_matches(']').to_owned();
            assert!(digits.insert(name.clone(), String::new()).is_none(), "{name} stands there twice");
        } else if !line.is_empty() {
            digits.get_mut(&name).expect("a name comes first").push_str(line);
        }
    }
    for (name, digits) in digits {
        let pairs = digits.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
        let bytes: Vec<u8> = pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect();
        vectors.insert(name, Bytes::from(bytes));
    }
    vectors
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
