//! Which files of a crate import which, read from their `use` lines and paths. Reads sources as text: what a macro writes
//! is not seen.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};

/// A module's path within its crate, `log/read`; the root is empty.
pub type Module = String;

/// The files of a crate, and for each those that it imports.
///
/// A file's own parents are left out: they declare it, and that a child names what its parent defines is the rule, not a
/// circle. Unit tests at the end of a file do not count either.
#[derive(Clone, Debug, Default)]
pub struct ImportGraph {
    sources: BTreeMap<Module, Source>,
}

#[derive(Clone, Debug)]
struct Source {
    /// The paths of its `use` lines.
    uses: Vec<String>,
    /// Other paths in it that begin with `crate`, `self` or `super`.
    paths: Vec<String>,
}

impl ImportGraph {
    /// Reads a crate's `src` folder. Programs in `src/bin` are crates of their own, and left out.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub fn read(src: &Path) -> Result<ImportGraph> {
        let mut graph = ImportGraph::default();
        let mut folders = vec![src.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
                let path = entry?.path();
                let name = path.strip_prefix(src)?.with_extension("");
                let name = name.to_str().context("a name that is no UTF-8")?.to_owned();
                if path.is_dir() && name != "bin" {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let text = std::fs::read_to_string(&path)?;
                    // A library's root stands before its program's.
                    match name.as_str() {
                        "main" if src.join("lib.rs").exists() => {}
                        "lib" | "main" => graph.add("", &text),
                        _ => graph.add(&name, &text),
                    }
                }
            }
        }
        Ok(graph)
    }

    /// Adds a file.
    pub fn add(&mut self, module: &str, text: &str) {
        let code = without_comments_and_tests(text);
        let (uses, rest) = use_lines(&code);
        self.sources.insert(module.to_owned(), Source { uses, paths: paths(&rest) });
    }

    /// All files.
    pub fn modules(&self) -> impl Iterator<Item = &Module> {
        self.sources.keys()
    }

    /// The files that a file imports, without its own parents.
    #[must_use]
    pub fn imports(&self, module: &str) -> BTreeSet<Module> {
        let Some(source) = self.sources.get(module) else { return BTreeSet::new() };
        let paths = source.uses.iter().chain(&source.paths);
        let found = paths.filter_map(|path| self.find(module, path, 0));
        found.filter(|found| found != module && !is_parent(found, module)).collect()
    }

    /// The circles: groups of files that all lead to each other. Each is sorted.
    #[must_use]
    pub fn circles(&self) -> Vec<Vec<Module>> {
        let reached: BTreeMap<&Module, BTreeSet<Module>> =
            self.sources.keys().map(|module| (module, self.reached_from(module))).collect();
        let mut circles = BTreeSet::new();
        for (module, reach) in &reached {
            if reach.contains(*module) {
                let members = reach.iter().filter(|other| reached[other].contains(*module));
                circles.insert(members.cloned().collect::<Vec<_>>());
            }
        }
        circles.into_iter().collect()
    }

    fn reached_from(&self, module: &str) -> BTreeSet<Module> {
        let (mut reached, mut left) = (BTreeSet::new(), vec![module.to_owned()]);
        while let Some(next) = left.pop() {
            for import in self.imports(&next) {
                if reached.insert(import.clone()) {
                    left.push(import);
                }
            }
        }
        reached
    }

    /// The file in which the path that a file writes is defined; `None` if it is of another crate.
    fn find(&self, from: &str, path: &str, depth: u32) -> Option<Module> {
        let mut segments = path.split("::").peekable();
        let mut at: Vec<&str> = from.split('/').filter(|name| !name.is_empty()).collect();
        match *segments.peek()? {
            "crate" => {
                segments.next();
                at.clear();
            }
            "self" => {
                segments.next();
            }
            "super" => {
                while segments.next_if_eq(&"super").is_some() {
                    at.pop();
                }
            }
            first if self.sources.contains_key(&joined(&at, first)) => {}
            _ => return None,
        }
        while let Some(name) = segments.next_if(|name| self.sources.contains_key(&joined(&at, name))) {
            at.push(name);
        }
        match (at.is_empty(), segments.next()) {
            // What the root only passes on is defined elsewhere.
            (true, Some(name)) if depth < PASSED_ON_MAX => {
                let passed = self.sources.get("")?.uses.iter().find(|used| used.rsplit("::").next() == Some(name));
                passed.and_then(|used| self.find("", used, depth + 1)).or(Some(Module::new()))
            }
            _ => Some(at.join("/")),
        }
    }
}

