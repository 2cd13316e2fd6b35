//! `Pair`: a hub, and clients that are either real sessions with an app or peers whose every message a story writes itself.
//!
//! Nothing happens by itself: a story does something, and `Pair` plays on until nothing is left to happen *now*. Time
//! passes only in `pass`.

use std::borrow::Borrow;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use redeliver_protocol::backoff::Jitter;
use redeliver_protocol::client::{
    ClientSession, CursorKeeper, EmitOutcome, EmitTicket, Identity, Input as ToClient, StreamItem, SubscribeRequest,
    SubscriptionEnd,
};
use redeliver_protocol::codec::{self, FromServer, Records};
use redeliver_protocol::config::{ClientConfig, ServerConfig};
use redeliver_protocol::error::Close;
use redeliver_protocol::event::{NewEvent, PayloadKind, Record};
use redeliver_protocol::features::Features;
use redeliver_protocol::frame::{ClientFrame, Hello, Ownership, ServerFrame, Subscribe, Subscribed, Window};
use redeliver_protocol::history::{Cursor, Start};
use redeliver_protocol::name::{EventName, SubscriberName, TopicName};
use redeliver_protocol::request::{RequestError, RequestTicket, Response};
use redeliver_protocol::seq::{EmitNumber, InstanceId, Nth, Position, PublisherId, Seq, SubscriptionId};
use redeliver_protocol::server::{ConnectionId, Input};
use redeliver_protocol::time::Instant;

use crate::hub::{Held, Hub};
use crate::play::Link;

/// A real client of the story.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Client(usize);

/// A peer whose messages the story writes itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Peer(usize);

/// See the module.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) hub: Hub,
    pub(crate) now: Instant,
    /// Whether a server is there to connect to.
    pub(crate) is_up: bool,
    pub(crate) ends: Vec<End>,
    pub(crate) links: BTreeMap<ConnectionId, Link>,
    /// After so many messages to the server, or to the client, the next connection breaks.
    pub(crate) next_cut: (Option<usize>, Option<usize>),
    tickets: u64,
}

/// The client's end of things: who it is, and on which connection.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) kind: Kind,
    pub(crate) link: Option<ConnectionId>,
}

#[derive(Debug)]
pub(crate) enum Kind {
    Real(Box<Real>),
    Scripted { heard: Vec<FromServer> },
}

/// A real client with its app.
#[derive(Debug)]
pub(crate) struct Real {
    pub(crate) session: ClientSession,
    /// Everything that was handed over, in order.
    pub(crate) delivered: Vec<(SubscriptionId, StreamItem)>,
    /// How many events and gaps the app has taken out of `delivered`.
    pub(crate) taken: u64,
    /// What became of emits.
    pub(crate) receipts: BTreeMap<EmitTicket, EmitOutcome>,
    /// Emits that are lost again, from and through.
    pub(crate) lost: Vec<(EmitNumber, EmitNumber)>,
    /// Up to where acks are confirmed.
    pub(crate) confirmed: BTreeMap<SubscriptionId, Seq>,
    /// Subscriptions that have ended.
    pub(crate) ended: Vec<(SubscriptionId, SubscriptionEnd)>,
    /// The client's own cursor store.
    pub(crate) store: BTreeMap<SubscriptionId, Cursor>,
    /// Whether the app acknowledges each event as it gets it.
    pub(crate) acks_at_once: bool,
    /// Whether the client's store answers at once; if not, saves wait in `unsaved`.
    pub(crate) saves_at_once: bool,
    pub(crate) unsaved: VecDeque<(SubscriptionId, Cursor)>,
    /// Whether the client has ended for good.
    pub(crate) has_ended: bool,
    /// What the client sent, as frames.
    pub(crate) sent: Vec<ClientFrame>,
    /// The Hello of each connection.
    pub(crate) hellos: Vec<Hello>,
    /// What became of the client's requests.
    pub(crate) answers: Vec<(RequestTicket, Result<Response, RequestError>)>,
}

impl Pair {
    /// A server with default limits, and nobody there.
    pub(crate) fn new() -> Pair {
        Pair::with(ServerConfig::default())
    }

    pub(crate) fn with(config: ServerConfig) -> Pair {
        Pair {
            hub: Hub::new(config),
            now: Instant::from_origin(Duration::from_secs(1000)),
            is_up: true,
            ends: Vec::new(),
            links: BTreeMap::new(),
            next_cut: (None, None),
            tickets: 0,
        }
    }

    /// A real client that begins to connect. Its number makes it who it is.
    pub(crate) fn client(&mut self, number: u8) -> Client {
        self.client_as(number, None)
    }

