//! The event `emit` of a server without an app's code. Emits that come together are stored together; those that the client
//! numbers are stored once, however often they are repeated. Never lets a client emit what `Access` refuses it.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use redeliver_server::{
    Action, EmitError, LocalPublisher, NewEvent, PublisherError, PublisherId, RefusalCode, TopicName,
};
use serde::Deserialize;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::{Reply, answer, topic_name};
use crate::args::Args;
use crate::broadcast::{begun, event_name};
use crate::error::SendError;
use crate::presence::Present;
use crate::socket::{Incoming, Socket};

/// The emits of one socket that wait for their receipts. They are answered in their order, by a task that begins with
/// the first one.
#[derive(Clone, Default)]
pub(super) struct Emits {
    waiting: Arc<OnceLock<mpsc::Sender<Waiting>>>,
    publishers: Arc<Mutex<Publishers>>,
}

/// An emit that is queued, or was refused.
struct Waiting {
    incoming: Incoming,
    reply: BoxFuture<'static, Reply>,
    /// A gateway that ends waits for it.
    _present: Present,
}

/// The first argument of `emit`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Target {
    Topic(String),
    Numbered(Numbered),
}

/// An emit that is stored once: repeated under its number, it is answered as the first time.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Numbered {
    topic: String,
    /// A UUID.
    publisher: String,
    number: u64,
}

/// What is to be emitted: to which topic, as which publisher and under which number if it has one, and the event.
type EmitRequest = (TopicName, Option<(Uuid, u64)>, NewEvent);

/// The publishers that one socket emits as.
#[derive(Debug, Default)]
struct Publishers(BTreeMap<Uuid, Claimed>);

#[derive(Debug)]
struct Claimed {
    publisher: Arc<LocalPublisher>,
    /// The greatest number that was emitted.
    last: u64,
}

impl Emits {
    /// Queues an emit. The next one need not wait for its receipt: all that come together are stored together.
    pub(super) async fn queue(self, incoming: Incoming) {
        let publishers = Arc::clone(&self.publishers);
        let reply = begun(emit(incoming.socket.clone(), incoming.args.clone(), publishers));
        let _present = incoming.socket.core().presence.enter();
        // The task is there as long as this is.
        let _ = self.sender().send(Waiting { incoming, reply, _present }).await;
    }

    fn sender(&self) -> &mpsc::Sender<Waiting> {
        self.waiting.get_or_init(|| {
            let (sender, mut receiver) = mpsc::channel::<Waiting>(RECEIPTS_MAX);
            tokio::spawn(async move {
                while let Some(Waiting { incoming, reply, _present }) = receiver.recv().await {
                    answer(incoming, reply.await);
                }
            });
            sender
        })
    }
}

async fn emit(socket: Socket, args: Args, publishers: Arc<Mutex<Publishers>>) -> Reply {
    let (topic, numbered, event) = match event(&args) {
        Ok(event) => event,
        Err(reply) => return reply,
    };
    if !socket.core().gateway.allow(socket.identity(), Action::Emit { topic: &topic }) {
        return Reply::refused("forbidden", &"nothing may be emitted to this topic");
    }
    let stored = match numbered {
        None => socket.core().server.emit_event(event).await,
        Some((id, number)) => {
            let publisher = match publishers.lock().claimed(&socket, id, number) {
                Ok(publisher) => publisher,
                Err(reply) => return reply,
            };
            let stored = publisher.emit(number, event).await;
            if let Err(EmitError::Refused { code: RefusalCode::FENCED, .. }) = stored {
                publishers.lock().forget(id, &publisher);
            }
            stored
        }
    };
    match stored {
        Ok(receipt) => Reply::stored(&receipt),
        Err(error) => Reply::refused(emit_code(&error), &error),
    }
}

