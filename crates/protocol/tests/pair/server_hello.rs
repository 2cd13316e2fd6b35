//! Stories of the beginning and the end of a conversation, as the server sees them.

use std::time::Duration;

use bytes::Bytes;
use redeliver_protocol::codec::{self, FromServer};
use redeliver_protocol::error::{Close, CloseCode, RetryAdvice};
use redeliver_protocol::frame::{ClientFrame, Hello, ServerFrame};
use redeliver_protocol::history::PublisherState;
use redeliver_protocol::limits::HELLO_BYTES_MAX;
use redeliver_protocol::seq::{EmitNumber, Seq};
use redeliver_protocol::server::Input;

use crate::hub::{Held, close_with};
use crate::world::{Pair, emit, hello, nths, subscribe};

const HEARTBEAT: Duration = Duration::from_secs(15);
const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_hello_is_answered_with_welcome_and_the_limits() {
    let mut pair = Pair::new();
    pair.emit("orders", "one");
    let peer = pair.guest(1, None);
    let heard = pair.heard(peer);
    let [FromServer::Frame(ServerFrame::Welcome(welcome))] = &heard[..] else { panic!("{heard:?}") };
    assert_eq!((welcome.head, welcome.heartbeat), (Seq(1), HEARTBEAT));
    assert_eq!(welcome.limits, pair.hub.config.limits);
    assert_eq!(welcome.publisher, PublisherState::New);
}

#[test]
fn welcome_tells_a_publisher_what_is_known_of_it() {
    let mut pair = Pair::new();
    let peer = pair.guest(1, None);
    pair.send(peer, emit(1, &["a", "b"]));
    pair.cut(peer);
    for (number, settled, expected) in
        [(1, 0, PublisherState::Reached(EmitNumber(2))), (2, 7, PublisherState::Forgotten), (3, 0, PublisherState::New)]
    {
        let peer = pair.peer();
        let hello = Hello { settled: EmitNumber(settled), ..hello(number, None) };
        pair.send_bytes(peer, codec::encode_hello(&hello));
        let Some(FromServer::Frame(ServerFrame::Welcome(welcome))) = pair.heard(peer).pop() else { panic!() };
        assert_eq!(welcome.publisher, expected);
    }
}

#[test]
fn without_a_publisher_in_hello_the_answer_is_new_and_an_emit_has_no_place() {
    let mut pair = Pair::new();
    let peer = pair.peer();
    let hello = Hello { publisher: None, settled: EmitNumber(9), ..hello(1, None) };
    pair.send_bytes(peer, codec::encode_hello(&hello));
    let Some(FromServer::Frame(ServerFrame::Welcome(welcome))) = pair.heard(peer).pop() else { panic!() };
    assert_eq!(welcome.publisher, PublisherState::New);
    pair.send(peer, emit(1, &["a"]));
    assert_eq!(pair.closed(peer).code, CloseCode::UNEXPECTED);
    assert_eq!(pair.hub.log.head().seq, Seq(0));
}

#[test]
fn subscribes_and_emits_pipelined_behind_hello_wait_until_it_is_authenticated() {
    let mut pair = Pair::new();
    pair.hub.hold(Held::Authentication);
    let peer = pair.peer();
    let subscribe = codec::encode_client(&ClientFrame::Subscribe(subscribe(1, "orders")));
    let emit = codec::encode_client(&emit(1, &["a"]));
    pair.send_bytes_all(peer, [codec::encode_hello(&hello(1, None)), subscribe, emit]);
    assert!(pair.heard(peer).is_empty());
    assert_eq!(pair.hub.log.head().seq, Seq(0));
    pair.release(Held::Authentication);
    let frames = pair.frames(peer);
    assert!(matches!(frames[0], ServerFrame::Subscribed(_)), "{frames:?}");
    assert_eq!(nths(&frames), [1]);
}

#[test]
fn a_refused_client_is_closed_with_the_authenticators_words() {
    let mut pair = Pair::new();
    let refusal = Close::new(CloseCode::UNAUTHENTICATED, "who are you?", RetryAdvice::Never);
    pair.hub.refusing = Some(refusal.clone());
    let peer = pair.guest(1, None);
    assert_eq!(pair.closed(peer), refusal);
}

#[test]
fn whoever_says_nothing_is_closed_after_the_hello_timeout() {
    let mut pair = Pair::new();
    let peer = pair.peer();
    pair.pass(Duration::from_millis(4_999));
    assert!(pair.heard(peer).is_empty());
    pair.pass(Duration::from_millis(1));
    let close = pair.closed(peer);
    assert_eq!((close.code, close.retry), (CloseCode::HELLO_TIMEOUT, RetryAdvice::Now));
}

