//! The gateway over real connections, with a client that speaks the wire as stock ones do.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod builtin;
mod client;
mod connecting;
mod handlers;
mod idle;
mod layer;
mod permissions;
mod recovery;
mod rooms;
mod stories;
mod strangers;
mod subscribers;
