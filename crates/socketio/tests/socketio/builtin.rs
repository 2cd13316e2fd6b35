//! The events of a server without an app's code.

use redeliver_server::Server;
use redeliver_socketio::Config;
use serde_json::{Value, json};

use crate::client::{Client, Host};

async fn standalone() -> Host {
    let mut config = Config::default();
    config.builtin_events = true;
    Host::with(Server::builder().in_memory(), config).await
}

/// The next answer: to which question, and what.
async fn answer(client: &mut Client) -> (usize, Value) {
    let packet = client.packet().await.unwrap();
    let body = packet.find('[').unwrap();
    let (answer,): (Value,) = serde_json::from_str(&packet[body..]).unwrap();
    assert!(packet.starts_with('3'), "{packet}");
    (packet[1..body].parse().unwrap(), answer)
}

#[tokio::test]
async fn emits_that_come_together_are_stored_and_answered_in_their_order() {
    let host = standalone().await;
    let mut client = host.connect().await;
    // More than wait for their receipts at once, and some that are refused.
    let is_refused = |number: usize| number % 100 == 7;
    for number in 0..600 {
        let topic = if is_refused(number) { "/#room" } else { "orders" };
        client.send(&format!("42{number}[\"emit\",\"{topic}\",\"n\",{number}]")).await;
    }
    let mut last = 0;
    for number in 0..600 {
        let (id, answer) = answer(&mut client).await;
        assert_eq!(id, number);
        if is_refused(number) {
            assert_eq!((&answer["ok"], &answer["code"]), (&json!(false), &json!("forbidden")));
            continue;
        }
        let seq = answer["seq"].as_u64().unwrap();
        assert!(seq > last, "{answer}");
        last = seq;
    }
    assert_eq!(client.ask(&json!(["subscribe", "orders", { "after": "earliest" }])).await[0]["ok"], true);
    let expected: Vec<u64> = (0..600).filter(|number| !is_refused(*number)).map(|number| number as u64).collect();
    assert_eq!(client.numbers("n", expected.len()).await, expected);
}

#[tokio::test]
async fn what_was_emitted_before_a_goodbye_is_stored() {
    let host = standalone().await;
    let mut client = host.connect().await;
    for number in 0..50 {
        client.send(&format!("42{number}[\"emit\",\"orders\",\"n\",{number}]")).await;
    }
    client.send("41").await;
    let mut reader = host.connect().await;
    assert_eq!(reader.ask(&json!(["subscribe", "orders", { "after": "earliest" }])).await[0]["ok"], true);
    assert_eq!(reader.numbers("n", 50).await, (0..50).collect::<Vec<u64>>());
}

const PUBLISHER: &str = "5ca38a8f-0d3c-4f2b-9d2b-6f0f5f4a2f11";

fn numbered(number: u64, payload: u64) -> Value {
    json!(["emit", { "topic": "orders", "publisher": PUBLISHER, "number": number }, "n", payload])
}

#[tokio::test]
async fn a_numbered_emit_is_stored_once_also_if_it_is_repeated_on_another_connection() {
    let host = standalone().await;
    let mut reader = host.connect().await;
    assert_eq!(reader.ask(&json!(["subscribe", "orders"])).await[0]["ok"], true);
    let mut client = host.connect().await;
    let first = client.ask(&numbered(1, 10)).await;
    assert_eq!((&first[0]["ok"], first[0].get("duplicate")), (&json!(true), None));
    let again = client.ask(&numbered(1, 10)).await;
    assert_eq!(
        (&again[0]["ok"], &again[0]["duplicate"], &again[0]["seq"]),
        (&json!(true), &json!(true), &first[0]["seq"])
    );
    let mut other = host.connect().await;
    assert_eq!(other.ask(&numbered(1, 10)).await[0]["duplicate"], true);
    assert_eq!(other.ask(&numbered(2, 20)).await[0]["ok"], true);
    // What lies between was given up, and stays so.
    assert_eq!(other.ask(&numbered(5, 50)).await[0]["ok"], true);
    let skipped = other.ask(&numbered(4, 40)).await;
    assert_eq!((&skipped[0]["ok"], &skipped[0]["code"]), (&json!(false), &json!("refused")));
    // Another content is no repetition.
    assert_eq!(other.ask(&numbered(5, 51)).await[0]["ok"], false);
    // The connection that was fenced says so once, and goes on if its client does.
    assert_eq!(client.ask(&numbered(2, 20)).await[0]["ok"], false);
    assert_eq!(client.ask(&numbered(2, 20)).await[0]["duplicate"], true);
    assert_eq!(client.ask(&numbered(6, 60)).await[0]["ok"], true);
    assert_eq!(reader.numbers("n", 4).await, [10, 20, 50, 60]);
}

#[tokio::test]
async fn an_emit_with_a_target_that_is_none_is_refused_with_what_to_do() {
    let host = standalone().await;
    let mut client = host.connect().await;
    let zero = json!({ "topic": "orders", "publisher": PUBLISHER, "number": 0 });
    let unknown = json!({ "topic": "orders", "publisher": PUBLISHER, "number": 1, "id": 2 });
    for target in [json!(7), json!({ "topic": "orders" }), zero, unknown] {
        let answer = client.ask(&json!(["emit", target, "n", 1])).await;
        assert_eq!((&answer[0]["ok"], &answer[0]["code"]), (&json!(false), &json!("invalid")), "{target}");
    }
}
