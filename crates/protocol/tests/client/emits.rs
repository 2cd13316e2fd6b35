//! Stories of emits: numbered once, sent until answered, in order, each answered once.

use std::time::Duration;

use redeliver_protocol::client::{EmitOutcome, EmitTicket, Input};
use redeliver_protocol::config::ClientConfig;
use redeliver_protocol::error::{Close, CloseCode, RefusalCode, RetryAdvice};
use redeliver_protocol::event::NewEvent;
use redeliver_protocol::frame::{ClientFrame, ServerFrame, Welcome};
use redeliver_protocol::history::{EmitFate, PublisherState};
use redeliver_protocol::limits::{EMITS_PER_FRAME_MAX, FRAME_BYTES_MAX, Limits};
use redeliver_protocol::seq::{EmitNumber, Seq};

use crate::script::*;

fn of_bytes(bytes: usize) -> NewEvent {
    event_for("orders", "").payload(vec![7; bytes])
}

fn fate(script: &Script, ticket: u64) -> EmitOutcome {
    let found: Vec<_> = script.emitted.iter().filter(|(t, _)| *t == EmitTicket(ticket)).collect();
    assert_eq!(found.len(), 1, "ticket {ticket} was answered {} times", found.len());
    found[0].1
}

fn stored_at(seq: u64) -> EmitOutcome {
    EmitOutcome::Stored { position: at(seq), duplicate: false }
}

#[test]
fn emits_made_together_travel_together_and_each_gets_its_own_position() {
    let mut script = Script::welcomed();
    script.emit_all(1..=5);
    assert_eq!(script.take_emits(), [(1, 5)]);
    script.server(stored(1, 3, 100));
    script.server(runs([(4, 1, EmitFate::Stored(at(110))), (5, 1, EmitFate::Duplicate(at(50)))]));
    for (ticket, seq) in [(1, 100), (2, 101), (3, 102), (4, 110)] {
        assert_eq!(fate(&script, ticket), stored_at(seq));
    }
    assert_eq!(fate(&script, 5), EmitOutcome::Stored { position: at(50), duplicate: true });
    assert_eq!((script.session.outbox_events(), script.session.outbox_bytes()), (0, 0));
}

#[test]
fn a_frame_of_emits_holds_no_more_than_it_may() {
    let mut script = Script::welcomed();
    script.emit_all(1..=5000);
    assert_eq!(script.take_emits(), [(1, EMITS_PER_FRAME_MAX), (4097, 904)]);
    script.server(stored(1, 5000, 1));
    for ticket in 0..20 {
        script.session.handle(Input::Emit { ticket: EmitTicket(ticket), event: of_bytes(200_000) }, script.now);
    }
    script.emit(99);
    let frames: Vec<_> = script.take_sent();
    assert!(frames.len() >= 20, "each of them fills a frame");
    for frame in frames {
        assert!(redeliver_protocol::codec::encode_client(&frame).len() <= FRAME_BYTES_MAX);
    }
}

#[test]
fn no_more_is_outstanding_than_the_server_allows() {
    let mut script = Script::new();
    let limits = {
        let mut limits = Limits::default();
        limits.emits_in_flight_max = 10;
        limits.emit_bytes_in_flight_max = 1000;
        limits
    };
    let ServerFrame::Welcome(welcome) = welcome(PublisherState::New) else { panic!() };
    script.connect_to(ServerFrame::Welcome(Welcome { limits, ..welcome }));
    script.emit_all(1..=15);
    assert_eq!(script.take_emits(), [(1, 10)]);
    script.server(stored(1, 4, 1));
    assert_eq!(script.take_emits(), [(11, 4)]);
    script.server(stored(5, 10, 5));
    script.server(stored(15, 1, 15));
    script.take_sent();
    for ticket in 20..23 {
        script.emit_event(ticket, of_bytes(600));
    }
    assert_eq!(script.take_emits(), [(16, 1)]);
    script.server(stored(16, 1, 16));
    assert_eq!(script.take_emits(), [(17, 1)]);
}

