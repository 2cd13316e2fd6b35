//! The engine from outside: its HTTP answers in this process, its WebSockets over pipes, all in virtual time.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod hostile;
mod pipe;
mod sessions;
