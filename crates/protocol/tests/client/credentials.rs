//! Credentials that are asked for anew: when a close is no end, and when it is.

use bytes::Bytes;
use redeliver_protocol::client::{ConnectionState, CursorKeeper, Input};
use redeliver_protocol::error::{CloseCode, RetryAdvice};
use redeliver_protocol::history::{PublisherState, Start};

use crate::script::*;

/// The shell has made a connection, with these credentials.
fn come_with(script: &mut Script, credentials: &'static str) {
    script.give(Input::Credentials(Bytes::from_static(credentials.as_bytes())));
    script.give(Input::Connected);
    assert_eq!(script.hellos.last().unwrap().auth.as_deref(), Some(credentials.as_bytes()));
}

fn is_connecting(script: &Script) -> bool {
    *script.session.state() == ConnectionState::Connecting
}

#[test]
fn a_client_whose_credentials_expire_comes_back_at_once_with_others_and_goes_on() {
    let mut script = Script::renewing();
    come_with(&mut script, "monday");
    script.server(welcome(PublisherState::New));
    script.subscribe(SUB, CursorKeeper::Nobody);
    script.server(subscribed(WIRE, at(10), 4));
    script.server(events(WIRE, 5..=6));
    script.emit(1);
    script.wait(std::time::Duration::from_secs(1));
    script.take_sent();

    script.server_closes(CloseCode::EXPIRED, RetryAdvice::Never);
    assert!(is_connecting(&script) && script.connects == 2, "{:?}", script.states);
    come_with(&mut script, "tuesday");
    script.server(welcome(PublisherState::New));
    let sent = script.take_sent();
    let start = sent.iter().cloned().find_map(as_subscribe).unwrap().start;
    assert_eq!(start, Start::After(known(at(seq_of(6)), 6)));
    assert!(script.emitted.is_empty() && !script.ended, "the emit is still under way");
}

#[test]
fn credentials_that_are_refused_are_asked_for_once_more_and_then_the_client_ends() {
    let mut script = Script::renewing();
    come_with(&mut script, "stale");
    script.server_closes(CloseCode::UNAUTHENTICATED, RetryAdvice::Never);
    assert!(is_connecting(&script) && script.connects == 2 && !script.ended);
    come_with(&mut script, "as stale");
    script.server_closes(CloseCode::UNAUTHENTICATED, RetryAdvice::Never);
    let Some(ConnectionState::Ended { close: Some(close) }) = script.states.last() else {
        panic!("{:?}", script.states)
    };
    assert_eq!((close.code, script.ended), (CloseCode::UNAUTHENTICATED, true));
}

#[test]
fn a_refusal_after_a_welcome_is_the_first_again() {
    let mut script = Script::renewing();
    for _ in 0..5 {
        come_with(&mut script, "stale");
        script.server_closes(CloseCode::UNAUTHENTICATED, RetryAdvice::Never);
        come_with(&mut script, "fresh");
        script.server(welcome(PublisherState::New));
        script.wait(std::time::Duration::from_secs(1));
        script.server_closes(CloseCode::EXPIRED, RetryAdvice::Never);
        assert!(is_connecting(&script) && !script.ended);
    }
}

#[test]
fn credentials_that_expire_as_soon_as_they_come_make_no_tight_loop_and_no_end() {
    let mut script = Script::renewing();
    let begun = script.now;
    for _ in 0..40 {
        script.dialed();
        come_with(&mut script, "expired");
        script.server(welcome(PublisherState::New));
        script.server_closes(CloseCode::EXPIRED, RetryAdvice::Never);
    }
    for _ in 0..40 {
        script.dialed();
        come_with(&mut script, "expired");
        script.server_closes(CloseCode::EXPIRED, RetryAdvice::Never);
    }
    assert!(!script.ended);
    assert!(script.now.since(begun) > std::time::Duration::from_secs(80), "{:?}", script.now.since(begun));
}

#[test]
fn credentials_that_are_fixed_end_with_their_time() {
    let mut script = Script::welcomed();
    script.server_closes(CloseCode::EXPIRED, RetryAdvice::Never);
    assert!(script.ended);
}
