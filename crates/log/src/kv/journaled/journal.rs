//! The journals' files: which generation is where, records as they lie on the disk, and reading them back. The only place
//! that knows their bytes.
//!
//! ```text
//! page 0, page 1   crc32c:u32 | magic:u32 | version:u32 | nonce:u64 | generation:u64          (twice the same)
//! then records     crc32c:u32 | nonce:u64 | index:u64 | bytes:u32 | entries, to the next page
//! entry            key:u16 | value+1:u32, or 0 if it is deleted | key | value
//! ```
//!
//! A file is written over and over, one generation after another, so that a sync has no metadata to write. The nonce is in
//! every checksum: records of an earlier generation, or bytes of an event that look like a record, are none. Records begin on
//! pages, so that no write touches a page that an earlier sync has confirmed.

use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::kv::descriptors::patiently;
use crate::kv::{BATCH_BYTES_MAX, KvError, WriteBatch};

/// The files, one of which takes the records of the present generation.
pub(super) struct Journals {
    dir: PathBuf,
    slots: Vec<Slot>,
    active: usize,
    position: u64,
    index: u64,
    bytes_max: u64,
    /// The record to be written next.
    record: Vec<u8>,
}

#[derive(Default)]
struct Slot {
    file: Option<File>,
    /// How long it is: what lies before this needs no metadata.
    bytes: u64,
    generation: u64,
    nonce: u64,
}

/// What an open has found.
pub(super) struct ReplayedJournals {
    /// The batches of all generations that are not settled, in order.
    pub(super) batches: Vec<WriteBatch>,
    /// How many generations that are.
    pub(super) generations: usize,
    /// The newest generation that has begun.
    pub(super) newest: u64,
}

impl Journals {
    /// Reads the journals of a directory. Generations up to `settled` count no more.
    pub(super) fn open(dir: &Path, bytes_max: u64, settled: u64) -> Result<(Journals, ReplayedJournals), KvError> {
        let bytes_max = bytes_max.max(BYTES_MIN);
        let mut slots = Vec::new();
        let mut generations = Vec::new();
        while slots.len() < SLOTS || path(dir, slots.len()).exists() {
            let read = read_slot(&path(dir, slots.len()), settled);
            let (slot, batches) = read.map_err(|error| failed("reading the journal", &error))?;
            if slot.generation > settled {
                generations.push((slot.generation, batches));
            }
            slots.push(slot);
        }
        prepare(dir, &mut slots);
        generations.sort_by_key(|(generation, _)| *generation);
        let mut found = ReplayedJournals { batches: Vec::new(), generations: generations.len(), newest: settled };
        for (generation, batches) in generations {
            if generation != found.newest + 1 {
                let words = "the journal does not follow what the store holds; restore both from one backup";
                return Err(KvError::Failed(words.to_owned()));
            }
            found.newest = generation;
            found.batches.extend(batches);
        }
        let dir = dir.to_owned();
        Ok((Journals { dir, slots, active: 0, position: 0, index: 0, bytes_max, record: Vec::new() }, found))
    }

    /// Begins a generation in a file whose own is settled, or in a new one. It is on the disk with its first record.
    pub(super) fn begin(&mut self, generation: u64, settled: u64) -> io::Result<()> {
        let free = self.slots.iter().position(|slot| slot.generation <= settled);
        let at = free.unwrap_or(self.slots.len());
        if at == self.slots.len() {
            self.slots.push(Slot::default());
        }
        let nonce = RandomState::new().build_hasher().finish();
        let slot = &mut self.slots[at];
        let file = match slot.file.take() {
            Some(file) => file,
            None => patiently("opening a journal", || create(&self.dir, at))?,
        };
        let file = slot.file.insert(file);
        let head = [head(nonce, generation), head(nonce, generation)].concat();
        file.write_all_at(&head, 0)?;
        slot.bytes = slot.bytes.max(HEAD_BYTES);
        (slot.generation, slot.nonce) = (generation, nonce);
        (self.active, self.position, self.index) = (at, HEAD_BYTES, 0);
        Ok(())
    }

    /// The present generation.
    pub(super) fn generation(&self) -> u64 {
        self.slots[self.active].generation
    }

