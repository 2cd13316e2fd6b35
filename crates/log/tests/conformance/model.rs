//! Any sequence of emits, upkeep, crashes and reads, against a plain list of events.

use proptest::prelude::*;
use redeliver_log::LogConfig;
use redeliver_log::kv::faulty::Unsynced;
use redeliver_protocol::event::NewEvent;
use redeliver_protocol::history::{EmitFate, Gap, GapCause, Start};
use redeliver_protocol::seq::{Nth, Seq};

use crate::bench::{Bench, Got, event, known};

const TOPICS: [&str; 5] = ["a", "b", "c", "d", "e"];

#[derive(Clone, Debug)]
enum Step {
    /// One commit of events: which topics (bits), and how large.
    Emit(Vec<(u8, usize)>),
    /// As a publisher: how many numbers are sent again, how many are new.
    Publish {
        publisher: u8,
        again: u64,
        new: u64,
    },
    Maintain(usize),
    /// A crash with a commit staged, which may survive.
    Crash {
        staged: bool,
        kept: bool,
    },
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let events = prop::collection::vec((1_u8..32, prop_oneof![9 => 0..120_usize, 1 => 5_000..15_000_usize]), 1..12);
    let step = prop_oneof![
        6 => events.prop_map(Step::Emit),
        2 => (1_u8..4, 0_u64..6, 0_u64..6).prop_map(|(publisher, again, new)| Step::Publish { publisher, again, new }),
        4 => (1_usize..12).prop_map(Step::Maintain),
        1 => any::<(bool, bool)>().prop_map(|(staged, kept)| Step::Crash { staged, kept }),
        1 => (0_u64..5_000).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 1..60)
}

/// What must be in the log.
#[derive(Default)]
struct Model {
    events: Vec<(Vec<String>, String)>,
    count: Option<u64>,
    numbers: [Vec<u64>; 4],
}

impl Model {
    fn floor(&self) -> u64 {
        self.count.map_or(0, |count| (self.events.len() as u64).saturating_sub(count))
    }

    /// Seqs, nths and payloads of a topic.
    fn topic(&self, name: &str) -> Vec<(u64, u64, String)> {
        let own = self.events.iter().enumerate().filter(|(_, (topics, _))| topics.iter().any(|topic| topic == name));
        own.enumerate().map(|(nth, (at, (_, payload)))| (at as u64 + 1, nth as u64 + 1, payload.clone())).collect()
    }

    fn nth_at(&self, name: &str, seq: u64) -> u64 {
        self.topic(name).iter().filter(|(at, _, _)| *at <= seq).count() as u64
    }

    fn take(&mut self, events: &[NewEvent]) {
        for event in events {
            let topics = event.topics.iter().map(|topic| topic.as_str().to_owned()).collect();
            self.events.push((topics, String::from_utf8(event.payload.to_vec()).unwrap()));
        }
    }
}

fn check(bench: &Bench, model: &Model, seed: u64) {
    assert_eq!(bench.head_seq(), model.events.len() as u64);
    let floor = model.floor();
    for (index, name) in TOPICS.iter().enumerate() {
        let all = model.topic(name);
        let retained: Vec<_> = all.iter().filter(|(seq, _, _)| *seq > floor).collect();
        let from = (seed.wrapping_mul(31).wrapping_add(index as u64 * 7)) % (model.events.len() as u64 + 1);
        for after in [0, from, floor, model.events.len() as u64] {
            let nth = model.nth_at(name, after);
            let mut expected = Vec::new();
            let lost = model.nth_at(name, floor).saturating_sub(nth);
            if lost > 0 {
                expected.push((floor, nth + lost, format!("{lost} lost")));
            }
            expected.extend(all.iter().filter(|(seq, _, _)| *seq > after.max(floor)).cloned());
            let got: Vec<_> = bench.follow_in(name, after, nth, 7, 400).into_iter().map(plain).collect();
            assert_eq!(got, expected, "{name} after {after}");
        }
        check_starts(bench, model, name, &retained, from);
    }
}

fn check_starts(bench: &Bench, model: &Model, name: &str, retained: &[&(u64, u64, String)], from: u64) {
    let last_nth = model.nth_at(name, u64::MAX);
    let earliest = bench.open_at(name, Start::Earliest);
    assert_eq!((earliest.pending, earliest.gap), (retained.len() as u64, None));
    let last = bench.open_at(name, Start::Last(from));
    assert_eq!(last.pending, from.min(retained.len() as u64), "the last {from} of {name}");
    assert_eq!(bench.follow(name, last.after.seq.0, last.nth.0).len() as u64, last.pending);
    let floor = model.floor();
    if from <= floor {
        return;
    }
    let opened = bench.open_at(name, Start::AfterSeq(Seq(from)));
    assert_eq!((opened.nth.0, &opened.gap), (model.nth_at(name, from), &None));
    let again = bench.open_at(name, Start::After(known(opened.after, opened.nth.0)));
    assert_eq!((again.after, again.nth, again.pending), (opened.after, opened.nth, last_nth - opened.nth.0));
    assert_eq!(again.gap, None);
}

