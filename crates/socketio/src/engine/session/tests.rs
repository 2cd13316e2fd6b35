//! The session machine, in virtual time.

use super::*;

const TERMS: Terms = Terms {
    ping_interval: Duration::from_secs(25),
    ping_timeout: Duration::from_secs(20),
    upgrade_timeout: Duration::from_secs(10),
    body_bytes_max: 1_000_000,
};

fn at(seconds: u64) -> Instant {
    Instant::ORIGIN + Duration::from_secs(seconds)
}

fn polling() -> EngineSession {
    EngineSession::over_polling(TERMS, at(0))
}

fn text(session: &mut EngineSession, text: &'static [u8]) {
    assert!(session.send(Message::Text(Bytes::from_static(text)), at(0)).is_none(), "it waits for a poll");
}

fn events(session: &mut EngineSession) -> Vec<EngineEvent> {
    std::iter::from_fn(|| session.next_posted(at(1))).collect()
}

fn reason(session: &EngineSession) -> Option<EngineCloseReason> {
    session.end().map(|end| end.reason)
}

#[test]
fn a_poll_waits_until_there_is_something_and_takes_all_of_it() {
    let mut session = polling();
    session.get(at(0)).unwrap();
    assert_eq!(session.answer_get(at(1)), None);
    text(&mut session, b"a");
    text(&mut session, b"b");
    assert_eq!(session.answer_get(at(2)).unwrap(), "4a\x1e4b");
    assert_eq!(session.waiting_bytes(), 0);
    text(&mut session, b"c");
    assert_eq!(session.answer_get(at(2)), None, "nobody polls");
    session.get(at(3)).unwrap();
    assert_eq!(session.answer_get(at(3)).unwrap(), "4c");
}

#[test]
fn two_polls_at_once_end_the_session() {
    let mut session = polling();
    session.get(at(0)).unwrap();
    assert_eq!(session.get(at(0)), Err(Refused));
    let end = session.end().unwrap();
    assert_eq!((end.reason, &*end.last_response, end.lingers), (EngineCloseReason::TransportError, &b"1"[..], false));
    assert_eq!(session.get(at(0)), Err(Refused));
}

#[test]
fn a_body_brings_its_packets_in_order() {
    let mut session = polling();
    session.post(Bytes::from_static(b"4hello\x1ebAQIDBA==")).unwrap();
    let binary = EngineEvent::Binary(Bytes::from_static(&[1, 2, 3, 4]));
    assert_eq!(events(&mut session), [EngineEvent::Text("hello".into()), binary]);
}

#[test]
fn a_malformed_body_brings_nothing_and_ends_the_session() {
    let mut session = polling();
    assert_eq!(session.post(Bytes::from_static(b"4hello\x1eabc")), Err(Refused));
    assert_eq!(events(&mut session), []);
    assert_eq!(reason(&session), Some(EngineCloseReason::ParseError));
}

#[test]
fn a_client_that_closes_has_its_poll_answered_even_if_that_is_late() {
    let mut session = polling();
    session.get(at(0)).unwrap();
    session.post(Bytes::from_static(b"4last\x1e1\x1e4more")).unwrap();
    assert_eq!(events(&mut session), [EngineEvent::Text("last".into())]);
    let end = session.end().unwrap();
    assert_eq!((end.reason, &*end.last_response, end.lingers), (EngineCloseReason::TransportClose, &b"6"[..], false));

    let mut session = polling();
    session.post(Bytes::from_static(b"1")).unwrap();
    assert_eq!(events(&mut session), []);
    assert!(session.end().unwrap().lingers, "its poll is not here yet");
}

#[test]
fn what_was_sent_before_the_owner_closes_goes_before_the_close() {
    let mut session = polling();
    text(&mut session, b"4{}");
    session.close();
    let end = session.end().unwrap();
    assert_eq!((end.reason, &*end.last_response, end.lingers), (EngineCloseReason::Forced, &b"44{}\x1e1"[..], true));
}

#[test]
fn the_first_ping_comes_after_one_interval_and_the_next_one_after_its_pong() {
    let mut session = EngineSession::over_websocket(TERMS, at(0));
    assert_eq!(session.deadline(true), at(25));
    assert_eq!(session.ping(at(24)), None);
    assert_eq!(session.ping(at(25)), Some(1));
    assert_eq!(session.ping(at(30)), None, "one at a time");
    assert_eq!(session.deadline(true), at(45));
    assert_eq!(session.text("3".into(), at(30)), Some(EngineEvent::Pong(1)));
    session.expire(at(54));
    assert_eq!(session.deadline(true), at(55));
    assert_eq!(session.ping(at(55)), Some(2));
    session.expire(at(74));
    assert_eq!(reason(&session), None);
    session.expire(at(75));
    assert_eq!(reason(&session), Some(EngineCloseReason::PingTimeout));
    assert_eq!(session.ping(at(200)), None);
}