#[test]
fn emits_without_an_answer_are_sent_again_with_the_same_numbers() {
    let mut script = Script::welcomed();
    script.emit_all(1..=4);
    script.server(stored(1, 2, 100));
    script.take_sent();
    script.cut();
    script.dialed();
    script.give(Input::Connected);
    assert_eq!(script.hellos.last().unwrap().settled, EmitNumber(2));
    assert_eq!(script.take_emits(), [], "the server might have forgotten us, and would store them twice");
    script.emit(5);
    assert_eq!(script.take_emits(), [], "nothing overtakes");
    script.server(welcome(reached(3)));
    assert_eq!(script.take_emits(), [(3, 3)]);
    script.server(runs([(3, 1, EmitFate::Duplicate(at(102))), (4, 2, EmitFate::Stored(at(103)))]));
    assert_eq!(fate(&script, 3), EmitOutcome::Stored { position: at(102), duplicate: true });
    assert_eq!((fate(&script, 4), fate(&script, 5)), (stored_at(103), stored_at(104)));
}

#[test]
fn emits_that_were_never_sent_follow_hello_at_once_also_on_a_later_connection() {
    let mut script = Script::welcomed();
    script.emit(1);
    script.server(stored(1, 1, 100));
    script.cut();
    script.emit_all(2..=3);
    script.take_sent();
    script.dialed();
    script.give(Input::Connected);
    assert_eq!(script.take_emits(), [(2, 2)]);
    script.server(welcome(PublisherState::Forgotten));
    script.server(stored(2, 2, 200));
    assert_eq!((fate(&script, 2), fate(&script, 3)), (stored_at(200), stored_at(201)));
    assert!(script.disconnects.is_empty());
}

#[test]
fn a_server_that_never_saw_the_publisher_gets_everything_again() {
    let mut script = Script::welcomed();
    script.emit_all(1..=3);
    script.take_sent();
    script.reconnect();
    assert_eq!(script.take_emits(), [(1, 3)]);
}

#[test]
fn a_server_that_forgot_the_publisher_leaves_unanswered_emits_unknown_and_takes_the_rest() {
    let mut script = Script::welcomed();
    script.emit(1);
    script.server(stored(1, 1, 100));
    script.emit_all(2..=3);
    script.cut();
    script.emit_all(4..=5);
    script.take_sent();
    script.connect_to(welcome(PublisherState::Forgotten));
    assert_eq!((fate(&script, 2), fate(&script, 3)), (EmitOutcome::Unknown, EmitOutcome::Unknown));
    // It greets again at once, so that both agree on the next number: those of the unknown ones are never used again.
    assert_eq!(script.take_emits(), []);
    script.give(Input::Connected);
    assert_eq!(script.hellos.last().unwrap().settled, EmitNumber(3));
    script.server(welcome(PublisherState::Forgotten));
    assert_eq!(script.take_emits(), [(4, 2)]);
    script.server(stored(4, 2, 300));
    assert_eq!(fate(&script, 5), stored_at(301));
}

#[test]
fn a_log_that_lost_acknowledged_emits_is_told_once() {
    let mut script = Script::welcomed();
    script.emit_all(1..=9);
    script.server(stored(1, 9, 100));
    script.cut();
    script.connect_to(welcome(reached(6)));
    assert_eq!(script.lost, [(7, 9)]);
    script.cut();
    script.connect_to(welcome(reached(6)));
    assert_eq!(script.lost, [(7, 9)]);
    script.emit(10);
    assert_eq!(script.take_emits().last(), Some(&(10, 1)), "numbers go on");
    script.server(stored(10, 1, 200));
    script.cut();
    script.connect_to(welcome(reached(4)));
    assert_eq!(script.lost, [(7, 9), (5, 6), (10, 10)], "what was told before is not told again, and all else is");
    script.emit(11);
    script.server(stored(11, 1, 210));
    script.cut();
    script.connect_to(welcome(reached(8)));
    assert_eq!(script.lost[3..], [(11, 11)]);
    script.emit(12);
    script.server(stored(12, 1, 220));
    script.cut();
    script.connect_to(welcome(reached(3)));
    assert_eq!(script.lost[4..], [(4, 4), (12, 12)]);
}

#[test]
fn what_was_sent_and_not_answered_is_sent_to_a_log_that_has_gone_back() {
    let mut script = Script::welcomed();
    script.emit_all(1..=5);
    script.server(stored(1, 3, 100));
    script.take_sent();
    script.cut();
    script.connect_to(welcome(reached(1)));
    assert_eq!(script.lost, [(2, 3)]);
    assert_eq!(script.take_emits(), [(4, 2)]);
}

