//! A server that sends anything at all, in any order, over connections that come and go: the client does not panic,
//! hands over no event that does not follow on what it handed over before, answers each emit once, and still ends when
//! told to.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use redeliver_protocol::client::{CursorKeeper, EmitTicket, Input, StreamItem};
use redeliver_protocol::error::{CloseCode, RefusalCode, RetryAdvice};
use redeliver_protocol::frame::{ServerFrame, Subscribed, Window};
use redeliver_protocol::history::{EmitFate, GapCause, PublisherState, Start};
use redeliver_protocol::redelivery::DeliveredThrough;
use redeliver_protocol::seq::{EmitNumber, Epoch, Nth, Position, Seq, SubscriptionId};

use crate::script::*;

/// One thing that happens. Numbers are small, so that they often mean something.
#[derive(Clone, Debug)]
enum Step {
    Frame(ServerFrame),
    /// Events that do follow, so that stories get somewhere.
    NextEvents(u64),
    Connect(PublisherState),
    Cut,
    Close(RetryAdvice),
    Wait(u64),
    Emit,
    Ack(usize),
    Saved,
    Leave,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn no_server_makes_a_client_panic_or_hand_over_what_does_not_follow(
        keeper in 0usize..3,
        steps in vec(step(), 1..80),
    ) {
        let keepers = [CursorKeeper::Nobody, CursorKeeper::Server, CursorKeeper::Client { stored: None }];
        let keeper = keepers[keeper].clone();
        let mut script = Script::new();
        script.subscribe_with(SUB, keeper, Start::Earliest, Window::new(4, 300));
        let mut tickets = 0;
        for step in steps {
            if script.ended {
                break;
            }
            play(&mut script, step, &mut tickets);
        }
        follows(&script);
        if !script.ended {
            script.server_closes(CloseCode::INTERNAL, RetryAdvice::Never);
            script.give(Input::Rejected(redeliver_protocol::error::Close::new(CloseCode::INTERNAL, "", RetryAdvice::Never)));
        }
        prop_assert!(script.ended);
        let answered: BTreeSet<_> = script.emitted.iter().map(|(ticket, _)| *ticket).collect();
        prop_assert_eq!(answered.len(), script.emitted.len(), "an emit was answered twice");
        let accepted: BTreeSet<_> = (1..=tickets).map(EmitTicket).collect();
        prop_assert_eq!(answered, accepted, "an emit was not answered");
        prop_assert_eq!(script.gone.len(), 1, "the subscription ends once");
    }
}

fn play(script: &mut Script, step: Step, tickets: &mut u64) {
    match step {
        Step::Frame(frame) => script.server(frame),
        Step::NextEvents(count) => {
            let reached = script.handed.iter().rev().find_map(|(_, delivery)| match delivery {
                StreamItem::Event { record, .. } => Some((record.seq.0, record.nth.0)),
                StreamItem::Subscribed { after, nth, .. } => Some((after.seq.0, nth.0)),
                StreamItem::Gap { gap, .. } => Some((gap.through.seq.0, gap.nth_through.0)),
                StreamItem::CaughtUp { .. } | StreamItem::Volatile { .. } => None,
            });
            let (seq, nth) = reached.unwrap_or_default();
            let records: Vec<_> = (1..=count).map(|n| (seq.saturating_add(n), nth.saturating_add(n))).collect();
            script.server(batch(A, WIRE, &records, u32::try_from(count).unwrap(), b"x"));
        }
        Step::Connect(publisher) => {
            script.dialed();
            script.give(Input::Connected);
            script.server(welcome(publisher));
        }
        Step::Cut => script.cut(),
        Step::Close(retry) => script.server_closes(CloseCode::DRAINING, retry),
        Step::Wait(ms) => script.wait(Duration::from_millis(ms)),
        Step::Emit => {
            *tickets += 1;
            script.emit(*tickets);
        }
        Step::Ack(back) => {
            let mut held = script.handed.iter().rev().filter_map(|(_, delivery)| match delivery {
                StreamItem::Event { epoch, record, .. } => Some((Position::new(*epoch, record.seq), record.nth.0)),
                StreamItem::Gap { gap, .. } => Some((gap.through, gap.nth_through.0)),
                StreamItem::Subscribed { .. } | StreamItem::CaughtUp { .. } | StreamItem::Volatile { .. } => None,
            });
            if let Some((position, nth)) = held.nth(back) {
                script.ack(position, nth);
            }
        }
        Step::Saved => {
            if !script.saves.is_empty() {
                script.saved();
            }
        }
        Step::Leave => script.give(Input::Unsubscribe { id: SUB }),
    }
}

