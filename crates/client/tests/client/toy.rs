// A server for the client's tests: events and cursors in memory, the protocol by its codec alone, and faults on request.
// It must never grow the wisdom of the real one: it trusts its client and promises nothing.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::{SinkExt, StreamExt};
use parking_lot::Mutex;
use redeliver_client::{Connector, Cursor, Endpoint, NewEvent, Start};
use redeliver_protocol::codec::{self, FromClient};
use redeliver_protocol::error::{Close, CloseCode, RefusalCode, RetryAdvice};
use redeliver_protocol::frame::{ClientFrame, Events, Hello, SUBPROTOCOL, ServerFrame, Subscribe, Subscribed, Welcome};
use redeliver_protocol::history::{EmitFate, EmitRun, FirstStart, Place, PublisherState};
use redeliver_protocol::limits::Limits;
use redeliver_protocol::redelivery::DeliveredThrough;
use redeliver_protocol::seq::{EmitNumber, Epoch, Nth, Position, Seq, SubscriptionId};
use redeliver_protocol::time::Timestamp;
use tokio::io::DuplexStream;
use tokio::sync::watch;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};

/// The server, and the way to it. Clones are the same server.
#[derive(Clone)]
pub(crate) struct Toy {
    state: Arc<Mutex<State>>,
    /// Moves with each change, so that connections look again.
    changes: Arc<watch::Sender<u64>>,
}

#[derive(Default)]
struct State {
    log: Vec<NewEvent>,
    /// The seqs of each publisher's emits, in the order of their numbers.
    publishers: BTreeMap<[u8; 16], Vec<Seq>>,
    /// The handled nth of each durable subscriber's topic.
    cursors: BTreeMap<(String, String), (Seq, Nth)>,
    faults: Faults,
    hellos: Vec<Hello>,
    frames: Vec<ClientFrame>,
    /// Connections older than this one are to end.
    connections_before: u64,
    connections: u64,
}

/// What goes wrong.
#[derive(Clone, Default)]
pub(crate) struct Faults {
    /// Nobody can connect.
    pub(crate) unreachable: bool,
    /// Frames are read but not answered: emits are not stored, subscribes and acks stay open.
    pub(crate) mute: bool,
    /// The answer to each Hello.
    pub(crate) refuse: Option<Close>,
    /// The only credentials that are taken. Who came with others before is told that they have expired.
    pub(crate) accepts: Option<&'static str>,
    /// The answer to each emit.
    pub(crate) refuse_emits: Option<RefusalCode>,
    /// Emits under numbers that were used before are answered as forgotten.
    pub(crate) forgets_emits: bool,
    /// The answer to each Subscribe.
    pub(crate) refuse_subscribes: Option<RefusalCode>,
    /// Emits are stored, and then the connection is cut instead of an answer.
    pub(crate) cut_before_receipt: bool,
    /// All subscriptions are told that somebody else has taken over.
    pub(crate) take_over: bool,
}

impl Faults {
    fn takes(&self, hello: &Hello) -> bool {
        self.accepts.is_none_or(|accepted| hello.auth.as_deref() == Some(accepted.as_bytes()))
    }
}

type Ws = WebSocketStream<DuplexStream>;

impl Toy {
    pub(crate) fn new() -> Toy {
        Toy { state: Arc::default(), changes: Arc::new(watch::channel(0).0) }
    }

