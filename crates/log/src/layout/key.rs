//! The keys of the one keyspace, and their ranges.

use redeliver_protocol::name::{SubscriberName, TopicName};
use redeliver_protocol::seq::{EmitNumber, PublisherId, Seq};

use super::Damaged;
use super::reader::ByteReader;

/// Tail commits: `l | first_seq`, in pieces.
pub(crate) const COMMIT: u8 = b'l';
/// Folded records of one topic: `t | topic | first_seq`, in pieces.
pub(crate) const TOPIC_RECORDS: u8 = b't';
/// Folded records of several small topics of one run: `g | run_first_seq | first_topic`, in pieces.
pub(crate) const GROUP_RECORDS: u8 = b'g';
/// Manifest of a run: `r | run_first_seq`, in pieces.
pub(crate) const RUN: u8 = b'r';
/// Names of topics: `d | first_topic`.
pub(crate) const NAMES: u8 = b'd';
/// Last events of topics: `h | last seq of the fold | part`.
pub(crate) const HEADS: u8 = b'h';
/// In format 1, a topic's name, and how far it was folded: `n | topic`.
pub(crate) const TOPIC: u8 = b'n';
/// A publisher: `p | publisher`.
pub(crate) const PUBLISHER: u8 = b'p';
/// Whose a publisher is: `o | publisher`.
pub(crate) const OWNER: u8 = b'o';
/// Folded emits of a publisher: `q | publisher | first_number`.
pub(crate) const EMITS: u8 = b'q';
/// A durable cursor: `c | length of subscriber | subscriber | topic`.
pub(crate) const CURSOR: u8 = b'c';
/// A state of a gateway: `w | key`.
pub(crate) const STATE: u8 = b'w';
/// What of a state does not fit there: `v | length of key | key`, in pieces.
pub(crate) const STATE_REST: u8 = b'v';
/// Who is not to get an event: `x | seq`, in pieces.
pub(crate) const EXCEPT: u8 = b'x';
/// An epoch: `e | index`.
pub(crate) const EPOCH: u8 = b'e';
/// What there is once: `m | which`.
pub(crate) const META: u8 = b'm';

/// The values that there are once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Meta {
    /// Format version and time of creation.
    Format = 1,
    /// The seq through which the tail has been folded.
    FoldPoint = 2,
    /// The run that is being folded.
    Plan = 3,
    /// The trim floor.
    Floor = 4,
    /// The paced clock of retention.
    Clock = 5,
    /// The last fold that wrote the heads of all topics.
    AllHeads = 6,
}

pub(crate) fn meta(which: Meta) -> Vec<u8> {
    vec![META, which as u8]
}

pub(crate) fn commit(first: Seq) -> Vec<u8> {
    with_u64(COMMIT, first.0)
}

pub(crate) fn topic_records(topic: u32, first: Seq) -> Vec<u8> {
    let mut key = with_u32(TOPIC_RECORDS, topic);
    key.extend_from_slice(&first.0.to_be_bytes());
    key
}

pub(crate) fn group_records(run_first: Seq, first_topic: u32) -> Vec<u8> {
    let mut key = with_u64(GROUP_RECORDS, run_first.0);
    key.extend_from_slice(&first_topic.to_be_bytes());
    key
}

pub(crate) fn run(first: Seq) -> Vec<u8> {
    with_u64(RUN, first.0)
}

pub(crate) fn names(first_topic: u32) -> Vec<u8> {
    with_u32(NAMES, first_topic)
}

pub(crate) fn heads(fold: Seq, part: u32) -> Vec<u8> {
    let mut key = with_u64(HEADS, fold.0);
    key.extend_from_slice(&part.to_be_bytes());
    key
}

pub(crate) fn publisher(id: PublisherId) -> Vec<u8> {
    let mut key = vec![PUBLISHER];
    key.extend_from_slice(&id.0);
    key
}

pub(crate) fn owner(id: PublisherId) -> Vec<u8> {
    let mut key = vec![OWNER];
    key.extend_from_slice(&id.0);
    key
}

pub(crate) fn emits(id: PublisherId, first: EmitNumber) -> Vec<u8> {
    let mut key = vec![EMITS];
    key.extend_from_slice(&id.0);
    key.extend_from_slice(&first.0.to_be_bytes());
    key
}

pub(crate) fn cursor(subscriber: &SubscriberName, topic: &TopicName) -> Vec<u8> {
    let (subscriber, topic) = (subscriber.as_str().as_bytes(), topic.as_str().as_bytes());
    let mut key = Vec::with_capacity(2 + subscriber.len() + topic.len());
    key.push(CURSOR);
    // Names are at most 255 bytes long.
    key.push(u8::try_from(subscriber.len()).unwrap_or(u8::MAX));
    key.extend_from_slice(subscriber);
    key.extend_from_slice(topic);
    key
}

pub(crate) fn except(seq: Seq) -> Vec<u8> {
    with_u64(EXCEPT, seq.0)
}

pub(crate) fn state(name: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(2 + name.len());
    key.push(STATE);
    key.extend_from_slice(name);
    key
}

pub(crate) fn state_rest(name: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(4 + name.len());
    key.push(STATE_REST);
    // So that no key's pieces lie among another's. States' keys are at most 200 bytes long.
    key.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
    key.extend_from_slice(name);
    key
}

pub(crate) fn epoch(index: u32) -> Vec<u8> {
    with_u32(EPOCH, index)
}

/// The bounds of all keys with a prefix byte.
pub(crate) fn all(prefix: u8) -> (Vec<u8>, Vec<u8>) {
    (vec![prefix], vec![prefix + 1])
}

/// The first key above all pieces of `prefix`.
pub(crate) fn above_pieces(prefix: &[u8]) -> Vec<u8> {
    let mut key = prefix.to_vec();
    key.extend_from_slice(&[0xff, 0xff, 0xff]);
    key
}

/// The number behind the prefix byte of a [`commit`], [`run`], [`group_records`] or [`heads`] key.
pub(crate) fn read_u64(key: &[u8]) -> Result<u64, Damaged> {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(key.get(1..9).ok_or(Damaged)?);
    Ok(u64::from_be_bytes(bytes))
}

/// The number behind the prefix byte of an [`epoch`], a [`topic_records`] or a format 1 topic key.
pub(crate) fn read_u32(key: &[u8]) -> Result<u32, Damaged> {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(key.get(1..5).ok_or(Damaged)?);
    Ok(u32::from_be_bytes(bytes))
}

/// The publisher in a [`publisher`] key.
pub(crate) fn read_publisher(key: &[u8]) -> Result<PublisherId, Damaged> {
    Ok(PublisherId(ByteReader::new(key.get(1..).ok_or(Damaged)?).array()?))
}

/// A key for a person: its prefix, and the rest in hex.
pub(crate) fn in_words(key: &[u8]) -> String {
    let Some((prefix, rest)) = key.split_first() else { return String::new() };
    let mut words = String::with_capacity(2 + 2 * rest.len());
    words.push(char::from(*prefix));
    words.push('|');
    for byte in rest {
        words.push_str(&format!("{byte:02x}"));
    }
    words
}

fn with_u64(prefix: u8, number: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(16);
    key.push(prefix);
    key.extend_from_slice(&number.to_be_bytes());
    key
}

fn with_u32(prefix: u8, number: u32) -> Vec<u8> {
    let mut key = Vec::with_capacity(16);
    key.push(prefix);
    key.extend_from_slice(&number.to_be_bytes());
    key
}
