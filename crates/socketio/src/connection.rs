//! The task of one Engine.IO connection: takes its packets apart by namespace and lets its sockets live. What is
//! allowed where is decided in [`connecting`]; what a socket does in [`live`].

mod connecting;
mod delivery;
mod jobs;
mod live;
mod saver;

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, select_all};
use redeliver_websocket::Utf8Bytes;
use serde_json::json;
use tokio::time::Instant;
use tracing::debug;

use crate::args::Args;
use crate::connection::connecting::Refusal;
use crate::connection::live::{Leaving, Live, Wake};
use crate::core::Core;
use crate::engine::{EngineCloseReason, EngineConnection, EngineEvent, Interest};
use crate::error::ConnectError;
use crate::packet::encode_connect_error;
use crate::packet::{Decoder, NamespaceName, Packet, PacketArgs, PacketError, PacketLimits, Received};
use crate::socket::{DisconnectReason, Handshake};

/// Serves one connection to its end.
pub(crate) async fn serve(core: Arc<Core>, engine: EngineConnection) {
    let request = engine.request();
    let handshake = Handshake {
        peer: request.peer,
        uri: request.uri.clone(),
        headers: request.headers.clone(),
        auth: serde_json::Value::Null,
    };
    let present = core.presence.enter();
    let deadline = Some(Instant::now() + core.config.connect_timeout);
    let limits = PacketLimits { attachment_bytes_max: core.config.payload_bytes_max, ..PacketLimits::default() };
    let mut watched = core.shutdown.subscribe();
    // The sender is the gateway's: if it is gone, so is the gateway. Unconstrained, so that asked once it is surely
    // watched.
    let shutdown = async move { drop(watched.wait_for(|shutdown| *shutdown).await) };
    let shutdown = tokio::task::unconstrained(shutdown).boxed();
    let is_script = is_script(&handshake);
    let sockets = BTreeMap::new();
    let decoder = Decoder::new(limits);
    let connection = Connection {
        core,
        engine,
        decoder,
        handshake,
        is_script,
        sockets,
        deadline,
        refused: 0,
        steps: 0,
        shutdown,
        watches_shutdown: false,
    };
    connection.run().await;
    drop(present);
}

struct Connection {
    core: Arc<Core>,
    engine: EngineConnection,
    decoder: Decoder,
    handshake: Handshake,
    /// Whether the client looks like JavaScript, and takes offsets.
    is_script: bool,
    sockets: BTreeMap<NamespaceName, SocketPhase>,
    /// Until when a namespace must be joined, if none was yet.
    deadline: Option<Instant>,
    /// How many CONNECTs were refused.
    refused: u32,
    steps: u32,
    shutdown: BoxFuture<'static, ()>,
    /// Whether this task is woken by it.
    watches_shutdown: bool,
}

/// A namespace that the connection has asked for.
enum SocketPhase {
    Connecting(BoxFuture<'static, Result<Box<Live>, Refusal>>),
    Live(Box<Live>),
}

/// What one of the sockets waits for.
enum SocketWake {
    Connected(Result<Box<Live>, Refusal>),
    Live(Wake),
}

enum Step {
    Engine(EngineEvent),
    Socket(NamespaceName, SocketWake),
    Late,
    Shutdown,
}

impl Connection {
    async fn run(mut self) {
        let reason = loop {
            let step = self.step().await;
            if let Some(reason) = self.handle(step) {
                break reason;
            }
        };
        for (_, phase) in std::mem::take(&mut self.sockets) {
            match phase {
                SocketPhase::Live(live) => live.end(reason),
                // Dropped before it was told that it is connected: it was never here.
                SocketPhase::Connecting(connecting) => drop(connecting),
            }
        }
    }

