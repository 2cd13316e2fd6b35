//! `serve --config FILE`: what may stand in it, and how flags and file become one configuration.
//!
//! A key that is not known is an error: a misspelt limit must not be a limit that is not there.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use redeliver_socketio::Recovery;
use serde::Deserialize;

use crate::access::{Grant, Pattern, TokenHash, Tokens};
use crate::exit::Problem;
use crate::units::{ByteCount, Count, Span};

/// The configuration file. Every key is optional.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConfigFile {
    pub(crate) listen: Option<String>,
    pub(crate) data: Option<PathBuf>,
    pub(crate) heartbeat: Option<Span>,
    pub(crate) allowed_origins: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) limits: LimitsSection,
    #[serde(default)]
    pub(crate) retention: RetentionSection,
    #[serde(default)]
    pub(crate) auth: AuthSection,
    #[serde(default)]
    pub(crate) socketio: SocketIoSection,
}

/// `[socketio]`: the gateway for Socket.IO clients, on the same port.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SocketIoSection {
    pub(crate) enabled: Option<bool>,
    pub(crate) path: Option<String>,
    pub(crate) recovery: Option<RecoveryWord>,
    pub(crate) ping_interval: Option<Span>,
    pub(crate) ping_timeout: Option<Span>,
    pub(crate) connect_timeout: Option<Span>,
    pub(crate) session_idle: Option<Span>,
    pub(crate) ack_timeout: Option<Span>,
    pub(crate) payload_bytes: Option<ByteCount>,
    pub(crate) sessions: Option<Count>,
}

/// `socketio.recovery`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RecoveryWord {
    Auto,
    On,
    Off,
}

impl From<RecoveryWord> for Recovery {
    fn from(word: RecoveryWord) -> Recovery {
        match word {
            RecoveryWord::Auto => Recovery::Auto,
            RecoveryWord::On => Recovery::On,
            RecoveryWord::Off => Recovery::Off,
        }
    }
}

/// `[limits]`: the server's own, below those of the protocol.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LimitsSection {
    pub(crate) event_bytes: Option<ByteCount>,
    pub(crate) event_topics: Option<Count>,
    pub(crate) emits_in_flight: Option<Count>,
    pub(crate) emit_bytes_in_flight: Option<ByteCount>,
    pub(crate) subscriptions: Option<Count>,
    pub(crate) window_events: Option<Count>,
    pub(crate) window_bytes: Option<ByteCount>,
    pub(crate) connections: Option<Count>,
}

/// `[retention]`: an event goes when any of these says so. None by default: everything is kept.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RetentionSection {
    pub(crate) age: Option<Span>,
    pub(crate) bytes: Option<ByteCount>,
    pub(crate) count: Option<Count>,
}

/// `[auth]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AuthSection {
    #[serde(default)]
    pub(crate) token: Vec<TokenSection>,
}

/// `[[auth.token]]`.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TokenSection {
    pub(crate) name: Option<String>,
    pub(crate) token: Option<String>,
    pub(crate) token_sha256: Option<String>,
    #[serde(default)]
    pub(crate) emit: Vec<Pattern>,
    #[serde(default)]
    pub(crate) subscribe: Vec<Pattern>,
    #[serde(default)]
    pub(crate) subscribers: Vec<Pattern>,
}

impl ConfigFile {
    /// Reads a file.
    pub(crate) fn read(path: &Path) -> Result<ConfigFile> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("the configuration file {} cannot be read", path.display()))?;
        ConfigFile::parse(&text).map_err(|error| {
            Problem::new(format!("the configuration file {} is not valid: {error}", path.display()))
                .hint("`redeliver serve --help` lists what may stand in it")
                .into()
        })
    }

    fn parse(text: &str) -> Result<ConfigFile, String> {
        toml::from_str(text).map_err(|error| in_one_line(&error, text))
    }

    /// The tokens, checked.
    ///
    /// # Errors
    ///
    /// What is wrong with one of them; never the token itself.
    pub(crate) fn tokens(&self) -> Result<Tokens, Problem> {
        let mut tokens = Tokens::default();
        for (i, section) in self.auth.token.iter().enumerate() {
            let name = section.name.clone().unwrap_or_else(|| format!("token {}", i + 1));
            let problem = |words: &str| Problem::new(format!("[[auth.token]] `{name}` {words}"));
            let hash = match (&section.token, &section.token_sha256) {
                (Some(token), None) if token.is_empty() => return Err(problem("is empty")),
                (Some(token), None) => TokenHash::of(token.as_bytes()),
                (None, Some(hex)) => {
                    TokenHash::from_hex(hex).ok_or_else(|| problem("has a token_sha256 that is not 64 hex digits"))?
                }
                (Some(_), Some(_)) => return Err(problem("has both `token` and `token_sha256`: keep one")),
                (None, None) => return Err(problem("needs `token` or `token_sha256`")),
            };
            let grant = Grant {
                name: name.clone(),
                emit: section.emit.clone(),
                subscribe: section.subscribe.clone(),
                subscribers: section.subscribers.clone(),
            };
            if !tokens.add(hash, grant) {
                return Err(problem("is the same token as another one"));
            }
        }
        Ok(tokens)
    }

    /// Names of tokens that are too short to be safe against guessing.
    pub(crate) fn weak_tokens(&self) -> Vec<String> {
        let weak = |section: &&TokenSection| section.token.as_ref().is_some_and(|token| token.len() < TOKEN_CHARS_SAFE);
        self.auth.token.iter().filter(weak).map(|section| section.name.clone().unwrap_or_default()).collect()
    }
}

