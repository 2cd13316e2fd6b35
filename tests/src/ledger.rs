//! What emitters and readers of a server saw while it was killed, held against what redeliver promises.
//!
//! It gathers violations instead of panicking: many threads write here, and one test reads. What it knows once it never
//! forgets, so that a crash that takes something back is found.

mod dump;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Result, bail, ensure};
use redeliver_client::{Epoch, EventName, Position};

pub use self::dump::Dump;
use crate::emission::{EVENT_NAME, Load, Origin};
use crate::waiting::PATIENCE;

/// All that is known of one log, by whoever saw a part of it.
#[derive(Debug)]
pub struct Ledger {
    load: Load,
    book: Mutex<Book>,
    changed: Condvar,
}

/// How much was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Emits that have a receipt.
    pub acknowledged: u64,
    /// Those of them that an earlier try had stored.
    pub duplicates: u64,
    /// Bytes of their payloads.
    pub acknowledged_bytes: u64,
    /// Events handed over to readers.
    pub deliveries: u64,
    /// Those of them that a reader had got before it was killed.
    pub repeats: u64,
    /// Lives of readers.
    pub lives: u64,
    /// Connections that readers lost and resumed.
    pub resumes: u64,
    /// Dumps of the log that were checked.
    pub dumps: u64,
    /// Events in these dumps.
    pub dumped: u64,
    /// The highest floor that a dump met.
    pub floor: u64,
}

#[derive(Debug, Default)]
struct Book {
    invoked: BTreeMap<u32, u64>,
    /// Emits without a receipt, each with the highest seq that was acknowledged when it was invoked.
    waiting: HashMap<Origin, u64>,
    facts: BTreeMap<u64, Fact>,
    seqs: HashMap<Origin, u64>,
    acknowledged_head: u64,
    /// Known events of each topic.
    stored: HashMap<u64, u64>,
    /// The topic that each reader follows, and the nth that it has reached.
    readers: Vec<(u64, u64)>,
    figures: Figures,
    violations: Vec<String>,
}

/// An event that is in the log: somebody has a receipt for it, or has received it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fact {
    epoch: Epoch,
    origin: Origin,
}

impl Ledger {
    /// An empty one for this load.
    #[must_use]
    pub fn new(load: Load) -> Ledger {
        Ledger { load, book: Mutex::default(), changed: Condvar::new() }
    }

    /// What is emitted.
    #[must_use]
    pub fn load(&self) -> &Load {
        &self.load
    }

    /// An emit begins.
    pub fn invoke(&self, origin: Origin) {
        let mut book = self.book();
        let head = book.acknowledged_head;
        book.waiting.insert(origin, head);
        let last = book.invoked.insert(origin.publisher, origin.number).unwrap_or(0);
        if origin.number != last + 1 {
            book.violation(format!("the test itself is wrong: {origin} after {last}"));
        }
    }

    /// An emit has its receipt: it is at this position, and may have been stored by an earlier try.
    pub fn acknowledge(&self, origin: Origin, position: Option<Position>, is_duplicate: bool) {
        let mut book = self.book();
        let Some(head) = book.waiting.remove(&origin) else {
            return book.violation(format!("{origin} has a second receipt: {position:?}"));
        };
        let Some(position) = position else {
            return book.violation(format!("{origin}: the server forgot where it stored it"));
        };
        if position.seq.0 <= head {
            book.violation(format!("{origin} began after {head} was acknowledged, but is at {position}"));
        }
        book.figures.acknowledged += 1;
        book.figures.duplicates += u64::from(is_duplicate);
        book.figures.acknowledged_bytes += self.load.bytes_of(origin);
        book.acknowledged_head = book.acknowledged_head.max(position.seq.0);
        book.learn(&self.load, position, origin);
        drop(book);
        self.changed.notify_all();
    }

    /// Somebody was handed an event of a topic.
    pub fn deliver(&self, who: &str, topic: u64, at: Position, name: &EventName, payload: &[u8]) {
        let origin = Origin::named_in(payload);
        let is_intact =
            origin.is_some_and(|origin| self.load.payload_of(origin) == payload) && name.as_str() == EVENT_NAME;
        let mut book = self.book();
        match origin {
            Some(origin) if is_intact => {
                if book.invoked.get(&origin.publisher).is_none_or(|last| origin.number > *last) {
                    book.violation(format!("{who}: {origin} at {at} was never emitted"));
                }
                if !self.load.topics_of(origin).contains(&topic) {
                    book.violation(format!("{who}: {origin} at {at} does not belong to topic {topic}"));
                }
                book.learn(&self.load, at, origin);
            }
            Some(_) | None => book.violation(format!("{who}: what is at {at} is not what was emitted: {origin:?}")),
        }
    }

