//! Emitting: receipts, order, cancelling, the bound of the outbox.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use crate::toy::Toy;
use redeliver_client::{
    Client, EmitError, NewEvent, Notice, Outcome, Payload, PayloadError, PayloadKind, PublisherId, RefusalCode, Seq,
};
use redeliver_protocol::frame::ClientFrame;

async fn client(toy: &Toy) -> Client {
    Client::builder("ws://toy").connector(toy.clone()).connect().await.unwrap()
}

fn event(payload: &str) -> NewEvent {
    let (topic, name) = ("orders".try_into().unwrap(), "created".try_into().unwrap());
    NewEvent::new(topic, name, PayloadKind::Text, payload.to_owned())
}

/// Polls once.
async fn is_pending<F: Future + Unpin>(future: &mut F) -> bool {
    poll_fn(|cx| Poll::Ready(std::pin::Pin::new(&mut *future).poll(cx).is_pending())).await
}

fn emit_frames(toy: &Toy) -> usize {
    toy.frames().iter().filter(|frame| matches!(frame, ClientFrame::Emit { .. })).count()
}

#[tokio::test(start_paused = true)]
async fn an_emit_returns_with_its_receipt_once_the_server_has_stored_it() {
    let toy = Toy::new();
    let client = client(&toy).await;
    let first = client.emit("orders", "created", "one").await.unwrap();
    let second = client.emit("orders", "created", "two").await.unwrap();
    assert_eq!((first.seq(), first.duplicate), (Some(Seq(1)), false));
    assert_eq!(second.seq(), Some(Seq(2)));
    assert_eq!(toy.payloads(), ["one", "two"]);
}

#[tokio::test(start_paused = true)]
async fn many_emits_can_be_under_way_at_once_and_are_stored_in_order() {
    let toy = Toy::new();
    let client = client(&toy).await;
    let mut receipts = Vec::new();
    for n in 1..=1000 {
        receipts.push(client.queue(event(&n.to_string())).await.unwrap());
    }
    for (n, receipt) in (1..).zip(receipts) {
        assert_eq!(receipt.await.unwrap().seq(), Some(Seq(n)));
    }
    assert!(emit_frames(&toy) < 100, "{} frames for 1000 events", emit_frames(&toy));
}

#[tokio::test(start_paused = true)]
async fn an_emit_whose_receipt_was_lost_with_the_connection_is_stored_once() {
    let toy = Toy::new();
    let client = client(&toy).await;
    toy.faults(|faults| faults.cut_before_receipt = true);
    let emit = client.emit("orders", "created", "one");
    let stored = async {
        toy.until(|toy| !toy.payloads().is_empty()).await;
        toy.faults(|faults| faults.cut_before_receipt = false);
    };
    let (receipt, ()) = tokio::join!(emit, stored);
    assert_eq!(receipt.unwrap().seq(), Some(Seq(1)));
    assert_eq!(toy.payloads(), ["one"]);
}

#[tokio::test(start_paused = true)]
async fn the_same_emits_of_the_same_publisher_are_stored_once() {
    let toy = Toy::new();
    let publisher = PublisherId([9; 16]);
    for is_repeated in [false, true] {
        let client = Client::builder("ws://toy").connector(toy.clone()).replay_as(publisher).connect().await.unwrap();
        for (payload, seq) in [("one", 1), ("two", 2)] {
            let receipt = client.emit("orders", "created", payload).await.unwrap();
            assert_eq!((receipt.seq(), receipt.duplicate), (Some(Seq(seq)), is_repeated));
        }
        client.shutdown(Duration::from_secs(5)).await.unwrap();
    }
    assert_eq!(toy.payloads(), ["one", "two"]);
}

#[tokio::test(start_paused = true)]
async fn an_outbox_goes_on_behind_what_it_has_settled() {
    let toy = Toy::new();
    let publisher = PublisherId([9; 16]);
    // The relay dies after row 2 was stored and before its receipt was.
    for (settled, rows) in [(0, ["one", "two"]), (1, ["two", "three"]), (3, ["four", "five"])] {
        let builder = Client::builder("ws://toy").connector(toy.clone()).publisher_after(publisher, settled);
        let client = builder.connect().await.unwrap();
        assert_eq!(toy.hellos().last().unwrap().settled.0, settled);
        for (row, payload) in (settled + 1..).zip(rows) {
            let receipt = client.emit("orders", "created", payload).await.unwrap();
            assert_eq!((receipt.seq(), receipt.duplicate), (Some(Seq(row)), (settled, row) == (1, 2)));
        }
        client.shutdown(Duration::from_secs(5)).await.unwrap();
    }
    assert_eq!(toy.payloads(), ["one", "two", "three", "four", "five"]);
}

