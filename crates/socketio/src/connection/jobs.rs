//! Runs the app's handlers of one socket: one after another, but for those that the app lets run side by side. A handler
//! that panics takes nothing with it.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::task::Poll;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tracing::error;

use crate::handlers::Start;
use crate::namespace::ConnectionHandler;
use crate::socket::{DisconnectReason, Incoming, Socket};

/// What the app is to be told of.
pub(crate) enum Job {
    /// The socket is connected.
    Connection(Socket, Vec<ConnectionHandler>),
    /// The client has emitted an event.
    Event(Incoming),
    /// The socket is disconnected, for this reason.
    Disconnect(Socket, DisconnectReason),
}

/// The jobs of one socket.
#[derive(Default)]
pub(crate) struct Jobs {
    /// Nothing behind this one begins before it has ended.
    running: Option<BoxFuture<'static, ()>>,
    /// What the app lets run beside others.
    beside: FuturesUnordered<BoxFuture<'static, ()>>,
    waiting: VecDeque<Job>,
    /// Size of the arguments of what waits, in bytes.
    waiting_bytes: usize,
}

impl Jobs {
    pub(crate) fn push(&mut self, job: Job) {
        self.waiting_bytes += job.bytes();
        self.waiting.push_back(job);
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The size of the arguments of what waits, in bytes.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Starts the next jobs, as many as may run now.
    pub(crate) fn start(&mut self) {
        while self.running.is_none()
            && let Some(job) = self.waiting.pop_front()
        {
            let bytes = job.bytes();
            match begin(job, self.beside.is_empty()) {
                Begun::Nothing => {}
                Begun::Alone(running) => self.running = Some(running),
                Begun::Beside(running) => self.beside.push(running),
                Begun::Later(job) => {
                    self.waiting.push_front(job);
                    return;
                }
            }
            self.waiting_bytes -= bytes;
        }
    }

    /// Waits until a running job is done; for ever if there is none. Cancel safe.
    pub(crate) async fn done(&mut self) {
        let Jobs { running, beside, .. } = self;
        poll_fn(|cx| {
            if let Some(job) = running
                && job.poll_unpin(cx).is_ready()
            {
                *running = None;
                return Poll::Ready(());
            }
            match beside.poll_next_unpin(cx) {
                Poll::Ready(Some(())) => Poll::Ready(()),
                Poll::Ready(None) | Poll::Pending => Poll::Pending,
            }
        })
        .await;
    }

    /// Does all that is left.
    pub(crate) async fn finish(mut self) {
        self.start();
        while self.running.is_some() || !self.beside.is_empty() {
            self.done().await;
            self.start();
        }
    }
}

impl Job {
    /// The size of what a client has sent with it, in bytes.
    fn bytes(&self) -> usize {
        match self {
            Job::Event(incoming) => incoming.name.len() + incoming.args.bytes(),
            Job::Connection(..) | Job::Disconnect(..) => 0,
        }
    }
}

enum Begun {
    /// There is no handler for it.
    Nothing,
    Alone(BoxFuture<'static, ()>),
    Beside(BoxFuture<'static, ()>),
    /// It must wait until another one is done.
    Later(Job),
}

fn begin(job: Job, is_nothing_beside: bool) -> Begun {
    match job {
        Job::Connection(socket, handlers) => Begun::Alone(connected(socket, handlers).boxed()),
        Job::Event(incoming) => event(incoming),
        Job::Disconnect(socket, reason) if is_nothing_beside => Begun::Alone(disconnected(socket, reason).boxed()),
        // The last of all.
        Job::Disconnect(..) => Begun::Later(job),
    }
}

fn event(incoming: Incoming) -> Begun {
    // Looked for only now: the handler before may have registered it.
    let Some(handler) = incoming.socket.handler(&incoming.name) else { return Begun::Nothing };
    let start = handler.start();
    if let Start::Later = start {
        return Begun::Later(Job::Event(incoming));
    }
    let (socket, name) = (incoming.socket.clone(), incoming.name.clone());
    let handled = async move { guarded(&socket, &name, || handler.run(incoming)).await };
    match start {
        Start::Beside(permit) => Begun::Beside(handled.map(move |()| drop(permit)).boxed()),
        Start::Alone | Start::Later => Begun::Alone(handled.boxed()),
    }
}

async fn connected(socket: Socket, handlers: Vec<ConnectionHandler>) {
    for handler in handlers {
        guarded(&socket, "connection", || handler(socket.clone())).await;
    }
}

async fn disconnected(socket: Socket, reason: DisconnectReason) {
    for handler in socket.disconnecting_handlers() {
        guarded(&socket, "disconnecting", || handler(socket.clone(), reason)).await;
    }
    socket.core().members.leave(&socket);
    for handler in socket.disconnect_handlers() {
        guarded(&socket, "disconnect", || handler(socket.clone(), reason)).await;
    }
    socket.forget_handlers();
}

async fn guarded(socket: &Socket, event: &str, handler: impl FnOnce() -> BoxFuture<'static, ()>) {
    let run = AssertUnwindSafe(async { handler().await });
    if run.catch_unwind().await.is_err() {
        error!(sid = socket.id(), ?event, "a handler of the app panicked");
    }
}
