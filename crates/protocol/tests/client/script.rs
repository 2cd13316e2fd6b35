//! A client session on a stage: the script gives it what a shell and a server would, and keeps what it does.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use redeliver_protocol::backoff::Jitter;
use redeliver_protocol::cause::Cause;
use redeliver_protocol::client::{
    ClientSession, ConnectionState, CursorKeeper, EmitOutcome, EmitTicket, Identity, Input, Output, RequestKey,
    StreamItem, SubscribeRequest, SubscriptionEnd,
};
use redeliver_protocol::codec;
use redeliver_protocol::config::ClientConfig;
use redeliver_protocol::error::{Close, CloseCode, RefusalCode, RetryAdvice};
use redeliver_protocol::event::{NewEvent, PayloadKind};
use redeliver_protocol::frame::{
    ClientFrame, Events, Hello, Ownership, ServerFrame, Subscribe, Subscribed, Welcome, Window,
};
use redeliver_protocol::history::{Cursor, EmitFate, EmitRun, Gap, GapCause, Place, PublisherState, Start};
use redeliver_protocol::limits::Limits;
use redeliver_protocol::name::{EventName, SubscriberName, TopicName};
use redeliver_protocol::redelivery::DeliveredThrough;
use redeliver_protocol::request::{Request, RequestError, RequestTicket, Response};
use redeliver_protocol::seq::{EmitNumber, Epoch, InstanceId, Nth, Position, PublisherId, Seq, SubscriptionId};
use redeliver_protocol::time::{Instant, Timestamp};

/// The subscription of stories with a single one, as the app numbers it.
pub(crate) const SUB: SubscriptionId = SubscriptionId(70);
/// Its number on the wire: the first of each connection.
pub(crate) const WIRE: SubscriptionId = SubscriptionId(1);
/// The epoch of stories with a single one.
pub(crate) const A: Epoch = Epoch([0xa; 16]);
pub(crate) const B: Epoch = Epoch([0xb; 16]);
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(15);

pub(crate) struct Script {
    pub(crate) session: ClientSession,
    pub(crate) now: Instant,
    pub(crate) config: ClientConfig,
    pub(crate) connects: u32,
    pub(crate) hellos: Vec<Hello>,
    pub(crate) sent: Vec<ClientFrame>,
    pub(crate) handed: Vec<(SubscriptionId, StreamItem)>,
    pub(crate) saves: Vec<(SubscriptionId, Cursor)>,
    pub(crate) confirmed: Vec<Seq>,
    pub(crate) gone: Vec<(SubscriptionId, SubscriptionEnd)>,
    pub(crate) emitted: Vec<(EmitTicket, EmitOutcome)>,
    pub(crate) lost: Vec<(u64, u64)>,
    pub(crate) held: Vec<Option<RefusalCode>>,
    pub(crate) states: Vec<ConnectionState>,
    pub(crate) disconnects: Vec<Close>,
    pub(crate) asked: Vec<(RequestKey, Request)>,
    pub(crate) answers: Vec<(RequestTicket, Result<Response, RequestError>)>,
    pub(crate) ended: bool,
}

impl Script {
    pub(crate) fn new() -> Script {
        Script::with(ClientConfig::default(), 1)
    }

    pub(crate) fn with(config: ClientConfig, seed: u64) -> Script {
        let identity = Identity {
            instance: InstanceId([1; 16]),
            publisher: PublisherId([2; 16]),
            subscriber: Some(SubscriberName::new("billing").unwrap()),
            auth: None,
            client_name: "script".to_owned(),
        };
        let now = Instant::ORIGIN + Duration::from_secs(1000);
        let session = ClientSession::new(config.clone(), identity, Jitter::new(seed), now);
        let mut script = Script {
            session,
            now,
            config,
            connects: 0,
            hellos: Vec::new(),
            sent: Vec::new(),
            handed: Vec::new(),
            saves: Vec::new(),
            confirmed: Vec::new(),
            gone: Vec::new(),
            emitted: Vec::new(),
            lost: Vec::new(),
            held: Vec::new(),
            states: Vec::new(),
            disconnects: Vec::new(),
            asked: Vec::new(),
            answers: Vec::new(),
            ended: false,
        };
        script.drain();
        script
    }

