//! The server session: takes inputs apart and hands them to the part of the conversation that they concern.

use std::sync::Arc;

use bytes::Bytes;

use super::deliveries::Deliveries;
use super::emits::{Emits, Taken};
use super::heartbeat::Heartbeat;
use super::outputs::Outputs;
use super::requests::Requests;
use super::{Admitted, Input, Output, Reply, fault};
use crate::codec::{self, FromClient};
use crate::config::ServerConfig;
use crate::error::{Close, CloseCode, DecodeError};
use crate::event::NewEvent;
use crate::features::Features;
use crate::frame::{ClientFrame, Hello, ServerFrame, SubscribeMerged, Welcome};
use crate::history::{PublisherState, Start};
use crate::limits::Limits;
use crate::name::SubscriberName;
use crate::request::RequestError;
use crate::seq::{EmitNumber, InstanceId, PublisherId};
use crate::time::Instant;

/// The server's end of one connection.
#[derive(Debug)]
pub struct ServerSession {
    config: Arc<ServerConfig>,
    phase: Phase,
    hello_due: Instant,
    heartbeat: Heartbeat,
    out: Outputs,
}

#[derive(Debug)]
enum Phase {
    /// Nothing but Hello is taken.
    AwaitingHello,
    /// Nothing is taken.
    Authenticating(Box<Guest>),
    /// The conversation.
    Admitted { deliveries: Box<Deliveries>, emits: Option<Emits>, features: Features, requests: Requests },
    /// Nothing is taken or given any more.
    Closed,
}

/// What is needed of Hello once its sender is authenticated.
#[derive(Debug)]
struct Guest {
    instance: InstanceId,
    subscriber: Option<SubscriberName>,
    publisher: Option<PublisherId>,
    settled: EmitNumber,
    features: Features,
}

impl ServerSession {
    /// A session for a connection that was accepted `now`.
    #[must_use]
    pub fn new(config: Arc<ServerConfig>, now: Instant) -> ServerSession {
        let heartbeat = Heartbeat::new(config.heartbeat, now);
        let hello_due = now + config.hello_timeout;
        ServerSession { config, phase: Phase::AwaitingHello, hello_due, heartbeat, out: Outputs::default() }
    }