#[tokio::test(start_paused = true)]
async fn a_number_that_the_server_has_forgotten_is_no_success_unless_the_app_replays() {
    let toy = Toy::new();
    let publisher = PublisherId([9; 16]);
    let client = Client::builder("ws://toy").connector(toy.clone()).replay_as(publisher).connect().await.unwrap();
    client.emit("orders", "created", "one").await.unwrap();
    client.shutdown(Duration::from_secs(5)).await.unwrap();
    toy.faults(|faults| faults.forgets_emits = true);
    let replaying = Client::builder("ws://toy").connector(toy.clone()).replay_as(publisher).connect().await.unwrap();
    let receipt = replaying.emit("orders", "created", "one").await.unwrap();
    assert_eq!((receipt.position, receipt.duplicate), (None, true));
    let going_on = Client::builder("ws://toy").connector(toy.clone()).publisher_after(publisher, 0);
    let error = going_on.connect().await.unwrap().emit("orders", "created", "other").await.unwrap_err();
    assert_eq!((&error, error.outcome()), (&EmitError::Forgotten, Outcome::Unknown));
    assert!(!error.is_retryable());
}

#[tokio::test(start_paused = true)]
async fn emits_that_wait_for_the_server_are_noticed_and_so_is_that_they_go_on() {
    let toy = Toy::new();
    let client = client(&toy).await;
    let mut notices = client.notices();
    toy.faults(|faults| faults.refuse_emits = Some(RefusalCode::STORAGE_FULL));
    let receipt = client.queue(event("one")).await.unwrap();
    assert_eq!(notices.next().await, Some(Notice::EmitsWaiting { code: RefusalCode::STORAGE_FULL }));
    toy.faults(|faults| faults.refuse_emits = None);
    receipt.await.unwrap();
    assert_eq!(notices.next().await, Some(Notice::EmitsResumed));
}

#[tokio::test(start_paused = true)]
async fn an_emit_that_is_dropped_before_it_was_sent_is_never_stored() {
    let toy = Toy::new();
    toy.faults(|faults| faults.unreachable = true);
    let client = Client::builder("ws://toy").connector(toy.clone()).connect_lazy().unwrap();
    let mut dropped = Box::pin(client.emit("orders", "created", "dropped"));
    assert!(is_pending(&mut dropped).await);
    let kept = client.queue(event("kept")).await.unwrap();
    drop(dropped);
    toy.faults(|faults| faults.unreachable = false);
    assert_eq!(kept.await.unwrap().seq(), Some(Seq(1)));
    assert_eq!(toy.payloads(), ["kept"]);
}

#[tokio::test(start_paused = true)]
async fn an_emit_that_is_dropped_after_it_was_sent_goes_on() {
    let toy = Toy::new();
    let client = client(&toy).await;
    toy.faults(|faults| faults.mute = true);
    let mut dropped = Box::pin(client.emit("orders", "created", "dropped"));
    assert!(is_pending(&mut dropped).await);
    toy.until(|toy| emit_frames(toy) == 1).await;
    drop(dropped);
    toy.faults(|faults| faults.mute = false);
    toy.cut();
    let second = client.emit("orders", "created", "second").await.unwrap();
    assert_eq!(second.seq(), Some(Seq(2)));
    assert_eq!(toy.payloads(), ["dropped", "second"]);
}

#[tokio::test(start_paused = true)]
async fn a_detached_emit_goes_on() {
    let toy = Toy::new();
    toy.faults(|faults| faults.unreachable = true);
    let client = Client::builder("ws://toy").connector(toy.clone()).connect_lazy().unwrap();
    client.queue(event("detached")).await.unwrap().detach();
    toy.faults(|faults| faults.unreachable = false);
    client.shutdown(Duration::from_secs(60)).await.unwrap();
    assert_eq!(toy.payloads(), ["detached"]);
}