    /// A client whose credentials are asked for anew at each connection.
    pub(crate) fn renewing() -> Script {
        let script = Script::new();
        Script { session: script.session.renewing_credentials(), ..script }
    }

    /// A client that is connected and welcomed.
    pub(crate) fn welcomed() -> Script {
        let mut script = Script::new();
        script.connect();
        script
    }

    /// A welcomed client with a subscription whose Subscribed has come: after seq 10, nth 4, of epoch A.
    pub(crate) fn subscribed(keeper: CursorKeeper) -> Script {
        let mut script = Script::welcomed();
        script.subscribe(SUB, keeper);
        script.server(subscribed(WIRE, at(10), 4));
        script
    }

    // What the app and the shell do.

    pub(crate) fn give(&mut self, input: Input) {
        self.session.handle(input, self.now);
        self.drain();
    }

    pub(crate) fn connect(&mut self) {
        self.connect_to(welcome(PublisherState::New));
    }

    /// The next connection is made, and this is its Welcome.
    pub(crate) fn connect_to(&mut self, welcome: ServerFrame) {
        self.dialed();
        self.give(Input::Connected);
        self.server(welcome);
    }

    /// The connection is cut, and the next one is made.
    pub(crate) fn reconnect(&mut self) {
        self.cut();
        self.connect();
    }

    pub(crate) fn cut(&mut self) {
        self.give(Input::Disconnected(Cause::of_words("cut")));
    }

    /// Lets time pass until the client dials.
    pub(crate) fn dialed(&mut self) {
        while let ConnectionState::Waiting { .. } = self.session.state() {
            self.wait_for_next();
        }
    }

    pub(crate) fn subscribe(&mut self, id: SubscriptionId, keeper: CursorKeeper) {
        self.subscribe_with(id, keeper, Start::Latest, Window::default());
    }

    pub(crate) fn subscribe_with(&mut self, id: SubscriptionId, keeper: CursorKeeper, start: Start, window: Window) {
        let topic = TopicName::new(format!("topic-{id}")).unwrap();
        let request = SubscribeRequest { topic, start, window, ownership: Ownership::Takeover, keeper };
        self.give(Input::Subscribe { id, request });
    }

    pub(crate) fn ack(&mut self, position: Position, nth: u64) {
        self.give(Input::Ack { id: SUB, position, nth: Nth(nth) });
    }

    /// Acknowledges the event of this number as `event` and `events` make it.
    pub(crate) fn ack_nth(&mut self, nth: u64) {
        self.ack(at(seq_of(nth)), nth);
    }

    pub(crate) fn emit(&mut self, ticket: u64) {
        self.emit_event(ticket, event_for("orders", &ticket.to_string()));
    }

    pub(crate) fn emit_event(&mut self, ticket: u64, event: NewEvent) {
        self.give(Input::Emit { ticket: EmitTicket(ticket), event });
    }

    /// Several emits before anybody looks at the outputs.
    pub(crate) fn emit_all(&mut self, tickets: impl IntoIterator<Item = u64>) {
        for ticket in tickets {
            let event = event_for("orders", &ticket.to_string());
            self.session.handle(Input::Emit { ticket: EmitTicket(ticket), event }, self.now);
        }
        self.drain();
    }

    pub(crate) fn saved(&mut self) {
        let (id, cursor) = self.saves.last().expect("a cursor was to be saved").clone();
        self.give(Input::CursorSaved { id, seq: cursor.place.position.seq });
    }

    /// Time passes, and every timeout on the way is given its tick.
    pub(crate) fn wait(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(due) = self.session.poll_timeout().filter(|due| *due <= until) {
            self.now = self.now.max(due);
            self.give(Input::Tick);
        }
        self.now = until;
    }

    /// Lets time pass until emits are sent again.
    pub(crate) fn wait_for_next_of_emits(&mut self) {
        while self.sent.is_empty() {
            self.wait_for_next();
            let token = 0;
            if let Some(ClientFrame::Ping { .. }) = self.sent.last() {
                self.sent.pop();
                self.server(ServerFrame::Pong { token });
            }
        }
    }

