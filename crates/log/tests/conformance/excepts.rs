//! Events that some are not to get: the list comes with the event, from wherever it is read, and goes with it.

use redeliver_log::kv::faulty::Unsynced;
use redeliver_log::{LogConfig, MergedItem};
use redeliver_protocol::codec::Records;
use redeliver_protocol::event::EmitOptions;
use redeliver_protocol::history::{GapCause, ReadOutcome};
use redeliver_protocol::seq::{Nth, Seq};

use crate::bench::{Bench, Got, at, event, except_for, topic};

fn lists(bench: &Bench) -> usize {
    bench.kv.durable().entries().filter(|(key, _)| key[0] == b'x').count()
}

#[test]
fn the_list_comes_with_its_event_from_memory_from_the_tail_from_a_fold_and_after_a_crash() {
    for recent_bytes_max in [0, 1_000_000] {
        let mut config = LogConfig::default();
        config.recent_bytes_max = recent_bytes_max;
        config.fold_bytes = 2_000;
        for bench in Bench::each(&config) {
            let payloads = ["1", "~2", "~3", "4", "5", "~6"];
            bench.emit(payloads.iter().map(|payload| event(&["a", "b"], payload)).collect());
            // What is not for everybody comes alone, with its list: `follow` holds it against the payload.
            assert_eq!(bench.payloads("a"), payloads);
            let bench = bench.reopen();
            assert_eq!(bench.payloads("b"), payloads);
            for number in 0..100 {
                bench.say("other", &format!("{number} {}", "fill".repeat(10)));
            }
            bench.tend_all();
            assert_eq!(bench.payloads("a"), payloads);
            assert_eq!(bench.reopen().payloads("b"), payloads);
        }
    }
}

#[test]
fn an_event_and_its_list_are_stored_together_or_not_at_all() {
    for (unsynced, count) in [(Unsynced::Lost, 0), (Unsynced::Kept, 1)] {
        let bench = Bench::new();
        let request = redeliver_log::WriteRequest::Emit {
            publisher: None,
            first: redeliver_protocol::seq::EmitNumber(1),
            events: vec![Ok(event(&["a"], "~x"))],
        };
        drop(bench.stage(vec![request]));
        let bench = bench.crash(unsynced);
        assert_eq!(bench.payloads("a").len(), count);
        assert_eq!(lists(&bench), if count == 0 { 0 } else { 1 });
    }
}

#[test]
fn that_an_emitter_asks_for_an_answer_stands_in_the_record() {
    let bench = Bench::new();
    let mut asking = event(&["a"], "?");
    asking.options = EmitOptions::ASKS;
    bench.emit(vec![asking, event(&["a"], "!")]);
    let bench = bench.reopen();
    let asks = |after| {
        let ReadOutcome::Batch(batch) = bench.read("a", after, after) else { panic!("events are there") };
        Records::new(batch.records).map(|record| record.unwrap().asks).collect::<Vec<_>>()
    };
    assert_eq!((asks(0), asks(1)), (vec![true], vec![false]), "a marked one comes alone");
}

#[test]
fn lists_go_with_the_events_that_retention_takes() {
    let mut config = LogConfig::default();
    config.retention.count = Some(50);
    config.fold_bytes = 2_000;
    let bench = Bench::with(config);
    for number in 0..200 {
        bench.say("a", &format!("~{number}"));
    }
    bench.tend_all();
    let left = lists(&bench);
    assert!((50..150).contains(&left), "{left}");
    let got = bench.follow("a", 0, 0);
    assert!(matches!(&got[0], Got::Gap(gap) if gap.cause == GapCause::RetentionSize && gap.count == 150));
    assert_eq!(got.len(), 51);
}

#[test]
fn an_event_whose_list_is_damaged_is_given_to_nobody_and_told() {
    let bench = Bench::new();
    bench.emit(vec![event(&["a"], "1"), event(&["a"], "~2"), event(&["a"], "3")]);
    let bench = bench.damaged(|image| {
        let key = image.entries().map(|(key, _)| key.to_vec()).find(|key| key[0] == b'x').unwrap();
        let mut value = image.entries().find(|(other, _)| *other == key).unwrap().1.to_vec();
        value[12] ^= 1;
        image.set(&key, Some(&value));
    });
    let got = bench.follow("a", 0, 0);
    let [Got::Event { payload: first, .. }, Got::Gap(gap), Got::Event { payload: last, .. }] = &got[..] else {
        panic!("{got:?}")
    };
    assert_eq!((first.as_str(), last.as_str()), ("1", "3"));
    assert_eq!((gap.cause, gap.count, gap.nth_through), (GapCause::LogDamaged, 1, Nth(2)));
    let mut reader = bench.log.merged_reader(at(1, 0));
    reader.follow(topic("a"), Seq(0), None);
    let row = bench.log.read_merged(&mut reader, 100, 10_000).unwrap();
    let [MergedItem::Event(_), MergedItem::Gap { gap, .. }, MergedItem::Event(_)] = &row.items[..] else {
        panic!("{row:?}")
    };
    assert_eq!((gap.cause, gap.count, gap.through.seq), (GapCause::LogDamaged, 1, Seq(2)));
}

#[test]
fn a_row_gives_the_lists_of_its_events_also_when_memory_has_let_go_of_them() {
    let bench = Bench::new();
    let mut reader = bench.log.merged_reader(bench.log.head());
    reader.follow(topic("a"), Seq(0), None);
    // Each list has about 9 KB.
    let payloads: Vec<String> = (0..1500).map(|number| format!("~{number:038}")).collect();
    for some in payloads.chunks(50) {
        bench.emit(some.iter().map(|payload| event(&["a"], payload)).collect());
    }
    assert_eq!(bench.log.read_merged_recent(&mut reader, 10_000, usize::MAX).unwrap(), None);
    let row = bench.log.read_merged(&mut reader, 10_000, usize::MAX).unwrap();
    assert_eq!(row.items.len(), payloads.len());
    for (item, payload) in row.items.iter().zip(&payloads) {
        let MergedItem::Event(event) = item else { panic!("{item:?}") };
        assert_eq!(event.except[..], except_for(payload));
    }
}
