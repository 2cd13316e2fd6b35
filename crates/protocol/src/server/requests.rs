//! The requests of one session, both ways: what the app asks the client, and what the client asks the app.

use super::outputs::Outputs;
use super::{Output, fault};
use crate::error::Close;
use crate::features::Features;
use crate::frame::{ReplyFrame, RequestFrame, ServerFrame};
use crate::request::{Refusal, Request, RequestError, RequestTicket, Requester, Responder, Response, Taken};
use crate::seq::RequestId;
use crate::time::Instant;

/// The requests of a connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Requests {
    requester: Requester,
    responder: Responder,
}

impl Requests {
    /// The app asks.
    pub(super) fn ask(
        &mut self,
        ticket: RequestTicket,
        request: Request,
        features: Features,
        now: Instant,
        out: &mut Outputs,
    ) {
        let taken = match features.has(Features::REQUESTS) {
            true => self.requester.ask(ticket, request, now),
            false => Err(RequestError::Unsupported),
        };
        if let Err(error) = taken {
            return out.push(Output::RequestDone { ticket, result: Err(error) });
        }
        while let Some(request) = self.requester.next_frame(now) {
            out.send(ServerFrame::Request(request));
        }
    }

    /// The app waits no longer.
    pub(super) fn cancel(&mut self, ticket: RequestTicket) {
        self.requester.cancel(ticket);
    }

    /// The client answers.
    pub(super) fn replied(&mut self, reply: ReplyFrame, out: &mut Outputs) -> Result<(), Close> {
        let id = reply.id;
        match self.requester.answered(reply) {
            Ok(Some((ticket, result))) => out.push(Output::RequestDone { ticket, result }),
            Ok(None) => {}
            Err(()) => return Err(fault::unexpected(format!("request {id} was answered, but never asked"))),
        }
        Ok(())
    }

    /// The client asks.
    pub(super) fn asked(&mut self, request: RequestFrame, bytes_max: usize, out: &mut Outputs) -> Result<(), Close> {
        let id = request.id;
        match self.responder.take(request, bytes_max) {
            Taken::Request(id, request) => out.push(Output::Requested { id, request }),
            Taken::Refuse(reply) => out.reply(reply),
            Taken::Nonsense => return Err(fault::unexpected(format!("request {id} was asked before"))),
        }
        Ok(())
    }

    /// The app answers.
    pub(super) fn answered(&mut self, id: RequestId, result: Result<Response, Refusal>, out: &mut Outputs) {
        if let Some(reply) = self.responder.answer(id, result) {
            out.reply(reply);
        }
    }

    /// When the next answer is overdue.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.requester.next_due()
    }

    /// Gives up what is overdue.
    pub(super) fn expire(&mut self, now: Instant, out: &mut Outputs) {
        while let Some((ticket, result)) = self.requester.take_due(now) {
            out.push(Output::RequestDone { ticket, result });
        }
    }
}
