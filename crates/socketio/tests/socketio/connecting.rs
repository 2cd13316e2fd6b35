//! CONNECT, refusals, and packets that nobody may send.

use std::time::Duration;

use redeliver_server::{Access, Action, ConnectRequest, Denied, Identity, Server};
use redeliver_socketio::{Config, ConnectError, Recovery};
use serde_json::json;

use crate::client::Host;

#[tokio::test]
async fn a_client_is_greeted_and_asks_and_is_answered() {
    let host = Host::start().await;
    host.io.of("/").unwrap().on_connection(|socket| async move {
        socket.on("sum", |incoming| async move {
            let (a, b) = incoming.args.parse::<(u32, u32)>().unwrap();
            incoming.answer(a + b).unwrap();
        });
        socket.emit("hello", ("world", 1)).await.unwrap();
    });
    let mut client = host.connect().await;
    assert_eq!(client.event().await, json!(["hello", "world", 1]));
    assert_eq!(client.ask(&json!(["sum", 2, 3])).await, json!([5]));
}

#[tokio::test]
async fn binary_arguments_go_both_ways() {
    let host = Host::start().await;
    host.io.of("/").unwrap().on_connection(|socket| async move {
        socket.on("bytes", |incoming| async move {
            incoming.socket.emit("back", incoming.args).await.unwrap();
        });
    });
    let mut client = host.connect().await;
    for event in [
        json!(["bytes", {"_placeholder": true, "num": 0}]),
        json!(["bytes", {"a": [{"_placeholder": true, "num": 0}]}, 1]),
    ] {
        client.send(&format!("451-{event}")).await;
        client.send_binary(&[1, 2, 3]).await;
        let mut expected = event.clone();
        expected[0] = json!("back");
        assert_eq!(client.event().await, expected);
        assert_eq!(client.attachments, [&[1, 2, 3][..]]);
    }
}

#[tokio::test]
async fn an_unknown_namespace_is_refused_and_the_connection_stays() {
    let host = Host::start().await;
    let mut client = host.open().await;
    client.send("40/nothing,").await;
    assert_eq!(client.packet().await.unwrap(), r#"4/nothing,{"message":"Invalid namespace"}"#);
    client.join(&json!({})).await.unwrap();
}

#[tokio::test]
async fn what_no_client_may_send_closes_the_connection() {
    let host = Host::start().await;
    for (joined, packets) in [
        (false, &["42[\"event\"]"][..]),
        (false, &["41"]),
        (false, &["4abc"]),
        (true, &["40"]),
        (true, &["42/other,[\"event\"]"]),
        (true, &["42[]"]),
        (true, &["42[\"disconnect\"]"]),
        (true, &["451-[\"event\",{\"_placeholder\":true,\"num\":0}]", "42[\"event\"]"]),
        (true, &["451-[\"event\",{\"_placeholder\":true,\"num\":1}]"]),
        (true, &["44{}"]),
    ] {
        let mut client = host.open().await;
        if joined {
            client.join(&json!({})).await.unwrap();
        }
        for packet in packets {
            client.send(packet).await;
        }
        assert_eq!(client.packet().await, None, "{packets:?}");
    }
}

#[tokio::test]
async fn a_connection_that_joins_nothing_is_closed() {
    let mut config = Config::default();
    config.connect_timeout = Duration::from_millis(50);
    let host = Host::with(Server::builder().in_memory(), config).await;
    assert_eq!(host.open().await.packet().await, None);
}

#[tokio::test]
async fn a_middleware_turns_away_with_a_message_and_data() {
    let host = Host::start().await;
    host.io.of("/").unwrap().middleware(|socket| async move {
        match socket.handshake().auth.get("age") {
            Some(_) => socket.set_data(json!("grown up")).await.map_err(|error| ConnectError::new(error.to_string())),
            None => Err(ConnectError::new("too young").with_data(json!({ "age": 18 }))),
        }
    });
    let refused = host.open().await.join(&json!({})).await;
    assert_eq!(refused, Err(json!({ "message": "too young", "data": { "age": 18 } })));
    host.connect_with(&json!({ "age": 20 })).await;
    assert_eq!(host.io.of("/").unwrap().sockets()[0].data(), json!("grown up"));
}

struct Sesame;

impl Access for Sesame {
    async fn authenticate(&self, request: ConnectRequest) -> Result<Identity, Denied> {
        match request.auth.as_deref() {
            Some(b"sesame") => Ok(Identity::new("ali")),
            Some(b"later") => Err(Denied::for_now("the user database is down")),
            Some(_) | None => Err(Denied::new("unknown token")),
        }
    }

    fn allow(&self, _identity: &Identity, _action: Action<'_>) -> bool {
        true
    }
}

#[tokio::test]
async fn the_servers_access_judges_the_token() {
    let host = Host::with(Server::builder().in_memory().access(Sesame), Config::default()).await;
    let refused = host.open().await.join(&json!({ "token": "open" })).await;
    assert_eq!(refused, Err(json!({ "message": "unknown token" })));
    let mut late = host.open().await;
    late.send(r#"40{"token":"later"}"#).await;
    assert_eq!(late.packet().await, None, "it comes back by itself");
    host.connect_with(&json!({ "token": "sesame" })).await;
    assert_eq!(host.io.sockets()[0].identity().name(), "ali");
}

#[tokio::test]
async fn without_recovery_there_is_only_a_sid() {
    let mut config = Config::default();
    config.recovery = Recovery::Off;
    let host = Host::with(Server::builder().in_memory(), config).await;
    let mut client = host.open().await;
    client.send("40").await;
    let answer: serde_json::Value = serde_json::from_str(&client.packet().await.unwrap()[1..]).unwrap();
    assert_eq!(answer.as_object().unwrap().keys().collect::<Vec<_>>(), ["sid"]);
}

#[tokio::test]
async fn the_server_counts_its_clients_and_sends_them_away() {
    let host = Host::with(Server::builder().in_memory().connections_max(1), Config::default()).await;
    let mut client = host.connect().await;
    let [only] = &host.server.connections()[..] else { panic!("there is one") };
    assert_eq!((only.protocol, only.identity.name()), ("socket.io", "anonymous"));
    let mut late = host.open().await;
    late.send("40").await;
    assert_eq!(late.packet().await, None, "told of an error, a stock client would never ask again");
    assert!(host.server.disconnect(only.id, "enough"));
    assert_eq!(client.packet().await.as_deref(), Some("1"), "told of its end, a stock client stays away");
    assert_eq!(client.packet().await, None);
}

#[tokio::test]
async fn a_handler_that_panics_takes_nothing_with_it() {
    let host = Host::start().await;
    host.io.of("/").unwrap().on_connection(|socket| async move {
        socket.on("bad", |_| async { panic!("a handler's mistake") });
        socket.on("good", |incoming| async move { incoming.answer("fine").unwrap() });
    });
    let mut client = host.connect().await;
    client.send("42[\"bad\"]").await;
    assert_eq!(client.ask(&json!(["good"])).await, json!(["fine"]));
}
