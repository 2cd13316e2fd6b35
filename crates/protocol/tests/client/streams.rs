//! Stories of what a reader is handed, and in which order, whatever the connection or the server does.

use redeliver_protocol::client::{ConnectionState, CursorKeeper, StreamItem, SubscriptionEnd};
use redeliver_protocol::error::{CloseCode, RefusalCode};
use redeliver_protocol::frame::{ClientFrame, Ownership, ServerFrame, Subscribed, Window};
use redeliver_protocol::history::{GapCause, Place, PlaceStep, Start};
use redeliver_protocol::seq::{Nth, Position, Seq, SubscriptionId};

use crate::script::*;

#[test]
fn a_reader_is_told_where_it_stands_then_gets_events_then_that_it_has_caught_up() {
    let mut script = Script::welcomed();
    script.subscribe_with(SUB, CursorKeeper::Nobody, Start::Earliest, Window::default());
    assert_eq!(script.take_subscribe().start, Start::Earliest);
    script.server(ServerFrame::Subscribed(Subscribed { pending: 2, ..subscribed_frame(WIRE, at(10), 4) }));
    script.server(events(WIRE, 5..=6));
    script.server(ServerFrame::CaughtUp { id: WIRE, seq: Seq(12) });
    let kinds: Vec<_> = script.handed.iter().map(|(id, delivery)| (*id, delivery.clone())).collect();
    assert_eq!(kinds[0], (SUB, StreamItem::Subscribed { after: at(10), nth: Nth(4), pending: 2 }));
    assert_eq!(kinds[3], (SUB, StreamItem::CaughtUp { seq: Seq(12) }));
    assert_eq!(script.take_events(), fresh(5..=6));
}

#[test]
fn a_reader_that_was_cut_off_before_any_event_resumes_where_it_began() {
    let mut script = Script::subscribed(CursorKeeper::Nobody);
    script.take_sent();
    script.reconnect();
    assert_eq!(script.take_subscribe().start, Start::After(known(at(10), 4)));
}

#[test]
fn a_reader_that_was_cut_off_before_subscribed_asks_for_the_same_again() {
    let mut script = Script::welcomed();
    script.subscribe_with(SUB, CursorKeeper::Nobody, Start::Last(3), Window::default());
    script.take_sent();
    script.reconnect();
    assert_eq!(script.take_subscribe().start, Start::Last(3));
}

#[test]
fn a_reader_recovers_again_and_again_each_time_from_the_last_event_it_got() {
    let mut script = Script::subscribed(CursorKeeper::Nobody);
    for nth in 5..30 {
        script.server(events(WIRE, nth..=nth));
        script.take_sent();
        script.reconnect();
        assert_eq!(script.take_subscribe().start, Start::After(known(at(seq_of(nth)), nth)));
        script.server(subscribed(WIRE, at(seq_of(nth)), nth));
    }
    assert_eq!(script.take_events(), fresh(5..=29));
}

#[test]
fn a_second_loss_before_the_first_recovery_is_complete_loses_nothing() {
    let mut script = Script::subscribed(CursorKeeper::Nobody);
    script.server(events(WIRE, 5..=9));
    script.reconnect();
    script.server(subscribed(WIRE, at(seq_of(9)), 9));
    script.take_sent();
    script.reconnect();
    assert_eq!(script.take_subscribe().start, Start::After(known(at(seq_of(9)), 9)));
}

#[test]
fn what_was_received_but_not_handed_over_is_asked_for_again() {
    let mut script = Script::welcomed();
    let window = Window::new(2, 1 << 20);
    script.subscribe_with(SUB, CursorKeeper::Nobody, Start::Latest, window);
    script.server(subscribed(WIRE, at(10), 4));
    script.server(events(WIRE, 5..=6));
    script.server(events(WIRE, 7..=8));
    assert_eq!((script.take_events(), script.session.inbox_events()), (fresh(5..=6), 2));
    script.take_sent();
    script.reconnect();
    assert_eq!(script.take_subscribe().start, Start::After(known(at(seq_of(6)), 6)));
    script.server(subscribed(WIRE, at(seq_of(6)), 6));
    script.server(events(WIRE, 7..=8));
    assert_eq!(script.take_events(), [], "the app still has a window in its hands");
    script.ack_nth(6);
    assert_eq!(script.take_events(), fresh(7..=8));
}

