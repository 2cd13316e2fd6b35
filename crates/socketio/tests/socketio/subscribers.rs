//! Clients that name themselves: alone, several at once, and when what they missed is gone.

use std::time::Duration;

use redeliver_server::{LogConfig, Server};
use redeliver_socketio::{Config, Recovery};
use serde_json::{Value, json};

use crate::client::{Client, Host};

async fn host() -> Host {
    let mut config = Config::default();
    config.recovery = Recovery::On;
    config.builtin_events = true;
    Host::with(Server::builder().in_memory(), config).await
}

async fn emit(host: &Host, numbers: std::ops::Range<u64>) {
    for number in numbers {
        host.server.emit_json("t", "n", &number).await.unwrap();
    }
}

/// A page, which keeps its pid.
fn page() -> Value {
    json!({ "subscriber": "ali", "redeliver": {} })
}

/// A program that keeps no pid and answers each event.
fn program() -> Value {
    json!({ "subscriber": "ali", "redeliver": { "ack": true } })
}

fn shown(client: &Client) -> Value {
    let mut auth = page();
    (auth["pid"], auth["offset"]) = (json!(client.pid), json!(client.offset));
    auth
}

async fn follow(client: &mut Client) {
    assert_eq!(client.ask(&json!(["subscribe", "t"])).await[0]["ok"], true);
}

#[tokio::test]
async fn pages_of_one_subscriber_stay_and_each_gets_each_event_through_cuts() {
    let host = host().await;
    let mut pages = vec![host.connect_with(&page()).await];
    follow(&mut pages[0]).await;
    for number in 1..4 {
        let mut next = host.connect_with(&page()).await;
        let device = next.event().await;
        assert_eq!(device, json!(["redeliver:device", next.pid]), "page {number} is told its own name");
        pages.push(next);
    }
    emit(&host, 0..2).await;
    for page in &mut pages {
        assert_eq!(page.numbers("n", 2).await, [0, 1], "it is in the subscriber's rooms");
    }
    let all_shown: Vec<Value> = pages.iter().map(shown).collect();
    drop(pages);
    emit(&host, 2..4).await;
    for shown in &all_shown {
        assert_eq!(host.connect_with(shown).await.numbers("n", 2).await, [2, 3], "{shown}");
    }
}

#[tokio::test]
async fn a_page_that_names_its_device_goes_on_after_it_was_loaded_again() {
    let host = host().await;
    let mut first = host.connect_with(&page()).await;
    follow(&mut first).await;
    let mut second = host.connect_with(&page()).await;
    let device = second.event().await[1].clone();
    emit(&host, 0..1).await;
    assert_eq!(second.numbers("n", 1).await, [0]);
    drop(second);
    emit(&host, 1..2).await;
    assert_eq!(first.numbers("n", 2).await, [0, 1]);
    let mut auth = page();
    auth["device"] = device;
    let mut second = host.connect_with(&auth).await;
    assert_eq!(second.numbers("n", 2).await, [0, 1], "at least once: nothing had confirmed the first");
}

#[tokio::test]
async fn a_program_beside_a_page_has_a_place_of_its_own_and_repeats_nothing_that_it_answered() {
    let host = host().await;
    let mut page = host.connect_with(&page()).await;
    follow(&mut page).await;
    let mut worker = host.connect_with(&program()).await;
    emit(&host, 0..1).await;
    assert_eq!(page.numbers("n", 1).await, [0]);
    answer(&mut worker).await;
    follow(&mut worker).await;
    drop(worker);
    emit(&host, 1..2).await;
    assert_eq!(page.numbers("n", 1).await, [1]);
    let mut worker = host.connect_with(&program()).await;
    assert_eq!(worker.numbers("n", 1).await, [1]);
    let mut again = host.connect_with(&program()).await;
    assert_eq!(again.numbers("n", 1).await, [1], "the same program, which was cut off");
    assert_eq!(worker.event().await, json!(["redeliver:replaced"]));
    emit(&host, 2..3).await;
    assert_eq!(page.numbers("n", 1).await, [2], "nobody throws the page out");
}