    async fn step(&mut self) -> Step {
        // A little may wait: it leaves with the next write, and one that was given a row need not be asked twice.
        let is_drained = self.engine.waiting_bytes() <= WAITING_BYTES_LOW;
        // A client is read while its events find room at the app's handlers, and while it takes what it is answered. Writing
        // goes on.
        let reads = !self.is_full() && self.engine.waiting_bytes() < WAITING_BYTES_HIGH;
        let deadline = self.deadline;
        let late = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        self.steps = self.steps.wrapping_add(1);
        let is_engines_turn = self.steps.is_multiple_of(ENGINE_TURN);
        let mut late = pin!(late);
        let mut sockets = pin!(next_of(&mut self.sockets, is_drained));
        // Where there is room anyway, nobody waits for more.
        let mut event = pin!(self.engine.next_of(Interest { reads, drained: !is_drained }));
        let Connection { core, shutdown, watches_shutdown, .. } = self;
        poll_fn(|cx| {
            // Sockets first: what they are given leaves with the same look at the engine. Now and then it is first, so
            // that no app keeps it from being heard.
            if is_engines_turn && let Poll::Ready(event) = event.as_mut().poll(cx) {
                return Poll::Ready(Step::Engine(event));
            }
            if let Poll::Ready((namespace, wake)) = sockets.as_mut().poll(cx) {
                return Poll::Ready(Step::Socket(namespace, wake));
            }
            if let Poll::Ready(event) = event.as_mut().poll(cx) {
                return Poll::Ready(Step::Engine(event));
            }
            if late.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Step::Late);
            }
            // Asked once, it wakes this task: there is no other that runs this connection. All connections share it, so
            // asking each time is what many would wait for.
            let is_ending = *watches_shutdown && core.is_ending.load(Ordering::Acquire);
            if is_ending || (!*watches_shutdown && shutdown.as_mut().poll(cx).is_ready()) {
                return Poll::Ready(Step::Shutdown);
            }
            *watches_shutdown = true;
            Poll::Pending
        })
        .await
    }

    /// Returns why the connection ends, if it does.
    fn handle(&mut self, step: Step) -> Option<DisconnectReason> {
        match step {
            Step::Engine(EngineEvent::Text(text)) => {
                let decoded = self.decoder.text(text);
                self.decoded(decoded)
            }
            Step::Engine(EngineEvent::Binary(_)) if !self.engine.is_known() => {
                debug!("a client sends attachments before it is in a namespace");
                Some(self.close(DisconnectReason::ParseError))
            }
            Step::Engine(EngineEvent::Binary(bytes)) => {
                let decoded = self.decoder.binary(bytes);
                self.decoded(decoded)
            }
            Step::Engine(EngineEvent::Pinged(ping)) => {
                self.live().for_each(|live| live.pinged(ping));
                None
            }
            Step::Engine(EngineEvent::Pong(ping)) => {
                self.live().for_each(|live| live.ponged(ping));
                None
            }
            Step::Engine(EngineEvent::Drained) => None,
            Step::Engine(EngineEvent::Closed(reason)) => Some(match reason {
                EngineCloseReason::TransportClose => DisconnectReason::TransportClose,
                EngineCloseReason::TransportError => DisconnectReason::TransportError,
                EngineCloseReason::PingTimeout => DisconnectReason::PingTimeout,
                EngineCloseReason::ParseError => DisconnectReason::ParseError,
                EngineCloseReason::Forced => DisconnectReason::ForcedServerClose,
            }),
            Step::Socket(namespace, SocketWake::Connected(result)) => self.connected(namespace, result),
            Step::Socket(namespace, SocketWake::Live(wake)) => self.woken(&namespace, wake),
            Step::Late => {
                self.deadline = None;
                debug!("a connection has joined no namespace in time");
                Some(self.close(DisconnectReason::ForcedServerClose))
            }
            Step::Shutdown => Some(self.close(DisconnectReason::ServerShuttingDown)),
        }
    }

    fn decoded(&mut self, decoded: Result<Option<Received>, PacketError>) -> Option<DisconnectReason> {
        match decoded {
            Ok(Some(received)) => self.packet(received),
            Ok(None) => None,
            Err(error) => {
                let remedy =
                    "it must speak Socket.IO v5 with the default parser, within the limits of docs/socketio.md";
                self.core.refusals.refused("a client sent what is no packet", self.handshake.peer, &error, remedy);
                Some(self.close(DisconnectReason::ParseError))
            }
        }
    }

    fn packet(&mut self, Received { namespace, packet }: Received) -> Option<DisconnectReason> {
        match (packet, self.sockets.get_mut(&namespace)) {
            (Packet::Connect { auth }, None) => return self.connect(namespace, auth),
            (Packet::Event { id, name, args }, Some(SocketPhase::Live(live))) => {
                live.event(id, name, args_of(&args));
                return None;
            }
            (Packet::Ack { id, args }, Some(SocketPhase::Live(live))) => {
                live.answered(id, args_of(&args));
                return None;
            }
            (Packet::Disconnect, Some(_)) => {
                if let Some(SocketPhase::Live(live)) = self.sockets.remove(&namespace) {
                    live.end(DisconnectReason::ClientNamespaceDisconnect);
                }
                return None;
            }
            (Packet::Connect { .. }, Some(_)) => debug!("a client asks twice for a namespace"),
            (Packet::Event { .. } | Packet::Ack { .. } | Packet::Disconnect, _) => {
                debug!("a client speaks to a namespace that it is not in");
            }
        }
        Some(self.close(DisconnectReason::ForcedServerClose))
    }

    fn connect(&mut self, namespace: NamespaceName, auth: Option<Utf8Bytes>) -> Option<DisconnectReason> {
        if self.sockets.len() >= self.core.config.namespaces_max {
            debug!("a client asks for too many namespaces");
            return Some(self.close(DisconnectReason::ForcedServerClose));
        }
        let Some(core) = self.core.namespace(namespace.as_str()) else {
            return self.refuse(&namespace, &ConnectError::new("Invalid namespace"));
        };
        let auth = auth.and_then(|auth| serde_json::from_str(&auth).ok());
        let handshake = Handshake { auth: auth.unwrap_or_else(|| json!({})), ..self.handshake.clone() };
        let connecting = connecting::connect(core, handshake, self.is_script).boxed();
        self.sockets.insert(namespace, SocketPhase::Connecting(connecting));
        None
    }

    fn connected(&mut self, namespace: NamespaceName, result: Result<Box<Live>, Refusal>) -> Option<DisconnectReason> {
        match result {
            Ok(_) if !self.engine.admit() => {
                debug!("a client was authenticated too late");
                return Some(self.close(DisconnectReason::ForcedServerClose));
            }
            Ok(live) => {
                (self.deadline, self.refused) = (None, 0);
                live.greet(&mut self.engine);
                debug!(sid = live.socket.id(), recovered = live.socket.recovered(), "a socket is connected");
                self.sockets.insert(namespace, SocketPhase::Live(live));
            }
            Err(Refusal::ForGood(error)) => {
                self.sockets.remove(&namespace);
                return self.refuse(&namespace, &error);
            }
            Err(Refusal::ForNow(reason)) => {
                let remedy = "it comes back by itself";
                self.core.refusals.refused("a client cannot be taken now", self.handshake.peer, &reason, remedy);
                self.sockets.remove(&namespace);
                return Some(self.close(DisconnectReason::ForcedServerClose));
            }
        }
        None
    }

    fn woken(&mut self, namespace: &NamespaceName, wake: Wake) -> Option<DisconnectReason> {
        let Some(SocketPhase::Live(live)) = self.sockets.get_mut(namespace) else { return None };
        match live.handle(wake, &mut self.engine) {
            Leaving::No => None,
            Leaving::Socket(reason) => {
                if let Some(SocketPhase::Live(live)) = self.sockets.remove(namespace) {
                    live.end(reason);
                }
                // A client whose place another one has taken has nothing more to do here.
                let was_fenced = reason == DisconnectReason::ForcedServerClose;
                (was_fenced && self.sockets.is_empty()).then(|| self.close(reason))
            }
            Leaving::Connection(reason) => Some(self.close(reason)),
        }
    }

    /// Answers a CONNECT with an error. Who asks again and again is sent away.
    fn refuse(&mut self, namespace: &NamespaceName, error: &ConnectError) -> Option<DisconnectReason> {
        let message = match error.data() {
            Some(data) => json!({ "message": error.message(), "data": data }),
            None => json!({ "message": error.message() }),
        };
        self.engine.send_text(encode_connect_error(namespace, &message.to_string()));
        self.refused += 1;
        if self.refused < REFUSALS_MAX {
            return None;
        }
        let remedy = "it is closed; see which namespaces and credentials it asks with";
        self.core.refusals.refused("a client was refused too often", self.handshake.peer, error, remedy);
        Some(self.close(DisconnectReason::ForcedServerClose))
    }

    fn close(&mut self, reason: DisconnectReason) -> DisconnectReason {
        self.engine.close();
        reason
    }

    fn live(&mut self) -> impl Iterator<Item = &mut Live> {
        self.sockets.values_mut().filter_map(|phase| match phase {
            SocketPhase::Live(live) => Some(&mut **live),
            SocketPhase::Connecting(_) => None,
        })
    }

    fn is_full(&self) -> bool {
        self.sockets.values().any(|phase| match phase {
            SocketPhase::Live(live) => live.is_full(),
            SocketPhase::Connecting(_) => false,
        })
    }
}

