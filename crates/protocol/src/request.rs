//! Requests with answers: what either side may ask the other's app, and the two machines that keep count of it.
//!
//! A request is asked at most once, on one connection, and never again: what becomes of it when the connection breaks is
//! told to the requester, who decides. Both machines are bounded, in number and in bytes, and hold no clock.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use crate::error::RefusalCode;
use crate::event::PayloadKind;
use crate::frame::{ReplyFrame, ReplyOutcome, RequestFrame};
use crate::limits::{EVENT_BYTES_MAX, REQUEST_BYTES_IN_FLIGHT_MAX, REQUESTS_IN_FLIGHT_MAX};
use crate::name::EventName;
use crate::payload::{Payload, readable_payload};
use crate::seq::RequestId;
use crate::time::Instant;

/// The shell's own number for a request that it asks, by which its answer is found again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestTicket(pub u64);

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Request {
    /// What is asked for.
    pub name: EventName,
    /// What the payload's bytes are.
    pub kind: PayloadKind,
    /// The payload.
    pub payload: Bytes,
    /// How long the requester waits. 1 ms to [`REQUEST_TIMEOUT_MAX`]; what is outside counts as the nearest of these.
    pub timeout: Duration,
}

/// An answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Response {
    /// What the payload's bytes are.
    pub kind: PayloadKind,
    /// The payload.
    pub payload: Bytes,
}

readable_payload!(Request);
readable_payload!(Response);

impl Request {
    /// Returns a request of this name and payload, whose answer is waited for so long.
    #[must_use]
    pub fn new(name: EventName, kind: PayloadKind, payload: Bytes, timeout: Duration) -> Request {
        Request { name, kind, payload, timeout }
    }
}

impl Response {
    /// Returns a response of this payload.
    #[must_use]
    pub fn new(kind: PayloadKind, payload: Bytes) -> Response {
        Response { kind, payload }
    }
}

impl From<Payload> for Response {
    fn from(payload: Payload) -> Response {
        Response { kind: payload.kind, payload: payload.bytes }
    }
}

/// Why a request has no answer although it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    /// Why.
    pub code: RefusalCode,
    /// Why, for a person. What is longer than [`crate::limits::REASON_BYTES_MAX`] is cut.
    pub reason: String,
}

impl Refusal {
    /// Returns the refusal of an app that declines to answer, for this reason.
    #[must_use]
    pub fn declined(reason: impl Into<String>) -> Refusal {
        Refusal { code: RefusalCode::DECLINED, reason: reason.into() }
    }

    /// Returns a refusal with a reason in words.
    #[must_use]
    pub fn new(code: RefusalCode, reason: impl Into<String>) -> Refusal {
        Refusal { code, reason: reason.into() }
    }

    /// Returns a refusal that says no more than its code.
    #[must_use]
    pub fn of(code: RefusalCode) -> Refusal {
        Refusal { code, reason: code.description().to_owned() }
    }
}

/// A code and what was said with it, without saying anything twice.
fn refusal_words(code: RefusalCode, reason: &str) -> String {
    match reason {
        "" => code.to_string(),
        _ if reason == code.description() => code.to_string(),
        _ if code == RefusalCode::DECLINED => format!("the app declined: {reason}"),
        _ => format!("{code}: {reason}"),
    }
}

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// No answer came in time. The request may have been handled.
    #[error("no answer came in time")]
    Timeout,
    /// The connection ended before the answer came. The request may have been handled; it is not asked again.
    #[error("the connection ended before the answer came")]
    Gone,
    /// The request could not be asked in time: there was no connection. It was not handled.
    #[error("there was no connection in time to ask on")]
    NotSent,
    /// The peer refused the request.
    #[error("the request was refused: {}", refusal_words(*code, reason))]
    Refused {
        /// Why.
        code: RefusalCode,
        /// Why, for a person.
        reason: String,
    },
    /// Nobody answers requests there. The request was not handled.
    #[error("nobody answers requests there")]
    NoHandler,
    /// As many requests as may be wait for their answers already. It was not sent.
    #[error("too many requests wait for their answers")]
    TooMany,
    /// The peer has no requests. The request was not sent.
    #[error("the peer is too old for requests")]
    Unsupported,
    /// The request is larger than an event may be, or its name is none. It was not sent.
    #[error("the request is not valid: {0}")]
    Invalid(String),
}

