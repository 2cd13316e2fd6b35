//! Counters of a running server. Relaxed: each is right, but they are not a snapshot of one moment.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What a server has done since it was opened, and what it holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerStats {
    /// Connections now, in-process subscriptions included.
    pub connections: u64,
    /// Connections since the server was opened.
    pub connections_total: u64,
    /// Subscriptions that follow a topic now.
    pub subscriptions: u64,
    /// Events stored durably.
    pub events_in: u64,
    /// Events written for readers.
    pub deliveries: u64,
    /// Commits, each with one fsync.
    pub commits: u64,
    /// Emits refused because too much was waiting for the disk.
    pub overloads: u64,
    /// Reads that the newest events in memory could not answer.
    pub cold_reads: u64,
    /// Whether the disk is full, so that emits are refused for now. Reads go on.
    pub storage_full: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) connections_total: AtomicU64,
    pub(crate) subscriptions: AtomicU64,
    pub(crate) events_in: AtomicU64,
    pub(crate) deliveries: AtomicU64,
    pub(crate) commits: AtomicU64,
    pub(crate) overloads: AtomicU64,
    pub(crate) cold_reads: AtomicU64,
}

impl Counters {
    pub(crate) fn read(&self, connections: usize, storage_full: bool) -> ServerStats {
        ServerStats {
            connections: connections as u64,
            connections_total: self.connections_total.load(Relaxed),
            subscriptions: self.subscriptions.load(Relaxed),
            events_in: self.events_in.load(Relaxed),
            deliveries: self.deliveries.load(Relaxed),
            commits: self.commits.load(Relaxed),
            overloads: self.overloads.load(Relaxed),
            cold_reads: self.cold_reads.load(Relaxed),
            storage_full,
        }
    }
}

pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Relaxed);
}

pub(crate) fn subtract(counter: &AtomicU64, n: u64) {
    counter.fetch_sub(n, Relaxed);
}
