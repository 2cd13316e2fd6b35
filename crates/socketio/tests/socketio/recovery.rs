//! Clients that come back: after cuts, restarts, with and without an offset.

use std::sync::Arc;

use parking_lot::Mutex;
use redeliver_server::{Access, Action, ConnectRequest, Denied, Identity, Server, ServerBuilder};
use redeliver_socketio::{Config, Recovery};
use serde_json::{Value, json};

use crate::client::{Client, Host};

fn always() -> Config {
    let mut config = Config::default();
    config.recovery = Recovery::On;
    config
}

fn memory() -> ServerBuilder {
    Server::builder().in_memory()
}

async fn emit(host: &Host, numbers: std::ops::Range<u64>) {
    for number in numbers {
        host.io.emit("n", number).await.unwrap();
    }
}

/// Comes back as this client, whose connection is still open or not.
async fn again(host: &Host, client: &Client) -> Client {
    host.connect_with(&client.shown()).await
}

#[tokio::test]
async fn a_client_that_comes_back_gets_what_it_missed_once() {
    let host = Host::with(memory(), always()).await;
    let mut client = host.connect().await;
    emit(&host, 0..3).await;
    assert_eq!(client.numbers("n", 3).await, [0, 1, 2]);
    for round in 1..4 {
        let next = round * 3;
        let mut back = again(&host, &client).await;
        assert_eq!((&back.sid, &back.pid), (&client.sid, &client.pid));
        emit(&host, next..next + 3).await;
        assert_eq!(back.numbers("n", 3).await, [next, next + 1, next + 2]);
        client = back;
    }
    let shown = client.shown();
    drop(client);
    emit(&host, 12..15).await;
    assert_eq!(host.connect_with(&shown).await.numbers("n", 3).await, [12, 13, 14]);
}

#[tokio::test]
async fn a_client_that_has_no_offset_yet_loses_nothing() {
    let host = Host::with(memory(), always()).await;
    let client = host.connect().await;
    let shown = json!({ "pid": client.pid });
    drop(client);
    emit(&host, 0..2).await;
    assert_eq!(host.connect_with(&shown).await.numbers("n", 2).await, [0, 1]);
}

#[tokio::test]
async fn what_is_no_offset_falls_back_to_what_was_confirmed() {
    let host = Host::with(memory(), always()).await;
    let client = host.connect().await;
    let shown = json!({ "pid": client.pid, "offset": "the last word of a volatile event" });
    emit(&host, 0..2).await;
    let mut back = host.connect_with(&shown).await;
    assert_eq!(back.sid, client.sid);
    assert_eq!(back.numbers("n", 2).await, [0, 1]);
}

#[tokio::test]
async fn the_newest_connection_owns_the_pid() {
    let host = Host::with(memory(), always()).await;
    let mut old = host.connect().await;
    let mut new = again(&host, &old).await;
    assert_eq!(old.event().await, json!(["redeliver:replaced"]));
    assert_eq!(old.packet().await.as_deref(), Some("1"), "told so, a stock client stays away");
    assert_eq!(old.packet().await, None, "and it is closed at once");
    emit(&host, 0..1).await;
    assert_eq!(new.numbers("n", 1).await, [0]);
    assert_eq!(host.io.of("/").unwrap().sockets().len(), 1);
}

#[tokio::test]
async fn of_several_that_come_back_at_once_with_one_pid_one_stays() {
    let host = Host::with(memory(), always()).await;
    let client = host.connect().await;
    let shown = json!({ "pid": client.pid });
    drop(client);
    let come = async || {
        let mut back = host.open().await;
        back.join(&shown).await.is_ok().then_some(back)
    };
    let (one, two, three) = tokio::join!(come(), come(), come());
    emit(&host, 7..8).await;
    let mut got = Vec::new();
    for mut back in [one, two, three].into_iter().flatten() {
        while let Some(packet) = back.packet().await {
            if packet.starts_with("2[\"n\",7") {
                got.push(back.sid.clone());
                break;
            }
        }
    }
    assert_eq!(got.len(), 1, "the others are refused or closed");
    assert_eq!(host.io.of("/").unwrap().sockets().len(), 1);
}

