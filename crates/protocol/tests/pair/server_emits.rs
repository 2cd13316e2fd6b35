//! Stories of emits, as the server sees them.

use redeliver_protocol::codec;
use redeliver_protocol::config::ServerConfig;
use redeliver_protocol::error::{CloseCode, RefusalCode};
use redeliver_protocol::frame::{ClientFrame, Hello, ServerFrame};
use redeliver_protocol::history::{EmitFate, EmitRun};
use redeliver_protocol::limits::EMITS_PER_FRAME_MAX;
use redeliver_protocol::seq::{EmitNumber, Epoch, Position, Seq};

use crate::hub::Held;
use crate::world::{Pair, Peer, emit, event, hello, topic_name};

fn runs(pair: &mut Pair, peer: Peer) -> Vec<EmitRun> {
    let frames = pair.frames(peer);
    let runs = frames.into_iter().flat_map(|frame| match frame {
        ServerFrame::Emitted { runs } => runs,
        other => panic!("{other:?}"),
    });
    runs.collect()
}

fn run(first: u64, count: u32, fate: EmitFate) -> EmitRun {
    EmitRun { first: EmitNumber(first), count, fate }
}

fn at(seq: u64) -> Position {
    Position::new(Epoch([1; 16]), Seq(seq))
}

fn refused(first: u64, count: u32, code: RefusalCode) -> EmitRun {
    run(first, count, EmitFate::Refused(code))
}

#[test]
fn emits_are_answered_with_their_positions() {
    let mut pair = Pair::new();
    let peer = pair.guest(1, None);
    pair.send(peer, emit(1, &["a"]));
    pair.send(peer, emit(2, &["b", "c"]));
    assert_eq!(runs(&mut pair, peer), [run(1, 1, EmitFate::Stored(at(1))), run(2, 2, EmitFate::Stored(at(2)))]);
}

#[test]
fn nothing_is_answered_before_the_log_has_it() {
    let mut pair = Pair::new();
    let peer = pair.guest(1, None);
    pair.frames(peer);
    pair.hub.hold(Held::Appends);
    pair.send(peer, emit(1, &["a"]));
    pair.send(peer, emit(2, &["b"]));
    assert_eq!(pair.frames(peer), []);
    pair.release(Held::Appends);
    assert_eq!(runs(&mut pair, peer).iter().map(|run| run.count).sum::<u32>(), 2);
}

#[test]
fn what_is_sent_again_after_a_lost_connection_is_stored_once() {
    let mut pair = Pair::new();
    let peer = pair.guest(1, None);
    pair.cut_after(peer, None, Some(0));
    pair.send(peer, emit(1, &["a", "b"]));
    pair.reconnect(peer);
    pair.send_bytes(peer, codec::encode_hello(&hello(1, None)));
    pair.send(peer, emit(1, &["a", "b"]));
    pair.send(peer, emit(3, &["c"]));
    assert_eq!(runs(&mut pair, peer), [run(1, 2, EmitFate::Duplicate(at(1))), run(3, 1, EmitFate::Stored(at(3)))]);
    assert_eq!(pair.hub.log.head().seq, Seq(3));
}

#[test]
fn a_frame_that_overlaps_what_is_stored_brings_the_rest() {
    let mut pair = Pair::new();
    let peer = pair.guest(1, None);
    pair.send(peer, emit(1, &["a", "b"]));
    pair.frames(peer);
    pair.send(peer, emit(2, &["b", "c"]));
    assert_eq!(runs(&mut pair, peer), [run(2, 1, EmitFate::Duplicate(at(2))), run(3, 1, EmitFate::Stored(at(3)))]);
}

#[test]
fn other_content_under_a_used_number_is_refused() {
    let mut pair = Pair::new();
    let peer = pair.guest(1, None);
    pair.send(peer, emit(1, &["a"]));
    pair.frames(peer);
    pair.send(peer, emit(1, &["not a"]));
    assert_eq!(runs(&mut pair, peer), [refused(1, 1, RefusalCode::NUMBER_REUSED)]);
    pair.send(peer, emit(2, &["b"]));
    assert_eq!(runs(&mut pair, peer), [run(2, 1, EmitFate::Stored(at(2)))]);
}

