//! What a client asks and is asked, and the events that it emits without a log: all that lives and dies with one
//! connection.

use super::session::{ClientSession, Timer};
use super::{Output, RequestKey};
use crate::error::CloseCode;
use crate::event::NewEvent;
use crate::features::Features;
use crate::frame::{ClientFrame, ReplyFrame, RequestFrame};
use crate::limits::Limits;
use crate::request::{Outcome, Refusal, Request, RequestError, RequestTicket, Requester, Responder, Response, Taken};
use crate::time::Instant;

/// The requests of a client.
#[derive(Debug, Default)]
pub(super) struct Requests {
    requester: Requester,
    responder: Responder,
    /// Counts the connections, so that an answer never goes to another connection than the request came from.
    connection: u64,
}

impl ClientSession {
    /// Gives an event to whoever is connected now. Without a connection there is nobody.
    pub(super) fn emit_volatile(&mut self, event: NewEvent) {
        if self.can(Features::VOLATILE) && event.check(&Limits::ANY_SERVER).is_ok() {
            self.out.push_back(Output::Send(ClientFrame::Volatile { event }));
        }
    }

    /// The app asks. Without a connection the request waits for one, as long as it has time.
    pub(super) fn ask(&mut self, ticket: RequestTicket, request: Request, now: Instant) {
        let taken = match self.shutting_down {
            true => Err(RequestError::NotSent),
            false => self.requests.requester.ask(ticket, request, now),
        };
        if let Err(error) = taken {
            self.out.push_back(Output::RequestDone { ticket, result: Err(error) });
        }
        self.send_requests(now);
    }

    pub(super) fn cancel_ask(&mut self, ticket: RequestTicket) {
        self.requests.requester.cancel(ticket);
        self.time_requests();
    }

    /// Sends what waits, if the server is there and can be asked.
    pub(super) fn send_requests(&mut self, now: Instant) {
        if self.can(Features::REQUESTS) {
            while let Some(request) = self.requests.requester.next_frame(now) {
                self.out.push_back(Output::Send(ClientFrame::Request(request)));
            }
        } else if self.is_welcomed() {
            while let Some(outcome) = self.requests.requester.take_waiting(RequestError::Unsupported) {
                self.ask_done(outcome);
            }
        }
        self.time_requests();
    }

    /// The server answers.
    pub(super) fn replied(&mut self, reply: ReplyFrame, now: Instant) {
        match self.requests.requester.answered(reply) {
            Ok(Some(outcome)) => self.ask_done(outcome),
            Ok(None) => {}
            Err(()) => self.drop_connection(CloseCode::Unexpected, "an answer to what was never asked", now),
        }
        self.time_requests();
    }

    /// The server asks.
    pub(super) fn asked(&mut self, request: RequestFrame, now: Instant) {
        let connection = self.requests.connection;
        match self.requests.responder.take(request, usize::MAX) {
            Taken::Request(id, request) => {
                self.out.push_back(Output::Requested { key: RequestKey { connection, id }, request });
            }
            Taken::Refuse(reply) => self.out.push_back(Output::Send(ClientFrame::Reply(reply))),
            Taken::Nonsense => self.drop_connection(CloseCode::Unexpected, "a request came twice", now),
        }
    }

    /// The app answers. If the connection is gone on which it was asked, nobody waits.
    pub(super) fn answered(&mut self, key: RequestKey, result: Result<Response, Refusal>) {
        if key.connection == self.requests.connection
            && let Some(reply) = self.requests.responder.answer(key.id, result)
        {
            self.out.push_back(Output::Send(ClientFrame::Reply(reply)));
        }
    }

    /// The connection is gone, and with it what was asked on it, both ways.
    pub(super) fn requests_gone(&mut self) {
        self.requests.responder = Responder::default();
        self.requests.connection += 1;
        while let Some(outcome) = self.requests.requester.take_gone() {
            self.ask_done(outcome);
        }
        self.time_requests();
    }

    /// The client ends.
    pub(super) fn requests_end(&mut self) {
        self.requests_gone();
        while let Some(outcome) = self.requests.requester.take_waiting(RequestError::NotSent) {
            self.ask_done(outcome);
        }
    }

    /// Some request's time may be over.
    pub(super) fn requests_due(&mut self, now: Instant) {
        while let Some(outcome) = self.requests.requester.take_due(now) {
            self.ask_done(outcome);
        }
        self.time_requests();
    }

    /// Whether the present connection has this feature.
    pub(super) fn can(&self, feature: Features) -> bool {
        self.is_welcomed() && self.features.has(feature)
    }

    fn ask_done(&mut self, (ticket, result): Outcome) {
        self.out.push_back(Output::RequestDone { ticket, result });
    }

    fn time_requests(&mut self) {
        match self.requests.requester.next_due() {
            Some(due) => self.timers.set(Timer::Requests, due),
            None => self.timers.clear(Timer::Requests),
        }
    }
}
