//! Subscriptions from within the process: a client's session and a server's, back to back, so that in-process readers live
//! by the same cursors and rules as remote ones and there is no second implementation. No socket, no access control.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use futures_core::Stream;
use parking_lot::Mutex;
use redeliver_protocol::backoff::Jitter;
use redeliver_protocol::client::{
    ClientSession, CursorKeeper, Identity, Input, Output, StreamItem as Delivery, SubscribeRequest, SubscriptionEnd,
};
use redeliver_protocol::codec::{encode_client, encode_close, encode_hello, encode_server, events_head};
use redeliver_protocol::config::ClientConfig;
use redeliver_protocol::features::Features;
use redeliver_protocol::frame::{Ownership, ServerFrame, Window};
use redeliver_protocol::history::Start;
use redeliver_protocol::name::{SubscriberName, TopicName};
use redeliver_protocol::seq::{Epoch, InstanceId, Nth, Position, PublisherId, Seq, SubscriptionId};
use redeliver_protocol::server::Input as ServerInput;
use tokio::sync::{Notify, mpsc};
use tracing::{Instrument, debug_span};
use uuid::Uuid;

use crate::in_process::InProcess;
use crate::session_driver::{Origin, Peer, SessionDriver, Worked};
use crate::shared::Shared;
use crate::turn::Turn;

/// What an in-process reader wants.
#[derive(Clone, Debug)]
#[must_use]
pub struct LocalSubscribe {
    topic: TopicName,
    start: Option<Start>,
    window: Window,
    subscriber: Option<SubscriberName>,
    ownership: Ownership,
}

impl LocalSubscribe {
    /// To follow this topic, from the latest event on.
    pub fn new(topic: TopicName) -> LocalSubscribe {
        LocalSubscribe {
            topic,
            start: None,
            window: Window::default(),
            subscriber: None,
            ownership: Ownership::default(),
        }
    }

    /// Where to start.
    pub fn start(mut self, start: Start) -> LocalSubscribe {
        self.start = Some(start);
        self
    }

    /// Under this durable subscriber: the server keeps the cursor. Starts with `Resume` then, unless a start is set.
    pub fn subscriber(mut self, subscriber: SubscriberName) -> LocalSubscribe {
        self.subscriber = Some(subscriber);
        self
    }

    /// How much may be handed over without being acknowledged. It bounds the memory that a slow reader takes.
    pub fn window(mut self, window: Window) -> LocalSubscribe {
        self.window = window;
        self
    }

    /// What happens if the durable subscriber already has a reader of this topic.
    pub fn ownership(mut self, ownership: Ownership) -> LocalSubscribe {
        self.ownership = ownership;
        self
    }

    fn request(self) -> (Option<SubscriberName>, SubscribeRequest) {
        let LocalSubscribe { topic, start, window, subscriber, ownership } = self;
        let (keeper, usual) = match &subscriber {
            Some(_) => (CursorKeeper::Server, Start::Resume { at_least: None }),
            None => (CursorKeeper::Nobody, Start::Latest),
        };
        (subscriber, SubscribeRequest { topic, start: start.unwrap_or(usual), window, ownership, keeper })
    }
}

/// An in-process reader: a stream of deliveries. Dropping it ends it; acks given before still count.
#[derive(Debug)]
#[must_use]
pub struct LocalSubscription {
    /// Unbounded, but never longer than the window: the session sends no more without acks.
    deliveries: mpsc::UnboundedReceiver<Delivery>,
    wishes: Arc<Wishes>,
}

impl LocalSubscription {
    pub(crate) fn start(shared: &Arc<Shared>, request: LocalSubscribe) -> LocalSubscription {
        let (subscriber, request) = request.request();
        let (handed_over, deliveries) = mpsc::unbounded_channel();
        let wishes = Arc::new(Wishes::default());
        let (high, low) = Uuid::new_v4().as_u64_pair();
        let identity = Identity {
            instance: InstanceId::from(Uuid::new_v4()),
            publisher: PublisherId::from(Uuid::new_v4()),
            subscriber,
            auth: None,
            client_name: "in-process".to_owned(),
        };
        let mut config = ClientConfig::default();
        // What is not logged has no window, and would have no bound here.
        config.features = config.features.without(Features::VOLATILE).without(Features::REQUESTS);
        let client = ClientSession::new(config, identity, Jitter::new(high ^ low), shared.clock.now());
        let driver = LocalDriver {
            shared: Arc::clone(shared),
            client,
            driver: None,
            to_server: VecDeque::new(),
            handed_over,
            wishes: Arc::clone(&wishes),
        };
        let presence = shared.enter();
        let running = async move {
            driver.run(request).await;
            drop(presence);
        };
        tokio::spawn(running.instrument(debug_span!("in-process subscription")));
        LocalSubscription { deliveries, wishes }
    }

