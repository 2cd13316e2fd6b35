//! What a client asks and is asked, and the events that it emits without a log: all that lives and dies with one
//! connection.

use super::session::{ClientSession, Timer};
use super::{AskedKey, Output};
use crate::config::Limits;
use crate::error::CloseCode;
use crate::event::NewEvent;
use crate::frame::{ClientFrame, Features, Reply, Request};
use crate::request::{Answer, Answerer, Asker, Outcome, Question, Refusal, RequestError, RequestTicket, Taken};
use crate::time::Instant;

/// The requests of a client.
#[derive(Debug, Default)]
pub(super) struct Requests {
    asker: Asker,
    answerer: Answerer,
    /// Counts the connections, so that an answer never goes to another connection than the question came from.
    connection: u64,
}

impl ClientSession {
    /// Gives an event to whoever is connected now. Without a connection there is nobody.
    pub(super) fn emit_volatile(&mut self, event: NewEvent) {
        if self.can(Features::VOLATILE) && event.check(&Limits::ANY_SERVER).is_ok() {
            self.out.push_back(Output::Send(ClientFrame::Volatile { event }));
        }
    }

    /// The app asks. Without a connection the question waits for one, as long as it has time.
    pub(super) fn ask(&mut self, ticket: RequestTicket, question: Question, now: Instant) {
        let taken = match self.shutting_down {
            true => Err(RequestError::NotSent),
            false => self.requests.asker.ask(ticket, question, now),
        };
        if let Err(error) = taken {
            self.out.push_back(Output::AskDone { ticket, result: Err(error) });
        }
        self.send_requests(now);
    }

    pub(super) fn cancel_ask(&mut self, ticket: RequestTicket) {
        self.requests.asker.cancel(ticket);
        self.time_requests();
    }

    /// Sends what waits, if the server is there and can be asked.
    pub(super) fn send_requests(&mut self, now: Instant) {
        if self.can(Features::REQUESTS) {
            while let Some(request) = self.requests.asker.next_frame(now) {
                self.out.push_back(Output::Send(ClientFrame::Request(request)));
            }
        } else if self.is_welcomed() {
            while let Some(outcome) = self.requests.asker.take_waiting(RequestError::Unsupported) {
                self.ask_done(outcome);
            }
        }
        self.time_requests();
    }

    /// The server answers.
    pub(super) fn replied(&mut self, reply: Reply, now: Instant) {
        match self.requests.asker.answered(reply) {
            Ok(Some(outcome)) => self.ask_done(outcome),
            Ok(None) => {}
            Err(()) => self.drop_connection(CloseCode::Unexpected, "an answer to what was never asked", now),
        }
        self.time_requests();
    }

    /// The server asks.
    pub(super) fn asked(&mut self, request: Request, now: Instant) {
        let connection = self.requests.connection;
        match self.requests.answerer.take(request, usize::MAX) {
            Taken::Ask(id, question) => {
                self.out.push_back(Output::Asked { key: AskedKey { connection, id }, question });
            }
            Taken::Refuse(reply) => self.out.push_back(Output::Send(ClientFrame::Reply(reply))),
            Taken::Nonsense => self.drop_connection(CloseCode::Unexpected, "a request came twice", now),
        }
    }

    /// The app answers. If the connection is gone on which it was asked, nobody waits.
    pub(super) fn answered(&mut self, key: AskedKey, result: Result<Answer, Refusal>) {
        if key.connection == self.requests.connection
            && let Some(reply) = self.requests.answerer.answer(key.id, result)
        {
            self.out.push_back(Output::Send(ClientFrame::Reply(reply)));
        }
    }

    /// The connection is gone, and with it what was asked on it, both ways.
    pub(super) fn requests_gone(&mut self) {
        self.requests.answerer = Answerer::default();
        self.requests.connection += 1;
        while let Some(outcome) = self.requests.asker.take_gone() {
            self.ask_done(outcome);
        }
        self.time_requests();
    }

    /// The client ends.
    pub(super) fn requests_end(&mut self) {
        self.requests_gone();
        while let Some(outcome) = self.requests.asker.take_waiting(RequestError::NotSent) {
            self.ask_done(outcome);
        }
    }

    /// Some question's time may be over.
    pub(super) fn requests_due(&mut self, now: Instant) {
        while let Some(outcome) = self.requests.asker.take_due(now) {
            self.ask_done(outcome);
        }
        self.time_requests();
    }

    /// Whether the present connection has this feature.
    pub(super) fn can(&self, feature: Features) -> bool {
        self.is_welcomed() && self.features.has(feature)
    }

    fn ask_done(&mut self, (ticket, result): Outcome) {
        self.out.push_back(Output::AskDone { ticket, result });
    }

    fn time_requests(&mut self) {
        match self.requests.asker.next_due() {
            Some(due) => self.timers.set(Timer::Requests, due),
            None => self.timers.clear(Timer::Requests),
        }
    }
}
