//! Order, visibility, reopening.

use redeliver_log::LogConfig;
use redeliver_log::kv::faulty::Unsynced;
use redeliver_protocol::history::{ReadOutcome, Start};
use redeliver_protocol::seq::Seq;

use crate::bench::{Bench, at, event};

#[test]
fn events_come_back_in_order_each_with_its_seq_and_nth() {
    for bench in Bench::each(&LogConfig::default()) {
        bench.emit(vec![event(&["a"], "1"), event(&["b"], "2"), event(&["a", "b"], "3")]);
        assert_eq!(bench.say("b", "4"), 4);
        assert_eq!(bench.payloads("a"), ["1", "3"]);
        assert_eq!(bench.payloads("b"), ["2", "3", "4"]);
        assert_eq!(bench.head_seq(), 4);
        assert_eq!(bench.follow_in("b", 2, 1, 1, 0), bench.follow("b", 2, 1));
        assert_eq!(bench.read("nobody", 0, 0), ReadOutcome::End);
    }
}

#[test]
fn a_staged_commit_is_invisible_until_it_is_published() {
    for bench in Bench::each(&LogConfig::default()) {
        bench.say("t", "1");
        let staged = bench.stage(vec![crate::bench::emit_as(1, 0, 1, &["2"])]);
        assert_eq!(bench.head_seq(), 1);
        assert_eq!(bench.payloads("t"), ["1"]);
        assert_eq!(bench.read("t", 1, 1), ReadOutcome::End);
        assert_eq!(bench.open_at("t", Start::Latest).after.seq, Seq(1));
        bench.log.publish(staged).unwrap();
        assert_eq!(bench.payloads("t"), ["1", "2"]);
    }
}

#[test]
fn what_was_not_synced_is_gone_or_there_as_a_whole_and_its_seq_is_given_once() {
    for (unsynced, expected) in [(Unsynced::Lost, vec!["1", "4"]), (Unsynced::Kept, vec!["1", "2", "3", "4"])] {
        let bench = Bench::new();
        bench.say("t", "1");
        let _staged = bench.stage(vec![crate::bench::emit_as(1, 0, 1, &["2", "3"])]);
        let bench = bench.crash(unsynced);
        assert_eq!(bench.say("t", "4"), expected.len() as u64);
        assert_eq!(bench.payloads("t"), expected);
    }
}

#[test]
fn a_log_that_is_reopened_goes_on_where_it_was_in_a_new_epoch() {
    for mut bench in Bench::each(&LogConfig::default()) {
        for round in 1..=5_u64 {
            bench.say("a", &format!("{round}"));
            bench.say("b", "x");
            assert_eq!(bench.log.head(), at(u8::try_from(round).unwrap(), 2 * round));
            bench = bench.reopen();
            assert_eq!(
                bench.log.head(),
                at(u8::try_from(round).unwrap() + 1, 2 * round),
                "the head is the new epoch's"
            );
        }
        assert_eq!(bench.payloads("a"), ["1", "2", "3", "4", "5"]);
    }
}

#[test]
fn a_batch_never_crosses_an_epoch() {
    for bench in Bench::each(&LogConfig::default()) {
        bench.say("t", "1");
        bench.say("t", "2");
        let bench = bench.reopen();
        bench.say("t", "3");
        let ReadOutcome::Batch(first) = bench.read("t", 0, 0) else { panic!("a batch") };
        assert_eq!((first.epoch, first.count), (crate::bench::epoch(1), 2));
        let ReadOutcome::Batch(second) = bench.read("t", 2, 2) else { panic!("a batch") };
        assert_eq!((second.epoch, second.count), (crate::bench::epoch(2), 1));
    }
}

#[test]
fn reads_below_what_is_in_memory_find_the_same() {
    let mut config = LogConfig::default();
    config.recent_bytes_max = 0;
    for bench in Bench::each(&config) {
        for i in 0..50 {
            bench.emit(vec![event(&["a"], &format!("a{i}")), event(&["b", "a"], &format!("b{i}"))]);
        }
        assert!(
            bench.log.read_recent(&crate::bench::topic("a"), Seq(0), redeliver_protocol::seq::Nth(0), 10, 10).is_none()
        );
        assert_eq!(bench.payloads("a").len(), 100);
        assert_eq!(bench.payloads("b")[49], "b49");
        for after in 0..100 {
            assert_eq!(bench.follow("a", after, after).len() as u64, 100 - after);
            assert_eq!(bench.follow_in("a", after, after, 3, 150).len() as u64, 100 - after);
        }
    }
}