    /// The next delivery; none once the subscription has ended.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: no delivery is lost.
    pub async fn next(&mut self) -> Option<Delivery> {
        self.deliveries.recv().await
    }

    /// Says that everything up to and including this event or gap is handled. Deliveries of other kinds need no ack.
    pub fn ack(&self, delivery: &Delivery) {
        match delivery {
            Delivery::Event { epoch, record, .. } => self.wishes.ack(Position::new(*epoch, record.seq), record.nth),
            Delivery::Gap { gap, .. } => self.wishes.ack(gap.through, gap.nth_through),
            Delivery::Subscribed { .. } | Delivery::CaughtUp { .. } | Delivery::Volatile { .. } => {}
        }
    }

    /// Up to where acks are confirmed: with a durable subscriber, durably.
    #[must_use]
    pub fn confirmed(&self) -> Seq {
        self.wishes.state.lock().confirmed
    }

    /// Why the subscription has ended, once it has.
    #[must_use]
    pub fn end(&self) -> Option<SubscriptionEnd> {
        self.wishes.state.lock().end.clone()
    }

    /// Ends the subscription and waits until its acks are confirmed. What was not handled yet comes again to whoever
    /// resumes.
    ///
    /// # Cancel safety
    ///
    /// The subscription ends all the same if the future is dropped.
    pub async fn close(mut self) {
        self.wishes.close();
        while self.deliveries.recv().await.is_some() {}
    }
}

impl Stream for LocalSubscription {
    type Item = Delivery;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Delivery>> {
        self.deliveries.poll_recv(cx)
    }
}

impl Drop for LocalSubscription {
    fn drop(&mut self) {
        self.wishes.close();
    }
}

/// What the app wants of its link: the latest ack, which covers all before, and whether it is done.
#[derive(Debug, Default)]
struct Wishes {
    notify: Notify,
    state: Mutex<WishState>,
}

#[derive(Debug, Default)]
struct WishState {
    ack: Option<(Position, Nth)>,
    closing: bool,
    confirmed: Seq,
    end: Option<SubscriptionEnd>,
}

impl Wishes {
    fn ack(&self, position: Position, nth: Nth) {
        let mut state = self.state.lock();
        if state.ack.is_none_or(|(_, earlier)| earlier < nth) {
            state.ack = Some((position, nth));
            self.notify.notify_one();
        }
    }

    fn close(&self) {
        self.state.lock().closing = true;
        self.notify.notify_one();
    }
}

/// The two sessions and what is between them.
struct LocalDriver {
    shared: Arc<Shared>,
    client: ClientSession,
    driver: Option<SessionDriver>,
    /// What the client's session has written. Bounded by its acks and subscribes, which are one each.
    to_server: VecDeque<Bytes>,
    handed_over: mpsc::UnboundedSender<Delivery>,
    wishes: Arc<Wishes>,
}

/// How an exchange between the two sessions ended.
enum Exchanged {
    /// Neither has anything to say.
    Quiet,
    /// The turn is over. There may be more to say.
    Interrupted,
    /// The subscription has ended.
    Ended(SubscriptionEnd),
}

/// The subscription's number in its client, which has no other.
const ID: SubscriptionId = SubscriptionId(1);

