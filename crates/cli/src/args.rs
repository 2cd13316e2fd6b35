//! The command line: flags, their defaults, and the help that teaches. Decides nothing else.

mod help;

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use redeliver_client::{EVENT_BYTES_MAX, EventName, Seq, Start, SubscriberName, TopicName};
use uuid::Uuid;

use self::help::{EXIT_CODES, FIRST_STEPS};
use crate::output::Format;
use crate::payload::PayloadType;
use crate::units::{ByteCount, Count, Span};

/// Reliable delivery of events: what a client missed is delivered when it comes back
///
/// A server keeps every event in a durable log. A listener that was away gets what it missed, in order, once.
#[derive(Debug, Parser)]
#[command(name = "redeliver", version, after_help = FIRST_STEPS, after_long_help = format!("{FIRST_STEPS}\n\n{EXIT_CODES}"))]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,

    /// What to log on stderr, as `info`, `debug` or `redeliver_server=debug`
    #[arg(long, global = true, env = "RUST_LOG", value_name = "FILTER", hide_env_values = true)]
    pub(crate) log: Option<String>,
}

// A comment on a variant would take the place of what its arguments say about the command.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Serve(ServeArgs),
    Emit(EmitArgs),
    Listen(ListenArgs),
    Bench(BenchArgs),
}

/// Run a server
///
/// Prints `redeliver listening on ws://HOST:PORT` on stdout once it is ready, and logs on stderr. SIGTERM or SIGINT end it
/// cleanly. Every acknowledged event is on the disk: it survives kill -9 and power cuts.
#[derive(Debug, Args)]
#[command(after_long_help = format!("{}\n\n{EXIT_CODES}", help::SERVE))]
pub(crate) struct ServeArgs {
    /// Where to listen; port 0 takes a free one [default: 127.0.0.1:7400]
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) listen: Option<String>,

    /// Where to keep the log; created if it does not exist [default: ./redeliver-data]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,

    /// Where to answer /healthz and /readyz for operators alone; `off`: nowhere [default: 127.0.0.1:7401]
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) admin: Option<String>,

    /// A configuration file in TOML; flags win over it
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Print a configuration file with every setting and its default, and end
    #[arg(long)]
    pub(crate) example_config: bool,

    /// Serve no Socket.IO clients, and no page
    #[arg(long)]
    pub(crate) no_socketio: bool,

    /// Listen beyond this machine without tokens: anybody may then emit and listen
    #[arg(long)]
    pub(crate) insecure: bool,
}

/// Where the server is, and who asks.
#[derive(Debug, Args)]
pub(crate) struct Remote {
    /// The server
    #[arg(long, env = "REDELIVER_URL", default_value = "ws://127.0.0.1:7400")]
    pub(crate) url: String,

    /// The token, if the server needs one (`ps` shows it here, but not in the environment)
    #[arg(long, env = "REDELIVER_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,

    /// With wss://: trust the CAs in this PEM file, and no others
    #[arg(long, env = "REDELIVER_CA", value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,

    /// With wss://: show this certificate (PEM, with its chain) to a server that asks for one
    #[arg(long, env = "REDELIVER_CERT", value_name = "FILE", requires = "key")]
    pub(crate) cert: Option<PathBuf>,

    /// The private key of --cert (PEM)
    #[arg(long, env = "REDELIVER_KEY", value_name = "FILE", requires = "cert")]
    pub(crate) key: Option<PathBuf>,
}

/// Send events, and end when all of them are durable
///
/// Prints `emitted N events, seq FIRST..LAST` as its last line. Ends with status 0 only if the server has every event on its
/// disk. Reconnects and sends again as often as it must, without storing anything twice.
#[derive(Debug, Args)]
#[command(after_long_help = help::EMIT, override_usage = EMIT_USAGE, group = ArgGroup::new("what").required(true).args(["data", "lines"]))]
pub(crate) struct EmitArgs {
    #[command(flatten)]
    pub(crate) remote: Remote,

    /// The topic
    pub(crate) topic: TopicName,

    /// The event's payload, or `-` for all of stdin (a payload that begins with `-` goes after `--`)
    #[arg(allow_negative_numbers = true)]
    pub(crate) data: Option<String>,

    /// Send each line of FILE, or of stdin, as an event
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    pub(crate) lines: Option<PathBuf>,

