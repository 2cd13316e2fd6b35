//! Refusals in the server's log: one line for each kind in a while, with what to do about it. A client that is refused
//! again and again must not fill the log.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::SocketAddr;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::warn;

/// Which refusals were logged lately.
#[derive(Debug, Default)]
pub(crate) struct RefusalLog {
    kinds: Mutex<BTreeMap<&'static str, Logged>>,
}

#[derive(Debug)]
struct Logged {
    at: Instant,
    /// How many were not logged since.
    left_out: u64,
}

impl RefusalLog {
    pub(crate) const fn new() -> RefusalLog {
        RefusalLog { kinds: Mutex::new(BTreeMap::new()) }
    }

    /// A client was refused for this kind of reason. `remedy` says what to do about it.
    pub(crate) fn refused(
        &self,
        kind: &'static str,
        peer: Option<SocketAddr>,
        reason: &impl Display,
        remedy: &'static str,
    ) {
        if let Some(left_out) = self.is_due(kind) {
            let peer = peer.map(|peer| peer.to_string()).unwrap_or_default();
            warn!(peer, %reason, left_out, "{kind}: {remedy}");
        }
    }

    /// How many were left out before this one, if it is to be logged.
    fn is_due(&self, kind: &'static str) -> Option<u64> {
        let now = Instant::now();
        let mut kinds = self.kinds.lock();
        match kinds.get_mut(kind) {
            Some(logged) if logged.at + PAUSE > now => {
                logged.left_out += 1;
                None
            }
            Some(logged) => {
                logged.at = now;
                Some(std::mem::take(&mut logged.left_out))
            }
            None => {
                kinds.insert(kind, Logged { at: now, left_out: 0 });
                Some(0)
            }
        }
    }
}

/// Between two lines of one kind.
const PAUSE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn of_many_refusals_one_in_a_while_is_logged_and_the_others_are_counted() {
        let log = RefusalLog::default();
        let all: Vec<_> = (0..4).map(|_| log.is_due("broken packets")).collect();
        assert_eq!(all, [Some(0), None, None, None]);
        assert_eq!(log.is_due("too large"), Some(0), "another kind is logged by itself");
        tokio::time::advance(PAUSE).await;
        assert_eq!(log.is_due("broken packets"), Some(3));
    }
}
