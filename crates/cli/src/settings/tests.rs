//! Holds the table against the libraries' configurations and against docs/operations.md.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::table::SETTINGS;
use super::*;

/// Fields that no key sets, each with the reason.
const EXCEPTIONS: &[(&str, &str)] = &[
    (
        "session.batch_bytes_max",
        "measured as best for sockets (docs/performance.md); nothing an operator could know better",
    ),
    ("session.server_name", "names the version, which the operator does not choose"),
    ("socketio.builtin_events", "there is no app beside the binary: without them, a client could do nothing"),
];

/// The fields of a configuration by their paths, as its Debug form shows them.
fn fields(configuration: &Configuration) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    let mut path: Vec<String> = Vec::new();
    for line in format!("{configuration:#?}").lines().skip(1) {
        let line = line.trim().trim_end_matches(',');
        if let Some(of) = line.strip_suffix(['{', '[', '(']) {
            // An item of a list, or the inside of `Some(…)`, has no name of its own.
            path.push(of.split_once(": ").map_or(String::new(), |(name, _)| name.to_owned()));
        } else if ["}", "]", ")"].contains(&line) {
            path.pop();
        } else {
            let (name, value) = line.split_once(": ").unwrap_or(("", line));
            let names = path.iter().map(String::as_str).chain([name]).filter(|name| !name.is_empty());
            let all: &mut String = fields.entry(names.collect::<Vec<_>>().join(".")).or_default();
            all.push_str(value);
        }
    }
    fields
}

/// A value that is valid and not the default.
fn another_value(setting: &Setting) -> Value {
    let mut defaults = Configuration::default();
    match &setting.kind {
        Kind::Size { least, most, .. } | Kind::Count { least, most, .. } => {
            let middle = least.midpoint((*most).min(u64::from(u16::MAX)).max(*least + 2));
            Value::Number(middle + 1)
        }
        Kind::Time { least, .. } => Value::Text(format!("{}s", least.as_secs() + 12_345)),
        Kind::Text(_) | Kind::File(_) => Value::Text("another".to_owned()),
        Kind::Origins(_) => Value::Texts(vec!["https://another.example".to_owned()]),
        Kind::Flag(slot) => Value::Flag(!*slot(&mut defaults)),
        Kind::Recovery(_) => Value::Text("off".to_owned()),
    }
}

#[test]
fn each_key_sets_one_field_of_its_own_and_every_field_has_a_key_or_a_reason() {
    let before = fields(&Configuration::default());
    let mut set = BTreeSet::new();
    for setting in SETTINGS {
        let mut configuration = Configuration::default();
        setting
            .set(&mut configuration, another_value(setting))
            .unwrap_or_else(|words| panic!("{} {words}", setting.key));
        let after = fields(&configuration);
        let of_either = before.keys().chain(after.keys()).collect::<BTreeSet<_>>();
        let changed: Vec<_> = of_either.into_iter().filter(|path| before.get(*path) != after.get(*path)).collect();
        assert_eq!(changed.len(), 1, "{} changes {changed:?}", setting.key);
        assert!(set.insert(changed[0].clone()), "{} sets what another key sets: {changed:?}", setting.key);
    }
    let excused: BTreeSet<_> = EXCEPTIONS.iter().map(|(path, _)| (*path).to_owned()).collect();
    assert!(set.is_disjoint(&excused), "these have a key: take them off the list of exceptions");
    let missing: Vec<_> = before.keys().filter(|path| !set.contains(*path) && !excused.contains(*path)).collect();
    assert!(missing.is_empty(), "no key of the configuration file sets {missing:?}, and no exception says why");
    let gone: Vec<_> = excused.iter().filter(|path| !before.contains_key(*path)).collect();
    assert!(gone.is_empty(), "these exceptions are no fields: {gone:?}");
}

