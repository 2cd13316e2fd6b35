//! One connected socket at its connection: waits for what its client, its app and the log bring, and runs the app's
//! handlers in order. Decides nothing about who may what.

use redeliver_server::{
    Action, CloseCode, FeedError, FeedItem, Registration, RegistrationEvent, SubscriberName, TopicName,
};
use tokio::sync::mpsc;
use tracing::debug;

use crate::acks::AckReply;
use crate::args::Args;
use crate::connection::delivery::{DeliveryWake, EventDelivery};
use crate::connection::jobs::{Job, Jobs};
use crate::connection::saver::{self, Saver, SaverWake};
use crate::engine::EngineConnection;
use crate::error::ChangeError;
use crate::members::Claim;
use crate::offset::Offset;
use crate::packet::{self, AckId};
use crate::socket::{Command, DisconnectReason, Done, Incoming, Socket};

/// A connected socket.
pub(super) struct Live {
    pub(super) socket: Socket,
    commands: mpsc::UnboundedReceiver<Command>,
    delivery: EventDelivery,
    jobs: Jobs,
    saver: Option<Saver>,
    /// Whether it stands beside another client of its subscriber.
    is_beside: bool,
    /// Its place among the server's connections, which is kept until its last write.
    registration: Registration,
}

/// What a live socket waits for.
pub(super) enum Wake {
    Command(Option<Command>),
    Row(Result<Vec<FeedItem>, FeedError>),
    JobDone,
    Saver(SaverWake),
    AckDue,
    /// The server sends it away, or has its rights asked again.
    Told(RegistrationEvent),
}

/// How a socket ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaving {
    /// The socket goes on.
    No,
    /// Only the socket ends.
    Socket(DisconnectReason),
    /// The socket ends and its connection with it.
    Connection(DisconnectReason),
}

impl Live {
    /// A socket whose session, as it is, has just been stored; with a claim, it goes on being stored.
    pub(super) fn new(
        socket: Socket,
        commands: mpsc::UnboundedReceiver<Command>,
        delivery: EventDelivery,
        claim: Option<Claim>,
        is_beside: bool,
        registration: Registration,
    ) -> Live {
        let saved = socket.session().lock().saved();
        let saver = claim.map(|claim| Saver::new(claim, saved));
        let mut jobs = Jobs::default();
        let handlers = socket.core().connection_handlers.read().clone();
        if !handlers.is_empty() {
            jobs.push(Job::Connection(socket.clone(), handlers));
        }
        Live { socket, commands, delivery, jobs, saver, is_beside, registration }
    }

