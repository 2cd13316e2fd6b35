//! Requests with answers: what either side may ask the other's app, and the two machines that keep count of it.
//!
//! A request is asked at most once, on one connection, and never again: what becomes of it when the connection breaks is
//! told to the asker, who decides. Both machines are bounded, in number and in bytes, and hold no clock.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use crate::config::{EVENT_BYTES_MAX, REQUEST_BYTES_IN_FLIGHT_MAX, REQUESTS_IN_FLIGHT_MAX};
use crate::error::RefusalCode;
use crate::event::PayloadKind;
use crate::frame::{Reply, ReplyOutcome, Request};
use crate::name::EventName;
use crate::seq::RequestId;
use crate::time::Instant;

/// The shell's own number for a request that it asks, by which its answer is found again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestTicket(pub u64);

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// What is asked for.
    pub name: EventName,
    /// What the payload's bytes are.
    pub kind: PayloadKind,
    /// The payload.
    pub payload: Bytes,
    /// How long the asker waits. 1 ms to [`REQUEST_TIMEOUT_MAX`]; what is outside counts as the nearest of these.
    pub timeout: Duration,
}

/// An answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// What the payload's bytes are.
    pub kind: PayloadKind,
    /// The payload.
    pub payload: Bytes,
}

/// Why a request has no answer although it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub code: RefusalCode,
    /// Why, for a person. What is longer than [`crate::config::REASON_BYTES_MAX`] is cut.
    pub reason: String,
}

impl Refusal {
    /// The app declines to answer, for this reason.
    #[must_use]
    pub fn declined(reason: impl Into<String>) -> Refusal {
        Refusal { code: RefusalCode::Declined, reason: reason.into() }
    }

    /// A refusal that says no more than its code.
    #[must_use]
    pub fn of(code: RefusalCode) -> Refusal {
        Refusal { code, reason: code.description().to_owned() }
    }
}

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// No answer came in time. It may have been handled.
    #[error("no answer came in time")]
    Timeout,
    /// The connection ended before the answer came. It may have been handled; it is not asked again.
    #[error("the connection ended before the answer came")]
    Gone,
    /// It could not be asked in time: there was no connection. It was not handled.
    #[error("there was no connection in time to ask on")]
    NotSent,
    /// It was refused.
    #[error("the request was refused: {code}: {reason}")]
    Refused {
        /// Why.
        code: RefusalCode,
        /// Why, for a person.
        reason: String,
    },
    /// Nobody answers requests there. It was not handled.
    #[error("nobody answers requests there")]
    NoHandler,
    /// As many requests as may be wait for their answers already. It was not sent.
    #[error("too many requests wait for their answers")]
    TooMany,
    /// The peer has no requests. It was not sent.
    #[error("the peer is too old for requests")]
    Unsupported,
    /// It is larger than an event may be, or its name is none. It was not sent.
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
                *code == RefusalCode::Declined || *code == RefusalCode::AnswerTooLarge
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
pub(crate) struct Asker {
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
    Waiting(Question),
    Asked(RequestId),
}

/// What became of a request.
pub(crate) type Outcome = (RequestTicket, Result<Answer, RequestError>);

impl Asker {
    /// Takes a request, to be asked as soon as there is somebody to ask.
    pub(crate) fn ask(&mut self, ticket: RequestTicket, question: Question, now: Instant) -> Result<(), RequestError> {
        let bytes = question.name.as_str().len() + question.payload.len();
        if bytes > EVENT_BYTES_MAX {
            return Err(RequestError::Invalid(format!("it has {bytes} bytes, at most {EVENT_BYTES_MAX} are allowed")));
        }
        let has_room = self.entries.len() < REQUESTS_IN_FLIGHT_MAX
            && self.bytes.saturating_add(bytes) <= REQUEST_BYTES_IN_FLIGHT_MAX;
        if !has_room && !self.entries.is_empty() {
            return Err(RequestError::TooMany);
        }
        let due = now + question.timeout.clamp(REQUEST_TIMEOUT_MIN, REQUEST_TIMEOUT_MAX);
        self.bytes += bytes;
        self.entries.push_back(Entry { ticket, due, bytes, state: State::Waiting(question) });
        Ok(())
    }