#[tokio::test(start_paused = true)]
async fn a_full_outbox_makes_who_emits_wait_for_room() {
    let toy = Toy::new();
    toy.faults(|faults| faults.unreachable = true);
    let client = Client::builder("ws://toy").connector(toy.clone()).outbox(2, 1_000_000).connect_lazy().unwrap();
    let first = client.queue(event("one")).await.unwrap();
    let second = client.queue(event("two")).await.unwrap();
    let mut third = Box::pin(client.queue(event("three")));
    assert!(is_pending(&mut third).await);

    // Cancelled before it was sent, an emit gives its room back.
    drop(first);
    let third = third.await.unwrap();
    toy.faults(|faults| faults.unreachable = false);
    assert_eq!(second.await.unwrap().seq(), Some(Seq(1)));
    assert_eq!(third.await.unwrap().seq(), Some(Seq(2)));
    assert_eq!(toy.payloads(), ["two", "three"]);
}

#[tokio::test(start_paused = true)]
async fn an_emit_that_stops_waiting_for_room_leaves_nothing_behind() {
    let toy = Toy::new();
    toy.faults(|faults| faults.unreachable = true);
    let client = Client::builder("ws://toy").connector(toy.clone()).outbox(1, 1_000_000).connect_lazy().unwrap();
    let first = client.queue(event("one")).await.unwrap();
    let mut waiting = Box::pin(client.emit("orders", "created", "dropped"));
    assert!(is_pending(&mut waiting).await);
    drop(waiting);
    toy.faults(|faults| faults.unreachable = false);
    first.await.unwrap();
    client.emit("orders", "created", "two").await.unwrap();
    assert_eq!(toy.payloads(), ["one", "two"]);
}

#[tokio::test(start_paused = true)]
async fn the_outbox_is_bounded_in_bytes_and_one_event_always_fits() {
    let toy = Toy::new();
    toy.faults(|faults| faults.unreachable = true);
    let client = Client::builder("ws://toy").connector(toy.clone()).outbox(1_000, 100).connect_lazy().unwrap();
    let large = client.queue(event(&"x".repeat(10_000))).await.unwrap();
    let mut second = Box::pin(client.queue(event("small")));
    assert!(is_pending(&mut second).await);
    toy.faults(|faults| faults.unreachable = false);
    large.await.unwrap();
    second.await.unwrap().await.unwrap();
    assert_eq!(toy.payloads().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_final_refusal_says_why_and_that_nothing_was_stored() {
    let toy = Toy::new();
    let client = client(&toy).await;
    toy.faults(|faults| faults.refuse_emits = Some(RefusalCode::FORBIDDEN));
    let error = client.emit("orders", "created", "one").await.unwrap_err();
    assert_eq!(error, EmitError::refused(RefusalCode::FORBIDDEN));
    assert_eq!((error.outcome(), error.is_retryable()), (Outcome::NotApplied, false));
    assert!(toy.payloads().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_no_server_would_take_is_refused_at_once() {
    let toy = Toy::new();
    let client = client(&toy).await;
    let too_large = client.emit("orders", "created", vec![0; 1024 * 1024]).await.unwrap_err();
    let no_name = client.emit("orders", "", "x").await.unwrap_err();
    let twice = NewEvent::to("a", "x").unwrap().also_to("a").unwrap();
    let twice = client.emit_event(twice).await.unwrap_err();
    assert!(matches!(too_large, EmitError::Invalid { .. }), "{too_large}");
    assert!(matches!(no_name, EmitError::InvalidName(_)), "{no_name}");
    assert_eq!(twice.to_string(), "an event names each of its topics once, this one names the topic a twice");
    assert_eq!(emit_frames(&toy), 0);
}

#[tokio::test(start_paused = true)]
async fn payloads_carry_what_they_are() {
    assert_eq!(Payload::from("text").kind, PayloadKind::Text);
    assert_eq!(Payload::from(vec![1_u8]).kind, PayloadKind::Bytes);
    let json = Payload::json(&serde_json::json!({"id": 7})).unwrap();
    assert_eq!((json.kind, &json.bytes[..]), (PayloadKind::Json, &br#"{"id":7}"#[..]));
    let not_json: std::collections::BTreeMap<(u8, u8), u8> = [((1, 2), 3)].into();
    assert!(matches!(Payload::json(&not_json), Err(PayloadError::NoJsonForm { .. })));
}
