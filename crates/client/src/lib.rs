//! redeliver's client: emit events durably, follow topics, acknowledge what is handled, resume after anything.
//!
//! The IO shell around [`redeliver_protocol::client::ClientSession`]. It makes connections, carries messages and runs
//! timers; every decision of the protocol is the session's.

mod acks;
mod builder;
mod client;
mod command;
mod cursor_store;
mod driver;
mod emit;
mod endpoint;
mod error;
mod event;
mod subscribe;
mod subscription;
mod transport;

pub use redeliver_protocol::backoff::Jitter;
pub use redeliver_protocol::client::{ConnectionState, SubscriptionEnd};
pub use redeliver_protocol::config::{ClientConfig, EVENT_BYTES_MAX};
pub use redeliver_protocol::error::{Close, CloseCode, RefusalCode, RetryAdvice};
pub use redeliver_protocol::event::{EmitOptions, NewEvent, PayloadKind};
pub use redeliver_protocol::frame::{Ownership, Window};
pub use redeliver_protocol::history::{Cursor, GapCause, Known, Start};
pub use redeliver_protocol::name::{EventName, NameError, SubscriberName, TopicName};
pub use redeliver_protocol::seq::{EmitNumber, Epoch, Nth, Position, PublisherId, Seq};
pub use redeliver_protocol::time::Timestamp;

pub use self::builder::ClientBuilder;
pub use self::client::{Client, Notice, Notices};
pub use self::cursor_store::{CursorKey, CursorStore, FileCursorStore, MemoryCursorStore};
pub use self::emit::{Payload, PendingReceipt, Receipt};
pub use self::endpoint::Endpoint;
pub use self::error::{
    ConnectError, CursorStoreError, EmitError, NotConfirmed, Outcome, PayloadError, ShutdownError, SubscribeError,
};
pub use self::event::{Delivery, Event, Gap};
pub use self::subscribe::SubscribeBuilder;
pub use self::subscription::Subscription;
pub use self::transport::{Connector, TcpConnector};
