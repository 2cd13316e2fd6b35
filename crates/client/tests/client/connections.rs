//! The connection through its life, and the end of a client.

use std::io;
use std::time::Duration;

use crate::toy::Toy;
use redeliver_client::{
    Client, Close, CloseCode, ConnectError, ConnectionState, Connector, EmitError, Endpoint, Outcome, RetryAdvice,
    ShutdownError, Start,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

#[tokio::test(start_paused = true)]
async fn the_state_can_be_watched() {
    let toy = Toy::new();
    let client = Client::builder("ws://toy").connector(toy.clone()).connect().await.unwrap();
    let mut state = client.state();
    assert!(matches!(state.current(), ConnectionState::Connected { .. }));
    toy.faults(|faults| faults.unreachable = true);
    toy.cut();
    state.wait_for(|state| matches!(state, ConnectionState::Waiting { .. })).await.unwrap();
    let refused = |state: &ConnectionState| match state {
        ConnectionState::Waiting { reason, .. } => reason.in_full().contains("nobody listens"),
        ConnectionState::Connecting | ConnectionState::Connected { .. } | ConnectionState::Ended { .. } | _ => false,
    };
    state.wait_for(refused).await.unwrap();
    toy.faults(|faults| faults.unreachable = false);
    state.wait_for(|state| matches!(state, ConnectionState::Connected { .. })).await.unwrap();
    client.shutdown(Duration::from_secs(5)).await.unwrap();
    assert_eq!(state.current(), ConnectionState::Ended { close: None });
}

#[tokio::test(start_paused = true)]
async fn a_client_connects_as_soon_as_the_server_is_there() {
    let toy = Toy::new();
    toy.faults(|faults| faults.unreachable = true);
    let connect = Client::builder("ws://toy").connector(toy.clone()).connect();
    let later = async {
        tokio::time::sleep(Duration::from_secs(3600)).await;
        toy.faults(|faults| faults.unreachable = false);
    };
    let (client, ()) = tokio::join!(connect, later);
    client.unwrap().emit("orders", "created", "x").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_client_may_give_up_connecting() {
    let toy = Toy::new();
    toy.faults(|faults| faults.unreachable = true);
    let waited = Duration::from_secs(30);
    let error = Client::builder("ws://toy").connector(toy.clone()).connect_within(waited).connect().await.unwrap_err();
    assert!(error.is_retryable());
    assert!(matches!(error, ConnectError::Unreachable { waited: w, .. } if w == waited), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_never_ends_the_client() {
    let toy = Toy::new();
    let reason = "who are you?".to_owned();
    let close = Close::new(CloseCode::UNAUTHENTICATED, reason, RetryAdvice::Never);
    toy.faults(|faults| faults.refuse = Some(close.clone()));
    let error = Client::builder("ws://toy").connector(toy.clone()).auth("wrong").connect().await.unwrap_err();
    assert_eq!(error, ConnectError::Refused(close.clone()));
    assert_eq!(error.to_string(), "the server refuses this client: authentication was refused (200): who are you?");
    assert_eq!(toy.hellos()[0].auth.as_deref(), Some(&b"wrong"[..]));

    let client = Client::builder("ws://toy").connector(toy.clone()).connect_lazy().unwrap();
    let mut state = client.state();
    state.wait_for(|state| *state == ConnectionState::Ended { close: Some(close.clone()) }).await.unwrap();
    assert_eq!(client.emit("orders", "created", "x").await, Err(EmitError::ClientEnded));
    assert_eq!(client.shutdown(Duration::from_secs(5)).await, Err(ShutdownError::Refused(close)));
}

/// Answers the HTTP request with this, whatever it is.
struct Answering(&'static str);

impl Connector for Answering {
    type Io = DuplexStream;

    async fn connect(&self, _endpoint: &Endpoint) -> io::Result<DuplexStream> {
        let (near, mut far) = tokio::io::duplex(64 * 1024);
        let answer = self.0;
        tokio::spawn(async move {
            let mut request = [0; 4096];
            let _ = far.read(&mut request).await;
            let _ = far.write_all(answer.as_bytes()).await;
            let _ = far.read_to_end(&mut Vec::new()).await;
        });
        Ok(near)
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_proxy_says_never_ends_a_client_for_good_and_comes_with_advice() {
    for (answer, words, advice) in [
        ("403 Forbidden\r\ncontent-length: 8\r\n\r\nnot here", "HTTP 403 Forbidden: not here", "proxy or a firewall"),
        ("401 Unauthorized\r\ncontent-length: 0\r\n\r\n", "HTTP 401 Unauthorized", "proxy or a firewall"),
        ("400 Bad Request\r\ncontent-length: 0\r\n\r\n", "HTTP 400 Bad Request", "proxy or a firewall"),
        ("200 OK\r\ncontent-length: 0\r\n\r\n", "HTTP 200 OK", "passes the upgrade on"),
        ("404 Not Found\r\ncontent-length: 0\r\n\r\n", "HTTP 404 Not Found", "the path"),
        ("301 Moved Permanently\r\nlocation: ws://b\r\ncontent-length: 0\r\n\r\n", "HTTP 301", "ws://b"),
    ] {
        let answer: &'static str = format!("HTTP/1.1 {answer}").leak();
        let builder = Client::builder("ws://proxy").connector(Answering(answer));
        let error = builder.connect_within(Duration::from_secs(60)).connect().await.unwrap_err();
        let ConnectError::Unreachable { source, .. } = &error else { panic!("{error}") };
        let reason = source.to_string();
        assert!(error.is_retryable() && reason.starts_with(words) && reason.contains(advice), "{reason}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_speaks_another_protocol_ends_the_client() {
    let answer = "HTTP/1.1 400 Bad Request\r\ncontent-length: 62\r\n\r\n\
                  this server speaks the subprotocol redeliver.v1 and no other\n\n";
    let error = Client::builder("ws://server").connector(Answering(answer)).connect().await.unwrap_err();
    let ConnectError::Refused(close) = error else { panic!("{error}") };
    assert_eq!((close.code, close.retry), (CloseCode::MALFORMED, RetryAdvice::Never));
}

#[tokio::test(start_paused = true)]
async fn a_proxy_without_its_server_is_tried_again() {
    let answer = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
    let limit = Duration::from_secs(60);
    let builder = Client::builder("ws://proxy").connector(Answering(answer)).connect_within(limit);
    let error = builder.connect().await.unwrap_err();
    assert!(
        matches!(&error, ConnectError::Unreachable { source, .. } if source.to_string().contains("503")),
        "{error}"
    );
}

#[tokio::test]
async fn a_url_that_cannot_be_meant_is_refused_at_once() {
    if cfg!(not(feature = "tls")) {
        let tls = Client::builder("wss://events.example").connect().await.unwrap_err();
        assert_eq!(tls, ConnectError::TlsUnsupported);
    }
    let http = Client::builder("http://events.example").connect().await.unwrap_err();
    assert!(matches!(http, ConnectError::InvalidUrl { .. }), "{http}");
    let name = Client::builder("ws://events.example").subscriber("").connect().await.unwrap_err();
    assert!(matches!(name, ConnectError::InvalidSubscriber(_)), "{name}");
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_waits_for_receipts_and_acks() {
    let toy = Toy::new();
    toy.store("orders", ["one".to_owned()]);
    let builder = Client::builder("ws://toy").connector(toy.clone()).subscriber("billing");
    let client = builder.connect().await.unwrap();
    let mut orders = client.subscribe("orders").start(Start::Earliest).durable().await.unwrap();
    let event = orders.next().await.unwrap().into_event().unwrap();
    let receipt = {
        let event = redeliver_client::NewEvent::new(
            "orders".try_into().unwrap(),
            "created".try_into().unwrap(),
            redeliver_client::PayloadKind::Text,
            "two",
        );
        client.queue(event).await.unwrap()
    };
    event.ack();
    client.shutdown(Duration::from_secs(5)).await.unwrap();
    assert_eq!(toy.payloads(), ["one", "two"]);
    assert_eq!(toy.cursor("billing", "orders"), Some(1));
    assert_eq!(receipt.await.unwrap().position.unwrap().seq.0, 2);
    // It is over, and says so again.
    assert_eq!(client.emit("orders", "created", "three").await, Err(EmitError::ClientEnded));
    assert_eq!(client.shutdown(Duration::from_secs(5)).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_whose_time_is_over_tells_what_was_left() {
    let toy = Toy::new();
    let client = Client::builder("ws://toy").connector(toy.clone()).connect().await.unwrap();
    toy.faults(|faults| faults.mute = true);
    let emit = client.emit("orders", "created", "sent");
    let shutdown = async {
        toy.until(|toy| !toy.frames().is_empty()).await;
        client.shutdown(Duration::from_secs(5)).await
    };
    let (emit, shutdown) = tokio::join!(emit, shutdown);
    assert_eq!(shutdown, Err(ShutdownError::TimedOut { emits: 1, subscriptions: 0 }));
    assert_eq!(emit.unwrap_err().outcome(), Outcome::Unknown);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_without_a_server_knows_that_nothing_was_sent() {
    let toy = Toy::new();
    toy.faults(|faults| faults.unreachable = true);
    let client = Client::builder("ws://toy").connector(toy.clone()).connect_lazy().unwrap();
    let (emit, shutdown) = tokio::join!(client.emit("orders", "created", "x"), client.shutdown(Duration::from_secs(5)));
    assert_eq!(shutdown, Err(ShutdownError::TimedOut { emits: 1, subscriptions: 0 }));
    assert_eq!(emit, Err(EmitError::ClientEnded));
}

#[tokio::test(start_paused = true)]
async fn a_client_whose_handles_are_dropped_sends_what_it_has_and_ends() {
    let toy = Toy::new();
    let client = Client::builder("ws://toy").connector(toy.clone()).connect().await.unwrap();
    let mut state = client.state();
    let event = redeliver_client::NewEvent::new(
        "orders".try_into().unwrap(),
        "created".try_into().unwrap(),
        redeliver_client::PayloadKind::Text,
        "last words",
    );
    client.queue(event).await.unwrap().detach();
    drop(client);
    state.wait_for(|state| matches!(state, ConnectionState::Ended { close: None })).await.unwrap();
    assert_eq!(toy.payloads(), ["last words"]);
}

#[tokio::test(start_paused = true)]
async fn a_client_whose_handles_are_dropped_ends_without_a_server_too() {
    let toy = Toy::new();
    toy.faults(|faults| faults.unreachable = true);
    let client = Client::builder("ws://toy").connector(toy.clone()).connect_lazy().unwrap();
    let mut state = client.state();
    drop(client);
    state.wait_for(|state| matches!(state, ConnectionState::Ended { .. })).await.unwrap();
}
