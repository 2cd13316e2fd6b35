//! Requests with answers, between the app and its clients: the app's handler at work, and who waits for a client's answer.
//! What is asked when, and how much at once, is the sessions' business.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use redeliver_protocol::error::RefusalCode;
use redeliver_protocol::event::PayloadKind;
use redeliver_protocol::limits::REQUESTS_IN_FLIGHT_MAX;
use redeliver_protocol::name::EventName;
use redeliver_protocol::request::{Refusal, Request, RequestError, RequestTicket, Response};
use redeliver_protocol::seq::RequestId;
use redeliver_protocol::server::{ConnectionId, Input, Reply};
use tokio::sync::oneshot;
use tokio::task::{Id, JoinSet};

use crate::access::Identity;
use crate::hub::Hub;

/// A client's request, as the app's handler gets it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClientRequest {
    /// On which connection it came. The app may ask back there: [`Server::request`](crate::Server::request).
    pub connection: ConnectionId,
    /// What is asked for.
    pub name: EventName,
    /// What the payload's bytes are.
    pub kind: PayloadKind,
    /// The payload.
    pub payload: Bytes,
    /// How long the client waits. After that the handler is dropped: nobody listens.
    pub timeout: Duration,
}

type Answering = Pin<Box<dyn Future<Output = Result<Response, Refusal>> + Send>>;

/// The app's handler.
pub(crate) type Handler = Arc<dyn Fn(Identity, ClientRequest) -> Answering + Send + Sync>;

/// A handler of any shape as one.
pub(crate) fn handler<F, A>(handler: F) -> Handler
where
    F: Fn(Identity, ClientRequest) -> A + Send + Sync + 'static,
    A: Future<Output = Result<Response, Refusal>> + Send + 'static,
{
    Arc::new(move |identity, request| Box::pin(handler(identity, request)))
}

/// The handler at work for one connection. Dropped, it is stopped wherever it is. Bounded by the session.
#[derive(Debug, Default)]
pub(crate) struct Handling {
    /// Made by the first request: most readers never ask.
    tasks: Option<Box<Tasks>>,
}

#[derive(Debug, Default)]
struct Tasks {
    running: JoinSet<Result<Response, Refusal>>,
    ids: HashMap<Id, RequestId>,
}

impl Handling {
    /// Sets the handler to work, for as long as the client waits.
    pub(crate) fn begin(&mut self, handler: &Handler, identity: Identity, id: RequestId, request: ClientRequest) {
        let (timeout, handler) = (request.timeout, Arc::clone(handler));
        // The handler is called within the task: what panics in there ends nothing else.
        let answering = async move {
            let answering = async { handler(identity, request).await };
            let late = || Err(Refusal::declined("the app took too long to answer"));
            tokio::time::timeout(timeout, answering).await.unwrap_or_else(|_| late())
        };
        let tasks = self.tasks.get_or_insert_default();
        let task = tasks.running.spawn(answering);
        tasks.ids.insert(task.id(), id);
    }

    /// The next answer. Nothing while nothing is asked.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<(RequestId, Result<Response, Refusal>)> {
        let Some(Tasks { running, ids }) = self.tasks.as_deref_mut() else { return Poll::Pending };
        while let Some(joined) = std::task::ready!(running.poll_join_next_with_id(cx)) {
            let (task, result) = match joined {
                Ok((task, result)) => (task, result),
                Err(panic) => (panic.id(), Err(Refusal::declined("the app has made a mistake"))),
            };
            if let Some(id) = ids.remove(&task) {
                return Poll::Ready((id, result));
            }
        }
        Poll::Pending
    }
}

/// Who waits for clients' answers. Bounded for each connection, here in number and by its session in bytes.
#[derive(Debug, Default)]
pub(crate) struct Asking {
    waiting: Mutex<BTreeMap<ConnectionId, Waiting>>,
    last: AtomicU64,
}

type Waiting = BTreeMap<RequestTicket, oneshot::Sender<Result<Response, RequestError>>>;

impl Asking {
    /// Asks a client. Cancel safe: dropped, nobody waits.
    pub(crate) async fn ask(
        &self,
        hub: &Hub,
        connection: ConnectionId,
        request: Request,
    ) -> Result<Response, RequestError> {
        let ticket = RequestTicket(self.last.fetch_add(1, Ordering::Relaxed) + 1);
        let (sender, answer) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock();
            let of_connection = waiting.entry(connection).or_default();
            if of_connection.len() >= REQUESTS_IN_FLIGHT_MAX {
                return Err(RequestError::TooMany);
            }
            of_connection.insert(ticket, sender);
        }
        let mut guard = Forget { asking: self, hub, connection, ticket, is_asked: false };
        // A connection that is no more has forgotten all who wait, or will not learn of this one.
        if !hub.tell(connection, Input::Reply(Reply::Request { ticket, request })) {
            return Err(RequestError::NotSent);
        }
        guard.is_asked = true;
        let answer = answer.await.unwrap_or(Err(RequestError::Gone));
        guard.is_asked = false;
        answer
    }

    /// A client has answered, or its session has given up.
    pub(crate) fn done(&self, connection: ConnectionId, ticket: RequestTicket, result: Result<Response, RequestError>) {
        if let Some(sender) = self.remove(connection, ticket) {
            // Nobody may be waiting any more.
            let _ = sender.send(result);
        }
    }

    /// A connection has ended, and has left the hub: whoever waits for it learns that.
    pub(crate) fn gone(&self, connection: ConnectionId) {
        self.waiting.lock().remove(&connection);
    }

    fn remove(
        &self,
        connection: ConnectionId,
        ticket: RequestTicket,
    ) -> Option<oneshot::Sender<Result<Response, RequestError>>> {
        let mut waiting = self.waiting.lock();
        let of_connection = waiting.get_mut(&connection)?;
        let sender = of_connection.remove(&ticket);
        if of_connection.is_empty() {
            waiting.remove(&connection);
        }
        sender
    }
}

/// Forgets who waited, and lets the session forget the request if it has it.
struct Forget<'a> {
    asking: &'a Asking,
    hub: &'a Hub,
    connection: ConnectionId,
    ticket: RequestTicket,
    is_asked: bool,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.asking.remove(self.connection, self.ticket);
        if self.is_asked {
            self.hub.tell(self.connection, Input::Reply(Reply::CancelRequest { ticket: self.ticket }));
        }
    }
}

/// What a client is told that asks a server without a handler.
pub(crate) fn no_handler() -> Refusal {
    Refusal::of(RefusalCode::NO_HANDLER)
}
