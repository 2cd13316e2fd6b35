//! The small values: what stands under `m`, `e`, `p`, `c`, (of format 1) `n`, and the entries of `q`.

use bytes::BufMut;
use redeliver_protocol::history::{Cursor, GapCause, Place};
use redeliver_protocol::limits::EARLIER_EPOCHS_MAX;
use redeliver_protocol::redelivery::DeliveredThrough;
use redeliver_protocol::seq::{EmitNumber, Epoch, InstanceId, Nth, Position, Seq};
use redeliver_protocol::time::Timestamp;

use super::Damaged;
use super::reader::ByteReader;
use crate::clock::SavedClock;

/// `m | format`: which format, and when the log was created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Format {
    pub(crate) version: u32,
    pub(crate) created: Timestamp,
}

impl Format {
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(12);
        out.put_u32_le(self.version);
        out.put_u64_le(self.created.0);
        out
    }

    /// Reads the version whatever follows it: a newer format may say more.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Format, Damaged> {
        let mut reader = ByteReader::new(bytes);
        Ok(Format { version: reader.u32()?, created: Timestamp(reader.u64().unwrap_or(0)) })
    }
}

/// `w | key`: the beginning of a state, and what its rest must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StateHead<'a> {
    pub(crate) rest_bytes: usize,
    rest_crc: u32,
    pub(crate) first: &'a [u8],
}

impl<'a> StateHead<'a> {
    /// What of a state stands beside its head, in bytes.
    pub(crate) const FIRST_BYTES_MAX: usize = 6_900;

    pub(crate) fn new(first: &'a [u8], rest: &[u8]) -> StateHead<'a> {
        StateHead { rest_bytes: rest.len(), rest_crc: crc32c::crc32c(rest), first }
    }

    /// Whether this is its rest.
    pub(crate) fn has(&self, rest: &[u8]) -> bool {
        rest.len() == self.rest_bytes && crc32c::crc32c(rest) == self.rest_crc
    }

    pub(crate) fn encode(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(8 + self.first.len());
        out.put_u32_le(u32::try_from(self.rest_bytes).unwrap_or(u32::MAX));
        out.put_u32_le(self.rest_crc);
        out.put_slice(self.first);
        out
    }

    pub(crate) fn decode(bytes: &'a [u8]) -> Result<StateHead<'a>, Damaged> {
        let mut reader = ByteReader::new(bytes);
        let (rest_bytes, rest_crc) = (reader.u32()? as usize, reader.u32()?);
        Ok(StateHead { rest_bytes, rest_crc, first: &bytes[8..] })
    }
}

/// `m | plan`: the run that is being folded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FoldPlan {
    /// The first seq of its first commit.
    pub(crate) first: Seq,
    /// The last seq of its last commit.
    pub(crate) last: Seq,
    /// Whether its events are all below the floor: only names and publishers are taken out of it.
    pub(crate) is_trimmed: bool,
}

impl FoldPlan {
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(17);
        out.put_u64_le(self.first.0);
        out.put_u64_le(self.last.0);
        out.put_u8(u8::from(self.is_trimmed));
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<FoldPlan, Damaged> {
        let mut reader = ByteReader::new(bytes);
        let plan = FoldPlan { first: Seq(reader.u64()?), last: Seq(reader.u64()?), is_trimmed: reader.u8()? != 0 };
        if plan.first == Seq::ZERO || plan.last < plan.first { Err(Damaged) } else { Ok(plan) }
    }
}

/// The seq up to which (inclusive) events are hidden and may be gone, and which rule moved it there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Floor {
    pub(crate) seq: Seq,
    pub(crate) cause: GapCause,
}

impl Floor {
    pub(crate) const NONE: Floor = Floor { seq: Seq::ZERO, cause: GapCause::RetentionSize };

