//! Stories of durable cursors, as the server sees them: what is saved, when it is confirmed, and what is marked.

use std::time::Duration;

use redeliver_protocol::error::CloseCode;
use redeliver_protocol::frame::{ClientFrame, ServerFrame, Subscribe, Window};
use redeliver_protocol::history::{Cursor, GapCause, Place, Start};
use redeliver_protocol::name::SubscriberName;
use redeliver_protocol::redelivery::DeliveredThrough;
use redeliver_protocol::seq::{Epoch, InstanceId, Nth, Position, Seq, SubscriptionId};
use redeliver_protocol::server::Output;

use crate::hub::Held;
use crate::world::{Pair, Peer, ack, nths, resume, subscribe, topic_name, unsubscribe};

const ONE: SubscriptionId = SubscriptionId(1);

fn cursor(pair: &Pair) -> Cursor {
    let key = (SubscriberName::new("billing").unwrap(), topic_name("orders"));
    pair.hub.log.cursors.get(&key).expect("a stored cursor").clone()
}

fn at(epoch: u8, seq: u64) -> Position {
    Position::new(Epoch([epoch; 16]), Seq(seq))
}

fn known(epoch: u8, seq: u64, nth: u64) -> Place {
    Place { position: at(epoch, seq), nth: Nth(nth), earlier: [].into() }
}

fn acked(seq: u64) -> ServerFrame {
    ServerFrame::Acked { id: ONE, seq: Seq(seq) }
}

fn small(window: u32) -> ClientFrame {
    let window = Window::new(window, 1 << 20);
    ClientFrame::Subscribe(Subscribe { window, ..resume(1, "orders") })
}

/// A durable reader that comes back after what was handed to it, as a client does after a lost connection.
fn return_after(handed: Place) -> Subscribe {
    Subscribe { start: Start::Resume { at_least: Some(handed) }, ..resume(1, "orders") }
}

fn billing(pair: &mut Pair) -> Peer {
    let peer = pair.guest(1, Some("billing"));
    pair.frames(peer);
    peer
}

/// `billing`, which follows `orders`.
fn following() -> (Pair, Peer) {
    let mut pair = Pair::new();
    let peer = billing(&mut pair);
    pair.subscribed(peer, resume(1, "orders"));
    (pair, peer)
}

/// `billing`, which was handed so many events of `orders` and has acknowledged none.
fn handed(events: u64) -> (Pair, Peer) {
    let (mut pair, peer) = following();
    pair.emit_many("orders", 1..=events);
    pair.frames(peer);
    (pair, peer)
}

/// `billing` loses its connection and comes back on another one.
fn back(pair: &mut Pair, peer: Peer) -> Peer {
    pair.cut(peer);
    billing(pair)
}

/// The last saved urgency of each save in the trace.
fn urgencies(pair: &Pair) -> Vec<bool> {
    let saves = pair.hub.trace.iter().filter_map(|(_, output)| match output {
        Output::SaveCursor { urgent, .. } => Some(*urgent),
        _ => None,
    });
    saves.collect()
}

#[test]
fn a_name_never_seen_starts_at_latest_and_that_is_durable_before_it_is_told() {
    let mut pair = Pair::new();
    pair.emit_many("orders", 1..=3);
    let peer = billing(&mut pair);
    pair.hub.hold(Held::Saves);
    pair.send(peer, ClientFrame::Subscribe(resume(1, "orders")));
    assert_eq!(pair.frames(peer), []);
    assert_eq!(urgencies(&pair), [true]);
    pair.release(Held::Saves);
    assert!(matches!(pair.frames(peer)[0], ServerFrame::Subscribed(_)));
    assert_eq!(cursor(&pair).place, known(1, 3, 3));
    // It never received an event, and resumes from there nevertheless.
    pair.cut(peer);
    pair.emit("orders", "4");
    let peer = billing(&mut pair);
    let place = pair.subscribed(peer, resume(1, "orders"));
    assert_eq!((place.after, place.nth, place.pending), (at(1, 3), Nth(3), 1));
    assert_eq!(nths(&pair.frames(peer)), [4]);
}

