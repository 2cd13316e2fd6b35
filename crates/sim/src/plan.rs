//! What a seed stands for: who takes part, how everything is configured, which faults come. Small numbers everywhere, so
//! that windows close, tails fill, logs fold and trim within seconds of virtual time.

mod extras;

use std::time::Duration;

use bytes::Bytes;
use redeliver_log::LogConfig;
use redeliver_protocol::config::{ClientConfig, ServerConfig};
use redeliver_protocol::event::{NewEvent, PayloadKind};
use redeliver_protocol::features::{FEATURES, Features};
use redeliver_protocol::frame::{Ownership, Window};
use redeliver_protocol::history::Start;
use redeliver_protocol::name::{EventName, SubscriberName, TopicName};

pub(crate) use self::extras::Extras;
use crate::history::{EmitKey, Kept};
use crate::mutants::Mutant;
use crate::rng::Rng;

/// Everything that is fixed before the first moment.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// What is broken on purpose.
    pub mutant: Option<Mutant>,
    pub(crate) topics: Vec<TopicName>,
    pub(crate) clients: Vec<ClientPlan>,
    pub(crate) server: ServerConfig,
    pub(crate) client: ClientConfig,
    pub(crate) log: LogConfig,
    pub(crate) kept: Kept,
    pub(crate) sync_micros_max: u64,
    /// How long emits and faults go on.
    pub(crate) load: Duration,
    /// Mean time between two faults.
    pub(crate) fault_pause: Duration,
    /// Whether the store may be wiped or put back.
    pub(crate) store_faults: bool,
    /// Mean pause between two things that are not logged (volatile events, requests), if there are any.
    pub(crate) aside_pause: Option<Duration>,
    /// Which clients also follow all topics as one row.
    pub(crate) rows: Vec<usize>,
    /// After which time a sync fails, if one does.
    pub(crate) sync_failure: Option<Duration>,
    pub(crate) extras: Extras,
}

