//! Publishers within the process, which number their events themselves, and events that are stored together.

use redeliver_protocol::codec::encode_close;
use redeliver_protocol::error::{Close, CloseCode, RetryAdvice};
use redeliver_protocol::frame::Hello;
use redeliver_protocol::history::{EmitFate, EmitRun};
use redeliver_protocol::seq::{EmitNumber, PublisherId};
use redeliver_server::{
    EmitError, Identity, Limits, LocalPublisher, NewEvent, PublisherError, PublisherState, RefusalCode, Server, Start,
    TOGETHER_BYTES_MAX, TOGETHER_EVENTS_MAX,
};

use crate::peer::*;

const RELAY: PublisherId = PublisherId([7; 16]);

fn as_relay() -> Hello {
    Hello { publisher: Some(RELAY), ..hello() }
}

/// Whether a client's emit is stored.
fn is_stored(runs: &[EmitRun]) -> bool {
    matches!(runs, [EmitRun { fate: EmitFate::Stored(_), .. }])
}

async fn open() -> Server {
    Server::builder().in_memory().open().await.expect("opens in memory")
}

fn claim(server: &Server, settled: u64) -> LocalPublisher {
    server.publisher(RELAY).after(settled).claim().expect("nobody else's")
}

async fn refused(publisher: &LocalPublisher, number: u64, payload: &'static str) -> RefusalCode {
    match publisher.emit(number, event("t", payload)).await {
        Err(EmitError::Refused { code, .. }) => code,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

async fn stored(server: &Server, count: usize) -> Vec<String> {
    let mut reader = server.subscribe("t").start(Start::Earliest).auto_ack().await.expect("stands");
    let mut payloads = Vec::new();
    while payloads.len() < count {
        if let Some(redeliver_server::Delivery::Event(event)) = reader.next().await {
            payloads.push(event.text().expect("text").to_owned());
        }
    }
    payloads
}

#[tokio::test]
async fn an_event_that_is_repeated_under_its_number_is_stored_once() {
    let server = open().await;
    let first = claim(&server, 0);
    assert_eq!(first.state(), PublisherState::New);
    let receipt = first.emit(1, event("t", "a")).await.expect("stored");
    drop(first);
    let again = claim(&server, 0);
    assert_eq!(again.state(), PublisherState::Reached(EmitNumber(1)));
    let repeated = again.emit(1, event("t", "a")).await.expect("a duplicate");
    assert!(repeated.duplicate);
    assert_eq!(repeated.position, receipt.position);
    assert_eq!(refused(&again, 1, "other").await, RefusalCode::NUMBER_REUSED);
    assert_eq!(server.head().seq.0, 1);
}

#[tokio::test]
async fn many_under_way_at_once_keep_their_order() {
    let server = open().await;
    let publisher = claim(&server, 0);
    let emits = (1..=50).map(|number| publisher.emit(number, event("t", number.to_string())));
    for receipt in futures_util::future::join_all(emits).await {
        receipt.expect("stored");
    }
    let expected: Vec<String> = (1..=50).map(|number| number.to_string()).collect();
    assert_eq!(stored(&server, 50).await, expected);
}

#[tokio::test]
async fn a_number_that_does_not_follow_is_refused_and_may_come_later() {
    let server = open().await;
    let publisher = claim(&server, 0);
    assert_eq!(refused(&publisher, 2, "b").await, RefusalCode::OUT_OF_ORDER);
    publisher.emit(1, event("t", "a")).await.expect("stored");
    publisher.emit(2, event("t", "b")).await.expect("stored");
    assert_eq!(stored(&server, 2).await, ["a", "b"]);
}

#[tokio::test]
async fn a_number_that_was_said_to_be_settled_and_never_came_is_refused() {
    let server = open().await;
    claim(&server, 0).emit(1, event("t", "a")).await.expect("stored");
    let later = claim(&server, 3);
    later.emit(4, event("t", "d")).await.expect("stored");
    assert_eq!(refused(&later, 2, "b").await, RefusalCode::NUMBER_SKIPPED);
}

#[tokio::test]
async fn what_the_server_knows_nothing_of_is_forgotten_and_no_duplicate() {
    let server = open().await;
    let publisher = claim(&server, 41);
    assert_eq!(publisher.state(), PublisherState::Forgotten);
    let error = publisher.emit(41, event("t", "a")).await.expect_err("nothing is known of it");
    assert_eq!(error, EmitError::Forgotten);
    publisher.emit(42, event("t", "b")).await.expect("stored");
    assert_eq!(stored(&server, 1).await, ["b"]);
}

#[tokio::test]
async fn an_event_that_breaks_a_limit_consumes_its_number() {
    let mut limits = Limits::default();
    limits.event_bytes_max = 100;
    let server = Server::builder().in_memory().limits(limits).open().await.expect("opens in memory");
    let publisher = claim(&server, 0);
    let error = publisher.emit(1, event("t", "x".repeat(200))).await.expect_err("too large");
    assert!(matches!(error, EmitError::Invalid(_)), "{error}");
    publisher.emit(2, event("t", "b")).await.expect("the next number follows it");
}

#[tokio::test]
async fn a_newer_claim_fences_the_older_one() {
    let server = open().await;
    let older = claim(&server, 0);
    let newer = claim(&server, 0);
    assert_eq!(refused(&older, 1, "a").await, RefusalCode::FENCED);
    assert!(!EmitError::refused(RefusalCode::FENCED).is_retryable());
    // The end of the fenced one takes nothing from the newer one.
    drop(older);
    newer.emit(1, event("t", "a")).await.expect("stored");
}

#[tokio::test]
async fn a_claim_and_a_client_of_the_same_identity_fence_each_other() {
    let (server, address) = serve().await;
    let mut client = Peer::welcomed(&address, as_relay()).await;
    assert!(is_stored(&client.emit(1, vec![event("t", "a")]).await));
    let publisher =
        server.publisher(RELAY).identity(Identity::new("anonymous")).claim().expect("the client's identity");
    assert_eq!(client.closed().await.code, CloseCode::PUBLISHER_FENCED);
    assert_eq!(publisher.state(), PublisherState::Reached(EmitNumber(1)));
    let _client = Peer::welcomed(&address, as_relay()).await;
    assert_eq!(refused(&publisher, 2, "b").await, RefusalCode::FENCED);
}

#[tokio::test]
async fn another_identitys_publisher_is_not_claimed_and_its_client_stays() {
    let (server, address) = serve().await;
    let mut client = Peer::welcomed(&address, as_relay()).await;
    let claimed = || server.publisher(RELAY).claim();
    assert_eq!(claimed().expect_err("it is connected"), PublisherError::NotYours);
    assert!(is_stored(&client.emit(1, vec![event("t", "a")]).await), "it was not fenced");
    drop(client);
    assert_eq!(claimed().expect_err("it has emitted"), PublisherError::NotYours);
}

#[tokio::test]
async fn a_client_that_retires_its_publisher_is_answered_so_and_the_publisher_is_known_until_upkeep() {
    let (server, address) = serve().await;
    for (code, answer) in [(CloseCode::RETIRED, CloseCode::RETIRED), (CloseCode::DONE, CloseCode::DONE)] {
        let mut client = Peer::welcomed(&address, as_relay()).await;
        assert!(client.emit(1, vec![event("t", "a")]).await.iter().all(|run| run.fate.is_stored()));
        client.send_bytes(encode_close(&Close::new(code, "", RetryAdvice::Never))).await;
        assert_eq!(client.closed().await.code, answer);
    }
    assert_eq!((server.head().seq.0, server.log_stats().publishers), (1, 1), "the second emit was a duplicate");
    let mut guest = Peer::welcomed(&address, hello()).await;
    guest.send_bytes(encode_close(&Close::new(CloseCode::RETIRED, "", RetryAdvice::Never))).await;
    assert_eq!(guest.closed().await.code, CloseCode::DONE, "it has no publisher");
}

#[tokio::test]
async fn a_relay_goes_on_after_the_data_directory_is_opened_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let open = || Server::builder().data_dir(dir.path().join("data")).open();
    let server = open().await.expect("opens a new directory");
    let publisher = claim(&server, 0);
    publisher.emit(1, event("t", "a")).await.expect("stored");
    publisher.emit(2, event("t", "b")).await.expect("stored");
    server.shutdown(std::time::Duration::from_secs(10)).await.expect("nothing is left behind");
    assert_eq!(refused(&publisher, 3, "c").await, RefusalCode::DRAINING);
    drop((server, publisher));

    let server = open().await.expect("opens it again");
    let publisher = claim(&server, 1);
    assert_eq!(publisher.state(), PublisherState::Reached(EmitNumber(2)));
    assert!(publisher.emit(2, event("t", "b")).await.expect("a duplicate").duplicate);
    publisher.emit(3, event("t", "c")).await.expect("stored");
    assert_eq!(stored(&server, 3).await, ["a", "b", "c"]);
}

#[tokio::test]
async fn events_that_are_emitted_together_are_next_to_each_other() {
    let server = open().await;
    let rows = |name: &str| (0..100).map(|number| event("t", format!("{name}{number}"))).collect::<Vec<_>>();
    let (a, b, other) =
        tokio::join!(server.emit_all(rows("a")), server.emit_all(rows("b")), server.emit("t", "n", "x"));
    other.expect("stored");
    for receipts in [a.expect("stored"), b.expect("stored")] {
        let seqs: Vec<u64> = receipts.iter().map(|receipt| receipt.seq().expect("known").0).collect();
        assert_eq!(seqs, (seqs[0]..seqs[0] + 100).collect::<Vec<_>>());
    }
    assert_eq!(server.emit_all([]).await.expect("nothing to do"), []);
}

#[tokio::test]
async fn more_than_one_commit_holds_is_refused_with_the_limit() {
    let server = open().await;
    let large = || event("t", "x".repeat(250_000));
    let error = server.emit_all((0..5).map(|_| large())).await.expect_err("too many bytes");
    assert!(error.to_string().contains(&TOGETHER_BYTES_MAX.to_string()), "{error}");
    assert!(!error.is_retryable());
    let many: Vec<NewEvent> = (0..=TOGETHER_EVENTS_MAX).map(|_| event("t", "x")).collect();
    let error = server.emit_all(many).await.expect_err("too many events");
    assert!(error.to_string().contains(&TOGETHER_EVENTS_MAX.to_string()), "{error}");
    assert_eq!(server.head().seq.0, 0);
    server.emit_all((0..4).map(|_| large())).await.expect("one commit holds these");
}

#[tokio::test]
async fn one_invalid_event_keeps_all_from_being_stored() {
    let server = open().await;
    let error = server.emit_all([event("t", "a"), event("t", "x".repeat(300_000))]).await.expect_err("too large");
    assert!(matches!(error, EmitError::Invalid(_)), "{error}");
    assert_eq!(server.head().seq.0, 0);
}
