//! The app's handlers of one socket. Knows which of them may begin; runs none.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::socket::{DisconnectReason, Incoming, Socket};

/// The handlers of one socket.
#[derive(Default)]
pub(crate) struct Handlers {
    by_name: HashMap<String, EventHandler>,
    /// Of the events that have none of their own.
    pub(crate) any: Option<EventHandler>,
    pub(crate) disconnecting: Vec<DisconnectHandler>,
    pub(crate) disconnect: Vec<DisconnectHandler>,
}

pub(crate) type DisconnectHandler = Arc<dyn Fn(Socket, DisconnectReason) -> BoxFuture<'static, ()> + Send + Sync>;

type RunEvent = Arc<dyn Fn(Incoming) -> BoxFuture<'static, ()> + Send + Sync>;

/// The handler of an event.
#[derive(Clone)]
pub(crate) struct EventHandler {
    run: RunEvent,
    turn: Turn,
}

#[derive(Clone)]
enum Turn {
    /// Nothing behind it begins before it has ended.
    Alone,
    /// As `Alone`, for one event.
    Once,
    /// Beside others, while there is a permit.
    Beside(Arc<Semaphore>),
}

/// Whether a handler may begin.
pub(crate) enum Start {
    /// Nothing behind it may begin before it has ended.
    Alone,
    /// What is behind it may begin. The permit is to be held until it has ended.
    Beside(OwnedSemaphorePermit),
    /// As many run as may: when one has ended.
    Later,
}

impl EventHandler {
    pub(crate) fn in_turn<F, R>(handler: F) -> EventHandler
    where
        F: Fn(Incoming) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        EventHandler { run: Arc::new(move |incoming| handler(incoming).boxed()), turn: Turn::Alone }
    }

    pub(crate) fn once<F, R>(handler: F) -> EventHandler
    where
        F: Fn(Incoming) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        EventHandler { turn: Turn::Once, ..EventHandler::in_turn(handler) }
    }

    pub(crate) fn concurrent<F, R>(at_once: usize, handler: F) -> EventHandler
    where
        F: Fn(Incoming) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let permits = Arc::new(Semaphore::new(at_once.clamp(1, Semaphore::MAX_PERMITS)));
        EventHandler { turn: Turn::Beside(permits), ..EventHandler::in_turn(handler) }
    }

    /// Whether it may begin now.
    pub(crate) fn start(&self) -> Start {
        match &self.turn {
            Turn::Alone | Turn::Once => Start::Alone,
            Turn::Beside(permits) => match Arc::clone(permits).try_acquire_owned() {
                Ok(permit) => Start::Beside(permit),
                Err(_) => Start::Later,
            },
        }
    }

    /// Runs it.
    pub(crate) fn run(&self, incoming: Incoming) -> BoxFuture<'static, ()> {
        (self.run)(incoming)
    }
}

impl Handlers {
    pub(crate) fn set(&mut self, name: String, handler: EventHandler) {
        self.by_name.insert(name, handler);
    }

    pub(crate) fn remove(&mut self, name: &str) -> bool {
        self.by_name.remove(name).is_some()
    }

    /// The handler of an event of this name that comes now.
    pub(crate) fn take(&mut self, name: &str) -> Option<EventHandler> {
        match self.by_name.get(name) {
            Some(EventHandler { turn: Turn::Once, .. }) => self.by_name.remove(name),
            Some(handler) => Some(handler.clone()),
            None => self.any.clone(),
        }
    }
}
