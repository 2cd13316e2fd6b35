//! Who is connected: what the app sees of it, sends away, and takes in for a gateway.

use std::time::Duration;

use redeliver_protocol::error::{CloseCode, RetryAdvice};
use redeliver_protocol::history::Start;
use redeliver_server::{Close, Identity, Registration, RegistrationEvent, Server};

use crate::peer::*;

#[tokio::test]
async fn whoever_is_authenticated_is_listed_with_what_it_follows_until_it_goes() {
    let (server, address) = serve().await;
    let stranger = Peer::connect(&address).await;
    assert!(server.connections().is_empty(), "a stranger is nobody yet");
    let mut peer = Peer::welcomed(&address, hello()).await;
    peer.subscribe(subscribe("orders", Start::Latest)).await;
    let listed = server.connections();
    let [info] = &listed[..] else { panic!("{listed:?}") };
    assert_eq!((info.identity.name(), info.protocol, info.subscriptions), ("anonymous", "redeliver.v1", 1));
    assert!(info.peer.is_some());
    drop((stranger, peer));
    while !server.connections().is_empty() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_connection_that_is_sent_away_is_told_why_and_not_to_come_back() {
    let (server, address) = serve().await;
    let mut peer = Peer::welcomed(&address, hello()).await;
    let id = server.connections()[0].id;
    assert!(server.disconnect(id, "moved to another plan"));
    let close = peer.closed().await;
    assert_eq!(
        (close.code, close.reason.as_str(), close.retry),
        (CloseCode::DISCONNECTED, "moved to another plan", RetryAdvice::Never)
    );
    while !server.connections().is_empty() {
        tokio::task::yield_now().await;
    }
    assert!(!server.disconnect(id, "again"));
}

async fn ended(registration: &mut Registration) -> Close {
    match within(registration.next()).await {
        RegistrationEvent::Ended(close) => close,
        other => panic!("expected the end, got {other:?}"),
    }
}

#[tokio::test]
async fn a_gateways_client_is_a_connection_like_any_other() {
    let server = Server::builder().in_memory().connections_max(1).open().await.expect("opens");
    let register = || server.gateway().register(Identity::new("ali"), None, "socket.io");
    let mut first = register().expect("there is room");
    first.follows(3);
    assert!(register().is_none(), "there is no room");
    let listed = server.connections();
    assert_eq!((listed[0].id, listed[0].protocol, listed[0].subscriptions), (first.id(), "socket.io", 3));
    assert!(server.disconnect(first.id(), "enough"));
    assert_eq!(ended(&mut first).await.reason, "enough");
    assert_eq!(ended(&mut first).await.code, CloseCode::DISCONNECTED, "it says so again");
    drop(first);
    assert_eq!((server.connections().len(), server.stats().connections), (0, 0));
    let mut second = register().expect("there is room again");
    let shutdown = tokio::spawn({
        let server = server.clone();
        async move { server.shutdown(Duration::from_secs(60)).await }
    });
    assert_eq!(ended(&mut second).await.code, CloseCode::DRAINING);
    assert!(register().is_none());
    drop(second);
    shutdown.await.expect("ends").expect("ends in time");
}
