//! Clients of a test server: cut, restarted under, and with paused time.

#![allow(clippy::unwrap_used, reason = "what cannot be unwrapped fails its test")]

use std::time::Duration;

use redeliver_client::{Client, Delivery, Start, Subscription};
use redeliver_testing::TestServer;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);

async fn within<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("it takes too long")
}

async fn next_text(orders: &mut Subscription) -> String {
    loop {
        match within(orders.next()).await.expect("the subscription goes on") {
            Delivery::Event(event) => return event.text().unwrap().to_owned(),
            Delivery::Gap(gap) => panic!("nothing is lost: {gap:?}"),
            Delivery::CaughtUp { .. } | Delivery::Resumed { .. } | Delivery::Volatile(_) | _ => {}
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_in_the_process_emits_and_follows_while_time_is_paused() {
    let server = TestServer::start().await.unwrap();
    let client =
        timeout(Duration::from_secs(5), Client::in_process(&server.server()).connect()).await.unwrap().unwrap();
    let mut orders = client.subscribe("orders").start(Start::Earliest).await.unwrap();
    for number in 0..20 {
        let emitting = client.emit("orders", "created", number.to_string());
        timeout(Duration::from_secs(5), emitting).await.expect("time does not pass meanwhile").unwrap();
        assert_eq!(next_text(&mut orders).await, number.to_string());
    }
}

#[tokio::test]
async fn a_client_that_is_cut_and_restarted_under_comes_back_and_misses_nothing() {
    let server = TestServer::start().await.unwrap();
    let client = within(Client::builder(server.url()).connect()).await.unwrap();
    follow_through_faults(&server, &client).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_in_the_process_is_cut_as_the_others_and_comes_back() {
    let server = TestServer::start().await.unwrap();
    let client = within(Client::in_process(&server).connect()).await.unwrap();
    follow_through_faults(&server, &client).await;
}

async fn follow_through_faults(server: &TestServer, client: &Client) {
    let mut orders = within(client.subscribe("orders").start(Start::Earliest).into_future()).await.unwrap();
    for round in 0..3 {
        within(client.emit("orders", "created", format!("{round} from the client"))).await.unwrap();
        assert_eq!(next_text(&mut orders).await, format!("{round} from the client"));
        server.cut_connections().await;
        within(server.server().emit("orders", "created", format!("{round} while it is away"))).await.unwrap();
        assert_eq!(next_text(&mut orders).await, format!("{round} while it is away"));
        within(server.restart()).await.unwrap();
        within(server.server().emit("orders", "created", format!("{round} after the restart"))).await.unwrap();
        assert_eq!(next_text(&mut orders).await, format!("{round} after the restart"));
    }
}
