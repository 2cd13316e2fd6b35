//! redeliver's protocol: its messages, and both ends of the conversation as machines without IO.
//!
//! # The protocol in one page
//!
//! Events lie in one durable **log**. Each has a **seq**, its number in the log, and in each of its **topics** an
//! **nth**, its number there: 1, 2, 3 …, never reset. Each opening of the log is an **epoch**; `{epoch, seq}` is a
//! **position**, the only thing from which anyone resumes. A **subscription** is one reader of one topic: a cursor,
//! nothing more. Delivery is always a read of the log after the cursor; *live* is a replay with nothing left to replay.
//!
//! ```text
//! client                                                server
//!   Hello { instance, publisher, settled, subscriber } ──▶   who I am, and which of my emits are decided
//!   Subscribe { id, topic, start, window } ──▶               all of them at once, without waiting
//!   Emit { first, events } ──▶
//!                              ◀── Welcome { epoch, head, publisher, heartbeat, limits }
//!                              ◀── Subscribed { id, after, nth, gap? }     the place, before any event
//!                              ◀── Events { id, epoch, count, records }    nth + 1, nth + 2 … without a hole
//!                              ◀── CaughtUp { id }                         history ends, live begins
//!   Ack { id, seq, nth } ──▶                                               everything up to here is handled
//!                              ◀── Acked { id, seq }                       and that is durable
//!                              ◀── Emitted { runs }                        durable at these positions, or refused
//!   Unsubscribe { id } ──▶     ◀── Unsubscribed { id }
//!   Close ──▶                                                              either side, with a code and what to do
//! ```
//!
//! * **Nothing is skipped in silence.** The reader knows the next nth. What is gone is told in its place, as a `Gap`
//!   with its count and cause; what is withheld, as a `Skip`. Anything else is a broken stream, and the reader
//!   subscribes again from what it has.
//! * **A resume is no special case.** After a lost connection the client sends `Hello` and `Subscribe` from its place;
//!   the server keeps nothing for a client that is away, but the cursors of durable subscribers.
//! * **A history that is not ours is noticed.** A position is valid only within what its epoch wrote, so a log that was
//!   wiped, restored or has gone back is told to every reader as a gap, and to every publisher as lost emits.
//! * **An emit has a number**, given when it is first sent; sent again it has the same. The server answers what it has
//!   already with the position of old. A *final* refusal consumes the number; a *retryable* one does not, and nothing
//!   overtakes it.
//! * **An ack counts when it is confirmed**, in this order: handler, saved cursor, ack, `Acked`. What may be handed
//!   over a second time is marked `redelivered`.
//! * **Slow readers cost nothing**: what is sent and not acknowledged stays within the window, and the server reads
//!   nothing for a closed one.
//! * **Several topics can be one row**: subscriptions of a group are sent in the order of the log, each event once, and
//!   the others that have it are told a `Skip` before it.
//! * **Both ends ping** a silent peer, and give it up after twice the heartbeat.
//!
//! The whole of it, byte by byte, is docs/protocol.md.
//!
//! # The machines
//!
//! [`server::ServerSession`] is one connection of a server; [`client::ClientSession`] is a client for its whole life.
//! Both take an `Input` and the time, and give `Output`s and the moment at which they want to be woken:
//!
//! ```text
//! session.handle(input, now);                       // never fails, never blocks
//! while let Some(output) = session.poll_output() {} // what is to be done, in this order
//! session.poll_timeout();                           // when Input::Tick is due
//! ```
//!
//! Nothing in this crate opens a socket, reads a clock, draws a random number or iterates in random order: the same
//! inputs give the same outputs. A shell does the rest, and decides nothing.
//!
//! Who owns a durable subscriber's topic, which connection of a publisher counts and who is to be woken are machines as
//! well: [`server::owners`], [`server::publishers`], [`server::watchers`].
//!
//! # Where to look
//!
//! From the bottom up; no file imports one above it: [`cause`], [`limits`], [`features`], [`seq`] numbers and
//! positions, [`time`], [`error`] codes · [`name`], [`redelivery`] the redelivery mark, [`config`], [`payload`] ·
//! [`event`], [`history`] what is asked of a log and answered, `text` its text forms · `bytes_serde` how payloads are
//! encoded · [`frame`] the messages · [`codec`] their bytes · [`request`], [`emit`], [`delivery`] what apps are
//! handed, [`open_stream`] how a client in the server's process reaches it · [`backoff`], [`timer`] · [`server`] ·
//! [`client`]. The stories in `tests/` show the machines at work.

pub mod backoff;
mod bytes_serde;
pub mod cause;
pub mod client;
pub mod codec;
pub mod config;
pub mod delivery;
pub mod emit;
pub mod error;
pub mod event;
pub mod features;
pub mod frame;
pub mod history;
pub mod limits;
pub mod name;
pub mod open_stream;
pub mod payload;
pub mod redelivery;
pub mod request;
pub mod seq;
pub mod server;
mod text;
pub mod time;
pub mod timer;
