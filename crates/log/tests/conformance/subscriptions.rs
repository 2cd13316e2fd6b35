//! Where subscriptions start, and what readers of another history are told.

use redeliver_log::LogConfig;
use redeliver_protocol::history::{Cursor, GapCause, Place, Start};
use redeliver_protocol::redelivery::DeliveredThrough;
use redeliver_protocol::seq::{Nth, Position, Seq};
use redeliver_protocol::time::Timestamp;

use crate::bench::{Bench, at, event, known, topic};

/// Seqs 1 to 10: odd ones are of `t`, even ones of `u`.
fn ten() -> Bench {
    let mut bench = Bench::new();
    for seq in 1..=10_u64 {
        bench.say(if seq % 2 == 1 { "t" } else { "u" }, &seq.to_string());
        bench.wait(1_000);
    }
    bench
}

fn stored(position: Position, nth: u64, delivered_through: u64) -> Cursor {
    Cursor::new(known(position, nth), DeliveredThrough(Nth(delivered_through)))
}

#[test]
fn every_start_without_a_position_finds_its_place() {
    let bench = ten();
    for (start, after, nth) in [
        (Start::Latest, 10, 5),
        (Start::Earliest, 0, 0),
        (Start::Resume { at_least: None }, 10, 5),
        (Start::AfterSeq(Seq(4)), 4, 2),
        (Start::AfterSeq(Seq(99)), 10, 5),
        (Start::Last(0), 10, 5),
        (Start::Last(2), 5, 3),
        (Start::Last(99), 0, 0),
        (Start::Since(Timestamp(0)), 0, 0),
        (Start::Since(Timestamp(1_003_500)), 4, 2),
        (Start::Since(Timestamp(9_000_000)), 10, 5),
        (Start::Within(std::time::Duration::from_millis(2_500)), 8, 4),
    ] {
        let opened = bench.open_at("t", start.clone());
        assert_eq!((opened.after.seq.0, opened.nth.0), (after, nth), "{start:?}");
        assert_eq!((opened.gap, opened.pending, opened.head), (None, 5 - nth, at(1, 10)), "{start:?}");
        assert_eq!((opened.delivered_through, opened.stored), (DeliveredThrough::NOTHING, None));
    }
    let nobody = bench.open_at("nobody", Start::Earliest);
    assert_eq!((nobody.after.seq.0, nobody.nth.0, nobody.pending), (0, 0, 0));
}

#[test]
fn a_valid_position_is_resumed_without_a_gap() {
    let bench = ten();
    for (seq, nth) in [(0, 0), (1, 1), (2, 1), (5, 3), (10, 5)] {
        let opened = bench.open_at("t", Start::After(known(at(1, seq), nth)));
        assert_eq!((opened.after, opened.nth.0, opened.gap), (at(1, seq), nth, None));
    }
    let bench = bench.reopen();
    for position in [at(1, 10), at(2, 10)] {
        let opened = bench.open_at("t", Start::After(known(position, 5)));
        assert_eq!((opened.after, opened.gap, opened.head), (position, None, at(2, 10)), "an epoch's start is valid");
    }
}

#[test]
fn a_start_that_is_found_in_memory_is_the_one_that_the_store_has() {
    let starts = || {
        let after = (0..=10).map(|seq| Start::After(known(at(1, seq), seq.div_ceil(2))));
        let forged = Start::After(known(at(1, 99), 50));
        [Start::Latest, Start::Earliest, forged, Start::Last(2)].into_iter().chain(after)
    };
    let bench = ten();
    let mut recent = 0;
    for (start, of) in starts().flat_map(|start| ["t", "u", "nobody"].map(|of| (start.clone(), of))) {
        let found = bench.log.open_recent(&topic(of), &start, Timestamp(0));
        recent += usize::from(found.is_some());
        assert!(found.is_none_or(|found| found == bench.open_at(of, start.clone())), "{start:?} of {of}");
    }
    assert!(recent >= 3 * 13, "all but the last few of a topic are answered from memory: {recent}");
    let asked = bench.log.open_recent(&topic("t"), &Start::Last(2), Timestamp(0));
    assert_eq!(asked, None, "what needs a search is left to who may wait");
}

