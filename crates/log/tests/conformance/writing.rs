//! Commits: limits, cursors, times, failures.

use redeliver_log::kv::faulty::Faults;
use redeliver_log::{LogConfig, LogError, WriteOutcome, WriteRequest};
use redeliver_protocol::codec::Records;
use redeliver_protocol::error::RefusalCode;
use redeliver_protocol::history::{Cursor, EmitFate, ReadOutcome};
use redeliver_protocol::name::SubscriberName;
use redeliver_protocol::redelivery::DeliveredThrough;
use redeliver_protocol::seq::Nth;
use redeliver_protocol::time::Timestamp;

use crate::bench::{Bench, at, emit_as, event, known, open, topic};

fn cursor(seq: u64, nth: u64) -> Cursor {
    Cursor::new(known(at(1, seq), nth), DeliveredThrough(Nth(nth + 3)))
}

#[test]
fn a_cursor_rides_with_the_commit_and_the_last_one_counts() {
    let bench = Bench::new();
    assert_eq!(bench.cursor("me", "t"), None);
    let save = |cursor: &Cursor| WriteRequest::SaveCursor {
        subscriber: SubscriberName::new("me").unwrap(),
        topic: topic("t"),
        cursor: cursor.clone(),
    };
    let (batches, _) = bench.kv.operations();
    let staged = bench.stage(vec![save(&cursor(0, 0)), emit_as(1, 0, 1, &["a"]), save(&cursor(1, 1))]);
    assert_eq!(bench.kv.operations().0, batches + 1, "one batch for all");
    assert_eq!(bench.cursor("me", "t"), Some(cursor(1, 1)), "a new owner sees what is staged");
    let outcomes = bench.log.publish(staged).unwrap().outcomes;
    assert_eq!((&outcomes[0], &outcomes[2]), (&WriteOutcome::CursorSaved, &WriteOutcome::CursorSaved));
    assert_eq!(bench.save("me", "u", &cursor(1, 0)), WriteOutcome::CursorSaved);
    let bench = bench.reopen();
    assert_eq!(bench.cursor("me", "t"), Some(cursor(1, 1)));
    assert_eq!(bench.cursor("me", "u"), Some(cursor(1, 0)));
    assert_eq!(bench.cursor("you", "t"), None);
}

#[test]
fn a_cursor_that_the_disk_has_no_room_for_says_so_and_leaves_the_one_before() {
    let bench = Bench::new();
    bench.save("me", "t", &cursor(1, 1));
    bench.kv.set_faults(Faults { capacity_bytes: Some(1), ..Faults::default() });
    let mut longer = cursor(2, 2);
    longer.place.earlier = [at(9, 9)].into();
    assert_eq!(bench.save("me", "t", &longer), WriteOutcome::CursorNotSaved);
    assert_eq!(bench.cursor("me", "t"), Some(cursor(1, 1)));
}

#[test]
fn cursors_expire_when_they_have_not_moved_for_long() {
    let mut config = LogConfig::default();
    config.cursor_idle = std::time::Duration::from_secs(48 * 3600);
    for mut bench in Bench::each(&config) {
        bench.save("idle", "t", &cursor(1, 1));
        for round in 0..60 {
            bench.save("busy", "t", &cursor(round, round));
            bench.wait(3600 * 1000);
            bench.tend_all();
        }
        assert_eq!(bench.cursor("idle", "t"), None);
        assert!(bench.cursor("busy", "t").is_some());
    }
}

#[test]
fn more_than_fits_one_commit_is_written_in_several_and_seen_as_one() {
    for bench in Bench::each(&LogConfig::default()) {
        let payload = "x".repeat(300_000);
        let events = (0..12).map(|_| event(&["t", "u"], &payload)).collect();
        let runs = bench.emit(events);
        assert_eq!((runs.len(), runs[0].count), (1, 12), "one run of seqs");
        assert_eq!(bench.payloads("u").len(), 12);
        let many = (0..10_000).map(|number| event(&["v"], &number.to_string())).collect();
        bench.emit(many);
        let bench = bench.reopen();
        assert_eq!(bench.payloads("t").len(), 12);
        assert_eq!(bench.payloads("v").len(), 10_000);
        assert_eq!(bench.payloads("v")[9_999], "9999");
    }
}