#[test]
fn a_wiped_log_is_told_to_the_publisher_also_when_it_has_grown_past() {
    for head in [1, 100_000] {
        let mut script = Script::welcomed();
        script.emit_all(1..=3);
        script.server(stored(1, 3, 5000));
        script.cut();
        script.connect_to(welcome_in(B, head, PublisherState::Forgotten));
        assert_eq!(script.lost, [(1, 3)], "head {head}");
        script.emit(4);
        assert_eq!(script.take_emits().last(), Some(&(4, 1)));
    }
}

#[test]
fn a_publisher_that_slept_for_a_month_and_was_forgotten_is_not_told_of_losses() {
    let mut script = Script::welcomed();
    script.emit_all(1..=3);
    script.server(stored(1, 3, 500));
    script.cut();
    script.now = script.now + Duration::from_secs(31 * 24 * 3600);
    script.connect_to(welcome_in(B, 600, PublisherState::Forgotten));
    assert_eq!(script.lost, []);
}

#[test]
fn a_fixed_publisher_numbers_from_one_and_finds_its_emits_already_stored() {
    let mut script = Script::new();
    script.emit_all(1..=3);
    script.connect_to(welcome(reached(3)));
    assert_eq!(script.take_emits(), [(1, 3)]);
    script.server(runs([(1, 2, EmitFate::Duplicate(at(7))), (3, 1, EmitFate::DuplicateForgotten)]));
    assert_eq!(fate(&script, 2), EmitOutcome::Stored { position: at(8), duplicate: true });
    assert_eq!(fate(&script, 3), EmitOutcome::StoredLongAgo);
}

#[test]
fn a_final_refusal_answers_one_emit_and_the_others_go_on() {
    let mut script = Script::welcomed();
    script.emit_all(1..=3);
    script.server(runs([
        (1, 1, EmitFate::Stored(at(100))),
        (2, 1, EmitFate::Refused(RefusalCode::FORBIDDEN)),
        (3, 1, EmitFate::Stored(at(101))),
    ]));
    assert_eq!(fate(&script, 2), EmitOutcome::Refused(RefusalCode::FORBIDDEN));
    assert_eq!(fate(&script, 3), stored_at(101));
    script.emit(4);
    assert_eq!(script.take_emits().last(), Some(&(4, 1)));
}

#[test]
fn a_retryable_refusal_pauses_and_nothing_overtakes() {
    let mut script = Script::welcomed();
    script.emit_all(1..=4);
    script.take_sent();
    script.server(runs([
        (1, 1, EmitFate::Stored(at(100))),
        (2, 1, EmitFate::Refused(RefusalCode::STORAGE_FULL)),
        (3, 2, EmitFate::Refused(RefusalCode::OUT_OF_ORDER)),
    ]));
    script.emit(5);
    assert_eq!(script.take_emits(), []);
    assert_eq!(script.emitted.len(), 1);
    script.wait(script.config.backoff_first);
    assert_eq!(script.take_emits(), [(2, 4)]);
    script.server(stored(2, 4, 101));
    assert_eq!(fate(&script, 5), stored_at(104));
}

#[test]
fn emits_that_wait_for_the_server_are_told_of_once_and_are_surely_not_stored() {
    let mut script = Script::welcomed();
    script.emit_all(1..=3);
    script.take_sent();
    for _ in 0..5 {
        script.server(runs([(1, 1, EmitFate::Refused(RefusalCode::STORAGE_FULL))]));
        script.wait_for_next_of_emits();
    }
    assert_eq!(script.held, [Some(RefusalCode::STORAGE_FULL)]);
    script.server(stored(1, 1, 9));
    assert_eq!(script.held, [Some(RefusalCode::STORAGE_FULL), None]);
    script.server(runs([(2, 1, EmitFate::Refused(RefusalCode::STORAGE_FULL))]));
    script.give(Input::Rejected(Close::new(CloseCode::DONE, "", RetryAdvice::Never)));
    let refused = EmitOutcome::Refused(RefusalCode::STORAGE_FULL);
    assert_eq!((fate(&script, 2), fate(&script, 3)), (refused, refused), "what was refused is not stored");
}

#[test]
fn an_emit_that_was_sent_again_after_a_refusal_may_be_stored() {
    let mut script = Script::welcomed();
    script.emit(1);
    script.take_sent();
    script.server(runs([(1, 1, EmitFate::Refused(RefusalCode::STORAGE_FULL))]));
    script.wait_for_next_of_emits();
    script.give(Input::Rejected(Close::new(CloseCode::DONE, "", RetryAdvice::Never)));
    assert_eq!(fate(&script, 1), EmitOutcome::Unknown);
}

