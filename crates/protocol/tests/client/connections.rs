//! Stories of connections: made, lost, silent, refused.

use std::time::Duration;

use bytes::Bytes;
use redeliver_protocol::client::{ConnectionState, CursorKeeper, Input};
use redeliver_protocol::config::ClientConfig;
use redeliver_protocol::error::{Close, CloseCode, RetryAdvice};
use redeliver_protocol::frame::{ClientFrame, ServerFrame};
use redeliver_protocol::history::PublisherState;
use redeliver_protocol::seq::SubscriptionId;

use crate::script::*;

fn pauses(script: &Script) -> Vec<Duration> {
    let pause = |state: &ConnectionState| match state {
        ConnectionState::Waiting { retry_in, .. } => Some(*retry_in),
        ConnectionState::Connecting | ConnectionState::Connected { .. } | ConnectionState::Ended { .. } | _ => None,
    };
    script.states.iter().filter_map(pause).collect()
}

#[test]
fn everything_that_a_connection_needs_goes_out_in_the_first_flight() {
    let mut script = Script::new();
    script.subscribe(SUB, CursorKeeper::Nobody);
    script.subscribe(SubscriptionId(71), CursorKeeper::Server);
    script.emit_all(1..=3);
    assert_eq!(script.connects, 1);
    assert!(script.sent.is_empty());

    script.give(Input::Connected);
    assert_eq!(script.hellos.len(), 1);
    let sent = script.take_sent();
    assert_eq!(sent.iter().cloned().filter_map(as_subscribe).count(), 2);
    assert_eq!(sent.into_iter().filter_map(as_emit).collect::<Vec<_>>(), [(1, 3)]);
}

#[test]
fn a_client_tries_for_ever_with_growing_pauses_that_stay_within_their_bounds() {
    let mut script = Script::new();
    for _ in 0..50 {
        script.dialed();
        script.cut();
    }
    let mut bound = script.config.backoff_first;
    for pause in pauses(&script) {
        assert!(pause <= bound, "{pause:?} is over {bound:?}");
        bound = (bound * 2).min(script.config.backoff_max);
    }
    assert_eq!(pauses(&script).len(), 50);
    script.connect();
    assert!(matches!(script.session.state(), ConnectionState::Connected { .. }));
}

#[test]
fn a_server_that_welcomes_and_hangs_up_at_once_is_not_dialed_in_a_tight_loop() {
    let mut script = Script::new();
    let begun = script.now;
    for _ in 0..40 {
        script.reconnect();
    }
    let average = script.now.since(begun) / 40;
    assert!(average > Duration::from_secs(1), "a try each {average:?}");
}

#[test]
fn after_a_connection_that_stood_the_first_pause_is_short_again() {
    let mut script = Script::new();
    for _ in 0..20 {
        script.cut();
        script.dialed();
    }
    script.connect();
    script.wait(script.config.backoff_max);
    script.cut();
    assert!(*pauses(&script).last().unwrap() <= script.config.backoff_first);
}

#[test]
fn a_connection_that_does_not_come_about_in_time_is_given_up() {
    let mut script = Script::new();
    script.wait(script.config.connect_timeout);
    assert_eq!(script.disconnects.len(), 1);
    assert!(matches!(script.session.state(), ConnectionState::Waiting { .. }));
}

#[test]
fn a_server_that_never_says_welcome_is_given_up_in_the_same_time() {
    let mut script = Script::new();
    script.wait(Duration::from_secs(4));
    script.give(Input::Connected);
    script.wait(script.config.connect_timeout - Duration::from_secs(4));
    assert_eq!(script.disconnects.len(), 1);
}

#[test]
fn a_silent_server_is_asked_and_given_up_after_two_heartbeats() {
    let mut script = Script::welcomed();
    script.wait(HEARTBEAT);
    assert!(matches!(script.take_sent()[..], [ClientFrame::Ping { .. }]));
    script.wait(HEARTBEAT - Duration::from_millis(1));
    assert!(script.disconnects.is_empty());
    script.wait(Duration::from_millis(1));
    assert_eq!(script.disconnects[0].code, CloseCode::HEARTBEAT_TIMEOUT);
    assert!(matches!(script.session.state(), ConnectionState::Waiting { .. }));
}

#[test]
fn a_server_that_answers_pings_is_kept_for_ever() {
    let mut script = Script::welcomed();
    for _ in 0..100 {
        script.wait(HEARTBEAT);
        for frame in script.take_sent() {
            if let ClientFrame::Ping { token } = frame {
                script.server(ServerFrame::Pong { token });
            }
        }
    }
    assert!(script.disconnects.is_empty());
}

#[test]
fn a_server_that_keeps_talking_is_not_pinged() {
    let mut script = Script::welcomed();
    for token in 0..100 {
        script.wait(HEARTBEAT / 2);
        script.server(ServerFrame::Ping { token });
    }
    let pongs: Vec<_> = (0..100).map(|token| ClientFrame::Pong { token }).collect();
    assert_eq!(script.take_sent(), pongs);
}

