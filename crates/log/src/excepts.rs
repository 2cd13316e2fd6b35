//! Who is not to get an event: the newest of these lists in memory. Bounded, the oldest go first; the store has them all.

use std::collections::BTreeMap;
use std::sync::Arc;

use redeliver_protocol::name::TopicName;
use redeliver_protocol::seq::Seq;

use crate::layout::Damaged;
use crate::layout::reader::{ByteReader, put_name};

/// The lists of the newest events that have one.
#[derive(Debug)]
pub(crate) struct Excepts {
    lists: BTreeMap<Seq, Arc<[TopicName]>>,
    bytes: usize,
    /// Lists up to this seq may be in the store alone.
    gone_through: Seq,
}

impl Excepts {
    /// None in memory, for a log with this head.
    pub(crate) fn new(head: Seq) -> Excepts {
        Excepts { lists: BTreeMap::new(), bytes: 0, gone_through: head }
    }

    pub(crate) fn push(&mut self, seq: Seq, list: Arc<[TopicName]>) {
        self.bytes += cost(&list);
        self.lists.insert(seq, list);
        while self.bytes > BYTES_MAX
            && let Some((seq, list)) = self.lists.pop_first()
        {
            self.bytes -= cost(&list);
            self.gone_through = self.gone_through.max(seq);
        }
    }

    pub(crate) fn find(&self, seq: Seq) -> Option<&Arc<[TopicName]>> {
        self.lists.get(&seq)
    }

    /// Whether the list of any event above this seq is here, if it has one.
    pub(crate) fn has_all_after(&self, seq: Seq) -> bool {
        seq >= self.gone_through
    }
}

pub(crate) fn encode(list: &[TopicName]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + list.iter().map(|topic| 1 + topic.as_str().len()).sum::<usize>());
    out.push(u8::try_from(list.len()).unwrap_or(u8::MAX));
    for topic in list {
        put_name(&mut out, topic.as_str());
    }
    out
}

pub(crate) fn decode(bytes: &[u8]) -> Result<Arc<[TopicName]>, Damaged> {
    let mut reader = ByteReader::new(bytes);
    let count = reader.u8()?;
    (0..count).map(|_| TopicName::new(reader.name()?).map_err(|_| Damaged)).collect()
}

fn cost(list: &[TopicName]) -> usize {
    LIST_OVERHEAD_BYTES + list.iter().map(|topic| NAME_OVERHEAD_BYTES + topic.as_str().len()).sum::<usize>()
}

/// Most bytes of lists in memory.
const BYTES_MAX: usize = 8 * 1024 * 1024;

const LIST_OVERHEAD_BYTES: usize = 64;
const NAME_OVERHEAD_BYTES: usize = 32;
