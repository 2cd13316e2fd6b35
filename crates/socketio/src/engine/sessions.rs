//! Where HTTP requests meet the session they are for. The session's one task hears them in order; requests wait for its
//! answer. Bounded: a client that sends more of them at once than it may is not heard.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Waker};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::Bytes;
use hyper::upgrade::OnUpgrade;
use parking_lot::Mutex;
use redeliver_server::Stranger;
use tokio::sync::oneshot;
use tokio::time::Instant;
use uuid::Uuid;

use super::reply::{Reply, RequestRefusal};

/// A session's name, and the secret with which its client speaks for it: 128 random bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Sid([u8; 16]);

impl Sid {
    pub(super) fn random() -> Sid {
        Sid(secret_bytes())
    }

    pub(super) fn parse(text: &str) -> Option<Sid> {
        let mut bytes = [0; 16];
        let length = BASE64_URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
        (length == bytes.len()).then_some(Sid(bytes))
    }
}

impl fmt::Display for Sid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64_URL_SAFE_NO_PAD.encode(self.0))
    }
}

/// Not shown: who knows it may speak for the client.
impl fmt::Debug for Sid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sid(…)")
    }
}

fn secret_bytes() -> [u8; 16] {
    // A UUID has only 122 random bits; a second one gives those that its version and variant take.
    let mut bytes = Uuid::new_v4().into_bytes();
    let [first, second, ..] = Uuid::new_v4().into_bytes();
    (bytes[6], bytes[8]) = (first, second);
    bytes
}

/// What an HTTP request wants of a session.
#[derive(Debug)]
pub(super) enum SessionRequest {
    /// A poll.
    Get(Reply),
    /// A POST whose body is being read.
    Post(Post),
    /// A WebSocket, once its handshake's answer is written, and the stranger whose connection it is.
    WebSocket(OnUpgrade, Option<Stranger>),
}

#[derive(Debug)]
pub(super) struct Post {
    pub(super) body: oneshot::Receiver<Result<Bytes, RequestRefusal>>,
    pub(super) reply: Reply,
}

/// The HTTP requests for one session that it has not heard of yet.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    state: Mutex<InboxState>,
    /// Whether the session's client is authenticated.
    is_known: AtomicBool,
}

#[derive(Debug, Default)]
struct InboxState {
    requests: Vec<SessionRequest>,
    waker: Option<Waker>,
    is_shut: bool,
}

impl Inbox {
    /// Lets the session hear of a request, or gives it back.
    pub(super) fn push(&self, request: SessionRequest) -> Result<(), SessionRequest> {
        let mut state = self.state.lock();
        if state.is_shut || state.requests.len() >= REQUESTS_MAX {
            return Err(request);
        }
        state.requests.push(request);
        // It stays: the session may hear this request without waiting for another one.
        let waker = state.waker.clone();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    /// All requests since the last time. The task is woken by the next one.
    pub(super) fn poll_requests(&self, cx: &Context<'_>) -> Vec<SessionRequest> {
        let mut state = self.state.lock();
        if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            state.waker = Some(cx.waker().clone());
        }
        std::mem::take(&mut state.requests)
    }

    pub(super) fn is_known(&self) -> bool {
        self.is_known.load(Relaxed)
    }

    pub(super) fn set_known(&self) {
        self.is_known.store(true, Relaxed);
    }

    fn shut(&self) {
        let mut state = self.state.lock();
        state.is_shut = true;
        let dropped = (std::mem::take(&mut state.requests), state.waker.take());
        drop(state);
        drop(dropped);
    }
}

/// All sessions of an engine.
#[derive(Debug)]
pub(super) struct Sessions {
    sessions_max: usize,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    inboxes: HashMap<Sid, Arc<Inbox>>,
    /// Responses to polls that were on their way when their session ended, oldest first.
    last_responses: VecDeque<(Instant, Sid, Bytes)>,
}

/// What a sid stands for.
pub(super) enum SessionLookup {
    Open(Arc<Inbox>),
    /// A session that has ended, and its response to the poll that was on its way then.
    Ended(Bytes),
    Unknown,
}

impl Sessions {
    pub(super) fn new(sessions_max: usize) -> Sessions {
        Sessions { sessions_max, table: Mutex::default() }
    }

    pub(super) fn count(&self) -> usize {
        self.table.lock().inboxes.len()
    }

    /// An entry for a new session, if there is room.
    pub(super) fn enter(self: &Arc<Self>) -> Option<SessionEntry> {
        let (sid, inbox) = (Sid::random(), Arc::<Inbox>::default());
        let mut table = self.table.lock();
        if table.inboxes.len() >= self.sessions_max {
            return None;
        }
        table.inboxes.insert(sid, Arc::clone(&inbox));
        Some(SessionEntry { sid, inbox, sessions: Arc::clone(self) })
    }

    /// Finds a session. Its last response is given to a poll only, and once.
    pub(super) fn find(&self, sid: Sid, is_poll: bool) -> SessionLookup {
        let mut table = self.table.lock();
        if let Some(inbox) = table.inboxes.get(&sid) {
            return SessionLookup::Open(Arc::clone(inbox));
        }
        table.forget(Instant::now());
        let at = table.last_responses.iter().position(|(_, departed, _)| *departed == sid);
        match at.filter(|_| is_poll).and_then(|at| table.last_responses.remove(at)) {
            Some((_, _, last_response)) => SessionLookup::Ended(last_response),
            None => SessionLookup::Unknown,
        }
    }
}

impl Table {
    fn forget(&mut self, now: Instant) {
        while self.last_responses.front().is_some_and(|(at, _, _)| *at + LAST_RESPONSE_TIME <= now) {
            self.last_responses.pop_front();
        }
        if self.last_responses.is_empty() {
            self.last_responses = VecDeque::new();
        }
        if self.inboxes.capacity() > 1024 && self.inboxes.len() < self.inboxes.capacity() / 8 {
            self.inboxes.shrink_to(self.inboxes.len() * 2);
        }
    }
}

/// A session's entry among all others. Dropped, it is given up: requests for it find nothing.
#[derive(Debug)]
pub(super) struct SessionEntry {
    pub(super) sid: Sid,
    pub(super) inbox: Arc<Inbox>,
    sessions: Arc<Sessions>,
}

impl SessionEntry {
    /// Gives it up, and keeps this for the one poll that may still come.
    pub(super) fn leave(self, last_response: Bytes) {
        if last_response.len() > LAST_RESPONSE_BYTES_MAX {
            return;
        }
        let now = Instant::now();
        let mut table = self.sessions.table.lock();
        table.forget(now);
        if table.last_responses.len() >= LAST_RESPONSES_MAX {
            table.last_responses.pop_front();
        }
        table.last_responses.push_back((now, self.sid, last_response));
    }
}

impl Drop for SessionEntry {
    fn drop(&mut self) {
        let removed = {
            let mut table = self.sessions.table.lock();
            let removed = table.inboxes.remove(&self.sid);
            table.forget(Instant::now());
            removed
        };
        drop(removed);
        self.inbox.shut();
    }
}

/// Most requests that a session has not heard. A client that keeps to the rules has one GET, one POST and one WebSocket
/// under way.
const REQUESTS_MAX: usize = 8;

/// How long last responses are kept: longer than a poll is on its way.
const LAST_RESPONSE_TIME: Duration = Duration::from_secs(2);

/// Most sessions whose last responses are kept.
const LAST_RESPONSES_MAX: usize = 1024;

/// Longest last response, in bytes.
const LAST_RESPONSE_BYTES_MAX: usize = 16 * 1024;
