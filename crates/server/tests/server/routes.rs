//! Paths that somebody else answers on the server's listener, and what a gateway asks the server about its clients.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt;
use http_body_util::combinators::BoxBody;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use redeliver_server::{ConnectRequest, ResponseBody, Routes, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::peer::*;

/// Owns everything: echoes bodies, `/wait` until it is told, `/upgrade` to a stream that echoes.
#[derive(Clone, Default)]
struct Echo {
    asked: Arc<Notify>,
    go_on: Arc<Notify>,
}

impl Routes for Echo {
    fn owns(&self, path: &str) -> bool {
        path != "/nothing"
    }

    async fn respond(&self, request: Request<Incoming>, peer: Option<SocketAddr>) -> Response<ResponseBody> {
        assert!(peer.is_some());
        if request.uri().path() == "/upgrade" {
            tokio::spawn(async move {
                let mut stream = TokioIo::new(hyper::upgrade::on(request).await.expect("upgrades"));
                let mut bytes = [0; 4];
                stream.read_exact(&mut bytes).await.expect("reads");
                stream.write_all(&bytes).await.expect("writes");
            });
            let switching = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
            return switching
                .header(CONNECTION, "upgrade")
                .header(UPGRADE, "echo")
                .body(BoxBody::default())
                .expect("whole");
        }
        if request.uri().path() == "/wait" {
            self.asked.notify_one();
            self.go_on.notified().await;
        }
        let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        Response::new(BoxBody::new(http_body_util::Full::new(body)))
    }
}

async fn serve_echo(server: &Server) -> (Echo, String) {
    let echo = Echo::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    tokio::spawn(server.serve_with(listener, echo.clone()));
    (echo, address)
}

async fn ask(stream: &mut TcpStream, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.expect("asks");
    let mut answer = [0; 1024];
    let read = stream.read(&mut answer).await.expect("answers");
    String::from_utf8_lossy(&answer[..read]).into_owned()
}

fn post(path: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn owned_paths_are_answered_by_the_routes_one_after_another_on_one_connection() {
    let (server, _) = serve().await;
    let (_, address) = serve_echo(&server).await;
    let mut stream = TcpStream::connect(&address).await.expect("connects");
    for body in ["one", "two", "three"] {
        assert!(ask(&mut stream, &post("/echo", body)).await.ends_with(body));
    }
    assert!(ask(&mut stream, "GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n").await.contains(" 404 "));
}

#[tokio::test]
async fn what_is_the_servers_own_stays_so_whatever_the_routes_own() {
    let (server, _) = serve().await;
    let (_, address) = serve_echo(&server).await;
    let mut stream = TcpStream::connect(&address).await.expect("connects");
    assert!(ask(&mut stream, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.ends_with("ok\n"));
    let mut peer = Peer::welcomed(&address, hello_publisher()).await;
    peer.emit(1, vec![event("orders", "native")]).await;
    assert_eq!(server.head().seq.0, 1);
}

#[tokio::test]
async fn a_route_may_take_the_connection_for_itself() {
    let (server, _) = serve().await;
    let (_, address) = serve_echo(&server).await;
    let mut stream = TcpStream::connect(&address).await.expect("connects");
    let request = "GET /upgrade HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
    assert!(ask(&mut stream, request).await.starts_with("HTTP/1.1 101"));
    assert_eq!(ask(&mut stream, "ping").await, "ping");
}

#[tokio::test]
async fn kept_connections_are_as_many_as_there_may_be_connections() {
    let server = Server::builder().in_memory().connections_max(1).open().await.expect("opens");
    let (_, address) = serve_echo(&server).await;
    let mut first = TcpStream::connect(&address).await.expect("connects");
    assert!(ask(&mut first, &post("/echo", "first")).await.ends_with("first"));
    let mut second = TcpStream::connect(&address).await.expect("connects");
    assert!(ask(&mut second, &post("/echo", "second")).await.contains(" 503 "));
}

#[tokio::test]
async fn a_shutdown_waits_for_an_answer_under_way_and_ends_idle_connections() {
    let (server, _) = serve().await;
    let (echo, address) = serve_echo(&server).await;
    let mut idle = TcpStream::connect(&address).await.expect("connects");
    assert!(ask(&mut idle, &post("/echo", "x")).await.ends_with('x'));
    let mut waiting = TcpStream::connect(&address).await.expect("connects");
    waiting.write_all(post("/wait", "late").as_bytes()).await.expect("asks");
    echo.asked.notified().await;
    let shutdown = tokio::spawn(async move { server.shutdown(Duration::from_secs(60)).await });
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).await.expect("ends");
    echo.go_on.notify_one();
    let mut answer = String::new();
    waiting.read_to_string(&mut answer).await.expect("answers");
    assert!(answer.ends_with("late"), "{answer}");
    shutdown.await.expect("ends").expect("ends in time");
}

#[tokio::test(start_paused = true)]
async fn a_gateway_asks_the_apps_access_who_a_client_is_and_gives_up_in_time() {
    let server = Server::builder().in_memory().access(crate::access::Names).open().await.expect("opens");
    let request = |auth: &'static [u8]| {
        let peer = "127.0.0.1:1".parse().ok();
        ConnectRequest::new(peer, "/socket.io/".parse().expect("a path"), HeaderMap::new(), Some(auth.into()))
    };
    let ali = server.gateway().authenticate(request(b"ali")).await.expect("let in");
    assert_eq!(ali.name(), "ali");
    let topic = |name: &str| redeliver_server::TopicName::new(name).expect("a name");
    assert!(server.gateway().allow(&ali, redeliver_server::Action::Emit { topic: &topic("ali/x") }));
    assert!(!server.gateway().allow(&ali, redeliver_server::Action::Emit { topic: &topic("bob/x") }));
    assert!(!server.gateway().authenticate(request(b"nobody")).await.expect_err("denied").is_retryable());
    assert!(server.gateway().authenticate(request(b"never")).await.expect_err("too late").is_retryable());
}

#[tokio::test]
async fn a_gateway_holds_pages_to_the_same_origins() {
    let server = Server::builder().in_memory().allowed_origins(["https://app.example"]).open().await.expect("opens");
    let origin = |origin: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(http::header::ORIGIN, origin.parse().expect("a header"));
        server.gateway().origin_is_allowed(&headers)
    };
    assert!(origin("https://app.example"));
    assert!(!origin("https://evil.example"));
    assert!(server.gateway().origin_is_allowed(&HeaderMap::new()));
}