    /// The next request to send.
    pub(crate) fn next_frame(&mut self, now: Instant) -> Option<Request> {
        let entry = self.entries.iter_mut().find(|entry| matches!(entry.state, State::Waiting(_)))?;
        self.last = RequestId(self.last.0 + 1);
        let State::Waiting(question) = std::mem::replace(&mut entry.state, State::Asked(self.last)) else {
            return None;
        };
        let left = entry.due.since(now).max(REQUEST_TIMEOUT_MIN);
        Some(Request {
            id: self.last,
            name: question.name,
            kind: question.kind,
            payload: question.payload,
            timeout_ms: u32::try_from(left.as_millis()).unwrap_or(u32::MAX),
        })
    }

    /// Takes an answer. `Err` if nothing was ever asked under its number; none if nobody waits for it any more.
    pub(crate) fn answered(&mut self, reply: Reply) -> Result<Option<Outcome>, ()> {
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
pub(crate) struct Answerer {
    last: RequestId,
    open: BTreeMap<RequestId, usize>,
    bytes: usize,
}

/// What is to be done with a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It goes to the app.
    Ask(RequestId, Question),
    /// It is answered at once.
    Refuse(Reply),
    /// Its number cannot be: the peer has made a mistake.
    Nonsense,
}

impl Answerer {
    /// Takes a request.
    pub(crate) fn take(&mut self, request: Request, bytes_max: usize) -> Taken {
        let Request { id, name, kind, payload, timeout_ms } = request;
        if id <= self.last {
            return Taken::Nonsense;
        }
        self.last = id;
        let bytes = name.as_str().len() + payload.len();
        if bytes > bytes_max {
            return Taken::Refuse(refused(id, Refusal::of(RefusalCode::TooLarge)));
        }
        let has_room =
            self.open.len() < REQUESTS_IN_FLIGHT_MAX && self.bytes.saturating_add(bytes) <= REQUEST_BYTES_IN_FLIGHT_MAX;
        if !has_room && !self.open.is_empty() {
            return Taken::Refuse(refused(id, Refusal::of(RefusalCode::Overloaded)));
        }
        self.open.insert(id, bytes);
        self.bytes += bytes;
        let timeout = Duration::from_millis(u64::from(timeout_ms)).clamp(REQUEST_TIMEOUT_MIN, REQUEST_TIMEOUT_MAX);
        Taken::Ask(id, Question { name, kind, payload, timeout })
    }