    /// Takes what happened.
    pub fn handle(&mut self, input: Input, now: Instant) {
        if self.out.is_closed() {
            return;
        }
        if !self.wants_message() {
            // Nobody can be heard whom we do not listen to.
            self.heartbeat.heard(now);
        }
        let result = match input {
            Input::Message(bytes) => self.message(&bytes, now),
            Input::NotBinary(what) => Err(fault::not_binary(what)),
            Input::Authenticated(Ok(admitted)) => {
                self.admit(&admitted, now);
                Ok(())
            }
            Input::Tick => self.tick(now),
            Input::Drained => {
                self.out.drained();
                Ok(())
            }
            Input::Stuck => Err(fault::stuck()),
            Input::Authenticated(Err(close)) | Input::Displaced(close) | Input::End(close) => Err(close),
            Input::Reply(reply) => self.reply(reply, now),
        };
        if let Err(close) = result.and_then(|()| self.deliver()) {
            self.phase = Phase::Closed;
            self.out.close(close);
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.out.poll()
    }

    /// When [`Input::Tick`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        match &self.phase {
            Phase::AwaitingHello | Phase::Authenticating(_) => Some(self.hello_due),
            Phase::Admitted { requests, .. } => requests.next_due().into_iter().chain([self.heartbeat.timeout()]).min(),
            Phase::Closed => None,
        }
    }

    /// Whether the session takes a message now. While it does not, the shell leaves the socket alone: the peer is being
    /// authenticated, has as many emits under way as it may, or does not read the answers that it provokes.
    #[must_use]
    pub fn wants_message(&self) -> bool {
        match &self.phase {
            Phase::AwaitingHello => true,
            Phase::Authenticating(_) | Phase::Closed => false,
            Phase::Admitted { emits, .. } => {
                let have_room = emits.as_ref().is_none_or(|emits| emits.have_room(&self.config.limits));
                have_room && !self.out.is_crowded()
            }
        }
    }

    /// Whether the session has closed: it takes and gives nothing more than the outputs that are left.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.out.is_closed()
    }

    fn deliver(&mut self) -> Result<(), Close> {
        if let Phase::Admitted { deliveries, .. } = &mut self.phase {
            deliveries.merge_due(&mut self.out)?;
            deliveries.begin_read(&self.config, &mut self.out);
        }
        Ok(())
    }

    fn message(&mut self, bytes: &Bytes, now: Instant) -> Result<(), Close> {
        self.heartbeat.heard(now);
        match &self.phase {
            Phase::AwaitingHello => self.hello(bytes),
            Phase::Authenticating(_) => Err(fault::internal("a message was taken during authentication")),
            Phase::Admitted { .. } => match codec::decode_from_client(bytes) {
                Ok(FromClient::Frame(frame)) => self.frame(frame),
                Ok(FromClient::Close(close)) => Err(self.goodbye(close.code)),
                Err(error) => Err(fault::undecodable(&error)),
            },
            Phase::Closed => Ok(()),
        }
    }

    /// How a client's goodbye is answered. With emits on their way nobody can say yet that all is stored.
    fn goodbye(&self, code: CloseCode) -> Close {
        let is_idle = match &self.phase {
            Phase::Admitted { emits, .. } => emits.as_ref().is_some_and(Emits::is_idle),
            Phase::AwaitingHello | Phase::Authenticating(_) | Phase::Closed => false,
        };
        if code == CloseCode::RETIRED && is_idle { fault::retired() } else { fault::done() }
    }

    fn hello(&mut self, bytes: &Bytes) -> Result<(), Close> {
        match codec::decode_hello(bytes) {
            Ok(hello) => {
                self.authenticate(hello);
                Ok(())
            }
            Err(error @ DecodeError::BadMagic(_)) => match codec::decode_from_client(bytes) {
                Ok(FromClient::Close(_)) => Err(fault::done()),
                Ok(FromClient::Frame(_)) => Err(fault::unexpected("the first message must be Hello")),
                Err(_) => Err(fault::undecodable(&error)),
            },
            Err(error) => Err(fault::undecodable(&error)),
        }
    }

    fn authenticate(&mut self, hello: Hello) {
        let guest = Guest {
            instance: hello.instance,
            subscriber: hello.subscriber.clone(),
            publisher: hello.publisher,
            settled: hello.settled,
            features: hello.features,
        };
        self.phase = Phase::Authenticating(Box::new(guest));
        self.out.push(Output::Authenticate(hello));
    }

    fn admit(&mut self, admitted: &Admitted, now: Instant) {
        let Phase::Authenticating(guest) = &mut self.phase else { return };
        let features = guest.features;
        let deliveries = Deliveries::new(guest.instance, guest.subscriber.take(), features);
        let publisher = if guest.publisher.is_some() { admitted.publisher } else { PublisherState::New };
        let emits = guest.publisher.map(|_| Emits::new(publisher, guest.settled));
        self.phase =
            Phase::Admitted { deliveries: Box::new(deliveries), emits, features, requests: Requests::default() };
        self.heartbeat = Heartbeat::new(self.config.heartbeat, now);
        self.out.send(ServerFrame::Welcome(Welcome {
            epoch: admitted.epoch,
            head: admitted.head,
            publisher,
            heartbeat: self.config.heartbeat,
            limits: self.config.limits,
            server_name: self.config.server_name.clone(),
        }));
    }

    fn frame(&mut self, frame: ClientFrame) -> Result<(), Close> {
        let Phase::Admitted { deliveries, emits, features, requests } = &mut self.phase else { return Ok(()) };
        let out = &mut self.out;
        let features = *features;
        match frame {
            ClientFrame::Subscribe(request) => {
                start_agreed(features, &request.start)?;
                deliveries.subscribe(request, &self.config.limits, out)
            }
            ClientFrame::Ack { id, seq, nth } => deliveries.ack(id, seq, nth, out),
            ClientFrame::Unsubscribe { id } => deliveries.unsubscribe(id, out),
            ClientFrame::Emit { first, events } => take_emits(emits.as_mut(), first, events, &self.config.limits, out),
            ClientFrame::EmitExcept { first, events } => {
                agreed(features, Features::EXCEPT, "EmitExcept")?;
                take_emits(emits.as_mut(), first, events, &self.config.limits, out)
            }
            ClientFrame::SubscribeMerged(SubscribeMerged { group, request }) => {
                agreed(features, Features::MERGED, "SubscribeMerged")?;
                start_agreed(features, &request.start)?;
                deliveries.subscribe_merged(group, request, &self.config.limits, out)
            }
            ClientFrame::Taking { id, nth } => {
                agreed(features, Features::TAKING, "Taking")?;
                deliveries.taking(id, nth, out)
            }
            ClientFrame::Resuming { id, nth } => {
                agreed(features, Features::RESUMING, "Resuming")?;
                deliveries.resuming(id, nth);
                Ok(())
            }
            ClientFrame::BeginMerged { group } => {
                agreed(features, Features::MERGED, "BeginMerged")?;
                deliveries.begin_merged(group)
            }
            ClientFrame::Volatile { event } => {
                agreed(features, Features::VOLATILE, "Volatile")?;
                // One that no server takes is lost, as any may be.
                if event.check(&self.config.limits).is_ok() {
                    out.push(Output::EmitVolatile(event));
                }
                Ok(())
            }
            ClientFrame::Request(request) => {
                agreed(features, Features::REQUESTS, "Request")?;
                let bytes_max = usize::try_from(self.config.limits.event_bytes_max).unwrap_or(usize::MAX);
                requests.asked(request, bytes_max, out)
            }
            ClientFrame::Reply(reply) => {
                agreed(features, Features::REQUESTS, "Reply")?;
                requests.replied(reply, out)
            }
            ClientFrame::Ping { token } => {
                out.pong(token);
                Ok(())
            }
            // It was heard, which is all that it is for.
            ClientFrame::Pong { .. } => Ok(()),
        }
    }

    fn reply(&mut self, reply: Reply, now: Instant) -> Result<(), Close> {
        let Phase::Admitted { deliveries, emits, features, requests } = &mut self.phase else {
            if let Reply::Request { ticket, .. } = reply {
                self.out.push(Output::RequestDone { ticket, result: Err(RequestError::NotSent) });
            }
            return Ok(());
        };
        let out = &mut self.out;
        match reply {
            Reply::Claimed { id } => deliveries.claimed(id, out),
            Reply::TakenOver { id } => deliveries.taken_over(id, out),
            Reply::Opened { id, result } => deliveries.opened(id, result, out),
            Reply::Revoked { id, reason } => deliveries.revoked(id, reason, out),
            Reply::Grew { id } => deliveries.grew(id),
            Reply::Volatile { ids, event } => deliveries.volatile(&ids, &event, &self.config, out),
            Reply::Read { id, outcome } => return deliveries.read(id, outcome, out),
            Reply::Grown { through, grown } => return deliveries.grown(through, grown),
            Reply::CursorSaved { id, seq } => deliveries.cursor_saved(id, seq, out),
            Reply::Taken { id, nth } => deliveries.taken(id, nth, out),
            Reply::NotOwner { id } => deliveries.not_owner(id, out),
            Reply::Request { ticket, request } => requests.ask(ticket, request, *features, now, out),
            Reply::CancelRequest { ticket } => requests.cancel(ticket),
            Reply::Respond { id, result } => requests.answered(id, result, out),
            Reply::Appended(runs) => {
                for run in runs.iter().filter(|run| run.count > 0) {
                    if let Some(emits) = emits {
                        emits.answered(run)?;
                    }
                    out.emitted(*run);
                }
            }
        }
        Ok(())
    }

    fn tick(&mut self, now: Instant) -> Result<(), Close> {
        match &mut self.phase {
            Phase::AwaitingHello | Phase::Authenticating(_) if now >= self.hello_due => Err(fault::hello_timeout()),
            Phase::AwaitingHello | Phase::Authenticating(_) | Phase::Closed => Ok(()),
            Phase::Admitted { deliveries, requests, .. } => {
                requests.expire(now, &mut self.out);
                let due = self.heartbeat.due(now);
                if due.gone {
                    return Err(fault::heartbeat_timeout());
                }
                if let Some(token) = due.ping {
                    self.out.send(ServerFrame::Ping { token });
                }
                if due.look {
                    deliveries.look_at_all();
                }
                Ok(())
            }
        }
    }
}

fn take_emits(
    emits: Option<&mut Emits>,
    first: EmitNumber,
    events: Vec<NewEvent>,
    limits: &Limits,
    out: &mut Outputs,
) -> Result<(), Close> {
    let Some(emits) = emits else {
        return Err(fault::unexpected("an emit came, but Hello named no publisher"));
    };
    match emits.take(first, events, limits)? {
        Taken::Append(events) => out.push(Output::Append { first, events }),
        Taken::OutOfOrder { expected } => out.out_of_order(expected),
    }
    Ok(())
}

fn start_agreed(features: Features, start: &Start) -> Result<(), Close> {
    if start.as_first().is_some() { agreed(features, Features::FIRST_START, "a first start") } else { Ok(()) }
}

/// What a frame needs must have been named in Hello.
fn agreed(features: Features, needed: Features, frame: &str) -> Result<(), Close> {
    if features.has(needed) {
        return Ok(());
    }
    Err(fault::unexpected(format!("{frame} came, but Hello did not name the feature that it belongs to")))
}