#[test]
fn sections_are_whole_and_keys_stand_once() {
    let mut seen = Vec::new();
    for setting in SETTINGS {
        let section = setting.section_and_name().0;
        if seen.last() != Some(&section) {
            assert!(!seen.contains(&section), "[{section}] begins twice, which TOML refuses");
            seen.push(section);
        }
    }
    assert_eq!(seen.first(), Some(&""), "keys outside of sections come first");
    let keys: BTreeSet<_> = SETTINGS.iter().map(|setting| setting.key).collect();
    assert_eq!(keys.len(), SETTINGS.len());
}

#[test]
fn every_default_is_within_its_bounds_and_read_back_as_it_is_written() {
    for setting in SETTINGS {
        let mut configuration = Configuration::default();
        let value = match &setting.kind {
            Kind::Size { slot, .. } | Kind::Count { slot, .. } => match slot(&mut configuration) {
                Number::U32(slot) => Value::Number(u64::from(*slot)),
                Number::Usize(slot) => Value::Number(*slot as u64),
                Number::Optional(_) => continue,
            },
            Kind::Time { slot, .. } => match slot(&mut configuration) {
                Time::Always(time) => Value::Text(written::time(*time)),
                Time::Optional(_) => continue,
            },
            Kind::Text(_) | Kind::File(_) | Kind::Origins(_) | Kind::Flag(_) | Kind::Recovery(_) => continue,
        };
        assert_eq!(setting.set(&mut configuration, value), Ok(()), "{}", setting.key);
        assert_eq!(fields(&configuration), fields(&Configuration::default()), "{}", setting.key);
    }
}

#[test]
fn the_example_fits_a_terminal() {
    for line in example().lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
}

#[test]
fn operations_md_lists_every_key_with_its_bounds_and_its_default() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/operations.md")).unwrap();
    let rows: String = SETTINGS.iter().map(row).collect::<String>() + TOKEN_ROW;
    let table = page.split_once("| key | means | default |\n|---|---|---|\n").map(|(_, rest)| rest).unwrap();
    let table: String =
        table.lines().take_while(|line| line.starts_with('|')).map(|line| format!("{line}\n")).collect();
    assert!(table == rows, "the table of docs/operations.md should be:\n{rows}");
}

#[test]
fn values_are_written_as_people_write_them() {
    for (bytes, text) in [
        (1024, "1 KiB"),
        (786_432, "768 KiB"),
        (64 << 20, "64 MiB"),
        (1_000_000, "1 MB"),
        (1, "1 byte"),
        (1_500, "1,500 bytes"),
    ] {
        assert_eq!(written::size(bytes), text);
    }
    for (seconds, text) in [(15, "15s"), (90, "1m 30s"), (86_400, "1d"), (90 * 86_400, "90d")] {
        assert_eq!(written::time(Duration::from_secs(seconds)), text);
        assert_eq!(text.parse(), Ok(Span(Duration::from_secs(seconds))));
    }
    assert_eq!((written::count(65_536), written::count(9)), ("65,536".to_owned(), "9".to_owned()));
    assert_eq!((written::toml_count(65_536), written::toml_count(1024)), ("65_536".to_owned(), "1024".to_owned()));
}

fn row(setting: &Setting) -> String {
    let mut defaults = Configuration::default();
    let everything = || "everything is kept".to_owned();
    let default = match &setting.kind {
        Kind::Size { slot, .. } => slot(&mut defaults).value().map_or_else(everything, written::size),
        Kind::Count { slot, .. } => slot(&mut defaults).value().map_or_else(everything, written::count),
        Kind::Time { slot, .. } => slot(&mut defaults).value().map_or_else(everything, written::time),
        Kind::Text(slot) => format!("`{}`", slot(&mut defaults)),
        Kind::Origins(_) | Kind::File(_) => "none".to_owned(),
        Kind::Flag(slot) => slot(&mut defaults).to_string(),
        Kind::Recovery(slot) => written::recovery(*slot(&mut defaults)).to_owned(),
    };
    format!("| `{}` | {} | {default} |\n", setting.key, setting.meaning())
}

const TOKEN_ROW: &str = "| `[[auth.token]]` | `name`; `token` or `token_sha256`; patterns in `emit`, `subscribe`, \
                         `subscribers`; `expires` | no tokens |\n";
