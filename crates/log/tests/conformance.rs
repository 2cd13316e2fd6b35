//! The log's conformance suite: stories of what a log must do, over the in-memory store with its crash image, and
//! against a reference model.

#![allow(clippy::unwrap_used, reason = "a story that cannot go on may panic")]

#[path = "conformance/basics.rs"]
mod basics;
#[path = "conformance/bench.rs"]
mod bench;
#[path = "conformance/beside.rs"]
mod beside;
#[path = "conformance/damage.rs"]
mod damage;
#[path = "conformance/excepts.rs"]
mod excepts;
#[path = "conformance/folding.rs"]
mod folding;
#[path = "conformance/full_disk.rs"]
mod full_disk;
#[path = "conformance/merged.rs"]
mod merged;
#[path = "conformance/model.rs"]
mod model;
#[path = "conformance/publishers.rs"]
mod publishers;
#[path = "conformance/sharing.rs"]
mod sharing;
#[path = "conformance/states.rs"]
mod states;
#[path = "conformance/subscriptions.rs"]
mod subscriptions;
#[path = "conformance/time.rs"]
mod time;
#[path = "conformance/together.rs"]
mod together;
#[path = "conformance/writing.rs"]
mod writing;
