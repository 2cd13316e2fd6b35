//! The app's handlers of one socket, one after another. A handler that panics takes nothing with it.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tracing::error;

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
    running: Option<BoxFuture<'static, ()>>,
    waiting: VecDeque<Job>,
}

impl Jobs {
    pub(crate) fn push(&mut self, job: Job) {
        self.waiting.push_back(job);
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Starts the next job if none runs.
    pub(crate) fn start(&mut self) {
        if self.running.is_none()
            && let Some(job) = self.waiting.pop_front()
        {
            self.running = Some(run(job).boxed());
        }
    }

    /// Waits until the running job is done; for ever if there is none. Cancel safe.
    pub(crate) async fn done(&mut self) {
        match &mut self.running {
            Some(running) => running.await,
            None => std::future::pending().await,
        }
        self.running = None;
    }

    /// Does all that is left.
    pub(crate) async fn finish(mut self) {
        self.start();
        while self.running.is_some() {
            self.done().await;
            self.start();
        }
    }
}

async fn run(job: Job) {
    match job {
        Job::Connection(socket, handlers) => {
            for handler in handlers {
                guarded(&socket, "connection", || handler(socket.clone())).await;
            }
        }
        Job::Event(incoming) => {
            // Looked for only now: the handler before may have registered it.
            if let Some(handler) = incoming.socket.handler(&incoming.name) {
                let (socket, name) = (incoming.socket.clone(), incoming.name.clone());
                guarded(&socket, &name, || handler(incoming)).await;
            }
        }
        Job::Disconnect(socket, reason) => {
            for handler in socket.disconnecting_handlers() {
                guarded(&socket, "disconnecting", || handler(socket.clone(), reason)).await;
            }
            socket.core().members.leave(&socket);
            for handler in socket.disconnect_handlers() {
                guarded(&socket, "disconnect", || handler(socket.clone(), reason)).await;
            }
            socket.forget_handlers();
        }
    }
}

async fn guarded(socket: &Socket, event: &str, handler: impl FnOnce() -> BoxFuture<'static, ()>) {
    let run = AssertUnwindSafe(async { handler().await });
    if run.catch_unwind().await.is_err() {
        error!(sid = socket.id(), ?event, "a handler of the app panicked");
    }
}
