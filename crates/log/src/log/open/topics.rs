//! Opening: the topics, from the topic table. Where that is damaged, a topic's last event is looked for in all that is folded:
//! a topic that was taken for shorter than it is would hide its newest events.

use redeliver_protocol::codec::peek_record;
use redeliver_protocol::name::TopicName;
use redeliver_protocol::seq::{Nth, Seq};

use super::{Recovery, small};
use crate::error::LogError;
use crate::index::Topics;
use crate::layout::key::{self, Meta};
use crate::layout::piece::{Pieces, StoredValue};
use crate::layout::value::{self, TopicEntry};
use crate::scan::group_members;
use crate::topic_table::{TopicHead, read_heads, read_names};

/// How the topics' heads lie in the store: those of all of them as of one fold, and of some of them as of later ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::log) struct StoredHeads {
    /// The last seq of the fold that wrote all of them.
    pub(in crate::log) all: Seq,
    /// What these take.
    pub(in crate::log) all_taken: Taken,
    /// What later ones take.
    pub(in crate::log) later_taken: Taken,
    /// Whether there are earlier ones, which say nothing new.
    pub(in crate::log) has_earlier: bool,
}

/// How much some values are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::log) struct Taken {
    pub(in crate::log) values: usize,
    pub(in crate::log) bytes: usize,
}

impl Taken {
    pub(in crate::log) fn add(&mut self, value_bytes: usize) {
        self.values += 1;
        self.bytes += value_bytes;
    }
}

impl Recovery<'_> {
    pub(super) fn topics(&self) -> Result<(Topics, StoredHeads), LogError> {
        let mut topics = Topics::default();
        self.format_1(&mut topics)?;
        for entry in self.all(key::NAMES) {
            let entry = entry?;
            // The ids of those that cannot be read are taken all the same: the heads know them.
            for (id, name) in small(&entry, read_names).unwrap_or_default() {
                let Ok(name) = TopicName::new(name) else { continue };
                topics.name(id, &name);
                topics.at(id).has_key = true;
            }
        }
        let (heads, is_whole) = self.heads(&mut topics)?;
        if !is_whole {
            self.folded_heads(&mut topics)?;
        }
        Ok((topics, heads))
    }

    /// What format 1 says of topics.
    fn format_1(&self, topics: &mut Topics) -> Result<(), LogError> {
        for entry in self.all(key::TOPIC) {
            let entry = entry?;
            let Ok(id) = key::read_u32(&entry.0) else { continue };
            // The id is taken, whatever its value says.
            topics.at(id);
            let Some(bytes) = small(&entry, |bytes| Ok(bytes.to_vec())) else { continue };
            let Ok(saved) = TopicEntry::decode(&bytes) else { continue };
            if let Ok(name) = TopicName::new(saved.name) {
                topics.name(id, &name);
            }
            let topic = topics.at(id);
            (topic.last_seq, topic.last_nth, topic.has_key) = (saved.last_seq, saved.last_nth, true);
        }
        Ok(())
    }

    /// Reads the heads. Says whether all of them could be read.
    fn heads(&self, topics: &mut Topics) -> Result<(StoredHeads, bool), LogError> {
        let all = self.meta(Meta::AllHeads)?.and_then(|bytes| value::decode_seq(&bytes).ok());
        let (mut heads, mut is_whole) = (StoredHeads { all: all.unwrap_or_default(), ..StoredHeads::default() }, true);
        for entry in self.all(key::HEADS) {
            let entry = entry?;
            match key::read_u64(&entry.0).unwrap_or_default() {
                fold if fold < heads.all.0 => heads.has_earlier = true,
                fold if fold == heads.all.0 => heads.all_taken.add(entry.1.len()),
                _ => heads.later_taken.add(entry.1.len()),
            }
            let Some((taken, read)) = small(&entry, read_heads) else {
                is_whole = false;
                continue;
            };
            if let Some(last) = taken.checked_sub(1) {
                topics.at(last);
            }
            for head in read {
                raise(topics, head);
            }
        }
        Ok((heads, is_whole))
    }

    /// Looks for the last event of each topic in what is folded.
    fn folded_heads(&self, topics: &mut Topics) -> Result<(), LogError> {
        tracing::warn!("topics' last events are looked for in all that is folded");
        for (prefix, prefix_bytes) in [(key::TOPIC_RECORDS, 1 + 4 + 8), (key::GROUP_RECORDS, 1 + 8 + 4)] {
            let mut current: Option<(Vec<u8>, Pieces)> = None;
            for entry in self.all(prefix) {
                let entry = entry?;
                let own = &entry.0[..entry.0.len().min(prefix_bytes)];
                if let Some((key, pieces)) = current.take_if(|(key, _)| key != own) {
                    raise_folded(topics, &key, pieces.finish());
                }
                current.get_or_insert_with(|| (own.to_vec(), Pieces::default())).1.push(&entry);
            }
            if let Some((key, pieces)) = current {
                raise_folded(topics, &key, pieces.finish());
            }
        }
        Ok(())
    }
}

fn raise(topics: &mut Topics, head: TopicHead) {
    let topic = topics.at(head.id);
    (topic.last_seq, topic.last_nth) = (topic.last_seq.max(head.last_seq), topic.last_nth.max(head.last_nth));
}

/// Takes the last records of the topics of a folded value. Damage in it is told when it is read for its events.
fn raise_folded(topics: &mut Topics, key: &[u8], found: StoredValue) {
    let StoredValue::Whole(value) = found else { return };
    if key.first() == Some(&key::GROUP_RECORDS) {
        for (id, start, end) in group_members(&value).map_while(Result::ok) {
            raise_records(topics, id, &value[start..end]);
        }
    } else if let Ok(id) = key::read_u32(key) {
        raise_records(topics, id, &value);
    }
}

fn raise_records(topics: &mut Topics, id: u32, mut records: &[u8]) {
    let mut last: Option<(Seq, Nth)> = None;
    while let Ok((seq, nth, _, bytes)) = peek_record(records) {
        last = Some((seq, nth));
        records = records.get(bytes..).unwrap_or_default();
    }
    if let Some((last_seq, last_nth)) = last {
        raise(topics, TopicHead { id, last_seq, last_nth });
    }
}
