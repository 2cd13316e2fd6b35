//! The pool of strangers: everything that peers hold before they are authenticated, over all protocols. It is bounded in
//! all, for each address and in time, and when it is full the oldest makes room. Never lets a stranger take the place of a
//! peer that is known.

pub(crate) mod address;
pub(crate) mod budget;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep};

use self::address::AddressBlock;
use self::budget::{Budget, StrangerLimits};

/// The pool of a server. Clones are the same pool.
#[derive(Clone, Debug)]
pub(crate) struct Strangers(Arc<Pool>);

#[derive(Debug)]
struct Pool {
    budget: Budget,
    per_address_max: usize,
    deadline: Duration,
    state: Mutex<State>,
    /// Told when a socket has closed or a stranger has left.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// By their age, oldest first.
    strangers: BTreeMap<u64, Entry>,
    addresses: HashMap<AddressBlock, BTreeSet<u64>>,
    last_id: u64,
    /// Of the strangers, those that are sockets.
    stranger_sockets: usize,
    /// All sockets, those of strangers among them.
    sockets: usize,
    /// Sockets that routes keep.
    kept: usize,
}

#[derive(Debug)]
struct Entry {
    address: Option<AddressBlock>,
    is_socket: bool,
    standing: Arc<Standing>,
}

/// What is known of one peer, shared by all that serve it.
#[derive(Debug)]
struct Standing {
    id: u64,
    since: Instant,
    has_spoken: AtomicBool,
    /// Whether routes keep its socket. Changed with the pool's lock held.
    is_kept: AtomicBool,
    /// The pool's lock is taken before this one.
    phase: Mutex<StandingPhase>,
}

#[derive(Debug)]
enum StandingPhase {
    /// It is to be woken when it is evicted.
    Stranger(Option<Waker>),
    Known,
    Evicted,
}

/// A peer that is not authenticated, or was not when it came. Requests of a server's own listener have one among their
/// extensions. Clones are the same peer. A peer that is still a stranger when its time is over, or when others need its
/// place, is closed.
#[derive(Clone, Debug)]
pub struct Stranger {
    standing: Arc<Standing>,
    pool: Strangers,
    /// For one that has no socket in the pool: when the last clone is dropped, it has left.
    _place: Option<Arc<Place>>,
}

#[derive(Debug)]
struct Place {
    id: u64,
    pool: Strangers,
}

/// A socket's place among all sockets, for as long as the socket is open.
#[derive(Debug)]
pub(crate) struct SocketPermit {
    standing: Arc<Standing>,
    pool: Strangers,
}

/// Whether one more socket may be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    Now,
    /// Not before something changes, or then.
    Later(Instant),
}

impl Strangers {
    pub(crate) fn new(budget: Budget, limits: StrangerLimits) -> Strangers {
        Strangers(Arc::new(Pool {
            budget,
            per_address_max: limits.per_address_max.max(1),
            deadline: limits.deadline,
            state: Mutex::default(),
            changed: Notify::new(),
        }))
    }

    pub(crate) fn budget(&self) -> Budget {
        self.0.budget
    }

    /// Sees to it that there is room for one more socket: if the pool is full, the oldest stranger of whoever has the most
    /// makes room, once it has had a moment. Clients that all come at once are thereby let in one after another.
    pub(crate) fn make_room(&self) -> Room {
        let mut state = self.0.state.lock();
        let now = Instant::now();
        let Budget { strangers_max, sockets_max, .. } = self.0.budget;
        if state.stranger_sockets >= strangers_max || state.sockets >= sockets_max {
            match state.evictable(now, |entry| entry.is_socket) {
                Ok(id) => state.evict(id),
                Err(at) => return Room::Later(at.unwrap_or(now + FAR)),
            }
        }
        // Who was evicted has its descriptor until its task has had its turn.
        if state.sockets < sockets_max { Room::Now } else { Room::Later(now + FAR) }
    }

    /// Waits until a socket has closed or a stranger has left since this was last waited for.
    pub(crate) async fn changed(&self) {
        self.0.changed.notified().await;
    }

    /// Takes in a socket that was accepted. The oldest of its address makes room if that has as many as it may have.
    pub(crate) fn enter(&self, peer: SocketAddr) -> (SocketPermit, Stranger) {
        let mut state = self.0.state.lock();
        let address = AddressBlock::of(peer.ip());
        if let Some(oldest) = state.oldest_of_full(address, self.0.per_address_max) {
            state.evict(oldest);
        }
        state.sockets += 1;
        let standing = state.enter(Some(address), true);
        let permit = SocketPermit { standing: Arc::clone(&standing), pool: self.clone() };
        (permit, Stranger { standing, pool: self.clone(), _place: None })
    }

