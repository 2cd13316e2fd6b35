//! Clocks that are set, that began in 1970, and servers that are off for days: event times follow the wall clock, and age
//! goes by the time that has passed.

use redeliver_log::LogConfig;
use redeliver_protocol::codec::Records;
use redeliver_protocol::history::{ReadOutcome, Start};
use redeliver_protocol::time::Timestamp;

use crate::bench::Bench;

const SECOND: u64 = 1_000;
const DAY: u64 = 24 * 3_600 * SECOND;
const YEARS: u64 = 3_650 * DAY;

/// Whose events live for an hour, in runs and in the tail.
fn hour(fold_bytes: usize) -> LogConfig {
    let mut config = LogConfig::default();
    config.retention.age = Some(std::time::Duration::from_secs(3_600));
    config.fold_bytes = fold_bytes;
    config
}

/// Lets minutes pass, with upkeep each second.
fn run(bench: &mut Bench, minutes: u64) {
    for _ in 0..minutes * 60 {
        bench.wait(SECOND);
        bench.tend_all();
    }
}

/// Sets the wall clock alone.
fn set(bench: &mut Bench, wall: u64) {
    bench.now = wall;
    bench.tend_all();
}

fn times(bench: &Bench) -> Vec<u64> {
    let (mut after, mut nth) = (0, 0);
    let mut times = Vec::new();
    loop {
        match bench.read("t", after, nth) {
            ReadOutcome::Batch(batch) => {
                times.extend(Records::new(batch.records.clone()).map(|record| record.unwrap().time.0));
                (after, nth) = (batch.last_seq.0, batch.first_nth.0 + u64::from(batch.count) - 1);
            }
            ReadOutcome::Gap(gap) => (after, nth) = (gap.through.seq.0, gap.nth_through.0),
            ReadOutcome::End => return times,
        }
    }
}

#[test]
fn times_are_right_again_once_the_clock_is() {
    for mut bench in Bench::each(&hour(usize::MAX)) {
        let begin = bench.now;
        bench.say("t", "before");
        for wrong in [begin + YEARS, 5 * SECOND, begin - DAY / 100] {
            set(&mut bench, wrong);
            bench.say("t", "wrong");
            bench = bench.reopen();
            set(&mut bench, begin);
            bench.say("t", "right");
        }
        let (early, late) = (begin - DAY / 100, begin + YEARS);
        assert_eq!(times(&bench), [begin, late, begin, 5 * SECOND, begin, early, begin]);
    }
}

#[test]
fn age_takes_what_is_due_and_nothing_else_whatever_the_wall_clock_says() {
    for fold_bytes in [0, usize::MAX] {
        for mut bench in Bench::each(&hour(fold_bytes)) {
            let begin = bench.now;
            for wall in [begin, begin + YEARS, 7, begin - DAY / 100] {
                set(&mut bench, wall);
                bench.say("t", "x");
                run(&mut bench, 10);
            }
            set(&mut bench, begin + 40 * 60 * SECOND);
            assert_eq!(times(&bench).len(), 4, "nothing is older than 40 minutes");
            run(&mut bench, 19);
            assert_eq!(times(&bench).len(), 4);
            for left in [3, 2, 1, 0] {
                run(&mut bench, 2);
                assert_eq!(times(&bench).len(), left, "each goes an hour after it was stored");
                run(&mut bench, 8);
            }
        }
    }
}

#[test]
fn days_in_which_a_server_is_off_count_within_minutes() {
    for fold_bytes in [0, usize::MAX] {
        for mut bench in Bench::each(&hour(fold_bytes)) {
            bench.say("t", "old");
            run(&mut bench, 1);
            bench = bench.reopen();
            bench.now += 3 * DAY;
            bench = bench.reopen();
            bench.say("t", "new");
            run(&mut bench, 2);
            assert_eq!(times(&bench).len(), 2, "the clock may still be wrong");
            run(&mut bench, 2);
            assert_eq!(times(&bench).len(), 1, "what was due goes, what is new stays");
            run(&mut bench, 54);
            assert_eq!(times(&bench).len(), 1);
            run(&mut bench, 3);
            assert_eq!(times(&bench).len(), 0);
        }
    }
}

#[test]
fn an_opening_with_a_wrong_clock_takes_nothing_early() {
    for mut bench in Bench::each(&hour(0)) {
        let begin = bench.now;
        bench.say("t", "x");
        run(&mut bench, 10);
        for wrong in [begin + YEARS, 0, begin + 8 * DAY] {
            let right = bench.now;
            bench.now = wrong;
            bench = bench.reopen();
            run(&mut bench, 2);
            bench.now = right + 2 * 60 * SECOND;
            run(&mut bench, 10);
            assert_eq!(times(&bench).len(), 1, "{wrong}");
            bench = bench.reopen();
        }
        run(&mut bench, 15);
        assert_eq!(times(&bench).len(), 0, "and nothing lives on for ever");
    }
}

#[test]
fn what_was_stored_lately_is_found_though_the_clock_was_wrong() {
    for fold_bytes in [0, usize::MAX] {
        for mut bench in Bench::each(&hour(fold_bytes)) {
            let begin = bench.now;
            bench.say("t", "1");
            for (wrong, payload) in [(begin + YEARS, "2"), (3, "3")] {
                set(&mut bench, wrong);
                bench.say("t", payload);
                bench.wait(10 * SECOND);
            }
            set(&mut bench, begin + 20 * SECOND);
            bench.wait(10 * SECOND);
            bench.say("t", "4");
            let within = |seconds| Start::Within(std::time::Duration::from_secs(seconds));
            let from = |start| bench.open_at("t", start).after.seq.0;
            assert_eq!(from(within(5)), 3);
            assert_eq!(from(Start::Since(Timestamp(bench.now - 5 * SECOND))), 3);
            if fold_bytes > 0 {
                assert_eq!(from(within(15)), 3);
                assert_eq!(from(within(25)), 2);
            }
            assert_eq!(from(within(3_600)), 0);
        }
    }
}
