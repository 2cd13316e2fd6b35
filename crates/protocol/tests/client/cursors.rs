//! Stories of acks and cursors, and of the mark `redelivered` that depends on them.

use std::time::Duration;

use redeliver_protocol::client::{CursorKeeper, Input, SubscriptionEnd};
use redeliver_protocol::frame::{ClientFrame, ServerFrame, Subscribed, Window};
use redeliver_protocol::history::{Cursor, GapCause, Start};
use redeliver_protocol::redelivery::DeliveredThrough;
use redeliver_protocol::seq::{Nth, Position, Seq, SubscriptionId};

use crate::script::*;

fn own_store(stored: Option<Cursor>) -> CursorKeeper {
    CursorKeeper::Client { stored }
}

fn cursor(position: Position, nth: u64, delivered_through: u64) -> Cursor {
    Cursor::new(known(position, nth), DeliveredThrough(Nth(delivered_through)))
}

/// A process that starts with this in its store, up to its first save.
fn restarted(stored: Cursor, answer: Subscribed) -> Script {
    let mut script = Script::welcomed();
    script.subscribe(SUB, own_store(Some(stored)));
    script.server(ServerFrame::Subscribed(answer));
    script.saved();
    script
}

#[test]
fn acks_are_gathered_and_sent_as_one() {
    let mut script = Script::subscribed(CursorKeeper::Server);
    script.server(events(WIRE, 5..=20));
    script.take_sent();
    for nth in 5..=9 {
        script.ack_nth(nth);
    }
    assert_eq!(script.take_sent(), []);
    script.wait(script.config.ack_delay);
    assert_eq!(script.take_acks(), [(seq_of(9), 9)]);
    script.wait(Duration::from_secs(1));
    assert_eq!(script.take_acks(), []);
}

#[test]
fn half_a_window_of_acks_does_not_wait() {
    let mut script = Script::welcomed();
    script.subscribe_with(SUB, CursorKeeper::Server, Start::Latest, Window::new(8, 1 << 20));
    script.server(subscribed(WIRE, at(10), 4));
    script.server(events(WIRE, 5..=12));
    script.take_sent();
    for nth in 5..=7 {
        script.ack_nth(nth);
    }
    assert_eq!(script.take_acks(), []);
    script.ack_nth(8);
    assert_eq!(script.take_acks(), [(seq_of(8), 8)]);
}

#[test]
fn half_a_window_in_bytes_does_not_wait_either() {
    let mut script = Script::welcomed();
    script.subscribe_with(SUB, CursorKeeper::Server, Start::Latest, Window::new(1000, 1000));
    script.server(subscribed(WIRE, at(10), 4));
    script.server(batch(A, WIRE, &[(11, 5)], 1, &[0; 600]));
    script.take_sent();
    script.ack_nth(5);
    assert_eq!(script.take_acks(), [(11, 5)]);
}

#[test]
fn an_ack_of_what_the_app_does_not_hold_changes_nothing() {
    let mut script = Script::subscribed(CursorKeeper::Server);
    script.server(events(WIRE, 5..=6));
    script.take_sent();
    script.ack_nth(6);
    script.wait(script.config.ack_delay);
    script.take_sent();
    for (position, nth) in [
        (at(seq_of(7)), 7),
        (at(seq_of(5)), 5),
        (at(seq_of(6)), 6),
        (at(0), 0),
        (at(u64::MAX), u64::MAX),
        (Position::new(B, Seq(seq_of(6))), 6),
    ] {
        script.ack(position, nth);
    }
    script.give(Input::Ack { id: SubscriptionId(999), position: at(1), nth: Nth(1) });
    script.wait(Duration::from_secs(1));
    assert_eq!((script.take_sent(), script.disconnects.len()), (vec![], 0));
}

#[test]
fn with_the_servers_cursor_an_ack_counts_when_the_server_confirms_it() {
    let mut script = Script::subscribed(CursorKeeper::Server);
    script.server(events(WIRE, 5..=8));
    script.ack_nth(6);
    script.wait(script.config.ack_delay);
    script.ack_nth(8);
    assert_eq!(script.confirmed, []);
    script.server(ServerFrame::Acked { id: WIRE, seq: Seq(seq_of(6)) });
    assert_eq!(script.confirmed, [Seq(seq_of(6))]);
    script.wait(script.config.ack_delay);
    script.server(ServerFrame::Acked { id: WIRE, seq: Seq(seq_of(8)) });
    assert_eq!(script.confirmed, [Seq(seq_of(6)), Seq(seq_of(8))]);
}

