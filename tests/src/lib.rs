//! What the end to end tests share: the binary in processes, disks whose power can be cut, writers to cut it under, crowds of
//! emitters and readers with a ledger of what they saw, and small sources of chance.
//!
//! Nothing here is part of redeliver; it may need root, and says so instead of failing when it lacks it.

pub mod books;
pub mod chance;
pub mod content;
pub mod crowd;
pub mod emission;
pub mod emitter;
pub mod imports;
pub mod ledger;
pub mod mutation;
pub mod needs;
pub mod orders;
pub mod outbox;
pub mod power_cut;
pub mod process;
pub mod reader;
pub mod stored;
pub mod story;
pub mod tls_front;
pub mod waiting;
pub mod writer;
