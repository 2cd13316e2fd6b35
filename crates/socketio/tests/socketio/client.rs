//! A small Socket.IO client over a WebSocket, and a server for it. Keeps its last offset as the JavaScript client does:
//! any last argument that is a string.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use redeliver_server::{Server, ServerBuilder};
use redeliver_socketio::{Config, SocketIo};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

/// A server with its gateway on a port of its own.
pub(crate) struct Host {
    pub(crate) server: Server,
    pub(crate) io: SocketIo,
    pub(crate) address: SocketAddr,
}

impl Host {
    pub(crate) async fn start() -> Host {
        Host::with(Server::builder().in_memory(), Config::default()).await
    }

    pub(crate) async fn with(builder: ServerBuilder, config: Config) -> Host {
        let server = builder.open().await.unwrap();
        let io = SocketIo::builder(server.clone()).config(config).build();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(server.serve_with(listener, io.clone()));
        Host { server, io, address }
    }

    pub(crate) async fn connect(&self) -> Client {
        self.connect_with(&json!({})).await
    }

    /// A client of the namespace `/`, connected with this `auth`.
    pub(crate) async fn connect_with(&self, auth: &Value) -> Client {
        let mut client = self.open().await;
        client.join(auth).await.unwrap();
        client
    }

    /// An Engine.IO connection that is in no namespace yet.
    pub(crate) async fn open(&self) -> Client {
        let url = format!("ws://{}/socket.io/?EIO=4&transport=websocket", self.address);
        let (wire, _) = tokio_tungstenite::connect_async(url).await.unwrap();
        let (skipped, attachments) = (VecDeque::new(), Vec::new());
        let mut client = Client { wire, skipped, sid: String::new(), pid: None, offset: None, pings: 0, attachments };
        assert!(client.text().await.unwrap().starts_with('0'));
        client
    }
}

pub(crate) struct Client {
    wire: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// What came before an answer that was waited for.
    skipped: VecDeque<String>,
    pub(crate) sid: String,
    pub(crate) pid: Option<String>,
    pub(crate) offset: Option<String>,
    /// How many were answered.
    pub(crate) pings: usize,
    /// Of the packet that was read last.
    pub(crate) attachments: Vec<Bytes>,
}

impl Client {
    /// Connects to `/`. Fails with the error that the client is told, or null if the connection is closed.
    pub(crate) async fn join(&mut self, auth: &Value) -> Result<(), Value> {
        self.send(&format!("40{auth}")).await;
        loop {
            let Some(packet) = self.packet().await else { return Err(Value::Null) };
            if let Some(answer) = packet.strip_prefix('0') {
                let answer: Value = serde_json::from_str(answer).unwrap();
                answer["sid"].as_str().unwrap().clone_into(&mut self.sid);
                self.pid = answer["pid"].as_str().map(str::to_owned);
                return Ok(());
            }
            if let Some(error) = packet.strip_prefix('4') {
                return Err(serde_json::from_str(error).unwrap());
            }
        }
    }

    /// What a client shows in its next CONNECT.
    pub(crate) fn shown(&self) -> Value {
        json!({ "pid": self.pid, "offset": self.offset })
    }

    pub(crate) async fn send(&mut self, text: &str) {
        // Who writes to a closed connection reads so.
        let _ = self.wire.send(Message::text(text)).await;
    }

    pub(crate) async fn send_binary(&mut self, bytes: &[u8]) {
        let _ = self.wire.send(Message::binary(bytes.to_vec())).await;
    }

    /// The next event without its offset, if it has one.
    pub(crate) async fn event(&mut self) -> Value {
        loop {
            let packet = self.packet().await.expect("the server closed the connection");
            let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
            let body = match packet.as_bytes().first() {
                Some(b'2') => &packet[1 + digits(&packet[1..])..],
                Some(b'5') => packet.split_once('-').unwrap().1,
                _ => continue,
            };
            let mut event: Vec<Value> = serde_json::from_str(body).unwrap();
            if event.last().is_some_and(|last| last.as_str().is_some_and(|last| last.starts_with("rd1."))) {
                self.offset = event.pop().map(|offset| offset.as_str().unwrap().to_owned());
            }
            return Value::Array(event);
        }
    }

    /// The first argument of each of the next events of this name.
    pub(crate) async fn numbers(&mut self, name: &str, count: usize) -> Vec<u64> {
        let mut numbers = Vec::new();
        while numbers.len() < count {
            let event = self.event().await;
            if event[0] == name {
                numbers.push(event[1].as_u64().unwrap());
            }
        }
        numbers
    }

    /// The next Socket.IO packet, with its attachments read. Pings are answered. Nothing if the connection is closed.
    pub(crate) async fn packet(&mut self) -> Option<String> {
        if let Some(skipped) = self.skipped.pop_front() {
            return Some(skipped);
        }
        loop {
            let text = self.text().await?;
            match text.split_at(1) {
                ("2", _) => {
                    self.pings += 1;
                    self.send("3").await;
                }
                ("4", packet) => {
                    let packet = packet.to_owned();
                    self.attachments.clear();
                    if matches!(packet.as_bytes()[0], b'5' | b'6') {
                        let count = packet[1..].split_once('-').unwrap().0.parse::<usize>().unwrap();
                        while self.attachments.len() < count {
                            if let Message::Binary(bytes) = self.message().await? {
                                self.attachments.push(bytes);
                            }
                        }
                    }
                    return Some(packet);
                }
                _ => return None,
            }
        }
    }

    /// Emits with an ack id and gives the answer.
    pub(crate) async fn ask(&mut self, event: &Value) -> Value {
        self.send(&format!("427{event}")).await;
        let mut skipped = VecDeque::new();
        loop {
            let packet = self.packet().await.expect("the server closed the connection");
            if let Some(answer) = packet.strip_prefix("37") {
                self.skipped = skipped;
                return serde_json::from_str(answer).unwrap();
            }
            skipped.push_back(packet);
        }
    }

    async fn text(&mut self) -> Option<String> {
        loop {
            match self.message().await? {
                Message::Text(text) => return Some(text.to_string()),
                Message::Close(_) => return None,
                Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    }

    async fn message(&mut self) -> Option<Message> {
        // Only ever waited out where the test has failed.
        let next = tokio::time::timeout(Duration::from_secs(20), self.wire.next());
        next.await.expect("nothing came").and_then(Result::ok)
    }
}
