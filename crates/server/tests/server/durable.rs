//! Durable subscribers: cursors that the server keeps, takeovers, standbys, and a data directory that is opened again.

use redeliver_protocol::error::CloseCode;
use redeliver_protocol::frame::{ClientFrame, Ownership, ServerFrame, Subscribe};
use redeliver_protocol::history::Start;
use redeliver_protocol::seq::Seq;

use crate::peer::*;

#[tokio::test]
async fn a_durable_subscriber_goes_on_where_its_acks_were_confirmed() {
    let (server, address) = serve().await;
    let mut reader = Peer::welcomed(&address, hello_subscriber("billing")).await;
    reader.subscribe(resume("t")).await;
    emit_numbered(&server, "t", 0..10).await;
    let records = reader.events(10).await;
    reader.ack_confirmed(&records[5]).await;
    drop(reader);

    let mut reader = Peer::welcomed(&address, hello_subscriber("billing")).await;
    let subscribed = reader.subscribe(resume("t")).await;
    assert_eq!(subscribed.after.seq, records[5].seq);
    assert!(subscribed.delivered_through.0 >= records[9].nth, "all ten may have been handed over");
    assert_eq!(payloads(&reader.events(4).await), numbers(6..10));
}

#[tokio::test]
async fn a_newcomer_takes_a_durable_subscribers_topic_over() {
    let (server, address) = serve().await;
    let mut old = Peer::welcomed(&address, hello_subscriber("billing")).await;
    old.subscribe(resume("t")).await;
    emit_numbered(&server, "t", 0..3).await;
    let records = old.events(3).await;
    old.ack_confirmed(&records[0]).await;

    let mut new = Peer::welcomed(&address, hello_subscriber("billing")).await;
    assert_eq!(new.subscribe(resume("t")).await.after.seq, records[0].seq);
    loop {
        match old.frame().await {
            ServerFrame::TakenOver { id: ID } => break,
            ServerFrame::CaughtUp { .. } => {}
            other => panic!("expected TakenOver, got {other:?}"),
        }
    }
    // Its late ack does not move the cursor under the new reader.
    old.ack(&records[2]).await;
    old.send(ClientFrame::Ping { token: 1 }).await;
    assert_eq!(old.frame().await, ServerFrame::Pong { token: 1 });
    let again = new.events(2).await;
    assert_eq!(payloads(&again), numbers(1..3));
    new.ack_confirmed(&again[0]).await;
    drop((old, new));
    let mut last = Peer::welcomed(&address, hello_subscriber("billing")).await;
    assert_eq!(last.subscribe(resume("t")).await.after.seq, again[0].seq);
}

#[tokio::test]
async fn a_standby_is_subscribed_when_the_owner_goes() {
    let (server, address) = serve().await;
    let mut owner = Peer::welcomed(&address, hello_subscriber("billing")).await;
    owner.subscribe(resume("t")).await;
    let mut standby = Peer::welcomed(&address, hello_subscriber("billing")).await;
    standby.send(ClientFrame::Subscribe(Subscribe { ownership: Ownership::Standby, ..resume("t") })).await;
    standby.send(ClientFrame::Ping { token: 1 }).await;
    assert_eq!(standby.frame().await, ServerFrame::Pong { token: 1 }, "it is not subscribed yet");
    drop(owner);
    assert!(matches!(standby.frame().await, ServerFrame::Subscribed(_)));
    emit_numbered(&server, "t", 0..1).await;
    assert_eq!(standby.events(1).await.len(), 1);
}

#[tokio::test]
async fn the_same_client_coming_again_is_no_takeover() {
    let (_server, address) = serve().await;
    let hello = hello_subscriber("billing");
    let mut half_open = Peer::welcomed(&address, hello.clone()).await;
    half_open.subscribe(resume("t")).await;
    let mut again = Peer::welcomed(&address, hello).await;
    again.subscribe(resume("t")).await;
    assert_eq!(half_open.closed().await.code, CloseCode::SUPERSEDED);
}

#[tokio::test]
async fn a_data_directory_that_is_opened_again_has_everything_that_was_acknowledged() {
    let dir = tempfile::tempdir().expect("a directory");
    let open = || redeliver_server::Server::builder().data_dir(dir.path().join("data")).open();
    let server = open().await.expect("opens a new directory");
    let address = listen(&server).await;
    let mut reader = Peer::welcomed(&address, hello_subscriber("billing")).await;
    reader.subscribe(Subscribe { start: Start::Earliest, ..resume("t") }).await;
    emit_numbered(&server, "t", 0..5).await;
    let records = reader.events(5).await;
    reader.ack_confirmed(&records[2]).await;
    let epoch = server.head().epoch;
    server.shutdown(std::time::Duration::from_secs(10)).await.expect("nothing is left behind");
    drop((server, reader));

    let server = open().await.expect("opens it again");
    assert_eq!(server.head().seq, Seq(5));
    assert_ne!(server.emit_event(event("t", "5")).await.expect("stored").position.expect("no duplicate").epoch, epoch);
    let address = listen(&server).await;
    let mut reader = Peer::welcomed(&address, hello_subscriber("billing")).await;
    let subscribed = reader.subscribe(resume("t")).await;
    assert_eq!((subscribed.after.seq, subscribed.gap), (records[2].seq, None));
    assert_eq!(payloads(&reader.events(3).await), numbers(3..6));
}

#[tokio::test]
async fn a_data_directory_in_use_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let open = || redeliver_server::Server::builder().data_dir(dir.path()).open();
    let _server = open().await.expect("opens a new directory");
    let error = open().await.expect_err("it is in use");
    assert!(error.to_string().contains("in use"), "{error}");
}
