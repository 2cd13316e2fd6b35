//! redeliver's gateway for stock Socket.IO clients.
//!
//! Engine.IO v4 (polling, WebSocket, and the upgrade from one to the other) and Socket.IO v5, written on hyper and
//! tungstenite. What was emitted is read from the server's log, so a client that comes back gets what it missed.

#[allow(dead_code, reason = "the layer, which is to use it, is not there yet")]
mod assets;
pub mod engine;
#[allow(dead_code, unused_imports, reason = "the sockets above are being built")]
mod packet;
