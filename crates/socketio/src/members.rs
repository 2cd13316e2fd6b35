//! The sockets of one namespace, and who of them owns which stored session: the newest connection does. Never writes a
//! session itself.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::socket::Socket;

/// The sockets of a namespace.
#[derive(Default)]
pub(crate) struct Members {
    by_sid: Mutex<BTreeMap<String, Socket>>,
    owners: Arc<Mutex<HashMap<Bytes, Owner>>>,
}

/// Who owns a stored session now.
struct Owner {
    /// Whether its client shows its pid when it comes back.
    keeps_pid: bool,
    fence: Arc<Fence>,
    /// Closed when the owner has written its last.
    gone: watch::Receiver<()>,
}

/// Tells an owner that another one has come.
#[derive(Debug, Default)]
pub(crate) struct Fence {
    state: Mutex<FenceState>,
}

#[derive(Debug, Default)]
struct FenceState {
    is_fenced: bool,
    /// Whom to tell, once it lives.
    owner: Option<Socket>,
}

impl Fence {
    /// The owner lives: it is told when another one comes. Returns false if that is so already.
    pub(crate) fn guard(&self, owner: &Socket) -> bool {
        let mut state = self.state.lock();
        state.owner = Some(owner.clone());
        !state.is_fenced
    }

    fn raise(&self) {
        let mut state = self.state.lock();
        state.is_fenced = true;
        if let Some(owner) = state.owner.take() {
            owner.fence();
        }
    }
}

/// The ownership of a stored session: while it is held, nobody else writes the session. To be dropped after the last
/// write.
pub(crate) struct Claim {
    pub(crate) key: Bytes,
    pub(crate) fence: Arc<Fence>,
    owners: Arc<Mutex<HashMap<Bytes, Owner>>>,
    /// The one before, until it has written its last.
    former: Option<Owner>,
    _gone: watch::Sender<()>,
}

impl Members {
    /// All of them.
    pub(crate) fn all(&self) -> Vec<Socket> {
        self.by_sid.lock().values().cloned().collect()
    }

    /// A socket is connected.
    pub(crate) fn enter(&self, socket: &Socket) {
        self.by_sid.lock().insert(socket.id().to_owned(), socket.clone());
    }

    /// Forgets a socket, if it is still the one of its sid.
    pub(crate) fn leave(&self, socket: &Socket) {
        let mut by_sid = self.by_sid.lock();
        if by_sid.get(socket.id()).is_some_and(|known| known.is(socket)) {
            by_sid.remove(socket.id());
        }
    }

    /// Takes a session that nobody owns now.
    pub(crate) fn claim_free(&self, key: &Bytes, keeps_pid: bool) -> Option<Claim> {
        match self.owners.lock().entry(key.clone()) {
            Entry::Occupied(_) => None,
            Entry::Vacant(vacant) => {
                let (gone, watched) = watch::channel(());
                let fence = Arc::new(Fence::default());
                vacant.insert(Owner { keeps_pid, fence: Arc::clone(&fence), gone: watched });
                let owners = Arc::clone(&self.owners);
                Some(Claim { key: key.clone(), fence, owners, former: None, _gone: gone })
            }
        }
    }

    /// Takes a session over: the newest connection owns it. Waits until its owner, if it has one, has written its last.
    pub(crate) async fn claim(&self, key: Bytes, keeps_pid: bool) -> Claim {
        let (gone, watched) = watch::channel(());
        let fence = Arc::new(Fence::default());
        let owner = Owner { keeps_pid, fence: Arc::clone(&fence), gone: watched };
        let former = self.owners.lock().insert(key.clone(), owner);
        let mut claim = Claim { key, fence, owners: Arc::clone(&self.owners), former, _gone: gone };
        if let Some(former) = &mut claim.former {
            former.fence.raise();
            while former.gone.changed().await.is_ok() {}
        }
        claim.former = None;
        claim
    }

    /// The socket of this sid, if it is connected now.
    pub(crate) fn by_sid(&self, sid: &str) -> Option<Socket> {
        self.by_sid.lock().get(sid).cloned()
    }

    /// Whether a session is owned by a client that shows its pid when it comes back.
    pub(crate) fn owner_keeps_pid(&self, key: &Bytes) -> bool {
        self.owners.lock().get(key).is_some_and(|owner| owner.keeps_pid)
    }

    /// Whether a session is owned by a connection now.
    pub(crate) fn is_owned(&self, key: &Bytes) -> bool {
        self.owners.lock().contains_key(key)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut owners = self.owners.lock();
        if owners.get(&self.key).is_some_and(|owner| Arc::ptr_eq(&owner.fence, &self.fence)) {
            match self.former.take() {
                // Given up while it waited: the one before still owns it.
                Some(former) => owners.insert(self.key.clone(), former),
                None => owners.remove(&self.key),
            };
        }
    }
}
