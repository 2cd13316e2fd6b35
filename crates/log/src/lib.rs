//! redeliver's log: every event once, in one order, durable before visible, read by topic.
//!
//! A [`Log`] is a row of *commits* over a tiny key-value store ([`kv::Kv`]). One writer stages a commit, publishes it once
//! its sync has returned, and tends the log in small steps in between; any number of readers ask where a subscription
//! starts, and what follows a seq. It is synchronous, has no threads, and is told the time: the server gives it a thread,
//! the simulation gives it none.
//!
//! What it promises:
//!
//! - **Durable, then visible.** Readers see nothing beyond the published head, whatever the store already holds.
//! - **One door.** Every batch is at most 1 MiB, every value at most 7,000 bytes, and every batch is followed by its sync
//!   before the next one. A failed sync is the end.
//! - **Only nths decide what is missing.** A read compares the reader's nth with that of the next event there is. Whether
//!   retention, damage or anything else took what lies between, it shows as a gap with a count, never as silence.
//! - **Positions are judged, never believed.** The lineage of epochs says whether a position is of this history; a position
//!   changes nothing.
//! - **Every crash is the same crash.** Whatever step is cut, an open finds the log as it was before that step or after it.
//!
//! # The way of an event
//!
//! ```text
//!            stage: decide, draft, apply       publish: sync, then show
//! requests ────────────────────────────▶ l ───────────────────────────▶ index, recent records ──▶ read_recent
//!                                        │                                                          │
//!                      tend: fold        ▼         tend: trim                                       ▼
//!                                     t g q p d h r───────────▶ gone                              read
//! ```
//!
//! New events lie in the *tail*, in commits, indexed in memory, the newest of them also as wire records in memory. When the
//! tail is large enough, its oldest commits become a *run*: values by topic, which replay reads without touching other
//! topics. Retention raises the *floor*, which hides at once; whole runs below it are deleted later. An open reads the
//! small keys and the tail alone.
//!
//! # The layout
//!
//! One keyspace. Keys are a prefix byte and big-endian numbers; values are little-endian, cut into pieces of at most 7,000
//! bytes where they may be larger, each with a CRC32C over its key and itself.
//!
//! | key | value |
//! |---|---|
//! | `l` first_seq, piece | a commit of the tail: events in seq order, with their topics, publishers and times |
//! | `t` topic, first_seq, piece | folded: wire records of one topic |
//! | `g` run, first topic, piece | folded: a directory, and the wire records of small topics of a run |
//! | `q` publisher, first_number | folded: number, seq and content hash of emits |
//! | `r` run, piece | a run's manifest: what it spans, and every `t`, `g` and `q` that it wrote |
//! | `d` first topic | names of topics, written with the fold that first saw them |
//! | `h` fold, part | topics' last seqs and nths: of those that a fold saw, or now and then of all |
//! | `p` publisher | its last number, and when it emitted it, as of its last fold |
//! | `o` publisher | whose it is: a tag of the identity that emitted as it first |
//! | `c` subscriber, topic | a durable cursor, and when it was saved |
//! | `x` seq, piece | who is not to get an event |
//! | `w` key | a state of a gateway, or its beginning |
//! | `v` key, piece | the rest of a state |
//! | `e` index | an epoch, and the head when it began |
//! | `m` which | format and creation, fold point, the fold under way, floor, retention's clock |
//!
//! A fold is planned durably (`m`), written, and passed last of all (`m`): a fold that was cut is done again, over what it
//! left, by the same plan. Only then are its commits deleted. A run is trimmed by deleting what its manifest names, after
//! the floor that hides it is durable.
//!
//! # The rooms
//!
//! - `log`: what callers see. `log/decide` says what becomes of emits, `log/draft` makes commits of them, `log/stage` applies
//!   and publishes; `log/states` keeps what gateways save; `log/read`, `log/merged` and `log/subscribe` answer
//!   readers; `log/maintenance` picks the next step of `log/folding` and
//!   `log/trimming`; `log/open` recovers.
//! - `layout`, `commit`, `fold/manifest`, `topic_table`: the only places that know bytes on the medium.
//! - `state`, `index`, `tail`, `publishers`, `lineage`, `floor`: what is held in memory; pure. So is `merged`: topics as one
//!   row.
//! - `excepts`: who is not to get which event. `scan`, `fold`: from the store to records, and from commits to runs.
//! - `store`: the one door. [`kv`]: the stores behind it, of which the durable one is a journal before sled. [`data_dir`]: the directory that one of them lives in.

#[cfg(not(unix))]
compile_error!("redeliver's log needs a Unix system: positioned writes, file locks and file modes");

pub mod config;
pub mod data_dir;
pub mod error;
pub mod kv;

mod clock;
mod commit;
mod content;
mod dir_lock;
mod excepts;
mod floor;
mod fold;
mod index;
mod layout;
mod lineage;
mod log;
mod merged;
mod panic;
mod publishers;
mod read_cache;
mod scan;
mod state;
mod store;
mod tail;
mod topic_table;

pub use crate::config::{LogConfig, Retention};
pub use crate::data_dir::open_dir;
pub use crate::error::LogError;
pub use crate::log::{
    Committed, EmitSource, Log, LogStats, Maintenance, STATE_BYTES_MAX, STATE_KEY_BYTES_MAX, Staged,
    TOGETHER_BYTES_MAX, TOGETHER_EVENTS_MAX, WriteOutcome, WriteRequest, together_bytes,
};
pub use crate::merged::{MergedEvent, MergedItem, MergedReader, MergedRow};
pub use crate::panic::panic_message;
