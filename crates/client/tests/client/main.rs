//! The whole client, over memory and in paused time, against a small server that misbehaves on request.

mod connections;
mod emits;
mod subscriptions;
mod toy;
