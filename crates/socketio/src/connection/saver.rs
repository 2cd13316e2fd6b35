//! Keeps the stored session of one socket: one write at a time, and only when something has changed. Never decides what
//! the session holds.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use redeliver_protocol::time::Timestamp;
use tokio::time::Instant;
use tracing::warn;

use crate::error::ChangeError;
use crate::members::Claim;
use crate::socket::{Done, Socket};

/// The writer of one socket's stored session.
pub(super) struct Saver {
    claim: Claim,
    writing: Option<Writing>,
    /// Who waits for the next write.
    waiting: Vec<Done>,
    is_changed: bool,
    /// Whether the client was given an event since its place was stored.
    has_given: bool,
    /// What the stored session says of when it was stored.
    saved: Timestamp,
    /// When the last write began, if there was one.
    written_at: Option<Instant>,
}

/// What a saver waits for.
pub(super) enum SaverWake {
    /// The write under way has ended: whether the session is durable.
    Written(bool),
    /// A change for which nobody waits is to be written now.
    Due,
}

/// A write under way.
struct Writing {
    stored: BoxFuture<'static, bool>,
    /// Who waits for it.
    waiting: Vec<Done>,
}

impl Saver {
    /// The writer of the session that is claimed, which was stored at this time.
    pub(super) fn new(claim: Claim, saved: Timestamp) -> Saver {
        Saver {
            claim,
            writing: None,
            waiting: Vec::new(),
            is_changed: false,
            has_given: false,
            saved,
            written_at: None,
        }
    }

    /// The session has changed, or was to be: `done` is answered when the state of now is stored.
    pub(super) fn changed(&mut self, is_changed: bool, done: Done) {
        self.is_changed |= is_changed;
        if self.is_changed {
            self.waiting.push(done);
        } else if let Some(writing) = &mut self.writing {
            // What was so before may not be stored yet.
            writing.waiting.push(done);
        } else {
            answer(vec![done], Ok(()));
        }
    }

    /// The session has changed, and nobody waits for it to be stored.
    pub(super) fn has_changed(&mut self) {
        self.is_changed = true;
    }

    /// The client was given an event.
    pub(super) fn given(&mut self) {
        self.has_given = true;
    }

    /// The client's place has moved. The place of a client that gets nothing moves with the log, which need not be
    /// stored each time: between the stored place and this one, nothing is the client's.
    pub(super) fn moved(&mut self, socket: &Socket) {
        if self.has_given || self.is_old(socket) {
            self.has_given = false;
            self.is_changed = true;
        }
    }

    /// Begins a write if one is due and none is under way.
    pub(super) fn write_if_due(&mut self, socket: &Socket) {
        let is_due = !self.waiting.is_empty() || self.due().is_none_or(|due| due <= Instant::now());
        if self.is_changed && is_due && self.writing.is_none() {
            self.write(socket);
        }
    }

    /// When a change for which nobody waits is to be written; none if that is now.
    fn due(&self) -> Option<Instant> {
        self.written_at.map(|written_at| written_at + SAVE_PAUSE)
    }

    fn write(&mut self, socket: &Socket) {
        let waiting = std::mem::take(&mut self.waiting);
        self.is_changed = false;
        self.saved = socket.core().gateway.paced_stamp();
        self.written_at = Some(Instant::now());
        match socket.session().lock().encode(self.saved) {
            Ok(value) => {
                let stored = store(socket, self.claim.key.clone(), Some(value)).boxed();
                self.writing = Some(Writing { stored, waiting });
            }
            Err(error) => answer(waiting, Err(error)),
        }
    }

    /// Whether the session was stored so long ago that it might soon be taken for one that nobody uses.
    fn is_old(&self, socket: &Socket) -> bool {
        let age = Duration::from_millis(socket.core().gateway.paced_now().0.saturating_sub(self.saved.0));
        age > socket.core().config.session_idle_max / 8
    }

    /// Waits for the write that is under way, or until one is due; for ever if neither is there. Cancel safe.
    pub(super) async fn next(saver: &mut Option<Saver>) -> SaverWake {
        let Some(saver) = saver else { return std::future::pending().await };
        let due = saver.due();
        match (&mut saver.writing, due) {
            (Some(writing), _) => SaverWake::Written((&mut writing.stored).await),
            (None, Some(due)) if saver.is_changed => {
                tokio::time::sleep_until(due).await;
                SaverWake::Due
            }
            (None, _) => std::future::pending().await,
        }
    }

    /// Takes note of how the write ended.
    pub(super) fn finish(&mut self, stored: bool) {
        if let Some(writing) = self.writing.take() {
            answer(writing.waiting, result(stored));
        }
        // Tried again after the pause.
        self.is_changed |= !stored;
    }

    /// The last write, behind the one under way: what is known now, or that there is nothing any more. Holds the claim
    /// until it is done.
    pub(super) fn last(mut self, socket: &Socket, is_kept: bool) -> BoxFuture<'static, ()> {
        let now = socket.core().gateway.paced_stamp();
        let value = if is_kept { socket.session().lock().encode(now).ok() } else { None };
        // An old one is written anew also if nothing has changed, so that it is not taken for one that nobody uses.
        let is_due = !is_kept || self.is_changed || self.is_old(socket);
        let socket = socket.clone();
        async move {
            if let Some(writing) = self.writing.take() {
                let stored = writing.stored.await;
                answer(writing.waiting, result(stored));
            }
            if is_due {
                let stored = store(&socket, self.claim.key.clone(), value).await;
                answer(self.waiting, result(stored));
            }
            drop(self.claim);
        }
        .boxed()
    }
}

/// Stores a session, or removes it. Returns whether that is durable.
pub(super) fn store(socket: &Socket, key: Bytes, value: Option<Bytes>) -> impl Future<Output = bool> + Send + use<> {
    let gateway = socket.core().gateway.clone();
    async move {
        let stored = gateway.save_state(key, value).await;
        if let Err(error) = &stored {
            warn!(%error, "a socket could not be stored");
        }
        stored.is_ok()
    }
}

fn result(stored: bool) -> Result<(), ChangeError> {
    if stored { Ok(()) } else { Err(ChangeError::NotStored) }
}

/// Tells who waited. Whoever does not wait any more is not told.
pub(super) fn answer(waiting: Vec<Done>, result: Result<(), ChangeError>) {
    for done in waiting {
        let _ = done.send(result);
    }
}

/// From the beginning of one write to that of the next, if nobody waits for it: so long may what a client has handled
/// be unknown after a crash.
const SAVE_PAUSE: Duration = Duration::from_secs(1);
