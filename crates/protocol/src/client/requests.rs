//! What a client asks and is asked: all that lives and dies with one connection. Holds no clock.

use super::connection::Connection;
use super::fault::Fault;
use super::outputs::{Outputs, Timer};
use super::{Output, RequestKey};
use crate::features::Features;
use crate::frame::{ClientFrame, ReplyFrame, RequestFrame};
use crate::request::{Outcome, Refusal, Request, RequestError, RequestTicket, Requester, Responder, Response, Taken};
use crate::time::Instant;

/// The requests of a client, both ways.
#[derive(Debug, Default)]
pub(super) struct Requests {
    requester: Requester,
    responder: Responder,
    /// Counts the connections, so that an answer never goes to another connection than the request came from.
    connection: u64,
    /// The app asks no more: the client is shutting down.
    closed: bool,
}

impl Requests {
    /// The app asks. Without a connection the request waits for one, as long as it has time.
    pub(super) fn request(&mut self, ticket: RequestTicket, request: Request, now: Instant, out: &mut Outputs) {
        let taken = match self.closed {
            true => Err(RequestError::NotSent),
            false => self.requester.ask(ticket, request, now),
        };
        if let Err(error) = taken {
            out.push(Output::RequestDone { ticket, result: Err(error) });
        }
    }

    pub(super) fn cancel(&mut self, ticket: RequestTicket, out: &mut Outputs) {
        self.requester.cancel(ticket);
        self.set_timer(out);
    }

    /// The app asks no more.
    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    /// Sends what waits, if the server is there and can be asked.
    pub(super) fn send(&mut self, connection: &Connection, now: Instant, out: &mut Outputs) {
        if connection.can(Features::REQUESTS) {
            while let Some(request) = self.requester.next_frame(now) {
                out.send(ClientFrame::Request(request));
            }
        } else if connection.is_welcomed() {
            while let Some(outcome) = self.requester.take_waiting(RequestError::Unsupported) {
                done(outcome, out);
            }
        }
        self.set_timer(out);
    }

    /// The server answers.
    pub(super) fn replied(&mut self, reply: ReplyFrame, out: &mut Outputs) -> Result<(), Fault> {
        let outcome =
            self.requester.answered(reply).map_err(|()| Fault::unexpected("an answer to what was never asked"))?;
        if let Some(outcome) = outcome {
            done(outcome, out);
        }
        self.set_timer(out);
        Ok(())
    }

    /// The server asks.
    pub(super) fn requested(&mut self, request: RequestFrame, out: &mut Outputs) -> Result<(), Fault> {
        match self.responder.take(request, usize::MAX) {
            Taken::Request(id, request) => {
                out.push(Output::Requested { key: RequestKey { connection: self.connection, id }, request });
            }
            Taken::Refuse(reply) => out.send(ClientFrame::Reply(reply)),
            Taken::Nonsense => return Err(Fault::unexpected("a request came twice")),
        }
        Ok(())
    }

    /// The app answers. If the connection is gone on which it was asked, nobody waits.
    pub(super) fn respond(&mut self, key: RequestKey, result: Result<Response, Refusal>, out: &mut Outputs) {
        if key.connection == self.connection
            && let Some(reply) = self.responder.answer(key.id, result)
        {
            out.send(ClientFrame::Reply(reply));
        }
    }

    /// The connection is gone, and with it what was asked on it, both ways.
    pub(super) fn disconnected(&mut self, out: &mut Outputs) {
        self.responder = Responder::default();
        self.connection += 1;
        while let Some(outcome) = self.requester.take_gone() {
            done(outcome, out);
        }
        self.set_timer(out);
    }

    /// The client has ended.
    pub(super) fn end(&mut self, out: &mut Outputs) {
        self.disconnected(out);
        while let Some(outcome) = self.requester.take_waiting(RequestError::NotSent) {
            done(outcome, out);
        }
        self.set_timer(out);
    }

    /// Some request's time may be over.
    pub(super) fn expire(&mut self, now: Instant, out: &mut Outputs) {
        while let Some(outcome) = self.requester.take_due(now) {
            done(outcome, out);
        }
        self.set_timer(out);
    }

    fn set_timer(&self, out: &mut Outputs) {
        match self.requester.next_due() {
            Some(due) => out.set_timer(Timer::Requests, due),
            None => out.clear_timer(Timer::Requests),
        }
    }
}

fn done((ticket, result): Outcome, out: &mut Outputs) {
    out.push(Output::RequestDone { ticket, result });
}
