//! Holds the docs against the code: codes, paths, rooms, words, and the width of lines.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Words that are ours, or that mean something of their own here: each has a row in the glossary of docs/architecture.md.
const OUR_WORDS: &[&str] = &[
    "event",
    "topic",
    "log",
    "seq",
    "nth",
    "epoch",
    "lineage",
    "position",
    "place",
    "subscription",
    "subscriber",
    "cursor",
    "ack",
    "window",
    "gap",
    "skip",
    "publisher",
    "outbox",
    "receipt",
    "durable",
    "volatile",
    "after",
    "hub",
    "wake",
    "commit",
    "tail",
    "fold",
    "run",
    "floor",
    "trim",
    "journal",
    "feed",
    "gateway",
    "session",
    "shell",
    "redelivery mark",
    "merged",
    "except list",
    "state",
];

/// Names that rooms once had and that nobody could guess.
const RIDDLES: &[&str] = &[
    "desk", "herald", "errands", "company", "mailbox", "shelf", "roster", "gather", "keeper", "flight", "door", "tend",
    "rounds",
];

#[test]
fn the_page_of_the_protocol_has_every_code_and_no_other() {
    let source = read("crates/protocol/src/error.rs");
    let page = read("docs/protocol.md");
    let codes = page.split("\n## ").find(|section| section.lines().next().unwrap().ends_with("Codes")).unwrap();
    let tables: Vec<&str> = codes.split("\n|---").collect();
    assert_eq!(tables.len(), 3, "one table of close codes, and one of refusal codes");
    for (name, table) in [("CloseCode", tables[1]), ("RefusalCode", tables[2])] {
        let (known, told) = (codes_of(&source, name), codes_in(table));
        assert!(known.len() > 10, "{name}: {known:?}");
        assert_eq!(known, told, "{name}: the code has the left ones, docs/protocol.md the right ones");
    }
}

/// The codes of one table in protocol/src/error.rs, each as `number Name`: the page writes `TooLarge` for `TOO_LARGE`.
fn codes_of(source: &str, name: &str) -> BTreeSet<String> {
    let start = source.find(&format!("    {name} {{\n")).unwrap_or_else(|| panic!("no table {name}"));
    let rows = source[start..].lines().skip(1).take_while(|line| *line != "    }");
    let rows = rows.filter(|line| !line.trim_start().starts_with("//"));
    let code = |row: &str| {
        let (name, rest) = row.trim().split_once(" = ")?;
        let words = name.split('_').map(|word| word[..1].to_owned() + &word[1..].to_lowercase());
        Some(format!("{} {}", rest.split(',').next()?, words.collect::<String>()))
    };
    rows.filter_map(code).collect()
}

fn codes_in(table: &str) -> BTreeSet<String> {
    let words: Vec<&str> = table.split_whitespace().collect();
    let is_number = |word: &str| word.len() == 3 && word.bytes().all(|byte| byte.is_ascii_digit());
    words.windows(2).filter(|pair| is_number(pair[0])).map(|pair| pair.join(" ")).collect()
}

#[test]
fn every_file_that_a_page_names_exists() {
    let mut missing = Vec::new();
    let mut named = 0;
    for page in pages() {
        let text = read(&page);
        for (line, quoted) in quoted(&text) {
            for path in written_out(&quoted) {
                if is_path(&path) {
                    named += 1;
                    if !exists(&path) {
                        missing.push(format!("{page}:{line} names {path}"));
                    }
                }
            }
        }
    }
    assert!(named > 20, "only {named} paths were found");
    assert!(missing.is_empty(), "there is no such file:\n{}", missing.join("\n"));
}

#[test]
fn every_link_to_another_page_leads_somewhere() {
    for page in pages() {
        let text = read(&page);
        let folder = root().join(&page).parent().unwrap().to_owned();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            if !target.is_empty() && !target.contains("://") {
                assert!(folder.join(target).exists(), "{page} leads to {target}");
            }
        }
    }
}

