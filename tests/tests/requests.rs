//! Requests between real clients and a real server, over TCP.

#![allow(clippy::unwrap_used, reason = "what cannot be unwrapped fails its test")]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redeliver_client::{Client, ClientBuilder, Payload, RequestError};
use redeliver_server::{ConnectionId, PayloadKind, Refusal, RefusalCode, Response, Server, ServerBuilder};
use tokio::net::TcpListener;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

struct Site {
    server: Server,
    address: SocketAddr,
    /// The connections from which something was asked.
    connections: Arc<Mutex<Vec<ConnectionId>>>,
}

impl Site {
    async fn open(builder: ServerBuilder) -> Site {
        let server = builder.in_memory().open().await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(server.serve(listener));
        Site { server, address, connections: Arc::default() }
    }

    /// A server whose app echoes, declines, breaks, never answers, or hangs up on the asker.
    async fn answering() -> Site {
        let connections: Arc<Mutex<Vec<ConnectionId>>> = Arc::default();
        let seen = Arc::clone(&connections);
        let builder = Server::builder().on_request(move |identity, request| {
            seen.lock().unwrap().push(request.connection);
            async move {
                assert_eq!(identity.name(), "anonymous");
                match request.name.as_str() {
                    "echo" => Ok(Response::new(request.kind, request.payload)),
                    "decline" => Err(Refusal::declined("not today")),
                    "break" => panic!("the handler breaks"),
                    _ => std::future::pending().await,
                }
            }
        });
        Site { connections, ..Site::open(builder).await }
    }

    fn client(&self) -> ClientBuilder {
        Client::builder(format!("ws://{}", self.address)).connect_within(PATIENCE)
    }

    fn connection(&self) -> ConnectionId {
        *self.connections.lock().unwrap().last().unwrap()
    }
}

fn text(payload: &'static str) -> Response {
    Response::new(PayloadKind::Text, payload.into())
}

#[tokio::test]
async fn many_requests_under_way_get_each_its_own_answer() {
    let site = Site::answering().await;
    let client = site.client().connect().await.unwrap();
    let asked = (0..100).map(|number| {
        let client = client.clone();
        tokio::spawn(async move {
            let payload = format!("{number}");
            let answer = client.request("echo", payload.clone(), PATIENCE).await.unwrap();
            assert_eq!(answer.payload, payload);
        })
    });
    for answered in asked.collect::<Vec<_>>() {
        answered.await.unwrap();
    }
}

#[tokio::test]
async fn a_request_that_gets_no_answer_says_why() {
    let site = Site::answering().await;
    let client = site.client().connect().await.unwrap();
    let refused = client.request("decline", "x", PATIENCE).await.unwrap_err();
    assert_eq!(refused, RequestError::Refused { code: RefusalCode::DECLINED, reason: "not today".to_owned() });
    let broken = client.request("break", "x", PATIENCE).await.unwrap_err();
    assert!(matches!(broken, RequestError::Refused { code: RefusalCode::DECLINED, .. }), "{broken}");
    let late = client.request("wait", "x", Duration::from_millis(50)).await.unwrap_err();
    // Both ends have the same deadline: who is first says so.
    assert!(late.may_have_been_handled(), "{late}");
    let large = client.request("echo", vec![0; 800_000], PATIENCE).await.unwrap_err();
    assert!(matches!(large, RequestError::Invalid(_)), "{large}");
    assert_eq!(client.request("echo", "still there", PATIENCE).await.unwrap(), text("still there"));
}

#[tokio::test]
async fn a_server_without_a_handler_says_so() {
    let site = Site::open(Server::builder()).await;
    let client = site.client().connect().await.unwrap();
    assert_eq!(client.request("echo", "x", PATIENCE).await, Err(RequestError::NoHandler));
}

#[tokio::test]
async fn the_server_asks_a_client_and_learns_when_it_goes() {
    let site = Site::answering().await;
    let client = site
        .client()
        .on_request(|asked| async move {
            match asked.name.as_str() {
                "status" => Ok(Payload::from("well").into()),
                _ => std::future::pending().await,
            }
        })
        .connect()
        .await
        .unwrap();
    client.request("echo", "here I am", PATIENCE).await.unwrap();
    let connection = site.connection();
    let ask = |name: &'static str| {
        let server = site.server.clone();
        async move { server.request(connection, name, PayloadKind::Text, "how are you", PATIENCE).await }
    };
    assert_eq!(ask("status").await, Ok(text("well")));

    let waiting = tokio::spawn(ask("wait"));
    // Answered on the same connection behind it, so the other one is there.
    assert_eq!(ask("status").await, Ok(text("well")));
    client.shutdown(PATIENCE).await.unwrap();
    assert_eq!(waiting.await.unwrap(), Err(RequestError::Gone));
    assert_eq!(ask("status").await, Err(RequestError::NotSent));
}

#[tokio::test]
async fn a_client_that_answers_nothing_says_so() {
    let site = Site::answering().await;
    let client = site.client().connect().await.unwrap();
    client.request("echo", "here I am", PATIENCE).await.unwrap();
    let asked = site.server.request(site.connection(), "status", PayloadKind::Text, "x", PATIENCE).await;
    assert_eq!(asked, Err(RequestError::NoHandler));
}

#[tokio::test]
async fn a_server_that_goes_takes_its_requests_with_it() {
    let site = Site::answering().await;
    let client = site.client().connect().await.unwrap();
    let asker = client.clone();
    let waiting = tokio::spawn(async move { asker.request("wait", "x", PATIENCE).await });
    while site.connections.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    site.server.shutdown(PATIENCE).await.unwrap();
    assert_eq!(waiting.await.unwrap(), Err(RequestError::Gone));
}
