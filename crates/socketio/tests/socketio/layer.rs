//! The gateway as a tower layer around an app of axum.

use axum::Router;
use axum::routing::get;
use redeliver_server::Server;
use redeliver_socketio::{Config, SocketIo};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::client::Host;

/// An app with routes of its own, and the gateway around it.
async fn app(path: &str) -> Host {
    let server = Server::builder().in_memory().open().await.unwrap();
    let mut config = Config::default();
    path.clone_into(&mut config.path);
    let io = SocketIo::builder(server.clone()).config(config).build();
    io.of("/").unwrap().on_connection(|socket| async move {
        socket.on("echo", |incoming| async move {
            let args = incoming.args.clone();
            incoming.answer(args).unwrap();
        });
    });
    let router = Router::new().route("/", get(async || "the app's page")).fallback(async || "the app's own 404");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = router.layer(io.layer());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    Host { server, io, address }
}

/// The status and the body of an answer.
async fn ask(host: &Host, method: &str, target: &str, body: &str) -> (u16, String) {
    let mut wire = TcpStream::connect(host.address).await.unwrap();
    let length = body.len();
    let request = format!(
        "{method} {target} HTTP/1.1\r\nHost: app\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    wire.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    wire.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[tokio::test]
async fn the_app_is_asked_for_everything_outside_the_gateways_path() {
    let host = app("/socket.io").await;
    assert_eq!(ask(&host, "GET", "/", "").await, (200, "the app's page".to_owned()));
    for outside in ["/nothing", "/socket.iox/?EIO=4&transport=polling", "/socket.i", "/a/socket.io/"] {
        assert_eq!(ask(&host, "GET", outside, "").await.1, "the app's own 404", "{outside}");
    }
    let (status, script) = ask(&host, "GET", "/socket.io/socket.io.min.js", "").await;
    assert!(status == 200 && script.contains("Socket.IO"), "{status}");
    assert_eq!(ask(&host, "GET", "/socket.io/?EIO=4&transport=pigeon", "").await.0, 400);
}

#[tokio::test]
async fn a_websocket_client_lives_behind_the_layer() {
    let host = app("/socket.io").await;
    let mut client = host.connect().await;
    assert_eq!(client.ask(&json!(["echo", 1, "two"])).await, json!([1, "two"]));
    host.io.emit("n", 7).await.unwrap();
    assert_eq!(client.numbers("n", 1).await, [7]);
    let shown = json!({ "pid": client.pid });
    drop(client);
    host.io.emit("n", 8).await.unwrap();
    assert_eq!(host.connect_with(&shown).await.numbers("n", 2).await, [7, 8]);
}

#[tokio::test]
async fn a_polling_client_lives_behind_the_layer_on_a_path_of_the_apps_choice() {
    let host = app("/rt/live/").await;
    assert_eq!(ask(&host, "GET", "/socket.io/?EIO=4&transport=polling", "").await.1, "the app's own 404");
    let (status, opening) = ask(&host, "GET", "/rt/live/?EIO=4&transport=polling", "").await;
    assert_eq!(status, 200);
    let opening: Value = serde_json::from_str(opening.strip_prefix('0').unwrap()).unwrap();
    let target = format!("/rt/live/?EIO=4&transport=polling&sid={}", opening["sid"].as_str().unwrap());
    assert_eq!(ask(&host, "POST", &target, "40").await, (200, "ok".to_owned()));
    let connected = ask(&host, "GET", &target, "").await.1;
    assert!(connected.starts_with("40{\"sid\":"), "{connected}");
    assert_eq!(ask(&host, "POST", &target, "421[\"echo\",\"ä\"]").await.1, "ok");
    assert_eq!(ask(&host, "GET", &target, "").await.1, "431[\"ä\"]");
    host.io.emit("n", 1).await.unwrap();
    let event = ask(&host, "GET", &target, "").await.1;
    assert!(event.starts_with("42[\"n\",1"), "{event}");
}
