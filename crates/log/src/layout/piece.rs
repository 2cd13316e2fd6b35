//! Values of any size, cut into pieces that the store takes, each with its own checksum.
//!
//! ```text
//! prefix | piece:u16  →  crc32c:u32 | pieces:u16 | bytes        (a value in pieces)
//! key                 →  crc32c:u32 | bytes                     (a small value)
//! ```

use crate::kv::{Direction, Entry, Kv, KvError, VALUE_BYTES_MAX, WriteBatch};
use crate::layout::{Damaged, key};

const CRC_BYTES: usize = 4;
const HEAD_BYTES: usize = CRC_BYTES + 2;

/// Bytes of a value that go into one piece.
pub(crate) const PIECE_BYTES: usize = VALUE_BYTES_MAX - HEAD_BYTES;

/// What stands under a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StoredValue {
    /// The value as it was written.
    Whole(Vec<u8>),
    /// Nothing.
    Nothing,
    /// Some of its pieces from the first on, each as it was written: what they hold.
    Beginning(Vec<u8>),
    /// Some of its pieces, but not the first ones.
    Incomplete,
    /// At least one piece is not what was written. If the beginning is, here it is.
    Damaged(Vec<u8>),
}

/// Puts a value in pieces under `prefix`.
pub(crate) fn put(batch: &mut WriteBatch, prefix: &[u8], value: &[u8]) {
    let pieces = count(value.len());
    for piece in 0..pieces {
        let start = usize::from(piece) * PIECE_BYTES;
        let bytes = &value[start..value.len().min(start + PIECE_BYTES)];
        let key = piece_key(prefix, piece);
        let mut sealed = Vec::with_capacity(HEAD_BYTES + bytes.len());
        sealed.extend_from_slice(&[0; CRC_BYTES]);
        sealed.extend_from_slice(&pieces.to_le_bytes());
        sealed.extend_from_slice(bytes);
        seal(&key, &mut sealed);
        batch.put(key, sealed);
    }
}

/// How many bytes [`put`] adds to a batch, at most.
pub(crate) fn batch_bytes(prefix_bytes: usize, value_bytes: usize) -> usize {
    value_bytes + usize::from(count(value_bytes)) * (HEAD_BYTES + prefix_bytes + 2)
}

/// Removes the pieces of a value.
pub(crate) fn delete(batch: &mut WriteBatch, prefix: &[u8], pieces: u16) {
    delete_from(batch, prefix, 0..pieces);
}

/// Removes some pieces of a value.
pub(crate) fn delete_from(batch: &mut WriteBatch, prefix: &[u8], pieces: std::ops::Range<u16>) {
    for piece in pieces {
        batch.delete(piece_key(prefix, piece));
    }
}

/// In how many pieces a value of this size lies.
pub(crate) fn count(value_bytes: usize) -> u16 {
    // Values are bounded by a batch of 1 MiB, or (manifests, folded topics of one run) by a small multiple of it.
    u16::try_from(value_bytes.div_ceil(PIECE_BYTES).max(1)).unwrap_or(u16::MAX)
}

/// Reads a value in pieces.
pub(crate) fn read(kv: &dyn Kv, prefix: &[u8]) -> Result<StoredValue, KvError> {
    let mut pieces = Pieces::default();
    for entry in kv.range(&piece_key(prefix, 0), &key::above_pieces(prefix), Direction::Up) {
        pieces.push(&entry?);
    }
    Ok(pieces.finish())
}

/// Puts a value that is known to fit into one piece.
pub(crate) fn put_small(batch: &mut WriteBatch, key: Vec<u8>, value: &[u8]) {
    debug_assert!(value.len() <= PIECE_BYTES);
    let mut sealed = Vec::with_capacity(CRC_BYTES + value.len());
    sealed.extend_from_slice(&[0; CRC_BYTES]);
    sealed.extend_from_slice(value);
    seal(&key, &mut sealed);
    batch.put(key, sealed);
}

/// A small value's bytes.
pub(crate) fn open_small<'a>(key: &[u8], sealed: &'a [u8]) -> Result<&'a [u8], Damaged> {
    let (crc, body) = sealed.split_first_chunk::<CRC_BYTES>().ok_or(Damaged)?;
    if u32::from_le_bytes(*crc) == checksum(key, body) { Ok(body) } else { Err(Damaged) }
}

