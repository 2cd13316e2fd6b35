//! The server from outside: real sockets and pipes, raw frames through the codec.

#![allow(clippy::wildcard_enum_match_arm, reason = "a test names what it expects; anything else fails it")]

mod access;
mod conversation;
mod durable;
mod feed;
mod hostile;
mod http;
mod life;
mod local;
mod peer;
mod permissions;
mod publisher;
mod registry;
mod routes;
mod states;
mod strangers;
mod tls;
mod volatile;