#[test]
fn an_authentication_that_takes_too_long_ends_the_connection() {
    let mut pair = Pair::new();
    pair.hub.hold(Held::Authentication);
    let peer = pair.guest(1, None);
    pair.pass(5 * SECOND);
    assert_eq!(pair.closed(peer).code, CloseCode::HELLO_TIMEOUT);
    // Its late answer reaches nobody.
    pair.release(Held::Authentication);
    assert!(pair.heard(peer).is_empty());
}

#[test]
fn a_client_of_another_version_is_told_in_words_whatever_follows_in_its_hello() {
    let mut pair = Pair::new();
    let peer = pair.peer();
    let mut message = codec::encode_hello(&hello(1, None)).to_vec();
    message[4] = 9;
    message.truncate(12);
    message.resize(HELLO_BYTES_MAX * 2, 0xEE);
    pair.send_bytes(peer, message);
    let close = pair.closed(peer);
    assert_eq!((close.code, close.retry), (CloseCode::VERSION_MISMATCH, RetryAdvice::Never));
    assert!(close.reason.contains("version 9") && close.reason.contains("version 1"), "{}", close.reason);
}

#[test]
fn a_client_that_needs_an_unknown_feature_is_told_which() {
    let mut pair = Pair::new();
    let peer = pair.peer();
    let mut message = codec::encode_hello(&hello(1, None)).to_vec();
    message[9] = 0x80;
    pair.send_bytes(peer, message);
    let close = pair.closed(peer);
    assert_eq!(close.code, CloseCode::VERSION_MISMATCH);
    assert!(close.reason.contains("0x80000000"), "{}", close.reason);
}

#[test]
fn a_stranger_may_not_send_more_than_a_small_hello() {
    let mut pair = Pair::new();
    let peer = pair.peer();
    let hello = Hello { auth: Some(Bytes::from(vec![7; HELLO_BYTES_MAX])), ..hello(1, None) };
    pair.send_bytes(peer, codec::encode_hello(&hello));
    assert_eq!(pair.closed(peer).code, CloseCode::TOO_LARGE);
    assert!(pair.hub.trace.is_empty(), "the authenticator was bothered");
}

#[test]
fn a_frame_before_hello_and_a_second_hello_have_no_place() {
    let mut pair = Pair::new();
    let peer = pair.peer();
    pair.send(peer, ClientFrame::Subscribe(subscribe(1, "orders")));
    assert_eq!(pair.closed(peer).code, CloseCode::UNEXPECTED);
    let peer = pair.guest(1, None);
    pair.send_bytes(peer, codec::encode_hello(&hello(1, None)));
    assert_eq!(pair.closed(peer).code, CloseCode::MALFORMED);
}

#[test]
fn what_is_no_binary_message_is_answered_in_words() {
    let mut pair = Pair::new();
    let peer = pair.peer();
    pair.input(peer, Input::NotBinary("a text message"));
    let close = pair.closed(peer);
    assert_eq!((close.code, close.retry), (CloseCode::MALFORMED, RetryAdvice::Never));
    assert!(close.reason.contains("a text message"), "{}", close.reason);
}

#[test]
fn a_goodbye_is_answered_and_leaves_nothing_behind() {
    let mut pair = Pair::new();
    let peer = pair.guest(1, Some("billing"));
    pair.send(peer, ClientFrame::Subscribe(crate::world::resume(1, "orders")));
    pair.send_bytes(peer, codec::encode_close(&close_with(CloseCode::DONE)));
    assert_eq!(pair.closed(peer).code, CloseCode::DONE);
    assert!(pair.hub.owners.is_empty() && pair.hub.watchers.is_empty() && pair.hub.publishers.is_empty());
    let early = pair.peer();
    pair.send_bytes(early, codec::encode_close(&close_with(CloseCode::DONE)));
    assert_eq!(pair.closed(early).code, CloseCode::DONE);
}

#[test]
fn a_silent_peer_is_asked_after_one_heartbeat_and_given_up_after_two() {
    let mut pair = Pair::new();
    let peer = pair.guest(1, None);
    pair.pass(HEARTBEAT);
    assert_eq!(pair.frames(peer), [ServerFrame::Ping { token: 1 }]);
    pair.pass(HEARTBEAT - SECOND);
    assert_eq!(pair.frames(peer), []);
    pair.pass(SECOND);
    let close = pair.closed(peer);
    assert_eq!((close.code, close.retry), (CloseCode::HEARTBEAT_TIMEOUT, RetryAdvice::Now));
}

