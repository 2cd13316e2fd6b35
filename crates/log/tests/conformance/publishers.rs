//! Emits are idempotent: duplicates, reuse, order, what is forgotten.

use redeliver_log::kv::faulty::{Faults, Unsynced};
use redeliver_log::{LogConfig, WriteRequest};
use redeliver_protocol::error::RefusalCode;
use redeliver_protocol::history::EmitFate::{Duplicate, DuplicateForgotten, Refused, Stored};
use redeliver_protocol::history::{EmitFate, PublisherState};
use redeliver_protocol::seq::{EmitNumber, IdentityTag};

use crate::bench::{Bench, at, emit_as, emitted, event, publisher, source};

/// First number, count and fate of each run.
fn fates(runs: &[redeliver_protocol::history::EmitRun]) -> Vec<(u64, u32, EmitFate)> {
    runs.iter().map(|run| (run.first.0, run.count, run.fate)).collect()
}

fn state(bench: &Bench, settled: u64) -> PublisherState {
    bench.log.publisher(publisher(1), EmitNumber(settled)).unwrap()
}

#[test]
fn a_repeated_emit_is_answered_with_its_first_position_and_not_stored_again() {
    for bench in Bench::each(&LogConfig::default()) {
        assert_eq!(fates(&bench.publish(1, 0, 1, &["a", "b", "c"])), [(1, 3, Stored(at(1, 1)))]);
        let again = bench.publish(1, 0, 2, &["b", "c", "d"]);
        assert_eq!(fates(&again), [(2, 2, Duplicate(at(1, 2))), (4, 1, Stored(at(1, 4)))]);
        let bench = bench.reopen();
        let again = bench.publish(1, 0, 4, &["d", "e"]);
        assert_eq!(fates(&again), [(4, 1, Duplicate(at(1, 4))), (5, 1, Stored(at(2, 5)))]);
        assert_eq!(bench.payloads("t"), ["a", "b", "c", "d", "e"]);
        assert_eq!(
            fates(&bench.publish(2, 0, 1, &["a"])),
            [(1, 1, Stored(at(2, 6)))],
            "publishers do not share numbers"
        );
    }
}

#[test]
fn both_tries_in_one_commit_are_stored_once() {
    let bench = Bench::new();
    let committed = bench.write(vec![emit_as(1, 0, 1, &["a", "b"]), emit_as(1, 0, 1, &["a", "b", "c"])]);
    let runs = emitted(committed);
    assert_eq!(fates(&runs[0]), [(1, 2, Stored(at(1, 1)))]);
    assert_eq!(fates(&runs[1]), [(1, 2, Duplicate(at(1, 1))), (3, 1, Stored(at(1, 3)))]);
}

#[test]
fn other_content_under_a_used_number_is_refused() {
    let bench = Bench::new();
    bench.publish(1, 0, 1, &["a", "b"]);
    let again = bench.publish(1, 0, 1, &["a", "B", "c"]);
    let expected = [(1, 1, Duplicate(at(1, 1))), (2, 1, Refused(RefusalCode::NUMBER_REUSED)), (3, 1, Stored(at(1, 3)))];
    assert_eq!(fates(&again), expected);
}

#[test]
fn a_number_that_does_not_follow_is_refused_with_all_behind_it() {
    let bench = Bench::new();
    bench.publish(1, 0, 1, &["a"]);
    let runs = bench.publish(1, 0, 3, &["c", "!", "d"]);
    assert_eq!(fates(&runs), [(3, 3, Refused(RefusalCode::OUT_OF_ORDER))]);
    assert_eq!(fates(&bench.publish(1, 0, 2, &["b", "c"])), [(2, 2, Stored(at(1, 2)))]);
}

#[test]
fn what_is_settled_need_not_come() {
    let bench = Bench::new();
    assert_eq!(fates(&bench.publish(1, 7, 8, &["a"])), [(8, 1, Stored(at(1, 1)))]);
    assert_eq!(fates(&bench.publish(1, 7, 7, &["x", "a"]))[1], (8, 1, Duplicate(at(1, 1))));
    assert_eq!(fates(&bench.publish(1, 7, 3, &["x"])), [(3, 1, DuplicateForgotten)]);
}