#[test]
fn an_ack_that_was_not_confirmed_before_the_cut_is_sent_again() {
    let mut script = Script::subscribed(CursorKeeper::Server);
    script.server(events(WIRE, 5..=8));
    script.ack_nth(6);
    script.wait(script.config.ack_delay);
    script.reconnect();
    script.take_sent();
    script.server(subscribed(WIRE, at(seq_of(8)), 8));
    assert_eq!(script.take_acks(), [(seq_of(6), 6)]);
    script.ack_nth(7);
    script.wait(script.config.ack_delay);
    assert_eq!(script.take_acks(), [(seq_of(7), 7)], "what was handed over before the cut is acknowledged after it");
    script.server(ServerFrame::Acked { id: WIRE, seq: Seq(seq_of(7)) });
    assert_eq!(script.confirmed, [Seq(seq_of(7))]);
}

#[test]
fn without_a_keeper_an_ack_counts_at_once_and_old_ones_are_not_sent_on_a_new_connection() {
    let mut script = Script::subscribed(CursorKeeper::Nobody);
    script.server(events(WIRE, 5..=8));
    script.cut();
    script.ack_nth(6);
    assert_eq!(script.confirmed, [Seq(seq_of(6))]);
    script.connect();
    script.server(subscribed(WIRE, at(seq_of(8)), 8));
    script.take_sent();
    script.ack_nth(8);
    script.wait(Duration::from_secs(1));
    assert_eq!(script.take_acks(), []);
    script.server(events(WIRE, 9..=9));
    script.ack_nth(9);
    script.wait(script.config.ack_delay);
    assert_eq!(script.take_acks(), [(seq_of(9), 9)]);
}

#[test]
fn a_cursor_on_the_server_that_is_further_on_wins() {
    let mut script = Script::subscribed(CursorKeeper::Server);
    script.server(events(WIRE, 5..=8));
    script.ack_nth(6);
    script.wait(script.config.ack_delay);
    script.reconnect();
    let marked_to =
        Subscribed { delivered_through: DeliveredThrough(Nth(22)), ..subscribed_frame(WIRE, at(seq_of(20)), 20) };
    script.server(ServerFrame::Subscribed(marked_to));
    assert_eq!(script.confirmed, [Seq(seq_of(20))], "that covers all that was acknowledged here");
    script.take_events();
    script.take_sent();
    script.server(events(WIRE, 21..=23));
    assert_eq!(script.take_events(), [(21, true), (22, true), (23, false)], "somebody else may have had them");
    script.ack_nth(8);
    script.wait(Duration::from_secs(1));
    assert_eq!(script.take_acks(), [], "long overtaken");
}

#[test]
fn what_the_app_still_holds_counts_as_confirmed_when_another_reader_was_further() {
    let mut script = Script::subscribed(CursorKeeper::Server);
    script.server(events(WIRE, 5..=8));
    script.reconnect();
    script.server(subscribed(WIRE, at(seq_of(20)), 20));
    assert_eq!(script.confirmed, [Seq(seq_of(20))]);
}

#[test]
fn with_an_own_store_nothing_is_handed_over_before_the_start_is_saved() {
    let mut script = Script::subscribed(own_store(None));
    script.server(events(WIRE, 5..=6));
    assert_eq!(script.handed, []);
    let window = u64::from(Window::default().events);
    assert_eq!(script.saves, [(SUB, cursor(at(10), 4, 4 + window))]);
    script.saved();
    assert_eq!(script.handed.len(), 3);
    assert_eq!(script.take_events(), fresh(5..=6));
}

#[test]
fn with_an_own_store_a_reader_cut_off_before_the_save_begins_at_the_same_place() {
    let mut script = Script::subscribed(own_store(None));
    script.take_sent();
    script.reconnect();
    assert_eq!(script.take_subscribe().start, Start::After(known(at(10), 4)));
    script.server(subscribed(WIRE, at(10), 4));
    script.saved();
    script.server(events(WIRE, 5..=5));
    assert_eq!(script.take_events(), fresh(5..=5));
}

#[test]
fn a_gap_that_was_not_handed_over_is_asked_for_again() {
    let mut script = Script::welcomed();
    let stored = cursor(at(10), 4, 4);
    script.subscribe(SUB, own_store(Some(stored)));
    let missing = gap(at(10), at(40), 20, 16, GapCause::RetentionAge);
    let answer = Subscribed { gap: Some(missing), ..subscribed_frame(WIRE, at(40), 20) };
    script.server(ServerFrame::Subscribed(answer.clone()));
    script.take_sent();
    script.reconnect();
    assert_eq!(script.take_subscribe().start, Start::After(known(at(10), 4)));
    script.server(ServerFrame::Subscribed(answer));
    script.saved();
    assert_eq!(script.handed.len(), 2);
}

