//! What goes wrong: links, processes, the server, its store, its clock. Drawn from the seed, one after another.

use std::time::Duration;

use redeliver_log::LogError;
use redeliver_log::kv::faulty::{Faults, Image};
use redeliver_protocol::server::ConnectionId;

use crate::history::{Entry, Origin, Snapshot};
use crate::link::Way;
use crate::world::{Due, WALL_BEGIN_MILLIS, World};

/// A fault that ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The disk is full.
    StorageFull,
    /// Nothing goes between this client and the server.
    Parted(usize),
}

impl World {
    /// Makes the next fault, and plans the one after it.
    pub(crate) fn make_fault(&mut self) {
        if self.calm {
            return;
        }
        let mean = u64::try_from(self.plan.fault_pause.as_micros()).unwrap_or(u64::MAX);
        let pause = Duration::from_micros(self.rng.between(0, mean * 2));
        self.queue.after(pause, Due::Fault);
        match self.rng.below(20) {
            0..=4 => self.cut_some_link(),
            5 | 6 => self.stall_some_link(),
            7 => self.one_way(),
            8 => self.cut_everybody(),
            9 | 10 => self.crash_and_restart(),
            11 => self.restart_gracefully(),
            12..=14 => self.crash_some_process(),
            15 => self.storage_full(),
            16 => self.part_some_client(),
            17 => self.jump_clock(),
            18 => self.take_snapshot(),
            _ => self.lose_store(),
        }
    }

    /// Everything is whole again; what is half-open stays so until somebody notices.
    pub(crate) fn heal_all(&mut self) {
        self.parted.clear();
        self.heal(Fault::StorageFull);
        if self.server.as_ref().is_none_or(|server| server.draining) {
            self.queue.after(Duration::from_millis(1_500), Due::StartServer);
        }
    }

    pub(crate) fn heal(&mut self, fault: Fault) {
        match fault {
            Fault::StorageFull => {
                if let Some(server) = &self.server {
                    server.kv.set_faults(Faults::default());
                }
            }
            Fault::Parted(client) => self.parted.retain(|parted| *parted != client),
        }
    }

    fn cut_some_link(&mut self) {
        let Some(connection) = self.some_connection() else { return };
        let (client, server) = (self.notice(), self.notice());
        self.fault(format!(
            "connection {connection} is cut, noticed by the client {client:?}, by the server {server:?}"
        ));
        self.cut_link(connection, client, server);
    }

    fn cut_everybody(&mut self) {
        self.fault("every connection is cut".to_owned());
        for connection in self.open_connections() {
            let (client, server) = (self.notice(), self.notice());
            self.cut_link(connection, client, server);
        }
    }

    fn stall_some_link(&mut self) {
        let Some(connection) = self.some_connection() else { return };
        let until = self.queue.now() + Duration::from_millis(self.rng.between(10, 6_000));
        let ways: &[Way] = match self.rng.below(3) {
            0 => &[Way::Up],
            1 => &[Way::Down],
            _ => &[Way::Up, Way::Down],
        };
        self.fault(format!("connection {connection} stalls {ways:?}"));
        for way in ways {
            if let Some(link) = self.links.get_mut(&connection) {
                link.pipe(*way).stall(until);
            }
        }
    }

    fn one_way(&mut self) {
        let Some(connection) = self.some_connection() else { return };
        let way = if self.rng.chance(500) { Way::Up } else { Way::Down };
        self.fault(format!("connection {connection} carries nothing {way:?} any more"));
        let now = self.queue.now();
        if let Some(link) = self.links.get_mut(&connection) {
            let _ = link.pipe(way).cut(None, &mut self.rng, now);
        }
    }

    fn crash_and_restart(&mut self) {
        self.crash_server();
        let down = Duration::from_millis(self.rng.between(0, 2_500));
        self.queue.after(down, Due::StartServer);
    }

    fn restart_gracefully(&mut self) {
        self.drain_server();
        let down = Duration::from_millis(self.rng.between(1_001, 2_500));
        self.queue.after(down, Due::StartServer);
    }

    fn crash_some_process(&mut self) {
        let living = self.living();
        if !living.is_empty() {
            let process = *self.rng.pick(&living);
            self.crash_process(process);
        }
    }

    fn storage_full(&mut self) {
        let Some(server) = &self.server else { return };
        if self.plan.mutant.is_some() {
            return;
        }
        self.fault_of_storage(server.kv.clone().as_ref());
        let full = Duration::from_millis(self.rng.between(100, 3_000));
        self.queue.after(full, Due::Heal(Fault::StorageFull));
    }

    fn fault_of_storage(&mut self, kv: &redeliver_log::kv::faulty::FaultyKv) {
        kv.set_faults(Faults { capacity_bytes: Some(0), ..Faults::default() });
        self.fault("the disk is full".to_owned());
    }

