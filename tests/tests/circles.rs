//! Holds the files of each crate free of circles: what imports what is a floor plan, and one can read it from the bottom up.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

use redeliver_tests::imports::ImportGraph;

/// Circles that are, each with its reason. One that is gone must leave the list.
const CIRCLES: &[Circle] = &[
    Circle {
        folder: "crates/client/src",
        files: &["builder", "client", "subscribe", "subscription"],
        reason: "handles: a builder makes a client, which makes subscriptions, which hold it",
    },
    Circle {
        folder: "crates/client/src",
        files: &["cursor_store", "cursor_store/file", "error"],
        reason: "a store's error names the key that the store defines",
    },
    Circle {
        folder: "crates/server/src",
        files: &["builder", "in_process", "local", "local/driver", "publisher", "server"],
        reason: "handles: a builder makes a server, which makes what is within the process, which holds it",
    },
    Circle {
        folder: "crates/sim/src",
        files: &["client", "client/rows", "faults", "server", "server/writer", "world"],
        reason: "one world: each file holds what one part of it does",
    },
    Circle {
        folder: "crates/socketio/src",
        files: &["acks", "args", "error"],
        reason: "an app's errors name its arguments, which fail with them",
    },
    Circle {
        folder: "crates/socketio/src",
        files: &["broadcast", "handlers", "members", "namespace", "socket"],
        reason: "handles: a socket names its namespace, a namespace its sockets",
    },
];

struct Circle {
    folder: &'static str,
    files: &'static [&'static str],
    #[expect(dead_code, reason = "for people")]
    reason: &'static str,
}

#[test]
fn the_files_of_a_crate_import_each_other_in_no_circle_but_those_with_a_reason() {
    let mut problems = Vec::new();
    for folder in folders() {
        let graph = ImportGraph::read(&root().join(&folder)).unwrap();
        let found = graph.circles();
        let named: Vec<&[&str]> =
            CIRCLES.iter().filter(|circle| circle.folder == folder).map(|circle| circle.files).collect();
        for circle in &found {
            if !named.iter().any(|files| is(files, circle)) {
                let imports = |file: &String| {
                    let within: Vec<_> =
                        graph.imports(file).into_iter().filter(|other| circle.contains(other)).collect();
                    format!("    {file} imports {}", within.join(", "))
                };
                let lines: Vec<String> = circle.iter().map(imports).collect();
                problems.push(format!("{folder}: a circle of {circle:?}:\n{}", lines.join("\n")));
            }
        }
        for files in named {
            if !found.iter().any(|circle| is(files, circle)) {
                problems.push(format!("{folder}: {files:?} is no circle any more: take it off the list"));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

fn is(files: &[&str], circle: &[String]) -> bool {
    files.iter().eq(circle.iter())
}

/// The `src` folders of all packages.
fn folders() -> Vec<String> {
    let mut folders = vec!["tests/src".to_owned(), "benches/src".to_owned()];
    for entry in std::fs::read_dir(root().join("crates")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        folders.push(format!("crates/{name}/src"));
    }
    folders.sort();
    folders
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}