#[test]
fn with_an_own_store_the_cursor_is_saved_before_the_ack_goes_out() {
    let mut script = Script::subscribed(own_store(None));
    script.saved();
    script.server(events(WIRE, 5..=8));
    script.take_sent();
    script.ack_nth(5);
    script.ack_nth(7);
    script.wait(script.config.ack_delay);
    assert_eq!((script.take_sent(), script.confirmed.len()), (vec![], 0));
    let saved = script.saves.last().unwrap().1.clone();
    assert_eq!(saved.place, known(at(seq_of(7)), 7));
    assert!(saved.delivered_through.0 >= Nth(8));
    script.saved();
    assert_eq!(script.take_acks(), [(seq_of(7), 7)]);
    assert_eq!(script.confirmed, [Seq(seq_of(7))]);
}

#[test]
fn a_slow_store_has_one_save_at_a_time_and_gets_the_newest_next() {
    let mut script = Script::subscribed(own_store(None));
    script.saved();
    script.server(events(WIRE, 5..=20));
    for nth in 5..=20 {
        script.ack_nth(nth);
        script.wait(script.config.ack_delay);
    }
    assert_eq!(script.saves.len(), 2);
    script.saved();
    script.wait(script.config.ack_delay);
    assert_eq!(script.saves.last().unwrap().1.place, known(at(seq_of(20)), 20));
    script.saved();
    assert_eq!(script.confirmed.last(), Some(&Seq(seq_of(20))));
}

#[test]
fn with_an_own_store_acks_count_without_a_connection() {
    let mut script = Script::subscribed(own_store(None));
    script.saved();
    script.server(events(WIRE, 5..=8));
    script.cut();
    script.ack_nth(8);
    script.wait(script.config.ack_delay);
    script.saved();
    assert_eq!(script.confirmed, [Seq(seq_of(8))]);
}

#[test]
fn a_stored_cursor_wins_over_the_start() {
    let mut script = Script::welcomed();
    let stored = own_store(Some(cursor(at(10), 4, 9)));
    script.subscribe_with(SUB, stored, Start::Earliest, Window::default());
    assert_eq!(script.take_subscribe().start, Start::After(known(at(10), 4)));
}

#[test]
fn after_an_unclean_end_what_may_have_been_handed_over_is_marked() {
    let mut script = restarted(cursor(at(10), 4, 7), subscribed_frame(WIRE, at(10), 4));
    script.server(events(WIRE, 5..=9));
    assert_eq!(script.take_events(), [marked(5..=7), fresh(8..=9)].concat());
}

#[test]
fn a_save_never_forgets_what_an_earlier_process_may_have_handed_over() {
    let stored = cursor(at(10), 4, 5000);
    let script = restarted(stored, subscribed_frame(WIRE, at(10), 4));
    assert!(script.saves[0].1.delivered_through.0 >= Nth(5000), "{:?}", script.saves);
}

#[test]
fn nothing_is_handed_over_that_the_store_could_not_mark_later() {
    // Skips move nth on without using the window, so a window beyond the start is no bound for nths.
    let mut script = Script::welcomed();
    script.subscribe_with(SUB, own_store(None), Start::Latest, Window::new(4, 1 << 20));
    script.server(subscribed(WIRE, at(10), 4));
    script.saved();
    script.server(ServerFrame::Skip { id: WIRE, through: at(seq_of(500)), nth_through: Nth(500) });
    script.server(events(WIRE, 501..=501));
    assert_eq!(script.take_events(), []);
    assert!(script.saves[1].1.delivered_through.0 >= Nth(501));
    assert_eq!(script.saves[1].1.place, known(at(10), 4));
    script.saved();
    assert_eq!(script.take_events(), fresh(501..=501));
}

#[test]
fn with_the_servers_cursor_the_servers_mark_counts_on_every_connection() {
    let mut script = Script::welcomed();
    script.subscribe(SUB, CursorKeeper::Server);
    let answer = Subscribed { delivered_through: DeliveredThrough(Nth(7)), ..subscribed_frame(WIRE, at(10), 4) };
    script.server(ServerFrame::Subscribed(answer));
    script.server(events(WIRE, 5..=5));
    assert_eq!(script.take_events(), marked(5..=5));

    // While we were away somebody else under our name may have been given 6 to 8, and lost its connection before it
    // acknowledged any of them. Then the place is still ours, and only the mark tells. (Found by simulation.)
    script.reconnect();
    let answer = Subscribed { delivered_through: DeliveredThrough(Nth(8)), ..subscribed_frame(WIRE, at(seq_of(5)), 5) };
    script.server(ServerFrame::Subscribed(answer));
    script.server(events(WIRE, 6..=9));
    assert_eq!(script.take_events(), [marked(6..=8), fresh(9..=9)].concat());
}