#[test]
fn a_forged_position_is_of_no_history_and_changes_nothing() {
    let bench = ten().reopen();
    // Of an epoch that the log knows, its end is shared; of any other, nothing is.
    let (end, none) = ((10, 0), (0, 5));
    for (position, (shared, pending)) in
        [(at(1, 11), end), (at(2, 9), none), (at(2, 11), end), (at(9, 3), none), (at(2, u64::MAX), end)]
    {
        let opened = bench.open_at("t", Start::After(known(position, 3)));
        let gap = opened.gap.unwrap();
        assert_eq!((gap.after, gap.cause, gap.through.seq.0), (position, GapCause::EpochChanged, shared));
        assert_eq!((gap.count, gap.count_is_exact, opened.pending), (0, true, pending));
    }
    assert_eq!(bench.head_seq(), 10);
    let opened = bench.open_at("t", Start::After(known(at(1, 5), u64::MAX)));
    let gap = opened.gap.unwrap();
    assert_eq!((gap.cause, gap.count, gap.through), (GapCause::LogDamaged, 0, at(1, 6)), "one of both is wrong");
    assert_eq!((opened.nth.0, opened.pending), (3, 2), "and all is delivered by the log's own nth");
}

#[test]
fn a_log_that_went_back_tells_each_reader_from_the_last_common_position() {
    let bench = ten().reopen();
    let backup = bench.kv.durable();
    for seq in 11..=16_u64 {
        bench.say("t", &seq.to_string());
    }
    // The backup ends in epoch 2 at seq 10, the first reader has seen that epoch up to seq 16. The second one has been in
    // an epoch that the backup does not know; before, it was at seq 9.
    let in_known = Place { position: at(2, 16), nth: Nth(11), earlier: vec![at(1, 9)].into() };
    let in_unknown = Place { position: at(3, 17), nth: Nth(12), earlier: vec![at(1, 9)].into() };
    let restored = bench.restored(&backup, 7);
    for grown in [0, 3, 30] {
        for _ in 0..grown {
            restored.say("t", "other");
        }
        for (reader, common) in [(&in_known, at(2, 10)), (&in_unknown, at(1, 9))] {
            let opened = restored.open_at("t", Start::After(reader.clone()));
            let gap = opened.gap.unwrap();
            assert_eq!((gap.after, gap.through, gap.cause), (reader.position, common, GapCause::EpochChanged));
            assert_eq!((gap.nth_through.0, gap.count, gap.count_is_exact), (5, 0, true));
            assert_eq!(opened.pending, restored.last_nth("t") - 5, "grown past the reader's seq or not");
        }
    }
    let opened = restored.open_at("t", Start::After(known(at(3, 17), 12)));
    assert_eq!(opened.gap.unwrap().through.seq.0, 0, "without its lineage: from the earliest retained");
}

#[test]
fn a_wiped_log_tells_everybody() {
    let old = ten();
    let wiped = old.restored(&redeliver_log::kv::faulty::FaultyKv::new().durable(), 5);
    let opened = wiped.open_at("t", Start::After(known(at(1, 9), 5)));
    let gap = opened.gap.unwrap();
    assert_eq!((gap.after, gap.cause, gap.through), (at(1, 9), GapCause::EpochChanged, at(5, 0)));
    let opened = wiped.open_at("t", Start::Latest);
    assert_eq!((opened.after, opened.head), (at(5, 0), at(5, 0)));
}

#[test]
fn a_position_below_what_is_retained_gets_one_gap_with_the_exact_count() {
    let mut config = LogConfig::default();
    config.retention.count = Some(4);
    let bench = Bench::with(config);
    for seq in 1..=10_u64 {
        bench.say(if seq % 2 == 1 { "t" } else { "u" }, &seq.to_string());
    }
    for bench in [bench.copy(), bench] {
        let opened = bench.open_at("t", Start::After(known(at(1, 1), 1)));
        let gap = opened.gap.unwrap();
        assert_eq!((gap.after, gap.through), (at(1, 1), at(1, 6)));
        assert_eq!((gap.count, gap.count_is_exact, gap.cause), (2, true, GapCause::RetentionSize));
        assert_eq!((opened.after, opened.nth.0, opened.pending), (at(1, 6), 3, 2));
        let opened = bench.open_at("t", Start::After(known(at(1, 5), 3)));
        assert_eq!((opened.gap, opened.nth.0), (None, 3), "it lost nothing");
        let unknown = bench.open_at("t", Start::AfterSeq(Seq(2))).gap.unwrap();
        assert_eq!((unknown.count, unknown.count_is_exact), (3, false));
        let unknown = bench.open_at("t", Start::AfterSeq(Seq(5))).gap;
        assert!(unknown.is_none_or(|gap| gap.count <= 1), "no more than one seq lies between 5 and 6");
        let zero = bench.open_at("t", Start::After(known(at(1, 0), 0))).gap.unwrap();
        assert_eq!((zero.count, zero.count_is_exact), (3, true));
        let foreign = bench.open_at("t", Start::After(known(at(9, 8), 4))).gap.unwrap();
        assert_eq!((foreign.cause, foreign.through, foreign.count), (GapCause::EpochChanged, at(1, 6), 3));
        assert_eq!(bench.open_at("t", Start::Earliest).gap, None);
    }
}

