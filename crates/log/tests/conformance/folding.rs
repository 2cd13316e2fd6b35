//! Folding and trimming: nothing that a reader sees depends on how far upkeep has come.

use redeliver_log::kv::faulty::Unsynced;
use redeliver_log::{LogConfig, Maintenance};
use redeliver_protocol::history::{GapCause, Start};

use crate::bench::{Bench, Got, emit_as, event};

/// A log that folds early and keeps little in memory.
pub(crate) fn small(recent_bytes_max: usize) -> LogConfig {
    let mut config = LogConfig::default();
    config.fold_bytes = 4_000;
    config.recent_bytes_max = recent_bytes_max;
    config
}

/// Events of one large topic, some small ones, and some that belong to several.
fn fill(bench: &Bench, rounds: usize) {
    for round in 0..rounds {
        bench.emit(vec![event(&["large"], &format!("L{round}")), event(&[&format!("small{}", round % 7)], "s")]);
        bench.emit(vec![event(&["large", "both"], &format!("B{round}"))]);
    }
}

fn everything(bench: &Bench) -> Vec<Vec<String>> {
    let names = ["large", "both", "small0", "small1", "small2", "small3", "small4", "small5", "small6"];
    names.iter().map(|name| bench.payloads(name)).collect()
}

#[test]
fn reads_are_right_after_every_step_of_a_fold_and_after_a_crash_at_every_step() {
    let mut bench = Bench::with(small(0));
    fill(&bench, 60);
    let expected = everything(&bench);
    let mut steps = 0;
    while bench.maintain() == Maintenance::More {
        steps += 1;
        assert_eq!(everything(&bench), expected, "after step {steps}");
        let crashed = bench.copy();
        assert_eq!(everything(&crashed), expected, "reopened after step {steps}");
        crashed.tend_all();
        assert_eq!(everything(&crashed), expected, "reopened after step {steps} and folded on");
    }
    assert!(steps > 7, "it was folded in steps: {steps}");
    assert!(bench.log.stats().tail_bytes < 4_000);
    bench = bench.reopen();
    assert_eq!(everything(&bench), expected);
    for after in 0..120 {
        assert_eq!(bench.follow("large", bench.seq_of("large", after), after).len() as u64, 120 - after);
    }
}

#[test]
fn a_fold_that_was_cut_in_the_middle_of_a_batch_is_done_again() {
    for cut in 1..12 {
        let bench = Bench::with(small(1_000_000));
        fill(&bench, 60);
        let expected = everything(&bench);
        for _ in 0..cut {
            bench.maintain();
        }
        let kv = bench.kv.crash(Unsynced::Lost);
        let bench = bench.over_store(kv);
        bench.tend_all();
        assert_eq!(everything(&bench), expected);
    }
}

#[test]
fn heads_that_later_folds_have_written_again_are_deleted_and_no_count_is_lost() {
    let mut bench = Bench::with(small(0));
    for round in 0..2_000_u64 {
        bench.say(&format!("topic {}", round % 50), "said");
        bench.tend_all();
        if round % 333 == 0 {
            bench = bench.reopen();
        }
    }
    let heads = |bench: &Bench| {
        let image = bench.kv.durable();
        image.entries().filter(|(key, _)| key[0] == b'h').map(|(_, value)| value.len()).sum::<usize>()
    };
    let folds = bench.kv.durable().entries().filter(|(key, _)| key[0] == b'r').count();
    assert!(folds > 20, "{folds}");
    assert!(heads(&bench) < 2_000, "of {folds} folds with up to 50 topics each: {}", heads(&bench));
    bench = bench.reopen();
    for topic in 0..50 {
        assert_eq!(bench.last_nth(&format!("topic {topic}")), 40);
    }
}

#[test]
fn commits_between_the_steps_of_a_fold_are_not_lost() {
    for bench in Bench::each(&small(500)) {
        let mut expected = 0;
        for round in 0..400 {
            bench.say("t", &format!("{round}"));
            bench.maintain();
            expected += 1;
        }
        let payloads = bench.payloads("t");
        assert_eq!(payloads.len(), expected);
        assert!(payloads.iter().enumerate().all(|(at, payload)| *payload == at.to_string()));
        assert_eq!(bench.reopen().payloads("t"), payloads);
    }
}

#[test]
fn large_events_are_folded_and_come_back_whole() {
    for bench in Bench::each(&small(0)) {
        let payloads: Vec<String> =
            [1, 6_000, 7_000, 30_000, 700_000, 5].iter().map(|size| "x".repeat(*size)).collect();
        for payload in &payloads {
            bench.emit(vec![event(&["t", "u"], payload)]);
        }
        bench.tend_all();
        assert_eq!(bench.payloads("t"), payloads);
        let bench = bench.reopen();
        assert_eq!(bench.payloads("u"), payloads);
    }
}

#[test]
fn duplicates_are_known_across_fold_and_reopen() {
    for mut bench in Bench::each(&small(0)) {
        for number in 1..=200_u64 {
            bench.publish(1, 0, number, &[if number % 10 == 5 { "!" } else { "payload" }]);
        }
        let expected = bench.publish(1, 0, 1, &vec!["payload"; 200]);
        bench.tend_all();
        assert_eq!(bench.publish(1, 0, 1, &vec!["payload"; 200]), expected);
        bench = bench.reopen();
        assert_eq!(bench.publish(1, 0, 1, &vec!["payload"; 200]), expected);
        assert_eq!(bench.head_seq(), 180);
    }
}

