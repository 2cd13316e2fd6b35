//! Stories of ends: of a subscription and of the whole client, clean and otherwise.

use std::time::Duration;

use redeliver_protocol::client::{ConnectionState, CursorKeeper, EmitOutcome, EmitTicket, Input, SubscriptionEnd};
use redeliver_protocol::error::{CloseCode, RefusalCode, RetryAdvice};
use redeliver_protocol::frame::{ClientFrame, Ownership, ServerFrame};
use redeliver_protocol::history::{EmitFate, Start};
use redeliver_protocol::seq::{Seq, SubscriptionId};

use crate::script::*;

const ASKED: (SubscriptionId, SubscriptionEnd) = (SUB, SubscriptionEnd::Asked);

#[test]
fn a_clean_end_flushes_its_acks_and_waits_for_the_server() {
    let mut script = Script::subscribed(CursorKeeper::Server);
    script.server(events(WIRE, 5..=8));
    script.take_sent();
    script.ack_nth(7);
    script.give(Input::Unsubscribe { id: SUB });
    let (id, seq, nth) = (WIRE, Seq(seq_of(7)), redeliver_protocol::seq::Nth(7));
    assert_eq!(script.take_sent(), [ClientFrame::Ack { id, seq, nth }, ClientFrame::Unsubscribe { id }]);
    assert_eq!(script.gone, []);
    script.server(events(WIRE, 9..=9));
    script.server(ServerFrame::Unsubscribed { id });
    assert_eq!((script.gone.clone(), script.confirmed.clone()), (vec![ASKED], vec![Seq(seq_of(7))]));
    assert_eq!(script.take_events(), fresh(5..=8), "nothing is handed over after the app said no");
}

#[test]
fn without_a_connection_a_reader_nobody_keeps_ends_at_once() {
    let mut script = Script::subscribed(CursorKeeper::Nobody);
    script.server(events(WIRE, 5..=8));
    script.cut();
    script.ack_nth(8);
    script.give(Input::Unsubscribe { id: SUB });
    assert_eq!(script.gone, [ASKED]);
}

#[test]
fn without_a_connection_an_own_store_gets_its_last_cursor_first() {
    let mut script = Script::subscribed(CursorKeeper::Client { stored: None });
    script.saved();
    script.server(events(WIRE, 5..=8));
    script.cut();
    script.ack_nth(8);
    script.give(Input::Unsubscribe { id: SUB });
    assert_eq!(script.gone, []);
    script.saved();
    assert_eq!((script.gone.clone(), script.confirmed.clone()), (vec![ASKED], vec![Seq(seq_of(8))]));
}

#[test]
fn acks_for_the_server_are_brought_there_on_a_new_connection_before_the_end() {
    let mut script = Script::subscribed(CursorKeeper::Server);
    script.server(events(WIRE, 5..=8));
    script.cut();
    script.ack_nth(7);
    script.give(Input::Unsubscribe { id: SUB });
    assert_eq!(script.gone, []);
    script.take_sent();
    script.connect();
    let again = script.take_subscribe();
    assert_eq!(again.start, Start::Resume { at_least: Some(known(at(seq_of(8)), 8)) });
    assert_eq!(again.ownership, Ownership::Standby);
    script.server(subscribed(WIRE, at(seq_of(8)), 8));
    assert_eq!(script.take_sent().into_iter().filter_map(as_ack).collect::<Vec<_>>(), [(seq_of(7), 7)]);
    script.server(ServerFrame::Unsubscribed { id: WIRE });
    assert_eq!((script.gone.clone(), script.confirmed.clone()), (vec![ASKED], vec![Seq(seq_of(7))]));
}

