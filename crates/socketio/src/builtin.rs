//! What a client can do on a server without an app's code: `subscribe`, `unsubscribe` and `emit`, events of the
//! namespace `/` with answers. Topics are redeliver's own, so native and Socket.IO clients share them. Everything is
//! asked of the server's `Access`.

mod emits;

use redeliver_server::{Action, Delivery, GapRange, Nth, Place, Position, Receipt, Server, Start, TopicName};
use serde::{Deserialize, Serialize};
use tracing::debug;

use crate::args::Args;
use crate::builtin::emits::Emits;
use crate::error::RoomError;
use crate::namespace::Namespace;
use crate::offset::Offset;
use crate::recovery::most_missing;
use crate::socket::{Incoming, Socket};

/// Offers the events to every socket of a namespace.
pub(crate) fn offer(namespace: &Namespace) {
    namespace.on_connection(|socket| async move {
        socket.on("subscribe", |incoming| answered(incoming, subscribe));
        socket.on("unsubscribe", |incoming| answered(incoming, unsubscribe));
        let emits = Emits::default();
        socket.on("emit", move |incoming| emits.clone().queue(incoming));
    });
}

/// The second argument of `subscribe`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Options {
    /// Begin with history: `"earliest"`, an offset, or a seq.
    after: Option<After>,
    /// Begin with the last so many events.
    last: Option<u64>,
    /// Events come as `event`, with one object `{topic, seq, name, time, data}`.
    envelope: bool,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum After {
    Seq(u64),
    Text(String),
}

/// What is answered.
#[derive(Debug, Default, Serialize)]
struct Reply {
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<String>,
    /// Whether an earlier try of a numbered emit had stored it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    duplicate: bool,
    /// How many events are gone that were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    gone: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

impl Reply {
    fn at(position: Position) -> Reply {
        let offset = Some(Offset::new(position, 0).to_string());
        Reply { ok: true, seq: Some(position.seq.0), offset, ..Reply::default() }
    }

    fn stored(receipt: &Receipt) -> Reply {
        let duplicate = receipt.duplicate;
        match receipt.position {
            Some(position) => Reply { duplicate, ..Reply::at(position) },
            // So long ago that nobody knows where any more.
            None => Reply { ok: true, duplicate, ..Reply::default() },
        }
    }

    fn refused(code: &'static str, message: &impl ToString) -> Reply {
        Reply { code: Some(code), message: Some(message.to_string()), ..Reply::default() }
    }
}

async fn answered<F, R>(incoming: Incoming, what: F)
where
    F: FnOnce(Socket, Args) -> R,
    R: Future<Output = Reply>,
{
    let reply = what(incoming.socket.clone(), incoming.args.clone()).await;
    answer(incoming, reply);
}

fn answer(incoming: Incoming, reply: Reply) {
    if let Some(message) = &reply.message {
        debug!(sid = incoming.socket.id(), event = ?incoming.name, message, "a client was refused");
    }
    // The reply has JSON.
    let _ = incoming.answer(reply);
}

async fn subscribe(socket: Socket, args: Args) -> Reply {
    let topic = match topic(&args) {
        Ok(topic) => topic,
        Err(reply) => return reply,
    };
    let options = if args.len() > 1 { args.parse_at::<Option<Options>>(1) } else { Ok(None) };
    let options = match options {
        Ok(options) => options.unwrap_or_default(),
        Err(error) => return Reply::refused("invalid", &error),
    };
    let server = socket.core().server.clone();
    if !socket.core().gateway.allow(socket.identity(), Action::Subscribe { topic: &topic }) {
        return Reply::refused("forbidden", &"this topic may not be followed");
    }
    let start = match options.start() {
        Ok(start) => start,
        Err(reply) => return reply,
    };
    let (history, gone) = match start {
        Some(start) => match find(&server, &topic, start).await {
            Some((position, gone)) => (Some(position), gone),
            None => return Reply::refused("unavailable", &"the history cannot be read now"),
        },
        None => (None, None),
    };
    let head = server.head();
    match socket.join_topic(topic, history, options.envelope).await {
        Ok(()) => Reply { gone, ..Reply::at(history.unwrap_or(head)) },
        Err(error) => Reply::refused(room_code(error), &error),
    }
}

async fn unsubscribe(socket: Socket, args: Args) -> Reply {
    let topic = match topic(&args) {
        Ok(topic) => topic,
        Err(reply) => return reply,
    };
    match socket.leave_topic(topic).await {
        Ok(()) => Reply { ok: true, ..Reply::default() },
        Err(error) => Reply::refused(room_code(error), &error),
    }
}

impl Options {
    fn start(&self) -> Result<Option<Start>, Reply> {
        match (&self.after, self.last) {
            (None, None) => Ok(None),
            (None, Some(last)) => Ok(Some(Start::Last(last))),
            (Some(After::Seq(seq)), None) => Ok(Some(Start::AfterSeq(redeliver_server::Seq(*seq)))),
            (Some(After::Text(word)), None) if word == "earliest" => Ok(Some(Start::Earliest)),
            (Some(After::Text(offset)), None) => match Offset::parse(offset) {
                Some(offset) => Ok(Some(Start::After(Place::new(offset.position, Nth::ZERO)))),
                None => Err(Reply::refused("invalid", &"`after` is an offset, a seq or \"earliest\"")),
            },
            (Some(_), Some(_)) => Err(Reply::refused("invalid", &"`after` and `last` exclude each other")),
        }
    }
}

/// Where a start lies, and how many events are gone from there on.
async fn find(server: &Server, topic: &TopicName, start: Start) -> Option<(Position, Option<u64>)> {
    let is_earliest = start == Start::Earliest;
    let mut subscription = server.subscribe(topic).start(start).await.ok()?;
    let after = subscription.position();
    if subscription.pending() == 0 {
        return Some((after, None));
    }
    match subscription.next().await? {
        Delivery::Gap(gap) => Some((gap.through, (!is_earliest).then(|| most_missing(&GapRange::from(&gap))))),
        Delivery::Event(_) | Delivery::CaughtUp { .. } | Delivery::Volatile(_) | Delivery::Resumed { .. } | _ => {
            Some((after, None))
        }
    }
}

/// The first argument.
fn topic(args: &Args) -> Result<TopicName, Reply> {
    topic_name(args.parse_at::<String>(0).map_err(|_| Reply::refused("invalid", &NO_TOPIC))?)
}

/// A topic that clients may name.
fn topic_name(name: String) -> Result<TopicName, Reply> {
    // These are rooms of namespaces: they are joined by apps, not by clients.
    if name.starts_with('/') && name.contains('#') {
        return Err(Reply::refused("forbidden", &"rooms cannot be used as topics"));
    }
    TopicName::new(name).map_err(|error| Reply::refused("invalid", &error))
}

fn room_code(error: RoomError) -> &'static str {
    match error {
        RoomError::TooLong => "invalid",
        RoomError::TooMany => "too_many",
        RoomError::Busy | RoomError::NotConnected | RoomError::NotStored => "unavailable",
    }
}

const NO_TOPIC: &str = "the first argument is the topic's name";