/// A client over all its processes.
#[derive(Clone, Debug)]
pub(crate) struct ClientPlan {
    pub(crate) subscriber: Option<SubscriberName>,
    pub(crate) follows: Vec<FollowPlan>,
    /// Mean pause between two bursts of emits; none if it does not emit.
    pub(crate) emit_pause: Option<Duration>,
    pub(crate) burst_max: u64,
    /// Whether it has another identity than all others, and names the first client's publisher as its own.
    pub(crate) is_thief: bool,
    /// Whether a restarted process emits under the same identity again, from number 1.
    pub(crate) replays: bool,
    /// Longest time that a handler takes.
    pub(crate) handler_micros_max: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct FollowPlan {
    pub(crate) topic: TopicName,
    pub(crate) start: Start,
    pub(crate) window: Window,
    pub(crate) ownership: Ownership,
    pub(crate) keeper: KeeperPlan,
    pub(crate) ack_every: usize,
    /// Where the subscription is moved to when it is made next, whatever its cursor says.
    pub(crate) rewind: Option<Start>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeeperPlan {
    Nobody,
    Server,
    Client,
}

impl Plan {
    /// The plan of a seed.
    #[must_use]
    pub fn new(seed: u64, mutant: Option<Mutant>) -> Plan {
        let mut rng = Rng::new(seed);
        let names = ["alpha", "beta", "gamma", "delta"];
        let count = 1 + rng.index(names.len());
        let topics: Vec<TopicName> = names[..count].iter().filter_map(|name| TopicName::new(name).ok()).collect();
        let mut clients: Vec<ClientPlan> = (0..rng.between(2, 5)).map(|at| client(&mut rng, at, &topics)).collect();
        let (log, kept) = log(&mut rng);
        let (server, mut client) = (server(&mut rng), client_config(&mut rng));
        let sync_micros_max = *rng.pick(&[500, 5_000, 50_000]);
        let load = Duration::from_millis(rng.between(4_000, 15_000));
        let fault_pause = Duration::from_millis(*rng.pick(&[200, 700, 2_000, 10_000]));
        let store_faults = rng.chance(400);
        let extras = Extras::new(seed, topics.len(), store_faults);
        client.features = if extras.names_deliveries { FEATURES } else { FEATURES.without(Features::TAKING) };
        if extras.rewinds {
            let follows = clients.iter_mut().flat_map(|client| &mut client.follows);
            follows.enumerate().for_each(|(at, follow)| extras::first_start(seed, at, follow));
        }
        Plan {
            seed,
            mutant,
            rows: extras::rows(seed, topics.len(), store_faults),
            // Last, so that the others keep their numbers. A log that is lost has forgotten whose a publisher is.
            clients: clients.into_iter().chain((!store_faults).then(|| extras::thief(seed)).flatten()).collect(),
            sync_failure: extras::sync_failure(seed, mutant),
            extras,
            topics,
            server,
            client,
            log,
            kept,
            sync_micros_max,
            load,
            fault_pause,
            store_faults,
            aside_pause: extras::aside_pause(seed),
        }
    }

    /// An app's emit: always the same for the same key.
    pub(crate) fn event(&self, key: EmitKey) -> NewEvent {
        let mix = u64::from(key.publisher) << 40 ^ key.index;
        let mut rng = Rng::new(self.seed ^ mix.wrapping_mul(0x9E6C_63D0_876A_9A7D));
        let mut topics = self.topics.clone();
        while topics.len() > 1 && rng.chance(if topics.len() > 2 { 900 } else { 650 }) {
            topics.remove(rng.index(topics.len()));
        }
        let most = *rng.pick(&[0, 40, 200, 2_000]);
        let padding = usize::try_from(rng.between(0, most)).unwrap_or(0);
        let payload = format!("{}.{}|{}", key.publisher, key.index, "x".repeat(padding));
        let name = EventName::new(["created", "changed", "gone"][rng.index(3)]);
        let mut event =
            NewEvent::new(topics[0].clone(), name.unwrap_or_else(|_| unreachable_name()), PayloadKind::Text, payload);
        event.topics = topics;
        // Drawn apart, so that the event is else what it always was.
        let mut rng = Rng::new(self.seed ^ mix.wrapping_mul(0x9E6C_63D0_876A_9A7D) ^ 0xE8CE_97E8_CE97_0002);
        if self.extras.excepts && rng.chance(250) {
            event.except = vec![rng.pick(&self.topics).clone()];
        }
        event
    }

    /// Which emit a payload names.
    pub(crate) fn key_of(payload: &Bytes) -> Option<EmitKey> {
        let words = std::str::from_utf8(payload).ok()?;
        let (publisher, rest) = words.split_once('.')?;
        let (index, _) = rest.split_once('|')?;
        Some(EmitKey { publisher: publisher.parse().ok()?, index: index.parse().ok()? })
    }
}

fn client(rng: &mut Rng, at: u64, topics: &[TopicName]) -> ClientPlan {
    // Few names, so that clients contend for them.
    let subscriber = rng.chance(700).then(|| if rng.chance(500) { "shared".to_owned() } else { format!("own-{at}") });
    let subscriber = subscriber.and_then(|name| SubscriberName::new(name).ok());
    let mut follows: Vec<FollowPlan> = Vec::new();
    for topic in topics {
        if rng.chance(700) {
            follows.push(follow(rng, topic, subscriber.is_some()));
        }
    }
    ClientPlan {
        subscriber,
        follows,
        emit_pause: rng.chance(750).then(|| Duration::from_millis(*rng.pick(&[20, 100, 500]))),
        burst_max: *rng.pick(&[1, 3, 12]),
        is_thief: false,
        replays: rng.chance(500),
        handler_micros_max: *rng.pick(&[0, 2_000, 20_000, 150_000]),
    }
}

fn follow(rng: &mut Rng, topic: &TopicName, is_durable: bool) -> FollowPlan {
    let keeper = match rng.below(4) {
        0 => KeeperPlan::Nobody,
        1 => KeeperPlan::Client,
        _ if is_durable => KeeperPlan::Server,
        _ => KeeperPlan::Client,
    };
    let start = match (keeper, rng.below(5)) {
        (KeeperPlan::Server, _) => Start::Resume { at_least: None },
        (KeeperPlan::Client | KeeperPlan::Nobody, 0 | 1) => Start::Earliest,
        (KeeperPlan::Client | KeeperPlan::Nobody, 2) => Start::Last(rng.between(0, 20)),
        (KeeperPlan::Client | KeeperPlan::Nobody, _) => Start::Latest,
    };
    FollowPlan {
        topic: topic.clone(),
        start,
        window: Window::new(
            u32::try_from(*rng.pick(&[1, 3, 10, 100])).unwrap_or(1),
            u32::try_from(*rng.pick(&[1, 3_000, 1_000_000])).unwrap_or(1),
        ),
        ownership: if rng.chance(600) { Ownership::Takeover } else { Ownership::Standby },
        keeper,
        ack_every: *rng.pick(&[1, 1, 4, 50]),
        rewind: None,
    }
}

fn server(rng: &mut Rng) -> ServerConfig {
    let mut config = ServerConfig::default();
    config.heartbeat = Duration::from_millis(rng.between(500, 2_000));
    config.hello_timeout = Duration::from_secs(2);
    config.batch_bytes_max = *rng.pick(&[1, 500, 4_000]);
    config.output_bytes_max = *rng.pick(&[1, 1_000, 10_000]);
    config.write_timeout = Duration::from_millis(rng.between(2_000, 5_000));
    config.limits.window_events_max = *rng.pick(&[5, 50, 1000]);
    config.limits.event_bytes_max = *rng.pick(&[1_000, 262_144, 262_144]);
    config.limits.emits_in_flight_max = *rng.pick(&[1, 8, 1000]);
    config.limits.emit_bytes_in_flight_max = *rng.pick(&[1, 5_000, 1_000_000]);
    config
}

fn client_config(rng: &mut Rng) -> ClientConfig {
    let mut config = ClientConfig::default();
    config.connect_timeout = Duration::from_secs(2);
    config.backoff_first = Duration::from_millis(rng.between(10, 200));
    config.backoff_max = Duration::from_secs(2);
    config.ack_delay = Duration::from_millis(rng.between(0, 50));
    config
}

fn log(rng: &mut Rng) -> (LogConfig, Kept) {
    let mut config = LogConfig::default();
    config.tail_bytes_max = *rng.pick(&[20_000, 100_000, 10_000_000]);
    config.fold_bytes = *rng.pick(&[0, 2_000, 20_000]);
    config.recent_bytes_max = *rng.pick(&[0, 2_000, 50_000]);
    let mut kept = Kept::default();
    match rng.below(6) {
        0 => kept.count = Some(rng.between(0, 60)),
        1 => kept.bytes = Some(rng.between(0, 20_000)),
        2 => kept.age_micros = Some(rng.between(500, 6_000) * 1000),
        _ => {}
    }
    config.retention.count = kept.count;
    config.retention.bytes = kept.bytes;
    config.retention.age = kept.age_micros.map(Duration::from_micros);
    (config, kept)
}

fn unreachable_name() -> EventName {
    // Invariant: the names above are valid.
    EventName::new("event").expect("a constant valid name")
}
