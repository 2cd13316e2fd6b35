//! Stories of requests between the two sessions: answered once, never asked again, bounded on both sides.

use std::time::Duration;

use bytes::Bytes;
use redeliver_protocol::client::Input as ToClient;
use redeliver_protocol::codec::FromServer;
use redeliver_protocol::error::{CloseCode, RefusalCode};
use redeliver_protocol::event::PayloadKind;
use redeliver_protocol::features::Features;
use redeliver_protocol::frame::{ClientFrame, Hello, ReplyFrame, ReplyOutcome, RequestFrame, ServerFrame};
use redeliver_protocol::limits::REQUESTS_IN_FLIGHT_MAX;
use redeliver_protocol::name::EventName;
use redeliver_protocol::request::{Request, RequestError, RequestTicket, Response};
use redeliver_protocol::seq::RequestId;
use redeliver_protocol::server::{Input, Output, Reply};

use crate::world::*;

fn question(payload: &'static str) -> Request {
    let (name, timeout) = (EventName::new("echo").unwrap(), Duration::from_secs(5));
    Request::new(name, PayloadKind::Text, Bytes::from_static(payload.as_bytes()), timeout)
}

fn request(id: u64) -> ClientFrame {
    let Request { name, kind, payload, .. } = question("x");
    ClientFrame::Request(RequestFrame { id: RequestId(id), name, kind, payload, timeout_ms: 100 })
}

fn guest(pair: &mut Pair, features: Features) -> Peer {
    let peer = pair.peer();
    let hello = Hello { features, ..hello(1, None) };
    pair.send_bytes(peer, redeliver_protocol::codec::encode_hello(&hello));
    pair.frames(peer);
    peer
}

fn done(pair: &Pair) -> Vec<(RequestTicket, Result<Response, RequestError>)> {
    let done = pair.hub.trace.iter().filter_map(|(_, output)| match output {
        Output::RequestDone { ticket, result } => Some((*ticket, result.clone())),
        _ => None,
    });
    done.collect()
}

#[test]
fn a_client_asks_and_the_servers_app_answers() {
    let mut pair = Pair::new();
    let client = pair.client(1);
    for (ticket, payload) in [(1, "one"), (2, "two")] {
        pair.tell(client, ToClient::Request { ticket: RequestTicket(ticket), request: question(payload) });
    }
    pair.settle();
    let answers: Vec<_> = pair.real(client).answers.clone();
    let answer = |payload: &'static str| Ok(Response::new(PayloadKind::Text, payload.into()));
    assert_eq!(answers, [(RequestTicket(1), answer("one")), (RequestTicket(2), answer("two"))]);
}

#[test]
fn the_server_asks_and_a_late_answer_is_dropped() {
    let mut pair = Pair::new();
    let peer = guest(&mut pair, Features::REQUESTS);
    pair.input(peer, Input::Reply(Reply::Request { ticket: RequestTicket(9), request: question("x") }));
    let asked = pair.frames(peer);
    assert!(matches!(&asked[..], [ServerFrame::Request(RequestFrame { id: RequestId(1), .. })]), "{asked:?}");
    let outcome = ReplyOutcome::Answered { kind: PayloadKind::Text, payload: "y".into() };
    let reply = ClientFrame::Reply(ReplyFrame { id: RequestId(1), outcome });
    pair.send(peer, &reply);
    pair.send(peer, &reply);
    let answer = Response::new(PayloadKind::Text, "y".into());
    assert_eq!(done(&pair), [(RequestTicket(9), Ok(answer))]);
    pair.input(peer, Input::Reply(Reply::Request { ticket: RequestTicket(10), request: question("x") }));
    pair.pass(Duration::from_secs(6));
    assert_eq!(done(&pair).last(), Some(&(RequestTicket(10), Err(RequestError::Timeout))));
}

#[test]
fn a_client_of_an_earlier_time_is_not_asked_and_may_not_ask() {
    let mut pair = Pair::new();
    let peer = guest(&mut pair, Features::NONE);
    pair.input(peer, Input::Reply(Reply::Request { ticket: RequestTicket(9), request: question("x") }));
    assert_eq!(done(&pair), [(RequestTicket(9), Err(RequestError::Unsupported))]);
    assert!(pair.frames(peer).is_empty());
    pair.send(peer, request(1));
    assert_eq!(pair.closed(peer).code, CloseCode::UNEXPECTED);
}

#[test]
fn a_number_is_asked_once_and_an_answer_to_nothing_is_a_violation() {
    for frames in [vec![request(2), request(2)], vec![request(2), request(1)]] {
        let mut pair = Pair::new();
        let peer = guest(&mut pair, Features::REQUESTS);
        pair.send_all(peer, frames);
        assert_eq!(pair.closed(peer).code, CloseCode::UNEXPECTED);
    }
    let mut pair = Pair::new();
    let peer = guest(&mut pair, Features::REQUESTS);
    let outcome = ReplyOutcome::Refused { code: RefusalCode::NO_HANDLER, reason: String::new() };
    pair.send(peer, ClientFrame::Reply(ReplyFrame { id: RequestId(1), outcome }));
    assert_eq!(pair.closed(peer).code, CloseCode::UNEXPECTED);
}

#[test]
fn a_client_that_does_not_read_its_answers_fills_no_memory() {
    let mut pair = Pair::new();
    let peer = guest(&mut pair, Features::REQUESTS);
    pair.stall(peer, true);
    let Request { name, kind, .. } = question("x");
    let large = Bytes::from(vec![0; 200_000]);
    for id in 1..=100 {
        let (name, payload) = (name.clone(), large.clone());
        pair.send(peer, ClientFrame::Request(RequestFrame { id: RequestId(id), name, kind, payload, timeout_ms: 100 }));
    }
    pair.stall(peer, false);
    pair.settle();
    let heard = pair.heard(peer);
    let answered = heard.iter().filter(|heard| {
        matches!(
            heard,
            FromServer::Frame(ServerFrame::Reply(ReplyFrame { outcome: ReplyOutcome::Answered { .. }, .. }))
        )
    });
    let replies = heard.iter().filter(|heard| matches!(heard, FromServer::Frame(ServerFrame::Reply(_)))).count();
    assert_eq!(replies, 100, "each has its answer");
    let answered = answered.count();
    assert!((1..=40).contains(&answered), "{answered} answers were kept for somebody who does not read");
}

#[test]
fn the_app_may_not_ask_without_bound() {
    let mut pair = Pair::new();
    let peer = guest(&mut pair, Features::REQUESTS);
    for ticket in 0..=REQUESTS_IN_FLIGHT_MAX as u64 {
        pair.input(peer, Input::Reply(Reply::Request { ticket: RequestTicket(ticket), request: question("x") }));
    }
    assert_eq!(done(&pair), [(RequestTicket(REQUESTS_IN_FLIGHT_MAX as u64), Err(RequestError::TooMany))]);
}