/// The pieces of one value, gathered in the order of their keys.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    value: Vec<u8>,
    next: u16,
    total: Option<u16>,
    incomplete: bool,
    damaged: bool,
}

impl Pieces {
    /// Takes the next piece.
    pub(crate) fn push(&mut self, (key, sealed): &Entry) {
        let Ok((total, bytes)) = open_piece(key, sealed) else {
            self.damaged = true;
            self.next = self.next.saturating_add(1);
            return;
        };
        let piece = key.last_chunk::<2>().map_or(0, |bytes| u16::from_be_bytes(*bytes));
        if piece != self.next {
            self.incomplete = true;
        }
        self.next = piece.saturating_add(1);
        self.total = Some(total);
        if !self.damaged && !self.incomplete {
            self.value.extend_from_slice(bytes);
        }
    }

    /// What they are together.
    pub(crate) fn finish(self) -> StoredValue {
        if self.next == 0 {
            return StoredValue::Nothing;
        }
        if self.damaged {
            StoredValue::Damaged(self.value)
        } else if self.incomplete {
            StoredValue::Incomplete
        } else if self.total.is_some_and(|total| self.next < total) {
            StoredValue::Beginning(self.value)
        } else {
            StoredValue::Whole(self.value)
        }
    }
}

fn open_piece<'a>(key: &[u8], sealed: &'a [u8]) -> Result<(u16, &'a [u8]), Damaged> {
    let body = open_small(key, sealed)?;
    let (total, bytes) = body.split_first_chunk::<2>().ok_or(Damaged)?;
    Ok((u16::from_le_bytes(*total), bytes))
}

fn piece_key(prefix: &[u8], piece: u16) -> Vec<u8> {
    let mut key = Vec::with_capacity(prefix.len() + 2);
    key.extend_from_slice(prefix);
    key.extend_from_slice(&piece.to_be_bytes());
    key
}

fn seal(key: &[u8], sealed: &mut [u8]) {
    let crc = checksum(key, &sealed[CRC_BYTES..]);
    sealed[..CRC_BYTES].copy_from_slice(&crc.to_le_bytes());
}

fn checksum(key: &[u8], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gathered(batch: &WriteBatch, change: impl Fn(usize, &mut Vec<u8>) -> bool) -> StoredValue {
        let mut pieces = Pieces::default();
        for (index, (key, value)) in batch.entries().iter().enumerate() {
            let mut value = value.clone().expect("a put").to_vec();
            if change(index, &mut value) {
                pieces.push(&(key.clone(), value));
            }
        }
        pieces.finish()
    }

    #[test]
    fn a_value_of_any_size_comes_back_whole() {
        for size in [0, 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES] {
            let value: Vec<u8> = (0..=250).cycle().take(size).collect();
            let mut batch = WriteBatch::default();
            put(&mut batch, b"l12345678", &value);
            assert!(batch.entries().iter().all(|(_, v)| v.as_ref().is_some_and(|v| v.len() <= VALUE_BYTES_MAX)));
            assert!(batch.bytes() <= batch_bytes(9, size));
            assert_eq!(gathered(&batch, |_, _| true), StoredValue::Whole(value));
        }
    }

    #[test]
    fn a_missing_piece_and_a_flipped_bit_are_told_apart() {
        let mut batch = WriteBatch::default();
        put(&mut batch, b"l12345678", &vec![7; 3 * PIECE_BYTES]);
        assert_eq!(gathered(&batch, |index, _| index != 2), StoredValue::Beginning(vec![7; 2 * PIECE_BYTES]));
        assert_eq!(gathered(&batch, |index, _| index != 0), StoredValue::Incomplete);
        let flip = |index: usize, value: &mut Vec<u8>| {
            if index == 1 {
                value[100] ^= 1;
            }
            true
        };
        assert_eq!(gathered(&batch, flip), StoredValue::Damaged(vec![7; PIECE_BYTES]));
        assert_eq!(gathered(&batch, |_, _| false), StoredValue::Nothing);
    }

    #[test]
    fn a_small_value_under_another_key_is_damage() {
        let mut batch = WriteBatch::default();
        put_small(&mut batch, b"n1".to_vec(), b"value");
        let sealed = batch.entries()[0].1.clone().expect("a put");
        assert_eq!(open_small(b"n1", &sealed), Ok(&b"value"[..]));
        assert_eq!(open_small(b"n2", &sealed), Err(Damaged));
        assert_eq!(open_small(b"n1", &sealed[..3]), Err(Damaged));
    }
}
