//! A client made of raw frames, over TCP or a pipe, and what is needed to start a server for it. Decides nothing itself,
//! except that it answers pings.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use redeliver_protocol::codec::{FromServer, Records, decode_from_server, encode_client, encode_hello};
use redeliver_protocol::error::Close;
use redeliver_protocol::event::{NewEvent, PayloadKind, Record};
use redeliver_protocol::features::Features;
use redeliver_protocol::frame::{
    ClientFrame, Events, Hello, Ownership, ServerFrame, Subscribe, Subscribed, Welcome, Window,
};
use redeliver_protocol::history::{EmitRun, Start};
use redeliver_protocol::name::{EventName, SubscriberName, TopicName};
use redeliver_protocol::seq::{EmitNumber, InstanceId, Nth, PublisherId, Seq, SubscriptionId};
use redeliver_server::{OpenStream, Server};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

pub(crate) const ID: SubscriptionId = SubscriptionId(7);

/// A server in memory, and its address.
pub(crate) async fn serve() -> (Server, String) {
    let server = Server::builder().in_memory().open().await.expect("opens in memory");
    let address = listen(&server).await;
    (server, address)
}

/// Serves on a port of its own.
pub(crate) async fn listen(server: &Server) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    tokio::spawn(server.serve(listener));
    address
}

/// Waits for something that must come soon.
pub(crate) async fn within<F: Future>(waiting: F) -> F::Output {
    tokio::time::timeout(std::time::Duration::from_secs(30), waiting).await.expect("it comes in time")
}

pub(crate) struct Peer<S> {
    pub(crate) socket: WebSocketStream<S>,
}

impl Peer<TcpStream> {
    /// Connects over TCP; no Hello yet.
    pub(crate) async fn connect(address: &str) -> Peer<TcpStream> {
        let stream = TcpStream::connect(address).await.expect("connects");
        let (socket, _) = tokio_tungstenite::client_async(format!("ws://{address}/"), stream).await.expect("upgrades");
        Peer { socket }
    }

    /// Connects over TCP and is welcomed.
    pub(crate) async fn welcomed(address: &str, hello: Hello) -> Peer<TcpStream> {
        let mut peer = Peer::connect(address).await;
        peer.hello(hello).await;
        peer
    }
}

impl Peer<DuplexStream> {
    /// Connects from within the process.
    pub(crate) async fn in_process(server: &Server) -> Peer<DuplexStream> {
        let (socket, _) =
            tokio_tungstenite::client_async("ws://in-process/", server.open_stream()).await.expect("upgrades");
        Peer { socket }
    }