#[test]
fn a_stream_with_a_hole_is_not_handed_over_but_asked_for_again() {
    let holes = [
        events(WIRE, 8..=9),
        events(WIRE, 6..=6),
        batch(A, WIRE, &[(13, 7), (14, 9)], 2, b""),
        batch(A, WIRE, &[(13, 7), (13, 8)], 2, b""),
        batch(A, WIRE, &[(12, 7)], 1, b""),
        batch(A, WIRE, &[(13, 7), (14, 8)], 3, b""),
        batch(A, WIRE, &[], 0, b""),
        ServerFrame::Skip { id: WIRE, through: at(12), nth_through: Nth(8) },
        ServerFrame::Skip { id: WIRE, through: at(14), nth_through: Nth(6) },
        ServerFrame::Gap { id: WIRE, gap: gap(at(12), at(11), 7, 1, GapCause::Purged) },
        ServerFrame::Gap { id: WIRE, gap: gap(at(12), at(13), 5, 1, GapCause::Purged) },
    ];
    for hole in holes {
        let mut script = Script::subscribed(CursorKeeper::Nobody);
        script.server(events(WIRE, 5..=6));
        script.take_sent();
        script.server(hole.clone());
        let sent = script.take_sent();
        assert_eq!(sent[0], ClientFrame::Unsubscribe { id: WIRE }, "{hole:?}");
        let again = as_subscribe(sent[1].clone()).expect("subscribes again");
        assert_eq!((again.id, again.start), (SubscriptionId(2), Start::After(known(at(12), 6))));
        // What still comes under the old number is nobody's.
        script.server(events(WIRE, 7..=8));
        script.server(ServerFrame::Unsubscribed { id: WIRE });
        script.server(subscribed(SubscriptionId(2), at(12), 6));
        script.server(events(SubscriptionId(2), 7..=8));
        assert_eq!(script.take_events(), fresh(5..=8), "{hole:?}");
        assert!(script.disconnects.is_empty());
    }
}

#[test]
fn a_server_whose_streams_stay_broken_loses_the_connection() {
    let mut script = Script::subscribed(CursorKeeper::Nobody);
    for wire in 1..=4 {
        script.server(events(SubscriptionId(wire), 9..=9));
        if wire < 4 {
            assert!(script.disconnects.is_empty());
            script.server(subscribed(SubscriptionId(wire + 1), at(10), 4));
        }
    }
    assert_eq!(script.disconnects[0].code, CloseCode::UNEXPECTED);
    assert!(matches!(script.session.state(), ConnectionState::Waiting { .. }));
    assert_eq!(script.take_events(), []);
}

#[test]
fn a_server_that_resumes_a_reader_too_far_on_without_a_gap_is_not_believed() {
    for (after, nth) in [(at(20), 14), (at(9), 3)] {
        let mut script = Script::subscribed(CursorKeeper::Nobody);
        script.server(events(WIRE, 5..=6));
        script.reconnect();
        script.take_sent();
        script.server(subscribed(WIRE, after, nth));
        assert_eq!(script.take_sent()[0], ClientFrame::Unsubscribe { id: WIRE });
    }
}

#[test]
fn the_window_holds_events_back_until_the_app_has_handled_some() {
    let mut script = Script::welcomed();
    script.subscribe_with(SUB, CursorKeeper::Nobody, Start::Latest, Window::new(3, 1 << 20));
    script.server(subscribed(WIRE, at(10), 4));
    script.server(events(WIRE, 5..=7));
    script.server(events(WIRE, 8..=10));
    assert_eq!(script.take_events(), fresh(5..=7));
    script.ack_nth(5);
    assert_eq!(script.take_events(), fresh(8..=8));
    script.ack_nth(8);
    assert_eq!(script.take_events(), fresh(9..=10));
}

#[test]
fn an_event_larger_than_the_window_is_still_handed_over_alone() {
    let mut script = Script::welcomed();
    script.subscribe_with(SUB, CursorKeeper::Nobody, Start::Latest, Window::new(8, 100));
    script.server(subscribed(WIRE, at(10), 4));
    for nth in 5..=6 {
        script.server(batch(A, WIRE, &[(seq_of(nth), nth)], 1, &[7; 500]));
    }
    assert_eq!(script.take_events(), fresh(5..=5));
    script.ack_nth(5);
    assert_eq!(script.take_events(), fresh(6..=6));
}