    /// Takes in a peer without a socket of its own in the pool: a session, or the client of somebody else's HTTP server.
    /// Returns `None` if there are too many that have only just come.
    pub(crate) fn enter_session(&self, peer: Option<SocketAddr>) -> Option<Stranger> {
        let mut state = self.0.state.lock();
        let address = peer.map(|peer| AddressBlock::of(peer.ip()));
        if let Some(oldest) = address.and_then(|address| state.oldest_of_full(address, self.0.per_address_max)) {
            state.evict(oldest);
        }
        if state.strangers.len() - state.stranger_sockets >= self.0.budget.strangers_max {
            let evictable = state.evictable(Instant::now(), |entry| !entry.is_socket).ok()?;
            state.evict(evictable);
        }
        let standing = state.enter(address, false);
        let place = Place { id: standing.id, pool: self.clone() };
        Some(Stranger { standing, pool: self.clone(), _place: Some(Arc::new(place)) })
    }

    fn leave(&self, id: u64) {
        let left = self.0.state.lock().remove(id);
        if left.is_some() {
            self.0.changed.notify_one();
        }
    }
}

impl State {
    fn enter(&mut self, address: Option<AddressBlock>, is_socket: bool) -> Arc<Standing> {
        self.last_id += 1;
        let id = self.last_id;
        let phase = Mutex::new(StandingPhase::Stranger(None));
        let (has_spoken, is_kept) = (AtomicBool::new(false), AtomicBool::new(false));
        let standing = Arc::new(Standing { id, since: Instant::now(), has_spoken, is_kept, phase });
        self.strangers.insert(id, Entry { address, is_socket, standing: Arc::clone(&standing) });
        self.stranger_sockets += usize::from(is_socket);
        if let Some(address) = address {
            self.addresses.entry(address).or_default().insert(id);
        }
        standing
    }

    fn remove(&mut self, id: u64) -> Option<Entry> {
        let entry = self.strangers.remove(&id)?;
        self.stranger_sockets -= usize::from(entry.is_socket);
        if let Some(address) = entry.address
            && let Some(ids) = self.addresses.get_mut(&address)
        {
            ids.remove(&id);
            if ids.is_empty() {
                self.addresses.remove(&address);
            }
        }
        Some(entry)
    }

    fn evict(&mut self, id: u64) {
        let Some(entry) = self.remove(id) else { return };
        let before = std::mem::replace(&mut *entry.standing.phase.lock(), StandingPhase::Evicted);
        if let StandingPhase::Stranger(Some(waker)) = before {
            waker.wake();
        }
    }

    fn oldest_of_full(&self, address: AddressBlock, most: usize) -> Option<u64> {
        let ids = self.addresses.get(&address).filter(|ids| ids.len() >= most && !address.is_shared())?;
        ids.first().copied()
    }

    /// The oldest stranger of the address that has the most, of those that have had a moment; or else when one has.
    fn evictable(&self, now: Instant, of: impl Fn(&Entry) -> bool) -> Result<u64, Option<Instant>> {
        let (mut found, mut soonest) = (None, None::<Instant>);
        for (id, entry) in self.strangers.iter().filter(|(_, entry)| of(entry)) {
            let at = entry.standing.evictable_at();
            if at > now {
                soonest = Some(soonest.map_or(at, |soonest| soonest.min(at)));
                continue;
            }
            let weight = entry.address.and_then(|address| self.addresses.get(&address)).map_or(1, BTreeSet::len);
            if found.is_none_or(|(heaviest, _)| weight > heaviest) {
                found = Some((weight, *id));
            }
        }
        found.map(|(_, id)| id).ok_or(soonest)
    }
}

impl Standing {
    fn evictable_at(&self) -> Instant {
        self.since + if self.has_spoken.load(Relaxed) { SPEAKERS_MOMENT } else { SILENT_MOMENT }
    }
}