#[test]
fn a_final_refusal_consumes_its_number_and_is_repeated() {
    for bench in Bench::each(&LogConfig::default()) {
        let invalid = Refused(RefusalCode::INVALID);
        let first = [(1, 1, Stored(at(1, 1))), (2, 1, invalid), (3, 1, Stored(at(1, 2)))];
        assert_eq!(fates(&bench.publish(1, 0, 1, &["a", "!", "c"])), first);
        let again = [(1, 1, Duplicate(at(1, 1))), (2, 1, invalid), (3, 1, Duplicate(at(1, 2)))];
        assert_eq!(fates(&bench.publish(1, 0, 1, &["a", "now allowed", "c"])), again);
        let bench = bench.reopen();
        assert_eq!(fates(&bench.publish(1, 0, 1, &["a", "now allowed", "c"])), again, "also after a restart");
    }
}

#[test]
fn refusals_between_events_that_need_several_commits_are_all_remembered() {
    let bench = Bench::new();
    let large = "x".repeat(250_000);
    let payloads: Vec<&str> = (0..8).flat_map(|_| ["!", &large]).collect();
    let runs = bench.publish(1, 0, 1, &payloads);
    assert_eq!(runs.iter().filter(|run| run.fate == Refused(RefusalCode::INVALID)).count(), 8);
    assert_eq!(bench.head_seq(), 8);
    let bench = bench.reopen();
    let allowed: Vec<&str> = (0..8).flat_map(|_| ["now allowed", &large]).collect();
    let again = bench.publish(1, 0, 1, &allowed);
    let refused: Vec<_> =
        again.iter().filter(|run| run.fate == Refused(RefusalCode::INVALID)).map(|run| run.first.0).collect();
    assert_eq!(refused, [1, 3, 5, 7, 9, 11, 13, 15], "{again:?}");
}

#[test]
fn a_refusal_alone_is_consumed_without_a_commit_and_becomes_durable_with_the_next_event() {
    let bench = Bench::new();
    let (batches, _) = bench.kv.operations();
    assert_eq!(fates(&bench.publish(1, 0, 1, &["!"])), [(1, 1, Refused(RefusalCode::INVALID))]);
    assert_eq!(bench.kv.operations().0, batches, "nothing is written");
    assert_eq!(state(&bench, 0), PublisherState::Reached(EmitNumber(1)));
    bench.publish(1, 0, 2, &["b"]);
    let bench = bench.reopen();
    assert_eq!(state(&bench, 0), PublisherState::Reached(EmitNumber(2)));
    assert_eq!(fates(&bench.publish(1, 0, 1, &["a"])), [(1, 1, Refused(RefusalCode::INVALID))]);
}

#[test]
fn a_retryable_refusal_consumes_nothing_and_holds_back_what_follows() {
    let bench = Bench::new();
    let runs = bench.publish(1, 0, 1, &["a", "?", "!", "d"]);
    assert_eq!(fates(&runs), [(1, 1, Stored(at(1, 1))), (2, 3, Refused(RefusalCode::OVERLOADED))]);
    assert_eq!(fates(&bench.publish(1, 0, 2, &["b"])), [(2, 1, Stored(at(1, 2)))]);
}

#[test]
fn a_full_disk_refuses_new_emits_answers_repeated_ones_and_recovers() {
    let bench = Bench::new();
    bench.publish(1, 0, 1, &["a"]);
    let full = Faults { capacity_bytes: Some(1), ..Faults::default() };
    bench.kv.set_faults(full);
    let runs = bench.publish(1, 0, 1, &["a", "b", "!"]);
    assert_eq!(fates(&runs), [(1, 1, Duplicate(at(1, 1))), (2, 2, Refused(RefusalCode::STORAGE_FULL))]);
    assert_eq!(bench.payloads("t"), ["a"]);
    bench.kv.set_faults(Faults::default());
    assert_eq!(fates(&bench.publish(1, 0, 2, &["b"])), [(2, 1, Stored(at(1, 2)))]);
    assert_eq!(bench.payloads("t"), ["a", "b"]);
}

#[test]
fn a_publisher_is_new_reached_or_forgotten() {
    let mut config = LogConfig::default();
    config.publisher_idle = std::time::Duration::from_secs(24 * 3600);
    config.fold_bytes = 100;
    let mut bench = Bench::with(config);
    assert_eq!(state(&bench, 0), PublisherState::New);
    assert_eq!(state(&bench, 5), PublisherState::Forgotten);
    let staged = bench.stage(vec![emit_as(1, 0, 1, &["a"])]);
    assert_eq!(state(&bench, 0), PublisherState::New, "what is not durable is not reached");
    bench.log.publish(staged).unwrap();
    assert_eq!(state(&bench, 0), PublisherState::Reached(EmitNumber(1)));
    for number in 2..=3 {
        bench.publish(1, 0, number, &["old"]);
        bench.say("other", &"x".repeat(200));
        bench.tend_all();
    }
    for _ in 0..30 {
        bench.wait(3600 * 1000);
        bench.say("other", "x");
        bench.tend_all();
    }
    assert_eq!(state(&bench, 1), PublisherState::Forgotten, "its state has expired");
    let bench = bench.reopen();
    assert_eq!(state(&bench, 1), PublisherState::Forgotten);
    // Its old emits are forgotten with it: under the same id, the new ones alone are known again.
    let anew = fates(&bench.publish(1, 0, 1, &["x", "y", "z"]));
    assert!(matches!(anew[..], [(1, 3, Stored(_))]), "{anew:?}");
    bench.say("other", &"x".repeat(200));
    bench.tend_all();
    for (number, payload) in [(1, "x"), (2, "y"), (3, "z")] {
        let retried = fates(&bench.publish(1, 0, number, &[payload]));
        assert!(matches!(retried[..], [(_, 1, Duplicate(_))]), "{retried:?}");
    }
}