    fn connect_answer(&self) -> String {
        let session = self.socket.session().lock();
        // Both are hex.
        match &self.saver {
            Some(_) => format!(r#"{{"sid":"{}","pid":"{}"}}"#, session.sid, session.pid),
            None => format!(r#"{{"sid":"{}"}}"#, session.sid),
        }
    }

    /// Tells the client that it is connected.
    pub(super) fn greet(&self, engine: &mut EngineConnection) {
        engine.send_text(packet::encode_connect(&self.socket.core().name, &self.connect_answer()));
        if self.is_beside {
            let pid = self.socket.session().lock().pid.clone();
            self.delivery.tell_device(&pid, engine);
        }
    }

    /// Waits for what comes next. Cancel safe.
    pub(super) async fn next(&mut self, is_drained: bool) -> Wake {
        if is_drained {
            // Not before, so that the answers of a client that does not read are bounded.
            self.jobs.start();
            if let Some(backlog) = self.delivery.take_backlog() {
                return Wake::Row(Ok(backlog));
            }
        }
        tokio::select! {
            biased;
            command = self.commands.recv() => Wake::Command(command),
            wake = Saver::next(&mut self.saver) => Wake::Saver(wake),
            () = self.jobs.done() => Wake::JobDone,
            told = self.registration.next() => Wake::Told(told),
            wake = self.delivery.next(), if is_drained => match wake {
                DeliveryWake::Row(row) => Wake::Row(row),
                DeliveryWake::AckDue => Wake::AckDue,
            },
        }
    }

    /// Does what there is to do.
    pub(super) fn handle(&mut self, wake: Wake, engine: &mut EngineConnection) -> Leaving {
        match wake {
            Wake::Command(Some(command)) => return self.command(command, engine),
            // The socket itself holds a sender.
            Wake::Command(None) | Wake::JobDone | Wake::Saver(SaverWake::Due) => {}
            Wake::Row(Ok(row)) => {
                let has_given = self.delivery.give(row, engine);
                if let Some(saver) = self.saver.as_mut().filter(|_| has_given) {
                    saver.given();
                }
            }
            Wake::Row(Err(FeedError::Ended(_)) | Err(_)) => {
                return Leaving::Connection(DisconnectReason::ServerShuttingDown);
            }
            Wake::Saver(SaverWake::Written(stored)) => {
                if let Some(saver) = &mut self.saver {
                    saver.finish(stored);
                }
            }
            Wake::AckDue => {
                let handled = self.delivery.resend(engine);
                self.confirm(handled);
            }
            Wake::Told(RegistrationEvent::Ended(close)) => {
                return Leaving::Connection(self.sent_away(close.code, engine));
            }
            Wake::Told(RegistrationEvent::Reviewed) => {
                if !self.review(engine) {
                    return Leaving::Connection(self.sent_away(CloseCode::DISCONNECTED, engine));
                }
            }
            // What a later server has to say is no concern of this.
            Wake::Told(_) => {}
        }
        self.save_if_due();
        Leaving::No
    }

    fn sent_away(&self, code: CloseCode, engine: &mut EngineConnection) -> DisconnectReason {
        if !self.socket.core().server.is_ready() {
            return DisconnectReason::ServerShuttingDown;
        }
        if code == CloseCode::EXPIRED {
            // Only its connection is cut: a stock client comes back by itself then, and asks its `auth` function for
            // credentials anew. It goes on as the same socket.
            return DisconnectReason::TransportClose;
        }
        // Told so, a stock client stays away.
        engine.send_text(packet::encode_disconnect(&self.socket.core().name));
        DisconnectReason::ForcedServerClose
    }

    /// Asks again for all that the client may do, and takes it out of the topics that it may follow no longer. Returns
    /// false if it is to be sent away.
    fn review(&mut self, engine: &mut EngineConnection) -> bool {
        let core = self.socket.core();
        let subscriber = self.socket.handshake().auth.get("subscriber").and_then(serde_json::Value::as_str);
        if let Some(subscriber) = subscriber.and_then(|name| SubscriberName::new(name).ok())
            && !core.gateway.allow(self.socket.identity(), Action::UseSubscriber { subscriber: &subscriber })
        {
            return false;
        }
        let forbidden: Vec<TopicName> = {
            let session = self.socket.session().lock();
            let forbidden = |topic: &&TopicName| !core.may_follow(self.socket.identity(), topic);
            session.rooms.current().filter(forbidden).cloned().collect()
        };
        forbidden.iter().for_each(|topic| self.delivery.revoke(topic, engine));
        if let Some(saver) = self.saver.as_mut().filter(|_| !forbidden.is_empty()) {
            saver.has_changed();
        }
        true
    }

    /// The client has emitted an event.
    pub(super) fn event(&mut self, id: Option<AckId>, name: String, args: Args) {
        let ack = id.map(|id| self.socket.ack(id));
        self.jobs.push(Job::Event(Incoming { socket: self.socket.clone(), name, args, ack }));
    }

    /// Whether its client is not to be read now, because too many of its events wait for the app.
    pub(super) fn is_full(&self) -> bool {
        let events_max = self.socket.core().config.waiting_events_max;
        let (events, bytes) = (self.jobs.waiting(), self.jobs.waiting_bytes());
        // A handler may be waiting for an answer of the client, which lies behind these events: to find it, the client is
        // read on, within bounds.
        let reads_on =
            self.delivery.is_asking() && events < events_max.saturating_mul(READ_AHEAD) && bytes < READ_AHEAD_BYTES_MAX;
        events >= events_max && !reads_on
    }

    /// The client has answered.
    pub(super) fn answered(&mut self, id: AckId, args: Args) {
        if let Some(seq) = self.delivery.answered(id) {
            let answer = AckReply { sid: self.socket.id().to_owned(), args };
            self.socket.core().collectors.answer(seq, answer);
        }
        let handled = self.delivery.acked(id);
        self.confirm(handled);
    }

    /// A ping went out behind everything that was given.
    pub(super) fn pinged(&mut self, ping: u64) {
        self.delivery.pinged(ping);
    }

    /// A ping was answered: what was given before it has arrived.
    pub(super) fn ponged(&mut self, ping: u64) {
        let arrived = self.delivery.ponged(ping);
        self.confirm(arrived);
        self.save_if_due();
    }

    /// The socket is disconnected: what is left to do goes on without the connection.
    pub(super) fn end(mut self, reason: DisconnectReason) {
        self.socket.set_gone();
        self.commands.close();
        let last = self.saver.take().map(|saver| saver.last(&self.socket, reason.is_recoverable()));
        self.jobs.push(Job::Disconnect(self.socket.clone(), reason));
        debug!(sid = self.socket.id(), %reason, "a socket is disconnected");
        let presence = self.socket.core().presence.enter();
        let Live { jobs, delivery, registration, .. } = self;
        drop(delivery);
        tokio::spawn(async move {
            if let Some(last) = last {
                last.await;
            }
            jobs.finish().await;
            drop((presence, registration));
        });
    }

    fn command(&mut self, command: Command, engine: &mut EngineConnection) -> Leaving {
        match command {
            Command::Join { topic, envelope, history, done } => {
                let joined = self.delivery.join(&topic, envelope, history);
                self.changed(joined, done);
            }
            Command::Leave { topic, done } => {
                let was_in = self.delivery.leave(&topic);
                self.changed(Ok(was_in), done);
            }
            Command::Save { done } => self.changed(Ok(true), done),
            Command::Answer { id, args } => engine.send_shared(self.socket.core().frames.ack(id, &args)),
            Command::Fence => {
                // A client that is told that it was disconnected does not come back by itself: two that show the same
                // would else throw each other out for ever. One that has come back does not listen here any more.
                self.delivery.tell_replaced(engine);
                engine.send_text(packet::encode_disconnect(&self.socket.core().name));
                return Leaving::Socket(DisconnectReason::ForcedServerClose);
            }
            Command::Disconnect => {
                engine.send_text(packet::encode_disconnect(&self.socket.core().name));
                return Leaving::Socket(DisconnectReason::ServerNamespaceDisconnect);
            }
            Command::CloseConnection => {
                engine.send_text(packet::encode_disconnect(&self.socket.core().name));
                return Leaving::Connection(DisconnectReason::ServerNamespaceDisconnect);
            }
        }
        self.registration.follows(self.socket.session().lock().rooms.current().count() as u64);
        self.save_if_due();
        Leaving::No
    }

    /// The session has changed, or was to: answers when it is stored.
    fn changed(&mut self, changed: Result<bool, ChangeError>, done: Done) {
        match (changed, &mut self.saver) {
            (Ok(is_changed), Some(saver)) => saver.changed(is_changed, done),
            (Ok(_), None) => saver::answer(vec![done], Ok(())),
            (Err(error), _) => saver::answer(vec![done], Err(error)),
        }
    }

    /// The client has come so far.
    fn confirm(&mut self, offset: Option<Offset>) {
        let (Some(saver), Some(offset)) = (&mut self.saver, offset) else { return };
        let has_moved = self.socket.session().lock().confirm(offset);
        if has_moved {
            saver.moved(&self.socket);
        }
    }

    fn save_if_due(&mut self) {
        if let Some(saver) = &mut self.saver {
            saver.write_if_due(&self.socket);
        }
    }
}

/// How many times the events that may wait for the app's handlers are read while an answer of the client is waited for.
const READ_AHEAD: usize = 16;

/// Bytes of the events that wait, from which on nothing is read ahead.
const READ_AHEAD_BYTES_MAX: usize = 1024 * 1024;
