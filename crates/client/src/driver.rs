//! The driver: the one task that owns the session. It carries what happens to the session and does what the session
//! says. It decides nothing of the protocol.

mod emits;
mod ending;
mod held;
mod requests;
mod saver;
mod subscriptions;
mod troubles;
mod unacked;

use std::sync::Arc;

use redeliver_protocol::client::{ClientSession, ConnectionState, Input, Output};
use redeliver_protocol::codec;
use redeliver_protocol::frame::ClientFrame;
use redeliver_protocol::time;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::Instant;

use self::emits::Emits;
use self::ending::Shutdown;
use self::held::HeldEmits;
use self::requests::Requests;
use self::saver::Saver;
use self::subscriptions::Subscriptions;
use self::troubles::Troubles;
use crate::acks::AckBoard;
use crate::command::Command;
use crate::connector::Connector;
use crate::cursor_store::CursorStore;
use crate::notice::Notice;
use crate::outbox_room::OutboxRoom;
use crate::request::Handler;
use crate::transport::{Happened, Transport};

/// What connects a driver to the handles of its client.
pub(crate) struct Wiring {
    pub(crate) commands: mpsc::UnboundedReceiver<Command>,
    pub(crate) acks: Arc<AckBoard>,
    pub(crate) room: OutboxRoom,
    pub(crate) state: watch::Sender<ConnectionState>,
    pub(crate) notices: broadcast::Sender<Notice>,
    pub(crate) store: Option<Arc<dyn CursorStore>>,
    pub(crate) handler: Option<Handler>,
    /// Whether emits that the server has forgotten count as stored: the app replays its input from the beginning.
    pub(crate) replays: bool,
}

/// Runs one client.
pub(crate) struct Driver<C: Connector> {
    session: ClientSession,
    /// The session's time counts from here.
    origin: Instant,
    transport: Transport<C>,
    commands: mpsc::UnboundedReceiver<Command>,
    acks: Arc<AckBoard>,
    room: OutboxRoom,
    state: watch::Sender<ConnectionState>,
    notices: broadcast::Sender<Notice>,
    emits: Emits,
    subscriptions: Subscriptions,
    saver: Saver,
    requests: Requests,
    troubles: Troubles,
    held: HeldEmits,
    shutdown: Option<Shutdown>,
}

impl<C: Connector> Driver<C> {
    pub(crate) fn new(session: ClientSession, origin: Instant, transport: Transport<C>, wiring: Wiring) -> Driver<C> {
        let Wiring { commands, acks, room, state, notices, store, handler, replays } = wiring;
        Driver {
            session,
            origin,
            transport,
            commands,
            acks,
            room,
            state,
            emits: Emits::new(replays),
            subscriptions: Subscriptions::default(),
            saver: Saver::new(store, notices.clone()),
            requests: Requests::new(handler),
            troubles: Troubles::default(),
            held: HeldEmits::default(),
            notices,
            shutdown: None,
        }
    }

    /// Runs the client until it has ended.
    pub(crate) async fn run(mut self) {
        while !self.drain_outputs() {
            let timeout = self.session.poll_timeout().map(|due| self.origin + due.since_origin());
            let deadline = self.shutdown.as_ref().filter(|s| s.failure.is_none()).map(|s| s.deadline);
            let handles_are_gone = self.shutdown.is_some() && self.commands.is_closed() && self.commands.is_empty();
            tokio::select! {
                command = self.commands.recv(), if !handles_are_gone => self.take_commands(command),
                () = self.acks.changed() => self.pass_acks(),
                happened = self.transport.next() => self.take_happened(happened),
                saved = self.saver.saved() => {
                    for (id, seq) in saved {
                        self.handle(Input::CursorSaved { id, seq });
                    }
                }
                answered = self.requests.next() => self.handle(answered),
                () = sleep_until(timeout) => self.handle(Input::Tick),
                () = sleep_until(deadline) => self.give_up(),
                () = sleep_until(self.held.due()) => {
                    let notice = self.held.told_if_due(Instant::now());
                    self.tell_held(notice);
                }
                () = sleep_until(self.subscriptions.next_stall()) => self.subscriptions.tell_stalls(Instant::now()),
            }
        }
        self.finish().await;
    }

    fn handle(&mut self, input: Input) {
        let now = time::Instant::from_origin(self.origin.elapsed());
        self.session.handle(input, now);
    }

