//! Where HTTP requests meet the session they are for. The session's one task hears them in order; requests wait for its
//! answer. Bounded: a client that knocks more often than it may is not heard.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::Bytes;
use hyper::upgrade::OnUpgrade;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;
use uuid::Uuid;

use super::http::Refusal;

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
pub(super) enum Visit {
    /// A poll.
    Get(Reply),
    /// A POST whose body is being read.
    Post(Post),
    /// A WebSocket, once its handshake's answer is written.
    WebSocket(OnUpgrade),
}

#[derive(Debug)]
pub(super) struct Post {
    pub(super) body: oneshot::Receiver<Result<Bytes, Refusal>>,
    pub(super) reply: Reply,
}

/// Answers a request with a body. Dropped, it refuses: the session is gone.
pub(super) type Reply = oneshot::Sender<Result<Bytes, Refusal>>;

/// One session's door.
#[derive(Debug, Default)]
pub(super) struct Door(Mutex<Knocks>);

#[derive(Debug, Default)]
struct Knocks {
    visits: Vec<Visit>,
    waker: Option<Waker>,
    is_shut: bool,
}

impl Door {
    /// Lets the session hear of a visit, or gives it back.
    pub(super) fn visit(&self, visit: Visit) -> Result<(), Visit> {
        let mut knocks = self.0.lock();
        if knocks.is_shut || knocks.visits.len() >= VISITS_MAX {
            return Err(visit);
        }
        knocks.visits.push(visit);
        // It stays: the session may hear this visit without waiting for another one.
        let waker = knocks.waker.clone();
        drop(knocks);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    /// All visits since the last time. The task is woken by the next one.
    pub(super) fn poll_visits(&self, cx: &Context<'_>) -> Vec<Visit> {
        let mut knocks = self.0.lock();
        if !knocks.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            knocks.waker = Some(cx.waker().clone());
        }
        std::mem::take(&mut knocks.visits)
    }

    fn shut(&self) {
        let mut knocks = self.0.lock();
        knocks.is_shut = true;
        let dropped = (std::mem::take(&mut knocks.visits), knocks.waker.take());
        drop(knocks);
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
    doors: HashMap<Sid, Arc<Door>>,
    /// Last words for polls that were on their way when their session ended, oldest first.
    farewells: VecDeque<(Instant, Sid, Bytes)>,
}

/// Whom a sid leads to.
pub(super) enum Found {
    Door(Arc<Door>),
    Farewell(Bytes),
    Nobody,
}

impl Sessions {
    pub(super) fn new(sessions_max: usize) -> Sessions {
        Sessions { sessions_max, table: Mutex::default() }
    }

    pub(super) fn count(&self) -> usize {
        self.table.lock().doors.len()
    }

    /// A place for a new session, if there is room.
    pub(super) fn enter(self: &Arc<Self>) -> Option<SessionEntry> {
        let (sid, door) = (Sid::random(), Arc::<Door>::default());
        let mut table = self.table.lock();
        if table.doors.len() >= self.sessions_max {
            return None;
        }
        table.doors.insert(sid, Arc::clone(&door));
        Some(SessionEntry { sid, door, sessions: Arc::clone(self) })
    }

    /// Finds a session. A farewell is given to a poll only, and once.
    pub(super) fn find(&self, sid: Sid, is_poll: bool) -> Found {
        let mut table = self.table.lock();
        if let Some(door) = table.doors.get(&sid) {
            return Found::Door(Arc::clone(door));
        }
        table.forget(Instant::now());
        let at = table.farewells.iter().position(|(_, departed, _)| *departed == sid);
        match at.filter(|_| is_poll).and_then(|at| table.farewells.remove(at)) {
            Some((_, _, farewell)) => Found::Farewell(farewell),
            None => Found::Nobody,
        }
    }
}

impl Table {
    fn forget(&mut self, now: Instant) {
        while self.farewells.front().is_some_and(|(at, _, _)| *at + FAREWELL_TIME <= now) {
            self.farewells.pop_front();
        }
        if self.farewells.is_empty() {
            self.farewells = VecDeque::new();
        }
        if self.doors.capacity() > 1024 && self.doors.len() < self.doors.capacity() / 8 {
            self.doors.shrink_to(self.doors.len() * 2);
        }
    }
}

/// A session's entry among all others. Dropped, it is given up: requests for it find nobody.
#[derive(Debug)]
pub(super) struct SessionEntry {
    pub(super) sid: Sid,
    pub(super) door: Arc<Door>,
    sessions: Arc<Sessions>,
}

impl SessionEntry {
    /// Gives it up, and keeps this for the one poll that may still come.
    pub(super) fn leave(self, farewell: Bytes) {
        if farewell.len() > FAREWELL_BYTES_MAX {
            return;
        }
        let now = Instant::now();
        let mut table = self.sessions.table.lock();
        table.forget(now);
        if table.farewells.len() >= FAREWELLS_MAX {
            table.farewells.pop_front();
        }
        table.farewells.push_back((now, self.sid, farewell));
    }
}

impl Drop for SessionEntry {
    fn drop(&mut self) {
        let removed = {
            let mut table = self.sessions.table.lock();
            let removed = table.doors.remove(&self.sid);
            table.forget(Instant::now());
            removed
        };
        drop(removed);
        self.door.shut();
    }
}

/// Most visits that a session has not heard. A client that keeps to the rules has one GET, one POST and one WebSocket
/// under way.
const VISITS_MAX: usize = 8;

/// How long last words are kept: longer than a poll is on its way.
const FAREWELL_TIME: Duration = Duration::from_secs(2);

/// Most sessions whose last words are kept.
const FAREWELLS_MAX: usize = 1024;

/// Longest last words, in bytes.
const FAREWELL_BYTES_MAX: usize = 16 * 1024;