#[test]
fn a_publisher_that_is_retired_is_forgotten_once_its_events_are_folded_unless_it_emits_again() {
    let mut config = LogConfig::default();
    config.fold_bytes = 100;
    let mut bench = Bench::with(config);
    for number in [1, 2] {
        bench.publish(number, 0, 1, &["a"]);
        bench.log.retire_publisher(publisher(number));
    }
    assert_eq!(fates(&bench.publish(1, 0, 1, &["a"])), [(1, 1, Duplicate(at(1, 1)))], "until then it is known");
    bench.publish(2, 0, 2, &["b"]);
    bench.say("other", &"x".repeat(200));
    bench.tend_all();
    bench.wait(2 * 3600 * 1000);
    bench.tend_all();
    assert_eq!(bench.log.stats().publishers, 1);
    assert_eq!(state(&bench, 1), PublisherState::Forgotten);
    let bench = bench.reopen();
    assert_eq!(bench.log.stats().publishers, 1, "nothing is left of it in the store");
    assert_eq!(fates(&bench.publish(2, 0, 2, &["b"])), [(2, 1, Duplicate(at(1, 3)))], "this one was used again");
}

#[test]
fn an_emit_that_was_not_synced_may_be_tried_again() {
    for (unsynced, fate) in [(Unsynced::Lost, Stored(at(2, 1))), (Unsynced::Kept, Duplicate(at(1, 1)))] {
        let bench = Bench::new();
        drop(bench.stage(vec![emit_as(1, 0, 1, &["a"])]));
        let bench = bench.crash(unsynced);
        assert_eq!(fates(&bench.publish(1, 0, 1, &["a"])), [(1, 1, fate)]);
        assert_eq!(bench.payloads("t"), ["a"]);
    }
}

#[test]
fn without_a_publisher_nothing_is_a_duplicate() {
    let bench = Bench::new();
    let request = || WriteRequest::Emit {
        publisher: None,
        first: EmitNumber(1),
        events: vec![Ok(event(&["t"], "x")), Err(RefusalCode::INVALID), Ok(event(&["t"], "x"))],
    };
    for round in 0..2 {
        let runs = emitted(bench.write(vec![request()])).remove(0);
        let expected = [
            (1, 1, Stored(at(1, 2 * round + 1))),
            (2, 1, Refused(RefusalCode::INVALID)),
            (3, 1, Stored(at(1, 2 * round + 2))),
        ];
        assert_eq!(fates(&runs), expected);
    }
}

#[test]
fn a_refusal_that_depends_on_the_server_ends_when_the_server_has_changed() {
    for bench in Bench::each(&LogConfig::default()) {
        let forbidden = Refused(RefusalCode::FORBIDDEN);
        let first = [(1, 1, Stored(at(1, 1))), (2, 1, forbidden), (3, 1, Stored(at(1, 2)))];
        assert_eq!(fates(&bench.publish(1, 0, 1, &["a", "#", "c"])), first);
        assert_eq!(fates(&bench.publish(1, 0, 1, &["a", "#", "c"]))[1], (2, 1, forbidden), "as long as it has not");
        let bench = bench.reopen();
        let late = [(1, 1, Duplicate(at(1, 1))), (2, 1, Stored(at(2, 3))), (3, 1, Duplicate(at(1, 2)))];
        assert_eq!(fates(&bench.publish(1, 0, 1, &["a", "b", "c"])), late);
        let again = [(1, 1, Duplicate(at(1, 1))), (2, 1, Duplicate(at(2, 3))), (3, 1, Duplicate(at(1, 2)))];
        assert_eq!(fates(&bench.publish(1, 0, 1, &["a", "b", "c"])), again, "and only once");
        let bench = bench.reopen();
        assert_eq!(fates(&bench.publish(1, 0, 1, &["a", "b", "c"])), again, "also after a restart");
        assert_eq!(bench.payloads("t"), ["a", "c", "b"]);
    }
}