    /// Changes what goes wrong, from now on.
    pub(crate) fn faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.state.lock().faults);
        self.changed();
    }

    /// Cuts all connections.
    pub(crate) fn cut(&self) {
        {
            let mut state = self.state.lock();
            state.connections_before = state.connections + 1;
        }
        self.changed();
    }

    /// Stores events as somebody else's.
    pub(crate) fn store(&self, topic: &str, payloads: impl IntoIterator<Item = String>) {
        for payload in payloads {
            let (topic, name) = (topic.try_into().unwrap(), "stored".try_into().unwrap());
            let event = NewEvent::new(topic, name, redeliver_client::PayloadKind::Text, payload);
            self.state.lock().log.push(event);
        }
        self.changed();
    }

    /// The payloads of all events, in the order of the log.
    pub(crate) fn payloads(&self) -> Vec<String> {
        self.state.lock().log.iter().map(|event| String::from_utf8_lossy(&event.payload).into_owned()).collect()
    }

    /// The nth up to which a durable subscriber has handled a topic.
    pub(crate) fn cursor(&self, subscriber: &str, topic: &str) -> Option<u64> {
        let key = (subscriber.to_owned(), topic.to_owned());
        self.state.lock().cursors.get(&key).map(|(_, nth)| nth.0)
    }

    pub(crate) fn hellos(&self) -> Vec<Hello> {
        self.state.lock().hellos.clone()
    }

    /// All frames that came, but for pings and pongs.
    pub(crate) fn frames(&self) -> Vec<ClientFrame> {
        self.state.lock().frames.clone()
    }

    /// Waits until this holds; looks after each change.
    pub(crate) async fn until(&self, mut holds: impl FnMut(&Toy) -> bool) {
        let mut changes = self.changes.subscribe();
        while !holds(self) {
            changes.changed().await.unwrap();
        }
    }

    fn changed(&self) {
        self.changes.send_modify(|change| *change += 1);
    }
}

impl Connector for Toy {
    type Io = DuplexStream;

    async fn connect(&self, _endpoint: &Endpoint) -> io::Result<DuplexStream> {
        if self.state.lock().faults.unreachable {
            return Err(io::Error::new(io::ErrorKind::ConnectionRefused, "nobody listens"));
        }
        let (near, far) = tokio::io::duplex(64 * 1024);
        tokio::spawn(self.clone().serve(far));
        Ok(near)
    }
}

/// One topic followed on one connection.
struct Reader {
    topic: String,
    durable: bool,
    /// Sent up to this nth, acknowledged up to that one.
    sent: u64,
    acked: u64,
    window: u64,
    /// The seq and nth that are the end of history.
    caught_up_at: Option<(Seq, u64)>,
}

