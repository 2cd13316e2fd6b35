//! The task of an in-process subscription: lets a client's session and a server's talk, and passes on what the app wants.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use redeliver_protocol::backoff::Jitter;
use redeliver_protocol::cause::Cause;
use redeliver_protocol::client::{
    ClientSession, Identity, Input, Output, StreamItem, SubscribeRequest, SubscriptionEnd,
};
use redeliver_protocol::codec::{encode_client, encode_close, encode_hello, encode_server, events_head};
use redeliver_protocol::config::ClientConfig;
use redeliver_protocol::delivery::{AckPoint, Acknowledge};
use redeliver_protocol::features::Features;
use redeliver_protocol::frame::{ServerFrame, Window};
use redeliver_protocol::name::{SubscriberName, TopicName};
use redeliver_protocol::seq::{Epoch, InstanceId, Nth, Position, PublisherId, Seq, SubscriptionId};
use redeliver_protocol::server::Input as ServerInput;
use redeliver_protocol::time::Instant;
use tokio::sync::{Notify, mpsc, oneshot};
use tracing::{Instrument, debug_span, warn};
use uuid::Uuid;

use crate::in_process::InProcess;
use crate::session_driver::{Origin, Peer, SessionDriver, Worked};
use crate::shared::Shared;
use crate::turn::Turn;

/// Where a subscription started.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Opened {
    pub(super) after: Position,
    pub(super) nth: Nth,
    pub(super) pending: u64,
}

/// The app's end of a driver: its wishes, what is handed over, and where the subscription starts.
pub(super) type Started = (Arc<Wishes>, mpsc::UnboundedReceiver<StreamItem>, oneshot::Receiver<Opened>);

/// Starts the driver of a subscription.
pub(super) fn start(shared: &Arc<Shared>, subscriber: Option<SubscriberName>, request: SubscribeRequest) -> Started {
    let (handed_over, items) = mpsc::unbounded_channel();
    let (opened, standing) = oneshot::channel();
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
        opened: Some(opened),
        unacked: Unacked::new(request.topic.clone(), request.window),
        wishes: Arc::clone(&wishes),
    };
    let presence = shared.enter();
    let running = async move {
        driver.run(request).await;
        drop(presence);
    };
    tokio::spawn(running.instrument(debug_span!("in-process subscription")));
    (wishes, items, standing)
}

/// What the app wants of the driver: the latest ack, which covers all before, and whether it is done.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    notify: Notify,
    state: Mutex<WishState>,
}

#[derive(Debug, Default)]
struct WishState {
    ack: Option<AckPoint>,
    /// The number of the latest delivery that was acknowledged.
    acked: u64,
    closing: bool,
    confirmed: Seq,
    end: Option<SubscriptionEnd>,
}

impl Wishes {
    pub(super) fn close(&self) {
        self.state.lock().closing = true;
        self.notify.notify_one();
    }

    pub(super) fn confirmed(&self) -> Seq {
        self.state.lock().confirmed
    }

    pub(super) fn end(&self) -> Option<SubscriptionEnd> {
        self.state.lock().end.clone()
    }
}

impl Acknowledge for Wishes {
    fn acknowledge(&self, point: AckPoint) {
        let mut state = self.state.lock();
        if state.acked < point.order {
            state.acked = point.order;
            state.ack = Some(point);
            self.notify.notify_one();
        }
    }
}

/// What was handed over and is not acknowledged. Says so once if it fills the window for long: without acks nothing more
/// comes, and no error says why.
struct Unacked {
    topic: TopicName,
    window: Window,
    /// Events as nth and bytes.
    events: VecDeque<(Nth, usize)>,
    bytes: usize,
    full_since: Option<Instant>,
    is_told: bool,
}

impl Unacked {
    fn new(topic: TopicName, window: Window) -> Unacked {
        Unacked { topic, window, events: VecDeque::new(), bytes: 0, full_since: None, is_told: false }
    }

    fn push(&mut self, nth: Nth, bytes: usize, now: Instant) {
        self.events.push_back((nth, bytes));
        self.bytes += bytes;
        let is_full = self.events.len() >= self.window.events as usize || self.bytes >= self.window.bytes as usize;
        if is_full {
            self.full_since.get_or_insert(now);
        }
    }

    fn ack(&mut self, through: Nth) {
        while let Some((_, bytes)) = self.events.front().filter(|(nth, _)| *nth <= through) {
            self.bytes -= bytes;
            self.events.pop_front();
            self.full_since = None;
        }
    }

    /// When to say it.
    fn due(&self) -> Option<Instant> {
        self.full_since.filter(|_| !self.is_told).map(|since| since + FULL_TOLD_AFTER)
    }

    fn tell_if_due(&mut self, now: Instant) {
        if self.due().is_some_and(|due| due <= now) {
            self.is_told = true;
            warn!(
                topic = ?self.topic.as_str(),
                unacknowledged = self.events.len(),
                "an in-process subscription has handed over all that its window allows, and waits for an ack"
            );
        }
    }
}

/// The two sessions and what is between them.
struct LocalDriver {
    shared: Arc<Shared>,
    client: ClientSession,
    driver: Option<SessionDriver>,
    /// What the client's session has written. Bounded by its acks and subscribes, which are one each.
    to_server: VecDeque<Bytes>,
    handed_over: mpsc::UnboundedSender<StreamItem>,
    /// Whom to tell where the subscription starts, until it does.
    opened: Option<oneshot::Sender<Opened>>,
    unacked: Unacked,
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
pub(super) const ID: SubscriptionId = SubscriptionId(1);

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
            let due = client_due.into_iter().chain(server_due).chain(self.unacked.due()).min().map(|due| clock.at(due));
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
                    self.unacked.tell_if_due(now);
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
            if let Some(AckPoint { position, nth, .. }) = ack {
                self.unacked.ack(nth);
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
                self.tell(Input::Disconnected(Cause::of_words(close.reason)));
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
            Output::Deliver { delivery, .. } => self.hand_over(delivery),
            // Nobody or the server keeps the cursor; there is no store here.
            Output::SaveCursor { id, cursor } => self.tell(Input::CursorSaved { id, seq: cursor.place.position.seq }),
            Output::AckConfirmed { seq, .. } => self.wishes.state.lock().confirmed = seq,
            Output::Unsubscribed { why, .. } => return Some(why),
            Output::Ended => return Some(SubscriptionEnd::ClientEnded),
            // It never emits or asks, names no feature to be asked or to name what it takes, and nobody looks at its state.
            Output::EmitDone { .. }
            | Output::AskAt { .. }
            | Output::EmitsLost { .. }
            | Output::EmitsHeld { .. }
            | Output::State(_)
            | Output::Requested { .. }
            | Output::RequestDone { .. } => {}
        }
        None
    }

    fn hand_over(&mut self, item: StreamItem) {
        if let StreamItem::Subscribed { after, nth, pending } = &item
            && let Some(opened) = self.opened.take()
        {
            // Whoever waits for it may have gone: then it has also said so.
            let _ = opened.send(Opened { after: *after, nth: *nth, pending: *pending });
            return;
        }
        if let StreamItem::Event { record, .. } = &item {
            let bytes = record.name.as_str().len() + record.payload.len();
            self.unacked.push(record.nth, bytes, self.shared.clock.now());
        }
        let _ = self.handed_over.send(item);
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

/// How long a window is full before it is said.
const FULL_TOLD_AFTER: Duration = Duration::from_secs(10);