#[test]
fn a_server_that_floods_a_window_is_cut_off() {
    let mut script = Script::welcomed();
    script.subscribe_with(SUB, CursorKeeper::Nobody, Start::Latest, Window::new(3, 1 << 20));
    script.server(subscribed(WIRE, at(10), 4));
    script.server(events(WIRE, 5..=7));
    script.server(events(WIRE, 8..=10));
    assert!(script.disconnects.is_empty());
    script.server(events(WIRE, 11..=11));
    assert_eq!(script.disconnects[0].code, CloseCode::LIMIT_BROKEN);
    assert_eq!(script.session.inbox_events(), 0);
}

#[test]
fn a_server_that_floods_with_anything_else_is_cut_off_too() {
    let mut script = Script::welcomed();
    script.subscribe_with(SUB, CursorKeeper::Nobody, Start::Latest, Window::new(1, 1 << 20));
    script.server(subscribed(WIRE, at(10), 4));
    script.server(events(WIRE, 5..=6));
    for _ in 0..5000 {
        script.server(ServerFrame::CaughtUp { id: WIRE, seq: Seq(1) });
    }
    assert_eq!(script.disconnects[0].code, CloseCode::LIMIT_BROKEN);
}

#[test]
fn skipped_events_move_the_reader_on_without_a_word() {
    let mut script = Script::subscribed(CursorKeeper::Nobody);
    script.server(ServerFrame::Skip { id: WIRE, through: at(seq_of(7)), nth_through: Nth(7) });
    script.server(ServerFrame::Skip { id: WIRE, through: at(seq_of(9)), nth_through: Nth(9) });
    script.server(events(WIRE, 10..=10));
    script.server(ServerFrame::Skip { id: WIRE, through: at(seq_of(12)), nth_through: Nth(12) });
    assert_eq!(script.take_events(), fresh(10..=10));
    script.take_sent();
    script.reconnect();
    assert_eq!(script.take_subscribe().start, Start::After(known(at(seq_of(12)), 12)));
}

#[test]
fn a_gap_is_told_in_its_place_and_acknowledged_by_its_end() {
    let mut script = Script::subscribed(CursorKeeper::Server);
    script.server(events(WIRE, 5..=5));
    let missing = gap(at(11), at(40), 20, 15, GapCause::RetentionAge);
    script.server(ServerFrame::Gap { id: WIRE, gap: missing.clone() });
    script.server(batch(A, WIRE, &[(41, 21)], 1, b""));
    let before = known(at(11), 5);
    assert_eq!(script.handed[2].1, StreamItem::Gap { gap: missing, before });
    assert_eq!(script.take_events(), fresh(5..=5).into_iter().chain(fresh(21..=21)).collect::<Vec<_>>());
    script.take_sent();
    script.ack(at(40), 20);
    script.wait(script.config.ack_delay);
    assert_eq!(script.take_acks(), [(40, 20)]);
}

#[test]
fn a_gap_before_the_start_is_told_behind_subscribed_and_not_twice() {
    let mut script = Script::subscribed(CursorKeeper::Nobody);
    script.cut();
    script.connect();
    script.take_sent();
    script.handed.clear();
    let missing = gap(at(10), at(40), 20, 16, GapCause::RetentionSize);
    let answer = Subscribed { gap: Some(missing.clone()), ..subscribed_frame(WIRE, at(40), 20) };
    script.server(ServerFrame::Subscribed(answer));
    let told: Vec<_> = script.handed.iter().map(|(_, delivery)| delivery.clone()).collect();
    assert_eq!(
        told,
        [
            StreamItem::Subscribed { after: at(40), nth: Nth(20), pending: 0 },
            StreamItem::Gap { gap: missing, before: known(at(10), 4) }
        ]
    );
    script.reconnect();
    assert_eq!(script.take_subscribe().start, Start::After(known(at(40), 20)), "it was told");
}

#[test]
fn many_gaps_do_not_use_up_the_window() {
    let mut script = Script::welcomed();
    script.subscribe_with(SUB, CursorKeeper::Nobody, Start::Latest, Window::new(2, 1 << 20));
    script.server(subscribed(WIRE, at(10), 4));
    for n in 0..5 {
        let missing = gap(at(10 + n), at(11 + n), 5 + n, 1, GapCause::LogDamaged);
        script.server(ServerFrame::Gap { id: WIRE, gap: missing });
    }
    script.server(batch(A, WIRE, &[(20, 10)], 1, b""));
    assert_eq!(script.take_events(), fresh(10..=10));
}

