//! Events that are stored together: in one commit, under consecutive seqs, or none of them.

use redeliver_log::kv::faulty::{Faults, Unsynced};
use redeliver_log::{LogConfig, TOGETHER_BYTES_MAX, TOGETHER_EVENTS_MAX, WriteRequest, together_bytes};
use redeliver_protocol::error::RefusalCode;
use redeliver_protocol::event::NewEvent;
use redeliver_protocol::history::{EmitFate, EmitRun};
use redeliver_protocol::seq::EmitNumber;

use crate::bench::{Bench, at, emit_as, emitted, event};

fn together(events: Vec<NewEvent>) -> WriteRequest {
    WriteRequest::EmitAll { events: events.into_iter().map(Ok).collect() }
}

fn run(count: u32, fate: EmitFate) -> Vec<EmitRun> {
    vec![EmitRun { first: EmitNumber(1), count, fate }]
}

fn row(count: usize, bytes: usize) -> Vec<NewEvent> {
    (0..count).map(|_| event(&["t"], &"x".repeat(bytes))).collect()
}

#[test]
fn events_that_are_emitted_together_get_consecutive_seqs() {
    for bench in Bench::each(&LogConfig::default()) {
        let rows = vec![event(&["t"], "a"), event(&["u"], "b"), event(&["t"], "c")];
        let runs =
            emitted(bench.write(vec![emit_as(1, 0, 1, &["first"]), together(rows), emit_as(1, 0, 2, &["last"])]));
        assert_eq!(runs[1], run(3, EmitFate::Stored(at(1, 2))));
        let bench = bench.reopen();
        assert_eq!(bench.payloads("t"), ["first", "a", "c", "last"]);
        assert_eq!(bench.payloads("u"), ["b"]);
    }
}

#[test]
fn they_are_never_cut_by_the_border_of_a_commit() {
    // By themselves the others fill more than half of a commit, so that not all of the row finds room behind them.
    let bench = Bench::new();
    let others = WriteRequest::Emit {
        publisher: None,
        first: EmitNumber(1),
        events: row(3, 200_000).into_iter().map(Ok).collect(),
    };
    let before = bench.kv.operations();
    let staged = bench.stage(vec![others, together(row(3, 200_000))]);
    assert_eq!(bench.kv.operations(), (before.0 + 2, before.1 + 1), "two commits, the first of them synced");
    // The power is cut before the second commit is durable.
    drop(staged);
    let bench = bench.crash(Unsynced::Lost);
    assert_eq!(bench.payloads("t").len(), 3, "all of the others, and none of the row");
}

#[test]
fn a_full_disk_refuses_all_of_them() {
    let bench = Bench::new();
    let others = emit_as(1, 0, 1, &["a"]);
    bench.kv.set_faults(Faults { capacity_bytes: Some(700_000), ..Faults::default() });
    let large = emit_as(2, 0, 1, &[&"x".repeat(600_000)]);
    let runs = emitted(bench.write(vec![others, large, together(row(3, 200_000))]));
    assert_eq!(runs[2], run(3, EmitFate::Refused(RefusalCode::STORAGE_FULL)));
    assert_eq!(bench.payloads("t").len(), 2);
    bench.kv.set_faults(Faults::default());
    let runs = emitted(bench.write(vec![together(row(3, 200_000))]));
    assert_eq!(runs[0], run(3, EmitFate::Stored(at(1, 3))));
}

#[test]
fn one_that_cannot_be_stored_refuses_all_of_them() {
    let bench = Bench::new();
    let events = vec![Ok(event(&["t"], "a")), Err(RefusalCode::FORBIDDEN), Ok(event(&["t"], "c"))];
    let runs = emitted(bench.write(vec![WriteRequest::EmitAll { events }]));
    assert_eq!(runs[0], run(3, EmitFate::Refused(RefusalCode::FORBIDDEN)));
    assert_eq!(bench.head_seq(), 0);
}

#[test]
fn what_fills_a_commit_is_stored_and_what_exceeds_it_is_refused_as_too_large() {
    let bench = Bench::new();
    let mut full = row(5, 200_000);
    let overhead = together_bytes(&row(1, 0));
    full.push(event(&["t"], &"x".repeat(TOGETHER_BYTES_MAX - together_bytes(&full) - overhead)));
    assert_eq!(together_bytes(&full), TOGETHER_BYTES_MAX);
    let mut larger = full.clone();
    larger[0] = event(&["t"], &"x".repeat(200_001));
    let runs = emitted(bench.write(vec![together(larger), together(full)]));
    assert_eq!(runs[0], run(6, EmitFate::Refused(RefusalCode::TOO_LARGE)));
    assert_eq!(runs[1], run(6, EmitFate::Stored(at(1, 1))));

    let runs =
        emitted(bench.write(vec![together(row(TOGETHER_EVENTS_MAX + 1, 1)), together(row(TOGETHER_EVENTS_MAX, 1))]));
    let count = u32::try_from(TOGETHER_EVENTS_MAX).unwrap();
    assert_eq!(runs[0], run(count + 1, EmitFate::Refused(RefusalCode::TOO_LARGE)));
    assert_eq!(runs[1], run(count, EmitFate::Stored(at(1, 7))));
}
