//! Keeps sled away from a full disk: one ENOSPC inside it is the end of the store, and on a full disk it does not even open.
//!
//! sled's file hardly ever shrinks, but what is deleted makes room within it. So the less of the file is live, the less
//! room beside it is asked for: a disk that the store itself has filled is used again once enough of the store is trimmed.
//! All of this is estimates. They never decide on data, only on whether a batch may be tried.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::kv::WriteBatch;
use crate::kv::descriptors::is_out_of_descriptors;
use crate::kv::sled::SledConfig;

/// What is known of the room on the store's file system.
#[derive(Debug)]
pub(super) struct Space {
    dir: PathBuf,
    reserve: PathBuf,
    has_reserve: bool,
    free_bytes_min: u64,
    reserve_bytes: u64,
    /// Whether there was ample room at some time since the store was opened.
    was_ample: bool,
    /// Bytes of keys and values in the store, while room is tight and once they were counted.
    live_bytes: Option<u64>,
}

/// Whether a batch may be given to sled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// It may.
    Ample,
    /// It may, and [`Space::replaced`] is to be told of it.
    Tight,
    /// It must be refused.
    None,
    /// That depends on how much of the store is live: [`Space::counted`] is to be told, and asked again.
    Uncounted,
}

impl Space {
    pub(super) fn new(dir: &Path, config: &SledConfig) -> Space {
        let total = disk(dir).map_or(u64::MAX, |disk| disk.total);
        let reserve = dir.join(RESERVE_NAME);
        let has_reserve = reserve.exists();
        Space {
            dir: dir.to_owned(),
            reserve,
            has_reserve,
            free_bytes_min: config.free_bytes_min.min(total / 8),
            reserve_bytes: config.reserve_bytes.min(total / 16),
            was_ample: false,
            live_bytes: None,
        }
    }

    /// Whether there is room for a batch beside, or within, a store of so many bytes, behind others that wait.
    pub(super) fn room_for(&mut self, batch: &WriteBatch, waiting_bytes: u64, file_bytes: u64) -> Room {
        let Ok(mut free) = disk(&self.dir).map(|disk| disk.free) else { return Room::Ample };
        let weight = length(batch.bytes()).saturating_mul(WRITE_AMPLIFICATION);
        let weight = weight.saturating_add(waiting_bytes.saturating_mul(WAITING_AMPLIFICATION));
        let ample = self.free_bytes_min.saturating_add(weight);
        if free >= ample {
            self.was_ample = true;
            // Well above it, so that making the reserve does not make room tight again, and the count is not lost for it.
            if free >= ample.saturating_add(ample).saturating_add(2 * self.reserve_bytes) {
                self.live_bytes = None;
                self.make_reserve();
            }
            return if self.live_bytes.is_some() { Room::Tight } else { Room::Ample };
        }
        let Some(live) = self.live_bytes else {
            if !self.was_ample {
                return Room::Uncounted;
            }
            // What sled keeps to by itself. Counting would stop the writer for as long as reading the whole store takes.
            self.counted(file_bytes / 2);
            return self.room_for(batch, waiting_bytes, file_bytes);
        };
        let least = self.free_bytes_min / 8;
        let mut needed = needed_when_tight(ample, least, live, file_bytes);
        if is_freeing(batch) {
            needed = (needed / 2).max(least);
            if free < needed && self.release_reserve() {
                free = disk(&self.dir).map_or(0, |disk| disk.free);
            }
        }
        if free >= needed { Room::Tight } else { Room::None }
    }

    /// How many bytes of keys and values the store holds.
    pub(super) fn counted(&mut self, live_bytes: u64) {
        self.live_bytes = Some(live_bytes);
    }

    /// A batch was allowed while room was tight, and takes the place of so many bytes of keys and values.
    pub(super) fn replaced(&mut self, batch: &WriteBatch, replaced_bytes: u64) {
        let puts = batch.entries().iter().filter_map(|(key, value)| Some(key.len() + value.as_ref()?.len()));
        let put_bytes = puts.map(length).sum::<u64>();
        self.live_bytes = self.live_bytes.map(|live| live.saturating_add(put_bytes).saturating_sub(replaced_bytes));
    }