#[test]
fn a_number_that_comes_too_early_is_dropped_and_the_missing_one_is_asked_for() {
    let mut pair = Pair::new();
    let peer = pair.guest(1, None);
    pair.send(peer, emit(3, &["c"]));
    assert_eq!(pair.frames(peer), [ServerFrame::OutOfOrder { expected: EmitNumber(1) }]);
    assert_eq!(pair.hub.log.head().seq, Seq(0));
    pair.send(peer, emit(1, &["a", "b", "c"]));
    assert_eq!(runs(&mut pair, peer), [run(1, 3, EmitFate::Stored(at(1)))]);
}

#[test]
fn what_the_client_has_settled_is_not_waited_for() {
    let mut pair = Pair::new();
    let peer = pair.peer();
    let hello = Hello { settled: EmitNumber(40), ..hello(1, None) };
    pair.send_bytes(peer, codec::encode_hello(&hello));
    pair.send(peer, emit(41, &["a"]));
    assert_eq!(runs(&mut pair, peer), [run(41, 1, EmitFate::Stored(at(1)))]);
}

#[test]
fn a_final_refusal_consumes_its_number_and_the_rest_goes_on() {
    let mut pair = Pair::new();
    pair.hub.log.forbidden.insert(topic_name("secrets"));
    let peer = pair.guest(1, None);
    let mut odd = event("orders", "no topic");
    odd.topics.clear();
    let events = vec![event("orders", "a"), event("secrets", "b"), odd, event("orders", "d")];
    pair.send(peer, ClientFrame::Emit { first: EmitNumber(1), events });
    let expected = [
        run(1, 1, EmitFate::Stored(at(1))),
        refused(2, 1, RefusalCode::FORBIDDEN),
        refused(3, 1, RefusalCode::INVALID),
        run(4, 1, EmitFate::Stored(at(2))),
    ];
    assert_eq!(runs(&mut pair, peer), expected);
    pair.send(peer, emit(5, &["e"]));
    assert_eq!(runs(&mut pair, peer), [run(5, 1, EmitFate::Stored(at(3)))]);
}

#[test]
fn an_event_beyond_the_servers_own_limit_is_refused_without_troubling_the_log() {
    let mut config = ServerConfig::default();
    config.limits.event_bytes_max = 100;
    let mut pair = Pair::with(config);
    let peer = pair.guest(1, None);
    pair.send(peer, emit(1, &[&"x".repeat(101), "small"]));
    let expected = [refused(1, 1, RefusalCode::TOO_LARGE), run(2, 1, EmitFate::Stored(at(1)))];
    assert_eq!(runs(&mut pair, peer), expected);
}

#[test]
fn a_retryable_refusal_lets_nothing_overtake_and_the_emits_are_taken_later_in_order() {
    let mut pair = Pair::new();
    let peer = pair.guest(1, None);
    pair.send(peer, emit(1, &["a"]));
    pair.frames(peer);
    pair.hub.hold(Held::Appends);
    pair.send_all(peer, [emit(2, &["b"]), emit(3, &["c"]), emit(4, &["d"])]);
    pair.hub.log.refusing = Some(RefusalCode::STORAGE_FULL);
    pair.release(Held::Appends);
    let behind = [3, 4].map(|number| refused(number, 1, RefusalCode::OUT_OF_ORDER));
    assert_eq!(runs(&mut pair, peer), [refused(2, 1, RefusalCode::STORAGE_FULL), behind[0], behind[1]]);
    // What was sent before the refusal was known is dropped.
    pair.hub.log.refusing = None;
    pair.send(peer, emit(5, &["e"]));
    assert_eq!(pair.frames(peer), [ServerFrame::OutOfOrder { expected: EmitNumber(2) }]);
    pair.send(peer, emit(2, &["b", "c", "d", "e"]));
    assert_eq!(runs(&mut pair, peer), [run(2, 4, EmitFate::Stored(at(2)))]);
}

