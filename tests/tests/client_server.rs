//! The real client and the real server over TCP, with lines that break where the test says and servers that go away.

#![allow(clippy::unwrap_used, reason = "what cannot be unwrapped fails its test")]

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use redeliver_client::{
    Client, ClientBuilder, Connector, Delivery, EmitNumber, Endpoint, Event, FileCursorStore, GapCause, NewEvent,
    Notice, PayloadKind, Start, Subscription, SubscriptionEnd,
};
use redeliver_server::Server;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// The way to whichever server is there now; its next connections break after so many bytes.
#[derive(Clone)]
struct Line {
    server: Arc<Mutex<SocketAddr>>,
    bytes_left: Arc<Mutex<VecDeque<usize>>>,
}

impl Line {
    async fn to(server: &Server) -> Line {
        Line::to_address(listen(server).await.0)
    }

    fn to_address(address: SocketAddr) -> Line {
        Line { server: Arc::new(Mutex::new(address)), bytes_left: Arc::default() }
    }

    /// A line to the same server, with breaks of its own.
    fn alone(&self) -> Line {
        Line { server: Arc::clone(&self.server), bytes_left: Arc::default() }
    }

    /// The next connection breaks after this many bytes, of both directions together.
    fn break_after(&self, bytes: usize) {
        self.bytes_left.lock().unwrap().push_back(bytes);
    }

    fn client(&self) -> ClientBuilder<Line> {
        let (first, max) = (Duration::from_millis(1), Duration::from_millis(20));
        Client::builder("ws://server").connector(self.clone()).backoff(first, max)
    }
}

impl Connector for Line {
    type Io = Fragile;

    async fn connect(&self, _endpoint: &Endpoint) -> io::Result<Fragile> {
        let server = *self.server.lock().unwrap();
        let io = TcpStream::connect(server).await?;
        io.set_nodelay(true)?;
        let bytes_left = self.bytes_left.lock().unwrap().pop_front().unwrap_or(usize::MAX);
        Ok(Fragile { io, bytes_left })
    }
}

struct Fragile {
    io: TcpStream,
    bytes_left: usize,
}

impl Fragile {
    fn broken<T>(&self) -> Option<Poll<io::Result<T>>> {
        (self.bytes_left == 0).then(|| Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())))
    }
}

