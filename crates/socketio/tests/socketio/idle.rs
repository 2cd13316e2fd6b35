//! What time does to a client: idleness, sweeping, answers that never come. Hours pass in these tests, but not for who
//! runs them.

use std::time::Duration;

use redeliver_server::{LogConfig, Server};
use redeliver_socketio::{Config, Recovery};
use serde_json::json;

use crate::client::{Client, Host};

fn always() -> Config {
    let mut config = Config::default();
    config.recovery = Recovery::On;
    config
}

/// Lets this much time pass at once. What takes real time goes on before and after it.
async fn pass(span: Duration) {
    tokio::time::pause();
    tokio::time::advance(span).await;
    tokio::time::resume();
}

async fn emit(host: &Host, numbers: std::ops::Range<u64>) {
    for number in numbers {
        host.io.emit("n", number).await.unwrap();
    }
}

/// A host whose clients can ask whether anybody is there.
fn listening(host: &Host) {
    host.io.of("/").unwrap().on_connection(|socket| async move {
        socket.on("there?", |incoming| async move { incoming.answer("here").unwrap() });
    });
}

/// Ten minutes, ping after ping, while others are spoken to.
async fn ten_idle_minutes(host: &Host, client: &mut Client) {
    let elsewhere = host.io.of("/").unwrap().to("elsewhere");
    for minute in 0..10 {
        // A client's next ping is due 25 s after its last pong.
        for _ in 0..3 {
            pass(Duration::from_secs(25)).await;
            // What is asked is answered behind the ping, and asked again, behind the pong.
            assert_eq!(client.ask(&json!(["there?"])).await, json!(["here"]));
            assert_eq!(client.ask(&json!(["there?"])).await, json!(["here"]));
        }
        elsewhere.clone().emit("n", 1000 + minute).await.unwrap();
    }
    assert_eq!(client.pings, 30, "each was answered, or it would not be here");
}

#[tokio::test]
async fn ten_idle_minutes_and_then_a_cut_lose_nothing() {
    let mut log = LogConfig::default();
    // By then, what the client was given last is long gone.
    log.retention.count = Some(6);
    let host = Host::with(Server::builder().in_memory().log_config(log), always()).await;
    listening(&host);
    let mut client = host.connect().await;
    emit(&host, 0..3).await;
    assert_eq!(client.numbers("n", 3).await, [0, 1, 2]);
    ten_idle_minutes(&host, &mut client).await;
    emit(&host, 3..5).await;
    assert_eq!(client.numbers("n", 2).await, [3, 4]);
    let shown = client.shown();
    drop(client);
    emit(&host, 5..8).await;
    let mut back = host.connect_with(&shown).await;
    assert!(host.io.of("/").unwrap().socket(&back.sid).unwrap().recovered());
    emit(&host, 8..9).await;
    assert_eq!(back.numbers("n", 4).await, [5, 6, 7, 8]);
}

#[tokio::test]
async fn ten_idle_minutes_without_any_event_before_a_cut_lose_nothing() {
    let mut log = LogConfig::default();
    log.retention.count = Some(6);
    let host = Host::with(Server::builder().in_memory().log_config(log), always()).await;
    listening(&host);
    let mut client = host.connect().await;
    ten_idle_minutes(&host, &mut client).await;
    let shown = json!({ "pid": client.pid });
    drop(client);
    emit(&host, 0..3).await;
    let mut back = host.connect_with(&shown).await;
    assert!(host.io.of("/").unwrap().socket(&back.sid).unwrap().recovered());
    assert_eq!(back.numbers("n", 3).await, [0, 1, 2]);
}

#[tokio::test]
async fn an_idle_client_that_answers_no_ping_is_gone_and_comes_back_to_all_it_missed() {
    let host = Host::with(Server::builder().in_memory(), always()).await;
    let client = host.connect().await;
    let (sid, shown) = (client.sid.clone(), json!({ "pid": client.pid }));
    let namespace = host.io.of("/").unwrap();
    // It hears nothing and says nothing, but its connection stays open.
    while namespace.socket(&sid).is_some() {
        pass(Duration::from_secs(45)).await;
        tokio::task::yield_now().await;
    }
    emit(&host, 0..3).await;
    let mut back = host.connect_with(&shown).await;
    assert_eq!(back.sid, sid);
    assert_eq!(back.numbers("n", 3).await, [0, 1, 2]);
    drop(client);
}

