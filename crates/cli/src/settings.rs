//! The settings of `serve`, declared once: what the configuration file takes, its bounds, its example and the table in
//! docs/operations.md all come from the rows in `table`.
//!
//! Never repeats a default or a bound of a library as a number of its own: both are read from the library.

mod origin;
mod pages;
mod table;
mod written;

use std::path::PathBuf;
use std::time::Duration;

use redeliver_server::{LogConfig, ServerBuilder, ServerConfig, StrangerLimits, TlsFiles};
use redeliver_socketio::{Config as GatewayConfig, Recovery};

pub(crate) use self::pages::{PLACEHOLDER, changed, example};
use crate::units::{ByteCount, Count, Span};

/// All that `serve` may be told by its configuration file, but for the tokens.
#[derive(Clone, Debug)]
pub(crate) struct Configuration {
    pub(crate) listen: String,
    pub(crate) data: String,
    /// Where operators ask, or [`OFF`].
    pub(crate) admin_listen: String,
    pub(crate) tls: TlsSettings,
    pub(crate) allowed_origins: Vec<String>,
    pub(crate) connections_max: usize,
    pub(crate) strangers: StrangerLimits,
    pub(crate) queue_bytes_max: usize,
    pub(crate) session: ServerConfig,
    pub(crate) log: LogConfig,
    pub(crate) socketio_enabled: bool,
    pub(crate) socketio: GatewayConfig,
}

/// The files of TLS. Without a certificate, connections are plain.
#[derive(Clone, Debug, Default)]
pub(crate) struct TlsSettings {
    pub(crate) cert: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
    pub(crate) client_ca: Option<PathBuf>,
}

impl TlsSettings {
    /// The files, if there is to be TLS.
    pub(crate) fn files(&self) -> Option<TlsFiles> {
        let mut files = TlsFiles::new(self.cert.as_ref()?, self.key.as_ref()?);
        files.client_ca.clone_from(&self.client_ca);
        Some(files)
    }
}

impl Default for Configuration {
    fn default() -> Configuration {
        let mut socketio = GatewayConfig::default();
        // There is no app beside this server: without these events, a Socket.IO client could not do anything.
        socketio.builtin_events = true;
        Configuration {
            listen: LISTEN.to_owned(),
            data: "./redeliver-data".to_owned(),
            admin_listen: ADMIN_LISTEN.to_owned(),
            tls: TlsSettings::default(),
            allowed_origins: Vec::new(),
            connections_max: ServerBuilder::CONNECTIONS_MAX,
            strangers: StrangerLimits::default(),
            queue_bytes_max: ServerBuilder::QUEUE_BYTES_MAX,
            session: ServerConfig::default(),
            log: LogConfig::default(),
            socketio_enabled: true,
            socketio,
        }
    }
}

impl Configuration {
    /// Checks what no single setting can tell.
    ///
    /// # Errors
    ///
    /// Which settings do not fit each other, in words.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.log.fold_bytes > self.log.tail_bytes_max {
            return Err("log.fold_bytes must not be larger than log.tail_bytes".to_owned());
        }
        match (&self.tls.cert, &self.tls.key) {
            (Some(_), Some(_)) => Ok(()),
            (None, None) if self.tls.client_ca.is_none() => Ok(()),
            (None, None) => Err("tls.client_ca needs tls.cert and tls.key".to_owned()),
            (Some(_), None) | (None, Some(_)) => Err("tls.cert and tls.key go together".to_owned()),
        }
    }
}

/// Where `serve` listens unless it is told otherwise.
pub(crate) const LISTEN: &str = "127.0.0.1:7400";

/// Where `serve` answers operators unless it is told otherwise.
pub(crate) const ADMIN_LISTEN: &str = "127.0.0.1:7401";

/// What is written for something that is not to be.
pub(crate) const OFF: &str = "off";

/// One key of the configuration file.
pub(crate) struct Setting {
    /// The key with its section, as in `limits.event_bytes`.
    pub(crate) key: &'static str,
    /// What it means.
    means: &'static str,
    kind: Kind,
}

/// How a value is written, what bounds it has, and where it goes.
enum Kind {
    Size {
        least: u64,
        most: u64,
        slot: fn(&mut Configuration) -> Number<'_>,
    },
    Count {
        least: u64,
        most: u64,
        slot: fn(&mut Configuration) -> Number<'_>,
    },
    Time {
        least: Duration,
        slot: fn(&mut Configuration) -> Time<'_>,
    },
    Text(fn(&mut Configuration) -> &mut String),
    /// A file that is not there unless it is named.
    File(fn(&mut Configuration) -> &mut Option<PathBuf>),
    Origins(fn(&mut Configuration) -> &mut Vec<String>),
    Flag(fn(&mut Configuration) -> &mut bool),
    Recovery(fn(&mut Configuration) -> &mut Recovery),
}

