//! redeliver's gateway for stock Socket.IO clients.
//!
//! Engine.IO v4 (polling, WebSocket, and the upgrade from one to the other) and Socket.IO v5, written on hyper and
//! tungstenite. What was emitted is read from the server's log, so a client that comes back gets what it missed.

mod acks;
mod args;
mod assets;
mod broadcast;
mod builtin;
mod clock;
mod config;
mod connection;
pub mod engine;
mod error;
mod frames;
mod io;
mod layer;
mod namespace;
mod offset;
#[allow(dead_code, unused_imports, reason = "the sockets above are being built")]
mod packet;
mod recovery;
mod rooms;
mod socket;

pub use crate::acks::Answer;
pub use crate::args::{Args, IntoArgs};
pub use crate::broadcast::Broadcast;
pub use crate::config::{Config, Recovery};
pub use crate::error::{AnswerError, ArgsError, ConnectError, RoomError, SendError};
pub use crate::io::{SocketIo, SocketIoBuilder};
pub use crate::layer::{SocketIoLayer, SocketIoService, WithPage};
pub use crate::namespace::Namespace;
pub use crate::socket::{Ack, DisconnectReason, Handshake, Incoming, Socket};