/// Every event lies behind all before it, but for gaps that say that the history changed. (Skips are not seen here.)
fn follows(script: &Script) {
    let mut reached = Nth::ZERO;
    for (at, (_, delivery)) in script.handed.iter().enumerate() {
        match delivery {
            StreamItem::Subscribed { nth, .. } => {
                let told_next = script.handed.get(at + 1).map(|(_, next)| next);
                if !matches!(told_next, Some(StreamItem::Gap { .. }) | None) {
                    assert!(*nth >= reached, "stands at nth {nth} again behind {reached}");
                    reached = *nth;
                }
            }
            StreamItem::Gap { gap, .. } => {
                assert!(gap.nth_through >= reached || gap.cause == GapCause::EpochChanged);
                reached = gap.nth_through;
            }
            StreamItem::Event { record, .. } => {
                assert!(record.nth > reached, "nth {} came behind {reached}", record.nth);
                reached = record.nth;
            }
            StreamItem::CaughtUp { .. } | StreamItem::Volatile { .. } => {}
        }
    }
}

fn step() -> impl Strategy<Value = Step> {
    let retry =
        prop_oneof![Just(RetryAdvice::Now), any::<u64>().prop_map(|ms| RetryAdvice::After(Duration::from_millis(ms))),];
    prop_oneof![
        8 => frame().prop_map(Step::Frame),
        6 => (1u64..4).prop_map(Step::NextEvents),
        3 => publisher().prop_map(Step::Connect),
        1 => Just(Step::Cut),
        1 => retry.prop_map(Step::Close),
        2 => prop_oneof![Just(1), Just(30), Just(20_000)].prop_map(Step::Wait),
        3 => Just(Step::Emit),
        4 => (0usize..3).prop_map(Step::Ack),
        3 => Just(Step::Saved),
        1 => Just(Step::Leave),
    ]
}

fn publisher() -> impl Strategy<Value = PublisherState> {
    prop_oneof![
        Just(PublisherState::New),
        Just(PublisherState::Forgotten),
        number().prop_map(|n| PublisherState::Reached(EmitNumber(n))),
    ]
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![20 => 0u64..6, 1 => any::<u64>(), 1 => Just(u64::MAX)]
}

fn position() -> impl Strategy<Value = Position> {
    (prop_oneof![Just(A), Just(B)], number()).prop_map(|(epoch, seq): (Epoch, u64)| Position::new(epoch, Seq(seq)))
}

fn frame() -> impl Strategy<Value = ServerFrame> {
    let id = || (0u32..3).prop_map(SubscriptionId);
    let told = || {
        (position(), position(), number(), number()).prop_map(|(after, through, nth, count)| {
            let cause = if count % 2 == 0 { GapCause::EpochChanged } else { GapCause::RetentionAge };
            gap(after, through, nth, count, cause)
        })
    };
    let subscribed =
        (id(), position(), number(), number(), proptest::option::of(told())).prop_map(|(id, after, nth, more, gap)| {
            let nth = gap.as_ref().map_or(nth, |gap| gap.nth_through.0);
            let (pending, delivered_through) = (more, DeliveredThrough(Nth(more)));
            ServerFrame::Subscribed(Subscribed { pending, delivered_through, gap, ..subscribed_frame(id, after, nth) })
        });
    let fate = prop_oneof![
        4 => position().prop_map(EmitFate::Stored),
        2 => position().prop_map(EmitFate::Duplicate),
        1 => Just(EmitFate::DuplicateForgotten),
        1 => Just(EmitFate::Refused(RefusalCode::FORBIDDEN)),
        1 => Just(EmitFate::Refused(RefusalCode::STORAGE_FULL)),
    ];
    let run = (number(), prop_oneof![9 => 0u32..4, 1 => any::<u32>()], fate);
    let refused = prop_oneof![Just(RefusalCode::FORBIDDEN), Just(RefusalCode::OVERLOADED)];
    prop_oneof![
        6 => subscribed,
        3 => (id(), vec((number(), number()), 0..3)).prop_map(|(id, records)| {
            let count = u32::try_from(records.len()).unwrap();
            batch(A, id, &records, count, b"x")
        }),
        1 => (id(), refused).prop_map(|(id, code)| ServerFrame::SubscribeRefused { id, code, reason: String::new() }),
        1 => (id(), number()).prop_map(|(id, seq)| ServerFrame::CaughtUp { id, seq: Seq(seq) }),
        2 => (id(), position(), number()).prop_map(|(id, through, nth)| {
            ServerFrame::Skip { id, through, nth_through: Nth(nth) }
        }),
        2 => (id(), told()).prop_map(|(id, gap)| ServerFrame::Gap { id, gap }),
        2 => (id(), number()).prop_map(|(id, seq)| ServerFrame::Acked { id, seq: Seq(seq) }),
        1 => id().prop_map(|id| ServerFrame::Unsubscribed { id }),
        1 => id().prop_map(|id| ServerFrame::TakenOver { id }),
        4 => vec(run, 1..3).prop_map(runs),
        1 => number().prop_map(|expected| ServerFrame::OutOfOrder { expected: EmitNumber(expected) }),
        1 => any::<u64>().prop_map(|token| ServerFrame::Ping { token }),
        1 => publisher().prop_map(welcome),
    ]
}
