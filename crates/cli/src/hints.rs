//! Hints for people who know other tools: what their words and flags are called here. Only looks at what clap has refused.

use clap::error::{ContextKind, ContextValue, Error, ErrorKind};

/// Returns what to type instead, if that is known.
pub(crate) fn hint(error: &Error, command: Option<&str>) -> Option<&'static str> {
    if error.kind() == ErrorKind::InvalidSubcommand {
        return for_command(text(error, ContextKind::InvalidSubcommand)?);
    }
    if error.kind() == ErrorKind::UnknownArgument {
        let argument = text(error, ContextKind::InvalidArg)?;
        return for_flag(argument.split('=').next().unwrap_or(argument), command);
    }
    None
}

fn text(error: &Error, kind: ContextKind) -> Option<&str> {
    if let ContextValue::String(text) = error.get(kind)? { Some(text) } else { None }
}

fn for_command(word: &str) -> Option<&'static str> {
    Some(match word.to_ascii_lowercase().as_str() {
        "pub" | "publish" | "send" | "produce" | "producer" | "post" | "add" | "xadd" => {
            "events are sent with `redeliver emit TOPIC DATA`"
        }
        "sub" | "subscribe" | "tail" | "consume" | "consumer" | "read" | "get" | "watch" | "follow" | "xread" => {
            "events are read with `redeliver listen TOPIC`"
        }
        "start" | "run" | "server" | "up" | "daemon" => "a server is started with `redeliver serve`",
        "benchmark" | "perf" => "a server is measured with `redeliver bench`",
        "ls" | "list" | "topics" | "topic" | "status" | "info" | "stats" | "subscribers" | "consumers" => {
            "there is no such list yet; `redeliver listen TOPIC --start earliest --until-caught-up` prints what a topic has"
        }
        _ => return None,
    })
}

fn for_flag(flag: &str, command: Option<&str>) -> Option<&'static str> {
    let is = |name: &str| command == Some(name);
    Some(match flag {
        "--port" | "-p" | "--host" | "--bind" | "--addr" | "--address" if is("serve") => {
            "where to listen is one flag: `--listen 127.0.0.1:7400`"
        }
        "--dir" | "--data-dir" | "-d" if is("serve") => "the data directory is `--data DIR`",
        "--port" | "-p" | "--host" | "--server" | "-s" | "-h" | "--addr" | "--address" | "-u" => {
            "the server is `--url ws://HOST:PORT`, or REDELIVER_URL"
        }
        "--from" | "--since" | "--offset" | "--from-beginning" | "--all" | "--after" if is("listen") => {
            "where to begin is `--start`: earliest, latest, a seq (100), the last N (-10) or a time back (1h)"
        }
        "-n" | "--lines" | "--limit" | "--max" if is("listen") => {
            "`--start -10` begins with the last 10 events, `--count 10` ends after 10"
        }
        "-f" | "--follow" | "--tail" | "--watch" if is("listen") => {
            "`listen` goes on by itself; `--until-caught-up` ends it"
        }
        "--group" | "-g" | "--durable" | "--consumer" | "--name" | "--id" if is("listen") => {
            "a durable name is `--as SUBSCRIBER`"
        }
        "-o" | "--output" | "--json" if is("listen") => "the output is `--format json` or `--format lines`",
        "--topic" | "-t" => "the topic has no flag: `redeliver emit TOPIC DATA`, `redeliver listen TOPIC`",
        "--payload" | "--message" | "-m" | "--data" | "--body" if is("emit") => {
            "the payload has no flag: `redeliver emit TOPIC DATA`"
        }
        "-l" | "--file" | "-f" | "--stdin" if is("emit") => {
            "`--lines [FILE]` sends each line, `-` as DATA sends all of stdin"
        }
        "--event" | "-e" | "--subject" if is("emit") => "the event's name is `--name`",
        "-v" | "--verbose" | "--debug" | "-d" => "what is logged is `--log debug`",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Cli;
    use clap::Parser;

    fn hint_for(line: &str) -> Option<&'static str> {
        let words: Vec<&str> = line.split(' ').collect();
        let error = Cli::try_parse_from(std::iter::once("redeliver").chain(words.iter().copied())).unwrap_err();
        hint(&error, words.first().copied())
    }

    #[test]
    fn the_words_of_other_tools_are_answered_with_ours() {
        for (line, words) in [
            ("pub orders x", "redeliver emit"),
            ("sub orders", "redeliver listen"),
            ("tail orders", "redeliver listen"),
            ("topics", "no such list"),
            ("status", "no such list"),
            ("serve --port 7400", "--listen"),
            ("serve --port=7400", "--listen"),
            ("emit orders x --port 7400", "--url"),
            ("listen orders --from earliest", "--start"),
            ("listen orders --since 1h", "--start"),
            ("listen orders -n 5", "--count"),
            ("listen orders -f", "--until-caught-up"),
            ("listen orders --group g", "--as"),
        ] {
            assert!(hint_for(line).is_some_and(|hint| hint.contains(words)), "{line}: {:?}", hint_for(line));
        }
        assert_eq!(hint_for("listen orders --frobnicate"), None);
        assert_eq!(hint_for("listen orders --count 0"), None);
    }
}