impl std::fmt::Debug for TokenSection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenSection").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The parser's words with the line they speak of, but without the excerpt that it draws (which may hold a token).
fn in_one_line(error: &toml::de::Error, text: &str) -> String {
    let words = error.message().trim().replace('\n', ", ");
    match error.span() {
        Some(span) => {
            let line = text.get(..span.start).unwrap_or_default().matches('\n').count() + 1;
            format!("line {line}: {words}")
        }
        None => words,
    }
}

/// 128 bits in the densest common writing, base64.
const TOKEN_CHARS_SAFE: usize = 22;

/// An example with every key, shown by `redeliver serve --help`.
pub(crate) const EXAMPLE: &str = r#"listen = "127.0.0.1:7400"
data = "/var/lib/redeliver"
heartbeat = "15s"
allowed_origins = ["https://app.example.com"]   # browsers from elsewhere are refused

[retention]             # an event goes when any of these says so; without them everything is kept
age = "30d"
bytes = "10 GiB"
count = "100M"

[limits]
connections = 10_000
event_bytes = "256 KiB"
event_topics = 16
subscriptions = 10_000              # of one connection
window_events = 65_536              # of one subscription
window_bytes = "16 MiB"
emits_in_flight = 16_384            # of one connection
emit_bytes_in_flight = "4 MiB"

[socketio]              # Socket.IO clients, on the same port
enabled = true
path = "/socket.io"
recovery = "auto"                   # or "on": offsets for every client, or "off"
ping_interval = "25s"
ping_timeout = "20s"
connect_timeout = "45s"             # for being in no namespace
payload_bytes = "1 MiB"             # of one message
sessions = 65_536                   # at once; each is a connection as well
session_idle = "7d"                 # how long a client that is away may come back as the same socket
ack_timeout = "10s"                 # in ack mode, before an event is sent again

[[auth.token]]          # with at least one of these, every client needs a token
name = "billing"
token = "at least 128 random bits, as from: openssl rand -hex 32"
emit = ["invoices/*"]               # * stands for any run of characters
subscribe = ["orders/*", "invoices/*"]
subscribers = ["billing"]           # names that it may use with --as

[[auth.token]]
name = "dashboard"
token_sha256 = "5994471abb01112afcc18159f6cc74b4f511b99806da59b3caf5a9c173cacfc5"
subscribe = ["*"]
"#;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_example_in_the_help_is_valid() {
        let config = ConfigFile::parse(EXAMPLE).unwrap();
        assert_eq!(config.retention.age, Some(Span(Duration::from_secs(30 * 86_400))));
        assert_eq!(config.retention.bytes, Some(ByteCount(10 << 30)));
        assert_eq!(config.retention.count, Some(Count(100_000_000)));
        assert_eq!(config.limits.event_bytes, Some(ByteCount(256 * 1024)));
        let tokens = config.tokens().unwrap();
        assert!(tokens.find(b"12345").unwrap().may_subscribe("anything"));
        let billing = tokens.find(config.auth.token[0].token.as_ref().unwrap().as_bytes()).unwrap();
        assert!(billing.may_emit("invoices/7") && !billing.may_emit("orders/7") && billing.may_be("billing"));
    }

    #[test]
    fn a_key_that_is_not_known_is_named_with_its_line() {
        let error = ConfigFile::parse("listen = \"[::1]:0\"\n[limits]\nevent_byte = 5\n").unwrap_err();
        assert!(error.contains("line 3") && error.contains("event_byte"), "{error}");
        let error = ConfigFile::parse("listn = \"[::1]:0\"").unwrap_err();
        assert!(error.contains("listn"), "{error}");
    }

    #[test]
    fn a_value_without_sense_is_refused_in_words() {
        for (text, words) in [
            ("heartbeat = 15", "unit"),
            ("heartbeat = \"15 parsecs\"", "not a time"),
            ("[retention]\nbytes = -1", "-1 is not a size"),
            ("[retention]\ncount = \"many\"", "not a count"),
        ] {
            let error = ConfigFile::parse(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn a_token_that_cannot_work_is_refused_without_showing_it() {
        for (section, words) in [
            ("name = \"x\"", "needs `token`"),
            ("name = \"x\"\ntoken = \"\"", "is empty"),
            ("name = \"x\"\ntoken = \"s3cret\"\ntoken_sha256 = \"00\"", "keep one"),
            ("name = \"x\"\ntoken_sha256 = \"00\"", "64 hex digits"),
            ("name = \"x\"\ntoken = \"s3cret\"\n[[auth.token]]\ntoken = \"s3cret\"", "same token"),
        ] {
            let config = ConfigFile::parse(&format!("[[auth.token]]\n{section}")).unwrap();
            let problem = config.tokens().map(|_| ()).unwrap_err().to_string();
            assert!(problem.contains(words) && !problem.contains("s3cret"), "{problem}");
            assert!(!format!("{config:?}").contains("s3cret"));
        }
    }

    #[test]
    fn a_token_that_can_be_guessed_is_pointed_out() {
        let config = ConfigFile::parse("[[auth.token]]\nname = \"x\"\ntoken = \"s3cret\"\nemit = [\"*\"]").unwrap();
        assert_eq!(config.weak_tokens(), ["x"]);
        assert!(ConfigFile::parse(EXAMPLE).unwrap().weak_tokens().is_empty());
    }
}