    pub(crate) fn encode(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(9);
        out.put_u64_le(self.seq.0);
        out.put_u8(u8::from(self.cause == GapCause::RetentionAge));
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Floor, Damaged> {
        let mut reader = ByteReader::new(bytes);
        let seq = Seq(reader.u64()?);
        let cause = if reader.u8()? == 1 { GapCause::RetentionAge } else { GapCause::RetentionSize };
        Ok(Floor { seq, cause })
    }
}

/// The paced clock, and what the wall clock said then. Earlier versions wrote the first alone, which stood for both.
pub(crate) fn encode_clock(saved: SavedClock) -> Vec<u8> {
    [saved.now.0.to_le_bytes(), saved.wall.0.to_le_bytes()].concat()
}

pub(crate) fn decode_clock(bytes: &[u8]) -> Result<SavedClock, Damaged> {
    let mut reader = ByteReader::new(bytes);
    let now = reader.u64()?;
    let wall = if reader.is_empty() { now } else { reader.u64()? };
    Ok(SavedClock { now: Timestamp(now), wall: Timestamp(wall) })
}

pub(crate) fn encode_seq(seq: Seq) -> Vec<u8> {
    seq.0.to_le_bytes().to_vec()
}

pub(crate) fn decode_seq(bytes: &[u8]) -> Result<Seq, Damaged> {
    ByteReader::new(bytes).u64().map(Seq)
}

/// `e | index`: an epoch, and the head when it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EpochStart {
    pub(crate) epoch: Epoch,
    pub(crate) start: Seq,
}

impl EpochStart {
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(24);
        out.put_slice(&self.epoch.0);
        out.put_u64_le(self.start.0);
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<EpochStart, Damaged> {
        let mut reader = ByteReader::new(bytes);
        Ok(EpochStart { epoch: Epoch(reader.array()?), start: Seq(reader.u64()?) })
    }
}

/// `n | topic` of format 1: its name, and its last event as of the last fold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TopicEntry<'a> {
    pub(crate) name: &'a str,
    pub(crate) last_seq: Seq,
    pub(crate) last_nth: Nth,
}

impl<'a> TopicEntry<'a> {
    pub(crate) fn decode(bytes: &'a [u8]) -> Result<TopicEntry<'a>, Damaged> {
        let mut reader = ByteReader::new(bytes);
        let (last_seq, last_nth) = (Seq(reader.u64()?), Nth(reader.u64()?));
        Ok(TopicEntry { name: reader.name()?, last_seq, last_nth })
    }
}

/// `p | publisher`: its last number, and when it emitted it (by the paced clock).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PublisherEntry {
    pub(crate) last: EmitNumber,
    pub(crate) when: Timestamp,
}

impl PublisherEntry {
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16);
        out.put_u64_le(self.last.0);
        out.put_u64_le(self.when.0);
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<PublisherEntry, Damaged> {
        let mut reader = ByteReader::new(bytes);
        Ok(PublisherEntry { last: EmitNumber(reader.u64()?), when: Timestamp(reader.u64()?) })
    }
}

/// What became of one number of a publisher, as it is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StoredEmit {
    pub(crate) number: EmitNumber,
    /// The event's seq; zero if the number was refused for good.
    pub(crate) seq: Seq,
    /// The hash of its content, or the code with which it was refused.
    pub(crate) content: u64,
}

/// Bytes of an [`Emit`] in a chunk of them.
pub(crate) const EMIT_BYTES: usize = 24;

/// `q | publisher | first_number`: emits in the order of their numbers.
pub(crate) fn encode_emits(emits: &[StoredEmit]) -> Vec<u8> {
    let mut out = Vec::with_capacity(emits.len() * EMIT_BYTES);
    for emit in emits {
        out.put_u64_le(emit.number.0);
        out.put_u64_le(emit.seq.0);
        out.put_u64_le(emit.content);
    }
    out
}

/// The last emit up to this number in a chunk, if there is one. Of two for one number the event counts.
pub(crate) fn find_emit(bytes: &[u8], number: EmitNumber) -> Result<Option<StoredEmit>, Damaged> {
    let mut reader = ByteReader::new(bytes);
    let mut found: Option<StoredEmit> = None;
    while !reader.is_empty() {
        let emit = StoredEmit { number: EmitNumber(reader.u64()?), seq: Seq(reader.u64()?), content: reader.u64()? };
        if emit.number > number {
            continue;
        }
        let is_refusal_of_stored =
            found.is_some_and(|found| found.number == emit.number && found.seq > Seq::ZERO && emit.seq == Seq::ZERO);
        if !is_refusal_of_stored {
            found = Some(emit);
        }
    }
    Ok(found)
}