impl LocalDriver {
    async fn run(mut self, request: SubscribeRequest) {
        self.tell(Input::Subscribe { id: ID, request });
        let mut closing = false;
        loop {
            let is_quiet = match self.exchange() {
                Exchanged::Quiet => true,
                Exchanged::Interrupted => {
                    tokio::task::yield_now().await;
                    false
                }
                Exchanged::Ended(end) => {
                    self.wishes.state.lock().end = Some(end);
                    return;
                }
            };
            let clock = self.shared.clock;
            let client_due = self.client.poll_timeout();
            let server_due = self.driver.as_ref().and_then(SessionDriver::poll_timeout);
            let due = client_due.into_iter().chain(server_due).min().map(|due| clock.at(due));
            let timer = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // In this order: what is due is done also while the sessions are never quiet.
                biased;
                () = self.wishes.notify.notified() => {}
                () = timer => {
                    let now = clock.now();
                    if client_due.is_some_and(|due| due <= now) {
                        self.tell(Input::Tick);
                    }
                    if let Some(driver) = &mut self.driver {
                        driver.handle(ServerInput::Tick);
                    }
                }
                () = listen(&mut self.driver) => {}
                () = std::future::ready(()), if !is_quiet => {}
            }
            let (ack, close) = {
                let mut wishes = self.wishes.state.lock();
                (wishes.ack.take(), wishes.closing)
            };
            if let Some((position, nth)) = ack {
                self.tell(Input::Ack { id: ID, position, nth });
            }
            if close && !closing {
                closing = true;
                self.tell(Input::Unsubscribe { id: ID });
            }
        }
    }

    /// Lets the two sessions talk until neither has anything to say, or the turn is over.
    fn exchange(&mut self) -> Exchanged {
        let mut turn = Turn::begin();
        while turn.step() {
            let mut is_quiet = true;
            while let Some(output) = self.client.poll_output() {
                is_quiet = false;
                if let Some(end) = self.perform(output) {
                    return Exchanged::Ended(end);
                }
            }
            let Some(driver) = &mut self.driver else {
                if is_quiet {
                    return Exchanged::Quiet;
                }
                continue;
            };
            while driver.wants_message()
                && let Some(message) = self.to_server.pop_front()
            {
                is_quiet = false;
                driver.handle(ServerInput::Message(message));
            }
            let mut said = Said::default();
            let worked = driver.work(&mut turn, &mut said);
            if !said.0.is_empty() {
                is_quiet = false;
                driver.handle(ServerInput::Drained);
            }
            for message in said.0 {
                self.tell(Input::Message(message));
            }
            if let Worked::Closed(close) = worked {
                is_quiet = false;
                self.driver = None;
                self.to_server.clear();
                self.tell(Input::Message(encode_close(&close)));
                self.tell(Input::Disconnected(close.reason));
                // A server that has ended does not come back within this process: there is nothing to wait for.
                if !self.shared.is_ready() {
                    return Exchanged::Ended(SubscriptionEnd::ClientEnded);
                }
            }
            if is_quiet && !turn.is_over() {
                return Exchanged::Quiet;
            }
        }
        Exchanged::Interrupted
    }

    fn perform(&mut self, output: Output) -> Option<SubscriptionEnd> {
        match output {
            Output::Connect => {
                if !self.shared.is_ready() {
                    return Some(SubscriptionEnd::ClientEnded);
                }
                self.driver = Some(SessionDriver::new(&self.shared, Arc::new(InProcess), Origin::default()));
                self.tell(Input::Connected);
            }
            Output::SendHello(hello) => self.to_server.push_back(encode_hello(&hello)),
            Output::Send(frame) => self.to_server.push_back(encode_client(&frame)),
            Output::Disconnect(_) => {
                self.driver = None;
                self.to_server.clear();
            }
            // The reader may have gone: then it has also said so.
            Output::Deliver { delivery, .. } => drop(self.handed_over.send(delivery)),
            // Nobody or the server keeps the cursor; there is no store here.
            Output::SaveCursor { id, cursor } => self.tell(Input::CursorSaved { id, seq: cursor.known.position.seq }),
            Output::AckConfirmed { seq, .. } => self.wishes.state.lock().confirmed = seq,
            Output::Unsubscribed { why, .. } => return Some(why),
            Output::Ended => return Some(SubscriptionEnd::ClientEnded),
            // It never emits or asks, names no feature to be asked, and nobody looks at its state.
            Output::EmitDone { .. }
            | Output::EmitsLost { .. }
            | Output::EmitsHeld { .. }
            | Output::State(_)
            | Output::Requested { .. }
            | Output::RequestDone { .. } => {}
        }
        None
    }

    fn tell(&mut self, input: Input) {
        self.client.handle(input, self.shared.clock.now());
    }
}

/// What a server's session says, as a client's session reads it.
#[derive(Default)]
struct Said(Vec<Bytes>);

impl Peer for Said {
    fn send(&mut self, frame: &ServerFrame) {
        self.0.push(encode_server(frame));
    }

    fn send_events(&mut self, id: SubscriptionId, epoch: Epoch, count: u32, records: Bytes) {
        let head = events_head(id, epoch, count, records.len());
        let mut message = BytesMut::with_capacity(head.len() + records.len());
        message.put_slice(&head);
        message.put_slice(&records);
        self.0.push(message.freeze());
    }
}

async fn listen(driver: &mut Option<SessionDriver>) {
    match driver {
        Some(driver) => driver.listen().await,
        None => std::future::pending().await,
    }
}
