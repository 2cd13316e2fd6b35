//! `serve --config FILE`: reads the file into a configuration and the tokens.
//!
//! A key that is not known is an error: a misspelt limit must not be a limit that is not there.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::access::{Grant, Pattern, TokenHash, Tokens};
use crate::exit::Problem;
use crate::settings::{Configuration, PLACEHOLDER, Setting, Value};

/// A configuration file that was read.
#[derive(Debug, Default)]
pub(crate) struct ConfigFile {
    pub(crate) configuration: Configuration,
    pub(crate) tokens: Tokens,
    /// Names of tokens that are too short to be safe against guessing.
    pub(crate) weak_tokens: Vec<String>,
}

impl ConfigFile {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// What is wrong with it, and in which line; never a token.
    pub(crate) fn read(path: &Path) -> Result<ConfigFile> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("the configuration file {} cannot be read", path.display()))?;
        ConfigFile::parse(&text).map_err(|words| {
            Problem::new(format!("the configuration file {} is not valid: {words}", path.display()))
                .hint("`redeliver serve --example-config` prints a file with every setting")
                .into()
        })
    }

    fn parse(text: &str) -> Result<ConfigFile, String> {
        let table = DeTable::parse(text).map_err(|error| in_one_line(&error, text))?;
        let mut configuration = Configuration::default();
        set_all(&mut configuration, table.get_ref(), "", text)?;
        configuration.check()?;
        let access: AccessPart = toml::from_str(text).map_err(|error| in_one_line(&error, text))?;
        let weak = |section: &&TokenSection| section.token.as_ref().is_some_and(|token| token.len() < TOKEN_CHARS_SAFE);
        Ok(ConfigFile {
            configuration,
            tokens: tokens(&access.auth.token)?,
            weak_tokens: access.auth.token.iter().filter(weak).map(|it| it.name.clone().unwrap_or_default()).collect(),
        })
    }
}

/// Sets what a table and the sections in it say.
fn set_all(configuration: &mut Configuration, table: &DeTable<'_>, section: &str, text: &str) -> Result<(), String> {
    for (key, value) in table {
        let key_in_full =
            if section.is_empty() { key.get_ref().to_string() } else { format!("{section}.{}", key.get_ref()) };
        let line = line_of(key, text);
        match (value.get_ref(), Setting::of(&key_in_full)) {
            // The tokens have a shape of their own.
            _ if key_in_full == "auth" => {}
            (value, Some(setting)) => setting
                .set(configuration, value_of(value))
                .map_err(|words| format!("line {line}: {key_in_full} {words}"))?,
            (DeValue::Table(inner), None) if section.is_empty() && !Setting::names_in(&key_in_full).is_empty() => {
                set_all(configuration, inner, &key_in_full, text)?;
            }
            (_, None) => return Err(format!("line {line}: `{key_in_full}` is not a setting; {}", known(section))),
        }
    }
    Ok(())
}

fn known(section: &str) -> String {
    let names = Setting::names_in(section).join(", ");
    if section.is_empty() {
        format!(
            "outside of sections there are {names}, and the sections are admin, tls, retention, limits, log, socketio and auth"
        )
    } else {
        format!("[{section}] has {names}")
    }
}

fn value_of(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => {
            u64::from_str_radix(number.as_str(), number.radix()).map_or(Value::Other, Value::Number)
        }
        DeValue::Boolean(flag) => Value::Flag(*flag),
        DeValue::Array(items) => {
            let texts = items.iter().map(|item| item.get_ref().as_str().map(str::to_owned));
            texts.collect::<Option<_>>().map_or(Value::Other, Value::Texts)
        }
        DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Table(_) => Value::Other,
    }
}

/// The part of the file that says who may do what. Everything else was looked at before.
#[derive(Deserialize)]
struct AccessPart {
    #[serde(default)]
    auth: AuthSection,
}

/// `[auth]`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct AuthSection {
    #[serde(default)]
    token: Vec<TokenSection>,
}

/// `[[auth.token]]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenSection {
    name: Option<String>,
    token: Option<String>,
    token_sha256: Option<String>,
    expires: Option<String>,
    #[serde(default)]
    emit: Vec<Pattern>,
    #[serde(default)]
    subscribe: Vec<Pattern>,
    #[serde(default)]
    subscribers: Vec<Pattern>,
}

