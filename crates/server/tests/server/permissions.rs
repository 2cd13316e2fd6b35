//! The matrix of rights: each frame of a client against each right that it needs, with that right missing at first use,
//! at a reconnect, and taken away while history is replayed. A new frame does not compile here, and a new action fails
//! here, until it has its row.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;
use redeliver_protocol::codec::{FromServer, encode_hello};
use redeliver_protocol::error::{CloseCode, RefusalCode};
use redeliver_protocol::features::Features;
use redeliver_protocol::frame::{ClientFrame, Hello, ServerFrame, Subscribe, SubscribeMerged, Window};
use redeliver_protocol::history::{EmitFate, Start};
use redeliver_protocol::seq::{EmitNumber, PublisherId};
use redeliver_server::{Access, Action, ConnectRequest, Denied, Identity, NewEvent, Server, TopicName};

use crate::peer::*;

/// A right, and of which name.
type Right = (&'static str, &'static str);

/// Allows all but what was taken away.
#[derive(Clone, Default)]
struct Rights {
    missing: Arc<Mutex<BTreeSet<Right>>>,
}

impl Access for Rights {
    async fn authenticate(&self, _request: ConnectRequest) -> Result<Identity, Denied> {
        Ok(Identity::new("ali"))
    }

    fn allow(&self, _identity: &Identity, action: Action<'_>) -> bool {
        let missing = self.missing.lock();
        let lacks = |right: &str, name: &str| missing.iter().any(|it| *it == (right, name));
        !match action {
            Action::Emit { topic } => lacks("Emit", topic.as_str()),
            Action::Subscribe { topic } => lacks("Subscribe", topic.as_str()),
            Action::EmitToGateway { topic } => lacks("EmitToGateway", topic.as_str()),
            Action::SubscribeToGateway { topic } => lacks("SubscribeToGateway", topic.as_str()),
            Action::UseSubscriber { subscriber } => lacks("UseSubscriber", subscriber.as_str()),
            Action::UsePublisher { .. } => lacks("UsePublisher", ""),
            _ => true,
        }
    }
}

/// What a client does, in one frame or a few.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Deed {
    Emit,
    EmitExcept,
    Volatile,
    Subscribe,
    SubscribeDurably,
    SubscribeMerged,
}

/// Each deed with the topic that it concerns, the except topic, and the right whose lack forbids it.
const MATRIX: &[(Deed, &str, &str, Right)] = &[
    (Deed::Emit, "orders", "", ("Emit", "orders")),
    (Deed::Emit, "orders", "", ("UsePublisher", "")),
    (Deed::Emit, "/#board", "", ("EmitToGateway", "/#board")),
    (Deed::EmitExcept, "orders", "audit", ("Emit", "orders")),
    (Deed::EmitExcept, "orders", "audit", ("Emit", "audit")),
    (Deed::EmitExcept, "orders", "audit", ("UsePublisher", "")),
    (Deed::EmitExcept, "/#board", "audit", ("EmitToGateway", "/#board")),
    (Deed::EmitExcept, "orders", "/#board", ("EmitToGateway", "/#board")),
    (Deed::Volatile, "orders", "audit", ("Emit", "orders")),
    (Deed::Volatile, "orders", "audit", ("Emit", "audit")),
    (Deed::Volatile, "/#board", "audit", ("EmitToGateway", "/#board")),
    (Deed::Subscribe, "orders", "", ("Subscribe", "orders")),
    (Deed::Subscribe, "/#board", "", ("SubscribeToGateway", "/#board")),
    (Deed::SubscribeDurably, "orders", "", ("Subscribe", "orders")),
    (Deed::SubscribeDurably, "/#board", "", ("SubscribeToGateway", "/#board")),
    (Deed::SubscribeMerged, "orders", "", ("Subscribe", "orders")),
    (Deed::SubscribeMerged, "/#board", "", ("SubscribeToGateway", "/#board")),
];

/// By which deeds a frame is tried. Those without any ask for nothing of their own: they concern a subscription that was
/// allowed and is judged again by itself, or a request, whose handler is given the identity.
fn deeds_of(frame: &ClientFrame) -> &'static [Deed] {
    match frame {
        ClientFrame::Subscribe(_) => &[Deed::Subscribe, Deed::SubscribeDurably],
        ClientFrame::SubscribeMerged(_) | ClientFrame::BeginMerged { .. } => &[Deed::SubscribeMerged],
        ClientFrame::Emit { .. } => &[Deed::Emit],
        ClientFrame::EmitExcept { .. } => &[Deed::EmitExcept],
        ClientFrame::Volatile { .. } => &[Deed::Volatile],
        ClientFrame::Ack { .. }
        | ClientFrame::Unsubscribe { .. }
        | ClientFrame::Taking { .. }
        | ClientFrame::Resuming { .. } => &[],
        ClientFrame::Ping { .. } | ClientFrame::Pong { .. } => &[],
        ClientFrame::Request(_) | ClientFrame::Reply(_) => &[],
    }
}

