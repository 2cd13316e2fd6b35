//! The settings as people read them: the example that `redeliver serve --example-config` prints.

use std::fmt::Write;

use super::table::{NO_BOUND, SETTINGS};
use super::{Configuration, Kind, Number, Setting, Time, written};

/// Returns a configuration file with every key at its default. It is refused as it is: its tokens must be replaced first.
pub(crate) fn example() -> String {
    let mut out = String::from("# redeliver serve --config FILE. Every key is optional; these are the defaults.\n");
    let mut section = "";
    for setting in SETTINGS {
        let (of, name) = setting.section_and_name();
        out.push('\n');
        if of != section {
            section = of;
            // Writing to a string cannot fail.
            let _ = writeln!(out, "[{section}]");
        }
        comment(&mut out, &sentence(setting));
        let (value, is_set) = setting.example_value();
        let _ = writeln!(out, "{}{name} = {value}", if is_set { "" } else { "# " });
    }
    out.push_str(TOKENS);
    out
}

/// The keys whose values differ between two configurations.
pub(crate) fn changed(one: &Configuration, other: &Configuration) -> Vec<&'static str> {
    let (mut one, mut other) = (one.clone(), other.clone());
    let changed = SETTINGS.iter().filter(|setting| setting.shown(&mut one) != setting.shown(&mut other));
    changed.map(|setting| setting.key).collect()
}

impl Setting {
    /// What it means, with its bounds.
    pub(super) fn meaning(&self) -> String {
        let mut words = self.means.to_owned();
        let (least, most) = match &self.kind {
            Kind::Size { least, most, .. } => (said(*least, written::size), said(*most, written::size)),
            Kind::Count { least, most, .. } => (said(*least, written::count), said(*most, written::count)),
            Kind::Time { least, .. } => (Some(written::time(*least)).filter(|_| least.as_secs() > 0), None),
            Kind::Text(_) | Kind::File(_) | Kind::Origins(_) | Kind::Flag(_) | Kind::Recovery(_) => (None, None),
        };
        for (which, bound) in [("least", least), ("most", most)] {
            if let Some(bound) = bound {
                let _ = write!(words, "; at {which} {bound}");
            }
        }
        words
    }

    /// The value in a configuration, to be compared with another one's.
    fn shown(&self, configuration: &mut Configuration) -> String {
        match &self.kind {
            Kind::Size { slot, .. } | Kind::Count { slot, .. } => format!("{:?}", slot(configuration).value()),
            Kind::Time { slot, .. } => format!("{:?}", slot(configuration).value()),
            Kind::Text(slot) => slot(configuration).clone(),
            Kind::Origins(slot) => format!("{:?}", slot(configuration)),
            Kind::Flag(slot) => slot(configuration).to_string(),
            Kind::Recovery(slot) => format!("{:?}", slot(configuration)),
            Kind::File(slot) => format!("{:?}", slot(configuration)),
        }
    }

    /// The value in the example, and whether it is the default, or only shows how one is written.
    fn example_value(&self) -> (String, bool) {
        let mut defaults = Configuration::default();
        let quoted = |text: String| format!("\"{text}\"");
        match &self.kind {
            Kind::Size { slot, .. } => match slot(&mut defaults).value() {
                Some(bytes) => (quoted(written::size(bytes)), true),
                None => (quoted("10 GiB".to_owned()), false),
            },
            Kind::Count { slot, .. } => match slot(&mut defaults).value() {
                Some(count) => (written::toml_count(count), true),
                None => (quoted("100M".to_owned()), false),
            },
            Kind::Time { slot, .. } => match slot(&mut defaults).value() {
                Some(time) => (quoted(written::time(time)), true),
                None => (quoted("30d".to_owned()), false),
            },
            Kind::Text(slot) => (quoted(slot(&mut defaults).clone()), true),
            Kind::File(_) => (quoted(format!("/etc/redeliver/{}.pem", self.section_and_name().1)), false),
            Kind::Origins(_) => ("[\"https://app.example.com\"]".to_owned(), false),
            Kind::Flag(slot) => (slot(&mut defaults).to_string(), true),
            Kind::Recovery(slot) => (quoted(written::recovery(*slot(&mut defaults)).to_owned()), true),
        }
    }
}

impl Number<'_> {
    pub(super) fn value(&self) -> Option<u64> {
        match self {
            Number::U32(slot) => Some(u64::from(**slot)),
            Number::Usize(slot) => Some(**slot as u64),
            Number::Optional(slot) => **slot,
        }
    }
}

impl Time<'_> {
    pub(super) fn value(&self) -> Option<std::time::Duration> {
        match self {
            Time::Always(slot) => Some(**slot),
            Time::Optional(slot) => **slot,
        }
    }
}

/// A bound in words, unless it is one that nobody asks about.
fn said(bound: u64, written: fn(u64) -> String) -> Option<String> {
    (bound > 1 && bound != NO_BOUND).then(|| written(bound))
}

fn sentence(setting: &Setting) -> String {
    let meaning = setting.meaning();
    let mut letters = meaning.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

/// Writes words as comment lines that a terminal does not wrap.
fn comment(out: &mut String, words: &str) {
    let mut line = String::from("#");
    for word in words.split(' ') {
        if line.chars().count() + 1 + word.chars().count() > EXAMPLE_COLUMNS {
            out.push_str(&line);
            out.push_str("\n#");
            line.clear();
        }
        line.push(' ');
        line.push_str(word);
    }
    out.push_str(&line);
    out.push('\n');
}

const EXAMPLE_COLUMNS: usize = 79;

/// What stands in the example for a token, and is refused.
pub(crate) const PLACEHOLDER: &str = "REPLACE-ME: openssl rand -hex 32";

const TOKENS: &str = r#"
# With at least one token, every client needs one. Remove both blocks to let
# anybody on this machine in; a list that is missing allows nothing, and * in a
# pattern stands for any run of characters. Topics of Socket.IO (/...) are
# open to native clients only by patterns that begin with / themselves.
[[auth.token]]
name = "billing"
token = "REPLACE-ME: openssl rand -hex 32"
# Topics that its holder may emit to, and may follow.
emit = ["invoices/*"]
subscribe = ["orders/*", "invoices/*"]
# Names that it may use with --as.
subscribers = ["billing"]
# Until when it holds; without it, for ever. SIGHUP reads this file again.
# expires = "2027-01-01T00:00:00Z"

[[auth.token]]
name = "dashboard"
# Instead of the token: printf %s "$TOKEN" | sha256sum
token_sha256 = "REPLACE-ME: openssl rand -hex 32"
subscribe = ["*"]
"#;