#[test]
fn a_reader_remembers_where_it_left_earlier_epochs() {
    let mut script = Script::subscribed(CursorKeeper::Nobody);
    script.server(events_in(A, WIRE, 5..=6));
    script.server(events_in(B, WIRE, 7..=9));
    script.take_sent();
    script.reconnect();
    let last = Position::new(B, Seq(seq_of(9)));
    let expected = Place { position: last, nth: Nth(9), earlier: vec![at(seq_of(6))].into() };
    assert_eq!(script.take_subscribe().start, Start::After(expected));
}

#[test]
fn a_log_that_has_gone_back_is_told_as_a_gap_and_the_reader_follows_it() {
    let mut script = Script::subscribed(CursorKeeper::Nobody);
    script.server(events(WIRE, 5..=9));
    script.reconnect();
    script.handed.clear();
    let back = gap(at(seq_of(9)), at(seq_of(6)), 6, 3, GapCause::EpochChanged);
    let answer = Subscribed { gap: Some(back.clone()), ..subscribed_frame(WIRE, at(seq_of(6)), 6) };
    script.server(ServerFrame::Subscribed(answer));
    script.server(events_in(B, WIRE, 7..=8));
    assert_eq!(script.handed[1].1, StreamItem::Gap { gap: back, before: known(at(seq_of(9)), 9) });
    assert_eq!(script.take_events(), fresh(7..=8));
    script.take_sent();
    script.reconnect();
    let Start::After(known) = script.take_subscribe().start else { panic!("resumes") };
    assert_eq!((known.position, known.nth), (Position::new(B, Seq(seq_of(8))), Nth(8)));
    assert_eq!(*known.earlier, [at(seq_of(6))]);
}

#[test]
fn a_wiped_log_is_told_and_the_reader_begins_at_its_start() {
    let mut script = Script::subscribed(CursorKeeper::Nobody);
    script.server(events(WIRE, 5..=9));
    script.reconnect();
    let start = Position::new(B, Seq::ZERO);
    let wiped = gap(at(seq_of(9)), start, 0, 0, GapCause::EpochChanged);
    script.server(ServerFrame::Subscribed(Subscribed { gap: Some(wiped), ..subscribed_frame(WIRE, start, 0) }));
    script.take_events();
    script.server(batch(B, WIRE, &[(1, 1), (4, 2)], 2, b""));
    assert_eq!(script.take_events(), fresh(1..=2));
    script.take_sent();
    script.ack(start, 0);
    script.wait(script.config.ack_delay);
    assert_eq!(script.take_acks(), [(0, 0)], "the gap is acknowledged by its end");
    script.ack(Position::new(B, Seq(4)), 2);
    script.wait(script.config.ack_delay);
    assert_eq!(script.take_acks(), [(4, 2)]);
}

#[test]
fn the_history_does_not_change_in_the_middle_of_a_stream() {
    let mut script = Script::subscribed(CursorKeeper::Nobody);
    script.take_sent();
    script.server(ServerFrame::Gap { id: WIRE, gap: gap(at(10), at(2), 1, 3, GapCause::EpochChanged) });
    assert_eq!(script.take_sent()[0], ClientFrame::Unsubscribe { id: WIRE });
}

#[test]
fn who_was_taken_over_ends_and_does_not_come_back() {
    let mut script = Script::subscribed(CursorKeeper::Server);
    script.server(ServerFrame::TakenOver { id: WIRE });
    assert_eq!(script.gone, [(SUB, SubscriptionEnd::TakenOver)]);
    script.take_sent();
    script.reconnect();
    assert_eq!(script.take_sent(), []);
}

#[test]
fn who_comes_back_does_not_take_the_topic_from_a_newcomer() {
    let mut script = Script::welcomed();
    script.subscribe(SUB, CursorKeeper::Server);
    let first = script.take_subscribe();
    assert_eq!((first.ownership, first.durable), (Ownership::Takeover, true));
    script.server(subscribed(WIRE, at(10), 4));
    script.reconnect();
    let again = script.take_subscribe();
    assert_eq!((again.ownership, again.durable), (Ownership::Standby, true));
    assert_eq!(again.start, Start::Resume { at_least: Some(known(at(10), 4)) });
}

