//! A client within the server's own process speaks the same API, and is handed the same types.

#![allow(clippy::unwrap_used, reason = "what cannot be unwrapped fails its test")]

use std::time::Duration;

use redeliver_client::{Client, Delivery, EmitNumber, FirstStart, NewEvent, Place, PublisherId, Seq, Start};
use redeliver_server::Server;

const PATIENCE: Duration = Duration::from_secs(20);

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it takes too long")
}

async fn server() -> Server {
    Server::builder().in_memory().open().await.unwrap()
}

async fn next_event(orders: &mut redeliver_client::Subscription) -> redeliver_client::Event {
    loop {
        if let Delivery::Event(event) = within(orders.next()).await.expect("the subscription goes on") {
            return event;
        }
    }
}

#[tokio::test]
async fn a_client_in_the_process_emits_subscribes_and_resumes_without_a_socket() {
    let server = server().await;
    let client = within(Client::in_process(&server).subscriber("billing").connect()).await.unwrap();
    let receipt = within(client.emit("orders", "created", "tea")).await.unwrap();
    assert_eq!(receipt.seq(), Some(Seq(1)));
    let mut orders = within(client.subscribe("orders").durable().into_future()).await.unwrap();
    let event = next_event(&mut orders).await;
    assert_eq!((event.text().unwrap(), event.position), ("tea", receipt.position.unwrap()));
    event.ack();
    within(orders.close()).await.unwrap();
    within(client.emit("orders", "created", "more tea")).await.unwrap();
    let mut orders = within(client.subscribe("orders").durable().into_future()).await.unwrap();
    assert_eq!(next_event(&mut orders).await.text().unwrap(), "more tea");
    within(client.shutdown(PATIENCE)).await.unwrap();
    let _ = within(server.shutdown(PATIENCE)).await;
}

#[tokio::test]
async fn a_durable_subscription_starts_with_the_earliest_event_once_and_only_a_rewind_moves_it() {
    let server = server().await;
    let client = within(Client::in_process(&server).subscriber("billing").connect()).await.unwrap();
    for payload in ["1", "2"] {
        within(client.emit("orders", "created", payload)).await.unwrap();
    }
    let follow = || client.subscribe("orders").durable().start(Start::Earliest);
    let mut orders = within(follow().into_future()).await.unwrap();
    let first = next_event(&mut orders).await;
    assert_eq!(first.text().unwrap(), "1", "what was emitted before the first start is not skipped");
    first.ack();
    within(orders.close()).await.unwrap();

    let mut orders = within(follow().into_future()).await.unwrap();
    assert_eq!(next_event(&mut orders).await.text().unwrap(), "2", "the same code goes on at the next start");
    within(orders.close()).await.unwrap();

    let mut orders = within(client.subscribe("orders").durable().rewind(Start::Earliest).into_future()).await.unwrap();
    assert_eq!(next_event(&mut orders).await.text().unwrap(), "1", "a rewind moves it");
    within(orders.close()).await.unwrap();

    let late = client.subscribe("others").durable().first_start(FirstStart::Latest);
    let late = within(late.into_future()).await.unwrap();
    assert_eq!(late.pending(), 0);
    within(client.shutdown(PATIENCE)).await.unwrap();
}

#[tokio::test]
async fn an_effect_is_exactly_once_if_the_place_before_it_is_compared() {
    let server = server().await;
    let client = within(Client::in_process(&server).connect()).await.unwrap();
    for number in 1..=6 {
        within(client.emit("orders", "created", number.to_string())).await.unwrap();
    }
    // What the app's database holds, as text.
    let (mut place, mut effects) = (String::new(), Vec::new());
    for _ in 0..6 {
        let start = if place.is_empty() { Start::Earliest } else { Start::After(place.parse::<Place>().unwrap()) };
        let mut old = within(client.subscribe("orders").start(start.clone()).into_future()).await.unwrap();
        let mut new = within(client.subscribe("orders").start(start).into_future()).await.unwrap();
        // Two processes overlap and have the same event in hand: one of them writes.
        for orders in [&mut old, &mut new] {
            let event = next_event(orders).await;
            let step = event.place();
            if place.is_empty() && effects.is_empty() || place == step.before.to_string() {
                place = step.after.to_string();
                effects.push(event.text().unwrap().to_owned());
            }
        }
    }
    assert_eq!(effects, ["1", "2", "3", "4", "5", "6"]);
}

#[tokio::test]
async fn a_relay_that_dies_anywhere_emits_each_row_of_its_outbox_once_and_in_order() {
    let server = server().await;
    let publisher = PublisherId([7; 16]);
    let rows: Vec<String> = (1..=20).map(|row| format!("row {row}")).collect();
    // The table knows of fewer receipts than there were: each life dies between a receipt and its note.
    let mut settled = 0;
    while settled < rows.len() {
        let builder = Client::in_process(&server).publisher_after(publisher, EmitNumber(settled as u64));
        let relay = within(builder.connect()).await.unwrap();
        for row in rows.iter().skip(settled).take(4) {
            let event = NewEvent::to("orders", "created").unwrap().payload(row);
            within(relay.emit_event(event)).await.unwrap();
        }
        settled += 3.min(rows.len() - settled);
        within(relay.shutdown(PATIENCE)).await.unwrap();
    }
    let reader = within(Client::in_process(&server).connect()).await.unwrap();
    let mut orders = within(reader.subscribe("orders").start(Start::Earliest).into_future()).await.unwrap();
    assert_eq!(orders.pending(), rows.len() as u64);
    for row in &rows {
        assert_eq!(next_event(&mut orders).await.text().unwrap(), row);
    }
}

#[tokio::test]
async fn the_empty_place_stands_before_everything_and_is_what_the_first_event_comes_after() {
    let server = server().await;
    let client = within(Client::in_process(&server).connect()).await.unwrap();
    within(client.emit("orders", "created", "1")).await.unwrap();
    let mut orders =
        within(client.subscribe("orders").start(Start::After(Place::default())).into_future()).await.unwrap();
    let Some(Delivery::Event(event)) = within(orders.next()).await else { panic!("nothing is gone") };
    assert_eq!(event.place().before, Place::default());
}

#[tokio::test]
async fn several_topics_read_as_one_have_one_place_that_holds_across_restarts() {
    let server = server().await;
    let client = within(Client::in_process(&server).connect()).await.unwrap();
    for number in 1..=6 {
        let topic = if number % 2 == 0 { "orders" } else { "returns" };
        within(client.emit(topic, "created", number.to_string())).await.unwrap();
    }
    let mut place = Place::default();
    // Each life is shown two events, of different topics.
    for first in [1, 3, 5] {
        let both = client.subscribe_merged(["orders", "returns"]).start(Start::After(place.clone()));
        let mut both = within(both.into_future()).await.unwrap();
        for number in [first, first + 1] {
            let Some(Delivery::Event(event)) = within(both.next()).await else { panic!("nothing is gone") };
            let step = event.place();
            assert_eq!((event.text().unwrap(), step.before), (number.to_string().as_str(), place));
            place = step.after;
        }
    }
}