    /// The same with a durable subscriber.
    pub(crate) fn client_as(&mut self, number: u8, subscriber: Option<&str>) -> Client {
        self.client_with(number, number, subscriber, ClientConfig::default())
    }

    /// The same in full: a new process of an old publisher has another instance.
    pub(crate) fn client_with(
        &mut self,
        instance: u8,
        publisher: u8,
        subscriber: Option<&str>,
        config: ClientConfig,
    ) -> Client {
        let identity = Identity {
            instance: InstanceId([instance; 16]),
            publisher: PublisherId([publisher; 16]),
            subscriber: subscriber.map(|name| SubscriberName::new(name).unwrap()),
            auth: None,
            client_name: format!("client {instance}"),
        };
        let session = ClientSession::new(config, identity, Jitter::new(u64::from(instance)), self.now);
        let real = Real {
            session,
            delivered: Vec::new(),
            taken: 0,
            receipts: BTreeMap::new(),
            lost: Vec::new(),
            confirmed: BTreeMap::new(),
            ended: Vec::new(),
            store: BTreeMap::new(),
            acks_at_once: true,
            saves_at_once: true,
            unsaved: VecDeque::new(),
            has_ended: false,
            sent: Vec::new(),
            hellos: Vec::new(),
            answers: Vec::new(),
        };
        self.ends.push(End { kind: Kind::Real(Box::new(real)), link: None });
        let client = Client(self.ends.len() - 1);
        self.settle();
        client
    }

    /// A peer with a fresh connection, which has said nothing yet.
    pub(crate) fn peer(&mut self) -> Peer {
        self.ends.push(End { kind: Kind::Scripted { heard: Vec::new() }, link: None });
        let peer = Peer(self.ends.len() - 1);
        self.connect(peer.0);
        self.settle();
        peer
    }

    /// A peer that is welcome, as this instance and publisher.
    pub(crate) fn guest(&mut self, number: u8, subscriber: Option<&str>) -> Peer {
        let peer = self.peer();
        self.send_bytes(peer, codec::encode_hello(&hello(number, subscriber)));
        peer
    }

    /// A peer writes a frame.
    pub(crate) fn send(&mut self, peer: Peer, frame: impl Borrow<ClientFrame>) {
        self.send_bytes(peer, codec::encode_client(frame.borrow()));
    }

    /// A peer writes several frames before anything else happens.
    pub(crate) fn send_all(&mut self, peer: Peer, frames: impl IntoIterator<Item = ClientFrame>) {
        let link = self.link_mut(peer.0);
        link.to_server.extend(frames.into_iter().map(|frame| codec::encode_client(&frame)));
        self.settle();
    }

    /// A peer writes a message, whatever it is.
    pub(crate) fn send_bytes(&mut self, peer: Peer, message: impl Into<Bytes>) {
        self.link_mut(peer.0).to_server.push_back(message.into());
        self.settle();
    }

    /// Several messages at once.
    pub(crate) fn send_bytes_all(&mut self, peer: Peer, messages: impl IntoIterator<Item = Bytes>) {
        self.link_mut(peer.0).to_server.extend(messages);
        self.settle();
    }

    /// What a peer has heard since it was last asked.
    pub(crate) fn heard(&mut self, peer: Peer) -> Vec<FromServer> {
        match &mut self.ends[peer.0].kind {
            Kind::Scripted { heard } => std::mem::take(heard),
            Kind::Real(_) => panic!("a real client keeps what it hears to itself"),
        }
    }

    /// The same without Welcome, and no close.
    pub(crate) fn frames(&mut self, peer: Peer) -> Vec<ServerFrame> {
        let frames = self.heard(peer).into_iter().map(|heard| match heard {
            FromServer::Frame(frame) => frame,
            FromServer::Close(close) => panic!("closed: {close:?}"),
        });
        frames.filter(|frame| !matches!(frame, ServerFrame::Welcome(_))).collect()
    }

    /// The close that a peer has heard last.
    pub(crate) fn closed(&mut self, peer: Peer) -> Close {
        match self.heard(peer).pop() {
            Some(FromServer::Close(close)) => {
                assert!(self.ends[peer.0].link.is_none(), "closed, but the connection stands");
                close
            }
            other => panic!("not closed: {other:?}"),
        }
    }

    /// A peer subscribes and must be told its place at once.
    pub(crate) fn subscribed(&mut self, peer: Peer, request: Subscribe) -> Subscribed {
        self.send(peer, ClientFrame::Subscribe(request));
        let Kind::Scripted { heard } = &mut self.ends[peer.0].kind else { panic!("a peer") };
        let at = heard.iter().position(|heard| matches!(heard, FromServer::Frame(ServerFrame::Subscribed(_))));
        match at.map(|at| heard.remove(at)) {
            Some(FromServer::Frame(ServerFrame::Subscribed(subscribed))) => subscribed,
            _ => panic!("no Subscribed among {heard:?}"),
        }
    }