    pub(crate) fn wait_for_next(&mut self) {
        let due = self.session.poll_timeout().expect("something is due");
        self.now = self.now.max(due);
        self.give(Input::Tick);
    }

    // What the server does.

    pub(crate) fn server(&mut self, frame: ServerFrame) {
        self.give(Input::Message(codec::encode_server(&frame)));
    }

    pub(crate) fn server_closes(&mut self, code: CloseCode, retry: RetryAdvice) {
        let close = Close::new(code, "because".to_owned(), retry);
        self.give(Input::Message(codec::encode_close(&close)));
    }

    // What can be asked about what the client did.

    /// The frames sent since the last call.
    pub(crate) fn take_sent(&mut self) -> Vec<ClientFrame> {
        std::mem::take(&mut self.sent)
    }

    /// The only Subscribe sent since the last call.
    pub(crate) fn take_subscribe(&mut self) -> Subscribe {
        let mut found: Vec<_> = self.take_sent().into_iter().filter_map(as_subscribe).collect();
        assert_eq!(found.len(), 1, "one Subscribe was to be sent: {found:?}");
        found.remove(0)
    }

    /// The nths handed over since the last call, with their marks.
    pub(crate) fn take_events(&mut self) -> Vec<(u64, bool)> {
        std::mem::take(&mut self.handed).into_iter().filter_map(|(_, delivery)| as_event(delivery)).collect()
    }

    /// The acks sent since the last call: seq and nth.
    pub(crate) fn take_acks(&mut self) -> Vec<(u64, u64)> {
        self.take_sent().into_iter().filter_map(as_ack).collect()
    }

    /// The emits sent since the last call: first number and count of each frame.
    pub(crate) fn take_emits(&mut self) -> Vec<(u64, usize)> {
        self.take_sent().into_iter().filter_map(as_emit).collect()
    }

    fn drain(&mut self) {
        while let Some(output) = self.session.poll_output() {
            assert!(!self.ended, "something came after the end: {output:?}");
            match output {
                Output::Connect => self.connects += 1,
                Output::SendHello(hello) => self.hellos.push(hello),
                Output::Send(frame) => self.sent.push(frame),
                Output::Disconnect(close) => self.disconnects.push(close),
                Output::Deliver { id, delivery } => self.handed.push((id, delivery)),
                Output::AskAt { .. } => {}
                Output::SaveCursor { id, cursor } => self.saves.push((id, cursor)),
                Output::AckConfirmed { seq, .. } => self.confirmed.push(seq),
                Output::Unsubscribed { id, why } => self.gone.push((id, why)),
                Output::EmitDone { ticket, fate } => self.emitted.push((ticket, fate)),
                Output::EmitsLost { from, through } => self.lost.push((from.0, through.0)),
                Output::EmitsHeld { why } => self.held.push(why),
                Output::State(state) => self.states.push(state),
                Output::Requested { key, request } => self.asked.push((key, request)),
                Output::RequestDone { ticket, result } => self.answers.push((ticket, result)),
                Output::Ended => self.ended = true,
            }
        }
    }
}

/// The nth of the events that `events` makes lies this far below their seq.
const SEQ_AHEAD: u64 = 6;

pub(crate) fn seq_of(nth: u64) -> u64 {
    nth + SEQ_AHEAD
}

pub(crate) fn at(seq: u64) -> Position {
    Position::new(A, Seq(seq))
}

pub(crate) fn known(position: Position, nth: u64) -> Place {
    Place::new(position, Nth(nth))
}

pub(crate) fn welcome(publisher: PublisherState) -> ServerFrame {
    welcome_in(A, 1000, publisher)
}

pub(crate) fn welcome_in(epoch: Epoch, head: u64, publisher: PublisherState) -> ServerFrame {
    ServerFrame::Welcome(Welcome {
        epoch,
        head: Seq(head),
        publisher,
        heartbeat: HEARTBEAT,
        limits: Limits::default(),
        server_name: "script".to_owned(),
    })
}

