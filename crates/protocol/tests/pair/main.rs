//! Stories of the two session machines, told in virtual time over links that can be cut at any message: no socket, no
//! clock, no disk. Every message goes through the real codec. `world::Pair` is where they are played.

#![allow(clippy::unwrap_used, reason = "a story that cannot go on has failed")]
#![allow(clippy::wildcard_enum_match_arm, reason = "a story names what it looks for, and nothing else matters to it")]

mod fake_log;
mod hub;
mod play;
mod world;

mod client_cuts;
mod client_merged;
mod client_starts;
mod client_stories;
mod client_takes;
mod requests;
mod server_cursors;
mod server_delivery;
mod server_emits;
mod server_faults;
mod server_hello;
mod server_merged;
mod server_owners;
mod server_withheld;
