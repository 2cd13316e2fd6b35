//! The matrix of rights of Socket.IO clients on a server without an app's code: each built-in event, and what is followed
//! without one, with its right missing at first use, at a recovery, and taken away while the socket lives. A new built-in
//! event fails here until it has its row.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;
use redeliver_server::{Access, Action, ConnectRequest, Denied, Identity, Server};
use redeliver_socketio::{Config, Recovery};
use serde_json::{Value, json};

use crate::client::{Client, Host};

#[derive(Clone, Default)]
struct Rights(Arc<Mutex<BTreeSet<(&'static str, &'static str)>>>);

impl Access for Rights {
    async fn authenticate(&self, request: ConnectRequest) -> Result<Identity, Denied> {
        match request.auth.as_deref() {
            Some(b"expiring") => {
                Ok(Identity::new("ali")
                    .expires_at(std::time::SystemTime::now() + std::time::Duration::from_millis(300)))
            }
            _ => Ok(Identity::new("ali")),
        }
    }

    #[allow(clippy::wildcard_enum_match_arm, reason = "whatever is not expected fails its test")]
    fn allow(&self, _identity: &Identity, action: Action<'_>) -> bool {
        let lacks = |right: &str, name: &str| self.0.lock().iter().any(|it| *it == (right, name));
        !match action {
            Action::Emit { topic } => lacks("Emit", topic.as_str()),
            Action::Subscribe { topic } => lacks("Subscribe", topic.as_str()),
            Action::UseSubscriber { subscriber } => lacks("UseSubscriber", subscriber.as_str()),
            _ => panic!("a gateway asks for nothing else: {action:?}"),
        }
    }
}

/// An event, its arguments, and the right that it needs.
type Row = (&'static str, &'static str, Option<(&'static str, &'static str)>);