pub(crate) fn reached(number: u64) -> PublisherState {
    PublisherState::Reached(EmitNumber(number))
}

pub(crate) fn subscribed(id: SubscriptionId, after: Position, nth: u64) -> ServerFrame {
    ServerFrame::Subscribed(Subscribed { gap: None, ..subscribed_frame(id, after, nth) })
}

pub(crate) fn subscribed_frame(id: SubscriptionId, after: Position, nth: u64) -> Subscribed {
    Subscribed {
        id,
        after,
        nth: Nth(nth),
        head: after,
        pending: 0,
        delivered_through: DeliveredThrough::NOTHING,
        gap: None,
        window: Window::default(),
    }
}

/// A gap of `count` events that ends at `through`, whose nth is `nth`.
pub(crate) fn gap(after: Position, through: Position, nth: u64, count: u64, cause: GapCause) -> Gap {
    Gap { after, through, nth_through: Nth(nth), count, count_is_exact: true, cause }
}

/// Events of epoch A with these nths, in one batch.
pub(crate) fn events(id: SubscriptionId, nths: std::ops::RangeInclusive<u64>) -> ServerFrame {
    events_in(A, id, nths)
}

pub(crate) fn events_in(epoch: Epoch, id: SubscriptionId, nths: std::ops::RangeInclusive<u64>) -> ServerFrame {
    let records: Vec<_> = nths.map(|nth| (seq_of(nth), nth)).collect();
    batch(epoch, id, &records, u32::try_from(records.len()).unwrap(), b"payload")
}

pub(crate) fn batch(
    epoch: Epoch,
    id: SubscriptionId,
    records: &[(u64, u64)],
    count: u32,
    payload: &[u8],
) -> ServerFrame {
    let mut bytes = BytesMut::new();
    for (seq, nth) in records {
        let place = (Seq(*seq), Nth(*nth), Timestamp(5));
        codec::encode_record(&mut bytes, place, PayloadKind::Text, "changed", payload);
    }
    ServerFrame::Events(Events { id, epoch, count, records: bytes.freeze() })
}

pub(crate) fn event_for(topic: &str, payload: &str) -> NewEvent {
    let payload = Bytes::copy_from_slice(payload.as_bytes());
    NewEvent::new(TopicName::new(topic).unwrap(), EventName::new("made").unwrap(), PayloadKind::Text, payload)
}

pub(crate) fn runs(runs: impl IntoIterator<Item = (u64, u32, EmitFate)>) -> ServerFrame {
    let runs = runs.into_iter().map(|(first, count, fate)| EmitRun { first: EmitNumber(first), count, fate });
    ServerFrame::Emitted { runs: runs.collect() }
}

pub(crate) fn stored(first: u64, count: u32, seq: u64) -> ServerFrame {
    runs([(first, count, EmitFate::Stored(at(seq)))])
}

pub(crate) fn as_subscribe(frame: ClientFrame) -> Option<Subscribe> {
    if let ClientFrame::Subscribe(subscribe) = frame { Some(subscribe) } else { None }
}

pub(crate) fn as_ack(frame: ClientFrame) -> Option<(u64, u64)> {
    if let ClientFrame::Ack { seq, nth, .. } = frame { Some((seq.0, nth.0)) } else { None }
}

pub(crate) fn as_emit(frame: ClientFrame) -> Option<(u64, usize)> {
    if let ClientFrame::Emit { first, events } = frame { Some((first.0, events.len())) } else { None }
}

pub(crate) fn as_event(delivery: StreamItem) -> Option<(u64, bool)> {
    if let StreamItem::Event { record, redelivered, .. } = delivery { Some((record.nth.0, redelivered)) } else { None }
}

/// Events that are not marked.
pub(crate) fn fresh(nths: std::ops::RangeInclusive<u64>) -> Vec<(u64, bool)> {
    nths.map(|nth| (nth, false)).collect()
}

/// Events that are marked as redelivered.
pub(crate) fn marked(nths: std::ops::RangeInclusive<u64>) -> Vec<(u64, bool)> {
    nths.map(|nth| (nth, true)).collect()
}
