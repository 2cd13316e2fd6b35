//! Holds the house's plan: who may import whom, where engines may be named, how files are laid out (docs/architecture.md).
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};
use redeliver_tests::needs::Need;

/// Package, and the workspace's own packages that it may depend on.
const IMPORTS: &[(&str, &[&str])] = &[
    ("redeliver-protocol", &[]),
    ("redeliver-log", &["redeliver-protocol"]),
    ("redeliver-websocket", &[]),
    ("redeliver-server", &["redeliver-log", "redeliver-protocol", "redeliver-websocket"]),
    ("redeliver-client", &["redeliver-protocol"]),
    ("redeliver-socketio", &["redeliver-protocol", "redeliver-server", "redeliver-websocket"]),
    ("redeliver-cli", &["redeliver-client", "redeliver-server", "redeliver-socketio"]),
    ("redeliver-sim", &["redeliver-log", "redeliver-protocol"]),
    ("redeliver-testing", &["redeliver-server"]),
];

/// Packages that may import anything, and that nobody may import.
const OUTSIDE: &[&str] = &["redeliver-tests", "redeliver-benches"];

/// All that the pure core may depend on.
const PROTOCOL_IMPORTS: &[&str] = &["bincode", "bytes", "serde", "serde_bytes", "serde_json", "thiserror", "uuid"];

/// Files over the length at which a file wants to be two, each with its reason.
const LONG_FILES: &[(&str, &str)] = &[];

const LINES_MAX: usize = 600;

#[test]
fn packages_import_only_whom_they_may() {
    for package in &workspace().packages {
        let name = package.name.as_str();
        let own: BTreeSet<&str> =
            normal_dependencies(package).into_iter().filter(|name| name.starts_with("redeliver-")).collect();
        if OUTSIDE.contains(&name) {
            continue;
        }
        let (_, allowed) = IMPORTS
            .iter()
            .find(|(known, _)| *known == name)
            .unwrap_or_else(|| panic!("{name} is new: give it its place in docs/architecture.md and in this list"));
        let forbidden: Vec<_> = own.iter().filter(|import| !allowed.contains(import)).collect();
        assert!(forbidden.is_empty(), "{name} must not import {forbidden:?}");
    }
}

#[test]
fn server_and_client_do_not_import_each_other_even_in_tests() {
    for package in &workspace().packages {
        let other = match package.name.as_str() {
            "redeliver-server" => "redeliver-client",
            "redeliver-client" => "redeliver-server",
            _ => continue,
        };
        assert!(
            package.dependencies.iter().all(|dependency| dependency.name != other),
            "{} imports {other}",
            package.name
        );
    }
}

#[test]
fn the_protocol_depends_on_nothing_that_could_do_io() {
    let metadata = workspace();
    let protocol = metadata.packages.iter().find(|package| package.name.as_str() == "redeliver-protocol").unwrap();
    let imports: BTreeSet<&str> = normal_dependencies(protocol).into_iter().collect();
    let allowed: BTreeSet<&str> = PROTOCOL_IMPORTS.iter().copied().collect();
    assert!(imports.is_subset(&allowed), "not allowed: {:?}", imports.difference(&allowed));
    let uuid = protocol.dependencies.iter().find(|dependency| dependency.name == "uuid").unwrap();
    assert!(!uuid.uses_default_features && !uuid.features.contains(&"v4".to_owned()), "uuid must bring no randomness");
}

#[test]
fn the_protocol_builds_where_there_is_no_operating_system() {
    const TARGET: &str = "wasm32-unknown-unknown";
    if let Some(why) = Need::Wasm.missing() {
        println!("SKIPPED: {why}");
        return;
    }
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--package", "redeliver-protocol", "--target", TARGET, "--target-dir"])
        .arg(root().join("target/wasm"))
        .current_dir(root())
        .status()
        .unwrap();
    assert!(built.success(), "the protocol no longer builds for {TARGET}");
}