    /// The app's answer as a frame; none if this was answered already.
    pub(crate) fn answer(&mut self, id: RequestId, result: Result<Answer, Refusal>) -> Option<Reply> {
        self.bytes -= self.open.remove(&id)?;
        Some(match result {
            Ok(answer) if answer.payload.len() > EVENT_BYTES_MAX => {
                refused(id, Refusal::of(RefusalCode::AnswerTooLarge))
            }
            Ok(Answer { kind, payload }) => Reply { id, outcome: ReplyOutcome::Answered { kind, payload } },
            Err(refusal) => refused(id, refusal),
        })
    }
}

pub(crate) fn refused(id: RequestId, refusal: Refusal) -> Reply {
    let Refusal { code, mut reason } = refusal;
    let mut end = reason.len().min(crate::config::REASON_BYTES_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason.truncate(end);
    Reply { id, outcome: ReplyOutcome::Refused { code, reason } }
}

fn result_of(outcome: ReplyOutcome) -> Result<Answer, RequestError> {
    match outcome {
        ReplyOutcome::Answered { kind, payload } => Ok(Answer { kind, payload }),
        ReplyOutcome::Refused { code: RefusalCode::NoHandler, .. } => Err(RequestError::NoHandler),
        ReplyOutcome::Refused { code, reason } => Err(RequestError::Refused { code, reason }),
    }
}

const REQUEST_TIMEOUT_MIN: Duration = Duration::from_millis(1);

/// The longest time that an asker waits for an answer.
pub const REQUEST_TIMEOUT_MAX: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Instant = Instant::ORIGIN;

    fn question(bytes: usize) -> Question {
        let timeout = Duration::from_secs(1);
        let name = EventName::new("q").unwrap();
        Question { name, kind: PayloadKind::Bytes, payload: vec![0; bytes].into(), timeout }
    }

    fn answered(id: u64) -> Reply {
        let outcome = ReplyOutcome::Answered { kind: PayloadKind::Text, payload: Bytes::from_static(b"a") };
        Reply { id: RequestId(id), outcome }
    }

    #[test]
    fn an_answer_finds_its_question_once_and_late_ones_are_dropped() {
        let mut asker = Asker::default();
        for ticket in 0..3 {
            asker.ask(RequestTicket(ticket), question(1), NOW).unwrap();
        }
        let sent: Vec<_> = std::iter::from_fn(|| asker.next_frame(NOW)).map(|request| request.id.0).collect();
        assert_eq!(sent, [1, 2, 3]);
        assert!(matches!(asker.answered(answered(2)), Ok(Some((RequestTicket(1), Ok(_))))));
        assert_eq!(asker.answered(answered(2)), Ok(None));
        asker.cancel(RequestTicket(0));
        assert_eq!(asker.answered(answered(1)), Ok(None));
        assert_eq!(asker.answered(answered(4)), Err(()));
    }

    #[test]
    fn a_question_whose_time_is_over_says_whether_it_was_asked() {
        let mut asker = Asker::default();
        asker.ask(RequestTicket(1), question(1), NOW).unwrap();
        let sent = asker.next_frame(NOW + Duration::from_millis(400)).unwrap();
        assert_eq!(sent.timeout_ms, 600);
        asker.ask(RequestTicket(2), question(1), NOW).unwrap();
        let due = asker.next_due().unwrap();
        assert_eq!(due, NOW + Duration::from_secs(1));
        assert_eq!(asker.take_due(NOW + Duration::from_millis(999)), None);
        assert_eq!(asker.take_due(due), Some((RequestTicket(1), Err(RequestError::Timeout))));
        assert_eq!(asker.take_due(due), Some((RequestTicket(2), Err(RequestError::NotSent))));
        assert_eq!(asker.next_due(), None);
    }

    #[test]
    fn a_lost_connection_takes_what_was_asked_on_it_and_nothing_else() {
        let mut asker = Asker::default();
        asker.ask(RequestTicket(1), question(1), NOW).unwrap();
        asker.next_frame(NOW).unwrap();
        asker.ask(RequestTicket(2), question(1), NOW).unwrap();
        assert_eq!(asker.take_gone(), Some((RequestTicket(1), Err(RequestError::Gone))));
        assert_eq!(asker.take_gone(), None);
        assert_eq!(asker.next_frame(NOW).map(|request| request.id), Some(RequestId(2)));
    }

    #[test]
    fn both_machines_are_bounded_and_let_one_of_any_size_through() {
        let mut asker = Asker::default();
        asker.ask(RequestTicket(0), question(EVENT_BYTES_MAX - 1), NOW).unwrap();
        assert!(matches!(asker.ask(RequestTicket(1), question(EVENT_BYTES_MAX), NOW), Err(RequestError::Invalid(_))));
        let taken = (1..1000).take_while(|ticket| asker.ask(RequestTicket(*ticket), question(1), NOW).is_ok());
        assert_eq!(taken.count(), REQUESTS_IN_FLIGHT_MAX - 1);

        let mut answerer = Answerer::default();
        let request = |id, bytes| {
            let Question { name, kind, payload, .. } = question(bytes);
            Request { id: RequestId(id), name, kind, payload, timeout_ms: 1 }
        };
        let large = REQUEST_BYTES_IN_FLIGHT_MAX;
        assert!(matches!(answerer.take(request(1, large), usize::MAX), Taken::Ask(..)));
        assert!(matches!(answerer.take(request(2, 1), usize::MAX), Taken::Refuse(_)));
        assert!(matches!(answerer.take(request(2, 1), usize::MAX), Taken::Nonsense));
        assert!(answerer.answer(RequestId(1), Ok(Answer::default())).is_some());
        assert!(answerer.answer(RequestId(1), Ok(Answer::default())).is_none());
        assert!(matches!(answerer.take(request(3, 1), usize::MAX), Taken::Ask(..)));
        assert!(matches!(answerer.take(request(4, 10), 5), Taken::Refuse(_)));
    }

    #[test]
    fn an_answer_that_cannot_be_carried_is_told_as_that() {
        let mut answerer = Answerer::default();
        let Question { name, kind, payload, .. } = question(1);
        answerer.take(Request { id: RequestId(1), name, kind, payload, timeout_ms: 1 }, 10);
        let answer = Answer { kind, payload: vec![0; EVENT_BYTES_MAX + 1].into() };
        let reply = answerer.answer(RequestId(1), Ok(answer)).unwrap();
        assert!(matches!(reply.outcome, ReplyOutcome::Refused { code: RefusalCode::AnswerTooLarge, .. }));
    }
}
