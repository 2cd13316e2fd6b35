//! A log that is opened while the disk is full: it is read, and written once there is room.

use redeliver_log::kv::faulty::{Faults, FaultyKv};
use redeliver_log::{LogConfig, LogError, Maintenance};
use redeliver_protocol::history::{EmitFate, Start};
use redeliver_protocol::time::Timestamp;

use crate::bench::{Bench, at, emit_as, known, open};

fn full() -> Faults {
    Faults { capacity_bytes: Some(1), ..Faults::default() }
}

/// A log with three events, opened again over a store that has no room.
fn opened_full() -> Bench {
    let bench = Bench::new();
    bench.publish(1, 0, 1, &["a", "b", "c"]);
    let kv = FaultyKv::from_image(&bench.kv.durable());
    kv.set_faults(full());
    bench.over_store(kv)
}

fn maintain(bench: &Bench) -> Result<Maintenance, LogError> {
    bench.log.maintain(Timestamp(bench.now), bench.monotonic())
}

#[test]
fn a_log_opens_on_a_full_disk_and_is_read() {
    let bench = opened_full();
    assert_eq!(bench.payloads("t"), ["a", "b", "c"]);
    assert_eq!(bench.log.head(), at(1, 3), "nothing was begun that could be taken for a new opening");
    assert_eq!(bench.open_at("t", Start::After(known(at(1, 2), 2))).gap, None);
}

#[test]
fn it_refuses_to_write_until_there_is_room_and_begins_its_epoch_then() {
    let bench = opened_full();
    let stage = || bench.log.stage(vec![emit_as(1, 0, 4, &["d"])], Timestamp(bench.now), bench.monotonic());
    assert!(matches!(stage(), Err(LogError::StorageFull)));
    assert!(matches!(maintain(&bench), Err(LogError::StorageFull)));
    bench.kv.set_faults(Faults::default());
    let runs = bench.publish(1, 0, 4, &["d"]);
    assert_eq!(runs[0].fate, EmitFate::Stored(at(2, 4)));
    let opened = bench.open_at("t", Start::After(known(at(1, 3), 3)));
    assert_eq!((opened.gap, opened.nth.0), (None, 3), "who read meanwhile goes on");
    let bench = bench.reopen();
    assert_eq!(bench.payloads("t"), ["a", "b", "c", "d"]);
    assert_eq!(bench.log.head(), at(3, 4));
}

#[test]
fn upkeep_begins_the_epoch_once_there_is_room_also_if_nobody_emits() {
    let bench = opened_full();
    bench.kv.set_faults(Faults::default());
    assert!(maintain(&bench).is_ok());
    assert_eq!(bench.log.head(), at(2, 3));
    assert_eq!(bench.open_at("t", Start::After(known(at(1, 3), 3))).gap, None);
}

#[test]
fn a_new_log_is_not_opened_on_a_full_disk() {
    let kv = FaultyKv::new();
    kv.set_faults(full());
    let opened = open(std::sync::Arc::new(kv), &LogConfig::default(), 1, 1);
    assert!(matches!(opened, Err(LogError::StorageFull)));
}