#[test]
fn every_crate_has_its_row_among_the_rooms() {
    let page = read("docs/architecture.md");
    let rooms = page.split("\n## ").find(|section| section.starts_with("The rooms")).unwrap();
    for entry in fs::read_dir(root().join("crates")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(rooms.contains(&format!("crates/{name} ")), "docs/architecture.md, The rooms: no row for {name}");
        let imports = format!("`{name} →");
        let has_imports = rooms.contains(&imports) || ["protocol", "websocket"].contains(&name.as_str());
        assert!(has_imports, "docs/architecture.md, The rooms: whom may {name} import?");
    }
}

#[test]
fn every_word_that_is_ours_has_a_row_in_the_glossary() {
    let page = read("docs/architecture.md");
    let glossary = page.split("\n## ").find(|section| section.starts_with("Vocabulary")).unwrap();
    let rows: BTreeSet<&str> =
        glossary.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next()).collect();
    let missing: Vec<_> = OUR_WORDS.iter().filter(|word| !rows.contains(**word)).collect();
    assert!(missing.is_empty(), "docs/architecture.md, Vocabulary: no row for {missing:?}");
}

#[test]
fn no_room_is_named_by_a_riddle() {
    for file in files(&root().join("crates"), "rs") {
        let name = file.file_stem().unwrap().to_str().unwrap();
        let riddle = RIDDLES.iter().find(|riddle| **riddle == name);
        assert_eq!(riddle, None, "{}: a room is named by the field's word for it", file.display());
    }
}

#[test]
fn lines_of_the_docs_are_no_longer_than_120_characters() {
    for page in pages() {
        let mut in_block = false;
        for (at, line) in read(&page).lines().enumerate() {
            in_block ^= line.trim_start().starts_with("```");
            // A row of a table, a line of code and a link cannot be broken.
            let is_breakable = !in_block && !line.starts_with('|') && !line.contains("](");
            let chars = line.chars().count();
            assert!(!is_breakable || chars <= 120, "{page}:{} has {chars} characters", at + 1);
        }
    }
}

/// All pages for people.
fn pages() -> Vec<String> {
    let mut pages: Vec<String> = ["README.md", "CONTRIBUTING.md", "SECURITY.md"].map(str::to_owned).to_vec();
    pages.extend(files(&root().join("docs"), "md").iter().map(|file| relative(file)));
    pages.sort();
    pages
}

/// What stands between backticks, outside of blocks of code, with its line.
fn quoted(text: &str) -> Vec<(usize, String)> {
    let (mut found, mut in_block) = (Vec::new(), false);
    for (at, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        } else if !in_block {
            found.extend(line.split('`').skip(1).step_by(2).map(|quoted| (at + 1, quoted.to_owned())));
        }
    }
    found
}

/// `a/{b,c}.rs` as `a/b.rs` and `a/c.rs`.
fn written_out(path: &str) -> Vec<String> {
    let Some((before, rest)) = path.split_once('{') else { return vec![path.to_owned()] };
    let Some((names, after)) = rest.split_once('}') else { return vec![path.to_owned()] };
    names.split(',').map(|name| format!("{before}{}{after}", name.trim())).collect()
}

/// Whether this is meant as a path within the repository.
fn is_path(text: &str) -> bool {
    let is_clean = text.chars().all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c));
    let starts = ["crates/", "tests/", "benches/", "docs/"].iter().any(|start| text.starts_with(start));
    is_clean
        && !text.starts_with("docs/engine.io-protocol")
        && !text.starts_with("docs/socket.io-protocol")
        && text.contains('/')
        && (starts || text.contains("/src/") || text.ends_with(".rs"))
}

/// Pages leave `crates/` and a crate's `src` out where it is plain what is meant.
fn exists(path: &str) -> bool {
    let mut places = vec![root().join(path), root().join("crates").join(path)];
    if let Some((name, rest)) = path.split_once('/') {
        places.push(root().join("crates").join(name).join("src").join(rest));
    }
    places.iter().any(|place| place.exists())
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let (mut files, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                files.push(path);
            }
        }
    }
    files
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}