    /// Does what the session wants. True once it has ended.
    fn drain_outputs(&mut self) -> bool {
        while let Some(output) = self.session.poll_output() {
            match output {
                Output::Connect => self.transport.connect(),
                Output::SendHello(hello) => self.transport.send(codec::encode_hello(&hello)),
                // Whoever is not there now does not get it, and neither does a server that takes nothing now.
                Output::Send(ClientFrame::Volatile { .. }) if self.transport.is_behind() => {}
                Output::Send(frame) => self.transport.send(codec::encode_client(&frame)),
                Output::Requested { key, request } => {
                    if let Some(answer) = self.requests.asked(key, request) {
                        self.handle(answer);
                    }
                }
                Output::RequestDone { ticket, result } => self.requests.done(ticket, result),
                Output::Disconnect(close) => self.transport.close(&close),
                Output::Deliver { id, delivery } => self.subscriptions.deliver(id, delivery),
                Output::AskAt { id, left } => self.subscriptions.ask_at(id, left),
                Output::SaveCursor { id, cursor } => self.saver.save(id, self.subscriptions.key(id), cursor),
                Output::AckConfirmed { id, seq } => self.subscriptions.confirm(id, seq),
                Output::Unsubscribed { id, why } => self.subscriptions.end(id, &why),
                Output::EmitDone { ticket, fate } => self.emits.done(ticket, fate),
                Output::EmitsHeld { why } => {
                    let notice = self.held.changed(why, Instant::now());
                    self.tell_held(notice);
                }
                Output::EmitsLost { from, through } => {
                    tracing::error!(%from, %through, "emits that were acknowledged are no longer in the server's log");
                    // Nobody may be listening.
                    let _ = self.notices.send(Notice::EmitsLost { from, through });
                }
                Output::State(state) => {
                    self.troubles.note(&state);
                    self.state.send_replace(state);
                }
                Output::Ended => return true,
            }
        }
        false
    }

    fn tell_held(&mut self, notice: Option<Notice>) {
        match &notice {
            Some(Notice::EmitsWaiting { code }) => tracing::warn!(%code, "emits wait: the server takes none now"),
            Some(_) => tracing::info!("emits go on"),
            None => {}
        }
        // Nobody may be listening.
        let _ = notice.map(|notice| self.notices.send(notice));
    }

    fn take_happened(&mut self, happened: Happened) {
        let input = match happened {
            Happened::Connected(credentials) => {
                if let Some(credentials) = credentials {
                    self.handle(Input::Credentials(credentials));
                }
                Input::Connected
            }
            Happened::Message(message) => Input::Message(message),
            Happened::Lost(cause) => Input::Disconnected(cause),
            Happened::Rejected(close) => Input::Rejected(close),
        };
        self.handle(input);
    }

    /// Takes the command and what waits behind it, so that many emits share one flush.
    fn take_commands(&mut self, first: Option<Command>) {
        let Some(first) = first else {
            return self.linger();
        };
        self.take_command(first);
        for _ in 1..COMMANDS_AT_ONCE {
            let Ok(next) = self.commands.try_recv() else { break };
            self.take_command(next);
        }
    }

    fn take_command(&mut self, command: Command) {
        match command {
            Command::Emit { ticket, event, answer, room } => {
                self.emits.add(ticket, answer, room);
                self.handle(Input::Emit { ticket, event });
            }
            Command::CancelEmit { ticket } => {
                if self.emits.contains(ticket) {
                    self.handle(Input::CancelEmit { ticket });
                }
            }
            Command::EmitVolatile { event, room } => {
                self.handle(Input::EmitVolatile { event });
                drop(room);
            }
            Command::Request { ticket, request, answer } => {
                self.requests.add(ticket, answer);
                self.handle(Input::Request { ticket, request });
            }
            Command::CancelRequest { ticket } => {
                self.requests.cancel(ticket);
                self.handle(Input::CancelRequest { ticket });
            }
            Command::Subscribe { id, request, outlet } => {
                self.subscriptions.add(id, outlet);
                self.handle(Input::Subscribe { id, request });
            }
            Command::SubscribeMerged { id, members, outlet } => {
                self.subscriptions.add_merged(id, members.iter().map(|(member, _)| *member), outlet);
                self.handle(Input::SubscribeMerged { id, members });
            }
            Command::Unsubscribe { id } => {
                // What was acknowledged before counts.
                self.pass_acks();
                if self.subscriptions.contains(id) {
                    self.handle(Input::Unsubscribe { id });
                }
            }
            Command::Flush { id, answer } => {
                self.pass_acks();
                self.subscriptions.flush(id, answer);
            }
            Command::RetirePublisher => self.session.retire_publisher(),
            Command::Shutdown { deadline, answer } => self.begin_shutdown(deadline, Some(answer)),
        }
    }

    fn pass_acks(&mut self) {
        self.pass_ack_points();
        // Behind the acks: what the app has handled is no longer in its hands when it wants more.
        for (id, taken) in self.acks.take_wanting() {
            self.handle(Input::Wanted { id, taken });
        }
    }

    fn pass_ack_points(&mut self) {
        for (id, ack) in self.acks.take() {
            if self.subscriptions.pass(id, &ack) {
                self.handle(Input::Ack { id: ack.topic, position: ack.position, nth: ack.nth });
            }
        }
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// How many commands are taken before the transport is looked at again.
const COMMANDS_AT_ONCE: usize = 256;