    /// The events' name
    #[arg(long, default_value = "message")]
    pub(crate) name: EventName,

    /// Do not give the events to whoever also follows this topic; may be repeated
    #[arg(long, value_name = "TOPIC")]
    pub(crate) except: Vec<TopicName>,

    /// Do not store the events: whoever listens now gets each at most once, and nobody later
    #[arg(long, conflicts_with = "publisher")]
    pub(crate) volatile: bool,

    /// Send under this identity: the same input, sent again under it, is not stored twice
    #[arg(long, value_name = "UUID")]
    pub(crate) publisher: Option<Uuid>,

    /// Give up when the server has acknowledged nothing for this long (30s, 5m) [default: never]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,

    /// What kind of payloads they are
    #[arg(long = "type", value_enum, default_value_t)]
    pub(crate) payload_type: PayloadType,
}

/// Print a topic's events, from anywhere in its history, and go on as they come
///
/// Prints each event as a line on stdout, and acknowledges it after that. Reconnects by itself, and misses nothing meanwhile.
/// Events that no longer exist are told as a gap.
#[derive(Debug, Args)]
#[command(after_long_help = help::LISTEN)]
pub(crate) struct ListenArgs {
    #[command(flatten)]
    pub(crate) remote: Remote,

    /// The topics
    #[arg(required = true, value_name = "TOPIC")]
    pub(crate) topics: Vec<TopicName>,

    /// Print the topics as one: in the order of the log, and an event of several topics once
    #[arg(long)]
    pub(crate) merged: bool,

    /// A durable name: the server remembers how far it has read, across restarts
    #[arg(long = "as", value_name = "SUBSCRIBER")]
    pub(crate) subscriber: Option<SubscriberName>,

    /// Where to begin: earliest, latest, a SEQ, -N for the last N, or a TIME back (10m, 1h). With --as, where a name begins
    /// that the server does not know yet [default: earliest with --as, else latest]
    #[arg(long, value_name = "WHERE", allow_hyphen_values = true, value_parser = start)]
    pub(crate) start: Option<Start>,

    /// With --as: move the name to this place, written as for --start, and begin there
    #[arg(long, value_name = "WHERE", allow_hyphen_values = true, value_parser = start)]
    #[arg(requires = "subscriber", conflicts_with = "start")]
    pub(crate) rewind: Option<Start>,

    /// End after this many events, of all topics together
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,

    /// End when everything is printed that existed at the start
    #[arg(long)]
    pub(crate) until_caught_up: bool,

    /// How to print
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,

    /// Print control characters as they are, also on a terminal
    #[arg(long)]
    pub(crate) raw: bool,
}

/// Measure a running server, and verify all that it delivers
///
/// Emits to topics of its own, follows them and recovers from them, with the client library that apps use. So the figures are
/// what a client sees, and include the client's own work. Ends with status 0 only if every event arrived, in order, once, and
/// unchanged.
#[derive(Debug, Args)]
#[command(after_long_help = help::BENCH)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    pub(crate) remote: Remote,

    /// What to run; may be repeated [default: all, in this order]
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) workload: Vec<BenchWorkload>,

    /// Events that emit and recovery store; fan-out delivers about as many, all readers together
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = bench_events)]
    pub(crate) events: u64,

    /// Readers of fan-out and recovery, each with a connection of its own
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = at_most::<10_000>)]
    pub(crate) readers: usize,

    /// Emitters, each with a connection of its own
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = at_most::<10_000>)]
    pub(crate) emitters: usize,

    /// Events that an emitter keeps outstanding
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = at_most::<16_384>)]
    pub(crate) outstanding: usize,

    /// Size of a payload, at least 24 bytes
    #[arg(long, value_name = "BYTES", default_value_t = 128, value_parser = payload_bytes)]
    pub(crate) payload: usize,

    /// The longest that one workload may take (30s, 5m)
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    pub(crate) time_limit: Duration,

    /// The prefix of its topics
    #[arg(long, value_name = "PREFIX", default_value = "bench")]
    pub(crate) topic: String,

    /// Print JSON instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

/// A workload of `redeliver bench`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BenchWorkload {
    /// Durable emits, and how long each waits for its receipt
    Emit,
    /// One emitter, many readers of one topic
    FanOut,
    /// Readers that come back to what they missed
    Recovery,
}

