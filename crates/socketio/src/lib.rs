//! redeliver's gateway for stock Socket.IO clients.
//!
//! Browsers, Node, Python and whoever else speaks Socket.IO connect as they are, and get what redeliver's native
//! clients get: an event is durable before anybody is told of it, and a client that was cut off gets what it missed, in
//! order, once, also if the server was killed meanwhile.
//!
//! ```
//! use redeliver_server::Server;
//! use redeliver_socketio::SocketIo;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let server = Server::builder().in_memory().open().await?;
//! let io = SocketIo::builder(server.clone()).build();
//! io.of("/")?.on_connection(|socket| async move {
//!     socket.on("join", |incoming| async move {
//!         let Ok(room) = incoming.args.parse_at::<String>(0) else { return };
//!         // Durable: the client is in the room also after a crash.
//!         let joined = incoming.socket.join(room).await.is_ok();
//!         let _ = incoming.answer(joined);
//!     });
//! });
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! tokio::spawn(server.serve_with(listener, io.clone()));
//!
//! let receipt = io.to("orders").emit("created", ("a book", 7)).await?;
//! assert_eq!(receipt.seq().map(|seq| seq.0), Some(1));
//! # Ok(())
//! # }
//! ```
//!
//! Native clients and Socket.IO clients share topics: the namespace `/n` is the topic `/n`, a room `r` in it the topic
//! `/n#r`. These topics are closed to native clients, which neither middlewares nor rooms would guard, unless the app opens
//! them ([`Action::EmitToGateway`](redeliver_server::Action::EmitToGateway)). Clients are held to the server's
//! [`Access`](redeliver_server::Access), and each namespace may have middlewares. In an axum or hyper app, [`SocketIo::layer`] puts the gateway around it (`examples/axum_chat.rs`).
//!
//! How recovery works, for which clients, and what differs from Socket.IO's own server: docs/socketio.md.
//!
//! # Within
//!
//! [`engine`] is Engine.IO v4: sessions over polling and WebSocket. Above it, `packet` is Socket.IO v5 (pure),
//! `connection` the task of one client, which reads the merged row of each socket's topics as the client takes it;
//! there is no other way for an event to get out. `rooms` and `recovery` (pure) know what a socket is to get and where
//! it goes on.

mod acks;
mod args;
mod assets;
mod broadcast;
mod builtin;
mod config;
mod connection;
mod core;
pub mod engine;
mod error;
mod frames;
mod handlers;
mod io;
mod layer;
mod members;
mod namespace;
mod offset;
mod packet;
mod presence;
mod recovery;
mod refusals;
mod rooms;
mod socket;

pub use crate::acks::AckReply;
pub use crate::args::{Args, IntoArgs};
pub use crate::broadcast::{Broadcast, PendingReceipt, Volatile};
pub use crate::config::{Config, Recovery};
pub use crate::error::{AckError, ArgsError, ConnectError, DataError, NamespaceError, RoomError, SendError};
pub use crate::io::{SocketIo, SocketIoBuilder};
pub use crate::layer::{SocketIoLayer, SocketIoService, WithPage};
pub use crate::namespace::Namespace;
pub use crate::socket::{Ack, DisconnectReason, Handshake, Incoming, Socket};
