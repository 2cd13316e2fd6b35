//! redeliver's log: every event once, durable before visible, read by topic.
//!
//! placeholder: the front page is written with the implementation.

pub mod config;
pub mod data_dir;
pub mod error;
pub mod kv;

mod commit;
mod content;
mod floor;
mod fold;
mod gather;
mod index;
mod layout;
mod lineage;
mod log;
mod publishers;
mod state;
mod store;
mod tail;

pub use crate::config::{LogConfig, Retention};
pub use crate::data_dir::open_dir;
pub use crate::error::LogError;
pub use crate::log::{Committed, Log, LogStats, Staged, Tended, WriteOutcome, WriteRequest};
