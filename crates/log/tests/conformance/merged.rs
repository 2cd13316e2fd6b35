//! Several topics read as one row, against a filter of the whole list of events.

use proptest::prelude::*;
use redeliver_log::kv::faulty::Unsynced;
use redeliver_log::{LogConfig, MergedItem, MergedReader, MergedRow};
use redeliver_protocol::event::NewEvent;
use redeliver_protocol::history::GapCause;
use redeliver_protocol::seq::{Position, Seq};

use crate::bench::{Bench, at, event, except_for, topic};

const TOPICS: [&str; 4] = ["a", "b", "c", "d"];

#[derive(Clone, Debug)]
enum Step {
    /// One commit of events: which topics (bits), and how large.
    Emit(Vec<(u8, usize)>),
    /// A topic, after how many events before the head (or after it), and until how many after that.
    Follow {
        topic: usize,
        back: u64,
        length: Option<u64>,
    },
    Unfollow(usize),
    /// A topic, until how many events before the head.
    UnfollowAfter(usize, u64),
    Read {
        events_max: usize,
        bytes_max: usize,
        cold: bool,
    },
    Quiet,
    Maintain(usize),
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let events = prop::collection::vec((0_u8..16, prop_oneof![9 => 0..80_usize, 1 => 3_000..8_000_usize]), 1..10);
    let length = prop_oneof![2 => Just(None), 1 => (0_u64..40).prop_map(Some)];
    let read = (prop_oneof![1_usize..6, Just(1000)], prop_oneof![0_usize..500, Just(100_000)], any::<bool>());
    let step = prop_oneof![
        6 => events.prop_map(Step::Emit),
        4 => (0..TOPICS.len(), 0_u64..30, length).prop_map(|(topic, back, length)| Step::Follow { topic, back, length }),
        1 => (0..TOPICS.len()).prop_map(Step::Unfollow),
        1 => (0..TOPICS.len(), 0_u64..10).prop_map(|(topic, back)| Step::UnfollowAfter(topic, back)),
        8 => read.prop_map(|(events_max, bytes_max, cold)| Step::Read { events_max, bytes_max, cold }),
        1 => Just(Step::Quiet),
        2 => (1_usize..12).prop_map(Step::Maintain),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..70)
}