#[test]
fn a_final_refusal_ends_a_subscription_and_says_why() {
    let mut script = Script::welcomed();
    script.subscribe(SUB, CursorKeeper::Nobody);
    let refused = |code| ServerFrame::SubscribeRefused { id: WIRE, code, reason: "no".to_owned() };
    script.server(refused(RefusalCode::FORBIDDEN));
    assert_eq!(script.gone, [(SUB, SubscriptionEnd::Refused(RefusalCode::FORBIDDEN, "no".to_owned()))]);
}

#[test]
fn a_retryable_refusal_is_tried_again_with_growing_pauses_on_the_same_connection() {
    let mut script = Script::welcomed();
    script.subscribe(SUB, CursorKeeper::Nobody);
    let begun = script.now;
    for wire in 1..=8 {
        assert_eq!(script.take_subscribe().id, SubscriptionId(wire));
        let (id, code) = (SubscriptionId(wire), RefusalCode::OVERLOADED);
        script.server(ServerFrame::SubscribeRefused { id, code, reason: String::new() });
        script.wait_for_next();
    }
    assert!(script.now.since(begun) > script.config.backoff_first);
    script.server(subscribed(SubscriptionId(9), at(10), 4));
    script.server(events(SubscriptionId(9), 5..=5));
    assert_eq!(script.take_events(), fresh(5..=5));
    assert!(script.disconnects.is_empty());
}

/// The places of what was handed over since the last call.
fn take_places(script: &mut Script) -> Vec<PlaceStep> {
    std::mem::take(&mut script.handed).into_iter().filter_map(|(_, item)| item.place()).collect()
}

#[test]
fn each_place_follows_on_the_one_before_over_skips_epochs_and_reconnects() {
    let mine = Place { earlier: vec![Position::new(B, Seq(3))].into(), ..known(at(10), 4) };
    let mut script = Script::welcomed();
    script.subscribe_with(SUB, CursorKeeper::Nobody, Start::After(mine.clone()), Window::default());
    script.server(subscribed(WIRE, at(10), 4));
    script.server(events(WIRE, 5..=6));
    script.server(ServerFrame::Skip { id: WIRE, through: at(seq_of(8)), nth_through: Nth(8) });
    script.reconnect();
    script.server(subscribed(WIRE, at(seq_of(8)), 8));
    script.server(events_in(B, WIRE, 9..=9));
    let places = take_places(&mut script);
    assert_eq!(places[0].before, mine, "the app's own place, with its lineage");
    assert!(places.windows(2).all(|pair| pair[0].after == pair[1].before), "{places:?}");
    let last = &places.last().unwrap().after;
    assert_eq!((last.position, &last.earlier[..]), (Position::new(B, Seq(seq_of(9))), &[at(seq_of(6))][..]));
}

#[test]
fn a_reader_whose_server_moved_on_without_it_is_not_shown_its_own_place_as_the_one_before() {
    let mine = known(at(10), 4);
    let mut script = Script::welcomed();
    let start = Start::Resume { at_least: Some(mine.clone()) };
    script.subscribe_with(SUB, CursorKeeper::Server, start, Window::default());
    script.server(subscribed(WIRE, at(seq_of(7)), 7));
    script.server(events(WIRE, 8..=8));
    assert_eq!(take_places(&mut script)[0].before, mine.advanced(at(seq_of(7)), Nth(7)));
}

#[test]
fn events_that_come_again_from_a_restored_log_are_marked_although_the_place_lacked_its_lineage() {
    let mut script = Script::welcomed();
    let start = Start::After(known(at(seq_of(100)), 100));
    script.subscribe_with(SUB, CursorKeeper::Nobody, start, Window::default());
    let begin = Position::new(B, Seq::ZERO);
    let restored = gap(at(seq_of(100)), begin, 0, 0, GapCause::EpochChanged);
    let answer = Subscribed { gap: Some(restored), pending: 3, ..subscribed_frame(WIRE, begin, 0) };
    script.server(ServerFrame::Subscribed(answer));
    script.server(events_in(B, WIRE, 1..=4));
    let expected: Vec<_> = marked(1..=3).into_iter().chain(fresh(4..=4)).collect();
    assert_eq!(script.take_events(), expected, "the fourth did not exist when the reader came");
}
