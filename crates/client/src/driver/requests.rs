//! Requests under way: who waits for the server's answers, and the app's handler at work on the server's requests.

use std::collections::HashMap;

use redeliver_protocol::client::{Input, RequestKey};
use redeliver_protocol::error::RefusalCode;
use redeliver_protocol::request::{Refusal, Request, RequestError, RequestTicket, Response};
use tokio::sync::oneshot;
use tokio::task::{Id, JoinSet};

use crate::request::Handler;

/// Invariant: bounded by the session, which takes so many requests and no more, both ways.
pub(super) struct Requests {
    waiting: HashMap<RequestTicket, oneshot::Sender<Result<Response, RequestError>>>,
    handler: Option<Handler>,
    running: JoinSet<Result<Response, Refusal>>,
    keys: HashMap<Id, RequestKey>,
}

impl Requests {
    pub(super) fn new(handler: Option<Handler>) -> Requests {
        Requests { waiting: HashMap::new(), handler, running: JoinSet::new(), keys: HashMap::new() }
    }

    pub(super) fn add(&mut self, ticket: RequestTicket, answer: oneshot::Sender<Result<Response, RequestError>>) {
        self.waiting.insert(ticket, answer);
    }

    pub(super) fn cancel(&mut self, ticket: RequestTicket) {
        self.waiting.remove(&ticket);
    }

    pub(super) fn done(&mut self, ticket: RequestTicket, result: Result<Response, RequestError>) {
        if let Some(answer) = self.waiting.remove(&ticket) {
            // Nobody may be waiting any more.
            let _ = answer.send(result);
        }
    }

    /// The server asks. What can be answered at once is.
    pub(super) fn asked(&mut self, key: RequestKey, request: Request) -> Option<Input> {
        let Some(handler) = self.handler.clone() else {
            return Some(Input::Respond { key, result: Err(Refusal::of(RefusalCode::NO_HANDLER)) });
        };
        let timeout = request.timeout;
        // The handler is called within the task: what panics in there ends nothing else.
        let task = self.running.spawn(async move {
            let answering = async { handler(request).await };
            let late = || Err(Refusal::declined("the app took too long to answer"));
            tokio::time::timeout(timeout, answering).await.unwrap_or_else(|_| late())
        });
        self.keys.insert(task.id(), key);
        None
    }

    /// The next answer of the app's. Waits for ever while nothing is asked. Cancel safe.
    pub(super) async fn next(&mut self) -> Input {
        loop {
            let (task, result) = match self.running.join_next_with_id().await {
                Some(Ok((task, result))) => (task, result),
                Some(Err(panic)) => (panic.id(), Err(Refusal::declined("the app has made a mistake"))),
                None => std::future::pending().await,
            };
            if let Some(key) = self.keys.remove(&task) {
                return Input::Respond { key, result };
            }
        }
    }
}