/// Everything that was emitted, and what the reader is to get of it.
struct Model {
    /// The topics of each event, the first one's seq being 1, and its payload.
    events: Vec<(Vec<&'static str>, String)>,
    /// Topic, above which seq, up to which.
    lanes: Vec<(&'static str, u64, u64)>,
    place: u64,
    count: Option<u64>,
    /// The gaps that the reader was told: topic, after, through.
    told: Vec<(String, u64, u64)>,
}

impl Model {
    fn head(&self) -> u64 {
        self.events.len() as u64
    }

    fn floor(&self) -> u64 {
        self.count.map_or(0, |count| self.head().saturating_sub(count))
    }

    /// The followed topics to which an event belongs that the reader does not have yet.
    fn wanted(&self, seq: u64) -> Vec<&'static str> {
        let (topics, _) = &self.events[usize::try_from(seq).unwrap() - 1];
        let has = |name: &&str| {
            let mut lanes = self.lanes.iter();
            lanes.any(|(of, after, until)| of == name && seq > *after && seq <= *until && seq > self.place)
        };
        topics.iter().filter(|name| has(name)).copied().collect()
    }

    /// Holds a row against the list, and moves on.
    fn check(&mut self, row: &MergedRow, place: Position, (events_max, bytes_max): (usize, usize)) {
        let to = place.seq.0;
        assert!(to >= self.place, "a reader never goes back");
        assert!(to == self.head() || row.is_cut, "a row that is not cut reaches the head");
        let mut events = Vec::new();
        let mut gaps = Vec::new();
        let (mut last, mut bytes) = (0, 0);
        for item in &row.items {
            match item {
                MergedItem::Event(event) => {
                    assert!(event.position.seq.0 > last, "in order, each once");
                    last = event.position.seq.0;
                    assert_eq!(event.position.seq, event.record.seq);
                    bytes += 41 + event.record.payload.len() + event.record.name.as_str().len();
                    let mut topics: Vec<_> = event.topics.iter().map(|topic| topic.as_str().to_owned()).collect();
                    topics.sort_unstable();
                    let payload = String::from_utf8(event.record.payload.to_vec()).unwrap();
                    assert_eq!(event.except[..], except_for(&payload));
                    events.push((last, topics, payload));
                }
                MergedItem::Gap { topic, gap } => {
                    assert!(gap.after.seq.0 >= last, "a gap stands where it begins: {gap:?}");
                    last = gap.after.seq.0;
                    assert_eq!(gap.cause, GapCause::RetentionSize);
                    gaps.push((topic.as_str().to_owned(), gap.after.seq.0, gap.through.seq.0));
                }
            }
        }
        assert!(last <= to);
        self.told.extend(gaps.iter().cloned());
        assert!(events.len() <= 1 || (events.len() <= events_max && bytes <= bytes_max), "{} events", events.len());
        let mut expected = Vec::new();
        for seq in self.place + 1..=to {
            let mut topics = self.wanted(seq);
            if seq > self.floor() && !topics.is_empty() {
                topics.sort_unstable();
                let topics = topics.into_iter().map(str::to_owned).collect::<Vec<_>>();
                expected.push((seq, topics, self.events[usize::try_from(seq).unwrap() - 1].1.clone()));
            } else {
                for topic in topics {
                    let is_told =
                        self.told.iter().any(|(of, after, through)| of == topic && *after < seq && seq <= *through);
                    assert!(is_told, "{seq} of {topic} is gone, and nobody says so: {gaps:?}");
                }
            }
        }
        assert_eq!(events, expected, "from {} to {to}", self.place);
        if self.floor() <= self.place {
            assert_eq!(gaps, [], "nothing is missing");
        }
        self.place = to;
        self.lanes.retain(|(_, _, until)| *until > to);
    }
}

fn run(config: LogConfig, steps: Vec<Step>) {
    let mut model =
        Model { events: Vec::new(), lanes: Vec::new(), place: 0, count: config.retention.count, told: Vec::new() };
    let mut bench = Bench::with(config);
    let mut reader = bench.log.merged_reader(bench.log.head());
    for (seed, step) in steps.into_iter().enumerate() {
        match step {
            Step::Emit(specs) => {
                let events: Vec<NewEvent> =
                    specs.iter().map(|(topics, size)| made(&mut model, seed, *topics, *size)).collect();
                bench.emit(events);
            }
            Step::Follow { topic: index, back, length } => {
                let after = model.head().saturating_sub(back);
                let until = length.map_or(u64::MAX, |length| after + length);
                reader.follow(topic(TOPICS[index]), Seq(after), length.map(|length| Seq(after + length)));
                model.lanes.push((TOPICS[index], after.max(model.place), until));
                model.lanes.retain(|(_, _, until)| *until > model.place);
            }
            Step::Unfollow(index) => {
                reader.unfollow(&topic(TOPICS[index]));
                model.lanes.retain(|(of, _, _)| *of != TOPICS[index]);
            }
            Step::UnfollowAfter(index, back) => {
                let end = model.head().saturating_sub(back);
                reader.unfollow_after(&topic(TOPICS[index]), Seq(end));
                for (of, _, until) in &mut model.lanes {
                    *until = if *of == TOPICS[index] { (*until).min(end) } else { *until };
                }
                model.lanes.retain(|(_, _, until)| *until > model.place);
            }
            Step::Read { events_max, bytes_max, cold } => {
                read(&bench, &mut reader, &mut model, (events_max, bytes_max), cold);
            }
            Step::Quiet => {
                let is_quiet = (model.place + 1..=model.head()).all(|seq| model.wanted(seq).is_empty());
                if bench.log.pass_quiet(&mut reader) {
                    assert!(is_quiet, "what is wanted is not passed");
                    assert_eq!(reader.place(), bench.log.head());
                    model.place = model.head();
                    model.lanes.retain(|(_, _, until)| *until > model.place);
                }
            }
            Step::Maintain(steps) => {
                for _ in 0..steps {
                    bench.maintain();
                }
            }
            Step::Reopen => {
                bench = bench.crash(Unsynced::Lost);
                reader = again(&bench, &reader, &model);
            }
        }
    }
    while model.place < model.head() {
        read(&bench, &mut reader, &mut model, (7, 600), false);
    }
}

fn read(
    bench: &Bench,
    reader: &mut MergedReader,
    model: &mut Model,
    (events_max, bytes_max): (usize, usize),
    cold: bool,
) {
    let hot = if cold { None } else { bench.log.read_merged_recent(reader, events_max, bytes_max).unwrap() };
    let row = hot.unwrap_or_else(|| bench.log.read_merged(reader, events_max, bytes_max).unwrap());
    model.check(&row, reader.place(), (events_max, bytes_max));
}

/// The same reader over a log that was opened again.
fn again(bench: &Bench, reader: &MergedReader, model: &Model) -> MergedReader {
    assert!(bench.log.knows(reader.place()));
    let mut again = bench.log.merged_reader(reader.place());
    for (of, after, until) in &model.lanes {
        again.follow(topic(of), Seq(*after), (*until < u64::MAX).then_some(Seq(*until)));
    }
    again
}

fn made(model: &mut Model, seed: usize, topics: u8, size: usize) -> NewEvent {
    let bits = TOPICS.iter().enumerate().filter(|(bit, _)| topics & (1 << bit) != 0);
    let mut names: Vec<&'static str> = bits.map(|(_, name)| *name).collect();
    if names.is_empty() {
        names.push("nobody's");
    }
    let mark = if size % 3 == 1 { "~" } else { "" };
    let payload = format!("{mark}{seed}.{}:{}", model.head(), "x".repeat(size));
    let made = event(&names, &payload);
    model.events.push((names, payload));
    made
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, max_shrink_iters: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_row_is_what_a_filter_of_the_whole_log_gives(
        steps in steps(),
        fold_bytes in prop_oneof![Just(300_usize), Just(3_000), Just(60_000)],
        recent_bytes_max in prop_oneof![Just(0_usize), Just(1_500), Just(10_000_000)],
        count in prop_oneof![Just(None), (1_u64..60).prop_map(Some)],
    ) {
        let mut config = LogConfig::default();
        config.fold_bytes = fold_bytes;
        config.recent_bytes_max = recent_bytes_max;
        config.retention.count = count;
        run(config, steps);
    }
}

fn texts(row: &MergedRow) -> Vec<String> {
    let text = |item: &MergedItem| match item {
        MergedItem::Event(event) => String::from_utf8(event.record.payload.to_vec()).unwrap(),
        MergedItem::Gap { topic, gap } => format!("{topic}: {} {:?} {}", gap.count, gap.cause, gap.count_is_exact),
    };
    row.items.iter().map(text).collect()
}

#[test]
fn a_reader_that_follows_from_the_start_is_told_exactly_what_retention_took() {
    let mut config = LogConfig::default();
    config.retention.count = Some(3);
    let bench = Bench::with(config);
    let mut reader = bench.log.merged_reader(bench.log.head());
    reader.follow(topic("a"), Seq(0), None);
    reader.follow(topic("b"), Seq(0), None);
    for number in 0..5 {
        bench.emit(vec![event(&["a"], &format!("a{number}")), event(&["a", "b"], &format!("both{number}"))]);
    }
    let row = bench.log.read_merged_recent(&mut reader, 100, 10_000).unwrap().unwrap();
    assert_eq!(texts(&row), ["a: 7 RetentionSize true", "b: 3 RetentionSize true"]);
    let row = bench.log.read_merged_recent(&mut reader, 100, 10_000).unwrap().unwrap();
    assert_eq!(texts(&row), ["both3", "a4", "both4"]);
}

#[test]
fn a_place_of_a_history_that_is_gone_begins_with_a_gap_at_the_last_common_one() {
    let bench = Bench::new();
    bench.say("a", "kept");
    let image = bench.kv.durable();
    bench.say("a", "lost");
    let lost = bench.log.head();
    let other = bench.restored(&image, 9);
    other.say("a", "instead");
    assert!(!other.log.knows(lost));
    let mut reader = other.log.merged_reader(lost);
    assert_eq!(reader.place().seq, Seq(1));
    // It was left in the other history, after a seq that this one has not reached.
    reader.follow(topic("a"), Seq(2), None);
    let row = other.log.read_merged(&mut reader, 100, 10_000).unwrap();
    assert_eq!(texts(&row), ["a: 0 EpochChanged true", "instead"]);
    assert_eq!(reader.place(), at(9, 2));
}

#[test]
fn damage_in_one_topic_is_told_in_its_place_and_costs_the_others_nothing() {
    let mut config = LogConfig::default();
    config.recent_bytes_max = 0;
    let bench = Bench::with(config);
    for payload in ["1", "2", "3"] {
        bench.emit(vec![event(&["a"], payload)]);
        bench.emit(vec![event(&["b"], payload)]);
    }
    let other = bench.damaged(|image| {
        let key = image.entries().map(|(key, _)| key.to_vec()).filter(|key| key[0] == b'l').nth(2).unwrap();
        let mut value = image.entries().find(|(other, _)| *other == key).unwrap().1.to_vec();
        value[20] ^= 1;
        image.set(&key, Some(&value));
    });
    let mut reader = other.log.merged_reader(at(1, 0));
    reader.follow(topic("a"), Seq(0), None);
    reader.follow(topic("b"), Seq(0), None);
    let mut all = Vec::new();
    while reader.place() != other.log.head() {
        all.extend(texts(&other.log.read_merged(&mut reader, 100, 10_000).unwrap()));
    }
    assert_eq!(all, ["1", "a: 1 LogDamaged true", "1", "2", "3", "3"]);
}