#[test]
fn a_disk_that_fills_between_two_commits_keeps_the_first() {
    let bench = Bench::new();
    bench.kv.set_faults(Faults { capacity_bytes: Some(1_500_000), ..Faults::default() });
    let payload = "x".repeat(400_000);
    let payloads: Vec<&str> = (0..6).map(|_| payload.as_str()).collect();
    let runs = bench.publish(1, 0, 1, &payloads);
    assert_eq!(runs.len(), 2, "{runs:?}");
    assert_eq!((runs[0].count, runs[0].fate), (2, EmitFate::Stored(at(1, 1))));
    assert_eq!((runs[1].count, runs[1].fate), (4, EmitFate::Refused(RefusalCode::STORAGE_FULL)));
    assert_eq!(bench.payloads("t").len(), 2);
    bench.kv.set_faults(Faults::default());
    let runs = bench.publish(1, 0, 1, &payloads);
    assert_eq!((runs[0].count, runs[0].fate), (2, EmitFate::Duplicate(at(1, 1))));
    assert_eq!((runs[1].count, runs[1].fate), (4, EmitFate::Stored(at(1, 3))));
}

#[test]
fn the_largest_event_and_the_longest_cursors_fit() {
    for bench in Bench::each(&LogConfig::default()) {
        let largest = redeliver_protocol::limits::EVENT_BYTES_MAX - 5;
        assert_eq!(bench.say("t", &"x".repeat(largest)), 1);
        let long = "s".repeat(255);
        let requests = (0..3_000)
            .map(|number| {
                let name = format!("{number}-{long}");
                let mut cursor = cursor(1, 1);
                cursor.place.earlier = vec![at(9, 9); 8].into();
                WriteRequest::SaveCursor {
                    subscriber: SubscriberName::new(&name[..255]).unwrap(),
                    topic: topic(&long),
                    cursor,
                }
            })
            .collect();
        assert!(bench.write(requests).outcomes.iter().all(|outcome| *outcome == WriteOutcome::CursorSaved));
        let too_large = event(&["t"], &"x".repeat(largest + 1));
        assert_eq!(bench.emit(vec![too_large])[0].fate, EmitFate::Refused(RefusalCode::TOO_LARGE));
        let twice = event(&["t", "t"], "x");
        assert_eq!(bench.emit(vec![twice])[0].fate, EmitFate::Refused(RefusalCode::INVALID));
    }
}

#[test]
fn small_steps_back_of_the_wall_clock_do_not_show_in_event_times_and_large_ones_do() {
    for mut bench in Bench::each(&LogConfig::default()) {
        bench.say("t", "1");
        bench.now -= 4_000;
        bench.say("t", "2");
        bench = bench.reopen();
        bench.say("t", "3");
        bench.now += 104_000;
        bench.say("t", "4");
        bench.now -= 500_000;
        bench.say("t", "5");
        let mut times = Vec::new();
        let mut after = 0;
        while let ReadOutcome::Batch(batch) = bench.read("t", after, after) {
            after = batch.last_seq.0;
            times.extend(Records::new(batch.records).map(|record| record.unwrap().time));
        }
        assert_eq!(times, [1_000_000, 1_000_000, 1_000_000, 1_100_000, 600_000].map(Timestamp));
    }
}

#[test]
fn a_failed_sync_is_the_end_and_nothing_was_visible() {
    let bench = Bench::new();
    bench.say("t", "1");
    let syncs = bench.kv.operations().1;
    bench.kv.set_faults(Faults { fail_sync: Some(syncs + 1), ..Faults::default() });
    let staged = bench.stage(vec![emit_as(1, 0, 1, &["2"])]);
    assert!(matches!(bench.log.publish(staged), Err(LogError::Failed(_))));
    assert_eq!(bench.head_seq(), 1);
    assert!(bench.log.stage(vec![emit_as(1, 0, 1, &["2"])], Timestamp(bench.now), bench.monotonic()).is_err());
}

#[test]
fn staging_twice_without_publishing_is_refused() {
    let bench = Bench::new();
    let staged = bench.stage(vec![emit_as(1, 0, 1, &["1"])]);
    assert!(bench.log.stage(vec![emit_as(1, 0, 2, &["2"])], Timestamp(bench.now), bench.monotonic()).is_err());
    bench.log.publish(staged).unwrap();
    assert_eq!(bench.publish(1, 0, 2, &["2"])[0].fate, EmitFate::Stored(at(1, 2)));
}

#[test]
fn an_epoch_is_never_used_twice() {
    let bench = Bench::new();
    let kv = std::sync::Arc::clone(&bench.kv);
    assert!(matches!(open(kv, &bench.config, 1, bench.now), Err(LogError::Failed(_))));
}
