//! Requests: what the app asks the server's app and waits for, and the handler with which it answers the server's.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use redeliver_protocol::request::{Refusal, Request, RequestTicket, Response};
use tokio::sync::mpsc;

use crate::command::Command;

type Answering = Pin<Box<dyn Future<Output = Result<Response, Refusal>> + Send>>;

/// The app's handler.
pub(crate) type Handler = Arc<dyn Fn(Request) -> Answering + Send + Sync>;

/// A handler of any shape as one.
pub(crate) fn handler<F, A>(handler: F) -> Handler
where
    F: Fn(Request) -> A + Send + Sync + 'static,
    A: Future<Output = Result<Response, Refusal>> + Send + 'static,
{
    Arc::new(move |request| Box::pin(handler(request)))
}

/// Lets the driver forget a request for which nobody waits any more.
pub(crate) struct Forget {
    pub(crate) ticket: RequestTicket,
    pub(crate) commands: mpsc::UnboundedSender<Command>,
    pub(crate) is_asked: bool,
}

impl Drop for Forget {
    fn drop(&mut self) {
        if self.is_asked {
            // A driver that is gone has forgotten it.
            let _ = self.commands.send(Command::CancelRequest { ticket: self.ticket });
        }
    }
}