    /// Gives up the reserve if sled could not be opened without that room.
    pub(super) fn make_room_to_open(&mut self) {
        if disk(&self.dir).is_ok_and(|disk| disk.free < self.free_bytes_min / 2) {
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

    /// Takes what is free on a nearly full disk as a reserve again, after opening has needed it: the next opening will.
    pub(super) fn restore_reserve(&mut self) {
        let Ok(disk) = disk(&self.dir) else { return };
        let bytes = self.reserve_bytes.min(disk.free / RESERVE_BLOCK as u64 * RESERVE_BLOCK as u64);
        if !self.has_reserve && disk.free < self.free_bytes_min && bytes > 0 {
            self.write_reserve(bytes);
        }
    }

    fn make_reserve(&mut self) {
        if !self.has_reserve {
            self.write_reserve(self.reserve_bytes);
        }
    }

    fn write_reserve(&mut self, bytes: u64) {
        match write_reserve(&self.reserve, bytes) {
            Ok(()) => self.has_reserve = true,
            // It is tried again with each batch until it is there.
            Err(error) if is_out_of_descriptors(&error) => {}
            Err(error) => tracing::warn!(dir = %self.dir.display(), %error, "the reserve file cannot be made"),
        }
    }
}

/// All that is ample while half of the file or more is live, and the least once it is a quarter or less: then there is more
/// room within the file than a batch can take.
fn needed_when_tight(ample: u64, least: u64, live_bytes: u64, file_bytes: u64) -> u64 {
    let quarter = (file_bytes / 4).max(1);
    let above_a_quarter = live_bytes.saturating_sub(quarter).min(quarter);
    let scaled = u128::from(ample.saturating_sub(least)) * u128::from(above_a_quarter) / u128::from(quarter);
    least + u64::try_from(scaled).unwrap_or(ample)
}

/// Whether a batch mostly deletes: that is how room is made.
fn is_freeing(batch: &WriteBatch) -> bool {
    let puts = batch.entries().iter().filter(|(_, value)| value.is_some()).count();
    puts <= batch.entries().len() / 2
}

struct Disk {
    total: u64,
    free: u64,
}

fn disk(dir: &Path) -> io::Result<Disk> {
    let stat = rustix::fs::statvfs(dir)?;
    Ok(Disk { total: stat.f_blocks.saturating_mul(stat.f_frsize), free: stat.f_bavail.saturating_mul(stat.f_frsize) })
}

/// Written out, not punched: a sparse file would reserve nothing.
fn write_reserve(path: &Path, bytes: u64) -> io::Result<()> {
    let mut file = File::create(path)?;
    let block = vec![0; RESERVE_BLOCK];
    for _ in 0..bytes / RESERVE_BLOCK as u64 {
        if let Err(error) = file.write_all(&block) {
            drop(file);
            fs::remove_file(path)?;
            return Err(error);
        }
    }
    Ok(())
}

fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

const RESERVE_NAME: &str = "reserve";

/// The reserve is written in pieces of so many bytes.
const RESERVE_BLOCK: usize = 64 * 1024;

/// How many bytes sled may write for one of a batch before the room is looked at again: it rewrites whole pages.
const WRITE_AMPLIFICATION: u64 = 8;

/// The same for many batches together, of which it rewrites most pages once.
const WAITING_AMPLIFICATION: u64 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_less_of_the_file_is_live_the_less_room_beside_it_is_needed() {
        let (ample, file) = (64 << 20, 400 << 20);
        let needed = [400, 200, 150, 100, 0].map(|live| needed_when_tight(ample, 4 << 20, live << 20, file) >> 20);
        assert_eq!(needed, [64, 64, 34, 4, 4]);
    }

    #[test]
    fn deletes_and_folds_that_only_move_are_told_apart() {
        let mut batch = WriteBatch::default();
        batch.put(b"a".to_vec(), Vec::new());
        assert!(!is_freeing(&batch));
        batch.delete(b"b".to_vec());
        assert!(is_freeing(&batch));
    }
}