#[test]
fn a_cut_between_unsubscribe_and_its_answer_does_not_lose_the_acks() {
    let mut script = Script::subscribed(CursorKeeper::Server);
    script.server(events(WIRE, 5..=8));
    script.ack_nth(7);
    script.give(Input::Unsubscribe { id: SUB });
    script.take_sent();
    script.reconnect();
    script.take_subscribe();
    script.server(subscribed(WIRE, at(seq_of(8)), 8));
    assert!(matches!(script.take_sent()[..], [ClientFrame::Ack { .. }, ClientFrame::Unsubscribe { .. }]));
    script.server(ServerFrame::Unsubscribed { id: WIRE });
    assert_eq!(script.gone, [ASKED]);
}

#[test]
fn a_reader_whose_acks_are_confirmed_needs_no_new_connection_to_end() {
    let mut script = Script::subscribed(CursorKeeper::Server);
    script.server(events(WIRE, 5..=8));
    script.ack_nth(8);
    script.wait(script.config.ack_delay);
    script.server(ServerFrame::Acked { id: WIRE, seq: Seq(seq_of(8)) });
    script.give(Input::Unsubscribe { id: SUB });
    assert_eq!(script.gone, []);
    script.cut();
    assert_eq!(script.gone, [ASKED]);
}

#[test]
fn a_reader_that_stands_by_ends_without_ever_having_begun() {
    let mut script = Script::welcomed();
    script.subscribe(SUB, CursorKeeper::Server);
    script.give(Input::Unsubscribe { id: SUB });
    assert_eq!(script.take_sent().last(), Some(&ClientFrame::Unsubscribe { id: WIRE }));
    script.server(subscribed(WIRE, at(10), 4));
    script.server(ServerFrame::Unsubscribed { id: WIRE });
    assert_eq!((script.gone.clone(), script.handed.len()), (vec![ASKED], 0));
}

#[test]
fn a_refusal_that_crosses_with_unsubscribe_is_an_end_as_asked() {
    let mut script = Script::welcomed();
    script.subscribe(SUB, CursorKeeper::Nobody);
    script.give(Input::Unsubscribe { id: SUB });
    let code = RefusalCode::FORBIDDEN;
    script.server(ServerFrame::SubscribeRefused { id: WIRE, code, reason: String::new() });
    script.server(ServerFrame::Unsubscribed { id: WIRE });
    assert_eq!((script.gone.clone(), script.disconnects.len()), (vec![ASKED], 0));
}

#[test]
fn a_shutdown_answers_emits_confirms_acks_and_says_goodbye() {
    let mut script = Script::subscribed(CursorKeeper::Server);
    script.server(events(WIRE, 5..=8));
    script.emit_all(1..=2);
    script.ack_nth(8);
    script.give(Input::Shutdown);
    assert!(!script.ended);
    script.server(stored(1, 2, 500));
    script.server(ServerFrame::Acked { id: WIRE, seq: Seq(seq_of(8)) });
    assert!(!script.ended);
    script.server(ServerFrame::Unsubscribed { id: WIRE });
    assert_eq!((script.gone.clone(), script.confirmed.clone()), (vec![ASKED], vec![Seq(seq_of(8))]));
    assert!(script.ended);
    assert_eq!(script.emitted.len(), 2);
    let goodbye = script.disconnects.last().unwrap();
    assert_eq!((goodbye.code, goodbye.retry), (CloseCode::DONE, RetryAdvice::Never));
    assert_eq!(script.states.last(), Some(&ConnectionState::Ended { close: None }));
}

#[test]
fn a_client_that_nobody_follows_as_its_publisher_says_so_if_all_that_it_emitted_is_stored() {
    let goodbye_after = |fate, retires: bool| {
        let mut script = Script::welcomed();
        if retires {
            script.session.retire_publisher();
        }
        script.emit_all(1..=2);
        script.give(Input::Shutdown);
        script.server(stored(1, 1, 500));
        script.server(runs([(2, 1, fate)]));
        assert!(script.ended);
        script.disconnects.last().unwrap().code
    };
    let (stored, refused) = (EmitFate::Duplicate(at(9)), EmitFate::Refused(RefusalCode::FORBIDDEN));
    assert_eq!(goodbye_after(stored, true), CloseCode::RETIRED);
    assert_eq!(goodbye_after(stored, false), CloseCode::DONE);
    assert_eq!(
        goodbye_after(refused, true),
        CloseCode::DONE,
        "the app may emit the same again, under the same numbers"
    );
}

