//! redeliver's protocol: the messages, and both ends of the conversation as machines without IO.
//!
//! placeholder: the front page is written with the sessions.

pub mod backoff;
pub mod client;
pub mod codec;
pub mod config;
pub mod error;
pub mod event;
pub mod frame;
pub mod history;
pub mod name;
pub mod seq;
pub mod server;
pub mod time;
pub mod timer;