impl AsyncRead for Fragile {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(broken) = self.broken() {
            return broken;
        }
        let mut bytes = vec![0; buf.remaining().min(self.bytes_left)];
        let mut limited = ReadBuf::new(&mut bytes);
        std::task::ready!(Pin::new(&mut self.io).poll_read(cx, &mut limited))?;
        self.bytes_left -= limited.filled().len();
        buf.put_slice(limited.filled());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Fragile {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(broken) = self.broken() {
            return broken;
        }
        let bytes = &bytes[..bytes.len().min(self.bytes_left)];
        let written = std::task::ready!(Pin::new(&mut self.io).poll_write(cx, bytes))?;
        self.bytes_left -= written;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

async fn listen(server: &Server) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (address, tokio::spawn(server.serve(listener)))
}

async fn in_memory() -> Server {
    Server::builder().in_memory().open().await.unwrap()
}

fn event(topic: &str, payload: &str) -> NewEvent {
    NewEvent::new(topic.try_into().unwrap(), "test".try_into().unwrap(), PayloadKind::Text, payload.to_owned())
}

/// The next event; passes over all but gaps.
async fn next_event(subscription: &mut Subscription) -> Event {
    loop {
        match subscription.next().await.expect("the subscription has ended") {
            Delivery::Event(event) => return event,
            Delivery::Gap(gap) => panic!("a gap: {gap:?}"),
            Delivery::CaughtUp { .. } | Delivery::Resumed { .. } | _ => {}
        }
    }
}

async fn next_texts(subscription: &mut Subscription, count: usize) -> Vec<String> {
    let mut texts = Vec::new();
    while texts.len() < count {
        texts.push(next_event(subscription).await.text().unwrap().to_owned());
    }
    texts
}

fn texts(range: std::ops::RangeInclusive<u32>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

#[tokio::test]
async fn what_one_client_emits_another_one_gets_in_order() {
    let server = in_memory().await;
    let line = Line::to(&server).await;
    let (emitter, reader) = (line.client().connect().await.unwrap(), line.client().connect().await.unwrap());
    let mut orders = reader.subscribe("orders").window((100, 100_000)).auto_ack().await.unwrap();
    let emitting = async {
        let mut receipts = Vec::new();
        for n in 1..=5000 {
            receipts.push(emitter.queue(event("orders", &n.to_string())).await.unwrap());
        }
        for (n, receipt) in (1..).zip(receipts) {
            assert_eq!(receipt.await.unwrap().seq().unwrap().0, n);
        }
    };
    let ((), got) = tokio::join!(emitting, next_texts(&mut orders, 5000));
    assert_eq!(got, texts(1..=5000));
    emitter.shutdown(Duration::from_secs(10)).await.unwrap();
    reader.shutdown(Duration::from_secs(10)).await.unwrap();
}

#[tokio::test]
async fn a_connection_that_breaks_after_any_number_of_bytes_loses_and_doubles_nothing() {
    let server = in_memory().await;
    let line = Line::to(&server).await;
    let mut clients = JoinSet::new();
    for bytes in (0..2100).step_by(3) {
        clients.spawn(live_through_breaks(line.alone(), bytes));
        if clients.len() == 50 {
            clients.join_next().await.unwrap().unwrap();
        }
    }
    clients.join_all().await;
}

async fn live_through_breaks(line: Line, bytes: usize) {
    let topic = format!("broken after {bytes}");
    line.break_after(bytes);
    line.break_after(bytes / 2 + 300);
    let client = line.client().subscriber("reader").connect_lazy().unwrap();
    let follow = client.subscribe(&topic).start(Start::Earliest).durable().auto_ack();
    let emitting = async {
        for n in 1..=3 {
            client.emit_event(event(&topic, &n.to_string())).await.unwrap();
        }
    };
    let reading = async {
        let mut subscription = follow.await.unwrap();
        assert_eq!(next_texts(&mut subscription, 3).await, texts(1..=3), "{topic}");
        subscription.close().await.unwrap();
    };
    tokio::join!(emitting, reading);

    // Nothing was stored twice, and all of it is acknowledged.
    client.emit_event(event(&topic, "4")).await.unwrap();
    let mut rest = client.subscribe(&topic).durable().await.unwrap();
    let last = next_event(&mut rest).await;
    assert_eq!((last.text().unwrap(), last.nth.0), ("4", 4), "{topic}");
    client.shutdown(Duration::from_secs(30)).await.unwrap();
}

#[tokio::test]
async fn emitter_and_reader_live_through_restarts_of_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Server::builder().data_dir(folder.path().join("data")).open();
    let mut server = open().await.unwrap();
    let (address, mut serving) = listen(&server).await;
    let line = Line::to_address(address);
    let emitter = line.client().outbox(50, 100_000).connect().await.unwrap();
    let reader = line.client().connect().await.unwrap();
    let mut orders = reader.subscribe("orders").auto_ack().await.unwrap();
    let (acknowledged, mut progress) = watch::channel(0);
    let emitting = async {
        let mut receipts = VecDeque::new();
        for n in 1..=2000 {
            receipts.push_back(emitter.queue(event("orders", &n.to_string())).await.unwrap());
            if receipts.len() > 40 {
                receipts.pop_front().unwrap().await.unwrap();
                acknowledged.send_replace(n - 40);
            }
        }
        for receipt in receipts {
            receipt.await.unwrap();
        }
    };
    let restarting = async {
        for restart in 1..=3 {
            progress.wait_for(|acknowledged| *acknowledged > restart * 500).await.unwrap();
            server.shutdown(Duration::from_secs(30)).await.unwrap();
            serving.await.unwrap();
            drop(server);
            server = open().await.unwrap();
            (*line.server.lock().unwrap(), serving) = listen(&server).await;
        }
        server
    };
    let ((), server, got) = tokio::join!(emitting, restarting, next_texts(&mut orders, 2000));
    assert_eq!(got, texts(1..=2000));
    assert_eq!(server.head().seq.0, 2000);
}

#[tokio::test]
async fn a_log_that_was_wiped_is_told_to_emitter_and_reader() {
    let first = in_memory().await;
    let line = Line::to(&first).await;
    let client = line.client().connect().await.unwrap();
    let mut notices = client.notices();
    let mut orders = client.subscribe("orders").auto_ack().await.unwrap();
    for payload in texts(1..=3) {
        client.emit_event(event("orders", &payload)).await.unwrap();
    }
    assert_eq!(next_texts(&mut orders, 3).await, texts(1..=3));

    let second = in_memory().await;
    let (address, _) = listen(&second).await;
    *line.server.lock().unwrap() = address;
    // It is cut where it is.
    let _ = first.shutdown(Duration::from_millis(200)).await;
    let lost = Notice::EmitsLost { from: EmitNumber(1), through: EmitNumber(3) };
    assert_eq!(notices.next().await, Some(lost));
    let gap = loop {
        match orders.next().await.expect("the subscription has ended") {
            Delivery::Gap(gap) => break gap,
            Delivery::Event(event) => panic!("an event of the other log without a gap before it: {event:?}"),
            Delivery::CaughtUp { .. } | Delivery::Resumed { .. } | _ => {}
        }
    };
    assert_eq!(gap.cause, GapCause::EpochChanged);
    client.emit_event(event("orders", "new")).await.unwrap();
    assert_eq!(next_event(&mut orders).await.text().unwrap(), "new");
}

#[tokio::test]
async fn a_restarted_client_with_a_file_of_cursors_gets_the_unhandled_again_and_marked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cursors");
    let server = in_memory().await;
    let line = Line::to(&server).await;
    for n in 1..=3 {
        server.emit_event(event("orders", &n.to_string())).await.unwrap();
    }
    let first = line.client().cursor_store(FileCursorStore::open(&path).unwrap()).connect().await.unwrap();
    let mut orders = first.subscribe("orders").start(Start::Earliest).stored().await.unwrap();
    let handled = next_event(&mut orders).await;
    let _unhandled = next_event(&mut orders).await;
    handled.ack();
    orders.flush().await.unwrap();
    drop((orders, handled, _unhandled));
    first.shutdown(Duration::from_secs(10)).await.unwrap();
    drop(first);