/// Checks the tokens. What is wrong with one is told without the token itself.
fn tokens(sections: &[TokenSection]) -> Result<Tokens, String> {
    let (mut tokens, mut names) = (Tokens::default(), BTreeSet::new());
    for (i, section) in sections.iter().enumerate() {
        let name = section.name.clone().unwrap_or_else(|| format!("token {}", i + 1));
        let problem = |words: &str| format!("[[auth.token]] `{name}` {words}");
        // Publishers, durable names and sockets belong to the name.
        if !names.insert(name.clone()) {
            return Err(problem("has the name of another one: give each holder a name of its own"));
        }
        let hash = match (&section.token, &section.token_sha256) {
            (Some(token), None) if token.is_empty() => return Err(problem("is empty")),
            (Some(token), None) if is_published(token) => return Err(problem(NOT_YOURS)),
            (None, Some(hex)) if is_published(hex) => return Err(problem(NOT_YOURS)),
            (Some(token), None) => TokenHash::of(token.as_bytes()),
            (None, Some(hex)) => {
                TokenHash::from_hex(hex).ok_or_else(|| problem("has a token_sha256 that is not 64 hex digits"))?
            }
            (Some(_), Some(_)) => return Err(problem("has both `token` and `token_sha256`: keep one")),
            (None, None) => return Err(problem("needs `token` or `token_sha256`")),
        };
        let expires = section.expires.as_deref().map(humantime::parse_rfc3339).transpose();
        let expires = expires
            .map_err(|_| problem("has an `expires` that is not a time in UTC, as in \"2027-01-01T00:00:00Z\""))?;
        let grant = Grant {
            name: name.clone(),
            emit: section.emit.clone(),
            subscribe: section.subscribe.clone(),
            subscribers: section.subscribers.clone(),
            expires,
        };
        if !tokens.add(hash, grant) {
            return Err(problem("is the same token as another one"));
        }
    }
    Ok(tokens)
}

/// Whether everybody knows this token or hash, since it stands, or once stood, in an example.
fn is_published(credential: &str) -> bool {
    [PLACEHOLDER, FORMER_TOKEN, FORMER_HASH].contains(&credential)
}

/// The parser's words with the line they speak of, but without the excerpt that it draws (which may hold a token).
fn in_one_line(error: &toml::de::Error, text: &str) -> String {
    let words = error.message().trim().replace('\n', ", ");
    match error.span() {
        Some(span) => format!("line {}: {words}", line_at(span.start, text)),
        None => words,
    }
}

fn line_of<T>(spanned: &Spanned<T>, text: &str) -> usize {
    line_at(spanned.span().start, text)
}

fn line_at(offset: usize, text: &str) -> usize {
    text.get(..offset).unwrap_or_default().matches('\n').count() + 1
}

/// 128 bits in the densest common writing, base64.
const TOKEN_CHARS_SAFE: usize = 22;

const NOT_YOURS: &str =
    "is the one of the example, which everybody knows: put one of your own there, or remove the block";

