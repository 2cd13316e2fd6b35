//! Following topics: order, acks, cursors, ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::toy::Toy;
use futures_util::StreamExt;
use redeliver_client::{
    Client, Cursor, CursorKey, CursorStore, CursorStoreError, Delivery, Event, MemoryCursorStore, Notice, RefusalCode,
    ShutdownError, Start, SubscribeError, Subscription, SubscriptionEnd,
};
use redeliver_protocol::frame::ClientFrame;

async fn client(toy: &Toy) -> Client {
    Client::builder("ws://toy").connector(toy.clone()).subscriber("billing").connect().await.unwrap()
}

fn texts(range: std::ops::RangeInclusive<u32>) -> Vec<String> {
    range.map(|n| format!("event {n}")).collect()
}

/// The next event; passes over what is none.
async fn next_event(subscription: &mut Subscription) -> Event {
    loop {
        if let Delivery::Event(event) = subscription.next().await.expect("the subscription has ended") {
            return event;
        }
    }
}

async fn next_texts(subscription: &mut Subscription, count: usize) -> Vec<String> {
    let mut texts = Vec::new();
    for _ in 0..count {
        texts.push(next_event(subscription).await.text().unwrap().to_owned());
    }
    texts
}

#[tokio::test(start_paused = true)]
async fn a_reader_gets_history_then_the_news_that_it_is_over_then_what_comes() {
    let toy = Toy::new();
    toy.store("orders", texts(1..=3));
    let client = client(&toy).await;
    let mut orders = client.subscribe("orders").start(Start::Earliest).await.unwrap();
    assert_eq!((orders.pending(), orders.position().seq.0), (3, 0));
    assert_eq!(next_texts(&mut orders, 3).await, texts(1..=3));
    assert!(matches!(orders.next().await, Some(Delivery::CaughtUp { seq, .. }) if seq.0 == 3));
    toy.store("elsewhere", texts(9..=9));
    toy.store("orders", texts(4..=4));
    let event = next_event(&mut orders).await;
    assert_eq!((event.seq().0, event.nth.0, event.topic.as_str(), event.redelivered), (5, 4, "orders", false));
    assert_eq!(event.known().position, event.position);
}

#[tokio::test(start_paused = true)]
async fn after_a_cut_the_reader_goes_on_exactly_where_it_was() {
    let toy = Toy::new();
    toy.store("orders", texts(1..=3));
    let client = client(&toy).await;
    let mut orders = client.subscribe("orders").start(Start::Earliest).await.unwrap();
    assert_eq!(next_texts(&mut orders, 3).await, texts(1..=3));
    assert!(matches!(orders.next().await, Some(Delivery::CaughtUp { .. })));
    toy.faults(|faults| faults.unreachable = true);
    toy.cut();
    toy.store("orders", texts(4..=5));
    toy.faults(|faults| faults.unreachable = false);
    assert!(matches!(orders.next().await, Some(Delivery::Resumed { pending: 2, .. })));
    assert_eq!(next_texts(&mut orders, 2).await, texts(4..=5));
}

#[tokio::test(start_paused = true)]
async fn an_app_that_takes_nothing_for_long_is_not_buried_under_news_of_the_connection() {
    let toy = Toy::new();
    let client = client(&toy).await;
    let mut orders = client.subscribe("orders").await.unwrap();
    for _ in 0..200 {
        toy.cut();
        // Its receipt comes after what the new connection begins with.
        client.emit("elsewhere", "created", "x").await.unwrap();
    }
    toy.store("orders", texts(1..=1));
    let mut news = 0;
    while orders.next().await.unwrap().into_event().is_none() {
        news += 1;
    }
    assert!(news < 100, "{news} pieces of news before the event");
}

#[tokio::test(start_paused = true)]
async fn waiting_for_the_next_one_can_be_given_up_at_any_time() {
    let toy = Toy::new();
    let client = client(&toy).await;
    let mut orders = client.subscribe("orders").start(Start::Earliest).auto_ack().await.unwrap();
    let mut got = Vec::new();
    for n in 1..=20 {
        // Gives up after each poll that finds nothing.
        while let Ok(Some(delivery)) = tokio::time::timeout(Duration::ZERO, orders.next()).await {
            got.extend(delivery.into_event().map(|event| event.text().unwrap().to_owned()));
        }
        toy.store("orders", texts(n..=n));
    }
    while got.len() < 20 {
        got.push(next_event(&mut orders).await.text().unwrap().to_owned());
    }
    assert_eq!(got, texts(1..=20));
}