    let second = line.client().cursor_store(FileCursorStore::open(&path).unwrap()).connect().await.unwrap();
    let mut orders = second.subscribe("orders").stored().await.unwrap();
    let again = next_event(&mut orders).await;
    assert_eq!((again.text().unwrap(), again.redelivered), ("2", true));
    assert_eq!(next_event(&mut orders).await.text().unwrap(), "3");
}

#[tokio::test]
async fn a_subscriber_has_one_reader_and_the_one_who_waits_follows_it() {
    let server = in_memory().await;
    let line = Line::to(&server).await;
    let builder = || line.client().subscriber("billing");
    let (first, second, third) =
        (builder().connect().await.unwrap(), builder().connect().await.unwrap(), builder().connect().await.unwrap());
    let mut old = first.subscribe("orders").start(Start::Earliest).durable().await.unwrap();
    let mut new = second.subscribe("orders").durable().auto_ack().await.unwrap();
    while old.next().await.is_some() {}
    assert_eq!(old.end(), Some(&SubscriptionEnd::TakenOver));

    first.emit_event(event("orders", "1")).await.unwrap();
    assert_eq!(next_texts(&mut new, 1).await, texts(1..=1));
    let (standby, closed) = tokio::join!(third.subscribe("orders").durable().standby().into_future(), new.close());
    closed.unwrap();
    let mut standby = standby.unwrap();
    first.emit_event(event("orders", "2")).await.unwrap();
    assert_eq!(next_texts(&mut standby, 1).await, texts(2..=2));
}