    /// The process itself emits to a topic; the payload is the text.
    pub(crate) fn emit(&mut self, topic: &str, payload: &str) {
        self.hub.append(event(topic, payload), self.now);
        self.settle();
    }

    /// So many events with their numbers as payloads, all before anything else happens.
    pub(crate) fn emit_many(&mut self, topic: &str, numbers: impl IntoIterator<Item = u64>) {
        for number in numbers {
            self.hub.append(event(topic, &number.to_string()), self.now);
        }
        self.settle();
    }

    /// Something happens to a peer's session.
    pub(crate) fn input(&mut self, peer: Peer, input: Input) {
        let id = self.ends[peer.0].link.expect("connected");
        self.hub.input(id, input);
        self.settle();
    }

    /// The server gives what it held back.
    pub(crate) fn release(&mut self, kind: Held) {
        self.hub.release(kind, self.now);
        self.settle();
    }

    /// The peer's end takes no bytes any more, or again.
    pub(crate) fn stall(&mut self, peer: Peer, is_stalled: bool) {
        self.link_mut(peer.0).is_stalled = is_stalled;
        self.settle();
    }

    /// Nothing gets through to a client any more, and nobody notices at once.
    pub(crate) fn stall_client(&mut self, client: Client) {
        self.link_mut(client.0).is_stalled = true;
    }

    /// The link breaks, and both ends notice.
    pub(crate) fn cut(&mut self, who: impl Into<usize>) {
        if let Some(id) = self.ends[who.into()].link {
            self.break_link(id);
        }
        self.settle();
    }

    /// The link breaks after so many more messages from the client, or to it.
    pub(crate) fn cut_after(&mut self, who: impl Into<usize>, to_server: Option<usize>, to_client: Option<usize>) {
        let link = self.link_mut(who.into());
        (link.to_server_left, link.to_client_left) = (to_server, to_client);
    }

    /// The client's process dies: nothing of it is left but what is stored. Its server notices.
    pub(crate) fn kill(&mut self, client: Client) {
        let end = &mut self.ends[client.0];
        end.kind = Kind::Scripted { heard: Vec::new() };
        self.cut(client);
    }

    /// The link breaks, but the server does not notice: a half-open connection. Its id is returned.
    pub(crate) fn cut_unnoticed(&mut self, who: impl Into<usize>) -> ConnectionId {
        let end = who.into();
        let id = self.ends[end].link.take().expect("connected");
        self.links.get_mut(&id).expect("known").lose();
        self.tell_disconnected(end, "cut");
        self.settle();
        id
    }

    /// A peer comes back on a new connection.
    pub(crate) fn reconnect(&mut self, peer: Peer) {
        self.connect(peer.0);
        self.settle();
    }

    /// The server dies and is there again at once.
    pub(crate) fn restart(&mut self) {
        self.drop_links();
        self.hub.restart();
        self.settle();
    }

    /// The server dies, and is there again with an older log.
    pub(crate) fn restore(&mut self, seq: u64) {
        self.drop_links();
        self.hub.restore(Seq(seq));
        self.settle();
    }

    /// The server dies, and is there again with an empty log.
    pub(crate) fn wipe(&mut self) {
        self.drop_links();
        self.hub.wipe();
        self.settle();
    }

    /// The server dies, or is there (again).
    pub(crate) fn set_up(&mut self, is_up: bool) {
        if !is_up {
            self.drop_links();
        }
        self.is_up = is_up;
        self.settle();
    }

    /// What a real client and its app have seen.
    pub(crate) fn real(&mut self, client: Client) -> &mut Real {
        match &mut self.ends[client.0].kind {
            Kind::Real(real) => real,
            Kind::Scripted { .. } => panic!("a peer is no real client"),
        }
    }

    /// The app of a real client does something.
    pub(crate) fn tell(&mut self, client: Client, input: ToClient) {
        let now = self.now;
        self.real(client).session.handle(input, now);
        self.settle();
    }

    /// The app follows a topic.
    pub(crate) fn follow(&mut self, client: Client, id: u32, request: SubscribeRequest) {
        self.tell(client, ToClient::Subscribe { id: SubscriptionId(id), request });
    }