#[tokio::test(start_paused = true)]
async fn automatic_acks_come_after_the_handler() {
    let toy = Toy::new();
    toy.store("orders", texts(1..=3));
    let client = client(&toy).await;
    let mut orders = client.subscribe("orders").start(Start::Earliest).durable().auto_ack().await.unwrap();
    next_event(&mut orders).await;
    // The handler is at work: nothing is acknowledged.
    orders.flush().await.unwrap();
    assert_eq!(toy.cursor("billing", "orders"), None);
    next_event(&mut orders).await;
    orders.flush().await.unwrap();
    assert_eq!(toy.cursor("billing", "orders"), Some(1));
    // A close says that the handler of the last one has returned, too.
    orders.close().await.unwrap();
    assert_eq!(toy.cursor("billing", "orders"), Some(2));
}

#[tokio::test(start_paused = true)]
async fn an_automatically_acknowledging_reader_that_is_dropped_does_not_acknowledge_the_last_one() {
    let toy = Toy::new();
    toy.store("orders", texts(1..=2));
    let client = client(&toy).await;
    let mut orders = client.subscribe("orders").start(Start::Earliest).durable().auto_ack().await.unwrap();
    next_event(&mut orders).await;
    next_event(&mut orders).await;
    drop(orders);
    client.shutdown(Duration::from_secs(5)).await.unwrap();
    assert_eq!(toy.cursor("billing", "orders"), Some(1));
}