fn joined(parents: &[&str], name: &str) -> Module {
    parents.iter().copied().chain([name]).collect::<Vec<_>>().join("/")
}

fn is_parent(parent: &str, module: &str) -> bool {
    parent.is_empty() || module.strip_prefix(parent).is_some_and(|rest| rest.starts_with('/'))
}

fn without_comments_and_tests(text: &str) -> String {
    let code = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or(text);
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// The paths of all `use` lines, and the code without them.
fn use_lines(code: &str) -> (Vec<String>, String) {
    let (mut uses, mut rest) = (Vec::new(), String::new());
    let mut lines = code.lines();
    while let Some(line) = lines.next() {
        let start = line.trim_start();
        let bare = start.strip_prefix("pub").map_or(start, |after| {
            let after = after.trim_start();
            after
                .strip_prefix('(')
                .and_then(|inside| inside.split_once(')'))
                .map_or(after, |(_, after)| after.trim_start())
        });
        let Some(tree) = bare.strip_prefix("use ") else {
            rest.push_str(line);
            rest.push('\n');
            continue;
        };
        let mut tree = tree.to_owned();
        while !tree.contains(';') {
            let Some(more) = lines.next() else { break };
            tree.push_str(more.trim());
            tree.push(' ');
        }
        expand("", tree.split(';').next().unwrap_or_default(), &mut uses);
    }
    (uses, rest)
}

/// Writes out a `use` tree as single paths, without their other names.
fn expand(prefix: &str, tree: &str, paths: &mut Vec<String>) {
    let tree = tree.trim();
    let Some((head, branches)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap_or(tree).trim();
        if !path.is_empty() {
            paths.push(format!("{prefix}{path}"));
        }
        return;
    };
    let branches = branches.trim_end().strip_suffix('}').unwrap_or(branches);
    let (mut depth, mut from) = (0_u32, 0);
    for (at, letter) in branches.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                expand(&format!("{prefix}{head}"), &branches[from..at], paths);
                from = at + 1;
            }
            _ => {}
        }
    }
    expand(&format!("{prefix}{head}"), &branches[from..], paths);
}

/// Paths in code that begin with `crate`, `self` or `super`.
fn paths(code: &str) -> Vec<String> {
    let is_path = |letter: char| letter.is_alphanumeric() || letter == '_' || letter == ':';
    let words = code.split(|letter: char| !is_path(letter));
    let own = words.filter(|word| ["crate::", "self::", "super::"].iter().any(|start| word.starts_with(start)));
    own.map(|word| word.trim_end_matches(':').to_owned()).collect()
}

/// How often a root may pass a name on from itself.
const PASSED_ON_MAX: u32 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(files: &[(&str, &str)]) -> ImportGraph {
        let mut graph = ImportGraph::default();
        files.iter().for_each(|(module, text)| graph.add(module, text));
        graph
    }

    #[test]
    fn every_way_to_name_a_file_is_found() {
        for text in [
            "use crate::b::Thing;",
            "pub(crate) use crate::b::Thing as Other;",
            "use crate::{b::{Thing, Else}, c};",
            "use crate::{\n    c,\n    b::Thing,\n};",
            "fn f(x: &crate::b::Thing) {}",
            "use super::b;",
            "use crate::Thing;",
        ] {
            let graph = graph(&[("", "mod a;\npub use self::b::Thing;"), ("a", text), ("b", ""), ("c", "")]);
            assert!(graph.imports("a").contains("b"), "{text}: {:?}", graph.imports("a"));
        }
    }

    #[test]
    fn comments_tests_parents_and_other_crates_do_not_count() {
        let text = "//! See [`crate::b`].\nuse std::b::Thing;\nuse super::Root;\n\n#[cfg(test)]\nmod tests {\n    use crate::b;\n}";
        let graph = graph(&[("", ""), ("a", text), ("a/c", "use super::X;\nuse crate::a::Y;"), ("b", "")]);
        assert!(graph.imports("a").is_empty(), "{:?}", graph.imports("a"));
        assert!(graph.imports("a/c").is_empty(), "{:?}", graph.imports("a/c"));
    }

    #[test]
    fn a_circle_is_found_with_all_who_are_in_it_and_nobody_else() {
        let files = [
            ("", "mod a;"),
            ("a", "use crate::b;"),
            ("b", "use self::inner::X;"),
            ("b/inner", "use crate::c::Y;"),
            ("c", "use crate::a::Z;\nuse crate::d;"),
            ("d", ""),
            ("e", "use crate::a;"),
        ];
        assert_eq!(graph(&files).circles(), [["a", "b", "b/inner", "c"]]);
        assert!(graph(&files[..4]).circles().is_empty());
    }
}
