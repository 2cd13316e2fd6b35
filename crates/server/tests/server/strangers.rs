//! Peers that are not authenticated: they make room, they are closed in time, and nobody who is known notices.

use std::time::Duration;

use redeliver_protocol::codec::encode_hello;
use redeliver_protocol::history::Start;
use redeliver_server::{Server, StrangerLimits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::http::{get, status};
use crate::peer::*;

async fn serve_strangers(strangers_max: usize, deadline: Duration) -> (Server, String) {
    let mut limits = StrangerLimits::default();
    (limits.strangers_max, limits.deadline) = (strangers_max, deadline);
    let server = Server::builder().in_memory().strangers(limits).open().await.expect("opens");
    let address = listen(&server).await;
    (server, address)
}

async fn silent(address: &str, count: usize) -> Vec<TcpStream> {
    let mut streams = Vec::new();
    for _ in 0..count {
        streams.push(TcpStream::connect(address).await.expect("connects"));
    }
    streams
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_peers_make_room_for_whoever_comes_and_known_ones_stay() {
    let (server, address) = serve_strangers(8, Duration::from_secs(3600)).await;
    let mut known = Peer::welcomed(&address, hello()).await;
    known.subscribe(subscribe("t", Start::Latest)).await;
    let mut crowd = silent(&address, 100).await;
    assert_eq!(status(&within(get(&address, "/healthz")).await), "200");
    let mut newcomer = within(Peer::welcomed(&address, hello())).await;
    newcomer.subscribe(subscribe("t", Start::Latest)).await;
    server.emit_event(event("t", "to both")).await.expect("stored");
    assert_eq!(payloads(&within(known.events(1)).await), ["to both"]);
    assert_eq!(payloads(&within(newcomer.events(1)).await), ["to both"]);
    assert_eq!(within(crowd[0].read(&mut [0])).await.unwrap_or(0), 0, "the oldest has been closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_not_authenticated_in_time_is_closed_wherever_it_stands() {
    let (_server, address) = serve_strangers(100, Duration::from_millis(300)).await;
    let known = Peer::welcomed(&address, hello()).await;
    let mut nothing = TcpStream::connect(&address).await.expect("connects");
    let mut half = TcpStream::connect(&address).await.expect("connects");
    half.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n").await.expect("sends");
    let mut upgraded = Peer::connect(&address).await;
    for stream in [&mut nothing, &mut half, upgraded.socket.get_mut()] {
        let mut rest = Vec::new();
        // An end or a reset: either way it is over.
        let _ = within(stream.read_to_end(&mut rest)).await;
    }
    assert_eq!(status(&within(get(&address, "/healthz")).await), "200");
    drop(known);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_more_than_there_may_be_is_told_to_come_back_also_after_its_handshake() {
    let server = Server::builder().in_memory().connections_max(1).open().await.expect("opens");
    let address = listen(&server).await;
    let mut late = Peer::connect(&address).await;
    let only = Peer::welcomed(&address, hello()).await;
    late.send_bytes(encode_hello(&hello())).await;
    let close = late.closed().await;
    assert!(matches!(close.retry, redeliver_server::RetryAdvice::After(_)), "{close:?}");
    drop(only);
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_are_answered_on_a_listener_of_their_own_while_the_public_one_is_full() {
    let (server, address) = serve_strangers(1, Duration::from_secs(3600)).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let admin = listener.local_addr().expect("bound").to_string();
    tokio::spawn(server.serve_admin(listener));
    let _crowd = silent(&address, 50).await;
    for path in ["/healthz", "/readyz"] {
        assert_eq!(status(&within(get(&admin, path)).await), "200");
    }
    assert_eq!(status(&within(get(&admin, "/")).await), "404", "clients are served elsewhere");
    within(server.shutdown(Duration::from_secs(20))).await.expect("nothing holds it");
}
