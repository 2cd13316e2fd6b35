//! Stories of who owns a durable subscriber's topic.

use redeliver_protocol::codec;
use redeliver_protocol::error::CloseCode;
use redeliver_protocol::frame::{ClientFrame, Ownership, ServerFrame, Subscribe};
use redeliver_protocol::name::SubscriberName;
use redeliver_protocol::seq::{Nth, Seq, SubscriptionId};
use redeliver_protocol::server::{Input, Output, Reply};

use crate::hub::Held;
use crate::world::{Pair, Peer, ack, hello, nths, resume, topic_name, unsubscribe};

const ONE: SubscriptionId = SubscriptionId(1);

fn standby() -> Subscribe {
    Subscribe { ownership: Ownership::Standby, ..resume(1, "orders") }
}

fn stored_seq(pair: &Pair) -> Seq {
    let key = (SubscriberName::new("billing").unwrap(), topic_name("orders"));
    pair.hub.log.cursors[&key].place.position.seq
}

/// A reader of the durable topic with three events in its hands.
fn owner(pair: &mut Pair) -> Peer {
    let owner = pair.guest(1, Some("billing"));
    pair.subscribed(owner, resume(1, "orders"));
    pair.emit_many("orders", 1..=3);
    assert_eq!(nths(&pair.frames(owner)), [1, 2, 3]);
    owner
}

#[test]
fn a_newcomer_takes_over_and_the_old_reader_is_told_and_gets_nothing_more() {
    let mut pair = Pair::new();
    let old = owner(&mut pair);
    let newcomer = pair.guest(2, Some("billing"));
    let place = pair.subscribed(newcomer, resume(1, "orders"));
    assert_eq!(place.nth, Nth(0));
    assert!(place.delivered_through.0 >= Nth(3));
    assert_eq!(pair.frames(old), [ServerFrame::TakenOver { id: ONE }]);
    pair.emit("orders", "4");
    assert_eq!(pair.frames(old), []);
    assert_eq!(nths(&pair.frames(newcomer)), [1, 2, 3, 4]);
}

#[test]
fn the_displaced_readers_acks_count_no_more() {
    let mut pair = Pair::new();
    let old = owner(&mut pair);
    let newcomer = pair.guest(2, Some("billing"));
    pair.subscribed(newcomer, resume(1, "orders"));
    pair.send(newcomer, ack(1, 1, 1));
    pair.frames(old);
    pair.send(old, ack(1, 3, 3));
    assert_eq!(pair.frames(old), []);
    assert_eq!(stored_seq(&pair), Seq(1));
    // And its late goodbye evicts nobody.
    pair.send(old, unsubscribe(1));
    assert_eq!(pair.frames(old), [ServerFrame::Unsubscribed { id: ONE }]);
    pair.cut(old);
    pair.send(newcomer, ack(1, 2, 2));
    assert_eq!(stored_seq(&pair), Seq(2));
}

#[test]
fn a_save_that_was_under_way_at_the_takeover_is_never_confirmed_to_the_old_reader() {
    let mut pair = Pair::new();
    let old = owner(&mut pair);
    pair.hub.hold(Held::Saves);
    pair.send(old, ack(1, 3, 3));
    let newcomer = pair.guest(2, Some("billing"));
    pair.send(newcomer, ClientFrame::Subscribe(resume(1, "orders")));
    pair.release(Held::Saves);
    assert_eq!(pair.frames(old), [ServerFrame::TakenOver { id: ONE }]);
    assert_eq!(nths(&pair.frames(newcomer)), [1, 2, 3]);
}

#[test]
fn a_standby_waits_as_long_as_it_takes_and_goes_on_where_the_owner_ended() {
    let mut pair = Pair::new();
    let first = owner(&mut pair);
    let second = pair.guest(2, Some("billing"));
    pair.send(second, ClientFrame::Subscribe(standby()));
    for _ in 0..10 {
        pair.pass(pair.hub.config.heartbeat);
        pair.send(first, ClientFrame::Pong { token: 0 });
        pair.send(second, ClientFrame::Pong { token: 0 });
    }
    let frames = pair.frames(second);
    assert!(frames.iter().all(|frame| matches!(frame, ServerFrame::Ping { .. })), "{frames:?}");
    pair.send(first, ack(1, 2, 2));
    pair.cut(first);
    let frames = pair.frames(second);
    let ServerFrame::Subscribed(place) = &frames[0] else { panic!("{frames:?}") };
    assert_eq!(place.nth, Nth(2));
    assert_eq!(nths(&frames), [3]);
}