#[test]
fn a_pong_that_nobody_asked_for_confirms_nothing_and_delays_no_ping() {
    let mut session = EngineSession::over_websocket(TERMS, at(0));
    for second in 0..25 {
        assert_eq!(session.text("3".into(), at(second)), None);
    }
    assert_eq!(session.ping(at(25)), Some(1));
    assert_eq!(session.text("3".into(), at(26)), Some(EngineEvent::Pong(1)));
    assert_eq!(session.text("3".into(), at(27)), None);
    assert_eq!(session.deadline(true), at(51));
}

#[test]
fn a_late_timer_takes_nothing_from_a_client_of_a_server_that_was_stopped() {
    let mut session = EngineSession::over_websocket(TERMS, at(0));
    assert_eq!(session.ping(at(300)), Some(1));
    session.expire(at(300));
    assert_eq!(reason(&session), None);
    assert_eq!(session.deadline(true), at(320));
}

#[test]
fn an_upgrade_keeps_what_waits_until_the_client_switches() {
    let mut session = polling();
    session.get(at(0)).unwrap();
    assert!(session.probe_opened(at(1)));
    assert_eq!(session.answer_get(at(1)), None, "the probe has not said anything");
    assert!(matches!(session.probe_text("2probe".into()), ProbeStep::Answer));
    assert_eq!(session.answer_get(at(1)).unwrap(), "6", "the poll that waited before is sent home");
    text(&mut session, b"meanwhile");
    let ProbeStep::Adopt(queue) = session.probe_text("5".into()) else { panic!("no upgrade") };
    assert!(matches!(&queue.into_iter().collect::<Vec<_>>()[..], [Message::Text(text)] if text == "meanwhile"));
    assert_eq!(session.waiting_bytes(), 0);
    assert!(session.send(Message::Ping, at(1)).is_some(), "it is written from here on");
    assert_eq!(session.get(at(2)), Err(Refused));
    assert_eq!(session.post(Bytes::from_static(b"4x")), Err(Refused));
    assert!(!session.probe_opened(at(2)));
    assert_eq!(reason(&session), None, "none of which harms it");
}

#[test]
fn a_poll_that_comes_during_a_probe_waits_a_moment_for_the_upgrade() {
    let mut session = polling();
    assert!(session.probe_opened(at(1)));
    assert!(matches!(session.probe_text("2probe".into()), ProbeStep::Answer));
    session.get(at(2)).unwrap();
    assert_eq!(session.answer_get(at(2)), None);
    let moment = session.deadline(true);
    assert!(moment > at(2) && moment < at(3));
    assert_eq!(session.answer_get(moment).unwrap(), "6");
}

#[test]
fn a_poll_during_a_probe_gets_what_there_is_at_once() {
    let mut session = polling();
    text(&mut session, b"x");
    assert!(session.probe_opened(at(1)));
    session.get(at(2)).unwrap();
    assert_eq!(session.answer_get(at(2)).unwrap(), "4x");
}

#[test]
fn a_probe_that_says_anything_else_is_dropped_and_polling_goes_on() {
    for says in ["5", "2", "4x", "3probe", "abc"] {
        let mut session = polling();
        assert!(session.probe_opened(at(1)));
        assert!(!session.probe_opened(at(1)), "one at a time");
        assert!(matches!(session.probe_text(says.into()), ProbeStep::Drop), "{says}");
        text(&mut session, b"still");
        session.get(at(2)).unwrap();
        assert_eq!(session.answer_get(at(2)).unwrap(), "4still");
        assert!(session.probe_opened(at(3)), "it may try again");
    }
}

#[test]
fn a_probe_that_is_not_finished_in_time_is_given_up() {
    let mut session = polling();
    assert!(session.probe_opened(at(1)));
    assert_eq!(session.deadline(true), at(11));
    assert!(!session.probe_expired(at(10)));
    assert!(session.probe_expired(at(11)));
    assert_eq!((session.deadline(true), reason(&session)), (at(25), None));
}

#[test]
fn packets_that_are_the_servers_to_send_end_the_session() {
    for wrong in ["", "0{}", "2", "2probe", "5", "6", "7", "abc"] {
        let mut session = EngineSession::over_websocket(TERMS, at(0));
        assert_eq!(session.text(wrong.into(), at(1)), None);
        assert_eq!(reason(&session), Some(EngineCloseReason::ParseError), "{wrong}");
    }
}