#[test]
fn any_message_counts_as_a_sign_of_life() {
    let mut pair = Pair::new();
    let peer = pair.guest(1, None);
    for number in 1..=10 {
        pair.pass(HEARTBEAT - SECOND);
        pair.send(peer, emit(number, &["still here"]));
    }
    let frames = pair.frames(peer);
    assert!(!frames.iter().any(|frame| matches!(frame, ServerFrame::Ping { .. })), "{frames:?}");
    pair.pass(HEARTBEAT);
    pair.send(peer, ClientFrame::Pong { token: 1 });
    pair.pass(HEARTBEAT);
    assert_eq!(pair.frames(peer), [ServerFrame::Ping { token: 1 }, ServerFrame::Ping { token: 2 }]);
}

#[test]
fn a_ping_is_answered_and_a_flood_of_them_with_the_last_alone() {
    let mut pair = Pair::new();
    let peer = pair.guest(1, None);
    pair.send(peer, ClientFrame::Ping { token: 77 });
    assert_eq!(pair.frames(peer), [ServerFrame::Pong { token: 77 }]);

    let mut session = redeliver_protocol::server::ServerSession::new(pair.hub.config.clone(), pair.now);
    let hello = codec::encode_hello(&hello(1, None));
    session.handle(Input::Message(hello), pair.now);
    let admitted = redeliver_protocol::server::Admitted {
        epoch: pair.hub.log.head().epoch,
        head: Seq(0),
        publisher: PublisherState::New,
    };
    session.handle(Input::Authenticated(Ok(admitted)), pair.now);
    for token in 0..50_000 {
        session.handle(Input::Message(codec::encode_client(&ClientFrame::Ping { token })), pair.now);
    }
    let outputs: Vec<_> = std::iter::from_fn(|| session.poll_output()).collect();
    // Authenticate, Welcome, one pong.
    assert_eq!(outputs.len(), 3, "{outputs:?}");
}

#[test]
fn whoever_provokes_answers_and_does_not_read_them_is_not_read_either() {
    let mut pair = Pair::new();
    let peer = pair.guest(1, None);
    pair.stall(peer, true);
    let frames = (0..5_000).map(|id| ClientFrame::Unsubscribe { id: redeliver_protocol::seq::SubscriptionId(id) });
    pair.send(peer, ClientFrame::Subscribe(subscribe(5_000, "orders")));
    pair.send_all(peer, frames);
    let id = *pair.hub.connections.keys().next().unwrap();
    assert!(!pair.hub.connections[&id].session.wants_message());
    // Nobody is held silent who is not listened to.
    pair.pass(4 * HEARTBEAT);
    assert!(pair.hub.connections.contains_key(&id));
    pair.stall(peer, false);
    let frames = pair.frames(peer);
    let answers = frames.iter().filter(|frame| matches!(frame, ServerFrame::Unsubscribed { .. }));
    assert_eq!(answers.count(), 5_000);
}

#[test]
fn a_reader_whose_socket_is_stuck_is_sent_away_to_come_back() {
    let mut pair = Pair::new();
    let peer = pair.guest(1, None);
    pair.input(peer, Input::Stuck);
    let close = pair.closed(peer);
    assert_eq!((close.code, close.retry), (CloseCode::STUCK, RetryAdvice::Now));
}

#[test]
fn a_server_that_shuts_down_says_so_after_what_it_has_promised() {
    let mut pair = Pair::new();
    let peer = pair.guest(1, None);
    pair.heard(peer);
    pair.hub.hold(Held::Appends);
    pair.send(peer, emit(1, &["a"]));
    let advice = RetryAdvice::After(Duration::from_millis(700));
    let close = Close::of(CloseCode::DRAINING, advice);
    let connection = *pair.hub.connections.keys().next().unwrap();
    // The emit's answer and the end come in one turn: the answer is still told.
    pair.hub.release(Held::Appends, pair.now);
    pair.hub.input(connection, Input::End(close.clone()));
    pair.pass(Duration::ZERO);
    let heard = pair.heard(peer);
    assert!(matches!(heard[0], FromServer::Frame(ServerFrame::Emitted { .. })), "{heard:?}");
    assert_eq!(heard[1..], [FromServer::Close(close)]);
}
