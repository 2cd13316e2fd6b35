//! The requests of one session, both ways: what the app asks the client, and what the client asks the app.

use super::outputs::Outputs;
use super::{Output, fault};
use crate::error::Close;
use crate::frame::{Features, Reply, Request, ServerFrame};
use crate::request::{Answer, Answerer, Asker, Question, Refusal, RequestError, RequestTicket, Taken};
use crate::seq::RequestId;
use crate::time::Instant;

/// The requests of a connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Requests {
    asker: Asker,
    answerer: Answerer,
}

impl Requests {
    /// The app asks.
    pub(super) fn ask(
        &mut self,
        ticket: RequestTicket,
        question: Question,
        features: Features,
        now: Instant,
        out: &mut Outputs,
    ) {
        let taken = match features.has(Features::REQUESTS) {
            true => self.asker.ask(ticket, question, now),
            false => Err(RequestError::Unsupported),
        };
        if let Err(error) = taken {
            return out.push(Output::AskDone { ticket, result: Err(error) });
        }
        while let Some(request) = self.asker.next_frame(now) {
            out.send(ServerFrame::Request(request));
        }
    }

    /// The app waits no longer.
    pub(super) fn cancel(&mut self, ticket: RequestTicket) {
        self.asker.cancel(ticket);
    }

    /// The client answers.
    pub(super) fn replied(&mut self, reply: Reply, out: &mut Outputs) -> Result<(), Close> {
        let id = reply.id;
        match self.asker.answered(reply) {
            Ok(Some((ticket, result))) => out.push(Output::AskDone { ticket, result }),
            Ok(None) => {}
            Err(()) => return Err(fault::unexpected(format!("request {id} was answered, but never asked"))),
        }
        Ok(())
    }

    /// The client asks.
    pub(super) fn asked(&mut self, request: Request, bytes_max: usize, out: &mut Outputs) -> Result<(), Close> {
        let id = request.id;
        match self.answerer.take(request, bytes_max) {
            Taken::Ask(id, question) => out.push(Output::Asked { id, question }),
            Taken::Refuse(reply) => out.reply(reply),
            Taken::Nonsense => return Err(fault::unexpected(format!("request {id} was asked before"))),
        }
        Ok(())
    }

    /// The app answers.
    pub(super) fn answered(&mut self, id: RequestId, result: Result<Answer, Refusal>, out: &mut Outputs) {
        if let Some(reply) = self.answerer.answer(id, result) {
            out.reply(reply);
        }
    }

    /// When the next answer is overdue.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.asker.next_due()
    }

    /// Gives up what is overdue.
    pub(super) fn expire(&mut self, now: Instant, out: &mut Outputs) {
        while let Some((ticket, result)) = self.asker.take_due(now) {
            out.push(Output::AskDone { ticket, result });
        }
    }
}