impl EmitArgs {
    /// Returns whether the payload and the topic look exchanged: the topic like words or a document, the payload like a name.
    pub(crate) fn looks_exchanged(&self) -> bool {
        let like_words = |text: &str| text.starts_with(['{', '[']) || text.contains(char::is_whitespace);
        let data = self.data.as_deref().unwrap_or_default();
        like_words(self.topic.as_str()) && !data.is_empty() && data != "-" && !like_words(data)
    }
}

impl BenchWorkload {
    pub(crate) fn name(self) -> &'static str {
        match self {
            BenchWorkload::Emit => "emit",
            BenchWorkload::FanOut => "fan-out",
            BenchWorkload::Recovery => "recovery",
        }
    }
}

fn at_most<const MOST: usize>(text: &str) -> Result<usize, String> {
    let number = text.parse::<Count>()?.0;
    usize::try_from(number)
        .ok()
        .filter(|number| (1..=MOST).contains(number))
        .ok_or_else(|| format!("`{text}` is not between 1 and {MOST}"))
}

fn bench_events(text: &str) -> Result<u64, String> {
    let number = text.parse::<Count>()?.0;
    (1..=BENCH_EVENTS_MAX)
        .contains(&number)
        .then_some(number)
        .ok_or_else(|| format!("`{text}` is not between 1 and {BENCH_EVENTS_MAX}"))
}

fn payload_bytes(text: &str) -> Result<usize, String> {
    let bytes = text.parse::<ByteCount>()?.0;
    usize::try_from(bytes)
        .ok()
        .filter(|bytes| (PAYLOAD_BYTES_MIN..=EVENT_BYTES_MAX / 2).contains(bytes))
        .ok_or_else(|| format!("`{text}` is not between {PAYLOAD_BYTES_MIN} and {} bytes", EVENT_BYTES_MAX / 2))
}

fn duration(text: &str) -> Result<Duration, String> {
    text.parse::<Span>().map(|span| span.0)
}

fn start(text: &str) -> Result<Start, String> {
    match text {
        "earliest" => return Ok(Start::Earliest),
        "latest" => return Ok(Start::Latest),
        "resume" => return Ok(Start::Resume { at_least: None }),
        _ => {}
    }
    let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let too_large = |_| format!("`{text}` is too large");
    if is_number(text) {
        // People name the event that they want to see; the protocol's bounds are exclusive.
        return text.parse::<u64>().map(|seq| Start::AfterSeq(Seq(seq.saturating_sub(1)))).map_err(too_large);
    }
    if let Some(last) = text.strip_prefix('-').filter(|digits| is_number(digits)) {
        return last.parse().map(Start::Last).map_err(too_large);
    }
    duration(text).map(Start::Within).map_err(|_| {
        format!("`{text}` is none of earliest, latest, resume, a seq (100), the last N (-10) or a time back (10m, 1h)")
    })
}

/// clap would show the group before the topic, and `emit 'order 1' orders` is easily done.
const EMIT_USAGE: &str =
    "redeliver emit [OPTIONS] <TOPIC> <DATA>\n       redeliver emit [OPTIONS] <TOPIC> --lines [<FILE>]";

const BENCH_EVENTS_MAX: u64 = 100_000_000;