    /// The next sync fails, after which the server must not go on.
    pub(crate) fn fail_next_sync(&mut self) {
        let Some(server) = self.server.as_ref().filter(|_| !self.calm) else { return };
        let (_, syncs) = server.kv.operations();
        server.kv.set_faults(Faults { fail_sync: Some(syncs + 1), ..Faults::default() });
        self.disk.fails = true;
        self.fault("the next sync fails".to_owned());
    }

    /// The log has failed. If a sync was made to fail the process ends, as a server's must; else it is a bug.
    pub(crate) fn log_failed(&mut self, doing: &str, error: &LogError) {
        if !self.disk.fails {
            return self.fail(format!("{doing} failed: {error}"));
        }
        self.fault(format!("{doing} failed: {error}"));
        self.crash_and_restart();
    }

    fn part_some_client(&mut self) {
        let client = self.rng.index(self.clients.len());
        self.fault(format!("client {client} is parted from the server"));
        self.parted.push(client);
        let connection = self.clients[client].process.as_ref().and_then(|running| running.connection);
        if let Some(connection) = connection {
            let (client, server) = (self.notice(), self.notice());
            self.cut_link(connection, client, server);
        }
        let time = Duration::from_millis(self.rng.between(500, 5_000));
        self.queue.after(time, Due::Heal(Fault::Parted(client)));
    }

    fn jump_clock(&mut self) {
        let millis = *self.rng.pick(&[-86_400_000, -10_000, 10_000, 86_400_000, 315_360_000_000]);
        self.fault(format!("the server's clock jumps by {millis} ms"));
        self.wall_offset_millis += millis;
        self.record(Entry::ClockSet);
    }

    /// The server's clock is set: years ahead, a day back, to 1970, or right again.
    pub(crate) fn set_clock(&mut self) {
        if self.calm {
            return;
        }
        let kept_for = self.plan.kept.age_micros.map_or(10_000, |age| i64::try_from(age / 1000).unwrap_or(10_000));
        let now = self.wall_offset_millis;
        self.wall_offset_millis = match self.extra_rng.below(6) {
            0 => now + 315_360_000_000,
            1 => now - 86_400_000,
            2 => 1_000 - WALL_BEGIN_MILLIS,
            3 => now + kept_for,
            4 => now - kept_for,
            _ => 0,
        };
        self.fault(format!("the server's clock is set {} ms off", self.wall_offset_millis));
        self.record(Entry::ClockSet);
        self.plan_clock();
    }

    pub(crate) fn plan_clock(&mut self) {
        let Some(mean) = self.plan.extras.clock_pause else { return };
        let millis = u64::try_from(mean.as_millis()).unwrap_or(0);
        let pause = Duration::from_millis(self.extra_rng.between(0, millis * 2));
        self.queue.after(pause, Due::SetClock);
    }

    fn take_snapshot(&mut self) {
        if !self.plan.store_faults {
            return self.cut_some_link();
        }
        let Some(server) = &self.server else { return };
        let snapshot = Snapshot(u32::try_from(self.disk.snapshots.len()).unwrap_or(u32::MAX));
        self.disk.snapshots.push((snapshot, server.kv.durable()));
        self.record(Entry::SnapshotTaken(snapshot));
    }

    /// The store is wiped, or an older copy of it is put back.
    fn lose_store(&mut self) {
        if !self.plan.store_faults {
            return self.crash_and_restart();
        }
        self.crash_server();
        if self.disk.snapshots.is_empty() || self.rng.chance(300) {
            self.fault("the store is wiped".to_owned());
            self.disk.store = Image::default();
            self.disk.origin = Origin::Wiped;
        } else {
            let (snapshot, image) = self.rng.pick(&self.disk.snapshots).clone();
            self.fault(format!("{snapshot:?} is put back"));
            self.disk.store = image;
            self.disk.origin = Origin::Restored(snapshot);
        }
        let down = Duration::from_millis(self.rng.between(0, 1_500));
        self.queue.after(down, Due::StartServer);
    }

    /// When one side notices that a connection is gone, if it does.
    fn notice(&mut self) -> Option<Duration> {
        match self.rng.below(4) {
            0 => None,
            1 => Some(Duration::ZERO),
            _ => Some(Duration::from_millis(self.rng.between(0, 3_000))),
        }
    }

    fn some_connection(&mut self) -> Option<ConnectionId> {
        let open = self.open_connections();
        (!open.is_empty()).then(|| *self.rng.pick(&open))
    }

    fn open_connections(&self) -> Vec<ConnectionId> {
        self.clients.iter().filter_map(|client| client.process.as_ref()?.connection).collect()
    }
}