#[test]
fn an_ack_is_confirmed_when_the_cursor_is_durable_and_not_before() {
    let (mut pair, peer) = handed(3);
    pair.hub.hold(Held::Saves);
    pair.send(peer, ack(1, 2, 2));
    assert_eq!(pair.frames(peer), []);
    pair.release(Held::Saves);
    assert_eq!(pair.frames(peer), [acked(2)]);
    assert_eq!(cursor(&pair).place, known(1, 2, 2));
}

#[test]
fn acks_are_gathered_while_a_save_is_under_way() {
    let (mut pair, peer) = handed(50);
    pair.hub.hold(Held::Saves);
    pair.hub.trace.clear();
    (1..=50).for_each(|seq| pair.send(peer, ack(1, seq, seq)));
    assert_eq!(pair.hub.held(Held::Saves), 1);
    pair.release(Held::Saves);
    assert_eq!(pair.frames(peer), [acked(1), acked(50)]);
    assert_eq!(pair.hub.saves_of(ONE).len(), 2);
}

#[test]
fn an_ack_without_a_kept_cursor_is_confirmed_at_once() {
    let mut pair = Pair::new();
    pair.emit_many("orders", 1..=3);
    let peer = billing(&mut pair);
    pair.subscribed(peer, subscribe(1, "orders"));
    pair.frames(peer);
    pair.send(peer, ack(1, 3, 3));
    assert_eq!(pair.frames(peer), [acked(3)]);
    assert!(pair.hub.saves_of(ONE).is_empty() && pair.hub.log.cursors.is_empty());
}

#[test]
fn an_old_ack_says_nothing_new_but_is_answered() {
    let (mut pair, peer) = following();
    pair.emit_many("orders", 1..=3);
    pair.send(peer, ack(1, 3, 3));
    pair.frames(peer);
    pair.send(peer, ack(1, 1, 1));
    assert_eq!(pair.frames(peer), [acked(1)]);
    assert_eq!(cursor(&pair).place, known(1, 3, 3));
}

#[test]
fn an_ack_of_what_was_never_sent_ends_the_connection_and_saves_nothing() {
    for (seq, nth) in [(4, 4), (3, 2), (2, 3), (u64::MAX, u64::MAX), (3, u64::MAX)] {
        let mut pair = Pair::new();
        let peer = billing(&mut pair);
        pair.subscribed(peer, resume(1, "orders"));
        pair.emit_many("orders", 1..=3);
        let before = cursor(&pair);
        pair.send(peer, ack(1, seq, nth));
        assert_eq!(pair.closed(peer).code, CloseCode::LIMIT_BROKEN, "{seq} {nth}");
        assert_eq!(cursor(&pair), before);
    }
}

#[test]
fn an_ack_of_a_subscription_that_never_was_or_is_not_yet_has_no_place() {
    let mut pair = Pair::new();
    let peer = billing(&mut pair);
    pair.send(peer, ack(1, 1, 1));
    assert_eq!(pair.closed(peer).code, CloseCode::UNEXPECTED);
    let peer = billing(&mut pair);
    pair.hub.hold(Held::Opens);
    pair.send_all(peer, [ClientFrame::Subscribe(resume(1, "orders")), ack(1, 1, 1)]);
    assert_eq!(pair.closed(peer).code, CloseCode::UNEXPECTED);
}