#[test]
fn a_disk_that_stays_full_is_asked_again_with_growing_pauses() {
    let mut script = Script::welcomed();
    let begun = script.now;
    for _ in 0..20 {
        script.emit_all([]);
        if script.session.outbox_events() == 0 {
            script.emit(1);
        }
        assert_eq!(script.take_emits(), [(1, 1)]);
        script.server(runs([(1, 1, EmitFate::Refused(RefusalCode::STORAGE_FULL))]));
        script.wait_for_next_of_emits();
    }
    assert!(script.now.since(begun) > Duration::from_secs(20));
    assert!(script.emitted.is_empty());
    script.server(stored(1, 1, 9));
    assert_eq!(fate(&script, 1), stored_at(9));
}

#[test]
fn answers_that_come_late_for_what_was_sent_before_a_pause_do_no_harm() {
    let mut script = Script::welcomed();
    script.emit_all(1..=2);
    script.server(runs([(1, 1, EmitFate::Refused(RefusalCode::OVERLOADED))]));
    script.wait(script.config.backoff_first);
    assert_eq!(script.take_emits(), [(1, 2), (1, 2)]);
    script.server(runs([(2, 1, EmitFate::Refused(RefusalCode::OUT_OF_ORDER))]));
    script.server(stored(1, 2, 100));
    assert_eq!((fate(&script, 1), fate(&script, 2)), (stored_at(100), stored_at(101)));
    script.wait(Duration::from_secs(60));
    script.server(runs([(1, 2, EmitFate::Duplicate(at(100)))]));
    assert_eq!((script.emitted.len(), script.session.outbox_events()), (2, 0));
    assert!(script.take_emits().is_empty());
}

#[test]
fn a_server_that_misses_a_number_gets_it_again() {
    let mut script = Script::welcomed();
    script.emit_all(1..=3);
    script.take_sent();
    script.server(ServerFrame::OutOfOrder { expected: EmitNumber(1) });
    script.wait(script.config.backoff_first);
    assert_eq!(script.take_emits(), [(1, 3)]);
}

#[test]
fn a_server_that_needs_what_it_acknowledged_has_gone_back_and_is_greeted_again() {
    let mut script = Script::welcomed();
    script.emit_all(1..=3);
    script.server(stored(1, 3, 100));
    script.emit(4);
    script.server(ServerFrame::OutOfOrder { expected: EmitNumber(2) });
    assert_eq!(script.disconnects.len(), 1);
    script.connect_to(welcome(reached(1)));
    assert_eq!(script.lost, [(2, 3)]);
}

#[test]
fn answers_to_what_was_never_emitted_cost_the_connection() {
    for nonsense in [
        stored(1, 4, 100),
        stored(2, 1, 100),
        stored(0, 1, 100),
        stored(0, 0, 100),
        stored(1, 0, 100),
        stored(u64::MAX, 3, 100),
        stored(3, u32::MAX, 1),
    ] {
        let mut script = Script::welcomed();
        script.emit_all(1..=3);
        script.server(nonsense.clone());
        assert_eq!((script.disconnects.len(), script.emitted.len()), (1, 0), "{nonsense:?}");
        script.connect();
        assert_eq!(script.take_emits(), [(1, 3), (1, 3)]);
    }
}

#[test]
fn positions_at_the_end_of_all_numbers_do_not_overflow() {
    let mut script = Script::welcomed();
    script.emit_all(1..=2);
    script.server(stored(1, 2, u64::MAX));
    assert_eq!(fate(&script, 2), stored_at(u64::MAX));
}

#[test]
fn an_emit_that_was_never_sent_can_be_taken_back() {
    let mut script = Script::new();
    script.emit_all(1..=3);
    script.give(Input::CancelEmit { ticket: EmitTicket(2) });
    assert_eq!(fate(&script, 2), EmitOutcome::NotSent);
    script.connect();
    let sent = script.take_sent();
    let ClientFrame::Emit { first, events } = &sent[0] else { panic!("{sent:?}") };
    let payloads: Vec<_> = events.iter().map(|event| &event.payload[..]).collect();
    assert_eq!((first.0, payloads), (1, vec![&b"1"[..], b"3"]));
    script.server(stored(1, 2, 100));
    assert_eq!((fate(&script, 1), fate(&script, 3)), (stored_at(100), stored_at(101)));
}