impl RequestError {
    /// Whether the request may have been handled all the same.
    #[must_use]
    pub fn may_have_been_handled(&self) -> bool {
        match self {
            RequestError::Timeout | RequestError::Gone => true,
            RequestError::Refused { code, .. } => {
                *code == RefusalCode::DECLINED || *code == RefusalCode::ANSWER_TOO_LARGE
            }
            RequestError::NotSent
            | RequestError::NoHandler
            | RequestError::TooMany
            | RequestError::Unsupported
            | RequestError::Invalid(_) => false,
        }
    }

    /// Whether asking the same again may get an answer. It may also be handled twice then, if
    /// [`may_have_been_handled`](RequestError::may_have_been_handled).
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            RequestError::Timeout | RequestError::Gone | RequestError::NotSent | RequestError::TooMany => true,
            RequestError::Refused { code, .. } => !code.is_final(),
            RequestError::NoHandler | RequestError::Unsupported | RequestError::Invalid(_) => false,
        }
    }
}

/// The requests of this side that have no answer yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Requester {
    entries: VecDeque<Entry>,
    bytes: usize,
    last: RequestId,
}

#[derive(Clone, Debug)]
struct Entry {
    ticket: RequestTicket,
    due: Instant,
    bytes: usize,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    Waiting(Request),
    Asked(RequestId),
}

/// What became of a request.
pub(crate) type Outcome = (RequestTicket, Result<Response, RequestError>);

impl Requester {
    /// Takes a request, to be asked as soon as there is somebody to ask.
    pub(crate) fn ask(&mut self, ticket: RequestTicket, request: Request, now: Instant) -> Result<(), RequestError> {
        let bytes = request.name.as_str().len() + request.payload.len();
        if bytes > EVENT_BYTES_MAX {
            return Err(RequestError::Invalid(format!("it has {bytes} bytes, at most {EVENT_BYTES_MAX} are allowed")));
        }
        let has_room = self.entries.len() < REQUESTS_IN_FLIGHT_MAX
            && self.bytes.saturating_add(bytes) <= REQUEST_BYTES_IN_FLIGHT_MAX;
        if !has_room && !self.entries.is_empty() {
            return Err(RequestError::TooMany);
        }
        let due = now + request.timeout.clamp(REQUEST_TIMEOUT_MIN, REQUEST_TIMEOUT_MAX);
        self.bytes += bytes;
        self.entries.push_back(Entry { ticket, due, bytes, state: State::Waiting(request) });
        Ok(())
    }

    /// The next request to send.
    pub(crate) fn next_frame(&mut self, now: Instant) -> Option<RequestFrame> {
        let entry = self.entries.iter_mut().find(|entry| matches!(entry.state, State::Waiting(_)))?;
        self.last = RequestId(self.last.0 + 1);
        let State::Waiting(request) = std::mem::replace(&mut entry.state, State::Asked(self.last)) else {
            return None;
        };
        let left = entry.due.since(now).max(REQUEST_TIMEOUT_MIN);
        Some(RequestFrame {
            id: self.last,
            name: request.name,
            kind: request.kind,
            payload: request.payload,
            timeout_ms: u32::try_from(left.as_millis()).unwrap_or(u32::MAX),
        })
    }

    /// Takes an answer. `Err` if nothing was ever asked under its number; none if nobody waits for it any more.
    pub(crate) fn answered(&mut self, reply: ReplyFrame) -> Result<Option<Outcome>, ()> {
        if reply.id > self.last {
            return Err(());
        }
        let is_it = |entry: &Entry| matches!(entry.state, State::Asked(id) if id == reply.id);
        let Some(at) = self.entries.iter().position(is_it) else { return Ok(None) };
        Ok(self.remove(at).map(|ticket| (ticket, result_of(reply.outcome))))
    }

    /// Nobody waits for this one any more.
    pub(crate) fn cancel(&mut self, ticket: RequestTicket) {
        if let Some(at) = self.entries.iter().position(|entry| entry.ticket == ticket) {
            self.remove(at);
        }
    }