// These stood in the example of version 0.1; the hash is that of `12345`.
const FORMER_TOKEN: &str = "at least 128 random bits, as from: openssl rand -hex 32";
const FORMER_HASH: &str = "5994471abb01112afcc18159f6cc74b4f511b99806da59b3caf5a9c173cacfc5";

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use redeliver_socketio::Recovery;

    use super::*;
    use crate::settings;

    fn parsed(text: &str) -> Configuration {
        ConfigFile::parse(text).unwrap().configuration
    }

    fn refused(text: &str) -> String {
        ConfigFile::parse(text).unwrap_err()
    }

    #[test]
    fn the_example_is_valid_once_its_tokens_are_replaced_and_changes_nothing() {
        let example = settings::example();
        assert!(refused(&example).contains("[[auth.token]] `billing` is the one of the example"));
        let mine = example.replacen(PLACEHOLDER, "0123456789abcdef0123456789abcdef", 1).replacen(
            PLACEHOLDER,
            &"ab".repeat(32),
            1,
        );
        let file = ConfigFile::parse(&mine).unwrap();
        assert_eq!(format!("{:?}", file.configuration), format!("{:?}", Configuration::default()));
        assert!(!file.tokens.is_empty());
        assert!(file.weak_tokens.is_empty());
    }

    #[test]
    fn what_the_example_shows_without_setting_it_is_valid_too() {
        let shown: String = settings::example()
            .lines()
            .map(|line| line.strip_prefix("# ").filter(|line| line.contains(" = ")).unwrap_or(line).to_owned() + "\n")
            .filter(|line| !line.contains(PLACEHOLDER) && !line.contains("auth.token"))
            .take_while(|line| !line.contains("at least one token"))
            .collect();
        let configuration = parsed(&shown);
        assert_eq!(configuration.log.retention.age, Some(Duration::from_secs(30 * 86_400)));
        assert_eq!(configuration.log.retention.bytes, Some(10 << 30));
        assert_eq!(configuration.log.retention.count, Some(100_000_000));
        assert_eq!(configuration.allowed_origins, ["https://app.example.com"]);
    }

    #[test]
    fn a_credential_that_an_example_has_published_is_refused() {
        for key in [format!("token = \"{FORMER_TOKEN}\""), format!("token_sha256 = \"{FORMER_HASH}\"")] {
            assert!(refused(&format!("[[auth.token]]\n{key}")).contains("everybody knows"), "{key}");
        }
    }

    #[test]
    fn a_key_that_is_not_known_is_named_with_its_line_and_those_that_are() {
        let words = refused("listen = \"[::1]:0\"\n[limits]\nevent_byte = 5\n");
        assert!(words.contains("line 3") && words.contains("limits.event_byte`"), "{words}");
        assert!(words.contains("event_bytes, event_topics"), "{words}");
        for (text, key) in [
            ("listn = \"[::1]:0\"", "`listn`"),
            ("[limit]\nconnections = 5", "`limit`"),
            ("[retention.age]\nx = 5", "retention.age must be a time"),
            ("[auth]\ntokens = 5", "tokens"),
        ] {
            let words = refused(text);
            assert!(words.contains(key), "{text}: {words}");
        }
    }

    #[test]
    fn a_value_without_sense_is_refused_in_words() {
        for (text, words) in [
            ("heartbeat = 15", "line 1: heartbeat must be a time with its unit"),
            ("heartbeat = \"15 parsecs\"", "not a time"),
            ("heartbeat = \"10ms\"", "heartbeat must be at least 1s, not 10ms"),
            ("data = \"\"", "data must not be empty"),
            ("allowed_origins = \"*\"", "must be a list"),
            ("allowed_origins = [\"app.example.com\"]", "as in https://app.example.com"),
            ("[retention]\nbytes = -1", "must be a size"),
            ("[retention]\ncount = \"many\"", "not a count"),
            ("[limits]\nevent_bytes = \"2 MiB\"", "line 2: limits.event_bytes must be at most 768 KiB, not 2 MiB"),
            ("[limits]\nevent_topics = 65", "must be at most 64, not 65"),
            ("[limits]\nsubscriptions = \"5G\"", "must be at most 4,294,967,295"),
            ("[socketio]\nenabled = \"yes\"", "true or false"),
            ("[socketio]\nrecovery = \"maybe\"", "\"auto\", \"on\" or \"off\""),
            ("[log]\nfold_bytes = \"65 MiB\"", "log.fold_bytes must not be larger"),
        ] {
            let refusal = refused(text);
            assert!(refusal.contains(words), "{text}: {refusal}");
        }
    }

    #[test]
    fn a_bound_of_zero_is_refused_by_its_name() {
        for (section, key) in [
            ("retention", "count = 0"),
            ("retention", "bytes = 0"),
            ("retention", "age = \"0s\""),
            ("limits", "connections = 0"),
            ("limits", "event_bytes = 0"),
            ("limits", "subscriptions = 0"),
            ("limits", "window_events = 0"),
            ("socketio", "sessions = 0"),
            ("socketio", "payload_bytes = 0"),
            ("socketio", "ping_interval = \"0s\""),
            ("socketio", "session_idle = \"0s\""),
        ] {
            let words = refused(&format!("[{section}]\n{key}"));
            let name = key.split(' ').next().unwrap();
            assert!(words.contains(&format!("{section}.{name} must be at least ")), "{words}");
            assert_eq!(words.contains("leave it out to keep everything"), section == "retention", "{words}");
        }
    }

    #[test]
    fn each_way_of_writing_a_value_is_read() {
        let configuration = parsed(
            "listen = \"[::1]:0\"\nallowed_origins = [\"HTTPS://a.example/\"]\n[limits]\nevent_bytes = 0x400\n\
             connections = \"5k\"\n[socketio]\nenabled = false\nrecovery = \"off\"\nack_timeout = \"1m 5s\"",
        );
        assert_eq!((configuration.listen.as_str(), configuration.connections_max), ("[::1]:0", 5_000));
        assert_eq!(configuration.allowed_origins, ["https://a.example"]);
        assert_eq!(configuration.session.limits.event_bytes_max, 1024);
        assert!(!configuration.socketio_enabled && configuration.socketio.recovery == Recovery::Off);
        assert_eq!(configuration.socketio.ack_timeout, Duration::from_secs(65));
    }

    #[test]
    fn a_token_that_cannot_work_is_refused_without_showing_it() {
        for (section, words) in [
            ("name = \"x\"", "needs `token`"),
            ("name = \"x\"\ntoken = \"\"", "is empty"),
            ("name = \"x\"\ntoken = \"s3cret\"\ntoken_sha256 = \"00\"", "keep one"),
            ("name = \"x\"\ntoken_sha256 = \"00\"", "64 hex digits"),
            ("name = \"x\"\ntoken = \"s3cret\"\n[[auth.token]]\ntoken = \"s3cret\"", "same token"),
            ("name = \"x\"\ntoken = \"a\"\n[[auth.token]]\nname = \"x\"\ntoken = \"b\"", "a name of its own"),
            ("name = \"x\"\ntoken = \"s3cret\"\nexpires = \"tomorrow\"", "as in \"2027-01-01T00:00:00Z\""),
            ("name = \"x\"\ntoken = [\"s3cret\"]", "line 3"),
        ] {
            let refusal = refused(&format!("[[auth.token]]\n{section}"));
            assert!(refusal.contains(words) && !refusal.contains("s3cret"), "{refusal}");
        }
    }

    #[test]
    fn a_token_that_can_be_guessed_is_pointed_out() {
        let file = ConfigFile::parse("[[auth.token]]\nname = \"x\"\ntoken = \"s3cret\"\nemit = [\"*\"]").unwrap();
        assert_eq!(file.weak_tokens, ["x"]);
        assert!(!format!("{file:?}").contains("s3cret"));
    }
}