#[test]
fn a_client_that_slept_asks_before_it_gives_the_server_up() {
    let mut script = Script::welcomed();
    script.now = script.now + Duration::from_secs(3600);
    script.give(Input::Tick);
    assert!(script.disconnects.is_empty());
    script.server(ServerFrame::Pong { token: 0 });
    script.wait(HEARTBEAT);
    assert!(script.disconnects.is_empty());
}

#[test]
fn a_server_that_says_never_ends_the_client() {
    let mut script = Script::welcomed();
    script.server_closes(CloseCode::PUBLISHER_FENCED, RetryAdvice::Never);
    assert!(script.ended);
    let Some(ConnectionState::Ended { close: Some(close) }) = script.states.last() else {
        panic!("{:?}", script.states)
    };
    assert_eq!(close.code, CloseCode::PUBLISHER_FENCED);
    assert_eq!(script.session.poll_timeout(), None);
    script.give(Input::Connected);
    script.emit(1);
    assert!(script.emitted.is_empty() && script.sent.is_empty());
}

#[test]
fn a_refused_upgrade_ends_the_client() {
    let mut script = Script::new();
    let close = Close::new(CloseCode::UNAUTHENTICATED, "401".to_owned(), RetryAdvice::Never);
    script.give(Input::Rejected(close.clone()));
    assert!(script.ended);
    assert_eq!(script.states.last(), Some(&ConnectionState::Ended { close: Some(close) }));
}

#[test]
fn a_server_that_sends_clients_away_gets_them_back_later_and_spread() {
    let advised = Duration::from_secs(20);
    let mut pauses_seen = Vec::new();
    for seed in 0..20 {
        let mut script = Script::with(ClientConfig::default(), seed);
        script.connect();
        script.server_closes(CloseCode::DRAINING, RetryAdvice::After(advised));
        pauses_seen.extend(pauses(&script));
    }
    assert!(pauses_seen.iter().all(|pause| *pause >= advised && *pause <= advised * 3 / 2), "{pauses_seen:?}");
    let (least, most) = (pauses_seen.iter().min().unwrap(), pauses_seen.iter().max().unwrap());
    assert!(*most - *least > advised / 5, "all come back between {least:?} and {most:?}");
}

#[test]
fn advice_to_come_back_at_once_does_not_make_a_tight_loop() {
    let mut script = Script::new();
    let begun = script.now;
    for _ in 0..40 {
        script.connect();
        script.server_closes(CloseCode::OVERLOADED, RetryAdvice::After(Duration::ZERO));
    }
    assert!(script.now.since(begun) > Duration::from_secs(40));
}

#[test]
fn no_advice_sends_a_client_away_for_good() {
    let mut script = Script::welcomed();
    script.server_closes(CloseCode::DRAINING, RetryAdvice::After(Duration::MAX));
    assert!(*pauses(&script).last().unwrap() <= Duration::from_secs(900));
}

#[test]
fn garbage_from_a_server_costs_the_connection_and_nothing_else() {
    for garbage in [&b""[..], b"RDLC", b"RDLH\x01", &[0xff; 64], &[3, 0, 0, 0, 1]] {
        let mut script = Script::subscribed(CursorKeeper::Nobody);
        script.server(events(WIRE, 5..=6));
        script.give(Input::Message(Bytes::copy_from_slice(garbage)));
        assert_eq!(script.disconnects[0].code, CloseCode::MALFORMED, "{garbage:?}");
        script.connect();
        script.server(subscribed(WIRE, at(seq_of(6)), 6));
        script.server(events(WIRE, 7..=7));
        assert_eq!(script.take_events(), fresh(5..=7));
    }
}

#[test]
fn frames_that_have_no_place_in_the_conversation_cost_the_connection() {
    let mut script = Script::new();
    script.give(Input::Connected);
    script.server(ServerFrame::Pong { token: 1 });
    assert_eq!(script.disconnects.len(), 1, "a frame came before Welcome");
    script.connect();
    script.server(welcome(PublisherState::New));
    assert_eq!(script.disconnects.len(), 2, "Welcome came twice");
    script.connect();
    script.server(events(SubscriptionId(9), 1..=1));
    assert_eq!(script.disconnects.len(), 3, "nobody subscribed to that");
}

#[test]
fn what_the_shell_says_late_about_an_old_connection_changes_nothing() {
    let mut script = Script::subscribed(CursorKeeper::Nobody);
    script.cut();
    script.server(events(WIRE, 5..=6));
    script.cut();
    script.give(Input::Connected);
    assert_eq!(pauses(&script).len(), 1);
    assert_eq!((script.hellos.len(), script.take_events()), (1, vec![]));
}