#[test]
fn nothing_is_handed_over_that_is_not_marked_durably_before() {
    let mut pair = Pair::new();
    let peer = billing(&mut pair);
    pair.send(peer, small(10));
    pair.emit_many("orders", 1..=100);
    let mut sent = nths(&pair.frames(peer)).len() as u64;
    assert_eq!(sent, 10);
    pair.hub.hold(Held::Saves);
    // However much is acknowledged, nothing goes beyond what the log knows to be handed over.
    for _ in 0..5 {
        pair.send(peer, ack(1, sent, sent));
        sent += nths(&pair.frames(peer)).len() as u64;
        assert!(Nth(sent) <= cursor(&pair).delivered_through.0, "{sent}");
    }
    pair.release(Held::Saves);
    sent += nths(&pair.frames(peer)).len() as u64;
    assert!(sent > 10 && Nth(sent) <= cursor(&pair).delivered_through.0, "{sent}");
}

#[test]
fn a_reader_at_full_speed_waits_for_no_save_as_long_as_they_keep_up() {
    let mut pair = Pair::new();
    let peer = billing(&mut pair);
    pair.send(peer, small(10));
    pair.emit_many("orders", 1..=100);
    pair.frames(peer);
    pair.send(peer, ack(1, 5, 5));
    pair.frames(peer);
    // The next save is held, and a whole window goes through meanwhile.
    pair.hub.hold(Held::Saves);
    pair.send(peer, ack(1, 10, 10));
    assert_eq!(nths(&pair.frames(peer)).len(), 5);
    pair.send(peer, ack(1, 14, 14));
    assert_eq!(nths(&pair.frames(peer)).len(), 4);
}

#[test]
fn a_save_hurries_when_its_mark_is_about_to_hold_the_reader_up() {
    let mut pair = Pair::new();
    let peer = billing(&mut pair);
    pair.send(peer, small(100));
    pair.emit_many("orders", 1..=10);
    pair.hub.trace.clear();
    pair.hub.hold(Held::Saves);
    pair.send(peer, ack(1, 1, 1));
    assert_eq!(urgencies(&pair), [false]);
    pair.emit_many("orders", 11..=90);
    pair.send(peer, ack(1, 90, 90));
    assert_eq!(urgencies(&pair), [false, true]);
    pair.send(peer, ack(1, 90, 90));
    assert_eq!(pair.hub.held(Held::Saves), 2);
    pair.release(Held::Saves);
    assert!(pair.frames(peer).contains(&acked(90)));
}

#[test]
fn what_may_have_been_handed_over_before_a_crash_is_marked_after_it() {
    let mut pair = Pair::new();
    let peer = billing(&mut pair);
    pair.send(peer, small(10));
    pair.emit_many("orders", 1..=100);
    pair.send(peer, ack(1, 4, 4));
    let handed = nths(&pair.frames(peer)).into_iter().max().unwrap();
    pair.restart();
    pair.reconnect(peer);
    let hello = redeliver_protocol::codec::encode_hello(&crate::world::hello(1, Some("billing")));
    pair.send_bytes(peer, hello);
    pair.frames(peer);
    let place = pair.subscribed(peer, resume(2, "orders"));
    assert_eq!(place.after, at(1, 4));
    assert!(place.delivered_through.0 >= Nth(handed), "{:?} {handed}", place.delivered_through);
    assert!(place.delivered_through.0 <= Nth(handed + 20), "marked far too much");
}

#[test]
fn a_clean_end_leaves_the_exact_mark_and_confirms_every_ack_before_it() {
    let (mut pair, peer) = handed(5);
    pair.hub.hold(Held::Saves);
    pair.send_all(peer, [ack(1, 2, 2), ack(1, 3, 3), unsubscribe(1)]);
    assert_eq!(pair.frames(peer), []);
    pair.release(Held::Saves);
    let frames = pair.frames(peer);
    assert_eq!(frames.last(), Some(&ServerFrame::Unsubscribed { id: ONE }));
    assert!(frames.contains(&acked(3)), "{frames:?}");
    assert_eq!(
        cursor(&pair),
        Cursor::new(known(1, 3, 3), DeliveredThrough(Nth(5))).of_reader(Some(InstanceId([1; 16])))
    );
    assert!(pair.hub.owners.is_empty() && pair.hub.watchers.is_empty());
    let place = pair.subscribed(peer, resume(2, "orders"));
    assert_eq!((place.nth, place.delivered_through.0), (Nth(3), Nth(5)));
}