#[test]
fn marks_of_an_old_history_do_not_count_in_a_new_one() {
    let back = gap(at(10), Position::new(B, Seq(6)), 2, 2, GapCause::EpochChanged);
    let answer = Subscribed { gap: Some(back), pending: 50, ..subscribed_frame(WIRE, Position::new(B, Seq(6)), 2) };
    let mut script = restarted(cursor(at(10), 4, 4 + 1024), answer);
    script.server(batch(B, WIRE, &[(7, 3), (8, 4)], 2, b""));
    assert_eq!(script.take_events(), fresh(3..=4));
}

#[test]
fn what_was_handed_over_behind_an_unacknowledged_break_is_marked_in_the_next_process() {
    let start = Position::new(B, Seq(6));
    let back = gap(at(10), start, 2, 2, GapCause::EpochChanged);
    let answer = Subscribed { gap: Some(back), pending: 1, ..subscribed_frame(WIRE, start, 2) };
    let mut script = restarted(cursor(at(10), 4, 4), answer.clone());
    script.server(batch(B, WIRE, &[(7, 3)], 1, b""));
    assert_eq!(script.take_events(), fresh(3..=3));

    // Killed before the app could acknowledge the gap: its cursor still lies in the old history.
    let left_behind = script.saves.last().unwrap().1.clone();
    assert_eq!(left_behind.place, known(at(10), 4));
    let mut script = restarted(left_behind, answer);
    script.server(batch(B, WIRE, &[(7, 3)], 1, b""));
    script.server(batch(B, WIRE, &[(8, 4)], 1, b""));
    assert_eq!(script.take_events(), [marked(3..=3), fresh(4..=4)].concat(), "the last one did not exist then");
}

#[test]
fn once_a_break_is_acknowledged_the_cursor_lies_in_the_new_history() {
    let start = Position::new(B, Seq(6));
    let back = gap(at(10), start, 2, 2, GapCause::EpochChanged);
    let answer = Subscribed { gap: Some(back), ..subscribed_frame(WIRE, start, 2) };
    let mut script = restarted(cursor(at(10), 4, 4), answer);
    script.ack(start, 2);
    script.wait(script.config.ack_delay);
    let saved = &script.saves.last().unwrap().1;
    assert_eq!((saved.place.position, saved.place.nth), (start, Nth(2)));
    assert_eq!(*saved.place.earlier, [at(10)]);
    assert_eq!(saved.delivered_through.0, Nth(2 + u64::from(Window::default().events)));
}

#[test]
fn after_a_clean_end_nothing_is_marked() {
    let mut script = Script::subscribed(own_store(None));
    script.saved();
    script.server(events(WIRE, 5..=8));
    script.ack_nth(6);
    script.give(Input::Unsubscribe { id: SUB });
    let last = script.saves.last().unwrap().1.clone();
    assert_eq!(last, cursor(at(seq_of(6)), 6, 8), "exactly what was handed over");
    script.take_sent();
    script.saved();
    assert_eq!(script.take_sent().last(), Some(&ClientFrame::Unsubscribe { id: WIRE }));
    script.server(ServerFrame::Unsubscribed { id: WIRE });
    assert_eq!(script.gone, [(SUB, SubscriptionEnd::Asked)]);

    let mut script = restarted(last, subscribed_frame(WIRE, at(seq_of(6)), 6));
    script.server(events(WIRE, 7..=10));
    assert_eq!(script.take_events(), [marked(7..=8), fresh(9..=10)].concat());
}

#[test]
fn acks_of_a_history_that_is_gone_are_confirmed_because_nothing_else_can_be() {
    let mut script = Script::subscribed(CursorKeeper::Server);
    script.server(events(WIRE, 5..=8));
    script.ack_nth(6);
    script.wait(script.config.ack_delay);
    script.reconnect();
    script.take_sent();
    let start = Position::new(B, Seq(3));
    let back = gap(at(seq_of(8)), start, 1, 7, GapCause::EpochChanged);
    script.server(ServerFrame::Subscribed(Subscribed { gap: Some(back), ..subscribed_frame(WIRE, start, 1) }));
    assert_eq!(script.confirmed, [Seq(seq_of(6))]);
    script.ack_nth(8);
    script.wait(Duration::from_secs(1));
    assert_eq!((script.take_acks(), script.confirmed.len()), (vec![], 2));
    script.ack(start, 1);
    script.wait(Duration::from_secs(1));
    assert_eq!(script.take_acks(), [(3, 1)]);
}