/// Answers the next event, which must be one.
async fn answer(client: &mut Client) {
    let packet = client.packet().await.unwrap();
    let (head, _) = packet.split_at(packet.find('[').unwrap());
    client.send(&format!("43{}[]", &head[1..])).await;
}

#[tokio::test]
async fn what_was_answered_is_stored_within_a_second_without_another_event() {
    let host = host().await;
    let mut worker = host.connect_with(&program()).await;
    follow(&mut worker).await;
    emit(&host, 0..1).await;
    answer(&mut worker).await;
    follow(&mut worker).await;
    // The stored place moves behind the event with no further cause; asked for as a client that was not seen to go
    // would.
    let stored = async {
        loop {
            let states = host.server.gateway().states(b"sio/s/", None, 8).await.unwrap();
            let session: Value = serde_json::from_slice(&states[0].1).unwrap();
            if session["seq"] == 1 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), stored).await.expect("it is stored by itself");
    drop(worker);
}

#[tokio::test]
async fn a_subscriber_whose_history_is_gone_keeps_its_rooms_and_is_told_how_much() {
    let mut config = Config::default();
    config.builtin_events = true;
    let mut log = LogConfig::default();
    log.retention.count = Some(10);
    let host = Host::with(Server::builder().in_memory().log_config(log), config).await;
    let mut worker = host.connect_with(&program()).await;
    follow(&mut worker).await;
    emit(&host, 0..5).await;
    for _ in 0..5 {
        answer(&mut worker).await;
    }
    follow(&mut worker).await;
    drop(worker);
    emit(&host, 5..105).await;
    trimmed(&host).await;
    let mut worker = host.connect_with(&program()).await;
    assert_eq!(worker.event().await, json!(["redeliver:gap", "t", 5, 95, 90, "retention_size"]));
    assert_eq!(worker.numbers("n", 10).await, (95..105).collect::<Vec<_>>());
}

/// Waits until retention has removed what it is to remove.
async fn trimmed(host: &Host) {
    let trimmed = async {
        let mut probe = host.connect().await;
        loop {
            let answer = probe.ask(&json!(["subscribe", "t", { "after": 0 }])).await;
            if answer[0]["gone"] == 95 {
                return;
            }
            assert_eq!(probe.ask(&json!(["unsubscribe", "t"])).await[0]["ok"], true);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), trimmed).await.expect("retention removes the oldest events");
}

#[tokio::test]
async fn a_topic_that_is_followed_is_not_given_twice_if_it_is_asked_for_again() {
    let host = host().await;
    let mut client = host.connect_with(&json!({ "redeliver": {} })).await;
    follow(&mut client).await;
    emit(&host, 0..1).await;
    assert_eq!(client.numbers("n", 1).await, [0]);
    let auth = json!({ "pid": client.pid, "offset": client.offset });
    drop(client);
    emit(&host, 1..500).await;
    let mut back = host.connect_with(&auth).await;
    // What a stock client does in its handler of `connect`, before it has handled what it missed.
    let asked = back.ask(&json!(["subscribe", "t", { "after": auth["offset"] }])).await;
    assert_eq!(asked[0]["ok"], true);
    emit(&host, 500..501).await;
    assert_eq!(back.numbers("n", 500).await, (1..501).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_room_that_a_middleware_gives_to_who_comes_back_is_followed_at_once() {
    let host = host().await;
    host.io.of("/").unwrap().middleware(|socket| async move {
        if socket.recovered() {
            socket.join("welcome back").await.unwrap();
        }
        Ok(())
    });
    let client = host.connect_with(&json!({ "redeliver": {} })).await;
    let auth = json!({ "pid": client.pid });
    drop(client);
    let mut back = host.connect_with(&auth).await;
    host.io.to("welcome back").emit("n", 7).await.unwrap();
    assert_eq!(back.numbers("n", 1).await, [7]);
}