#[test]
fn an_unsubscribe_before_the_first_cursor_is_durable_ends_well() {
    let mut pair = Pair::new();
    pair.emit_many("orders", 1..=5);
    let peer = billing(&mut pair);
    pair.hub.hold(Held::Saves);
    pair.send_all(peer, [ClientFrame::Subscribe(resume(1, "orders")), unsubscribe(1)]);
    pair.release(Held::Saves);
    assert_eq!(pair.frames(peer), [ServerFrame::Unsubscribed { id: ONE }]);
    assert_eq!(
        cursor(&pair),
        Cursor::new(known(1, 5, 5), DeliveredThrough(Nth(5))).of_reader(Some(InstanceId([1; 16])))
    );
}

#[test]
fn unsubscribe_and_subscribe_in_one_breath_go_on_where_the_acks_ended() {
    let (mut pair, peer) = handed(5);
    pair.send_all(peer, [ack(1, 3, 3), unsubscribe(1), ClientFrame::Subscribe(resume(2, "orders"))]);
    let frames = pair.frames(peer);
    let ended = frames.iter().position(|frame| *frame == ServerFrame::Unsubscribed { id: ONE }).expect("ended");
    assert!(matches!(frames[ended + 1], ServerFrame::Subscribed(_)), "{frames:?}");
    assert_eq!(nths(&frames), [4, 5]);
}

#[test]
fn the_one_that_waits_behind_an_ending_one_can_itself_be_ended() {
    let (mut pair, peer) = following();
    pair.frames(peer);
    pair.hub.hold(Held::Saves);
    pair.emit("orders", "1");
    pair.frames(peer);
    pair.send_all(
        peer,
        [
            ack(1, 1, 1),
            unsubscribe(1),
            ClientFrame::Subscribe(resume(2, "orders")),
            unsubscribe(2),
            ClientFrame::Subscribe(resume(3, "orders")),
        ],
    );
    assert_eq!(pair.frames(peer), [ServerFrame::Unsubscribed { id: SubscriptionId(2) }]);
    pair.release(Held::Saves);
    let frames = pair.frames(peer);
    let told = frames.iter().find_map(|frame| match frame {
        ServerFrame::Subscribed(subscribed) => Some((subscribed.id.0, subscribed.nth)),
        _ => None,
    });
    assert_eq!(told, Some((3, Nth(1))), "{frames:?}");
}

#[test]
fn one_connection_follows_a_durable_topic_once() {
    let (mut pair, peer) = following();
    pair.frames(peer);
    pair.send(peer, ClientFrame::Subscribe(resume(2, "orders")));
    assert!(matches!(pair.frames(peer)[..], [ServerFrame::SubscribeRefused { .. }]));
    // Following it beside, without a cursor, is something else.
    pair.subscribed(peer, subscribe(3, "orders"));
}

#[test]
fn what_was_handed_over_on_an_earlier_connection_is_acknowledged_on_this_one() {
    let (mut pair, peer) = following();
    pair.emit_many("orders", 1..=10);
    pair.send(peer, ack(1, 2, 2));
    let peer = back(&mut pair, peer);
    let place = pair.subscribed(peer, return_after(known(1, 8, 8)));
    assert_eq!(place.after, at(1, 8));
    assert_eq!(nths(&pair.frames(peer)), [9, 10]);
    // Coming back confirms nothing: only acks move the cursor.
    assert_eq!(cursor(&pair).place, known(1, 2, 2));
    pair.send(peer, ack(1, 6, 6));
    assert_eq!(pair.frames(peer), [acked(6)]);
    assert_eq!(cursor(&pair).place, known(1, 6, 6));
    pair.send(peer, ack(1, 9, 9));
    assert_eq!(pair.frames(peer), [acked(9)]);
    assert_eq!(cursor(&pair).place, known(1, 9, 9));
}

