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
