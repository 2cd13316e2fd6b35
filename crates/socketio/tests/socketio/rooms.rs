//! Whom an event reaches.

use std::time::Duration;

use redeliver_socketio::{AckError, Config};
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
    namespace.to("both").disconnect_sockets().unwrap();
    assert_eq!(two.packet().await.unwrap(), "1");
}

#[tokio::test]
async fn who_is_left_out_gets_nothing_also_when_it_comes_back() {
    let host = Host::start().await;
    let namespace = host.io.of("/").unwrap();
    let (one, mut two) = (host.connect().await, host.connect().await);
    let socket = namespace.socket(&one.sid).unwrap();
    socket.broadcast().emit("n", 1).await.unwrap();
    namespace.socket(&two.sid).unwrap().join("quiet").await.unwrap();
    namespace.except("quiet").emit("n", 2).await.unwrap();
    namespace.socket(&two.sid).unwrap().leave("quiet").await.unwrap();
    namespace.emit("n", 3).await.unwrap();
    assert_eq!(two.numbers("n", 2).await, [1, 3]);
    let mut one = host.connect_with(&json!({ "pid": one.pid })).await;
    assert_eq!(one.numbers("n", 2).await, [2, 3]);
    let mut two = host.connect_with(&json!({ "pid": two.pid })).await;
    assert_eq!(two.numbers("n", 2).await, [1, 3], "judged by the rooms of then, not of now");
}

#[tokio::test]
async fn everybody_is_asked_and_who_does_not_answer_is_missed() {
    let host = Host::start().await;
    let namespace = host.io.of("/").unwrap();
    let (mut one, mut two) = (host.connect().await, host.connect().await);
    let asking = {
        let namespace = namespace.clone();
        tokio::spawn(async move { namespace.emit_with_ack("how many", (), Duration::from_secs(20)).await })
    };
    for (client, answer) in [(&mut one, 1), (&mut two, 2)] {
        let packet = client.packet().await.unwrap();
        let (head, body) = packet.split_at(packet.find('[').unwrap());
        assert_eq!(body, r#"["how many"]"#, "no offset stands where the answer's callback belongs");
        client.send(&format!("43{}[{answer}]", &head[1..])).await;
    }
    let mut answers: Vec<u32> =
        asking.await.unwrap().unwrap().iter().map(|answer| answer.args.parse_at(0).unwrap()).collect();
    answers.sort_unstable();
    assert_eq!(answers, [1, 2]);
    let socket = namespace.socket(&one.sid).unwrap();
    let missed = socket.emit_with_ack("silence", (), Duration::from_millis(10)).await;
    assert!(matches!(missed, Err(AckError::TimedOut { missing: 1, .. })), "{missed:?}");
}

#[tokio::test]
async fn a_volatile_event_reaches_who_is_here_and_nobody_later() {
    let host = Host::start().await;
    let namespace = host.io.of("/").unwrap();
    let auth = json!({ "redeliver": {} });
    let (mut one, mut two) = (host.connect_with(&auth).await, host.connect_with(&auth).await);
    namespace.emit("n", 1).await.unwrap();
    assert_eq!((one.numbers("n", 1).await, two.numbers("n", 1).await), (vec![1], vec![1]));
    namespace.except(&*two.sid).volatile().emit("now", "or never").unwrap();
    let offset = one.offset.clone();
    assert_eq!(one.event().await, json!(["now", "or never"]));
    assert_eq!(one.offset, offset, "it has the offset of what came before it");
    namespace.emit("n", 2).await.unwrap();
    assert_eq!(two.event().await, json!(["n", 2]));
    let mut again = host.connect_with(&json!({ "pid": one.pid, "offset": one.offset })).await;
    assert_eq!(again.event().await, json!(["n", 2]));
    assert_eq!(host.server.head().seq.0, 2);
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