#[tokio::test]
async fn what_nobody_comes_back_for_is_swept_and_who_is_here_stays() {
    let mut config = always();
    // Its clients are long idle after any time at all.
    config.session_idle_max = Duration::from_millis(1);
    config.ping_interval = Duration::from_secs(86_400);
    let host = Host::with(Server::builder().in_memory(), config).await;
    listening(&host);
    let namespace = host.io.of("/").unwrap();
    let (mut stays, leaves) = (host.connect().await, host.connect().await);
    let shown = json!({ "pid": leaves.pid });
    let stored = async || host.server.gateway().states(b"sio/", None, 10).await.unwrap().len();
    assert_eq!(stored().await, 2);
    let left = leaves.sid.clone();
    drop(leaves);
    while namespace.socket(&left).is_some() {
        tokio::task::yield_now().await;
    }
    while stored().await == 2 {
        // Ages are judged by the log's paced clock, which goes on with each commit and knows nothing of the tests' time.
        host.server.emit("elsewhere", "tick", "").await.unwrap();
        pass(Duration::from_secs(601)).await;
    }
    assert_eq!(stored().await, 1, "of the one that is here");
    assert_eq!(stays.ask(&json!(["there?"])).await, json!(["here"]));
    let back = host.connect_with(&shown).await;
    assert_ne!(back.sid, left);
    assert!(!namespace.socket(&back.sid).unwrap().recovered());
    let stayed = stays.sid.clone();
    assert_eq!(host.connect_with(&json!({ "pid": stays.pid })).await.sid, stayed, "it can come back");
}

fn acking() -> serde_json::Value {
    json!({ "subscriber": "worker", "redeliver": { "ack": true } })
}

/// The ack id and the number of the next event.
async fn asked(client: &mut Client) -> (u64, u64) {
    let packet = client.packet().await.unwrap();
    let body = packet.find('[').unwrap();
    let event: (String, u64) = serde_json::from_str(&packet[body..]).unwrap();
    assert_eq!(event.0, "n", "{packet}");
    (packet[1..body].parse().unwrap(), event.1)
}

#[tokio::test]
async fn in_ack_mode_what_is_never_answered_comes_again_and_is_given_up_in_the_end() {
    let mut config = always();
    config.ack_resends_max = 2;
    let host = Host::with(Server::builder().in_memory(), config).await;
    listening(&host);
    let mut client = host.connect_with(&acking()).await;
    emit(&host, 0..2).await;
    let (first, second) = (asked(&mut client).await, asked(&mut client).await);
    assert_eq!((first.1, second.1), (0, 1));
    client.send(&format!("43{}[]", second.0)).await;
    assert_eq!(client.ask(&json!(["there?"])).await, json!(["here"]));
    let mut ids = vec![first.0, second.0];
    for _ in 0..2 {
        pass(Duration::from_secs(10)).await;
        let (id, number) = asked(&mut client).await;
        assert_eq!(number, 0, "only what has no answer");
        assert!(!ids.contains(&id), "asked anew");
        ids.push(id);
    }
    pass(Duration::from_secs(10)).await;
    let told = client.event().await;
    assert_eq!(told[0], "redeliver:unanswered");
    let seq = told[1].as_u64().unwrap();
    assert!(seq > 0 && seq < host.server.head().seq.0, "{seq}");
    drop(client);
    emit(&host, 2..3).await;
    let mut back = host.connect_with(&acking()).await;
    assert_eq!(asked(&mut back).await.1, 2, "neither what was answered nor what was given up");
}

#[tokio::test]
async fn in_ack_mode_an_answer_to_any_of_the_times_it_was_sent_counts() {
    let host = Host::with(Server::builder().in_memory(), always()).await;
    listening(&host);
    let mut client = host.connect_with(&acking()).await;
    emit(&host, 0..1).await;
    let (id, _) = asked(&mut client).await;
    pass(Duration::from_secs(10)).await;
    assert_eq!(asked(&mut client).await.1, 0);
    client.send(&format!("43{id}[]")).await;
    assert_eq!(client.ask(&json!(["there?"])).await, json!(["here"]));
    drop(client);
    emit(&host, 1..2).await;
    assert_eq!(asked(&mut host.connect_with(&acking()).await).await.1, 1);
}

#[tokio::test]
async fn in_ack_mode_no_more_is_sent_than_the_window_holds() {
    let mut config = always();
    config.ack_window = 2;
    let host = Host::with(Server::builder().in_memory(), config).await;
    listening(&host);
    let mut client = host.connect_with(&acking()).await;
    emit(&host, 0..3).await;
    let first = asked(&mut client).await;
    assert_eq!((first.1, asked(&mut client).await.1), (0, 1));
    client.send("427[\"there?\"]").await;
    assert_eq!(client.packet().await.unwrap(), "37[\"here\"]", "the third stays away");
    client.send(&format!("43{}[]", first.0)).await;
    assert_eq!(asked(&mut client).await.1, 2);
}
