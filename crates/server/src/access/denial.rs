//! Who was not let in, or is sent away for what it may no longer do: the closes that say so, and the lines in the log.
//! Never logs credentials, and never fills the log.

use std::net::SocketAddr;
use std::time::Duration;

use parking_lot::Mutex;
use redeliver_protocol::error::{Close, CloseCode, RetryAdvice};
use tokio::time::Instant;
use tracing::info;

use super::{Denied, Identity};

/// Denied authentication in the log, at most [`LINES_MAX`] lines in [`WINDOW`].
#[derive(Debug, Default)]
pub(crate) struct DenialLog {
    lines: Mutex<Lines>,
}

#[derive(Debug, Default)]
struct Lines {
    since: Option<Instant>,
    count: u32,
    left_out: u64,
}

impl DenialLog {
    /// Somebody was not let in.
    pub(crate) fn denied(
        &self,
        peer: Option<SocketAddr>,
        protocol: &'static str,
        identity: Option<&Identity>,
        denied: &Denied,
    ) {
        let Some(left_out) = self.lines.lock().next(Instant::now()) else { return };
        let peer = peer.map(|peer| peer.to_string()).unwrap_or_default();
        // Names and reasons go through Debug: they must not forge log lines.
        let identity = identity.map(Identity::name).unwrap_or_default();
        info!(peer, protocol, ?identity, reason = ?denied.to_string(), left_out, "authentication was denied");
    }
}

impl Lines {
    /// How many were left out before this one, if it is to be logged.
    fn next(&mut self, now: Instant) -> Option<u64> {
        if self.since.is_none_or(|since| since + WINDOW <= now) {
            (self.since, self.count) = (Some(now), 0);
        }
        if self.count >= LINES_MAX {
            self.left_out += 1;
            return None;
        }
        self.count += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

/// The close of a client that is not let in.
pub(crate) fn denial_close(denied: &Denied) -> Close {
    let code = if denied.is_expired() { CloseCode::EXPIRED } else { CloseCode::UNAUTHENTICATED };
    Close::new(code, denied.to_string(), retry(denied))
}

/// The close of a client that was let in, whose credentials hold no longer.
pub(crate) fn revocation_close(denied: &Denied) -> Close {
    let code = if denied.is_expired() { CloseCode::EXPIRED } else { CloseCode::DISCONNECTED };
    Close::new(code, denied.to_string(), retry(denied))
}

/// The close of a client whose identity has expired. A client that always shows the same credentials must not come back
/// with them.
pub(crate) fn expired_close() -> Close {
    Close::of(CloseCode::EXPIRED, RetryAdvice::Never)
}

fn retry(denied: &Denied) -> RetryAdvice {
    if denied.is_retryable() { RetryAdvice::After(DENIED_RETRY) } else { RetryAdvice::Never }
}

/// When a client comes back that could not be judged.
const DENIED_RETRY: Duration = Duration::from_secs(1);

/// Most lines in a window. Enough to see each address of a usual attack; beyond, they are counted.
const LINES_MAX: u32 = 20;

const WINDOW: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_denials_takes_so_many_lines_a_second_and_the_others_are_counted() {
        let mut lines = Lines::default();
        let logged = (0..1_000).filter(|_| lines.next(Instant::now()) == Some(0)).count();
        assert_eq!(logged, LINES_MAX as usize);
        tokio::time::advance(WINDOW).await;
        assert_eq!(lines.next(Instant::now()), Some(1_000 - u64::from(LINES_MAX)));
        assert_eq!(lines.next(Instant::now()), Some(0));
    }
}