struct World {
    rights: Rights,
    server: Server,
    address: String,
    publisher: PublisherId,
    number: u64,
}

impl World {
    async fn new() -> World {
        let rights = Rights::default();
        let server = Server::builder().in_memory().access(rights.clone()).open().await.expect("opens");
        let address = listen(&server).await;
        World { rights, server, address, publisher: PublisherId::from(uuid::Uuid::new_v4()), number: 0 }
    }

    fn hello(&self) -> Hello {
        let features = Features(Features::EXCEPT.0 | Features::MERGED.0 | Features::VOLATILE.0);
        let settled = EmitNumber(self.number);
        Hello { publisher: Some(self.publisher), settled, features, ..hello_subscriber("billing") }
    }

    /// Does it, and says whether it was allowed.
    async fn does<S>(&mut self, peer: &mut Peer<S>, deed: Deed, topic: &str, except: &str) -> bool
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        match deed {
            Deed::Emit => self.emits(peer, event(topic, "x")).await,
            Deed::EmitExcept => self.emits(peer, hidden(topic, except)).await,
            Deed::Volatile => self.gives(peer, hidden(topic, except)).await,
            Deed::Subscribe => {
                peer.send(ClientFrame::Subscribe(narrow(topic, false))).await;
                is_taken(peer).await
            }
            Deed::SubscribeDurably => {
                peer.send(ClientFrame::Subscribe(narrow(topic, true))).await;
                is_taken(peer).await
            }
            Deed::SubscribeMerged => {
                let request = narrow(topic, false);
                peer.send(ClientFrame::SubscribeMerged(SubscribeMerged { group: 1, request })).await;
                peer.send(ClientFrame::BeginMerged { group: 1 }).await;
                is_taken(peer).await
            }
        }
    }

    async fn emits<S>(&mut self, peer: &mut Peer<S>, event: NewEvent) -> bool
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        let (first, events) = (EmitNumber(self.number + 1), vec![event]);
        let frame = match events[0].except.is_empty() {
            true => ClientFrame::Emit { first, events },
            false => ClientFrame::EmitExcept { first, events },
        };
        peer.send(frame).await;
        loop {
            let ServerFrame::Emitted { runs } = within(peer.frame()).await else { continue };
            let fate = runs[0].fate;
            assert!(fate.is_stored() || fate == EmitFate::Refused(RefusalCode::FORBIDDEN), "{fate:?}");
            // A number that was refused is still free.
            self.number += u64::from(fate.is_stored());
            return fate.is_stored();
        }
    }

    /// Whether an event that is not logged reaches who follows its topic now.
    async fn gives<S>(&self, peer: &mut Peer<S>, event: NewEvent) -> bool
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        let topic = event.topics[0].clone();
        let mut reader = Peer::welcomed(&self.address, Hello { features: Features::VOLATILE, ..hello() }).await;
        reader.subscribe(subscribe(topic.as_str(), Start::Latest)).await;
        peer.send(ClientFrame::Volatile { event }).await;
        // What was taken from it before its pong has had its effect.
        peer.send(ClientFrame::Ping { token: 9 }).await;
        while within(peer.frame()).await != (ServerFrame::Pong { token: 9 }) {}
        // The reader has looked at what was left for it when it has answered twice.
        for token in 0..2 {
            reader.send(ClientFrame::Ping { token }).await;
            loop {
                match within(reader.frame()).await {
                    ServerFrame::Volatile(_) => return true,
                    ServerFrame::Pong { .. } => break,
                    _ => {}
                }
            }
        }
        false
    }
}

/// An event that the readers of another topic do not get.
fn hidden(topic: &str, except: &str) -> NewEvent {
    let mut event = event(topic, "x");
    event.except = vec![TopicName::new(except).expect("a name")];
    event
}

/// A subscription from the beginning that is given one event at a time.
fn narrow(topic: &str, durable: bool) -> Subscribe {
    let window = Window::new(1, 1 << 20);
    let start = if durable { Start::Resume { at_least: None } } else { Start::Earliest };
    Subscribe { window, durable, ..subscribe(topic, start) }
}

