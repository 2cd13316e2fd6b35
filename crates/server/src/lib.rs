//! redeliver's server as a library.
//!
//! A [`Server`] owns a log of events and serves it to its readers: over WebSockets, on a listener of its own or attached to
//! the app's HTTP server, and within the process. An event is fsynced before anybody is told of it, a reader that missed
//! events gets them in order when it comes back, and what cannot be delivered any more is told as a gap.
//!
//! ```
//! use redeliver_server::{Delivery, Server, Start};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // `data_dir("./redeliver-data")` instead makes it durable.
//! let server = Server::builder().in_memory().open().await?;
//! server.emit_json("orders", "created", &"a book").await?;
//!
//! let mut orders = server.subscribe("orders").start(Start::Earliest).await?;
//! while let Some(delivery) = orders.next().await {
//!     if let Delivery::Event(event) = delivery {
//!         assert_eq!(event.json::<String>()?, "a book");
//!         event.ack();
//!         break;
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! To serve it to others, give it a listener:
//!
//! ```no_run
//! # use redeliver_server::Server;
//! # async fn serve(server: Server) -> std::io::Result<()> {
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:7400").await?;
//! tokio::spawn(server.serve(listener));
//! let failure = server.failed().await;
//! tracing::error!(%failure, "this process must be started again");
//! std::process::exit(1);
//! # }
//! ```
//!
//! `examples/in_process.rs`, `examples/publisher.rs` (the relay of an outbox) and `examples/requests.rs` show more.
//! A server may also answer the WebSocket handshakes of an HTTP server that is there already: [`Server::handle_upgrade`] and
//! `examples/axum_app.rs`.

mod access;
mod admin;
mod builder;
mod clock;
mod connection;
mod emit;
mod gateway;
mod guarded;
mod guesses;
mod handle;
mod http;
mod hub;
mod in_process;
mod inbox;
mod listener;
mod local;
mod log_calls;
mod publisher;
mod queue;
mod registry;
mod requests;
mod routes;
mod server;
mod session_driver;
mod shared;
mod stats;
mod storage;
mod strangers;
mod tls;
mod transport;
mod turn;
mod volatile;
mod wake_task;
mod watching;
mod writer;

pub use redeliver_log::{Log, LogConfig, LogError, LogStats, Retention, STATE_BYTES_MAX, STATE_KEY_BYTES_MAX};
pub use redeliver_log::{TOGETHER_BYTES_MAX, TOGETHER_EVENTS_MAX};
pub use redeliver_protocol::client::SubscriptionEnd;
pub use redeliver_protocol::config::ServerConfig;
pub use redeliver_protocol::delivery::{Delivery, Event, Gap, VolatileEvent};
pub use redeliver_protocol::emit::{EmitError, Outcome, Receipt};
pub use redeliver_protocol::error::{Close, CloseCode, RefusalCode, RetryAdvice};
pub use redeliver_protocol::event::{EmitOptions, EventError, NewEvent, PayloadKind, Record, VolatileEmit};
pub use redeliver_protocol::frame::{Ownership, Window};
pub use redeliver_protocol::history::{Gap as GapRange, GapCause, Place, PublisherState, Start};
pub use redeliver_protocol::limits::{EVENT_BYTES_MAX, EVENT_EXCEPT_MAX, EVENT_TOPICS_MAX, Limits, NAME_BYTES_MAX};
pub use redeliver_protocol::name::{EventName, NameError, SubscriberName, TopicName};
pub use redeliver_protocol::open_stream::OpenStream;
pub use redeliver_protocol::payload::{Payload, PayloadError};
pub use redeliver_protocol::request::{Refusal, RequestError, Response};
pub use redeliver_protocol::seq::{EmitNumber, Epoch, Nth, Position, PublisherId, Seq};
pub use redeliver_protocol::server::ConnectionId;
pub use redeliver_protocol::time::Timestamp;

pub use crate::access::{Access, Action, ConnectRequest, Denied, Identity, OpenAccess};
pub use crate::builder::{MemoryStore, OpenError, ServerBuilder};
pub use crate::gateway::Gateway;
pub use crate::gateway::feed::{Feed, FeedError, FeedEvent, FeedItem};
pub use crate::gateway::registration::{Registration, RegistrationEvent};
pub use crate::gateway::states::StateError;
pub use crate::local::{LocalSubscribe, LocalSubscription, SubscribeError};
pub use crate::publisher::{LocalPublisher, PublisherClaim, PublisherError};
pub use crate::registry::ConnectionInfo;
pub use crate::requests::ClientRequest;
pub use crate::routes::{RequestBody, ResponseBody, Routes};
pub use crate::server::{LogFailure, Server, ShutdownError};
pub use crate::stats::ServerStats;
pub use crate::strangers::budget::StrangerLimits;
pub use crate::strangers::{Farewell, Stranger, Watch as StrangerWatch};
pub use crate::tls::{Tls, TlsError, TlsFiles};