#[test]
fn what_came_late_is_known_in_the_store_and_hides_nothing_beside_it() {
    let mut config = LogConfig::default();
    config.fold_bytes = 0;
    for bench in Bench::each(&config) {
        bench.publish(1, 0, 1, &["a", "#", "c", "#", "e"]);
        bench.tend_all();
        bench.publish(1, 0, 1, &["a", "b", "c", "d", "e"]);
        for _ in 0..2 {
            bench.tend_all();
            let duplicate = |seq| Duplicate(at(1, seq));
            let payloads = (1..).zip(["a", "b", "c", "d", "e"]);
            let fates: Vec<_> =
                payloads.map(|(number, payload)| bench.publish(1, 0, number, &[payload])[0].fate).collect();
            assert_eq!(fates, [duplicate(1), duplicate(4), duplicate(2), duplicate(5), duplicate(3)]);
        }
    }
}

#[test]
fn a_publisher_belongs_to_the_identity_that_first_stored_something_as_it() {
    for bench in Bench::each(&LogConfig::default()) {
        let may = |bench: &Bench, owner| bench.log.may_publish(publisher(1), IdentityTag([owner; 16]));
        assert!(may(&bench, 1) && may(&bench, 2), "it is nobody's yet");
        bench.publish(1, 0, 1, &["order 1"]);
        assert!(may(&bench, 1) && !may(&bench, 2));
        let guest = || WriteRequest::Emit {
            publisher: Some(source(1, 2, 1_000_000_000)),
            first: EmitNumber(1_000_000_001),
            events: vec![Ok(event(&["chat"], "x"))],
        };
        // It had connected before the publisher was anybody's.
        assert_eq!(emitted(bench.write(vec![guest()]))[0][0].fate, Refused(RefusalCode::FENCED));
        let bench = bench.reopen();
        bench.tend_all();
        assert!(may(&bench, 1) && !may(&bench, 2), "also after a restart");
        assert_eq!(emitted(bench.write(vec![guest()]))[0][0].fate, Refused(RefusalCode::FENCED));
        let stored = bench.publish(1, 0, 1, &["order 1", "order 2", "order 3"]);
        assert_eq!(fates(&stored), [(1, 1, Duplicate(at(1, 1))), (2, 2, Stored(at(2, 2)))]);
    }
}

#[test]
fn a_publisher_of_a_directory_without_owners_belongs_to_the_first_who_comes() {
    let bench = Bench::new();
    bench.publish(1, 0, 1, &["a"]);
    let mut owner = vec![b'o'];
    owner.extend_from_slice(&publisher(1).0);
    let bench = bench.damaged(|image| image.set(&owner, None));
    let request = WriteRequest::Emit {
        publisher: Some(source(1, 2, 0)),
        first: EmitNumber(1),
        events: ["a", "b"].map(|payload| Ok(event(&["t"], payload))).to_vec(),
    };
    assert_eq!(fates(&emitted(bench.write(vec![request]))[0]), [(1, 1, Duplicate(at(1, 1))), (2, 1, Stored(at(2, 2)))]);
    let bench = bench.reopen();
    assert!(!bench.log.may_publish(publisher(1), IdentityTag([1; 16])));
}

#[test]
fn a_number_that_never_came_is_never_taken_for_stored() {
    let mut config = LogConfig::default();
    for fold_bytes in [usize::MAX, 0] {
        config.fold_bytes = fold_bytes;
        for mut bench in Bench::each(&config) {
            let skipped = Refused(RefusalCode::NUMBER_SKIPPED);
            bench.publish(1, 0, 1, &["a", "b"]);
            assert_eq!(bench.publish(1, 9, 3, &["x"])[0].fate, skipped, "before anything behind it came");
            bench.publish(1, 9, 10, &["j"]);
            bench.publish(1, 11, 12, &["l"]);
            for _ in 0..2 {
                for number in [3, 4, 8, 9, 11] {
                    assert_eq!(bench.publish(1, 0, number, &["x"])[0].fate, skipped, "{number}");
                }
                for (number, payload, seq) in [(1, "a", 1), (2, "b", 2), (10, "j", 3), (12, "l", 4)] {
                    assert_eq!(bench.publish(1, 0, number, &[payload])[0].fate, Duplicate(at(1, seq)), "{number}");
                }
                bench = bench.reopen();
                bench.tend_all();
            }
        }
    }
}