    /// A promise was broken.
    pub fn violation(&self, what: String) {
        self.book().violation(what);
        self.changed.notify_all();
    }

    /// Counts something.
    pub fn count(&self, count: impl FnOnce(&mut Figures)) {
        count(&mut self.book().figures);
    }

    /// A reader of a topic joins. Gives the number under which it says how far it is.
    pub fn join(&self, topic: u64) -> usize {
        let mut book = self.book();
        book.readers.push((topic, 0));
        book.readers.len() - 1
    }

    /// A reader has reached an nth.
    pub fn reach(&self, reader: usize, nth: u64) {
        let mut book = self.book();
        book.figures.deliveries += 1;
        if let Some((_, reached)) = book.readers.get_mut(reader) {
            *reached = nth;
        }
    }

    /// How many events the last of the readers is behind.
    #[must_use]
    pub fn lag(&self) -> u64 {
        let book = self.book();
        let behind = |(topic, nth): &(u64, u64)| book.stored.get(topic).unwrap_or(&0).saturating_sub(*nth);
        book.readers.iter().map(behind).max().unwrap_or(0)
    }

    /// How many events of a topic are known to be in the log.
    #[must_use]
    pub fn stored(&self, topic: u64) -> u64 {
        self.book().stored.get(&topic).copied().unwrap_or(0)
    }

    /// What was seen so far.
    #[must_use]
    pub fn figures(&self) -> Figures {
        self.book().figures
    }

    /// Waits until so many more emits have their receipts, or a promise is broken.
    ///
    /// # Errors
    ///
    /// If that takes longer than anything may.
    pub fn wait_for_receipts(&self, more: u64) -> Result<()> {
        let mut book = self.book();
        let (goal, deadline) = (book.figures.acknowledged + more, Instant::now() + PATIENCE);
        while book.figures.acknowledged < goal && book.violations.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "emits get no receipts: {:?}", book.figures);
            (book, _) = self.changed.wait_timeout(book, left).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    /// Whether all promises were kept so far.
    ///
    /// # Errors
    ///
    /// The violations, if not.
    pub fn verdict(&self) -> Result<()> {
        let book = self.book();
        if !book.violations.is_empty() {
            bail!("{} violations, {:?}:\n{}", book.violations.len(), book.figures, book.violations.join("\n"));
        }
        Ok(())
    }

    /// When no emitter runs any more: every emit has its receipt, and each publisher's events are in its order.
    pub fn close(&self) {
        let mut book = self.book();
        if !book.waiting.is_empty() {
            let count = book.waiting.len();
            book.violation(format!("{count} emits never got a receipt"));
        }
        let invoked = book.invoked.values().sum::<u64>();
        if book.facts.len() as u64 != invoked {
            let count = book.facts.len();
            book.violation(format!("{invoked} events were emitted, {count} are known"));
        }
        let mut last = HashMap::new();
        let mut overtaken = Vec::new();
        for (seq, fact) in &book.facts {
            let number = last.insert(fact.origin.publisher, fact.origin.number).unwrap_or(0);
            if fact.origin.number <= number {
                overtaken.push(format!("{} is at {seq}, behind {number}", fact.origin));
            }
        }
        overtaken.into_iter().for_each(|what| book.violation(what));
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    /// One event for each seq and one seq for each event, for ever.
    fn learn(&mut self, load: &Load, position: Position, origin: Origin) {
        let (seq, fact) = (position.seq.0, Fact { epoch: position.epoch, origin });
        match self.facts.entry(seq) {
            Entry::Vacant(entry) => {
                entry.insert(fact);
                load.topics_of(origin).into_iter().for_each(|topic| *self.stored.entry(topic).or_default() += 1);
            }
            Entry::Occupied(entry) if *entry.get() != fact => {
                let known = *entry.get();
                self.violation(format!("at {seq} was {known:?}, now it is {fact:?}"));
            }
            Entry::Occupied(_) => {}
        }
        if let Some(other) = self.seqs.insert(origin, seq).filter(|other| *other != seq) {
            self.violation(format!("{origin} is stored twice, at {other} and at {seq}"));
        }
    }

    fn violation(&mut self, what: String) {
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(what);
        }
    }
}

