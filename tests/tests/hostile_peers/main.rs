//! Peers that break every rule there is, over real sockets, against a server that serves others meanwhile. Each must get
//! the answer that the protocol has for it, and the others must notice nothing.

#![allow(clippy::unwrap_used, reason = "what cannot be unwrapped fails its test")]
#![allow(clippy::wildcard_enum_match_arm, reason = "whatever is not expected fails its test")]

mod attack;
mod binary;
mod forged;
mod memory;
mod messages;
mod peer;
mod sockets;