#[test]
fn an_emit_that_was_sent_once_goes_on_whatever_the_app_wishes() {
    let mut script = Script::welcomed();
    script.emit_all(1..=2);
    script.cut();
    script.give(Input::CancelEmit { ticket: EmitTicket(1) });
    script.give(Input::CancelEmit { ticket: EmitTicket(77) });
    assert_eq!(script.emitted, []);
    script.connect();
    script.server(stored(1, 2, 100));
    assert_eq!(fate(&script, 1), stored_at(100));
}

#[test]
fn what_no_server_would_take_is_refused_at_once() {
    let mut script = Script::new();
    script.emit_event(1, of_bytes(768 * 1024));
    script.emit_event(2, event_for("orders", "").with_topics(vec![]));
    assert_eq!(fate(&script, 1), EmitOutcome::Refused(RefusalCode::TOO_LARGE));
    assert_eq!(fate(&script, 2), EmitOutcome::Refused(RefusalCode::INVALID));
}

#[test]
fn what_only_this_server_does_not_take_spends_its_number_whether_or_not_its_limits_are_known() {
    // A process that emits the same once more must give the same numbers. (Found by simulation.)
    let mut script = Script::welcomed();
    script.emit(1);
    script.emit_event(2, of_bytes(256 * 1024));
    script.emit(3);
    let first: usize = script.take_emits().iter().map(|(_, count)| *count).sum();

    let mut script = Script::new();
    script.emit(1);
    script.emit_event(2, of_bytes(256 * 1024));
    script.emit(3);
    script.connect();
    let again: usize = script.take_emits().iter().map(|(_, count)| *count).sum();
    assert_eq!((first, again), (3, 3));
    assert_eq!(script.emitted, []);
    script.server(stored(1, 1, 100));
    script.server(runs([(2, 1, EmitFate::Refused(RefusalCode::TOO_LARGE))]));
    assert_eq!(fate(&script, 2), EmitOutcome::Refused(RefusalCode::TOO_LARGE));
}

#[test]
fn the_outbox_is_bounded_in_events_and_bytes_and_one_event_always_fits() {
    let mut config = ClientConfig::default();
    config.outbox_events_max = 3;
    config.outbox_bytes_max = 100;
    let mut script = Script::with(config, 1);
    assert!(script.session.outbox_has_room(1_000_000));
    script.emit(1);
    let bytes = script.session.outbox_bytes();
    assert!(script.session.outbox_has_room(100 - bytes));
    assert!(!script.session.outbox_has_room(101 - bytes));
    script.emit_all(2..=3);
    assert!(!script.session.outbox_has_room(1));
    script.connect();
    script.server(runs([(1, 3, EmitFate::Stored(at(Seq(1).0)))]));
    assert!(script.session.outbox_has_room(100));
}

#[test]
fn what_follows_hello_to_a_server_that_closes_before_its_welcome_was_not_stored() {
    let mut script = Script::new();
    script.emit_all(1..=3);
    script.give(Input::Connected);
    assert_eq!(script.take_emits(), [(1, 3)]);
    script.server_closes(CloseCode::UNAUTHENTICATED, RetryAdvice::Never);
    assert_eq!([1, 2, 3].map(|ticket| fate(&script, ticket)), [EmitOutcome::NotSent; 3]);
}

#[test]
fn what_a_server_turned_away_keeps_its_numbers_for_the_next() {
    let mut script = Script::new();
    script.emit_all(1..=2);
    script.give(Input::Connected);
    script.server_closes(CloseCode::OVERLOADED, RetryAdvice::Now);
    script.give(Input::CancelEmit { ticket: EmitTicket(1) });
    assert_eq!(fate(&script, 1), EmitOutcome::NotSent, "it can still be taken back");
    script.take_sent();
    script.dialed();
    script.give(Input::Connected);
    assert_eq!(script.take_emits(), [(1, 1)]);
    script.server(welcome(PublisherState::New));
    script.server(stored(1, 1, 7));
    assert_eq!(fate(&script, 2), stored_at(7));
}

#[test]
fn what_may_have_reached_a_server_that_vanishes_is_not_called_unsent() {
    let mut script = Script::new();
    script.emit(1);
    script.give(Input::Connected);
    script.take_sent();
    script.cut();
    script.give(Input::Rejected(Close::of(CloseCode::DONE, RetryAdvice::Never)));
    assert_eq!(fate(&script, 1), EmitOutcome::Unknown);
}
