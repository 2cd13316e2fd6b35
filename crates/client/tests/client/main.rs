//! The whole client, over memory and in paused time, against a small server that misbehaves on request.

#![allow(clippy::unwrap_used, reason = "what cannot be unwrapped fails its test")]

mod connections;
mod credentials;
mod emits;
mod subscriptions;
mod toy;
