//! How many sockets there may be: what the process may open, less a reserve for everything else. Never more than was
//! configured, and never so many that the log finds no descriptor.

use std::time::Duration;

/// What peers may take before they are authenticated, whatever they speak: TCP connections, HTTP requests, WebSocket
/// handshakes, Engine.IO sessions that have joined no namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StrangerLimits {
    /// Strangers at once. When there are as many, the oldest makes room for a newcomer. At most a quarter of all sockets.
    /// 1,024 unless set.
    pub strangers_max: usize,
    /// Strangers at once from one address (IPv4), or one network of 64 bits (IPv6). When there are as many, the oldest of
    /// them makes room. Not for `127.0.0.1` and `::1`, behind which a proxy may hide everybody. 128 unless set.
    pub per_address_max: usize,
    /// How long a peer may take until it is authenticated, from the moment that its connection was accepted. 10 s unless
    /// set.
    pub deadline: Duration,
}

impl Default for StrangerLimits {
    fn default() -> StrangerLimits {
        StrangerLimits { strangers_max: 1024, per_address_max: 128, deadline: Duration::from_secs(10) }
    }
}

/// How many sockets of which kind there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Budget {
    /// All sockets of listeners.
    pub(crate) sockets_max: usize,
    /// Those of peers that are not authenticated.
    pub(crate) strangers_max: usize,
    /// Connections that are authenticated, over whatever protocol.
    pub(crate) connections_max: usize,
}

impl Budget {
    /// The budget of a process that may have so many descriptors.
    pub(crate) fn new(connections_max: usize, strangers_max: usize, descriptors: usize) -> Budget {
        let sockets_max = descriptors.saturating_sub(DESCRIPTORS_RESERVED).max(SOCKETS_MIN);
        let strangers_max = strangers_max.min(sockets_max / 4).max(1);
        Budget { sockets_max, strangers_max, connections_max: connections_max.min(sockets_max - strangers_max) }
    }
}

/// How many descriptors this process may have now.
pub(crate) fn descriptors() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX)
}

/// For the store, the runtime, the standard streams, the listeners, the listener for operators, and what an app opens.
const DESCRIPTORS_RESERVED: usize = 64;

/// With fewer sockets than these a server is of no use.
const SOCKETS_MIN: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_as_many_as_were_configured_or_as_the_descriptors_allow() {
        let of = |connections, descriptors| {
            let budget = Budget::new(connections, 1024, descriptors);
            (budget.connections_max, budget.strangers_max, budget.sockets_max)
        };
        assert_eq!(of(65_536, 1_000_000), (65_536, 1024, 999_936));
        assert_eq!(of(65_536, 20_000), (18_912, 1024, 19_936));
        assert_eq!(of(65_536, 128), (48, 16, 64));
        assert_eq!(of(10, 128), (10, 16, 64));
        assert_eq!(of(65_536, 3), (6, 2, 8));
        assert_eq!(of(1, usize::MAX).0, 1);
    }
}
