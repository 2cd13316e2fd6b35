//! Commits, fold and trim in the log's layout: whole commits under `l`, folded topics under `t`, `n`, `p` and `m` beside.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use redeliver_log::kv::sled::{SledConfig, SledKv};
use redeliver_log::kv::{BATCH_BYTES_MAX, Direction, Kv, VALUE_BYTES_MAX, WriteBatch};
use redeliver_tests::chance::Chance;
use redeliver_tests::content::Event;

/// By the key without the piece: the first seq, and the whole value.
type Values = BTreeMap<Vec<u8>, (u64, Vec<u8>)>;

/// A store with the log's shape and none of its logic.
pub(crate) struct BareStore {
    kv: SledKv,
    chance: Chance,
    /// Newest event, newest folded event, and the floor below which all is trimmed.
    head: u64,
    folded: u64,
    floor: u64,
    /// Commits not yet folded: first seq and bytes.
    tail: VecDeque<(u64, usize)>,
    /// Folded keys by the last seq that is in them, with their bytes.
    values: BTreeMap<(u64, Vec<u8>), usize>,
}

impl BareStore {
    pub(crate) fn open(dir: &Path, seed: u64) -> Result<BareStore> {
        let kv = SledKv::open(dir, &SledConfig::default()).context("opening the store")?;
        let mut store = BareStore {
            kv,
            chance: Chance::new(seed),
            head: 0,
            folded: 0,
            floor: 0,
            tail: VecDeque::new(),
            values: BTreeMap::new(),
        };
        if let Some(state) = store.kv.get(b"m")? {
            let numbers: Vec<u64> =
                state.chunks_exact(8).filter_map(|chunk| Some(u64::from_be_bytes(chunk.try_into().ok()?))).collect();
            let [head, folded, floor] = numbers[..] else { bail!("m holds {} numbers", numbers.len()) };
            (store.head, store.folded, store.floor) = (head, folded, floor);
        }
        Ok(store)
    }

    pub(crate) fn state_in_words(&self) -> String {
        format!("head {} folded {} floor {} bytes {}", self.head, self.folded, self.floor, self.kv.bytes_on_disk())
    }

    /// Reads everything and compares. Gives the number of events that are there.
    pub(crate) fn check(&mut self, acked: u64, floor: u64) -> Result<u64> {
        ensure!(self.head >= acked, "LOST: acknowledged up to {acked}, the store's head is {}", self.head);
        ensure!(self.floor <= floor, "LOST: trimmed up to {floor} at most, the store's floor is {}", self.floor);
        let mut found = BTreeMap::new();
        for (first, bytes) in self.values_under(b'l')?.into_values() {
            self.tail.push_back((first, bytes.len()));
            take_all(&mut found, &bytes, "l")?;
        }
        for (key, (_, bytes)) in self.values_under(b't')? {
            let last = take_all(&mut found, &bytes, "t")?;
            self.values.insert((last, key), bytes.len());
        }
        for seq in self.floor + 1..=self.head {
            ensure!(found.contains_key(&seq), "LOST: event {seq} of {} to {}", self.floor + 1, self.head);
            let is_folded = found[&seq] == "t";
            ensure!(is_folded == (seq <= self.folded), "event {seq} is in the wrong place, folded {}", self.folded);
        }
        if let Some((last, _)) = found.last_key_value() {
            ensure!(*last <= self.head, "event {last} is there, the head is {}", self.head);
        }
        Ok(u64::try_from(found.len())?)
    }

    /// Joins pieces.
    fn values_under(&self, prefix: u8) -> Result<Values> {
        let mut values: Values = BTreeMap::new();
        for entry in self.kv.range(&[prefix], &[prefix + 1], Direction::Up) {
            let (key, value) = entry?;
            let (key, piece) = key.split_last_chunk::<2>().context("a short key")?;
            let (_, first) = key.split_last_chunk::<8>().context("a short key")?;
            let (first, piece) = (u64::from_be_bytes(*first), u16::from_be_bytes(*piece));
            let whole = values.entry(key.to_vec()).or_insert((first, Vec::new()));
            ensure!(whole.1.len() == usize::from(piece) * VALUE_BYTES_MAX, "LOST: a piece before {piece} of {first}");
            whole.1.extend(value);
        }
        Ok(values)
    }

    /// Appends events as one durable commit. Gives the new head.
    pub(crate) fn commit(&mut self) -> Result<u64> {
        let first = self.head + 1;
        let events = match self.chance.below(10) {
            0..3 => 1,
            3..8 => self.chance.between(2, 128),
            _ => self.chance.between(128, 1_024),
        };
        let mut bytes = Vec::new();
        for seq in first..first + events {
            let event = Event::of(seq);
            if !bytes.is_empty() && bytes.len() + event.body.len() > BATCH_BYTES_MAX - 100_000 {
                break;
            }
            event.encode(&mut bytes);
            self.head = seq;
        }
        let mut batch = WriteBatch::default();
        put_in_pieces(&mut batch, &[b"l", &first.to_be_bytes()[..]].concat(), &bytes);
        let publisher = self.chance.below(500).to_be_bytes();
        batch.put([b"p", &publisher[..]].concat(), self.head.to_be_bytes().to_vec());
        self.tail.push_back((first, bytes.len()));
        self.write(batch)?;
        Ok(self.head)
    }

