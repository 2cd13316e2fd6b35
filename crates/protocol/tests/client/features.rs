//! Stories of two versions that meet, and of what stands behind features: requests, and events without a log.

use std::time::Duration;

use redeliver_protocol::client::{ConnectionState, CursorKeeper, EmitOutcome, EmitTicket, Input, StreamItem};
use redeliver_protocol::codec;
use redeliver_protocol::config::ClientConfig;
use redeliver_protocol::error::{Close, CloseCode, RefusalCode, RetryAdvice};
use redeliver_protocol::event::{NewEvent, PayloadKind};
use redeliver_protocol::features::{FEATURES, Features};
use redeliver_protocol::frame::{ClientFrame, ReplyFrame, ReplyOutcome, RequestFrame, ServerFrame, Volatile};
use redeliver_protocol::history::PublisherState;
use redeliver_protocol::name::EventName;
use redeliver_protocol::request::{Refusal, Request, RequestError, RequestTicket, Response};
use redeliver_protocol::seq::{RequestId, SubscriptionId};
use redeliver_protocol::time::Timestamp;

use crate::script::*;

fn question(timeout_ms: u64) -> Request {
    Request::new(EventName::new("price").unwrap(), PayloadKind::Text, "tea".into(), Duration::from_millis(timeout_ms))
}

fn ask(script: &mut Script, ticket: u64) {
    script.give(Input::Request { ticket: RequestTicket(ticket), request: question(1000) });
}

fn requests(script: &mut Script) -> Vec<RequestFrame> {
    let sent = script.take_sent().into_iter();
    sent.filter_map(|frame| if let ClientFrame::Request(request) = frame { Some(request) } else { None }).collect()
}

fn answer(id: u64) -> ServerFrame {
    let outcome = ReplyOutcome::Answered { kind: PayloadKind::Text, payload: "12".into() };
    ServerFrame::Reply(ReplyFrame { id: RequestId(id), outcome })
}

/// What a server says that has only these features, to one that names more.
fn too_old(script: &mut Script, has: Features) {
    let reason = "it needs more than this server has".to_owned();
    let close = Close::new(CloseCode::VERSION_MISMATCH, reason, RetryAdvice::Never);
    let mut bytes = codec::encode_close(&close).to_vec();
    bytes[6..10].copy_from_slice(&has.0.to_le_bytes());
    script.give(Input::Message(bytes.into()));
}

fn excluding(script_event: NewEvent) -> NewEvent {
    script_event.except("not-them").unwrap()
}

#[test]
fn an_older_server_is_greeted_again_at_once_with_what_it_has() {
    let mut script = Script::new();
    script.subscribe(SUB, CursorKeeper::Nobody);
    script.give(Input::Connected);
    assert_eq!(script.hellos[0].features, ClientConfig::default().features);
    script.take_sent();
    too_old(&mut script, Features::NONE);
    assert_eq!(script.connects, 2, "without a pause");
    script.connect();
    assert_eq!(script.hellos[1].features, Features::NONE);
    assert!(matches!(script.session.state(), ConnectionState::Connected { .. }));
    assert_eq!(script.take_subscribe().id, SubscriptionId(1));
    // The server may be a newer one when it comes back.
    script.reconnect();
    assert_eq!(script.hellos[2].features, ClientConfig::default().features);
}

#[test]
fn a_server_that_has_all_and_closes_for_its_version_all_the_same_ends_the_client() {
    let mut script = Script::new();
    script.give(Input::Connected);
    too_old(&mut script, FEATURES);
    assert!(script.ended);
}

#[test]
fn an_event_that_is_not_for_everybody_is_never_sent_as_one_that_is() {
    let mut config = ClientConfig::default();
    config.features = Features::NONE;
    let mut script = Script::with(config, 1);
    script.connect();
    script.take_sent();
    script.emit_event(1, event_for("orders", "1"));
    script.emit_event(2, excluding(event_for("orders", "2")));
    script.emit_event(3, event_for("orders", "3"));
    let sent: Vec<_> = script.take_sent().into_iter().filter_map(as_emit).collect();
    assert_eq!(sent, [(1, 1), (2, 1)], "the numbers have no hole");
    assert_eq!(script.emitted, [(EmitTicket(2), EmitOutcome::Refused(RefusalCode::UNSUPPORTED))]);
}

#[test]
fn an_emit_under_way_that_is_not_for_everybody_waits_for_a_server_that_can_carry_it() {
    let mut script = Script::welcomed();
    script.emit_event(1, excluding(event_for("orders", "1")));
    let sent = script.take_sent();
    assert!(matches!(&sent[..], [ClientFrame::EmitExcept { .. }]), "{sent:?}");
    script.cut();
    script.dialed();
    script.give(Input::Connected);
    too_old(&mut script, Features::NONE);
    assert!(matches!(script.session.state(), ConnectionState::Waiting { .. }), "{:?}", script.session.state());
    assert!(script.emitted.is_empty(), "its fate is open");
    script.connect_to(welcome(reached(0)));
    assert_eq!(script.take_sent(), sent, "the same again, under the same number");
}

