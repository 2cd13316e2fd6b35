//! The log's conformance suite: the same stories over every store.

#[path = "conformance/basics.rs"]
mod basics;
#[path = "conformance/bench.rs"]
mod bench;