#[tokio::test]
async fn rooms_and_data_come_back_and_a_room_that_was_left_does_not() {
    let host = Host::with(memory(), always()).await;
    let namespace = host.io.of("/").unwrap();
    let mut client = host.connect().await;
    let socket = namespace.socket(&client.sid).unwrap();
    socket.join("stays").await.unwrap();
    socket.join("left").await.unwrap();
    socket.set_data(json!({ "seat": 4 })).await.unwrap();
    namespace.to("left").emit("n", 1).await.unwrap();
    socket.leave("left").await.unwrap();
    namespace.to("left").emit("n", 2).await.unwrap();
    host.io.emit("n", 3).await.unwrap();
    assert_eq!(client.numbers("n", 2).await, [1, 3]);
    let shown = json!({ "pid": client.pid });
    drop(client);
    namespace.to("left").emit("n", 4).await.unwrap();
    namespace.to("stays").emit("n", 5).await.unwrap();
    let mut back = host.connect_with(&shown).await;
    assert_eq!(back.numbers("n", 3).await, [1, 3, 5], "without an offset, from what was confirmed");
    let socket = namespace.socket(&back.sid).unwrap();
    assert!(socket.recovered());
    assert_eq!(socket.data(), json!({ "seat": 4 }));
    let mut rooms = socket.rooms();
    rooms.retain(|room| *room != back.sid);
    assert_eq!(rooms, ["stays"]);
}

#[tokio::test]
async fn a_room_joined_late_gives_nothing_older() {
    let host = Host::with(memory(), always()).await;
    let namespace = host.io.of("/").unwrap();
    let client = host.connect().await;
    namespace.to("late").emit("n", 1).await.unwrap();
    namespace.socket(&client.sid).unwrap().join("late").await.unwrap();
    namespace.to("late").emit("n", 2).await.unwrap();
    let mut back = host.connect_with(&json!({ "pid": client.pid })).await;
    assert_eq!(back.numbers("n", 1).await, [2]);
}

#[tokio::test]
async fn a_server_that_starts_again_knows_its_clients() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Host::with(Server::builder().data_dir(folder.path()), always());
    let host = open().await;
    let mut client = host.connect().await;
    host.io.of("/").unwrap().socket(&client.sid).unwrap().join("room").await.unwrap();
    emit(&host, 0..2).await;
    assert_eq!(client.numbers("n", 2).await, [0, 1]);
    host.io.to("room").emit("n", 2).await.unwrap();
    host.io.shutdown(std::time::Duration::from_secs(10)).await.expect("ends in time");
    drop(host);
    let host = open().await;
    host.io.to("room").emit("n", 3).await.unwrap();
    let mut back = again(&host, &client).await;
    assert_eq!(back.sid, client.sid);
    // The client did not look at what came with the end: it has no offset of it.
    assert_eq!(back.numbers("n", 2).await, [2, 3]);
}

#[tokio::test]
async fn who_missed_nothing_costs_no_read_of_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Host::with(Server::builder().data_dir(folder.path()), always());
    let host = open().await;
    let mut client = host.connect().await;
    emit(&host, 0..2).await;
    assert_eq!(client.numbers("n", 2).await, [0, 1]);
    host.io.shutdown(std::time::Duration::from_secs(10)).await.expect("ends in time");
    drop(host);
    let host = open().await;
    host.io.to("elsewhere").emit("n", 2).await.unwrap();
    let before = host.server.stats().cold_reads;
    let mut back = again(&host, &client).await;
    assert!(host.io.of("/").unwrap().socket(&back.sid).unwrap().recovered());
    emit(&host, 3..4).await;
    assert_eq!(back.numbers("n", 1).await, [3]);
    assert_eq!(host.server.stats().cold_reads, before);
}

#[tokio::test]
async fn a_pid_that_nobody_knows_begins_anew() {
    let host = Host::with(memory(), always()).await;
    let client = host.connect_with(&json!({ "pid": "f".repeat(32), "offset": "x" })).await;
    assert_ne!(client.pid.as_deref(), Some(&*"f".repeat(32)));
    assert!(!host.io.of("/").unwrap().socket(&client.sid).unwrap().recovered());
}

