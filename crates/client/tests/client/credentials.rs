//! Credentials that the app is asked for at each connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use redeliver_client::{Client, ConnectError, ConnectionState, CredentialsError, Delivery, Start};

use crate::toy::Toy;

const LIMIT: Duration = Duration::from_secs(600);

#[tokio::test(start_paused = true)]
async fn a_client_reads_and_emits_through_expiries_without_a_gap_or_a_repeat() {
    let toy = Toy::new();
    let token = Arc::new(Mutex::new("token 0"));
    toy.faults(|faults| faults.accepts = Some("token 0"));
    let current = Arc::clone(&token);
    let builder = Client::builder("ws://toy").connector(toy.clone()).auth_with(move || {
        let current = Arc::clone(&current);
        async move { Ok(*current.lock()) }
    });
    let client = builder.connect_within(LIMIT).connect().await.unwrap();
    let mut orders = client.subscribe("orders").start(Start::Earliest).auto_ack().await.unwrap();
    for (round, next) in ["token 1", "token 2", "token 3", "token 4", "token 5"].into_iter().enumerate() {
        tokio::time::sleep(Duration::from_secs(5)).await;
        *token.lock() = next;
        toy.faults(|faults| faults.accepts = Some(next));
        tokio::time::timeout(LIMIT, client.emit("orders", "created", round.to_string())).await.unwrap().unwrap();
        let event = tokio::time::timeout(LIMIT, async {
            loop {
                match orders.next().await.expect("the subscription goes on") {
                    Delivery::Event(event) => return event,
                    Delivery::Gap(gap) => panic!("{gap}"),
                    Delivery::Resumed { .. } | Delivery::CaughtUp { .. } | Delivery::Volatile(_) | _ => {}
                }
            }
        });
        let event = event.await.unwrap();
        assert_eq!((event.text().unwrap(), event.redelivered), (round.to_string().as_str(), false));
    }
    let shown: Vec<_> = toy.hellos().iter().map(|hello| hello.auth.clone().unwrap()).collect();
    assert_eq!(shown, ["token 0", "token 1", "token 2", "token 3", "token 4", "token 5"]);
}

#[tokio::test(start_paused = true)]
async fn an_app_that_has_no_credentials_is_asked_again_and_its_error_is_shown() {
    let toy = Toy::new();
    let asked = Arc::new(AtomicUsize::new(0));
    let times = Arc::clone(&asked);
    let builder = Client::builder("ws://toy").connector(toy.clone()).auth_with(move || {
        let time = times.fetch_add(1, Ordering::Relaxed);
        async move {
            match time {
                0 => Err("the vault is sealed".into()),
                1 => panic!("the vault is broken"),
                _ => Ok("token"),
            }
        }
    });
    let client = builder.connect_lazy().unwrap();
    let mut state = client.state();
    let mut causes = Vec::new();
    tokio::time::timeout(LIMIT, async {
        loop {
            match state.changed().await.expect("the client goes on") {
                ConnectionState::Waiting { reason, .. } => causes.push(reason),
                ConnectionState::Connected { .. } => return,
                ConnectionState::Connecting | ConnectionState::Ended { .. } | _ => {}
            }
        }
    })
    .await
    .unwrap();
    assert_eq!(causes[0].in_full(), "the app could not provide credentials: the vault is sealed");
    let typed: Vec<_> = causes.iter().filter_map(|cause| cause.error().downcast_ref::<CredentialsError>()).collect();
    assert!(matches!(typed[..], [CredentialsError::Failed { .. }, CredentialsError::Panicked]), "{causes:?}");
    assert_eq!(asked.load(Ordering::Relaxed), 3);
}

#[tokio::test(start_paused = true)]
async fn fresh_credentials_that_are_refused_twice_end_the_client_and_nothing_shows_them() {
    let toy = Toy::new();
    toy.faults(|faults| faults.accepts = Some("another"));
    let builder = Client::builder("ws://toy").connector(toy.clone()).auth_with(|| async { Ok("secret") });
    assert!(!format!("{builder:?}").contains("secret"));
    let error = builder.connect_within(LIMIT).connect().await.unwrap_err();
    assert!(matches!(error, ConnectError::Refused(_)), "{error}");
    assert_eq!(toy.hellos().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_app_that_never_answers_costs_a_try_and_no_more() {
    let toy = Toy::new();
    let asked = Arc::new(AtomicUsize::new(0));
    let times = Arc::clone(&asked);
    let builder = Client::builder("ws://toy").connector(toy.clone()).auth_with(move || {
        let time = times.fetch_add(1, Ordering::Relaxed);
        async move {
            if time == 0 {
                std::future::pending::<()>().await;
            }
            Ok("token")
        }
    });
    let _client = builder.connect_within(LIMIT).connect().await.unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}
