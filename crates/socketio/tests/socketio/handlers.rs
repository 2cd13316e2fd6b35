//! How the app's handlers of one socket run: in turn, side by side, and while they wait for their client.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use redeliver_socketio::{AckError, Incoming};
use serde_json::{Value, json};
use tokio::sync::{Barrier, Notify};

use crate::client::{Client, Host};

/// The ack id and the arguments of the next answer.
async fn answer(client: &mut Client) -> (u64, Value) {
    loop {
        let packet = client.packet().await.expect("the server closed the connection");
        if let Some(answer) = packet.strip_prefix('3') {
            let (id, args) = answer.split_at(answer.find('[').unwrap());
            return (id.parse().unwrap(), serde_json::from_str(args).unwrap());
        }
    }
}

/// The ack id of the next event that asks for an answer.
async fn question(client: &mut Client) -> u64 {
    loop {
        let packet = client.packet().await.expect("the server closed the connection");
        if let Some(id) = packet.strip_prefix('2').and_then(|event| event.split('[').next()?.parse().ok()) {
            return id;
        }
    }
}

#[tokio::test]
async fn a_handler_gets_its_clients_answer_from_behind_hundreds_of_other_events() {
    let host = Host::start().await;
    host.io.of("/").unwrap().on_connection(|socket| async move {
        socket.on("ask", |incoming| async move {
            let answer = incoming.socket.emit_with_ack("question", (), Duration::from_secs(15)).await;
            let word = answer.map(|args| args.parse_at::<String>(0).unwrap_or_default());
            incoming.answer(word.map_err(|error: AckError| error.to_string())).unwrap();
        });
        socket.on("n", |incoming| async move { incoming.answer(()).unwrap() });
    });
    let mut client = host.connect().await;
    client.send(r#"421["ask"]"#).await;
    for _ in 0..400 {
        client.send(r#"42["n"]"#).await;
    }
    let id = question(&mut client).await;
    client.send(&format!(r#"43{id}["yes"]"#)).await;
    assert_eq!(answer(&mut client).await, (1, json!([{ "Ok": "yes" }])));
    // The client is heard as before.
    client.send(r#"422["n"]"#).await;
    assert_eq!(answer(&mut client).await, (2, json!([])));
}

#[tokio::test]
async fn as_many_concurrent_handlers_run_as_the_app_allows_and_no_more() {
    let host = Host::start().await;
    let (pairs, running, most) =
        (Arc::new(Barrier::new(2)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let seen = Arc::clone(&most);
    host.io.of("/").unwrap().on_connection(move |socket| {
        let (pairs, running, most) = (Arc::clone(&pairs), Arc::clone(&running), Arc::clone(&most));
        async move {
            socket.on_concurrent("pair", 2, move |incoming: Incoming| {
                let (pairs, running, most) = (Arc::clone(&pairs), Arc::clone(&running), Arc::clone(&most));
                async move {
                    most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    // Alone, it would wait for ever.
                    pairs.wait().await;
                    running.fetch_sub(1, Ordering::SeqCst);
                    incoming.answer(()).unwrap();
                }
            });
        }
    });
    let mut client = host.connect().await;
    for id in 1..=6 {
        client.send(&format!(r#"42{id}["pair"]"#)).await;
    }
    let mut answered = Vec::new();
    for _ in 0..6 {
        answered.push(answer(&mut client).await.0);
    }
    answered.sort_unstable();
    assert_eq!(answered, [1, 2, 3, 4, 5, 6]);
    assert_eq!(seen.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_concurrent_handler_holds_up_no_other_event_and_ends_before_the_socket_is_gone() {
    let host = Host::start().await;
    let (go, order) = (Arc::new(Notify::new()), Arc::new(Mutex::new(Vec::new())));
    let (going, ordered, gone) = (Arc::clone(&go), Arc::clone(&order), Arc::new(Notify::new()));
    let is_gone = Arc::clone(&gone);
    host.io.of("/").unwrap().on_connection(move |socket| {
        let (go, order, gone) = (Arc::clone(&going), Arc::clone(&ordered), Arc::clone(&is_gone));
        async move {
            let slow = Arc::clone(&order);
            socket.on_concurrent("slow", 8, move |_| {
                let (go, order) = (Arc::clone(&go), Arc::clone(&slow));
                async move {
                    go.notified().await;
                    order.lock().push("slow");
                }
            });
            socket.on("quick", |incoming| async move { incoming.answer("quick").unwrap() });
            socket.on_disconnect(move |_, _| {
                let (order, gone) = (Arc::clone(&order), Arc::clone(&gone));
                async move {
                    order.lock().push("disconnect");
                    gone.notify_one();
                }
            });
        }
    });
    let mut client = host.connect().await;
    client.send(r#"421["slow"]"#).await;
    assert_eq!(client.ask(&json!(["quick"])).await, json!(["quick"]));
    drop(client);
    go.notify_one();
    tokio::time::timeout(Duration::from_secs(20), gone.notified()).await.expect("it is disconnected");
    assert_eq!(*order.lock(), ["slow", "disconnect"]);
}

#[tokio::test]
async fn a_handler_for_one_event_is_gone_after_it_and_a_removed_one_at_once() {
    let host = Host::start().await;
    host.io.of("/").unwrap().on_connection(|socket| async move {
        socket.on_any(|incoming| async move { incoming.answer("nobody").unwrap() });
        socket.once("hello", |incoming| async move { incoming.answer("once").unwrap() });
        socket.on("bye", |incoming| async move {
            assert!(incoming.socket.off("bye") && !incoming.socket.off("bye"));
            incoming.answer("bye").unwrap();
        });
    });
    let mut client = host.connect().await;
    for (event, expected) in [("hello", "once"), ("hello", "nobody"), ("bye", "bye"), ("bye", "nobody")] {
        assert_eq!(client.ask(&json!([event])).await, json!([expected]));
    }
}

#[tokio::test]
async fn emits_that_were_begun_are_stored_in_their_order_and_their_receipts_come_later() {
    let host = Host::start().await;
    host.io.of("/").unwrap().on_connection(|socket| async move {
        socket.on("many", |incoming| async move {
            let begin = |number: u64| incoming.socket.start_emit("n", number).unwrap();
            let receipts: Vec<_> = (0..50).map(begin).collect();
            tokio::spawn(async move {
                let mut seqs = Vec::new();
                for receipt in receipts {
                    seqs.push(receipt.await.unwrap().seq().unwrap().0);
                }
                incoming.answer(seqs.is_sorted()).unwrap();
            });
        });
    });
    let mut client = host.connect().await;
    assert_eq!(client.ask(&json!(["many"])).await, json!([true]));
    assert_eq!(client.numbers("n", 50).await, (0..50).collect::<Vec<u64>>());
    let error = host.io.to("room").start_emit("connect", ()).unwrap_err();
    assert!(error.to_string().contains("`connect`"), "{error}");
}