    pub(super) fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// How many bytes of the present generation are used.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Makes a record. Gives its size in bytes.
    pub(super) fn encode(&mut self, batch: &WriteBatch) -> u64 {
        let out = &mut self.record;
        out.clear();
        out.resize(RECORD_HEAD_BYTES, 0);
        for (key, value) in batch.entries() {
            // A batch that was checked has shorter ones.
            out.extend_from_slice(&u16::try_from(key.len()).unwrap_or(u16::MAX).to_le_bytes());
            let value_field = value.as_ref().map_or(0, |value| u32::try_from(value.len() + 1).unwrap_or(u32::MAX));
            out.extend_from_slice(&value_field.to_le_bytes());
            out.extend_from_slice(key);
            out.extend_from_slice(value.as_deref().unwrap_or_default());
        }
        let bytes = u32::try_from(out.len() - RECORD_HEAD_BYTES).unwrap_or(u32::MAX);
        out[20..24].copy_from_slice(&bytes.to_le_bytes());
        out.resize(out.len().next_multiple_of(PAGE), 0);
        u64::try_from(out.len()).unwrap_or(u64::MAX)
    }

    /// Writes the record that was made last behind the one before it. If that fails, the next one takes its place.
    pub(super) fn write(&mut self) -> io::Result<()> {
        let slot = &mut self.slots[self.active];
        let file = slot.file.as_ref().ok_or_else(|| io::Error::other("no journal has begun"))?;
        self.record[4..12].copy_from_slice(&slot.nonce.to_le_bytes());
        self.record[12..20].copy_from_slice(&self.index.to_le_bytes());
        let bytes = u32::from_le_bytes([self.record[20], self.record[21], self.record[22], self.record[23]]);
        let end = RECORD_HEAD_BYTES + usize::try_from(bytes).unwrap_or(usize::MAX);
        let crc = crc32c::crc32c(&self.record[4..end]);
        self.record[..4].copy_from_slice(&crc.to_le_bytes());
        let length = u64::try_from(self.record.len()).unwrap_or(u64::MAX);
        let next = self.position + length;
        file.write_all_at(&self.record, self.position)?;
        if slot.bytes < next {
            // The records that follow find their blocks there.
            let grown = next.next_multiple_of(ZEROS.len() as u64);
            let zeros = ZEROS.len() as u64 - (grown - next);
            file.write_all_at(&ZEROS[usize::try_from(zeros).unwrap_or(ZEROS.len())..], next)?;
            slot.bytes = grown;
        }
        self.position = next;
        self.index += 1;
        Ok(())
    }

    /// Makes what was written durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.slots[self.active].file.as_ref().map_or(Ok(()), File::sync_data)
    }

    /// Bytes of all files.
    pub(super) fn bytes_on_disk(&self) -> u64 {
        self.slots.iter().map(|slot| slot.bytes).sum()
    }
}

fn path(dir: &Path, slot: usize) -> PathBuf {
    dir.join(format!("journal.{slot}"))
}

fn create(dir: &Path, slot: usize) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(path(dir, slot))?;
    File::open(dir)?.sync_all()?;
    Ok(file)
}

/// Makes the files that are used later, so that a running store needs no descriptor more. What cannot be made now is made
/// when it is needed.
fn prepare(dir: &Path, slots: &mut [Slot]) {
    for (at, slot) in slots.iter_mut().enumerate().filter(|(_, slot)| slot.file.is_none()) {
        slot.file = create(dir, at).ok();
    }
}

/// Reads one file. What an ended process wrote is synced first: what is read here must not be taken back by a power cut.
fn read_slot(path: &Path, settled: u64) -> io::Result<(Slot, Vec<WriteBatch>)> {
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok((Slot::default(), Vec::new()));
        }
        Err(error) => return Err(error),
    };
    file.sync_all()?;
    let bytes = file.metadata()?.len();
    let mut heads = vec![0; usize::try_from(bytes.min(HEAD_BYTES)).unwrap_or(0)];
    file.read_exact_at(&mut heads, 0)?;
    let (nonce, generation) = heads.chunks(PAGE).find_map(read_head).unwrap_or((0, 0));
    let slot = Slot { file: Some(file), bytes, generation, nonce };
    if generation <= settled {
        return Ok((slot, Vec::new()));
    }
    let content = std::fs::read(path)?;
    let rest = content.get(2 * PAGE..).unwrap_or_default();
    Ok((slot, read_records(rest, nonce, generation)))
}