#[test]
fn a_late_ack_across_a_restart_is_saved_with_the_epoch_in_which_its_event_was_written() {
    let (mut pair, peer) = following();
    pair.emit_many("orders", 1..=4);
    pair.send(peer, ack(1, 1, 1));
    pair.restart();
    pair.emit_many("orders", 5..=8);
    for (seq, epoch) in [(2, 1), (4, 1), (5, 2), (7, 2)] {
        let peer = billing(&mut pair);
        pair.subscribed(peer, return_after(known(2, 7, 7)));
        pair.frames(peer);
        pair.send(peer, ack(1, seq, seq));
        assert_eq!(pair.frames(peer), [acked(seq)]);
        assert_eq!(cursor(&pair).place.position, at(epoch, seq));
        pair.cut(peer);
    }
    // The place in the earlier epoch is kept, in case the log goes back.
    assert_eq!(*cursor(&pair).place.earlier, [at(1, 4)]);
}

#[test]
fn a_late_ack_that_cannot_be_true_ends_the_connection() {
    let (mut pair, peer) = following();
    pair.emit_many("orders", 1..=10);
    pair.send(peer, ack(1, 2, 2));
    pair.cut(peer);
    for (seq, nth) in [(5, 6), (5, 1)] {
        let peer = billing(&mut pair);
        pair.subscribed(peer, return_after(known(1, 8, 8)));
        pair.frames(peer);
        pair.send(peer, ack(1, seq, nth));
        assert_eq!(pair.closed(peer).code, CloseCode::LIMIT_BROKEN, "{seq} {nth}");
    }
}

#[test]
fn a_start_that_names_where_to_begin_moves_the_cursor_and_keeps_the_mark() {
    let (mut pair, peer) = following();
    pair.emit_many("orders", 1..=10);
    pair.send(peer, ack(1, 8, 8));
    pair.send(peer, unsubscribe(1));
    pair.frames(peer);
    let again = Subscribe { start: Start::After(known(1, 3, 3)), ..resume(2, "orders") };
    pair.hub.hold(Held::Saves);
    pair.send(peer, ClientFrame::Subscribe(again));
    assert_eq!(pair.frames(peer), [], "nothing is said before the cursor is moved");
    pair.release(Held::Saves);
    assert_eq!(nths(&pair.frames(peer)), [4, 5, 6, 7, 8, 9, 10]);
    assert_eq!(cursor(&pair).place, known(1, 3, 3));
    assert!(cursor(&pair).delivered_through.0 >= Nth(10), "all of them were delivered before");
    pair.send(peer, ack(2, 5, 5));
    assert_eq!(pair.frames(peer), [ServerFrame::Acked { id: SubscriptionId(2), seq: Seq(5) }]);
    let peer = back(&mut pair, peer);
    let place = pair.subscribed(peer, resume(1, "orders"));
    assert_eq!((place.after, place.delivered_through.0 >= Nth(10)), (at(1, 5), true));
    pair.cut(peer);
    // On, past what nobody has handled.
    let peer = billing(&mut pair);
    pair.subscribed(peer, Subscribe { start: Start::Latest, ..resume(1, "orders") });
    assert_eq!(cursor(&pair).place, known(1, 10, 10));
}

#[test]
fn a_gap_is_told_again_after_a_resume_until_its_end_is_acknowledged() {
    let (mut pair, peer) = following();
    pair.emit_many("orders", 1..=10);
    pair.send(peer, ack(1, 2, 2));
    pair.cut(peer);
    pair.hub.log.floor = Seq(6);
    for _ in 0..3 {
        let peer = billing(&mut pair);
        let gap = pair.subscribed(peer, resume(1, "orders")).gap.expect("a gap");
        assert_eq!((gap.after, gap.through, gap.count), (at(1, 2), at(1, 6), 4));
        pair.cut(peer);
    }
    let peer = billing(&mut pair);
    pair.subscribed(peer, resume(1, "orders"));
    pair.send(peer, ack(1, 6, 6));
    let peer = back(&mut pair, peer);
    let place = pair.subscribed(peer, resume(1, "orders"));
    assert_eq!((place.gap, place.nth), (None, Nth(6)));
}