#[test]
fn a_shutdown_goes_on_over_a_lost_connection() {
    let mut script = Script::subscribed(CursorKeeper::Server);
    script.server(events(WIRE, 5..=8));
    script.emit_all(1..=2);
    script.ack_nth(8);
    script.give(Input::Shutdown);
    script.take_sent();
    script.reconnect();
    assert_eq!(script.take_emits(), [(1, 2)]);
    script.server(subscribed(WIRE, at(seq_of(8)), 8));
    script.server(ServerFrame::Unsubscribed { id: WIRE });
    script.server(runs([(1, 2, EmitFate::Duplicate(at(9)))]));
    assert!(script.ended);
}

#[test]
fn a_shutdown_with_nothing_to_do_ends_at_once() {
    let mut script = Script::new();
    script.give(Input::Shutdown);
    assert!(script.ended);
    assert_eq!(script.disconnects.len(), 1, "the dial is called off");

    let mut script = Script::welcomed();
    script.cut();
    script.give(Input::Shutdown);
    assert!(script.ended && script.disconnects.is_empty());
}

#[test]
fn after_shutdown_nothing_new_is_taken() {
    let mut script = Script::welcomed();
    script.emit(1);
    script.give(Input::Shutdown);
    script.emit(2);
    script.subscribe(SUB, CursorKeeper::Nobody);
    assert_eq!(script.emitted, [(EmitTicket(2), EmitOutcome::NotSent)]);
    assert_eq!(script.gone, [(SUB, SubscriptionEnd::ClientEnded)]);
    script.server(stored(1, 1, 5));
    assert!(script.ended);
}

#[test]
fn a_shutdown_whose_last_emit_is_refused_ends_too() {
    let mut script = Script::new();
    script.emit(1);
    script.give(Input::Connected);
    script.cut();
    let huge = event_for("orders", "").payload(vec![0; 256 * 1024]);
    script.emit_event(2, huge);
    script.give(Input::Shutdown);
    script.connect();
    script.server(stored(1, 1, 7));
    assert!(!script.ended);
    script.server(runs([(2, 1, EmitFate::Refused(RefusalCode::TOO_LARGE))]));
    assert!(script.ended, "{:?}", script.emitted);
}

#[test]
fn an_end_that_the_server_dictates_tells_what_is_sure_and_what_is_not() {
    let mut script = Script::subscribed(CursorKeeper::Client { stored: None });
    script.saved();
    script.server(events(WIRE, 5..=8));
    script.emit(1);
    script.server(stored(1, 1, 9));
    script.emit(2);
    script.server(runs([(2, 1, EmitFate::Refused(RefusalCode::STORAGE_FULL))]));
    script.emit(3);
    script.ack_nth(8);
    script.server_closes(CloseCode::EXPIRED, RetryAdvice::Never);
    let fates: Vec<_> = script.emitted.iter().skip(1).copied().collect();
    let refused = EmitOutcome::Refused(RefusalCode::STORAGE_FULL);
    assert_eq!(fates, [(EmitTicket(2), refused), (EmitTicket(3), EmitOutcome::NotSent)]);
    assert_eq!(script.gone, [(SUB, SubscriptionEnd::ClientEnded)]);
    assert_eq!(script.saves.last().unwrap().1.place, known(at(seq_of(8)), 8), "what was handled is still saved");
    assert!(script.ended);
}

#[test]
fn taken_over_while_leaving_ends_too() {
    let mut script = Script::subscribed(CursorKeeper::Server);
    script.server(events(WIRE, 5..=8));
    script.ack_nth(8);
    script.give(Input::Shutdown);
    script.server(ServerFrame::TakenOver { id: WIRE });
    assert_eq!(script.gone, [(SUB, SubscriptionEnd::TakenOver)]);
    assert!(script.ended);
    script.wait(Duration::from_secs(60));
}