    pub(crate) fn fold_is_due(&self) -> bool {
        self.tail.iter().map(|(_, bytes)| bytes).sum::<usize>() > TAIL_BYTES_MAX
    }

    /// Moves the oldest commits to their topics' values, in one batch. Gives its bytes.
    pub(crate) fn fold(&mut self) -> Result<usize> {
        let mut topics: BTreeMap<u32, Vec<Event>> = BTreeMap::new();
        let mut batch = WriteBatch::default();
        let mut budget = FOLD_BYTES_MAX;
        while let Some((first, bytes)) = self.tail.front().copied() {
            if budget < FOLD_BYTES_MAX && bytes > budget {
                break;
            }
            budget = budget.saturating_sub(bytes);
            self.tail.pop_front();
            let mut whole = Vec::new();
            let (from, to) = (first.to_be_bytes(), (first + 1).to_be_bytes());
            for entry in self.kv.range(&[b"l", &from[..]].concat(), &[b"l", &to[..]].concat(), Direction::Up) {
                let (key, value) = entry?;
                whole.extend(value);
                batch.delete(key);
            }
            for event in Event::decode_all(&whole).context("a commit that cannot be read")? {
                self.folded = event.seq;
                topics.entry(event.topic).or_default().push(event);
            }
        }
        for (topic, events) in topics {
            let (Some(first), Some(last)) = (events.first(), events.last()) else { continue };
            let key = [b"t", &topic.to_be_bytes()[..], &first.seq.to_be_bytes()[..]].concat();
            let mut bytes = Vec::new();
            events.iter().for_each(|event| event.encode(&mut bytes));
            put_in_pieces(&mut batch, &key, &bytes);
            batch.put([b"n", &topic.to_be_bytes()[..]].concat(), last.seq.to_be_bytes().to_vec());
            self.values.insert((last.seq, key), bytes.len());
        }
        let bytes = batch.bytes();
        self.write(batch)?;
        Ok(bytes)
    }

    /// The floor to trim to, if too much is kept.
    pub(crate) fn trim_is_due(&self) -> Option<u64> {
        let kept = self.values.values().sum::<usize>();
        let oldest = self.values.keys().nth(TRIM_VALUES).map(|(last, _)| *last);
        oldest.filter(|_| kept > KEPT_BYTES_MAX)
    }

    /// Deletes folded values that end at or below a floor, in one batch.
    pub(crate) fn trim(&mut self, floor: u64) -> Result<()> {
        let mut batch = WriteBatch::default();
        while let Some(entry) = self.values.first_entry() {
            if entry.key().0 > floor {
                break;
            }
            let ((_, key), bytes) = entry.remove_entry();
            for piece in 0..bytes.div_ceil(VALUE_BYTES_MAX) {
                batch.delete([&key[..], &u16::try_from(piece)?.to_be_bytes()].concat());
            }
        }
        self.floor = floor;
        self.write(batch)
    }

    fn write(&mut self, mut batch: WriteBatch) -> Result<()> {
        batch.put(
            b"m".to_vec(),
            [self.head, self.folded, self.floor].iter().flat_map(|number| number.to_be_bytes()).collect::<Vec<u8>>(),
        );
        self.kv.apply_batch(&batch)?;
        self.kv.sync()?;
        Ok(())
    }
}

/// Checks each event's content and notes where it was. Gives the last seq.
fn take_all(found: &mut BTreeMap<u64, &'static str>, bytes: &[u8], place: &'static str) -> Result<u64> {
    let events = Event::decode_all(bytes).context("DAMAGED: a value that cannot be read")?;
    let last = events.last().context("DAMAGED: a value without events")?.seq;
    for event in events {
        ensure!(event == Event::of(event.seq), "DAMAGED: event {} under {place} has other content", event.seq);
        ensure!(found.insert(event.seq, place).is_none(), "event {} is there twice", event.seq);
    }
    Ok(last)
}

fn put_in_pieces(batch: &mut WriteBatch, key: &[u8], bytes: &[u8]) {
    for (piece, bytes) in (0_u16..).zip(bytes.chunks(VALUE_BYTES_MAX)) {
        batch.put([key, &piece.to_be_bytes()].concat(), bytes.to_vec());
    }
}

const TAIL_BYTES_MAX: usize = 4 * 1024 * 1024;
const FOLD_BYTES_MAX: usize = 800 * 1024;
const KEPT_BYTES_MAX: usize = 16 * 1024 * 1024;
const TRIM_VALUES: usize = 100;
