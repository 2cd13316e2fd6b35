//! The table of topics as folds write it: names, once for each topic, and heads (a topic's last seq and nth), again for
//! each fold that saw it. Many topics to a value, so that a topic costs a few bytes instead of a key. Pure.
//!
//! ```text
//! names   × { id: varint, less the one before | name }
//! heads   base:u64 | taken:u32 | × { id: varint, less the one before | base - last_seq: varint | last_nth: varint }
//! ```
//!
//! Every value stands for itself. `taken` is above every id that was given away when it was written. What heads say is true
//! in any order: of two for one topic the higher counts.

use bytes::BufMut;
use redeliver_protocol::seq::{Nth, Seq};

use crate::layout::Damaged;
use crate::layout::piece::PIECE_BYTES;
use crate::layout::reader::{ByteReader, put_name, put_varint};

/// A topic's last event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TopicHead {
    pub(crate) id: u32,
    pub(crate) last_seq: Seq,
    pub(crate) last_nth: Nth,
}

/// Names of topics, in the order of their ids, as values: each with its first topic's id.
pub(crate) fn encode_names<'a>(topics: impl Iterator<Item = (u32, &'a str)>) -> Vec<(u32, Vec<u8>)> {
    let mut values: Vec<(u32, Vec<u8>)> = Vec::new();
    let mut before = 0;
    for (id, name) in topics {
        let fits = values.last().is_some_and(|(_, value)| value.len() + VARINT_BYTES + 1 + name.len() <= PIECE_BYTES);
        if !fits {
            values.push((id, Vec::new()));
            before = 0;
        }
        if let Some((_, value)) = values.last_mut() {
            put_varint(value, u64::from(id - before));
            put_name(value, name);
            before = id;
        }
    }
    values
}

/// The names that a value holds.
pub(crate) fn read_names(value: &[u8]) -> Result<Vec<(u32, &str)>, Damaged> {
    let (mut reader, mut before, mut names) = (ByteReader::new(value), 0, Vec::new());
    while !reader.is_empty() {
        before = read_id(&mut reader, before)?;
        names.push((before, reader.name()?));
    }
    Ok(names)
}

/// Heads of topics, in the order of their ids, as values.
pub(crate) fn encode_heads(taken: u32, heads: &[TopicHead]) -> Vec<Vec<u8>> {
    let base = heads.iter().map(|head| head.last_seq).max().unwrap_or_default();
    let mut values: Vec<Vec<u8>> = Vec::new();
    let mut before = 0;
    for head in heads {
        if values.last().is_none_or(|value| value.len() + 3 * VARINT_BYTES > PIECE_BYTES) {
            let mut value = Vec::with_capacity(PIECE_BYTES.min(HEAD_BYTES + heads.len() * 8));
            value.put_u64_le(base.0);
            value.put_u32_le(taken);
            values.push(value);
            before = 0;
        }
        if let Some(value) = values.last_mut() {
            put_varint(value, u64::from(head.id - before));
            put_varint(value, base.0 - head.last_seq.0);
            put_varint(value, head.last_nth.0);
            before = head.id;
        }
    }
    values
}

/// The heads that a value holds, and the id that was free when it was written.
pub(crate) fn read_heads(value: &[u8]) -> Result<(u32, Vec<TopicHead>), Damaged> {
    let mut reader = ByteReader::new(value);
    let (base, taken) = (reader.u64()?, reader.u32()?);
    let (mut before, mut heads) = (0, Vec::new());
    while !reader.is_empty() {
        before = read_id(&mut reader, before)?;
        let last_seq = Seq(base.checked_sub(reader.varint()?).ok_or(Damaged)?);
        heads.push(TopicHead { id: before, last_seq, last_nth: Nth(reader.varint()?) });
    }
    Ok((taken, heads))
}

fn read_id(reader: &mut ByteReader<'_>, before: u32) -> Result<u32, Damaged> {
    let more = u32::try_from(reader.varint()?).map_err(|_| Damaged)?;
    before.checked_add(more).ok_or(Damaged)
}

const HEAD_BYTES: usize = 8 + 4;

/// The longest varint.
const VARINT_BYTES: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_from_as_many_values_as_they_need() {
        let names: Vec<(u32, String)> = (0..3_000).map(|id| (id * 7, format!("topic {id}"))).collect();
        let values = encode_names(names.iter().map(|(id, name)| (*id, name.as_str())));
        assert!(values.len() > 3, "{}", values.len());
        let mut found = Vec::new();
        for (first, value) in &values {
            assert!(value.len() <= PIECE_BYTES);
            let read = read_names(value).unwrap();
            assert_eq!(read[0].0, *first);
            found.extend(read.into_iter().map(|(id, name)| (id, name.to_owned())));
            assert_eq!(read_names(&value[..value.len() - 1]), Err(Damaged));
        }
        assert_eq!(found, names);
    }

    #[test]
    fn heads_come_back_from_as_many_values_as_they_need() {
        let head = |id: u32| TopicHead {
            id: id * 3,
            last_seq: Seq(u64::from(id) * 999 + 1),
            last_nth: Nth(u64::from(id) + 1),
        };
        let heads: Vec<TopicHead> = (0..5_000).map(head).collect();
        let values = encode_heads(20_000, &heads);
        assert!(values.len() > 3, "{}", values.len());
        let mut found = Vec::new();
        for value in &values {
            assert!(value.len() <= PIECE_BYTES);
            let (taken, read) = read_heads(value).unwrap();
            assert_eq!(taken, 20_000);
            found.extend(read);
        }
        assert_eq!(found, heads);
        assert_eq!(read_heads(&values[0][..values[0].len() - 1]), Err(Damaged));
        assert_eq!(read_heads(&values[0][..11]), Err(Damaged));
    }

    #[test]
    fn an_id_beyond_all_ids_is_damage() {
        let mut value = Vec::new();
        for more in [u64::from(u32::MAX), 1] {
            put_varint(&mut value, more);
            put_name(&mut value, "a");
        }
        assert_eq!(read_names(&value), Err(Damaged));
    }
}