/// The first ones tell most.
const VIOLATIONS_MAX: usize = 40;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use redeliver_client::Seq;

    use super::*;

    const LOAD: Load = Load { topics: 3, bytes_max: 1_024, several_topics_once_in: 3, large_once_in: 10, lag_max: 500 };

    fn origin(number: u64) -> Origin {
        Origin { publisher: 1, number }
    }

    fn at(seq: u64) -> Position {
        Position::new(Epoch([1; 16]), Seq(seq))
    }

    /// Ten events that were emitted one after another, acknowledged and read as it should be.
    fn good() -> Ledger {
        let ledger = Ledger::new(LOAD);
        for number in 1..=10 {
            ledger.invoke(origin(number));
            ledger.acknowledge(origin(number), Some(at(number)), false);
            hand_over(&ledger, number, at(number));
        }
        ledger.verdict().unwrap();
        ledger
    }

    fn hand_over(ledger: &Ledger, number: u64, position: Position) {
        let topic = LOAD.topics_of(origin(number))[0];
        let event = LOAD.event(origin(number)).unwrap();
        ledger.deliver("reader", topic, position, &event.name, &event.payload);
    }

    /// What the log shows if these events are in it, one after another.
    fn dump(numbers: &[u64], through: u64) -> Dump {
        let seqs =
            |topic| numbers.iter().copied().filter(|number| LOAD.topics_of(origin(*number)).contains(&topic)).collect();
        Dump::new((0..LOAD.topics).map(|topic| (topic, 0, through, seqs(topic))).collect(), 10)
    }

    #[test]
    fn a_history_as_it_should_be_is_left_in_peace() {
        let ledger = good();
        dump(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 10).check(&ledger, None);
        ledger.close();
        ledger.verdict().unwrap();
    }

    #[test]
    fn each_kind_of_damage_to_a_history_is_found() {
        type Damage = (&'static str, fn(&Ledger));
        let damages: [Damage; 12] = [
            ("is not in topic", |ledger| dump(&[1, 2, 3, 5, 6, 7, 8, 9, 10], 10).check(ledger, None)),
            ("a hole in the log at 4", |ledger| dump(&[1, 2, 3, 5, 6, 7, 8, 9, 10], 10).check(ledger, None)),
            ("which now ends at 9", |ledger| dump(&[1, 2, 3, 4, 5, 6, 7, 8, 9], 9).check(ledger, None)),
            ("at 4 was", |ledger| hand_over(ledger, 5, at(4))),
            ("is stored twice", |ledger| hand_over(ledger, 5, at(11))),
            ("at 5 was", |ledger| hand_over(ledger, 5, Position::new(Epoch([2; 16]), Seq(5)))),
            ("was never emitted", |ledger| hand_over(ledger, 11, at(11))),
            ("is not what was emitted", |ledger| {
                let event = LOAD.event(origin(5)).unwrap();
                let mut payload = event.payload.to_vec();
                *payload.last_mut().unwrap() ^= 1;
                ledger.deliver("reader", LOAD.topics_of(origin(5))[0], at(5), &event.name, &payload);
            }),
            ("does not belong to topic", |ledger| {
                let event = LOAD.event(origin(5)).unwrap();
                ledger.deliver("reader", 99, at(5), &event.name, &event.payload);
            }),
            ("has a second receipt", |ledger| ledger.acknowledge(origin(10), Some(at(10)), true)),
            ("began after 10 was acknowledged", |ledger| {
                ledger.invoke(origin(11));
                ledger.acknowledge(origin(11), Some(at(7)), false);
            }),
            ("never got a receipt", |ledger| {
                ledger.invoke(origin(11));
                ledger.close();
            }),
        ];
        for (words, damage) in damages {
            let ledger = good();
            damage(&ledger);
            let verdict = ledger.verdict().unwrap_err().to_string();
            assert!(verdict.contains(words), "{words}: {verdict}");
        }
    }

    #[test]
    fn emits_that_overtook_one_another_are_found() {
        let ledger = Ledger::new(LOAD);
        ledger.invoke(origin(1));
        ledger.invoke(origin(2));
        ledger.acknowledge(origin(2), Some(at(1)), false);
        ledger.acknowledge(origin(1), Some(at(2)), false);
        ledger.close();
        assert!(ledger.verdict().unwrap_err().to_string().contains("behind 2"));
    }

    #[test]
    fn a_log_that_keeps_too_little_is_found() {
        let ledger = good();
        let topics = (0..LOAD.topics).map(|topic| (topic, 10, 10, BTreeSet::new())).collect();
        Dump::new(topics, 10).check(&ledger, Some(1_000_000));
        assert!(ledger.verdict().unwrap_err().to_string().contains("only 0 bytes are retained"));
    }
}