/// What a payload of a bench begins with.
const PAYLOAD_BYTES_MIN: usize = 24;

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(args: &str) -> Result<Command, clap::Error> {
        Cli::try_parse_from(std::iter::once("redeliver").chain(args.split_whitespace())).map(|cli| cli.command)
    }

    fn start_of(args: &str) -> Option<Start> {
        match parse(args).unwrap() {
            Command::Listen(args) => args.start,
            Command::Serve(_) | Command::Emit(_) | Command::Bench(_) => panic!("not listen"),
        }
    }

    fn emit_of(args: &str) -> EmitArgs {
        match parse(args).unwrap() {
            Command::Emit(args) => args,
            Command::Serve(_) | Command::Listen(_) | Command::Bench(_) => panic!("not emit"),
        }
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_help_of_each_command_tells_what_it_does_at_length() {
        for (command, words) in [
            ("serve", "survives kill -9"),
            ("emit", "without storing anything twice"),
            ("listen", "told as a gap"),
            ("bench", "with the client library that apps use"),
        ] {
            let help = parse(&format!("{command} --help")).unwrap_err().to_string();
            let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(help.contains(words), "{command}: {help}");
            let short = parse(&format!("{command} -h")).unwrap_err().to_string();
            assert!(!short.contains(words), "{command}: {short}");
        }
        let commands = Cli::command().render_help().to_string();
        for line in ["serve   Run a server", "emit    Send events, and end when all of them are durable"] {
            assert!(commands.contains(line), "{commands}");
        }
    }

    #[test]
    fn a_start_is_a_word_a_seq_the_last_few_or_a_time_back() {
        assert_eq!(start_of("listen t"), None);
        assert_eq!(start_of("listen t --start earliest"), Some(Start::Earliest));
        assert_eq!(start_of("listen t --start latest"), Some(Start::Latest));
        assert_eq!(start_of("listen t --start resume"), Some(Start::Resume { at_least: None }));
        assert_eq!(start_of("listen t --start 100"), Some(Start::AfterSeq(Seq(99))));
        assert_eq!(start_of("listen t --start 0"), Some(Start::AfterSeq(Seq(0))));
        assert_eq!(start_of("listen t --start -10"), Some(Start::Last(10)));
        assert_eq!(start_of("listen t --start 10m"), Some(Start::Within(Duration::from_secs(600))));
        assert_eq!(start_of("listen --start=-1 t u --count 5"), Some(Start::Last(1)));
    }

    #[test]
    fn a_start_that_is_none_of_them_is_wrong_usage() {
        for start in ["yesterday", "-", "--5", "-5m", "99999999999999999999", "-99999999999999999999"] {
            assert_eq!(parse(&format!("listen t --start={start}")).unwrap_err().exit_code(), 2, "{start}");
        }
    }

    #[test]
    fn only_a_name_is_rewound_and_not_started_as_well() {
        assert!(parse("listen t --as x --rewind -10").is_ok());
        assert_eq!(parse("listen t --rewind -10").unwrap_err().exit_code(), 2);
        assert_eq!(parse("listen t --as x --rewind -10 --start 5").unwrap_err().exit_code(), 2);
    }

    #[test]
    fn emit_takes_a_payload_or_lines() {
        assert_eq!(emit_of("emit t data").data.as_deref(), Some("data"));
        assert_eq!(emit_of("emit t -").data.as_deref(), Some("-"));
        assert_eq!(emit_of("emit t -5").data.as_deref(), Some("-5"));
        assert_eq!(emit_of("emit t -- --data").data.as_deref(), Some("--data"));
        assert!(parse("emit t --lnes").is_err(), "a misspelt flag is not an event");
        assert_eq!(emit_of("emit t --lines").lines, Some(PathBuf::from("-")));
        assert_eq!(emit_of("emit t --lines file").lines, Some(PathBuf::from("file")));
        assert_eq!(emit_of("emit t --name n --lines --timeout 5s").timeout, Some(Duration::from_secs(5)));
        assert!(parse("emit t").is_err(), "neither");
        assert!(parse("emit t data --lines file").is_err(), "both");
        assert!(parse("emit t data --volatile").is_ok());
        let publisher = "6f0e0000-0000-4000-8000-000000000000";
        assert!(parse(&format!("emit t data --volatile --publisher {publisher}")).is_err(), "nothing is numbered");
    }

    #[test]
    fn a_payload_before_its_topic_is_noticed() {
        let exchanged = |topic: &str, data: &str| {
            let args = Cli::try_parse_from(["redeliver", "emit", topic, data]).unwrap();
            matches!(args.command, Command::Emit(args) if args.looks_exchanged())
        };
        assert!(exchanged("order 1", "orders") && exchanged("{\"id\":1}", "orders/eu"));
        for (topic, data) in
            [("orders", "order 1"), ("orders", "x"), ("my topic", "a b"), ("my topic", "-"), ("a b", "")]
        {
            assert!(!exchanged(topic, data), "{topic} {data}");
        }
    }

    #[test]
    fn the_usage_of_emit_names_the_topic_first() {
        let help = parse("emit -h").unwrap_err().to_string();
        assert!(help.contains("emit [OPTIONS] <TOPIC> <DATA>\n"), "{help}");
    }

    #[test]
    fn names_are_checked_before_anything_is_done() {
        let long = "x".repeat(256);
        assert!(parse(&format!("emit {long} data")).unwrap_err().to_string().contains("255 bytes"));
        assert!(parse("listen").is_err() && parse("listen t --count 0").is_err());
    }
}
