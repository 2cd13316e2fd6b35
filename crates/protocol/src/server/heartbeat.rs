//! Whether the peer is still there. Both sides judge by silence: any message counts.
//!
//! Time in which this side did not want to read is never held against the peer.

use std::time::Duration;

use crate::time::Instant;

/// The watch over a peer's silence.
#[derive(Clone, Debug)]
pub(super) struct Heartbeat {
    interval: Duration,
    heard: Instant,
    is_asked: bool,
    token: u64,
    look: Instant,
}

/// What a moment calls for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Due {
    /// A ping with this token.
    pub(super) ping: Option<u64>,
    /// The peer is gone.
    pub(super) gone: bool,
    /// A look at every idle subscription, since wakes may be lost.
    pub(super) look: bool,
}

impl Heartbeat {
    pub(super) fn new(interval: Duration, now: Instant) -> Heartbeat {
        Heartbeat { interval, heard: now, is_asked: false, token: 0, look: now + interval }
    }

    /// Something came from the peer, or nothing could.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = now;
        self.is_asked = false;
    }

    pub(super) fn due(&mut self, now: Instant) -> Due {
        let silence = now.since(self.heard);
        let gone = silence >= self.interval.saturating_mul(2);
        let asks = !self.is_asked && !gone && silence >= self.interval;
        if asks {
            self.is_asked = true;
            self.token += 1;
        }
        let look = now >= self.look;
        if look {
            self.look = now + self.interval;
        }
        Due { ping: asks.then_some(self.token), gone, look }
    }

    pub(super) fn timeout(&self) -> Instant {
        let silence = if self.is_asked { self.interval.saturating_mul(2) } else { self.interval };
        self.look.min(self.heard + silence)
    }
}
