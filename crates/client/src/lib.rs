//! redeliver's client: emit events durably, follow topics, acknowledge what is handled, resume after anything.
//!
//! ```
//! # mod toy { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/client/toy.rs")); }
//! # use std::error::Error;
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn Error>> {
//! # let toy = toy::Toy::new();
//! use std::time::Duration;
//!
//! use redeliver_client::{Client, Delivery};
//!
//! let client = Client::builder("ws://127.0.0.1:7400")
//!     .subscriber("billing") // the server keeps this one's place in each topic
//! #   .connector(toy.clone())
//!     .connect()
//!     .await?;
//!
//! // Returns once the event is durable on the server, whatever happens to the connection meanwhile.
//! let receipt = client.emit("orders", "created", "3 crates of tea").await?;
//!
//! // The first time, from the oldest event on; later, behind what was acknowledged.
//! let mut orders = client.subscribe("orders").durable().auto_ack().await?;
//! while let Some(delivery) = orders.next().await {
//!     match delivery {
//!         Delivery::Event(event) => {
//!             assert_eq!(Some(event.seq()), receipt.seq());
//!             println!("{}: {}", event.name, event.text()?);
//!         }
//!         Delivery::Gap(gap) => println!("{gap}"), // why events are gone, and how many
//!         Delivery::CaughtUp { .. } => break, // what follows is live
//!         _ => {}
//!     }
//! }
//! orders.close().await?; // the acks are confirmed
//! client.shutdown(Duration::from_secs(5)).await?;
//! # assert_eq!(toy.cursor("billing", "orders"), Some(1));
//! # Ok(())
//! # }
//! ```
//!
//! # What is promised
//!
//! - **An emit** that has its [`Receipt`] is durable. Until then it is sent again after each reconnect, under the same
//!   number, so that it is stored once. An error says whether it may have been stored ([`EmitError::outcome`]).
//! - **A subscription** hands over every event of its topic, in order, from where it started. It survives reconnects:
//!   it goes on behind what it has handed over, and hands nothing over twice. What is gone is told as a [`Gap`].
//! - **An ack** says that everything up to an event is handled. After a restart, a durable subscription (its cursor is
//!   with the server) or a stored one (in a [`CursorStore`] of the client's) goes on behind the last ack that was
//!   confirmed; what may come a second time is marked [`redelivered`](Event::redelivered).
//! - **A number of an outbox** is stored once ([`ClientBuilder::publisher_after`]): a relay that dies anywhere and goes
//!   on behind the last receipt that it noted leaves nothing out and doubles nothing.
//!
//! # Each effect exactly once
//!
//! Store the event's place in the transaction of its effect, on condition that the place before it is what is stored:
//!
//! ```sql
//! -- let step = event.place();
//! BEGIN;
//! UPDATE places SET place = :after                -- step.after.to_string()
//!  WHERE topic = 'orders' AND place = :before;    -- step.before.to_string()
//! -- 0 rows: another process goes on here. Roll back and stop.
//! INSERT INTO invoices …;
//! COMMIT;
//! ```
//!
//! At the start read the place, and subscribe with [`Start::After`] it (`text.parse::<Place>()?`); insert the row the
//! first time. Storing alone is not enough: a process that is on its way out may still commit what it has in hand after
//! its successor has read the place. The condition also holds when the server was restored from a backup. A gap has a
//! [`place`](Gap::place) too. The example `exactly_once` does this with a file.
//!
//! # What is bounded
//!
//! The outbox ([`ClientBuilder::outbox`]: who emits more waits), and what a subscription hands over without an ack
//! ([`SubscribeBuilder::window`]: nothing more comes). Both in events and in bytes.
//!
//! # TLS
//!
//! With the feature `tls` a `wss://` URL is reached by TLS (rustls). The client trusts what the machine trusts;
//! `ClientBuilder::tls` takes a CA of one's own, and a certificate for a server that asks for one. Without the feature such
//! a URL needs a [`Connector`] that offers TLS. Credentials that would leave the machine unencrypted are warned of.
//!
//! # Credentials that expire
//!
//! [`ClientBuilder::auth_with`] asks the app for them at each connection, and again when the server calls them expired:
//! the client goes on where it was.
//!
//! # Features
//!
//! - `file-cursors` (on by default): `FileCursorStore`, which keeps cursors in a file.
//! - `tls`: `wss://` URLs and `TlsConfig`.
//!
//! # How it is built
//!
//! The IO shell around [`redeliver_protocol::client::ClientSession`]. It makes connections, carries messages and runs
//! timers; every decision of the protocol is the session's.

mod acks;
mod auth;
mod builder;
mod client;
mod command;
mod connection_watch;
mod connector;
mod cursor_store;
mod driver;
mod emit;
mod endpoint;
mod error;
mod in_process;
mod notice;
mod outbox_room;
mod request;
mod subscribe;
mod subscription;
#[cfg(feature = "tls")]
mod tls;
mod transport;
mod volatile;

pub use redeliver_protocol::cause::Cause;
pub use redeliver_protocol::client::{ConnectionState, SubscriptionEnd};
pub use redeliver_protocol::config::ClientConfig;
pub use redeliver_protocol::delivery::{Delivery, Event, Gap, VolatileEvent};
pub use redeliver_protocol::emit::{EmitError, Outcome, Receipt};
pub use redeliver_protocol::error::{Close, CloseCode, RefusalCode, RetryAdvice};
pub use redeliver_protocol::event::{EmitOptions, EventError, NewEvent};
pub use redeliver_protocol::features::Features;
pub use redeliver_protocol::frame::{Ownership, Window};
pub use redeliver_protocol::history::{Cursor, FirstStart, GapCause, Place, PlaceStep, Start};
pub use redeliver_protocol::limits::EVENT_BYTES_MAX;
pub use redeliver_protocol::name::{EventName, NameError, SubscriberName, TopicName};
pub use redeliver_protocol::open_stream::OpenStream;
pub use redeliver_protocol::payload::{Payload, PayloadError, PayloadKind};
pub use redeliver_protocol::redelivery::DeliveredThrough;
pub use redeliver_protocol::request::{Refusal, Request, RequestError, Response};
pub use redeliver_protocol::seq::{EmitNumber, Epoch, InstanceId, Nth, ParseError, Position, PublisherId, Seq};
pub use redeliver_protocol::time::Timestamp;

pub use self::auth::CredentialsError;
pub use self::builder::ClientBuilder;
pub use self::client::Client;
pub use self::connection_watch::ConnectionWatch;
pub use self::connector::{Connector, NetStream, TcpConnector};
#[cfg(feature = "file-cursors")]
pub use self::cursor_store::FileCursorStore;
pub use self::cursor_store::{CursorKey, CursorStore, MemoryCursorStore};
pub use self::emit::PendingReceipt;
pub use self::endpoint::Endpoint;
pub use self::error::{ConnectError, CursorStoreError, NotConfirmed, ShutdownError, SubscribeError};
pub use self::in_process::InProcess;
pub use self::notice::{Notice, Notices};
pub use self::subscribe::SubscribeBuilder;
pub use self::subscription::Subscription;
#[cfg(feature = "tls")]
pub use self::tls::{TlsConfig, TlsError};