#[test]
fn a_gap_in_mid_stream_raises_the_mark_before_what_lies_behind_it_is_sent() {
    let mut pair = Pair::new();
    let peer = billing(&mut pair);
    pair.send(peer, small(2));
    pair.emit_many("orders", 1..=60);
    assert_eq!(nths(&pair.frames(peer)), [1, 2]);
    pair.hub.log.floor = Seq(50);
    pair.hub.hold(Held::Saves);
    pair.send(peer, ack(1, 2, 2));
    let frames = pair.frames(peer);
    assert!(frames.iter().all(|frame| !matches!(frame, ServerFrame::Events(_))), "{frames:?}");
    pair.release(Held::Saves);
    let frames = pair.frames(peer);
    assert!(frames.iter().any(|frame| matches!(frame, ServerFrame::Gap { .. })), "{frames:?}");
    assert_eq!(nths(&frames), [51, 52]);
    assert!(cursor(&pair).delivered_through.0 >= Nth(52));
}

#[test]
fn a_reader_out_of_another_history_is_told_so_again_until_it_has_acknowledged_it() {
    let (mut pair, peer) = following();
    pair.emit_many("orders", 1..=10);
    pair.send(peer, ack(1, 10, 10));
    pair.wipe();
    pair.emit_many("orders", 1..=3);
    let handed = known(1, 10, 10);
    let peer = billing(&mut pair);
    let place = pair.subscribed(peer, return_after(handed.clone()));
    assert_eq!(place.gap.expect("a gap").cause, GapCause::EpochChanged);
    pair.cut(peer);
    // A new process, which knows nothing, is told as well: the server kept the reader's place in the old history.
    let peer = billing(&mut pair);
    let place = pair.subscribed(peer, resume(1, "orders"));
    let gap = place.gap.expect("a gap");
    assert_eq!((gap.cause, gap.after), (GapCause::EpochChanged, handed.position));
    assert_eq!(nths(&pair.frames(peer)), [1, 2, 3]);
    pair.send(peer, ack(1, gap.through.seq.0, gap.nth_through.0));
    pair.send(peer, ack(1, 2, 2));
    pair.frames(peer);
    assert_eq!(cursor(&pair).place.position.seq, Seq(2));
    let peer = back(&mut pair, peer);
    let place = pair.subscribed(peer, resume(1, "orders"));
    assert_eq!((place.gap, place.nth), (None, Nth(2)));
}

#[test]
fn a_subscription_that_is_refused_gives_its_topic_up() {
    let mut pair = Pair::new();
    pair.hub.log.forbidden.insert(topic_name("orders"));
    let peer = billing(&mut pair);
    pair.send(peer, ClientFrame::Subscribe(resume(1, "orders")));
    assert!(matches!(pair.frames(peer)[..], [ServerFrame::SubscribeRefused { .. }]));
    assert!(pair.hub.owners.is_empty() && pair.hub.log.cursors.is_empty());
}

#[test]
fn an_idle_durable_reader_saves_nothing_for_ever() {
    let (mut pair, peer) = following();
    pair.emit("orders", "1");
    pair.send(peer, ack(1, 1, 1));
    let saves = pair.hub.saves_of(ONE).len();
    for _ in 0..20 {
        pair.pass(Duration::from_secs(10));
        pair.send(peer, ClientFrame::Pong { token: 0 });
    }
    assert_eq!(pair.hub.saves_of(ONE).len(), saves);
}