#[test]
fn an_owner_that_unsubscribes_hands_over_behind_its_last_cursor() {
    let mut pair = Pair::new();
    let first = owner(&mut pair);
    let second = pair.guest(2, Some("billing"));
    pair.send(second, ClientFrame::Subscribe(standby()));
    pair.frames(second);
    pair.hub.hold(Held::Saves);
    pair.send_all(first, [ack(1, 3, 3), unsubscribe(1)]);
    assert_eq!(pair.frames(second), []);
    pair.release(Held::Saves);
    let frames = pair.frames(second);
    let ServerFrame::Subscribed(place) = &frames[0] else { panic!("{frames:?}") };
    // Everything was confirmed: nothing is handed over again, nothing is marked.
    assert_eq!((place.nth, place.delivered_through.0), (Nth(3), Nth(3)));
}

#[test]
fn a_standby_that_gives_up_is_answered_and_never_promoted() {
    let mut pair = Pair::new();
    let first = owner(&mut pair);
    let second = pair.guest(2, Some("billing"));
    pair.frames(second);
    pair.send_all(second, [ClientFrame::Subscribe(standby()), unsubscribe(1)]);
    assert_eq!(pair.frames(second), [ServerFrame::Unsubscribed { id: ONE }]);
    pair.cut(first);
    assert_eq!(pair.frames(second), []);
    assert!(pair.hub.owners.is_empty());
}

#[test]
fn a_promotion_that_crosses_with_the_standbys_end_is_passed_over() {
    let mut pair = Pair::new();
    owner(&mut pair);
    let second = pair.guest(2, Some("billing"));
    pair.send_all(second, [ClientFrame::Subscribe(standby()), unsubscribe(1)]);
    pair.frames(second);
    // The shell had the grant in its hands already; meanwhile the number may not mean something else.
    pair.send(second, ClientFrame::Subscribe(resume(2, "others")));
    pair.frames(second);
    let opens = |pair: &Pair| pair.hub.trace.iter().filter(|(_, output)| matches!(output, Output::Open { .. })).count();
    let before = opens(&pair);
    pair.input(second, Input::Reply(Reply::Claimed { id: ONE }));
    assert_eq!((pair.frames(second), opens(&pair)), (vec![], before));
}

#[test]
fn the_number_of_a_standby_that_gave_up_is_spent_while_a_promotion_may_be_under_way() {
    let mut pair = Pair::new();
    owner(&mut pair);
    let second = pair.guest(2, Some("billing"));
    pair.send_all(second, [ClientFrame::Subscribe(standby()), unsubscribe(1)]);
    pair.frames(second);
    pair.send(second, ClientFrame::Subscribe(resume(1, "others")));
    assert_eq!(pair.closed(second).code, CloseCode::UNEXPECTED);
}

#[test]
fn the_same_client_coming_back_is_no_takeover_and_its_half_open_connection_ends() {
    let mut pair = Pair::new();
    let old = owner(&mut pair);
    pair.send(old, ack(1, 1, 1));
    let half_open = pair.cut_unnoticed(old);
    pair.reconnect(old);
    let back = redeliver_protocol::frame::Hello { publisher: None, ..hello(1, Some("billing")) };
    pair.send_bytes(old, codec::encode_hello(&back));
    pair.frames(old);
    // As a client does that comes back: it asks for no takeover.
    let place = pair.subscribed(old, standby());
    assert_eq!(place.nth, Nth(1));
    assert!(!pair.hub.connections.contains_key(&half_open), "the old connection lives on");
    assert_eq!(nths(&pair.frames(old)), [2, 3]);
    pair.send(old, ack(1, 3, 3));
    assert_eq!(stored_seq(&pair), Seq(3));
}

#[test]
fn a_superseded_connection_is_told_never_to_come_back() {
    let mut pair = Pair::new();
    let old = owner(&mut pair);
    let again = pair.peer();
    let back = redeliver_protocol::frame::Hello { publisher: None, ..hello(1, Some("billing")) };
    pair.send_bytes(again, codec::encode_hello(&back));
    pair.subscribed(again, resume(1, "orders"));
    assert_eq!(pair.closed(old).code, CloseCode::SUPERSEDED);
}

#[test]
fn a_takeover_while_the_first_cursor_is_being_saved_leaves_one_owner() {
    let mut pair = Pair::new();
    let old = pair.guest(1, Some("billing"));
    pair.frames(old);
    pair.hub.hold(Held::Saves);
    pair.send(old, ClientFrame::Subscribe(resume(1, "orders")));
    let newcomer = pair.guest(2, Some("billing"));
    pair.send(newcomer, ClientFrame::Subscribe(resume(1, "orders")));
    pair.release(Held::Saves);
    assert_eq!(pair.frames(old), [ServerFrame::TakenOver { id: ONE }]);
    assert!(matches!(pair.frames(newcomer)[0], ServerFrame::Subscribed(_)));
    pair.emit("orders", "1");
    assert_eq!(nths(&pair.frames(newcomer)), [1]);
    assert_eq!(pair.frames(old), []);
}