    /// When the next one is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.entries.iter().map(|entry| entry.due).min()
    }

    /// Takes out the next one whose time is over.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<Outcome> {
        let at = self.entries.iter().position(|entry| entry.due <= now)?;
        let why = match self.entries.get(at)?.state {
            State::Waiting(_) => RequestError::NotSent,
            State::Asked(_) => RequestError::Timeout,
        };
        self.remove(at).map(|ticket| (ticket, Err(why)))
    }

    /// The connection is gone: takes out the next one that was asked on it.
    pub(crate) fn take_gone(&mut self) -> Option<Outcome> {
        let at = self.entries.iter().position(|entry| matches!(entry.state, State::Asked(_)))?;
        self.remove(at).map(|ticket| (ticket, Err(RequestError::Gone)))
    }

    /// Takes out the next one that was not sent, with this error.
    pub(crate) fn take_waiting(&mut self, why: RequestError) -> Option<Outcome> {
        let at = self.entries.iter().position(|entry| matches!(entry.state, State::Waiting(_)))?;
        self.remove(at).map(|ticket| (ticket, Err(why)))
    }

    fn remove(&mut self, at: usize) -> Option<RequestTicket> {
        let entry = self.entries.remove(at)?;
        self.bytes -= entry.bytes;
        Some(entry.ticket)
    }
}

/// The requests of the peer that this side has not answered yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Responder {
    last: RequestId,
    open: BTreeMap<RequestId, usize>,
    bytes: usize,
}

/// What is to be done with a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It goes to the app.
    Request(RequestId, Request),
    /// It is answered at once.
    Refuse(ReplyFrame),
    /// Its number cannot be: the peer has made a mistake.
    Nonsense,
}

impl Responder {
    /// Takes a request.
    pub(crate) fn take(&mut self, request: RequestFrame, bytes_max: usize) -> Taken {
        let RequestFrame { id, name, kind, payload, timeout_ms } = request;
        if id <= self.last {
            return Taken::Nonsense;
        }
        self.last = id;
        let bytes = name.as_str().len() + payload.len();
        if bytes > bytes_max {
            return Taken::Refuse(refused(id, Refusal::of(RefusalCode::TOO_LARGE)));
        }
        let has_room =
            self.open.len() < REQUESTS_IN_FLIGHT_MAX && self.bytes.saturating_add(bytes) <= REQUEST_BYTES_IN_FLIGHT_MAX;
        if !has_room && !self.open.is_empty() {
            return Taken::Refuse(refused(id, Refusal::of(RefusalCode::OVERLOADED)));
        }
        self.open.insert(id, bytes);
        self.bytes += bytes;
        let timeout = Duration::from_millis(u64::from(timeout_ms)).clamp(REQUEST_TIMEOUT_MIN, REQUEST_TIMEOUT_MAX);
        Taken::Request(id, Request { name, kind, payload, timeout })
    }

    /// The app's answer as a frame; none if this was answered already.
    pub(crate) fn answer(&mut self, id: RequestId, result: Result<Response, Refusal>) -> Option<ReplyFrame> {
        self.bytes -= self.open.remove(&id)?;
        Some(match result {
            Ok(answer) if answer.payload.len() > EVENT_BYTES_MAX => {
                refused(id, Refusal::of(RefusalCode::ANSWER_TOO_LARGE))
            }
            Ok(Response { kind, payload }) => ReplyFrame { id, outcome: ReplyOutcome::Answered { kind, payload } },
            Err(refusal) => refused(id, refusal),
        })
    }
}