async fn is_taken<S>(peer: &mut Peer<S>) -> bool
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    loop {
        match within(peer.frame()).await {
            ServerFrame::Subscribed(_) => return true,
            ServerFrame::SubscribeRefused { code, .. } => {
                assert_eq!(code, RefusalCode::FORBIDDEN);
                return false;
            }
            _ => {}
        }
    }
}

#[test]
fn every_action_has_a_row() {
    let source = include_str!("../../src/access.rs");
    let (_, body) = source.split_once("pub enum Action<'a> {").expect("it is there");
    let (body, _) = body.split_once("\n}\n").expect("it ends");
    let actions: BTreeSet<&str> =
        body.lines().filter_map(|line| line.strip_prefix("    ")?.strip_suffix(" {")).collect();
    let rows: BTreeSet<&str> = MATRIX.iter().map(|(.., (right, _))| *right).chain(["UseSubscriber"]).collect();
    assert_eq!(actions, rows);
}

#[test]
fn every_deed_of_a_frame_has_a_row() {
    let topic = || TopicName::new("orders").expect("a name");
    let frames = [
        ClientFrame::Subscribe(narrow("orders", false)),
        ClientFrame::SubscribeMerged(SubscribeMerged { group: 1, request: narrow("orders", false) }),
        ClientFrame::BeginMerged { group: 1 },
        ClientFrame::Emit { first: EmitNumber(1), events: Vec::new() },
        ClientFrame::EmitExcept { first: EmitNumber(1), events: Vec::new() },
        ClientFrame::Volatile { event: event(topic().as_str(), "x") },
    ];
    for deed in frames.iter().flat_map(deeds_of) {
        assert!(MATRIX.iter().any(|(of, ..)| of == deed), "{deed:?}");
    }
}

#[tokio::test]
async fn without_its_right_nothing_is_done_at_first_use_or_at_a_reconnect() {
    for &(deed, topic, except, right) in MATRIX {
        let mut world = World::new().await;
        world.server.emit_event(event(topic, "there before")).await.expect("stored");
        for allowed in [true, false, true] {
            world.rights.missing.lock().clear();
            if !allowed {
                world.rights.missing.lock().insert(right);
            }
            let mut peer = Peer::welcomed(&world.address, world.hello()).await;
            assert_eq!(world.does(&mut peer, deed, topic, except).await, allowed, "{deed:?} {topic} {right:?}");
        }
        // Once more where the very first use is forbidden.
        let mut world = World::new().await;
        world.rights.missing.lock().insert(right);
        let mut peer = Peer::welcomed(&world.address, world.hello()).await;
        assert!(!world.does(&mut peer, deed, topic, except).await, "{deed:?} {topic} {right:?}");
    }
}

#[tokio::test]
async fn a_right_that_is_taken_away_is_gone_on_the_connection_and_in_the_middle_of_a_replay() {
    for &(deed, topic, except, right) in MATRIX {
        let mut world = World::new().await;
        emit_numbered(&world.server, topic, 0..5).await;
        let mut peer = Peer::welcomed(&world.address, world.hello()).await;
        assert!(world.does(&mut peer, deed, topic, except).await, "{deed:?} {topic} {right:?}");
        let is_reader = matches!(deed, Deed::Subscribe | Deed::SubscribeDurably | Deed::SubscribeMerged);
        if is_reader {
            if deed == Deed::SubscribeDurably {
                // Its first start is the latest.
                emit_numbered(&world.server, topic, 0..5).await;
            }
            // Four are left behind its window.
            assert_eq!(payloads(&within(peer.events(1)).await), ["0"]);
        }
        world.rights.missing.lock().insert(right);
        world.server.reauthorize();
        if is_reader {
            assert!(!is_taken(&mut peer).await, "{deed:?}: its end is told as a refusal");
            // Nothing more comes, and the id is free for what is allowed.
            peer.send(ClientFrame::Ping { token: 3 }).await;
            assert_eq!(within(peer.frame()).await, ServerFrame::Pong { token: 3 }, "{deed:?}");
        } else {
            assert!(!world.does(&mut peer, deed, topic, except).await, "{deed:?} {topic} {right:?}");
        }
        world.rights.missing.lock().clear();
        world.server.reauthorize();
        let mut back = Peer::welcomed(&world.address, world.hello()).await;
        assert!(world.does(&mut back, deed, topic, except).await, "{deed:?} {topic} {right:?}: it is given back");
    }
}

