//! Slows down whoever tries credentials that are wrong: the more of them an address has shown lately, the later it is told.
//! Who shows the right ones never waits, also behind the same address.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::access::Denied;
use crate::strangers::address::AddressBlock;

/// Which addresses were denied lately.
#[derive(Debug, Default)]
pub(crate) struct Guesses {
    addresses: Mutex<HashMap<AddressBlock, Guess>>,
}

#[derive(Clone, Copy, Debug)]
struct Guess {
    count: u32,
    at: Instant,
}

impl Guesses {
    /// Waits until a peer that was denied is to be told: for a while if it guesses, and not at all if its credentials were
    /// not judged.
    ///
    /// Cancel safe: the denial counts all the same.
    pub(crate) async fn tell_late(&self, peer: Option<SocketAddr>, denied: &Denied) {
        if !denied.is_retryable() {
            tokio::time::sleep(self.denied(peer)).await;
        }
    }

    /// A peer was denied. Returns how long it is to wait until it is told.
    fn denied(&self, peer: Option<SocketAddr>) -> Duration {
        let Some(peer) = peer else { return Duration::ZERO };
        let (now, address) = (Instant::now(), AddressBlock::of(peer.ip()));
        let mut addresses = self.addresses.lock();
        if addresses.len() >= ADDRESSES_MAX && !addresses.contains_key(&address) {
            addresses.retain(|_, guess| guess.at + FORGOTTEN_AFTER > now);
            if addresses.len() >= ADDRESSES_MAX {
                return Duration::ZERO;
            }
        }
        let guess = addresses.entry(address).or_insert(Guess { count: 0, at: now });
        if guess.at + FORGOTTEN_AFTER <= now {
            guess.count = 0;
        }
        *guess = Guess { count: guess.count.saturating_add(1), at: now };
        match guess.count.checked_sub(GUESSES_FREE + 1) {
            None => Duration::ZERO,
            Some(beyond) => (PAUSE_FIRST * (1 << beyond.min(10))).min(PAUSE_MAX),
        }
    }
}

/// Denials of one address that cost nothing: somebody mistypes, or a token has just been changed.
const GUESSES_FREE: u32 = 3;

const PAUSE_FIRST: Duration = Duration::from_millis(100);

/// Well below the time in which a client must be authenticated: it is still told why it was denied.
const PAUSE_MAX: Duration = Duration::from_secs(2);

const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// Addresses that are remembered. With more, the newest ones are not slowed down.
const ADDRESSES_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_more_an_address_was_denied_the_later_it_is_told_until_it_is_forgotten() {
        let guesses = Guesses::default();
        let denied = |address: u8| guesses.denied(Some(SocketAddr::from(([192, 0, 2, address], 1)))).as_millis();
        let pauses: Vec<_> = (0..10).map(|_| denied(1)).collect();
        assert_eq!(pauses, [0, 0, 0, 100, 200, 400, 800, 1600, 2000, 2000]);
        assert_eq!(denied(2), 0, "another address has nothing to do with it");
        tokio::time::advance(FORGOTTEN_AFTER).await;
        assert_eq!(denied(1), 0);
        assert_eq!(guesses.denied(None), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_many_addresses_are_remembered() {
        let guesses = Guesses::default();
        for address in 0..10_000_u32 {
            guesses.denied(Some(SocketAddr::from((std::net::Ipv4Addr::from_bits(address << 8), 1))));
        }
        assert_eq!(guesses.addresses.lock().len(), ADDRESSES_MAX);
    }
}
