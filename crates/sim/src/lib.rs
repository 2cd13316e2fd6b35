//! redeliver's deterministic simulation: many clients, one server that may die at any moment, links that behave as TCP
//! does, and the real sessions, hub and log between them, in virtual time and from one seed.
//!
//! ```text
//! seed ── plan ── world ─┬─ server: sessions ⇄ hub ⇄ writer ⇄ Log over the crash-image Kv
//!                        ├─ link: TCP-like, cut, stalled, one-way, half-open
//!                        ├─ client: processes, handlers, disks, outboxes
//!                        ├─ faults: crashes, restores, full disks, clocks
//!                        └─ history ── checker: judges the entries, and nothing else
//! ```
//!
//! Everything that happens is written into a [`history::History`]; [`checker::check`] judges it. Nothing here has a
//! protocol decision in it, and nothing here is used by the product.

mod asides;
pub mod checker;
mod client;
mod faults;
pub mod history;
pub mod link;
pub mod mutants;
pub mod plan;
pub mod queue;
pub mod regressions;
pub mod rng;
pub mod seeds;
mod server;
pub mod world;