/// Each built-in event with its arguments and the right that it needs. To leave a topic needs none.
const MATRIX: &[Row] = &[
    ("subscribe", r#"["orders"]"#, Some(("Subscribe", "orders"))),
    ("subscribe", r#"["orders",{"after":"earliest"}]"#, Some(("Subscribe", "orders"))),
    ("subscribe", r#"["/"]"#, Some(("Subscribe", "/"))),
    ("emit", r#"["orders","n",1]"#, Some(("Emit", "orders"))),
    ("emit", r#"["/","n",1]"#, Some(("Emit", "/"))),
    ("unsubscribe", r#"["orders"]"#, None),
];

async fn host(rights: &Rights) -> Host {
    let mut config = Config::default();
    config.builtin_events = true;
    config.recovery = Recovery::On;
    Host::with(Server::builder().in_memory().access(rights.clone()), config).await
}

async fn ask(client: &mut Client, event: &str, args: &str) -> Value {
    let args: Vec<Value> = serde_json::from_str(args).unwrap();
    let packet: Vec<Value> = std::iter::once(json!(event)).chain(args).collect();
    client.ask(&Value::from(packet)).await[0].clone()
}

fn lack(rights: &Rights, right: Option<(&'static str, &'static str)>) {
    *rights.0.lock() = right.into_iter().collect();
}

#[test]
fn every_built_in_event_has_a_row() {
    let source = include_str!("../../src/builtin.rs");
    let events = source.split("socket.on(\"").skip(1).filter_map(|rest| rest.split('"').next());
    let rows: BTreeSet<&str> = MATRIX.iter().map(|(event, ..)| *event).collect();
    assert_eq!(events.collect::<BTreeSet<_>>(), rows);
}

#[tokio::test]
async fn a_built_in_event_is_refused_without_its_right_at_first_later_and_after_a_recovery() {
    for &(event, args, right) in MATRIX {
        let rights = Rights::default();
        let host = host(&rights).await;
        lack(&rights, right);
        let mut client = host.connect().await;
        let is_refused = |answer: &Value| answer["code"] == "forbidden";
        assert_eq!(is_refused(&ask(&mut client, event, args).await), right.is_some(), "{event}{args}: at first");
        lack(&rights, None);
        assert_eq!(ask(&mut client, event, args).await["ok"], true, "{event}{args}: allowed");
        lack(&rights, right);
        host.server.reauthorize();
        assert_eq!(is_refused(&ask(&mut client, event, args).await), right.is_some(), "{event}{args}: taken away");
        let mut back = host.connect_with(&client.shown()).await;
        assert_eq!(is_refused(&ask(&mut back, event, args).await), right.is_some(), "{event}{args}: recovered");
    }
}

/// A client that follows `orders` and `open`, with all rights.
async fn follower_of_two() -> (Rights, Host, Client) {
    let rights = Rights::default();
    let host = host(&rights).await;
    let mut client = host.connect().await;
    for followed in ["orders", "open"] {
        assert_eq!(ask(&mut client, "subscribe", &format!("[\"{followed}\"]")).await["ok"], true);
    }
    (rights, host, client)
}

#[tokio::test]
async fn a_recovered_socket_gets_no_topic_that_it_may_follow_no_longer_not_even_its_namespace() {
    for topic in ["orders", "/"] {
        let (rights, host, mut client) = follower_of_two().await;
        host.server.emit("open", "n", "[0]").await.unwrap();
        client.event().await;
        let shown = client.shown();
        drop(client);
        lack(&rights, Some(("Subscribe", topic)));
        host.server.emit(topic, "secret", "[1]").await.unwrap();
        host.server.emit("open", "n", "[2]").await.unwrap();
        let mut back = host.connect_with(&shown).await;
        assert_eq!(back.event().await[0], "n", "{topic}: in the replay");
        host.server.emit(topic, "secret", "[3]").await.unwrap();
        host.server.emit("open", "n", "[4]").await.unwrap();
        assert_eq!(back.event().await[0], "n", "{topic}: and live");
    }
}

#[tokio::test]
async fn a_topic_whose_right_is_taken_away_ends_and_the_client_is_told() {
    for topic in ["orders", "/"] {
        let (rights, host, mut client) = follower_of_two().await;
        lack(&rights, Some(("Subscribe", topic)));
        host.server.reauthorize();
        assert_eq!(client.event().await, json!(["redeliver:revoked", topic, "forbidden"]));
        host.server.emit(topic, "secret", "[1]").await.unwrap();
        host.server.emit("open", "n", "[2]").await.unwrap();
        assert_eq!(client.event().await[0], "n");
    }
}

#[tokio::test]
async fn a_durable_name_is_asked_for_at_each_connect_and_when_rights_change() {
    let rights = Rights::default();
    let host = host(&rights).await;
    let auth = json!({ "subscriber": "billing" });
    let mut client = host.connect_with(&auth).await;
    lack(&rights, Some(("UseSubscriber", "billing")));
    host.server.reauthorize();
    assert_eq!(client.packet().await.as_deref(), Some("1"), "told of its end, a stock client stays away");
    assert_eq!(client.packet().await, None);
    assert!(host.open().await.join(&auth).await.unwrap_err()["message"].as_str().unwrap().contains("may not be used"));
}

#[tokio::test]
async fn a_socket_whose_identity_expires_is_cut_so_that_it_comes_back_with_new_credentials_and_goes_on() {
    let rights = Rights::default();
    let host = host(&rights).await;
    let mut client = host.connect_with(&json!({ "token": "expiring" })).await;
    host.server.emit("/", "n", "[0]").await.unwrap();
    client.event().await;
    assert_eq!(client.packet().await, None, "not told that it was disconnected");
    host.server.emit("/", "n", "[1]").await.unwrap();
    let mut auth = client.shown();
    auth["token"] = json!("fresh");
    let mut back = host.connect_with(&auth).await;
    assert_eq!(back.sid, client.sid);
    assert_eq!(back.event().await[0], "n", "what it missed meanwhile");
}