fn plain(got: Got) -> (u64, u64, String) {
    match got {
        Got::Event { seq, nth, payload } => (seq, nth, payload),
        Got::Gap(Gap { through, nth_through: Nth(nth), count, count_is_exact, cause, .. }) => {
            assert!(count_is_exact && cause == GapCause::RetentionSize, "{count} {count_is_exact} {cause:?} {through}");
            (through.seq.0, nth, format!("{count} lost"))
        }
    }
}

fn publish(bench: &Bench, model: &mut Model, publisher: u8, again: u64, new: u64) {
    let seqs = &model.numbers[usize::from(publisher)];
    let reached = seqs.len() as u64;
    let first = reached.saturating_sub(again) + 1;
    let payloads: Vec<String> = (first..=reached + new).map(|number| format!("p{publisher}n{number}")).collect();
    if payloads.is_empty() {
        return;
    }
    let borrowed: Vec<&str> = payloads.iter().map(String::as_str).collect();
    let runs = bench.publish(publisher, 0, first, &borrowed);
    let mut number = first;
    for run in runs {
        assert_eq!(run.first.0, number);
        for at in 0..u64::from(run.count) {
            let index = usize::try_from(number - 1).unwrap();
            match run.fate {
                EmitFate::Duplicate(position) => {
                    assert_eq!(model.numbers[usize::from(publisher)][index], position.seq.0 + at);
                }
                EmitFate::Stored(position) => {
                    assert_eq!(model.events.len() as u64 + 1, position.seq.0 + at);
                    assert_eq!(model.numbers[usize::from(publisher)].len(), index);
                    model.numbers[usize::from(publisher)].push(position.seq.0 + at);
                    model.events.push((vec!["t".to_owned()], format!("p{publisher}n{number}")));
                }
                // What retention has taken is known no more.
                EmitFate::DuplicateForgotten => {
                    assert!(model.numbers[usize::from(publisher)][index] <= model.floor());
                }
                EmitFate::Refused(code) => panic!("refused: {code}"),
            }
            number += 1;
        }
    }
    assert_eq!(number, reached + new + 1);
}

fn run(config: LogConfig, steps: Vec<Step>) {
    let mut model = Model { count: config.retention.count, ..Model::default() };
    let mut bench = Bench::with(config);
    for (seed, step) in steps.into_iter().enumerate() {
        let seed = seed as u64;
        match step {
            Step::Emit(events) => {
                let events: Vec<NewEvent> = events.iter().enumerate().map(|(at, spec)| made(seed, at, spec)).collect();
                model.take(&events);
                bench.emit(events);
            }
            Step::Publish { publisher, again, new } => publish(&bench, &mut model, publisher, again, new),
            Step::Maintain(steps) => {
                for _ in 0..steps {
                    bench.maintain();
                }
            }
            Step::Crash { staged, kept } => {
                let event = event(&["a"], "staged");
                if staged {
                    let request = redeliver_log::WriteRequest::Emit {
                        publisher: None,
                        first: redeliver_protocol::seq::EmitNumber(1),
                        events: vec![Ok(event.clone())],
                    };
                    drop(bench.stage(vec![request]));
                }
                bench = bench.crash(if kept { Unsynced::Kept } else { Unsynced::Lost });
                if staged && kept {
                    model.take(&[event]);
                }
            }
            Step::Wait(ms) => bench.wait(ms),
        }
        check(&bench, &model, seed);
    }
    bench.tend_all();
    check(&bench, &model, 5);
    check(&bench.reopen(), &model, 7);
}

fn made(seed: u64, at: usize, (topics, size): &(u8, usize)) -> NewEvent {
    let names: Vec<&str> =
        TOPICS.iter().enumerate().filter(|(bit, _)| topics & (1 << bit) != 0).map(|(_, name)| *name).collect();
    let mark = if size % 3 == 1 { "~" } else { "" };
    event(&names, &format!("{mark}{seed}.{at}:{}", "x".repeat(*size)))
}

fn config(fold_bytes: usize, recent_bytes_max: usize, count: Option<u64>) -> LogConfig {
    let mut config = LogConfig::default();
    config.fold_bytes = fold_bytes;
    config.recent_bytes_max = recent_bytes_max;
    config.retention.count = count;
    config
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_steps_reads_as_a_plain_list_of_events(
        steps in steps(),
        fold_bytes in prop_oneof![Just(300_usize), Just(3_000), Just(60_000)],
        recent_bytes_max in prop_oneof![Just(0_usize), Just(1_500), Just(10_000_000)],
        count in prop_oneof![Just(None), (1_u64..60).prop_map(Some)],
    ) {
        run(config(fold_bytes, recent_bytes_max, count), steps);
    }
}