#[tokio::test]
async fn a_durable_name_is_asked_for_at_each_connection_and_when_rights_change() {
    let world = World::new().await;
    let right = ("UseSubscriber", "billing");
    world.rights.missing.lock().insert(right);
    let mut peer = Peer::connect(&world.address).await;
    peer.send_bytes(encode_hello(&world.hello())).await;
    assert_eq!(peer.closed().await.code, CloseCode::UNAUTHENTICATED);
    world.rights.missing.lock().clear();
    let mut peer = Peer::welcomed(&world.address, world.hello()).await;
    world.rights.missing.lock().insert(right);
    world.server.reauthorize();
    let close = within(peer.closed()).await;
    assert_eq!(close.code, CloseCode::DISCONNECTED);
    assert!(close.reason.contains("subscriber"), "{close:?}");
}

#[tokio::test]
async fn who_may_not_read_a_topic_takes_it_over_from_nobody() {
    let world = World::new().await;
    let mut owner = Peer::welcomed(&world.address, world.hello()).await;
    owner.send(ClientFrame::Subscribe(narrow("orders", true))).await;
    assert!(is_taken(&mut owner).await);
    world.rights.missing.lock().insert(("Subscribe", "orders"));
    let mut thief = Peer::welcomed(&world.address, hello_subscriber("billing")).await;
    thief.send(ClientFrame::Subscribe(narrow("orders", true))).await;
    assert!(!is_taken(&mut thief).await);
    world.server.emit_event(event("orders", "mine")).await.expect("stored");
    assert_eq!(payloads(&within(owner.events(1)).await), ["mine"], "the owner was told nothing");
}

/// Anonymous, who may do all that the default allows.
#[tokio::test]
async fn topics_of_gateways_are_closed_to_native_clients_unless_the_app_opens_them() {
    for open in [false, true] {
        let server = Server::builder().in_memory().gateway_topics_open(open).open().await.expect("opens");
        let address = listen(&server).await;
        server.emit_event(event("/private#board", "salary")).await.expect("the process itself may");
        let mut peer = Peer::welcomed(&address, hello_publisher()).await;
        let run = peer.emit(1, vec![event("/private#board", "forged")]).await;
        assert_eq!(run[0].fate.is_stored(), open);
        peer.send(ClientFrame::Subscribe(narrow("/private#board", false))).await;
        assert_eq!(is_taken(&mut peer).await, open);
    }
}

#[tokio::test]
async fn an_identity_that_expires_is_closed_as_expired_and_others_stay() {
    struct Clock;
    impl Access for Clock {
        async fn authenticate(&self, request: ConnectRequest) -> Result<Identity, Denied> {
            let now = std::time::SystemTime::now();
            match request.auth.as_deref() {
                Some(b"soon") => Ok(Identity::new("soon").expires_at(now + std::time::Duration::from_millis(300))),
                Some(b"past") => Ok(Identity::new("past").expires_at(now - std::time::Duration::from_secs(1))),
                _ => Ok(Identity::new("ever")),
            }
        }

        fn allow(&self, _identity: &Identity, _action: Action<'_>) -> bool {
            true
        }
    }
    let server = Server::builder().in_memory().access(Clock).open().await.expect("opens");
    let address = listen(&server).await;
    let with = |auth: &'static [u8]| Hello { auth: Some(auth.into()), ..hello() };
    let mut ever = Peer::welcomed(&address, with(b"ever")).await;
    let mut soon = Peer::welcomed(&address, with(b"soon")).await;
    soon.subscribe(subscribe("orders", Start::Latest)).await;
    assert_eq!(within(soon.closed()).await.code, CloseCode::EXPIRED);
    let mut past = Peer::connect(&address).await;
    past.send_bytes(encode_hello(&with(b"past"))).await;
    assert_eq!(within(past.closed()).await.code, CloseCode::EXPIRED);
    let registered = server.gateway().register(Identity::new("g").expires_at(std::time::SystemTime::now()), None, "x");
    let mut registered = registered.expect("there is room");
    let redeliver_server::RegistrationEvent::Ended(close) = within(registered.next()).await else { panic!("it ends") };
    assert_eq!(close.code, CloseCode::EXPIRED);
    assert_eq!(server.disconnect_identity("nobody", "x"), 0);
    assert_eq!(server.disconnect_identity("ever", "that is enough"), 1);
    let FromServer::Close(close) = within(ever.next()).await else { panic!("it is closed") };
    assert_eq!((close.code, close.reason.as_str()), (CloseCode::DISCONNECTED, "that is enough"));
}