/// A number of the configuration. An optional one bounds something that has no bound by default.
enum Number<'a> {
    U32(&'a mut u32),
    Usize(&'a mut usize),
    Optional(&'a mut Option<u64>),
}

/// A time of the configuration. An optional one bounds something that has no bound by default.
enum Time<'a> {
    Always(&'a mut Duration),
    Optional(&'a mut Option<Duration>),
}

/// A value as it stands in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Text(String),
    Number(u64),
    Flag(bool),
    Texts(Vec<String>),
    /// Anything else that TOML knows.
    Other,
}

impl Setting {
    /// Returns the setting of this key.
    pub(crate) fn of(key: &str) -> Option<&'static Setting> {
        table::SETTINGS.iter().find(|setting| setting.key == key)
    }

    /// Returns the keys of a section without its name, or, for an empty name, those that are in no section.
    pub(crate) fn names_in(section: &str) -> Vec<&'static str> {
        let all = table::SETTINGS.iter().map(Setting::section_and_name);
        all.filter(|(of, _)| *of == section).map(|(_, name)| name).collect()
    }

    fn section_and_name(&self) -> (&'static str, &'static str) {
        self.key.split_once('.').unwrap_or(("", self.key))
    }

    /// Sets the value.
    ///
    /// # Errors
    ///
    /// Why the value is refused, in words that go on after the key.
    pub(crate) fn set(&self, configuration: &mut Configuration, value: Value) -> Result<(), String> {
        match (&self.kind, value) {
            (Kind::Size { least, most, slot }, value @ (Value::Number(_) | Value::Text(_))) => {
                let bytes = if let Value::Text(text) = &value { text.parse::<ByteCount>()?.0 } else { number(&value) };
                slot(configuration).set(bytes, *least, *most, written::size)
            }
            (Kind::Count { least, most, slot }, value @ (Value::Number(_) | Value::Text(_))) => {
                let count = if let Value::Text(text) = &value { text.parse::<Count>()?.0 } else { number(&value) };
                slot(configuration).set(count, *least, *most, written::count)
            }
            (Kind::Time { least, slot }, Value::Text(text)) => slot(configuration).set(text.parse::<Span>()?.0, *least),
            (Kind::Text(_) | Kind::File(_), Value::Text(text)) if text.is_empty() => {
                Err("must not be empty".to_owned())
            }
            (Kind::File(slot), Value::Text(text)) => put(slot(configuration), Some(PathBuf::from(text))),
            (Kind::Text(slot), Value::Text(text)) => put(slot(configuration), text),
            (Kind::Flag(slot), Value::Flag(flag)) => put(slot(configuration), flag),
            (Kind::Origins(slot), Value::Texts(texts)) => {
                let origins = texts.iter().map(|text| origin::normalised(text)).collect::<Result<_, _>>()?;
                put(slot(configuration), origins)
            }
            (Kind::Recovery(slot), Value::Text(text)) => {
                put(slot(configuration), written::recovery_of(&text).ok_or_else(|| self.must_be())?)
            }
            _ => Err(self.must_be()),
        }
    }

    fn must_be(&self) -> String {
        let what = match &self.kind {
            Kind::Size { .. } => "a size in bytes, or with a unit as in \"64 KiB\"",
            Kind::Count { .. } => "a count, as a number or as in \"5M\"",
            Kind::Time { .. } => "a time with its unit, as in \"15s\" or \"30d\"",
            Kind::Text(_) | Kind::File(_) => "a text in quotes",
            Kind::Origins(_) => "a list of origins, as in [\"https://app.example.com\"]",
            Kind::Flag(_) => "true or false",
            Kind::Recovery(_) => "\"auto\", \"on\" or \"off\"",
        };
        format!("must be {what}")
    }
}

fn put<T>(slot: &mut T, value: T) -> Result<(), String> {
    *slot = value;
    Ok(())
}

fn number(value: &Value) -> u64 {
    if let Value::Number(number) = value { *number } else { 0 }
}

impl Number<'_> {
    fn set(self, number: u64, least: u64, most: u64, written: fn(u64) -> String) -> Result<(), String> {
        let most = if matches!(self, Number::U32(_)) { most.min(u64::from(u32::MAX)) } else { most };
        if number < least {
            let optional = matches!(self, Number::Optional(_));
            return Err(too_little(&written(least), &written(number), optional));
        }
        if number > most {
            return Err(format!("must be at most {}, not {}", written(most), written(number)));
        }
        match self {
            Number::U32(slot) => *slot = u32::try_from(number).unwrap_or(u32::MAX),
            // More than an address space holds is as good as no bound.
            Number::Usize(slot) => *slot = usize::try_from(number).unwrap_or(usize::MAX),
            Number::Optional(slot) => *slot = Some(number),
        }
        Ok(())
    }
}

impl Time<'_> {
    fn set(self, time: Duration, least: Duration) -> Result<(), String> {
        if time < least {
            let optional = matches!(self, Time::Optional(_));
            return Err(too_little(&written::time(least), &written::time(time), optional));
        }
        match self {
            Time::Always(slot) => *slot = time,
            Time::Optional(slot) => *slot = Some(time),
        }
        Ok(())
    }
}

/// Many products read 0 as "no limit", which would be the opposite of what it says here.
fn too_little(least: &str, given: &str, optional: bool) -> String {
    let instead = if optional { "; leave it out to keep everything" } else { "" };
    format!("must be at least {least}, not {given}{instead}")
}

#[cfg(test)]
mod tests;
