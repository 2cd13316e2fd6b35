//! Raw peers: a WebSocket that sends whatever it is told to, and a socket that sends any bytes.

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use redeliver_protocol::codec::{FromServer, Records, decode_from_server, encode_client, encode_hello};
use redeliver_protocol::error::Close;
use redeliver_protocol::event::{NewEvent, PayloadKind, Record};
use redeliver_protocol::features::Features;
use redeliver_protocol::frame::{ClientFrame, Hello, Ownership, ServerFrame, Subscribe, Subscribed, Window};
use redeliver_protocol::history::Start;
use redeliver_protocol::name::{EventName, SubscriberName, TopicName};
use redeliver_protocol::seq::{EmitNumber, InstanceId, PublisherId, SubscriptionId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use uuid::Uuid;

use crate::attack::within;

pub(crate) const ID: SubscriptionId = SubscriptionId(7);

pub(crate) struct Peer {
    pub(crate) socket: WebSocketStream<TcpStream>,
}

impl Peer {
    /// Shakes hands; no Hello yet.
    pub(crate) async fn connect(address: &str) -> Peer {
        let stream = TcpStream::connect(address).await.unwrap();
        let shaking = tokio_tungstenite::client_async(format!("ws://{address}/"), stream);
        let (socket, _) = within("a peer is let in", shaking).await.unwrap();
        Peer { socket }
    }

    /// Shakes hands and is welcomed.
    pub(crate) async fn welcomed(address: &str, hello: &Hello) -> Peer {
        let mut peer = Peer::connect(address).await;
        peer.send_bytes(encode_hello(hello)).await;
        match peer.frame().await {
            ServerFrame::Welcome(_) => peer,
            other => panic!("expected Welcome, got {other:?}"),
        }
    }

    /// Sends a message. The server may have closed already.
    pub(crate) async fn say(&mut self, message: Message) {
        let _ = self.socket.send(message).await;
    }

    pub(crate) async fn send_bytes(&mut self, bytes: impl Into<Bytes>) {
        self.say(Message::Binary(bytes.into())).await;
    }

    pub(crate) async fn send(&mut self, frame: &ClientFrame) {
        self.send_bytes(encode_client(frame)).await;
    }

    /// The next frame or close that is no ping. (Who pings whom when is not looked at here.)
    pub(crate) async fn next(&mut self) -> FromServer {
        loop {
            let message = within("the server answers", self.socket.next()).await.expect("a close before the end");
            if let Message::Binary(bytes) = message.unwrap() {
                match decode_from_server(&bytes).unwrap() {
                    FromServer::Frame(ServerFrame::Ping { .. }) => {}
                    other => return other,
                }
            }
        }
    }

    pub(crate) async fn frame(&mut self) -> ServerFrame {
        match self.next().await {
            FromServer::Frame(frame) => frame,
            FromServer::Close(close) => panic!("closed: {close:?}"),
        }
    }

    /// Reads on until the server closes the conversation, and then the WebSocket.
    pub(crate) async fn closed(&mut self) -> Close {
        let close = loop {
            if let FromServer::Close(close) = self.next().await {
                break close;
            }
        };
        match within("the socket is closed", self.socket.next()).await {
            None | Some(Ok(Message::Close(_)) | Err(_)) => close,
            Some(Ok(message)) => panic!("{message:?} came behind a close"),
        }
    }

    pub(crate) async fn subscribe(&mut self, request: Subscribe) -> Subscribed {
        self.send(&ClientFrame::Subscribe(request)).await;
        match self.frame().await {
            ServerFrame::Subscribed(subscribed) => subscribed,
            other => panic!("expected Subscribed, got {other:?}"),
        }
    }

    /// All events until the end that was there at the subscribe.
    pub(crate) async fn until_caught_up(&mut self) -> Vec<Record> {
        let mut records = Vec::new();
        loop {
            match self.frame().await {
                ServerFrame::Events(events) => records.extend(Records::new(events.records).map(Result::unwrap)),
                ServerFrame::CaughtUp { .. } => return records,
                other => panic!("expected events, got {other:?}"),
            }
        }
    }
}

/// The status with which a path is answered.
pub(crate) async fn get(address: &str, path: &str) -> u16 {
    let mut stream = TcpStream::connect(address).await.unwrap();
    status(&exchange(&mut stream, format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes()).await)
}

/// Sends these bytes, and reads until the server closes.
pub(crate) async fn exchange(stream: &mut TcpStream, bytes: &[u8]) -> Vec<u8> {
    // The server may close before it has all of it.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = within("the server closes", stream.read_to_end(&mut answer)).await;
    answer
}

pub(crate) fn status(answer: &[u8]) -> u16 {
    let answer = String::from_utf8_lossy(answer);
    answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("no status: {answer:?}"))
}

/// A handshake with more headers, each of which ends in a line break.
pub(crate) fn handshake(headers: &str) -> Vec<u8> {
    format!(
        "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    )
    .into_bytes()
}

/// Shakes hands over a bare socket.
pub(crate) async fn bare(address: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&handshake("")).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within("the handshake is answered", stream.read_u8()).await.unwrap());
    }
    assert_eq!(status(&head), 101);
    stream
}

/// A WebSocket frame's header, with a mask of zeros, so that the payload stays as it is.
pub(crate) fn header(first: u8, bytes: u64) -> Vec<u8> {
    let mut out = vec![first];
    if let Ok(short @ ..126) = u8::try_from(bytes) {
        out.push(0x80 | short);
    } else if let Ok(medium) = u16::try_from(bytes) {
        out.push(0x80 | 126);
        out.extend(medium.to_be_bytes());
    } else {
        out.push(0x80 | 127);
        out.extend(bytes.to_be_bytes());
    }
    out.extend([0; 4]);
    out
}

/// A whole binary message in one frame.
pub(crate) fn framed(message: &[u8]) -> Vec<u8> {
    [header(FINAL | BINARY, message.len() as u64), message.to_vec()].concat()
}

pub(crate) const FINAL: u8 = 0x80;
pub(crate) const CONTINUATION: u8 = 0;
pub(crate) const BINARY: u8 = 2;
pub(crate) const PING: u8 = 9;

pub(crate) fn hello() -> Hello {
    Hello {
        instance: InstanceId::from(Uuid::new_v4()),
        publisher: None,
        settled: EmitNumber::ZERO,
        subscriber: None,
        auth: None,
        client_name: "a hostile peer".to_owned(),
        features: Features::NONE,
    }
}

pub(crate) fn hello_publisher() -> Hello {
    Hello { publisher: Some(PublisherId::from(Uuid::new_v4())), ..hello() }
}

pub(crate) fn hello_subscriber(name: &str) -> Hello {
    Hello { subscriber: Some(SubscriberName::new(name).unwrap()), ..hello() }
}

pub(crate) fn subscribe(topic: &str, start: Start) -> Subscribe {
    Subscribe {
        id: ID,
        topic: TopicName::new(topic).unwrap(),
        start,
        window: Window::default(),
        ownership: Ownership::Takeover,
        durable: false,
    }
}

pub(crate) fn event(topic: &str, payload: impl Into<Bytes>) -> NewEvent {
    NewEvent::new(TopicName::new(topic).unwrap(), EventName::new("happened").unwrap(), PayloadKind::Bytes, payload)
}

pub(crate) fn emit(first: u64, events: Vec<NewEvent>) -> ClientFrame {
    ClientFrame::Emit { first: EmitNumber(first), events }
}