    /// Connects over a pipe that holds so many bytes.
    pub(crate) async fn over_pipe(server: &Server, bytes: usize) -> Peer<DuplexStream> {
        let (near, far) = tokio::io::duplex(bytes);
        let server = server.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let response = server.handle_upgrade(request, None);
                async move { Ok::<_, Infallible>(response) }
            });
            let http = hyper::server::conn::http1::Builder::new();
            http.serve_connection(TokioIo::new(far), service).with_upgrades().await.expect("upgrades");
        });
        let (socket, _) = tokio_tungstenite::client_async("ws://pipe/", near).await.expect("upgrades");
        Peer { socket }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    pub(crate) async fn hello(&mut self, hello: Hello) -> Welcome {
        self.send_bytes(encode_hello(&hello)).await;
        match self.frame().await {
            ServerFrame::Welcome(welcome) => welcome,
            other => panic!("expected Welcome, got {other:?}"),
        }
    }

    pub(crate) async fn send_bytes(&mut self, bytes: Bytes) {
        self.socket.send(Message::Binary(bytes)).await.expect("sends");
    }

    pub(crate) async fn send(&mut self, frame: ClientFrame) {
        self.send_bytes(encode_client(&frame)).await;
    }

    /// The next frame or close that is no ping.
    pub(crate) async fn next(&mut self) -> FromServer {
        loop {
            let message = self.socket.next().await.expect("a message before the end").expect("a whole message");
            let Message::Binary(bytes) = message else { continue };
            match decode_from_server(&bytes).expect("a frame") {
                FromServer::Frame(ServerFrame::Ping { token }) => {
                    // The server may have gone meanwhile; what it said before is still to be read.
                    let pong = encode_client(&ClientFrame::Pong { token });
                    let _ = self.socket.send(Message::Binary(pong)).await;
                }
                other => return other,
            }
        }
    }

    pub(crate) async fn frame(&mut self) -> ServerFrame {
        match self.next().await {
            FromServer::Frame(frame) => frame,
            FromServer::Close(close) => panic!("closed: {close:?}"),
        }
    }

    /// Reads on until the server closes, and the socket with it.
    pub(crate) async fn closed(&mut self) -> Close {
        let close = loop {
            if let FromServer::Close(close) = self.next().await {
                break close;
            }
        };
        while let Some(Ok(message)) = self.socket.next().await {
            assert!(matches!(message, Message::Close(_)), "nothing follows a close");
        }
        close
    }

    pub(crate) async fn subscribe(&mut self, request: Subscribe) -> Subscribed {
        self.send(ClientFrame::Subscribe(request)).await;
        match self.frame().await {
            ServerFrame::Subscribed(subscribed) => subscribed,
            other => panic!("expected Subscribed, got {other:?}"),
        }
    }

    /// Emits and waits for what became of it.
    pub(crate) async fn emit(&mut self, first: u64, events: Vec<NewEvent>) -> Vec<EmitRun> {
        self.send(ClientFrame::Emit { first: EmitNumber(first), events }).await;
        match self.frame().await {
            ServerFrame::Emitted { runs } => runs,
            other => panic!("expected Emitted, got {other:?}"),
        }
    }

    /// The next so many events, and nothing but events and CaughtUp until then.
    pub(crate) async fn events(&mut self, count: usize) -> Vec<Record> {
        let mut records = Vec::new();
        while records.len() < count {
            match self.frame().await {
                ServerFrame::Events(Events { records: bytes, .. }) => {
                    records.extend(Records::new(bytes).map(|record| record.expect("a record")));
                }
                ServerFrame::CaughtUp { .. } => {}
                other => panic!("expected events, got {other:?}"),
            }
        }
        records
    }

    pub(crate) async fn ack(&mut self, record: &Record) {
        self.send(ClientFrame::Ack { id: ID, seq: record.seq, nth: record.nth }).await;
    }

    /// Acks and waits until it is confirmed.
    pub(crate) async fn ack_confirmed(&mut self, record: &Record) {
        self.ack(record).await;
        loop {
            match self.frame().await {
                ServerFrame::Acked { id: ID, seq } if seq == record.seq => return,
                ServerFrame::CaughtUp { .. } => {}
                other => panic!("expected Acked, got {other:?}"),
            }
        }
    }
}

pub(crate) fn hello() -> Hello {
    Hello {
        instance: InstanceId::from(uuid::Uuid::new_v4()),
        publisher: None,
        settled: EmitNumber::ZERO,
        subscriber: None,
        auth: None,
        client_name: "a test".to_owned(),
        features: Features::NONE,
    }
}

pub(crate) fn hello_publisher() -> Hello {
    Hello { publisher: Some(PublisherId::from(uuid::Uuid::new_v4())), ..hello() }
}

pub(crate) fn hello_subscriber(name: &str) -> Hello {
    Hello { subscriber: Some(SubscriberName::new(name).expect("a name")), ..hello() }
}

pub(crate) fn subscribe(topic: &str, start: Start) -> Subscribe {
    Subscribe {
        id: ID,
        topic: TopicName::new(topic).expect("a topic"),
        start,
        window: Window::default(),
        ownership: Ownership::Takeover,
        durable: false,
    }
}

pub(crate) fn resume(topic: &str) -> Subscribe {
    Subscribe { durable: true, ..subscribe(topic, Start::Resume { at_least: None }) }
}

pub(crate) fn event(topic: &str, payload: impl Into<Bytes>) -> NewEvent {
    let name = EventName::new("happened").expect("a name");
    NewEvent::new(TopicName::new(topic).expect("a topic"), name, PayloadKind::Bytes, payload)
}

/// Emits events with payloads `0`, `1`, … from within the process.
pub(crate) async fn emit_numbered(server: &Server, topic: &str, range: std::ops::Range<u64>) {
    for number in range {
        server.emit_event(event(topic, number.to_string())).await.expect("stored");
    }
}

pub(crate) fn payloads(records: &[Record]) -> Vec<String> {
    records.iter().map(|record| String::from_utf8_lossy(&record.payload).into_owned()).collect()
}

pub(crate) fn numbers(range: std::ops::Range<u64>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

pub(crate) fn seqs_and_nths(records: &[Record]) -> Vec<(Seq, Nth)> {
    records.iter().map(|record| (record.seq, record.nth)).collect()
}
