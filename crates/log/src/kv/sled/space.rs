//! Keeps sled away from a full disk: one ENOSPC inside it is the end of the store, and on a full disk it does not even open.
//!
//! It never decides on data: it only says whether there is room, and keeps a file that can be given up to make some.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::kv::Batch;
use crate::kv::sled::SledConfig;

/// What is known of the room on the store's file system.
#[derive(Debug)]
pub(super) struct Space {
    dir: PathBuf,
    reserve: PathBuf,
    has_reserve: bool,
    free_bytes_min: u64,
    reserve_bytes: u64,
}

impl Space {
    pub(super) fn new(dir: &Path, config: &SledConfig) -> Space {
        let total = room(dir).map_or(u64::MAX, |room| room.total);
        let reserve = dir.join(RESERVE_NAME);
        let has_reserve = reserve.exists();
        Space {
            dir: dir.to_owned(),
            reserve,
            has_reserve,
            free_bytes_min: config.free_bytes_min.min(total / 8),
            reserve_bytes: config.reserve_bytes.min(total / 16),
        }
    }

    /// Whether a batch may be given to sled. A batch that mostly deletes may use half of what the others must leave, and
    /// the reserve too: it is how room is made.
    pub(super) fn has_room_for(&mut self, batch: &Batch) -> bool {
        let Ok(mut free) = room(&self.dir).map(|room| room.free) else { return true };
        let weight = u64::try_from(batch.bytes()).unwrap_or(u64::MAX).saturating_mul(WRITE_AMPLIFICATION);
        let puts = batch.entries().iter().filter(|(_, value)| value.is_some()).count();
        let is_freeing = puts <= batch.entries().len() / 2;
        let floor = if is_freeing { self.free_bytes_min / 2 } else { self.free_bytes_min };
        let needed = floor.saturating_add(weight);
        if free < needed && is_freeing && self.release_reserve() {
            free = room(&self.dir).map_or(0, |room| room.free);
        }
        if free > needed.saturating_add(2 * self.reserve_bytes) {
            self.make_reserve();
        }
        free >= needed
    }

    /// Gives up the reserve if sled could not be opened without that room.
    pub(super) fn make_room_to_open(&mut self) {
        let is_tight = room(&self.dir).is_ok_and(|room| room.free < self.free_bytes_min / 2);
        if is_tight {
            self.release_reserve();
        }
    }

    /// Gives up the reserve. Says whether there was one.
    pub(super) fn release_reserve(&mut self) -> bool {
        let had_reserve = self.has_reserve && fs::remove_file(&self.reserve).is_ok();
        if had_reserve {
            tracing::warn!(dir = %self.dir.display(), "the disk is nearly full: the reserve file is released");
        }
        self.has_reserve = false;
        had_reserve
    }

    fn make_reserve(&mut self) {
        if self.has_reserve {
            return;
        }
        match write_reserve(&self.reserve, self.reserve_bytes) {
            Ok(()) => self.has_reserve = true,
            Err(error) => tracing::warn!(dir = %self.dir.display(), %error, "the reserve file cannot be made"),
        }
    }
}

struct Room {
    total: u64,
    free: u64,
}

fn room(dir: &Path) -> io::Result<Room> {
    let stat = rustix::fs::statvfs(dir)?;
    Ok(Room { total: stat.f_blocks.saturating_mul(stat.f_frsize), free: stat.f_bavail.saturating_mul(stat.f_frsize) })
}

/// Written out, not punched: a sparse file would reserve nothing.
fn write_reserve(path: &Path, bytes: u64) -> io::Result<()> {
    let mut file = File::create(path)?;
    let block = vec![0; 64 * 1024];
    for _ in 0..bytes / 65_536 {
        if let Err(error) = file.write_all(&block) {
            drop(file);
            fs::remove_file(path)?;
            return Err(error);
        }
    }
    Ok(())
}

const RESERVE_NAME: &str = "reserve";

/// How many bytes sled may write for one of a batch before the room is looked at again: it rewrites whole pages.
const WRITE_AMPLIFICATION: u64 = 8;
