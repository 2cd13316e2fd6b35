//! States: small durable values by key, beside the events.

use bytes::Bytes;
use redeliver_log::kv::faulty::{Faults, Unsynced};
use redeliver_log::{LogConfig, WriteOutcome, WriteRequest};

use crate::bench::Bench;

fn save(key: &str, state: Option<&[u8]>) -> WriteRequest {
    WriteRequest::SaveState { key: Bytes::copy_from_slice(key.as_bytes()), value: state.map(Bytes::copy_from_slice) }
}

fn state(bench: &Bench, key: &str) -> Option<Vec<u8>> {
    bench.log.state(key.as_bytes()).unwrap().map(|state| state.to_vec())
}

/// A state of this size that is like no other.
fn made(bytes: usize, seed: u8) -> Vec<u8> {
    (0..=250).cycle().take(bytes).map(|byte: u8| byte ^ seed).collect()
}

#[test]
fn a_state_of_any_size_replaces_the_one_before_and_survives() {
    for bench in Bench::each(&LogConfig::default()) {
        let mut bench = bench;
        for (seed, bytes) in (0_u8..).zip([10, 60_000, 65_536, 6_900, 6_901, 20_000, 0, 14_000]) {
            let made = made(bytes, seed);
            let committed = bench.write(vec![save("pid", Some(&made)), save("other", Some(b"x"))]);
            assert_eq!(committed.outcomes, [WriteOutcome::StateSaved, WriteOutcome::StateSaved]);
            assert_eq!(state(&bench, "pid").as_ref(), Some(&made), "{bytes}");
            bench = bench.reopen();
            assert_eq!(state(&bench, "pid").as_ref(), Some(&made), "{bytes} after opening again");
        }
        bench.write(vec![save("pid", None)]);
        assert_eq!((state(&bench, "pid"), state(&bench, "other")), (None, Some(b"x".to_vec())));
        if !bench.is_on_disk() {
            let left = bench.kv.durable().entries().filter(|(key, _)| key[0] == b'v').count();
            assert_eq!(left, 0, "nothing of it is left");
        }
    }
}

#[test]
fn a_state_that_was_not_synced_is_there_as_before_or_as_after() {
    for unsynced in [Unsynced::Lost, Unsynced::Kept] {
        let bench = Bench::new();
        let (before, after) = (made(30_000, 1), made(8_000, 2));
        bench.write(vec![save("pid", Some(&before))]);
        drop(bench.stage(vec![save("pid", Some(&after))]));
        let bench = bench.crash(unsynced);
        let found = state(&bench, "pid");
        assert!(found.as_ref() == Some(&before) || found.as_ref() == Some(&after), "torn");
    }
}

#[test]
fn of_several_saves_in_a_commit_the_last_counts_and_a_thousand_fit() {
    let bench = Bench::new();
    let big = made(9_000, 3);
    let mut requests = vec![save("k5", Some(b"first")), crate::bench::emit_as(1, 0, 1, &["with company"])];
    requests.extend((0..1000).map(|number| save(&format!("k{number}"), Some(&big))));
    requests.push(save("k7", None));
    let outcomes = bench.write(requests).outcomes;
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == WriteOutcome::StateSaved).count(), 1002);
    assert_eq!(bench.head_seq(), 1);
    assert_eq!((state(&bench, "k5"), state(&bench, "k7")), (Some(big.clone()), None));
    let bench = bench.crash(Unsynced::Lost);
    assert_eq!(state(&bench, "k999"), Some(big));
}

#[test]
fn a_sweep_finds_all_states_of_a_prefix_in_order_in_parts() {
    let bench = Bench::new();
    let keys = ["a", "b", "b\0", "b\0x", "b1", "b1\u{7f}", "c", "ba"];
    bench.write(keys.iter().map(|key| save(key, Some(key.as_bytes()))).collect());
    for (states_max, bytes_max) in [(1, 1000), (2, 1000), (100, 1), (100, 1000)] {
        let mut found: Vec<Bytes> = Vec::new();
        loop {
            let part = bench.log.states(b"b", found.last().map(|key| &key[..]), states_max, bytes_max).unwrap();
            if part.is_empty() {
                break;
            }
            assert!(part.len() <= states_max);
            for (key, state) in part {
                assert_eq!(key, state);
                found.push(key);
            }
        }
        assert_eq!(found, ["b", "b\0", "b\0x", "b1", "b1\u{7f}", "ba"]);
    }
    assert_eq!(bench.log.states(b"", None, 100, 1000).unwrap().len(), keys.len());
    assert_eq!(bench.log.states(b"d", None, 100, 1000).unwrap().len(), 0);
}

#[test]
fn a_full_disk_keeps_the_state_before_and_says_so() {
    let bench = Bench::new();
    bench.write(vec![save("pid", Some(b"before"))]);
    bench.kv.set_faults(Faults { capacity_bytes: Some(1), ..Faults::default() });
    assert_eq!(bench.write(vec![save("pid", Some(b"longer than before"))]).outcomes, [WriteOutcome::StateNotSaved]);
    bench.kv.set_faults(Faults::default());
    assert_eq!(state(&bench, "pid"), Some(b"before".to_vec()));
}

#[test]
fn a_damaged_state_is_as_if_it_were_not_there_and_may_be_saved_anew() {
    for (prefix, flipped) in [(b'w', 9), (b'w', 2), (b'v', 9)] {
        let bench = Bench::new();
        bench.write(vec![save("pid", Some(&made(30_000, 4))), save("sound", Some(b"sound"))]);
        let bench = bench.damaged(|image| {
            let key = image.entries().map(|(key, _)| key.to_vec()).find(|key| key[0] == prefix).unwrap();
            let mut value = image.entries().find(|(other, _)| *other == key).unwrap().1.to_vec();
            value[flipped] ^= 1;
            image.set(&key, Some(&value));
        });
        assert_eq!((state(&bench, "pid"), state(&bench, "sound")), (None, Some(b"sound".to_vec())));
        assert_eq!(bench.log.states(b"", None, 100, 100_000).unwrap().len(), 1);
        assert_eq!(bench.log.stats().damaged_reads, 2);
        bench.write(vec![save("pid", Some(b"anew"))]);
        let bench = bench.crash(Unsynced::Lost);
        assert_eq!(state(&bench, "pid"), Some(b"anew".to_vec()));
    }
}