    /// The app emits.
    pub(crate) fn publish(&mut self, client: Client, topic: &str, payload: &str) -> EmitTicket {
        self.tickets += 1;
        let ticket = EmitTicket(self.tickets);
        self.tell(client, ToClient::Emit { ticket, event: event(topic, payload) });
        ticket
    }

    /// The app has handled this.
    pub(crate) fn handled(&mut self, client: Client, id: u32, position: Position, nth: u64) {
        self.tell(client, ToClient::Ack { id: SubscriptionId(id), position, nth: Nth(nth) });
    }

    /// The payloads that a subscription was handed, in order.
    pub(crate) fn payloads(&mut self, client: Client, id: u32) -> Vec<String> {
        self.records(client, id).iter().map(|(record, _)| text(record)).collect()
    }

    /// The events that a subscription was handed, with their marks.
    pub(crate) fn records(&mut self, client: Client, id: u32) -> Vec<(Record, bool)> {
        let delivered = self.real(client).delivered.iter().filter(|(of, _)| of.0 == id);
        let records = delivered.filter_map(|(_, delivery)| match delivery {
            StreamItem::Event { record, redelivered, .. } => Some((record.clone(), *redelivered)),
            StreamItem::Subscribed { .. }
            | StreamItem::Gap { .. }
            | StreamItem::CaughtUp { .. }
            | StreamItem::Volatile { .. } => None,
        });
        records.collect()
    }
}

/// A peer's Hello: its number makes it who it is, as instance and as publisher.
pub(crate) fn hello(number: u8, subscriber: Option<&str>) -> Hello {
    Hello {
        instance: InstanceId([number; 16]),
        publisher: Some(PublisherId([number; 16])),
        settled: EmitNumber::ZERO,
        subscriber: subscriber.map(|name| SubscriberName::new(name).unwrap()),
        auth: None,
        client_name: format!("peer {number}"),
        features: Features::NONE,
    }
}

/// A request to follow a topic from its beginning, with the usual window.
pub(crate) fn subscribe(id: u32, topic: &str) -> Subscribe {
    Subscribe {
        id: SubscriptionId(id),
        topic: topic_name(topic),
        start: Start::Earliest,
        window: Window::default(),
        ownership: Ownership::Takeover,
        durable: false,
    }
}

/// A request to follow a topic durably, from the stored cursor on.
pub(crate) fn resume(id: u32, topic: &str) -> Subscribe {
    Subscribe { start: Start::Resume { at_least: None }, durable: true, ..subscribe(id, topic) }
}

/// What an app asks for: everything from the beginning, kept by nobody.
pub(crate) fn request(topic: &str, start: Start, keeper: CursorKeeper) -> SubscribeRequest {
    SubscribeRequest {
        topic: topic_name(topic),
        start,
        window: Window::default(),
        ownership: Ownership::Takeover,
        keeper,
    }
}

/// An event whose payload is a text.
pub(crate) fn event(topic: &str, payload: &str) -> NewEvent {
    let name = EventName::new("said").unwrap();
    NewEvent::new(topic_name(topic), name, PayloadKind::Text, payload.to_owned())
}

pub(crate) fn topic_name(topic: &str) -> TopicName {
    TopicName::new(topic).unwrap()
}

pub(crate) fn ack(id: u32, seq: u64, nth: u64) -> ClientFrame {
    ClientFrame::Ack { id: SubscriptionId(id), seq: Seq(seq), nth: Nth(nth) }
}

pub(crate) fn unsubscribe(id: u32) -> ClientFrame {
    ClientFrame::Unsubscribe { id: SubscriptionId(id) }
}

pub(crate) fn emit(first: u64, payloads: &[&str]) -> ClientFrame {
    let events = payloads.iter().map(|payload| event("orders", payload)).collect();
    ClientFrame::Emit { first: EmitNumber(first), events }
}

/// A record's payload as text.
pub(crate) fn text(record: &Record) -> String {
    String::from_utf8(record.payload.to_vec()).unwrap()
}

/// The nths of all events in these frames, in order.
pub(crate) fn nths(frames: &[ServerFrame]) -> Vec<u64> {
    records(frames).iter().map(|record| record.nth.0).collect()
}

/// All events in these frames, in order.
pub(crate) fn records(frames: &[ServerFrame]) -> Vec<Record> {
    let batches = frames.iter().filter_map(|frame| match frame {
        ServerFrame::Events(events) => Some(events),
        _ => None,
    });
    batches.flat_map(|events| Records::new(events.records.clone()).map(|record| record.unwrap())).collect()
}

impl From<Client> for usize {
    fn from(client: Client) -> usize {
        client.0
    }
}

impl From<Peer> for usize {
    fn from(peer: Peer) -> usize {
        peer.0
    }
}