#[tokio::test]
async fn who_has_said_goodbye_does_not_come_back() {
    let host = Host::with(memory(), always()).await;
    let (gone, mut was_gone) = tokio::sync::mpsc::unbounded_channel();
    host.io.of("/").unwrap().on_connection(move |socket| {
        let gone = gone.clone();
        async move {
            socket.on_disconnect(move |_, reason| {
                let gone = gone.clone();
                async move { gone.send(reason).unwrap_or_default() }
            });
        }
    });
    let mut client = host.connect().await;
    client.send("41").await;
    let reason = was_gone.recv().await.unwrap();
    assert_eq!(reason.to_string(), "client namespace disconnect");
    assert_ne!(again(&host, &client).await.sid, client.sid);
}

/// Lets in whoever is on its list.
#[derive(Clone, Default)]
struct Guests(Arc<Mutex<Vec<(String, String)>>>);

impl Access for Guests {
    async fn authenticate(&self, request: ConnectRequest) -> Result<Identity, Denied> {
        let token = request.auth.unwrap_or_default();
        let guests = self.0.lock();
        let guest = guests.iter().find(|(known, _)| known.as_bytes() == token);
        guest.map(|(_, name)| Identity::new(name)).ok_or_else(|| Denied::new("not a guest"))
    }

    fn allow(&self, _identity: &Identity, _action: Action<'_>) -> bool {
        true
    }
}

#[tokio::test]
async fn a_pid_lets_in_neither_the_revoked_nor_another() {
    let guests = Guests::default();
    *guests.0.lock() = vec![("a".to_owned(), "ali".to_owned()), ("e".to_owned(), "eve".to_owned())];
    let host = Host::with(memory().access(guests.clone()), always()).await;
    let mut client = host.connect_with(&json!({ "token": "a" })).await;
    let with = |token: &str, client: &Client| {
        let mut auth = client.shown();
        auth["token"] = Value::from(token);
        auth
    };
    let eve = host.connect_with(&with("e", &client)).await;
    assert_ne!(eve.sid, client.sid);
    emit(&host, 0..1).await;
    assert_eq!(client.numbers("n", 1).await, [0], "the owner was not thrown out");
    guests.0.lock().remove(0);
    let refused = host.open().await.join(&with("a", &client)).await;
    assert_eq!(refused, Err(json!({ "message": "not a guest" })));
}

#[tokio::test]
async fn a_subscriber_goes_on_after_its_page_was_loaded_again() {
    let host = Host::with(memory(), always()).await;
    let auth = json!({ "subscriber": "ali/phone" });
    let mut client = host.connect_with(&auth).await;
    host.io.of("/").unwrap().socket(&client.sid).unwrap().join("room").await.unwrap();
    emit(&host, 0..1).await;
    assert_eq!(client.numbers("n", 1).await, [0]);
    drop(client);
    host.io.to("room").emit("n", 1).await.unwrap();
    let mut back = host.connect_with(&auth).await;
    assert_eq!(back.numbers("n", 2).await, [0, 1], "at least once: nothing had confirmed the first");
}

#[tokio::test]
async fn in_ack_mode_what_was_not_answered_comes_again() {
    let host = Host::with(memory(), always()).await;
    host.io.of("/").unwrap().on_connection(|socket| async move {
        socket.on("ping", |incoming| async move { incoming.answer("pong").unwrap() });
    });
    let auth = json!({ "subscriber": "worker", "redeliver": { "ack": true } });
    let mut client = host.connect_with(&auth).await;
    emit(&host, 0..3).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let packet = client.packet().await.unwrap();
        let body = packet.find('[').unwrap();
        ids.push(packet[1..body].to_owned());
        assert!(!packet.contains("rd1."), "no offset stands where the answer's callback belongs");
    }
    client.send(&format!("43{}[]", ids[0])).await;
    // Handled in order: what is answered behind it has seen it.
    assert_eq!(client.ask(&json!(["ping"])).await, json!(["pong"]));
    drop(client);
    let mut back = host.connect_with(&auth).await;
    assert_eq!(back.numbers("n", 2).await, [1, 2]);
}
