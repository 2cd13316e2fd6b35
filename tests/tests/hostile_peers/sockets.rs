//! Floods, silence and sudden ends: peers that use up what a server has without ever breaking the protocol.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use redeliver_protocol::codec::{encode_client, encode_hello};
use redeliver_protocol::config::ServerConfig;
use redeliver_protocol::error::{CloseCode, RetryAdvice};
use redeliver_protocol::frame::{ClientFrame, ServerFrame, Subscribe, Window};
use redeliver_protocol::history::Start;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::attack::{attack, until};
use crate::peer::*;

#[tokio::test(flavor = "multi_thread")]
async fn floods_of_headers_are_refused() {
    let many = |count: usize| (0..count).map(|n| format!("X-{n}: 1\r\n")).collect::<String>();
    let floods = [
        ("many headers", handshake(&many(100)), 431),
        ("very many headers", handshake(&many(100_000)), 431),
        ("a huge header", handshake(&format!("X-Huge: {}\r\n", "x".repeat(1 << 20))), 431),
        ("a huge name", handshake(&format!("{}: 1\r\n", "x".repeat(1 << 20))), 431),
        ("a path without end", format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(1 << 20)).into_bytes(), 431),
        ("no HTTP at all", vec![0; 1 << 16], 400),
    ];
    attack(ServerConfig::default(), async |site| {
        for (what, bytes, expected) in floods {
            let mut stream = TcpStream::connect(&site.address).await.unwrap();
            let answer = exchange(&mut stream, &bytes).await;
            // Who goes on sending may see the connection reset instead.
            let is_reset = answer.is_empty() && bytes.len() > 4096;
            assert!(is_reset || status(&answer) == expected, "{what}: {:?}", String::from_utf8_lossy(&answer));
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_never_ends_a_request_is_closed() {
    let hands = handshake("");
    attack(ServerConfig::default(), async |site| {
        let mut streams = Vec::new();
        for bytes in [0, 1, 3, hands.len() / 2, hands.len() - 1] {
            for _ in 0..20 {
                let mut stream = TcpStream::connect(&site.address).await.unwrap();
                stream.write_all(&hands[..bytes]).await.unwrap();
                streams.push(stream);
            }
        }
        site.bystanders.go_on().await;
        let answers = join_all(streams.iter_mut().map(|stream| exchange(stream, b""))).await;
        for answer in answers {
            assert!(answer.is_empty() || status(&answer) == 408, "{:?}", String::from_utf8_lossy(&answer));
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_connects_and_never_says_a_whole_hello_is_told_to_come_back() {
    let mut config = ServerConfig::default();
    config.hello_timeout = Duration::from_millis(300);
    let hello = framed(&encode_hello(&hello()));
    attack(config, async |site| {
        let silent = (0..100).map(async |number| {
            let mut stream = bare(&site.address).await;
            // Nothing, or a part of it.
            stream.write_all(&hello[..number % hello.len()]).await.unwrap();
            let mut peer = Peer { socket: WebSocketStream::from_raw_socket(stream, Role::Client, None).await };
            let close = peer.closed().await;
            assert_eq!((close.code, close.retry), (CloseCode::HELLO_TIMEOUT, RetryAdvice::Now), "{close:?}");
        });
        join_all(silent).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_nothing_any_more_is_told_to_come_back() {
    let mut config = ServerConfig::default();
    config.heartbeat = Duration::from_secs(1);
    attack(config, async |site| {
        let mut peer = Peer::welcomed(&site.address, &hello()).await;
        peer.subscribe(subscribe("t", Start::Latest)).await;
        let close = peer.closed().await;
        assert_eq!((close.code, close.retry), (CloseCode::HEARTBEAT_TIMEOUT, RetryAdvice::Now));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_pings_at_once_are_borne_and_the_last_is_answered() {
    let ping = [header(FINAL | PING, 125), vec![7; 125]].concat().repeat(10_000);
    let asks = (1..=10_000).map(|token| framed(&encode_client(&ClientFrame::Ping { token })));
    let asks = asks.collect::<Vec<_>>().concat();
    attack(ServerConfig::default(), async |site| {
        for (what, flood) in [("pings of WebSocket", &ping), ("pings of the protocol", &asks)] {
            let mut stream = bare(&site.address).await;
            stream.write_all(&framed(&encode_hello(&hello()))).await.unwrap();
            // Nothing is read meanwhile.
            stream.write_all(flood).await.unwrap();
            stream.write_all(&framed(&encode_client(&ClientFrame::Ping { token: u64::MAX }))).await.unwrap();
            site.bystanders.go_on().await;
            let mut peer = Peer { socket: WebSocketStream::from_raw_socket(stream, Role::Client, None).await };
            assert!(matches!(peer.frame().await, ServerFrame::Welcome(_)), "{what}");
            let mut last = 0;
            while last < u64::MAX {
                let ServerFrame::Pong { token } = peer.frame().await else { panic!("no pong: {what}") };
                assert!(token > last, "{what}: {token} after {last}");
                last = token;
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_connections_that_are_abandoned_anywhere_leave_nothing_behind() {
    attack(ServerConfig::default(), async |site| {
        site.server.emit_event(event("t", vec![0; 100_000])).await.unwrap();
        let abandoned = futures_util::stream::iter(0..500).map(async |number| match number % 5 {
            0 => drop(TcpStream::connect(&site.address).await.unwrap()),
            1 => drop(bare(&site.address).await),
            2 => drop(Peer::welcomed(&site.address, &hello_subscriber("abandoner")).await),
            3 => {
                // It goes while events come.
                let mut peer = Peer::welcomed(&site.address, &hello()).await;
                peer.subscribe(subscribe("t", Start::Earliest)).await;
            }
            _ => {
                // It goes while its emit is on its way.
                let mut peer = Peer::welcomed(&site.address, &hello_publisher()).await;
                peer.send(&emit(1, vec![event("others", "x")])).await;
            }
        });
        abandoned.buffer_unordered(50).for_each(async |()| {}).await;
        site.bystanders.go_on().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_that_take_nothing_are_given_up_after_a_while() {
    let mut config = ServerConfig::default();
    config.write_timeout = Duration::from_millis(500);
    attack(config, async |site| {
        for _ in 0..64 {
            site.server.emit_event(event("large", vec![1; 200_000])).await.unwrap();
        }
        let before = site.server.stats();
        let mut readers = Vec::new();
        for _ in 0..10 {
            let mut reader = Peer::welcomed(&site.address, &hello()).await;
            let window = Window::new(u32::MAX, u32::MAX);
            reader.subscribe(Subscribe { window, ..subscribe("large", Start::Earliest) }).await;
            readers.push(reader);
        }
        until("the readers are given up", || site.server.stats().connections == before.connections).await;
        // Far from everything was read for them: what the sockets take, and no more.
        let read = site.server.stats().deliveries - before.deliveries;
        assert!(read < 10 * 64, "{read} events were written to sockets that nobody reads");
    })
    .await;
}