impl Stranger {
    /// The peer is authenticated, and has no longer to do with the pool. Returns whether it is known now: not if it was
    /// evicted before.
    #[must_use]
    pub fn admit(&self) -> bool {
        let mut state = self.pool.0.state.lock();
        let mut phase = self.standing.phase.lock();
        match &*phase {
            StandingPhase::Known => true,
            StandingPhase::Evicted => false,
            StandingPhase::Stranger(_) => {
                let is_socket = state.strangers.get(&self.standing.id).is_some_and(|entry| entry.is_socket);
                let Budget { sockets_max, strangers_max, .. } = self.pool.0.budget;
                if is_socket && state.sockets - state.stranger_sockets >= sockets_max - strangers_max {
                    return false;
                }
                *phase = StandingPhase::Known;
                state.remove(self.standing.id);
                drop((phase, state));
                self.pool.0.changed.notify_one();
                true
            }
        }
    }

    /// Routes that do not judge their peers keep its socket. Returns whether they may: there are as many of those as there
    /// may be connections.
    pub(crate) fn keep(&self) -> bool {
        {
            let mut state = self.pool.0.state.lock();
            if !self.standing.is_kept.load(Relaxed) {
                if state.kept >= self.pool.0.budget.connections_max {
                    return false;
                }
                state.kept += 1;
                self.standing.is_kept.store(true, Relaxed);
            }
        }
        self.admit()
    }

    /// Whether the peer is still a stranger.
    #[must_use]
    pub fn is_stranger(&self) -> bool {
        !matches!(*self.standing.phase.lock(), StandingPhase::Known)
    }

    /// It has sent something: it is no silent one.
    pub(crate) fn has_spoken(&self) {
        self.standing.has_spoken.store(true, Relaxed);
    }

    /// Whether the peer has to go, and if not whether that is still to be asked.
    fn poll_evicted(&self, cx: &Context<'_>) -> Poll<Standpoint> {
        match &mut *self.standing.phase.lock() {
            StandingPhase::Known => Poll::Ready(Standpoint::Known),
            StandingPhase::Evicted => Poll::Ready(Standpoint::Evicted),
            StandingPhase::Stranger(waker) => {
                if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                    *waker = Some(cx.waker().clone());
                }
                Poll::Pending
            }
        }
    }
}

enum Standpoint {
    Known,
    Evicted,
}

/// Watches over a stranger for the one task that serves it.
#[derive(Debug)]
pub struct Watch {
    stranger: Option<Stranger>,
    timer: Pin<Box<Sleep>>,
}

/// A stranger has to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Farewell {
    /// It was not authenticated in time.
    #[error("it was not authenticated in time")]
    Late,
    /// Others needed its place.
    #[error("it made room for others who wanted to connect")]
    Evicted,
}

impl Watch {
    /// Watches over a stranger.
    #[must_use]
    pub fn over(stranger: Stranger) -> Watch {
        let timer = Box::pin(tokio::time::sleep_until(stranger.standing.since + stranger.pool.0.deadline));
        Watch { stranger: Some(stranger), timer }
    }

    /// Ready when the stranger has to go; never, once it is known.
    pub fn poll_farewell(&mut self, cx: &mut Context<'_>) -> Poll<Farewell> {
        let Some(stranger) = &self.stranger else { return Poll::Pending };
        match stranger.poll_evicted(cx) {
            Poll::Ready(Standpoint::Known) => {
                self.stranger = None;
                Poll::Pending
            }
            Poll::Ready(Standpoint::Evicted) => Poll::Ready(Farewell::Evicted),
            Poll::Pending => self.timer.as_mut().poll(cx).map(|()| Farewell::Late),
        }
    }

    /// Whether the peer is known, so that there is nothing more to watch.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.stranger.is_none()
    }

    pub(crate) fn stranger(&self) -> Option<&Stranger> {
        self.stranger.as_ref()
    }
}

impl Drop for SocketPermit {
    fn drop(&mut self) {
        let mut state = self.pool.0.state.lock();
        state.sockets -= 1;
        state.kept -= usize::from(self.standing.is_kept.swap(false, Relaxed));
        drop(state.remove(self.standing.id));
        drop(state);
        self.pool.0.changed.notify_one();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.pool.leave(self.id);
    }
}

/// How long a stranger that has said nothing keeps its place when others want it: a request is under way for as long.
const SILENT_MOMENT: Duration = Duration::from_millis(250);

/// How long one that has said something keeps its place: a busy server may take a while to answer it.
const SPEAKERS_MOMENT: Duration = Duration::from_secs(2);

/// Longer than any wait.
const FAR: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests;