impl Toy {
    async fn serve(self, io: DuplexStream) {
        #[allow(clippy::result_large_err)] // The library's own signature.
        let subprotocol = |_: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
            response.headers_mut().insert("sec-websocket-protocol", SUBPROTOCOL.parse().unwrap());
            Ok(response)
        };
        let Ok(mut ws) = tokio_tungstenite::accept_hdr_async(io, subprotocol).await else { return };
        let Some(Ok(Message::Binary(hello))) = ws.next().await else { return };
        let hello = codec::decode_hello(&hello).unwrap();
        let number = {
            let mut state = self.state.lock();
            state.connections += 1;
            state.hellos.push(hello.clone());
            state.connections
        };
        self.changed();
        let refusal = {
            let faults = &self.state.lock().faults;
            let refused = Close::of(CloseCode::UNAUTHENTICATED, RetryAdvice::Never);
            let others = (!faults.takes(&hello)).then_some(refused);
            faults.refuse.clone().or(others)
        };
        if let Some(close) = refusal {
            let _ = ws.send(Message::Binary(codec::encode_close(&close))).await;
            while let Some(Ok(_)) = ws.next().await {}
            return;
        }
        self.converse(ws, number, &hello).await;
    }

    async fn converse(&self, mut ws: Ws, number: u64, hello: &Hello) {
        let mut readers = BTreeMap::new();
        let mut changes = self.changes.subscribe();
        let mut to_send = vec![self.welcome(hello)];
        loop {
            for frame in to_send.drain(..) {
                let _ = ws.feed(Message::Binary(codec::encode_server(&frame))).await;
            }
            if ws.flush().await.is_err() {
                return;
            }
            tokio::select! {
                message = ws.next() => {
                    let Some(Ok(message)) = message else { return };
                    let Message::Binary(message) = message else { continue };
                    let FromClient::Frame(frame) = codec::decode_from_client(&message).unwrap() else { return };
                    let Some(frames) = self.answer(frame, hello, &mut readers) else { return };
                    to_send = frames;
                    self.changed();
                }
                _ = changes.changed() => {}
            }
            if number < self.state.lock().connections_before {
                return;
            }
            if !self.state.lock().faults.takes(hello) {
                let close = Close::of(CloseCode::EXPIRED, RetryAdvice::Never);
                let _ = ws.send(Message::Binary(codec::encode_close(&close))).await;
                return;
            }
            to_send.extend(self.news(&mut readers));
        }
    }

    fn welcome(&self, hello: &Hello) -> ServerFrame {
        let state = self.state.lock();
        let publisher = match hello.publisher.and_then(|id| state.publishers.get(&id.0)) {
            Some(seqs) => PublisherState::Reached(EmitNumber(seqs.len() as u64)),
            None => PublisherState::New,
        };
        ServerFrame::Welcome(Welcome {
            epoch: EPOCH,
            head: Seq(state.log.len() as u64),
            publisher,
            heartbeat: Duration::from_secs(15),
            limits: Limits::default(),
            server_name: "toy".to_owned(),
        })
    }

    /// What is to be sent, or the end of the connection.
    fn answer(
        &self,
        frame: ClientFrame,
        hello: &Hello,
        readers: &mut BTreeMap<SubscriptionId, Reader>,
    ) -> Option<Vec<ServerFrame>> {
        let mut state = self.state.lock();
        if let ClientFrame::Ping { token } = frame {
            return Some(vec![ServerFrame::Pong { token }]);
        }
        if let ClientFrame::Taking { id, nth } = frame {
            return Some(vec![ServerFrame::Taken { id, nth }]);
        }
        state.frames.push(frame.clone());
        if state.faults.mute {
            return Some(Vec::new());
        }
        Some(match frame {
            ClientFrame::Subscribe(subscribe) => match state.faults.refuse_subscribes {
                Some(code) => {
                    vec![ServerFrame::SubscribeRefused { id: subscribe.id, code, reason: "by the script".to_owned() }]
                }
                None => vec![state.subscribe(&subscribe, hello, readers)],
            },
            ClientFrame::Ack { id, seq, nth } => {
                let Some(reader) = readers.get_mut(&id) else { return Some(Vec::new()) };
                reader.acked = reader.acked.max(nth.0);
                if reader.durable {
                    state.cursors.insert((subscriber(hello), reader.topic.clone()), (seq, nth));
                }
                vec![ServerFrame::Acked { id, seq }]
            }
            ClientFrame::Unsubscribe { id } => {
                readers.remove(&id);
                vec![ServerFrame::Unsubscribed { id }]
            }
            ClientFrame::Emit { first, events } => {
                let runs = state.emit(hello, first, events);
                if state.faults.cut_before_receipt {
                    return None;
                }
                vec![ServerFrame::Emitted { runs }]
            }
            ClientFrame::Ping { .. }
            | ClientFrame::Taking { .. }
            | ClientFrame::Resuming { .. }
            | ClientFrame::Pong { .. }
            | ClientFrame::SubscribeMerged(_)
            | ClientFrame::BeginMerged { .. }
            | ClientFrame::EmitExcept { .. }
            | ClientFrame::Volatile { .. }
            | ClientFrame::Request(_)
            | ClientFrame::Reply(_) => Vec::new(),
        })
    }

    /// What the readers have not got yet.
    fn news(&self, readers: &mut BTreeMap<SubscriptionId, Reader>) -> Vec<ServerFrame> {
        let state = self.state.lock();
        let mut frames = Vec::new();
        if state.faults.mute {
            return frames;
        }
        if state.faults.take_over {
            frames.extend(std::mem::take(readers).into_keys().map(|id| ServerFrame::TakenOver { id }));
        }
        for (id, reader) in readers {
            let mut records = BytesMut::new();
            let mut count = 0;
            for (seq, nth, event) in state.topic(&reader.topic) {
                if nth.0 > reader.sent && reader.sent < reader.acked + reader.window {
                    let numbers = (seq, nth, Timestamp(1_700_000_000_000));
                    codec::encode_record(&mut records, numbers, event.kind, event.name.as_str(), &event.payload);
                    reader.sent = nth.0;
                    count += 1;
                }
            }
            if count > 0 {
                frames.push(ServerFrame::Events(Events { id: *id, epoch: EPOCH, count, records: records.freeze() }));
            }
            if let Some((seq, _)) = reader.caught_up_at.take_if(|(_, nth)| *nth <= reader.sent) {
                frames.push(ServerFrame::CaughtUp { id: *id, seq });
            }
        }
        frames
    }
}