/// What an emit is, by its arguments.
fn event(args: &Args) -> Result<EmitRequest, Reply> {
    let target = args.parse_at::<Target>(0).map_err(|_| Reply::refused("invalid", &NO_TARGET))?;
    let (name, numbered) = match target {
        Target::Topic(name) => (name, None),
        Target::Numbered(Numbered { topic, publisher, number }) => {
            let publisher = Uuid::parse_str(&publisher);
            let publisher = publisher.map_err(|_| Reply::refused("invalid", &"`publisher` is a UUID"))?;
            if !(1..=NUMBER_MAX).contains(&number) {
                return Err(Reply::refused("invalid", &"numbers begin at 1 and end at 2^53 - 1"));
            }
            (topic, Some((publisher, number)))
        }
    };
    let topic = topic_name(name)?;
    let name = args.parse_at::<String>(1).map_err(|_| SendError::Name("it must be text".to_owned()));
    let name = name.and_then(|name| event_name(&name)).map_err(|error| Reply::refused("invalid", &error))?;
    let rest = args.split_first().and_then(|(_, args)| args.split_first());
    let (_, args) = rest.ok_or_else(|| Reply::refused("invalid", &NO_TARGET))?;
    args.check().map_err(|error| Reply::refused("invalid", &error))?;
    let (kind, payload) = args.to_payload();
    Ok((topic.clone(), numbered, NewEvent::new(topic, name, kind, payload)))
}

impl Publishers {
    /// The publisher of this id, which emits this number next.
    fn claimed(&mut self, socket: &Socket, id: Uuid, number: u64) -> Result<Arc<LocalPublisher>, Reply> {
        // Emits of one connection come in their order: what lies between was given up.
        if let Some(claimed) = self.0.get_mut(&id).filter(|claimed| number <= claimed.last + 1) {
            claimed.last = claimed.last.max(number);
            return Ok(Arc::clone(&claimed.publisher));
        }
        if self.0.len() >= PUBLISHERS_MAX && !self.0.contains_key(&id) {
            return Err(Reply::refused("too_many", &"one connection may emit as 16 publishers"));
        }
        let publisher = PublisherId::from(id);
        let may = socket.core().gateway.allow(socket.identity(), Action::UsePublisher { publisher });
        if !may {
            return Err(Reply::refused("forbidden", &"this publisher may not be used"));
        }
        let claim = socket.core().server.publisher(publisher).after(number - 1).identity(socket.identity().clone());
        let publisher = Arc::new(claim.claim().map_err(|error| Reply::refused(claim_code(error), &error))?);
        self.0.insert(id, Claimed { publisher: Arc::clone(&publisher), last: number });
        Ok(publisher)
    }

    /// A newer claim has fenced this one. The client's next emit claims anew.
    fn forget(&mut self, id: Uuid, fenced: &Arc<LocalPublisher>) {
        if self.0.get(&id).is_some_and(|claimed| Arc::ptr_eq(&claimed.publisher, fenced)) {
            self.0.remove(&id);
        }
    }
}

fn claim_code(error: PublisherError) -> &'static str {
    match error {
        PublisherError::NotYours => "forbidden",
        PublisherError::LogFailed | _ => "unavailable",
    }
}

fn emit_code(error: &EmitError) -> &'static str {
    match error {
        EmitError::InvalidName(_) | EmitError::Invalid(_) | EmitError::Encode(_) => "invalid",
        EmitError::Refused { code, .. } if code.is_final() => "refused",
        EmitError::Refused { .. } => "unavailable",
        EmitError::Unknown | _ => "unknown",
    }
}

/// Emits of one socket that may wait for their receipts. Beyond, the next one waits, and then its client is not read.
const RECEIPTS_MAX: usize = 256;

/// Publishers that one socket may emit as.
const PUBLISHERS_MAX: usize = 16;

/// The greatest number that JavaScript counts to.
const NUMBER_MAX: u64 = (1 << 53) - 1;

const NO_TARGET: &str = "the first argument is the topic's name, or an object {topic, publisher, number}, and the second one the \
                         event's name";