#[test]
fn a_client_that_goes_back_while_its_first_try_is_still_being_refused_is_not_thrown_back_again() {
    let mut pair = Pair::new();
    let peer = pair.guest(1, None);
    pair.frames(peer);
    pair.hub.hold(Held::Appends);
    pair.hub.log.refusing = Some(RefusalCode::STORAGE_FULL);
    pair.send_all(peer, [emit(1, &["a"]), emit(2, &["b"])]);
    pair.release(Held::Appends);
    pair.frames(peer);
    pair.hub.log.refusing = None;
    pair.send_all(peer, [emit(1, &["a", "b"]), emit(3, &["c"])]);
    let stored: u32 = runs(&mut pair, peer).iter().filter(|run| run.fate.is_stored()).map(|run| run.count).sum();
    assert_eq!(stored, 3);
}

#[test]
fn more_emits_than_agreed_are_left_in_the_socket() {
    let mut config = ServerConfig::default();
    config.limits.emits_in_flight_max = 10;
    let mut pair = Pair::with(config);
    let peer = pair.guest(1, None);
    pair.hub.hold(Held::Appends);
    pair.send_all(peer, (1..=30).map(|number| emit(number, &["x"])));
    assert_eq!(pair.hub.held(Held::Appends), 10);
    pair.release(Held::Appends);
    assert_eq!(pair.hub.log.head().seq, Seq(30));
    // A frame with more than all of it is taken alone.
    pair.send(peer, emit(31, &["x"; 25]));
    assert_eq!(pair.hub.log.head().seq, Seq(55));
}

#[test]
fn frames_that_no_honest_client_sends_end_the_connection() {
    let too_many =
        ClientFrame::Emit { first: EmitNumber(1), events: vec![event("orders", ""); EMITS_PER_FRAME_MAX + 1] };
    let none = ClientFrame::Emit { first: EmitNumber(1), events: vec![] };
    for (frame, code) in [
        (emit(0, &["a"]), CloseCode::UNEXPECTED),
        (emit(u64::MAX, &["a"]), CloseCode::UNEXPECTED),
        (too_many, CloseCode::LIMIT_BROKEN),
        (none, CloseCode::LIMIT_BROKEN),
    ] {
        let mut pair = Pair::new();
        let peer = pair.guest(1, None);
        pair.send(peer, frame);
        assert_eq!(pair.closed(peer).code, code);
        assert_eq!(pair.hub.log.head().seq, Seq(0));
    }
}

#[test]
fn the_newest_connection_of_a_publisher_fences_the_older_one() {
    let mut pair = Pair::new();
    let old = pair.guest(1, None);
    pair.send(old, emit(1, &["a"]));
    pair.frames(old);
    let newer = pair.peer();
    let hello = Hello { instance: redeliver_protocol::seq::InstanceId([9; 16]), ..hello(1, None) };
    pair.send_bytes(newer, codec::encode_hello(&hello));
    assert_eq!(pair.closed(old).code, CloseCode::PUBLISHER_FENCED);
    pair.send(newer, emit(2, &["b"]));
    assert_eq!(runs(&mut pair, newer), [run(2, 1, EmitFate::Stored(at(2)))]);
}

#[test]
fn a_fenced_connection_that_does_not_know_it_yet_stores_nothing() {
    let mut pair = Pair::new();
    let old = pair.guest(1, None);
    pair.frames(old);
    pair.hub.hold(Held::Appends);
    pair.send(old, emit(1, &["behind its back"]));
    let newer = pair.guest(1, None);
    pair.release(Held::Appends);
    assert_eq!(pair.hub.log.head().seq, Seq(0));
    assert_eq!(pair.closed(old).code, CloseCode::SUPERSEDED);
    pair.send(newer, emit(1, &["the same number"]));
    assert_eq!(runs(&mut pair, newer), [run(1, 1, EmitFate::Stored(at(1)))]);
}
