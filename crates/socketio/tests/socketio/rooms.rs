//! Whom an event reaches.

use redeliver_socketio::Config;
use serde_json::json;

use crate::client::Host;

#[tokio::test]
async fn a_client_in_several_rooms_gets_an_event_once() {
    let host = Host::start().await;
    let namespace = host.io.of("/").unwrap();
    let mut client = host.connect().await;
    let socket = namespace.socket(&client.sid).unwrap();
    socket.join("a").await.unwrap();
    socket.join("b").await.unwrap();
    namespace.to("a").to("b").emit("n", 1).await.unwrap();
    namespace.to("c").emit("n", 2).await.unwrap();
    namespace.emit("n", 3).await.unwrap();
    assert_eq!(client.numbers("n", 2).await, [1, 3]);
}

#[tokio::test]
async fn rooms_are_joined_left_and_emptied_from_outside() {
    let host = Host::start().await;
    let namespace = host.io.of("/").unwrap();
    let (mut one, mut two) = (host.connect().await, host.connect().await);
    namespace.all().sockets_join("both").await.unwrap();
    assert_eq!(namespace.to("both").sockets().unwrap().len(), 2);
    namespace.to(&*one.sid).sockets_leave("both").await.unwrap();
    namespace.to("both").emit("n", 1).await.unwrap();
    namespace.emit("n", 2).await.unwrap();
    assert_eq!(one.numbers("n", 1).await, [2]);
    assert_eq!(two.numbers("n", 2).await, [1, 2]);
    namespace.to("both").disconnect_sockets(false).unwrap();
    assert_eq!(two.packet().await.unwrap(), "1");
}

#[tokio::test]
async fn native_topics_are_followed_with_history_and_emitted_to() {
    let mut config = Config::default();
    config.builtin_events = true;
    let host = Host::with(redeliver_server::Server::builder().in_memory(), config).await;
    host.server.emit_json("orders", "created", &json!({ "id": 1 })).await.unwrap();
    host.server.emit_json("orders", "created", &json!({ "id": 2 })).await.unwrap();
    let mut client = host.connect().await;
    let answer = client.ask(&json!(["subscribe", "orders", { "last": 1, "envelope": true }])).await;
    assert_eq!(answer[0]["ok"], true);
    let event = client.event().await;
    assert_eq!((&event[0], &event[1]["data"], &event[1]["seq"]), (&json!("event"), &json!({ "id": 2 }), &json!(2)));
    let answer = client.ask(&json!(["emit", "orders", "created", { "id": 3 }])).await;
    assert_eq!(answer[0]["seq"], 3);
    assert_eq!(client.event().await[1]["data"], json!({ "id": 3 }));
    assert_eq!(client.ask(&json!(["unsubscribe", "orders"])).await[0]["ok"], true);
    let refused = client.ask(&json!(["subscribe", "/#room"])).await;
    assert_eq!((&refused[0]["ok"], &refused[0]["code"]), (&json!(false), &json!("forbidden")));
}