pub(crate) fn refused(id: RequestId, refusal: Refusal) -> ReplyFrame {
    let Refusal { code, mut reason } = refusal;
    let mut end = reason.len().min(crate::limits::REASON_BYTES_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason.truncate(end);
    ReplyFrame { id, outcome: ReplyOutcome::Refused { code, reason } }
}

fn result_of(outcome: ReplyOutcome) -> Result<Response, RequestError> {
    match outcome {
        ReplyOutcome::Answered { kind, payload } => Ok(Response { kind, payload }),
        ReplyOutcome::Refused { code: RefusalCode::NO_HANDLER, .. } => Err(RequestError::NoHandler),
        ReplyOutcome::Refused { code, reason } => Err(RequestError::Refused { code, reason }),
    }
}

const REQUEST_TIMEOUT_MIN: Duration = Duration::from_millis(1);

/// The longest time that a requester waits for an answer.
pub const REQUEST_TIMEOUT_MAX: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Instant = Instant::ORIGIN;

    fn request(bytes: usize) -> Request {
        let timeout = Duration::from_secs(1);
        let name = EventName::new("q").unwrap();
        Request { name, kind: PayloadKind::Bytes, payload: vec![0; bytes].into(), timeout }
    }

    fn answered(id: u64) -> ReplyFrame {
        let outcome = ReplyOutcome::Answered { kind: PayloadKind::Text, payload: Bytes::from_static(b"a") };
        ReplyFrame { id: RequestId(id), outcome }
    }

    #[test]
    fn an_answer_finds_its_request_once_and_late_ones_are_dropped() {
        let mut requester = Requester::default();
        for ticket in 0..3 {
            requester.ask(RequestTicket(ticket), request(1), NOW).unwrap();
        }
        let sent: Vec<_> = std::iter::from_fn(|| requester.next_frame(NOW)).map(|request| request.id.0).collect();
        assert_eq!(sent, [1, 2, 3]);
        assert!(matches!(requester.answered(answered(2)), Ok(Some((RequestTicket(1), Ok(_))))));
        assert_eq!(requester.answered(answered(2)), Ok(None));
        requester.cancel(RequestTicket(0));
        assert_eq!(requester.answered(answered(1)), Ok(None));
        assert_eq!(requester.answered(answered(4)), Err(()));
    }

    #[test]
    fn a_request_whose_time_is_over_says_whether_it_was_asked() {
        let mut requester = Requester::default();
        requester.ask(RequestTicket(1), request(1), NOW).unwrap();
        let sent = requester.next_frame(NOW + Duration::from_millis(400)).unwrap();
        assert_eq!(sent.timeout_ms, 600);
        requester.ask(RequestTicket(2), request(1), NOW).unwrap();
        let due = requester.next_due().unwrap();
        assert_eq!(due, NOW + Duration::from_secs(1));
        assert_eq!(requester.take_due(NOW + Duration::from_millis(999)), None);
        assert_eq!(requester.take_due(due), Some((RequestTicket(1), Err(RequestError::Timeout))));
        assert_eq!(requester.take_due(due), Some((RequestTicket(2), Err(RequestError::NotSent))));
        assert_eq!(requester.next_due(), None);
    }

    #[test]
    fn a_lost_connection_takes_what_was_asked_on_it_and_nothing_else() {
        let mut requester = Requester::default();
        requester.ask(RequestTicket(1), request(1), NOW).unwrap();
        requester.next_frame(NOW).unwrap();
        requester.ask(RequestTicket(2), request(1), NOW).unwrap();
        assert_eq!(requester.take_gone(), Some((RequestTicket(1), Err(RequestError::Gone))));
        assert_eq!(requester.take_gone(), None);
        assert_eq!(requester.next_frame(NOW).map(|request| request.id), Some(RequestId(2)));
    }

    #[test]
    fn both_machines_are_bounded_and_let_one_of_any_size_through() {
        let mut requester = Requester::default();
        requester.ask(RequestTicket(0), request(EVENT_BYTES_MAX - 1), NOW).unwrap();
        assert!(matches!(
            requester.ask(RequestTicket(1), request(EVENT_BYTES_MAX), NOW),
            Err(RequestError::Invalid(_))
        ));
        let taken = (1..1000).take_while(|ticket| requester.ask(RequestTicket(*ticket), request(1), NOW).is_ok());
        assert_eq!(taken.count(), REQUESTS_IN_FLIGHT_MAX - 1);

        let mut responder = Responder::default();
        let request = |id, bytes| {
            let Request { name, kind, payload, .. } = request(bytes);
            RequestFrame { id: RequestId(id), name, kind, payload, timeout_ms: 1 }
        };
        let large = REQUEST_BYTES_IN_FLIGHT_MAX;
        assert!(matches!(responder.take(request(1, large), usize::MAX), Taken::Request(..)));
        assert!(matches!(responder.take(request(2, 1), usize::MAX), Taken::Refuse(_)));
        assert!(matches!(responder.take(request(2, 1), usize::MAX), Taken::Nonsense));
        assert!(responder.answer(RequestId(1), Ok(Response::default())).is_some());
        assert!(responder.answer(RequestId(1), Ok(Response::default())).is_none());
        assert!(matches!(responder.take(request(3, 1), usize::MAX), Taken::Request(..)));
        assert!(matches!(responder.take(request(4, 10), 5), Taken::Refuse(_)));
    }

    #[test]
    fn an_answer_that_cannot_be_carried_is_told_as_that() {
        let mut responder = Responder::default();
        let Request { name, kind, payload, .. } = request(1);
        responder.take(RequestFrame { id: RequestId(1), name, kind, payload, timeout_ms: 1 }, 10);
        let answer = Response { kind, payload: vec![0; EVENT_BYTES_MAX + 1].into() };
        let reply = responder.answer(RequestId(1), Ok(answer)).unwrap();
        assert!(matches!(reply.outcome, ReplyOutcome::Refused { code: RefusalCode::ANSWER_TOO_LARGE, .. }));
    }
}