#[test]
fn a_stored_cursor_is_resumed_and_names_what_may_have_been_handed_over() {
    let bench = ten();
    let cursor = stored(at(1, 3), 2, 4);
    let opened = bench.open_with("t", &Start::Resume { at_least: None }, Some(&cursor));
    assert_eq!((opened.after, opened.nth.0, opened.delivered_through.0.0), (at(1, 3), 2, 4));
    assert_eq!(opened.stored, Some(cursor.place.clone()));
    let further = Start::Resume { at_least: Some(known(at(1, 7), 4)) };
    let opened = bench.open_with("t", &further, Some(&cursor));
    assert_eq!((opened.after, opened.delivered_through.0.0), (at(1, 7), 4), "the app's position is further on");
    let behind = Start::Resume { at_least: Some(known(at(1, 1), 1)) };
    assert_eq!(bench.open_with("t", &behind, Some(&cursor)).after, at(1, 3), "a cursor never goes back");
    assert_eq!(bench.open_at("t", behind).after, at(1, 1), "without a cursor the app's position counts");
}

#[test]
fn an_app_from_another_history_starts_at_the_stored_cursor_with_a_gap() {
    let bench = ten();
    let cursor = stored(at(1, 3), 2, 4);
    let start = Start::Resume { at_least: Some(known(at(9, 50), 20)) };
    let opened = bench.open_with("t", &start, Some(&cursor));
    let gap = opened.gap.unwrap();
    assert_eq!((gap.after, gap.through, gap.cause), (at(9, 50), at(1, 3), GapCause::EpochChanged));
    assert_eq!(opened.stored, Some(cursor.place));
    let foreign = stored(at(8, 50), 20, 25);
    let opened = bench.open_with("t", &start, Some(&foreign));
    assert_eq!(opened.gap.unwrap().through.seq.0, 0);
    assert_eq!(opened.stored, None, "a cursor of another history, and not where the gap begins");
    let opened = bench.open_with("t", &Start::Resume { at_least: None }, Some(&foreign));
    assert_eq!((opened.gap.unwrap().after, opened.stored), (at(8, 50), Some(foreign.place)));
}

#[test]
fn the_epochs_behind_a_stored_cursor_are_named() {
    let mut bench = ten();
    for _ in 0..3 {
        bench = bench.reopen();
        bench.say("t", "x");
    }
    // Epochs 2, 3 and 4 began at 10, 11 and 12.
    let cursor = stored(at(1, 3), 2, 8);
    let start = Start::After(known(at(4, 13), 8));
    let opened = bench.open_with("t", &start, Some(&cursor));
    assert_eq!((opened.gap, opened.epochs), (None, vec![at(2, 10), at(3, 11), at(4, 12)]));
    assert_eq!(opened.delivered_through.0.0, 8);
    let opened = bench.open_with("t", &Start::Resume { at_least: None }, Some(&cursor));
    assert_eq!(opened.epochs, [], "none began between the cursor and itself");
}

#[test]
fn times_are_found_in_folded_history_too() {
    let mut config = LogConfig::default();
    config.fold_bytes = 500;
    config.recent_bytes_max = 0;
    let mut bench = Bench::with(config);
    for round in 0..200_u64 {
        bench.emit(vec![event(&["t"], &round.to_string()), event(&[if round % 20 == 0 { "rare" } else { "u" }], "x")]);
        bench.wait(1_000);
        bench.maintain();
    }
    for round in [0, 1, 37, 150, 199] {
        let opened = bench.open_at("t", Start::Since(Timestamp(1_000_000 + round * 1_000)));
        assert_eq!((opened.nth.0, opened.pending), (round, 200 - round), "since {round}");
        let opened = bench.open_at("rare", Start::Since(Timestamp(1_000_000 + round * 1_000)));
        assert_eq!(opened.nth.0, round.div_ceil(20), "since {round}");
    }
}