impl State {
    fn topic<'a>(&'a self, topic: &'a str) -> impl Iterator<Item = (Seq, Nth, &'a NewEvent)> {
        let of_topic = move |(_, event): &(usize, &NewEvent)| event.topics.iter().any(|t| t.as_str() == topic);
        let events = self.log.iter().enumerate().filter(of_topic).enumerate();
        events.map(|(nth, (seq, event))| (Seq(seq as u64 + 1), Nth(nth as u64 + 1), event))
    }

    fn subscribe(
        &mut self,
        subscribe: &Subscribe,
        hello: &Hello,
        readers: &mut BTreeMap<SubscriptionId, Reader>,
    ) -> ServerFrame {
        let topic = subscribe.topic.as_str();
        let head = self.topic(topic).last().map_or((Seq::ZERO, Nth::ZERO), |(seq, nth, _)| (seq, nth));
        let stored = self.cursors.get(&(subscriber(hello), topic.to_owned())).copied();
        let (seq, nth) = match &subscribe.start {
            Start::Earliest => (Seq::ZERO, Nth::ZERO),
            Start::After(known) => (known.position.seq, known.nth),
            Start::Resume { at_least: Some(known) } | Start::ResumeOr { at_least: Some(known), .. } => {
                (known.position.seq, known.nth)
            }
            Start::ResumeOr { at_least: None, first: FirstStart::Earliest } => stored.unwrap_or_default(),
            Start::Resume { at_least: None } | Start::ResumeOr { at_least: None, .. } => stored.unwrap_or(head),
            Start::Latest | Start::AfterSeq(_) | Start::Since(_) | Start::Within(_) | Start::Last(_) | _ => head,
        };
        let reader = Reader {
            topic: topic.to_owned(),
            durable: subscribe.durable,
            sent: nth.0,
            acked: nth.0,
            window: u64::from(subscribe.window.events),
            caught_up_at: Some((head.0, head.1.0)),
        };
        readers.insert(subscribe.id, reader);
        ServerFrame::Subscribed(Subscribed {
            id: subscribe.id,
            after: Position::new(EPOCH, seq),
            nth,
            head: Position::new(EPOCH, Seq(self.log.len() as u64)),
            pending: head.1.since(nth),
            delivered_through: DeliveredThrough::NOTHING,
            gap: None,
            window: subscribe.window,
        })
    }

    fn emit(&mut self, hello: &Hello, first: EmitNumber, events: Vec<NewEvent>) -> Vec<EmitRun> {
        let publisher = hello.publisher.unwrap().0;
        let mut runs = Vec::new();
        for (number, event) in (first.0..).zip(events) {
            let seqs = self.publishers.entry(publisher).or_default();
            let known = seqs.get(usize::try_from(number - 1).unwrap()).copied();
            let fate = match (self.faults.refuse_emits, known) {
                (Some(code), _) => EmitFate::Refused(code),
                (None, Some(_)) if self.faults.forgets_emits => EmitFate::DuplicateForgotten,
                (None, Some(seq)) => EmitFate::Duplicate(Position::new(EPOCH, seq)),
                (None, None) => {
                    assert_eq!(number, seqs.len() as u64 + 1, "the client left numbers out");
                    self.log.push(event);
                    let seq = Seq(self.log.len() as u64);
                    seqs.push(seq);
                    EmitFate::Stored(Position::new(EPOCH, seq))
                }
            };
            runs.push(EmitRun { first: EmitNumber(number), count: 1, fate });
        }
        runs
    }
}

fn subscriber(hello: &Hello) -> String {
    hello.subscriber.as_ref().map_or_else(String::new, |name| name.as_str().to_owned())
}

/// What a client that has handled everything up to this nth of a topic with no other events would have stored.
pub(crate) fn cursor_at(nth: u64) -> Cursor {
    let known = Place { position: Position::new(EPOCH, Seq(nth)), nth: Nth(nth), earlier: [].into() };
    Cursor::new(known, DeliveredThrough(Nth(nth)))
}

const EPOCH: Epoch = Epoch([7; 16]);