#[test]
fn bincode_is_named_in_one_file_and_sled_in_one_module() {
    for file in rust_files(&["crates"]) {
        let path = relative(&file);
        for (line, code) in code_lines(&file) {
            let names = |name: &str| names_crate(&code, name);
            if names("bincode") && path != "crates/protocol/src/codec.rs" {
                panic!("{path}:{line} names bincode: only protocol/src/codec.rs may");
            }
            if names("sled") && path != "crates/log/src/kv/sled.rs" && !path.starts_with("crates/log/src/kv/sled/") {
                panic!("{path}:{line} names sled: only log/src/kv/sled.rs may");
            }
        }
    }
}

#[test]
fn the_test_knows_a_crate_from_a_module_of_the_same_name() {
    for code in [
        "use sled::Db;",
        "let db = sled::open(path)?;",
        "Err(sled::Error::Io(error))",
        "use ::sled::Db;",
        "extern crate sled;",
    ] {
        assert!(names_crate(code, "sled"), "{code}");
    }
    for code in ["pub mod sled;", "use crate::kv::sled::SledKv;", "let kv = kv::sled::SledKv::open()?;", "unsled::x()"]
    {
        assert!(!names_crate(code, "sled"), "{code}");
    }
}

#[test]
fn files_are_laid_out_as_agreed() {
    for file in rust_files(&["crates", "tests", "benches"]) {
        let path = relative(&file);
        let name = file.file_stem().unwrap().to_str().unwrap();
        assert!(name != "mod", "{path}: write foo.rs beside foo/");
        assert!(!["common", "utils", "util", "helpers", "manager"].contains(&name), "{path}: say what it is for");
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("//"), "{path}: a file opens with what it is");
        let lines = text.lines().count();
        let excused = LONG_FILES.iter().any(|(long, _)| *long == path);
        assert!(lines <= LINES_MAX || excused, "{path} has {lines} lines: split it, or give the reason in LONG_FILES");
    }
}

#[test]
fn no_test_is_switched_off() {
    // Put together here, so that this file does not find itself.
    let ignore = ["#[", "ignore"].concat();
    for file in rust_files(&["crates", "tests", "benches"]) {
        let found = code_lines(&file).into_iter().find(|(_, code)| code.contains(&ignore));
        assert_eq!(found, None, "{}: a test that does not run is no test", relative(&file));
    }
}

fn workspace() -> Metadata {
    MetadataCommand::new().no_deps().current_dir(root()).exec().unwrap()
}

fn normal_dependencies(package: &cargo_metadata::Package) -> Vec<&str> {
    let normal = |dependency: &&cargo_metadata::Dependency| dependency.kind == DependencyKind::Normal;
    package.dependencies.iter().filter(normal).map(|dependency| dependency.name.as_str()).collect()
}

/// Whether code names a crate, by `name::` at the front of a path or by `extern crate`.
fn names_crate(code: &str, name: &str) -> bool {
    if code.contains(&format!("extern crate {name}")) || code.contains(&format!(" ::{name}::")) {
        return true;
    }
    let path = format!("{name}::");
    code.match_indices(&path).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
    })
}

/// Lines that are not comments, with their numbers.
fn code_lines(file: &Path) -> Vec<(usize, String)> {
    let text = std::fs::read_to_string(file).unwrap();
    let numbered = text.lines().enumerate().map(|(i, line)| (i + 1, line.trim().to_owned()));
    numbered.filter(|(_, line)| !line.starts_with("//")).collect()
}

fn rust_files(folders: &[&str]) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders: Vec<PathBuf> = folders.iter().map(|folder| root().join(folder)).collect();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    assert!(files.len() > 10, "the workspace was not found");
    files
}

fn relative(file: &Path) -> String {
    file.strip_prefix(root()).unwrap().to_str().unwrap().replace('\\', "/")
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}
