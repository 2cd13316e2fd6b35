//! The client session alone: the server's part is read from a script, so that a server can be made to do what ours
//! never would. Stories of both ends together stand in `pair`.

#![allow(clippy::unwrap_used, reason = "what cannot be made here fails the test")]
#![allow(clippy::needless_pass_by_value, reason = "the script makes frames to give them away")]

mod any_server;
mod connections;
mod credentials;
mod cursors;
mod emits;
mod ends;
mod features;
mod merged;
mod script;
mod streams;