/// `c | subscriber | topic`: a durable cursor, and when it was saved (by the paced clock).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CursorEntry {
    pub(crate) cursor: Cursor,
    pub(crate) when: Timestamp,
}

impl CursorEntry {
    pub(crate) fn encode(cursor: &Cursor, when: Timestamp) -> Vec<u8> {
        let earlier = &cursor.place.earlier;
        let mut out = Vec::with_capacity(49 + 24 * earlier.len());
        out.put_u64_le(when.0);
        put_position(&mut out, cursor.place.position);
        out.put_u64_le(cursor.place.nth.0);
        out.put_u64_le(cursor.delivered_through.0.0);
        let count = u8::try_from(earlier.len().min(EARLIER_EPOCHS_MAX)).unwrap_or(u8::MAX);
        out.put_u8(count);
        for position in earlier.iter().take(usize::from(count)) {
            put_position(&mut out, *position);
        }
        if let Some(reader) = cursor.reader {
            out.put_slice(&reader.0);
        }
        out
    }

    /// Reads an entry. Earlier versions wrote no reader, and pass over one that stands there.
    pub(crate) fn decode(bytes: &[u8]) -> Result<CursorEntry, Damaged> {
        let mut reader = ByteReader::new(bytes);
        let when = Timestamp(reader.u64()?);
        let position = position(&mut reader)?;
        let nth = Nth(reader.u64()?);
        let delivered_through = DeliveredThrough(Nth(reader.u64()?));
        let count = reader.u8()?;
        let earlier = (0..count).map(|_| self::position(&mut reader)).collect::<Result<_, _>>()?;
        let reader = if reader.is_empty() { None } else { Some(InstanceId(reader.array()?)) };
        Ok(CursorEntry {
            cursor: Cursor::new(Place { position, nth, earlier }, delivered_through).of_reader(reader),
            when,
        })
    }
}

fn put_position(out: &mut Vec<u8>, position: Position) {
    out.put_slice(&position.epoch.0);
    out.put_u64_le(position.seq.0);
}

fn position(reader: &mut ByteReader<'_>) -> Result<Position, Damaged> {
    Ok(Position { epoch: Epoch(reader.array()?), seq: Seq(reader.u64()?) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_with_its_earlier_epochs() {
        let earlier = [Position::new(Epoch([2; 16]), Seq(5)), Position::new(Epoch([1; 16]), Seq(3))].into();
        let known = Place { position: Position::new(Epoch([3; 16]), Seq(9)), nth: Nth(4), earlier };
        let cursor = Cursor::new(known, DeliveredThrough(Nth(6)));
        let bytes = CursorEntry::encode(&cursor, Timestamp(77));
        assert_eq!(CursorEntry::decode(&bytes), Ok(CursorEntry { cursor: cursor.clone(), when: Timestamp(77) }));
        assert_eq!(CursorEntry::decode(&bytes[..bytes.len() - 1]), Err(Damaged));
        let cursor = cursor.of_reader(Some(InstanceId([9; 16])));
        let bytes = CursorEntry::encode(&cursor, Timestamp(77));
        assert_eq!(CursorEntry::decode(&bytes), Ok(CursorEntry { cursor, when: Timestamp(77) }));
        assert_eq!(CursorEntry::decode(&bytes[..bytes.len() - 1]), Err(Damaged));
    }

    #[test]
    fn an_emit_is_found_among_its_neighbours() {
        let emits: Vec<_> =
            (3..9).map(|n| StoredEmit { number: EmitNumber(n), seq: Seq(100 + n), content: n * n }).collect();
        let bytes = encode_emits(&emits);
        assert_eq!(find_emit(&bytes, EmitNumber(5)), Ok(Some(emits[2])));
        assert_eq!(find_emit(&bytes, EmitNumber(9)), Ok(Some(emits[5])), "the last one up to it");
        assert_eq!(find_emit(&bytes, EmitNumber(2)), Ok(None));
        assert_eq!(find_emit(&bytes[1..], EmitNumber(9)), Err(Damaged));
    }
}
