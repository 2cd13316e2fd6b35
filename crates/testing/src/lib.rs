//! A redeliver server for the tests of apps: in memory, on a free port of 127.0.0.1, with connections that a test can cut
//! and a restart that keeps the events. Never for production: nothing is durable.
//!
//! ```
//! use redeliver_server::{Delivery, Start};
//! use redeliver_testing::TestServer;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let server = TestServer::start().await?;
//! server.server().emit("orders", "created", "a book").await?;
//!
//! // A client connects to `server.url()`, and comes back by itself after each of these.
//! server.cut_connections().await;
//! server.restart().await?;
//!
//! let mut orders = server.server().subscribe("orders").start(Start::Earliest).await?;
//! while let Some(delivery) = orders.next().await {
//!     if let Delivery::Event(event) = delivery {
//!         assert_eq!(event.text()?, "a book");
//!         break;
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Paused time
//!
//! Events are stored by a task of the test's runtime, so a paused clock does not run ahead of them:
//!
//! ```
//! # use std::time::Duration;
//! # use redeliver_testing::TestServer;
//! // #[tokio::test(start_paused = true)]
//! async fn an_order_is_stored() {
//!     let server = TestServer::start().await.unwrap();
//!     let app = server.server();
//!     let emitting = app.emit("orders", "created", "a book");
//!     tokio::time::timeout(Duration::from_secs(5), emitting).await.unwrap().unwrap();
//! }
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(an_order_is_stored());
//! ```
//!
//! With paused time a client should be in the process (`Client::in_process(&server)` of `redeliver-client`): tokio's clock
//! does not wait for the kernel's sockets. Connections of such a client are cut as well.

mod line;
mod test_server;

pub use crate::test_server::TestServer;