/// The records of one generation. Its end is where nothing more of it is found; the last record may be torn, and was then
/// never confirmed. One that is damaged before others is told, and the others count: the log sees what is missing.
fn read_records(bytes: &[u8], nonce: u64, generation: u64) -> Vec<WriteBatch> {
    let mut batches = Vec::new();
    let (mut at, mut expected) = (0, 0);
    while at < bytes.len() {
        match read_record(&bytes[at..], nonce) {
            Some((index, batch, length)) if index >= expected => {
                if index > expected {
                    tracing::error!(generation, from = expected, to = index, "records of the journal are damaged");
                }
                batches.push(batch);
                expected = index + 1;
                at += length;
            }
            Some(_) | None => at += PAGE,
        }
    }
    batches
}

/// A record with its index, and how many bytes it takes.
fn read_record(bytes: &[u8], nonce: u64) -> Option<(u64, WriteBatch, usize)> {
    let (head, rest) = bytes.split_first_chunk::<RECORD_HEAD_BYTES>()?;
    let (crc, head) = head.split_first_chunk::<4>()?;
    let (found, head_rest) = head.split_first_chunk::<8>()?;
    let (index, head_rest) = head_rest.split_first_chunk::<8>()?;
    let length = usize::try_from(u32::from_le_bytes(head_rest.try_into().ok()?)).ok()?;
    if u64::from_le_bytes(*found) != nonce {
        return None;
    }
    let body = rest.get(..length)?;
    if crc32c::crc32c_append(crc32c::crc32c(head), body) != u32::from_le_bytes(*crc) {
        return None;
    }
    Some((u64::from_le_bytes(*index), read_batch(body)?, (RECORD_HEAD_BYTES + length).next_multiple_of(PAGE)))
}

fn read_batch(mut bytes: &[u8]) -> Option<WriteBatch> {
    let mut batch = WriteBatch::default();
    while !bytes.is_empty() {
        let (key_bytes, rest) = bytes.split_first_chunk::<2>()?;
        let (value_field, rest) = rest.split_first_chunk::<4>()?;
        let (key, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*key_bytes)))?;
        bytes = match usize::try_from(u32::from_le_bytes(*value_field)).ok()?.checked_sub(1) {
            None => {
                batch.delete(key.to_vec());
                rest
            }
            Some(value_bytes) => {
                let (value, rest) = rest.split_at_checked(value_bytes)?;
                batch.put(key.to_vec(), value.to_vec());
                rest
            }
        };
    }
    Some(batch)
}

fn head(nonce: u64, generation: u64) -> [u8; PAGE] {
    let mut page = [0; PAGE];
    page[4..8].copy_from_slice(&MAGIC.to_le_bytes());
    page[8..12].copy_from_slice(&VERSION.to_le_bytes());
    page[12..20].copy_from_slice(&nonce.to_le_bytes());
    page[20..28].copy_from_slice(&generation.to_le_bytes());
    let crc = crc32c::crc32c(&page[4..28]);
    page[..4].copy_from_slice(&crc.to_le_bytes());
    page
}

fn read_head(page: &[u8]) -> Option<(u64, u64)> {
    let nonce = u64::from_le_bytes(page.get(12..20)?.try_into().ok()?);
    let generation = u64::from_le_bytes(page.get(20..28)?.try_into().ok()?);
    (page.get(..28)? == &head(nonce, generation)[..28]).then_some((nonce, generation))
}

/// What an open fails with.
pub(super) fn failed(doing: &str, error: &io::Error) -> KvError {
    if error.kind() == io::ErrorKind::StorageFull {
        KvError::Full
    } else {
        KvError::Failed(format!("{doing}: {error}"))
    }
}

/// What disks and file systems write at least.
const PAGE: usize = 4096;
const HEAD_BYTES: u64 = 2 * 4096;
const RECORD_HEAD_BYTES: usize = 24;
const MAGIC: u32 = 0x4c4a_4452;
const VERSION: u32 = 1;

/// One is written, one is settled, and one lies between a process that was killed and the next.
const SLOTS: usize = 3;

/// The largest batch has a place in the emptiest journal, with room to spare.
const BYTES_MIN: u64 = 4 * BATCH_BYTES_MAX as u64;

/// A file grows by so much at a time.
static ZEROS: [u8; 256 * 1024] = [0; 256 * 1024];