#[test]
fn retention_by_count_hides_at_once_and_tells_exact_gaps() {
    let mut config = small(2_000);
    config.retention.count = Some(50);
    for mut bench in Bench::each(&config) {
        for round in 0..300_u64 {
            bench.emit(vec![event(&[if round % 3 == 0 { "a" } else { "b" }], "x")]);
            if round % 5 == 0 {
                bench.maintain();
            }
            let total = round / 3 + 1;
            let floor = (round + 1).saturating_sub(50);
            let gone = floor.div_ceil(3);
            let got = bench.follow("a", 0, 0);
            if gone == 0 {
                assert_eq!(got.len() as u64, total);
            } else {
                let Got::Gap(gap) = &got[0] else { panic!("a gap comes first: {got:?}") };
                assert_eq!((gap.count, gap.count_is_exact, gap.nth_through.0), (gone, true, gone));
                assert_eq!((gap.cause, gap.through.seq.0), (GapCause::RetentionSize, floor));
                assert_eq!(got.len() as u64 - 1, total - gone);
            }
            if round % 50 == 49 {
                bench = bench.reopen();
            }
        }
        bench.tend_all();
        let stats = bench.log.stats();
        assert!(bench.is_on_disk() || stats.disk_bytes < 20_000, "what is hidden is deleted: {stats:?}");
    }
}

#[test]
fn a_topic_that_lost_nothing_after_a_position_has_no_gap() {
    let mut config = small(0);
    config.retention.count = Some(10);
    let bench = Bench::with(config);
    bench.say("quiet", "1");
    for _ in 0..30 {
        bench.say("loud", "x");
    }
    assert_eq!(bench.follow("quiet", 1, 1), []);
    let seq = bench.say("quiet", "2");
    assert_eq!(bench.follow("quiet", 1, 1), [Got::Event { seq, nth: 2, payload: "2".to_owned() }]);
    let opened = bench.open_at("quiet", Start::After(crate::bench::known(crate::bench::at(1, 1), 1)));
    assert_eq!((opened.gap, opened.pending), (None, 1));
}

#[test]
fn a_topic_whose_events_are_all_gone_tells_a_gap_through_the_floor() {
    let mut config = small(0);
    config.retention.count = Some(10);
    let bench = Bench::with(config);
    bench.emit(vec![event(&["quiet"], "1"), event(&["quiet"], "2")]);
    for _ in 0..300 {
        bench.say("loud", "x");
    }
    bench.tend_all();
    for bench in [bench.copy(), bench] {
        let got = bench.follow("quiet", 1, 1);
        let [Got::Gap(gap)] = &got[..] else { panic!("one gap: {got:?}") };
        assert_eq!((gap.count, gap.through.seq.0, gap.nth_through.0), (1, 292, 2));
        bench.say("quiet", "3");
        assert_eq!(bench.follow("quiet", 292, 2).len(), 1);
    }
}

#[test]
fn retention_by_bytes_keeps_no_more_than_told_and_no_less_than_needed() {
    let mut config = small(10_000);
    config.retention.bytes = Some(5_000);
    let bench = Bench::with(config);
    for round in 0..500_usize {
        bench.say("t", &"x".repeat(round % 90));
        bench.maintain();
        let kept: usize = bench.payloads("t").iter().map(|payload| payload.len() + 5).sum();
        assert!(kept <= 5_000, "{kept} after {round} {:?}", bench.log.stats());
        if round > 200 {
            assert!(kept > 4_000, "{kept} after {round}");
        }
    }
}

#[test]
fn retention_by_age_follows_the_monotonic_clock() {
    let mut config = small(10_000);
    config.retention.age = Some(std::time::Duration::from_secs(100));
    for mut bench in Bench::each(&config) {
        for _ in 0..200 {
            bench.say("t", "x");
            bench.wait(1_000);
            bench.tend_all();
        }
        let kept = bench.payloads("t").len();
        assert!((98..=101).contains(&kept), "{kept}");
        // Ten years in a second: nothing goes.
        bench.now += 10 * 365 * 24 * 3_600_000;
        bench.monotonic += 1_000;
        bench.tend_all();
        assert!(bench.payloads("t").len() >= kept - 2);
        let Got::Gap(gap) = &bench.follow("t", 0, 0)[0] else { panic!("a gap") };
        assert_eq!(gap.cause, GapCause::RetentionAge);
        // And a restart with the wrong time is no different.
        let bench = bench.reopen();
        bench.tend_all();
        assert!(bench.payloads("t").len() >= kept - 2);
    }
}

#[test]
fn a_staged_commit_keeps_upkeep_waiting() {
    let bench = Bench::with(small(0));
    fill(&bench, 60);
    let staged = bench.stage(vec![emit_as(1, 0, 1, &["x"])]);
    assert_eq!(bench.maintain(), Maintenance::Idle);
    bench.log.publish(staged).unwrap();
    assert_eq!(bench.maintain(), Maintenance::More);
}

#[test]
fn a_thousand_topics_fold_together_and_are_found_again() {
    for bench in Bench::each(&small(0)) {
        for round in 0..3 {
            for hundred in 0..10 {
                let names: Vec<String> = (0..100).map(|i| format!("topic-{}", hundred * 100 + i)).collect();
                bench.emit(names.iter().map(|name| event(&[name], &format!("{round}"))).collect());
                bench.maintain();
            }
        }
        bench.tend_all();
        let bench = bench.reopen();
        for number in 0..1000 {
            assert_eq!(bench.payloads(&format!("topic-{number}")), ["0", "1", "2"]);
        }
        assert_eq!(bench.log.stats().topics, 1000);
    }
}