#[test]
fn a_request_is_answered_once_and_what_comes_late_is_dropped() {
    let mut script = Script::welcomed();
    ask(&mut script, 7);
    assert_eq!(
        requests(&mut script).iter().map(|request| (request.id.0, request.timeout_ms)).collect::<Vec<_>>(),
        [(1, 1000)]
    );
    script.server(answer(1));
    let payload = Response::new(PayloadKind::Text, "12".into());
    assert_eq!(script.answers, [(RequestTicket(7), Ok(payload))]);
    script.server(answer(1));
    ask(&mut script, 8);
    script.give(Input::CancelRequest { ticket: RequestTicket(8) });
    script.server(answer(2));
    assert_eq!(script.answers.len(), 1);
    assert!(script.disconnects.is_empty());
    script.server(answer(99));
    assert_eq!(script.disconnects.len(), 1, "nothing was asked under this number");
}

#[test]
fn a_request_is_never_asked_again_on_another_connection() {
    let mut script = Script::welcomed();
    ask(&mut script, 1);
    script.take_sent();
    script.cut();
    assert_eq!(script.answers, [(RequestTicket(1), Err(RequestError::Gone))]);
    // This one was not asked yet, and has time.
    script.give(Input::Request { ticket: RequestTicket(2), request: question(600_000) });
    script.connect();
    assert_eq!(requests(&mut script).len(), 1);
    script.server(answer(2));
    assert!(matches!(script.answers.last(), Some((RequestTicket(2), Ok(_)))));
}

#[test]
fn a_request_without_answer_ends_at_its_deadline_and_says_whether_it_was_asked() {
    let mut script = Script::welcomed();
    ask(&mut script, 1);
    script.wait(Duration::from_millis(999));
    assert!(script.answers.is_empty());
    script.wait(Duration::from_millis(1));
    assert_eq!(script.answers, [(RequestTicket(1), Err(RequestError::Timeout))]);

    let mut script = Script::new();
    ask(&mut script, 1);
    script.wait(Duration::from_secs(1));
    assert_eq!(script.answers, [(RequestTicket(1), Err(RequestError::NotSent))]);
}

#[test]
fn a_server_without_requests_is_not_asked() {
    let mut script = Script::new();
    ask(&mut script, 1);
    script.give(Input::Connected);
    too_old(&mut script, Features::NONE);
    script.connect();
    assert_eq!(script.answers, [(RequestTicket(1), Err(RequestError::Unsupported))]);
    assert!(requests(&mut script).is_empty());
}

#[test]
fn a_client_that_ends_says_what_became_of_its_requests() {
    let mut script = Script::welcomed();
    ask(&mut script, 1);
    script.give(Input::Shutdown);
    assert_eq!(script.answers, [(RequestTicket(1), Err(RequestError::Gone))]);
    assert!(script.ended);
}

#[test]
fn an_answer_goes_to_the_connection_on_which_it_was_asked_and_to_no_other() {
    let mut script = Script::welcomed();
    let name = EventName::new("status").unwrap();
    let kind = PayloadKind::Bytes;
    let request = RequestFrame { id: RequestId(1), name, kind, payload: "".into(), timeout_ms: 50 };
    script.server(ServerFrame::Request(request.clone()));
    let (first, _) = script.asked[0].clone();
    script.reconnect();
    script.server(ServerFrame::Request(request.clone()));
    let (second, asked) = script.asked[1].clone();
    assert_eq!(asked.timeout, Duration::from_millis(50));
    script.take_sent();
    script.give(Input::Respond { key: first, result: Ok(Response::default()) });
    assert!(script.take_sent().is_empty());
    script.give(Input::Respond { key: second, result: Err(Refusal::declined("no")) });
    script.give(Input::Respond { key: second, result: Ok(Response::default()) });
    let outcome = ReplyOutcome::Refused { code: RefusalCode::DECLINED, reason: "no".to_owned() };
    assert_eq!(script.take_sent(), [ClientFrame::Reply(ReplyFrame { id: RequestId(1), outcome })]);
    script.server(ServerFrame::Request(request));
    assert_eq!(script.disconnects.len(), 1, "a number is used once");
}

#[test]
fn what_needs_a_feature_that_hello_did_not_name_is_a_violation() {
    let mut config = ClientConfig::default();
    config.features = Features::NONE;
    for frame in [answer(1), volatile(WIRE)] {
        let mut script = Script::with(config.clone(), 1);
        script.connect();
        script.subscribe(SUB, CursorKeeper::Nobody);
        script.server(subscribed(WIRE, at(10), 4));
        script.server(frame);
        assert_eq!(script.disconnects.len(), 1);
        assert!(!script.handed.iter().any(|(_, delivery)| matches!(delivery, StreamItem::Volatile { .. })));
    }
}

fn volatile(id: SubscriptionId) -> ServerFrame {
    let (name, kind) = (EventName::new("typing").unwrap(), PayloadKind::Text);
    ServerFrame::Volatile(Volatile { id, time: Timestamp(5), name, kind, payload: "ann".into() })
}

#[test]
fn an_answer_to_hello_decides_before_anything_of_a_feature_is_sent() {
    let mut script = Script::new();
    ask(&mut script, 1);
    script.give(Input::Connected);
    assert!(requests(&mut script).is_empty(), "nobody knows yet whether the server has requests");
    script.server(welcome(PublisherState::New));
    assert_eq!(requests(&mut script).len(), 1);
}
