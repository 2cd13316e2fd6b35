//! Many topics read as one: what that costs the client.

use redeliver_protocol::client::{CursorKeeper, Input, StreamItem, SubscribeRequest};
use redeliver_protocol::frame::{ClientFrame, Ownership, ServerFrame, Window};
use redeliver_protocol::history::Start;
use redeliver_protocol::name::TopicName;
use redeliver_protocol::seq::{Nth, Position, Seq, SubscriptionId};

use crate::script::{Script, at, events, seq_of, subscribed};

const MERGED: SubscriptionId = SubscriptionId(1);

/// A merged subscription of so many topics, all of whose streams stand.
fn opened(topics: u32) -> Script {
    let mut script = Script::welcomed();
    let members = (0..topics).map(|n| {
        let topic = TopicName::new(format!("topic-{n}")).unwrap();
        let (start, window) = (Start::Latest, Window::default());
        let (ownership, keeper) = (Ownership::Takeover, CursorKeeper::Nobody);
        (member(n), SubscribeRequest { topic, start, window, ownership, keeper })
    });
    script.give(Input::SubscribeMerged { id: MERGED, members: members.collect() });
    for _ in 0..2 {
        let wires: Vec<_> = script.take_sent().into_iter().filter_map(as_subscribe).collect();
        assert_eq!(wires.len(), topics as usize);
        wires.into_iter().for_each(|wire| script.server(subscribed(wire, at(6), 0)));
        if script.connects == 1 {
            script.reconnect();
        }
    }
    script
}

fn member(n: u32) -> SubscriptionId {
    SubscriptionId(100 + n)
}

fn as_subscribe(frame: ClientFrame) -> Option<SubscriptionId> {
    if let ClientFrame::SubscribeMerged(subscribe) = frame { Some(subscribe.request.id) } else { None }
}

#[test]
fn ten_thousand_topics_are_opened_read_acknowledged_and_ended_as_one() {
    // Work that grows with the square of the topics takes more than ten seconds here; `make bench` has a row for it.
    let (topics, count) = (10_000, 2_000);
    let mut script = opened(topics);
    let wire = SubscriptionId(topics);
    for nth in 1..=count {
        script.server(events(wire, nth..=nth));
        let (position, nth) = (Position::new(at(0).epoch, Seq(seq_of(nth))), Nth(nth));
        script.give(Input::Ack { id: member(topics - 1), position, nth });
    }
    let got = script.handed.iter().filter(|(_, item)| matches!(item, StreamItem::Event { .. })).count();
    assert_eq!((got as u64, script.confirmed.len() as u64), (count, count));
    script.give(Input::Unsubscribe { id: MERGED });
    let unsubscribed = (1..=topics).map(|wire| ServerFrame::Unsubscribed { id: SubscriptionId(wire) });
    unsubscribed.for_each(|frame| script.server(frame));
    assert_eq!(script.gone.len(), 1);
}