#[tokio::test(start_paused = true)]
async fn an_ack_covers_all_before_it_and_an_older_one_takes_nothing_back() {
    let toy = Toy::new();
    toy.store("orders", texts(1..=4));
    let client = client(&toy).await;
    let mut orders = client.subscribe("orders").start(Start::Earliest).durable().await.unwrap();
    let mut events = Vec::new();
    for _ in 0..4 {
        events.push(next_event(&mut orders).await);
    }
    events[2].ack();
    orders.ack(&events[0]);
    orders.flush().await.unwrap();
    assert_eq!(toy.cursor("billing", "orders"), Some(3));
    events[1].ack();
    orders.close().await.unwrap();
    assert_eq!(toy.cursor("billing", "orders"), Some(3));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_handed_over_beyond_the_window() {
    let toy = Toy::new();
    toy.store("orders", texts(1..=5));
    let client = client(&toy).await;
    let mut orders = client.subscribe("orders").start(Start::Earliest).window((2, 1_000_000)).await.unwrap();
    next_event(&mut orders).await;
    let second = next_event(&mut orders).await;
    let third = tokio::time::timeout(Duration::from_secs(60), next_event(&mut orders)).await;
    assert!(third.is_err(), "handed over although nothing was acknowledged: {third:?}");
    second.ack();
    assert_eq!(next_texts(&mut orders, 2).await, texts(3..=4));
}

#[tokio::test(start_paused = true)]
async fn a_flush_waits_until_the_acks_are_confirmed() {
    let toy = Toy::new();
    toy.store("orders", texts(1..=1));
    let client = client(&toy).await;
    let mut orders = client.subscribe("orders").start(Start::Earliest).durable().await.unwrap();
    next_event(&mut orders).await.ack();
    toy.faults(|faults| faults.mute = true);
    assert!(tokio::time::timeout(Duration::from_secs(60), orders.flush()).await.is_err());
    toy.faults(|faults| faults.mute = false);
    toy.cut();
    orders.flush().await.unwrap();
    assert_eq!(toy.cursor("billing", "orders"), Some(1));
}

#[tokio::test(start_paused = true)]
async fn a_durable_subscriber_goes_on_after_what_it_has_acknowledged() {
    let toy = Toy::new();
    toy.store("orders", texts(1..=3));
    let first = client(&toy).await;
    let mut orders = first.subscribe("orders").start(Start::Earliest).durable().await.unwrap();
    next_event(&mut orders).await.ack();
    orders.close().await.unwrap();
    first.shutdown(Duration::from_secs(5)).await.unwrap();

    let second = client(&toy).await;
    let mut orders = second.subscribe("orders").durable().await.unwrap();
    assert_eq!(next_texts(&mut orders, 2).await, texts(2..=3));
}

#[tokio::test(start_paused = true)]
async fn a_stored_subscription_goes_on_after_what_it_has_acknowledged() {
    let toy = Toy::new();
    toy.store("orders", texts(1..=3));
    let store = MemoryCursorStore::new();
    for expected in [1..=1, 2..=2, 3..=3] {
        let builder = Client::builder("ws://toy").connector(toy.clone()).cursor_store(store.clone());
        let client = builder.connect().await.unwrap();
        let mut orders = client.subscribe("orders").start(Start::Earliest).stored().await.unwrap();
        let event = next_event(&mut orders).await;
        assert_eq!(vec![event.text().unwrap().to_owned()], texts(expected));
        event.ack();
        orders.close().await.unwrap();
        client.shutdown(Duration::from_secs(5)).await.unwrap();
    }
    let stored = store.load(&CursorKey::new("orders")).unwrap().unwrap();
    assert_eq!(stored.place, crate::toy::cursor_at(3).place);
}

#[tokio::test(start_paused = true)]
async fn two_subscriptions_cannot_keep_their_cursors_under_one_key() {
    let toy = Toy::new();
    let builder = Client::builder("ws://toy").connector(toy.clone()).cursor_store(MemoryCursorStore::new());
    let client = builder.connect().await.unwrap();
    let first = client.subscribe("orders").stored().await.unwrap();
    let error = client.subscribe("orders").stored().await.unwrap_err();
    assert_eq!(error, SubscribeError::CursorInUse { key: CursorKey::new("orders") });
    drop(client.subscribe("orders").stored_as("another").await.unwrap());
    first.close().await.unwrap();
    drop(client.subscribe("orders").stored().await.unwrap());
}

/// A store that fails until it is mended.
#[derive(Clone, Default)]
struct FailingStore {
    is_mended: Arc<AtomicBool>,
    cursors: MemoryCursorStore,
}

impl CursorStore for FailingStore {
    fn load(&self, key: &CursorKey) -> Result<Option<Cursor>, CursorStoreError> {
        self.cursors.load(key)
    }

    fn save(&self, cursors: &[(CursorKey, Cursor)]) -> Result<(), CursorStoreError> {
        if self.is_mended.load(Ordering::SeqCst) {
            return self.cursors.save(cursors);
        }
        Err(CursorStoreError::other_in_words("out of order"))
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_is_reported_and_tried_again_and_nothing_is_confirmed_before() {
    let toy = Toy::new();
    toy.store("orders", texts(1..=1));
    let store = FailingStore::default();
    store.is_mended.store(true, Ordering::SeqCst);
    let builder = Client::builder("ws://toy").connector(toy.clone()).cursor_store(store.clone());
    let client = builder.connect().await.unwrap();
    let mut notices = client.notices();
    let mut orders = client.subscribe("orders").start(Start::Earliest).stored().await.unwrap();
    let event = next_event(&mut orders).await;
    store.is_mended.store(false, Ordering::SeqCst);
    event.ack();
    assert!(tokio::time::timeout(Duration::from_secs(60), orders.flush()).await.is_err());
    let error = CursorStoreError::other_in_words("out of order");
    assert_eq!(notices.next().await, Some(Notice::CursorsNotSaved { error }));
    store.is_mended.store(true, Ordering::SeqCst);
    orders.flush().await.unwrap();
    assert_eq!(store.cursors.load(&CursorKey::new("orders")).unwrap().unwrap().place, crate::toy::cursor_at(1).place);
}

/// A store that cannot be read.
struct UnreadableStore;

impl CursorStore for UnreadableStore {
    fn load(&self, _key: &CursorKey) -> Result<Option<Cursor>, CursorStoreError> {
        Err(CursorStoreError::Damaged { path: "cursors".into(), reason: "for the test".to_owned() })
    }

    fn save(&self, _cursors: &[(CursorKey, Cursor)]) -> Result<(), CursorStoreError> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_cursor_that_cannot_be_read_is_an_error_and_never_taken_for_none() {
    let toy = Toy::new();
    let builder = Client::builder("ws://toy").connector(toy.clone()).cursor_store(UnreadableStore);
    let client = builder.connect().await.unwrap();
    let error = client.subscribe("orders").stored().await.unwrap_err();
    assert!(matches!(error, SubscribeError::Store(CursorStoreError::Damaged { .. })), "{error}");
    assert!(toy.frames().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_subscription_says_how_it_ended() {
    let toy = Toy::new();
    let first = client(&toy).await;
    let mut orders = first.subscribe("orders").durable().await.unwrap();
    toy.faults(|faults| faults.take_over = true);
    while orders.next().await.is_some() {}
    assert_eq!(orders.end(), Some(&SubscriptionEnd::TakenOver));
    assert_eq!(orders.flush().await.unwrap_err().end, SubscriptionEnd::TakenOver);
    assert_eq!(orders.close().await.unwrap_err().end, SubscriptionEnd::TakenOver);
    toy.faults(|faults| faults.take_over = false);

    let orders = first.subscribe("orders").await.unwrap();
    let mut abandoned = first.subscribe("orders").await.unwrap();
    toy.faults(|faults| faults.unreachable = true);
    toy.cut();
    orders.close().await.unwrap();
    // Nothing was acknowledged, so nothing is missing at the end: it was clean, without a server too.
    first.shutdown(Duration::from_secs(5)).await.unwrap();
    while abandoned.next().await.is_some() {}
    assert_eq!(abandoned.end(), Some(&SubscriptionEnd::Asked));
    let error = first.subscribe("orders").await.unwrap_err();
    assert_eq!(error, SubscribeError::ClientEnded);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_must_end_with_acks_unconfirmed_says_so() {
    let toy = Toy::new();
    toy.store("orders", texts(1..=1));
    let client = client(&toy).await;
    let mut orders = client.subscribe("orders").start(Start::Earliest).durable().await.unwrap();
    next_event(&mut orders).await.ack();
    toy.faults(|faults| faults.mute = true);
    let error = client.shutdown(Duration::from_secs(5)).await.unwrap_err();
    assert_eq!(error, ShutdownError::TimedOut { emits: 0, subscriptions: 1 });
    while orders.next().await.is_some() {}
    assert_eq!(orders.end(), Some(&SubscriptionEnd::ClientEnded));
    assert_eq!(orders.close().await.unwrap_err().end, SubscriptionEnd::ClientEnded);
}

#[tokio::test(start_paused = true)]
async fn a_refused_subscription_is_an_error_with_the_reason() {
    let toy = Toy::new();
    toy.faults(|faults| faults.refuse_subscribes = Some(RefusalCode::FORBIDDEN));
    let error = client(&toy).await.subscribe("orders").await.unwrap_err();
    let expected = SubscribeError::Refused { code: RefusalCode::FORBIDDEN, reason: "by the script".to_owned() };
    assert_eq!(error, expected);
    assert!(!error.is_retryable());
}

#[tokio::test(start_paused = true)]
async fn what_a_subscription_lacks_is_said_before_the_server_is_asked() {
    let toy = Toy::new();
    let client = Client::builder("ws://toy").connector(toy.clone()).connect().await.unwrap();
    assert_eq!(client.subscribe("orders").durable().await.unwrap_err(), SubscribeError::NoSubscriber);
    assert_eq!(client.subscribe("orders").stored().await.unwrap_err(), SubscribeError::NoCursorStore);
    assert!(matches!(client.subscribe("").await.unwrap_err(), SubscribeError::InvalidTopic(_)));
    assert!(toy.frames().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_dropped_subscription_unsubscribes_and_its_acks_still_count() {
    let toy = Toy::new();
    toy.store("orders", texts(1..=1));
    let client = client(&toy).await;
    let mut orders = client.subscribe("orders").start(Start::Earliest).durable().await.unwrap();
    next_event(&mut orders).await.ack();
    drop(orders);
    let is_unsubscribed = |frame: &ClientFrame| matches!(frame, ClientFrame::Unsubscribe { .. });
    toy.until(|toy| toy.frames().iter().any(is_unsubscribed)).await;
    assert_eq!(toy.cursor("billing", "orders"), Some(1));
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_is_given_up_before_it_stands_is_none() {
    let toy = Toy::new();
    let client = client(&toy).await;
    toy.faults(|faults| faults.mute = true);
    let given_up = tokio::time::timeout(Duration::from_secs(1), client.subscribe("orders").into_future()).await;
    assert!(given_up.is_err());
    toy.faults(|faults| faults.mute = false);
    toy.cut();
    toy.until(|toy| toy.hellos().len() == 2).await;
    client.emit("orders", "created", "x").await.unwrap();
    let subscribes = toy.frames().iter().filter(|frame| matches!(frame, ClientFrame::Subscribe(_))).count();
    assert_eq!(subscribes, 1, "the subscription was resumed although nobody wants it");
}

#[tokio::test(start_paused = true)]
async fn a_subscription_is_a_stream_and_keeps_its_client_alive() {
    let toy = Toy::new();
    toy.store("orders", texts(1..=3));
    let orders = client(&toy).await.subscribe("orders").start(Start::Earliest).auto_ack().await.unwrap();
    let got: Vec<_> = orders.filter_map(|delivery| async { delivery.into_event() }).take(3).collect().await;
    let got: Vec<_> = got.iter().map(|event| event.text().unwrap().to_owned()).collect();
    assert_eq!(got, texts(1..=3));
}

#[tokio::test(start_paused = true)]
async fn typed_payloads_arrive_as_what_they_were() {
    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    struct Order {
        id: u64,
        items: Vec<String>,
    }
    let toy = Toy::new();
    let client = client(&toy).await;
    let mut orders = client.subscribe("orders").auto_ack().await.unwrap();
    let order = Order { id: 7, items: vec!["tea".to_owned()] };
    client.emit_json("orders", "created", &order).await.unwrap();
    client.emit("orders", "note", vec![0xff]).await.unwrap();
    assert_eq!(next_event(&mut orders).await.json::<Order>().unwrap(), order);
    let bytes = next_event(&mut orders).await;
    assert_eq!(&bytes.payload[..], &[0xff]);
    assert!(matches!(bytes.text(), Err(redeliver_client::PayloadError::NotText { .. })));
    let error = bytes.json::<Order>().unwrap_err();
    assert!(matches!(error, redeliver_client::PayloadError::NotJson { .. }));
    assert_eq!(error.to_string(), format!("the payload of event {} is not JSON of the expected shape", bytes.seq()));
}