impl SocketPhase {
    async fn next(&mut self, is_drained: bool) -> SocketWake {
        match self {
            SocketPhase::Connecting(connecting) => SocketWake::Connected(connecting.await),
            SocketPhase::Live(live) => SocketWake::Live(live.next(is_drained).await),
        }
    }
}

/// The next that any of the sockets waits for. Cancel safe, as each of them is.
async fn next_of(sockets: &mut BTreeMap<NamespaceName, SocketPhase>, is_drained: bool) -> (NamespaceName, SocketWake) {
    if sockets.len() > 1 {
        let all = sockets
            .iter_mut()
            .map(|(namespace, state)| async move { (namespace.clone(), state.next(is_drained).await) }.boxed());
        return select_all(all).await.0;
    }
    match sockets.first_entry() {
        Some(mut only) => {
            let wake = only.get_mut().next(is_drained).await;
            (only.key().clone(), wake)
        }
        None => std::future::pending().await,
    }
}

fn args_of(args: &PacketArgs) -> Args {
    Args::from_packet(&args.list(), args.attachments().to_vec())
}

/// Whether a client's handshake looks like one of the JavaScript client's, which keeps offsets: browsers say so, and so
/// does Node where it polls. Node's WebSocket (`ws`) names no agent but offers compression, as only it does without a
/// timestamp in its query.
fn is_script(handshake: &Handshake) -> bool {
    let agent = handshake.headers.get(http::header::USER_AGENT).and_then(|agent| agent.to_str().ok());
    match agent {
        Some(agent) => SCRIPT_AGENTS.iter().any(|script| agent.starts_with(script)),
        None => {
            let query = handshake.uri.query().unwrap_or_default();
            let has_time = query.split('&').any(|field| field.starts_with("t="));
            handshake.headers.contains_key(http::header::SEC_WEBSOCKET_EXTENSIONS) && !has_time
        }
    }
}

/// Steps of which one asks the engine before the sockets.
const ENGINE_TURN: u32 = 16;

/// Bytes that may wait for a client while more is read for it.
const WAITING_BYTES_LOW: usize = 4 * 1024;

/// Bytes that wait for a client from which on it is not read: what it asks for would only wait behind them.
const WAITING_BYTES_HIGH: usize = 256 * 1024;

/// Refused CONNECTs in a row that end a connection.
const REFUSALS_MAX: u32 = 8;

const SCRIPT_AGENTS: [&str; 5] = ["Mozilla/", "node-XMLHttpRequest", "node", "Deno/", "Bun/"];
