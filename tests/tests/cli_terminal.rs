//! The program among shells, pipes and files: what is typed wrong, streams that are closed, payloads that others cannot read.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use anyhow::{Context, Result};
use redeliver_tests::process::{PATIENCE, Running, ServerProcess, free_port, redeliver, run, run_with_input};
use rustix::process::Signal;
use serde_json::Value;

#[test]
fn a_payload_before_its_topic_is_refused_with_the_right_order() -> Result<()> {
    let server = ServerProcess::start()?;
    let exchanged = server.run(&["emit", "order 1", "orders"])?;
    assert_eq!((exchanged.code(), exchanged.stdout.as_str()), (Some(2), ""));
    assert!(exchanged.stderr.contains("hint: redeliver emit orders 'order 1'"), "{}", exchanged.stderr);
    let meant = run_with_input(server.command(&["emit", "order 1", "-"])?, b"orders")?.succeeded()?;
    assert_eq!(meant.stdout, "emitted 1 event, seq 1..1\n", "nothing was stored before");
    Ok(())
}

#[test]
fn the_words_of_other_tools_are_wrong_usage_with_a_hint() -> Result<()> {
    for (args, hint) in [
        (&["pub", "orders", "x"][..], "hint: events are sent with `redeliver emit TOPIC DATA`"),
        (&["serve", "--port", "7400"], "hint: where to listen is one flag: `--listen 127.0.0.1:7400`"),
        (&["listen", "orders", "-n", "5"], "hint: `--start -10` begins with the last 10 events"),
    ] {
        let wrong = run(redeliver(args)?)?;
        assert_eq!(wrong.code(), Some(2), "{wrong:?}");
        assert!(wrong.stderr.contains(hint), "{args:?}: {}", wrong.stderr);
    }
    Ok(())
}

#[test]
fn the_example_of_a_configuration_file_starts_a_server_once_its_tokens_are_replaced() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let config = dir.path().join("redeliver.toml");
    let example = run(redeliver(["serve", "--example-config"])?)?.succeeded()?.stdout;
    fs::write(&config, &example)?;
    let mut serve = redeliver(["serve", "--listen", "127.0.0.1:0", "--config"])?;
    serve.arg(&config).arg("--data").arg(dir.path().join("data"));
    let as_it_is = run(serve)?;
    assert_eq!(as_it_is.code(), Some(1), "{as_it_is:?}");
    assert!(as_it_is.stderr.contains("`billing` is the one of the example"), "{}", as_it_is.stderr);

    let (settings, _) = example.split_once("[[auth.token]]").context("the example has tokens")?;
    fs::write(&config, settings)?;
    let mut server = ServerProcess::start_with(&["--config", config.to_str().unwrap()])?;
    server.run(&["emit", "t", "x"])?.succeeded()?;
    assert_eq!(server.terminate()?.code(), Some(0));
    Ok(())
}

#[test]
fn settings_that_would_delete_everything_or_match_nothing_do_not_start_a_server() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let config = dir.path().join("config.toml");
    for (text, words) in [
        ("[retention]\ncount = 0\n", "retention.count must be at least 1, not 0; leave it out to keep everything"),
        ("[retention]\nage = \"0s\"\n", "retention.age must be at least 1s, not 0s"),
        ("[limits]\nconnections = 0\n", "limits.connections must be at least 1"),
        ("allowed_origins = [\"app.example.com\"]\n", "as in https://app.example.com"),
        ("allowed_origins = [\"https://*.example.com\"]\n", "which no browser sends"),
    ] {
        fs::write(&config, text)?;
        let mut serve = redeliver(["serve", "--listen", "127.0.0.1:0", "--config"])?;
        serve.arg(&config).arg("--data").arg(dir.path().join("data"));
        let refused = run(serve)?;
        assert_eq!(refused.code(), Some(1), "{text}: {refused:?}");
        assert!(refused.stderr.contains(words), "{text}: {}", refused.stderr);
    }
    assert!(!dir.path().join("data").exists());
    Ok(())
}

#[test]
fn a_server_whose_logs_nobody_reads_any_more_serves_and_ends_as_ever() -> Result<()> {
    let dir = tempfile::tempdir()?;
    for filter in ["info", "debug"] {
        // The reader of its stderr ends as soon as it has begun.
        let script =
            "mkfifo \"$1\" && (: < \"$1\") & until [ -p \"$1\" ]; do :; done; fifo=$1; shift; exec \"$@\" 2> \"$fifo\"";
        let serve = redeliver(["serve", "--listen", "127.0.0.1:0", "--log", filter, "--data"])?;
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]).arg(dir.path().join(format!("{filter}.fifo")));
        command.arg(serve.get_program()).args(serve.get_args()).arg(dir.path().join(filter));
        command.env_remove("RUST_LOG").stdin(Stdio::null());
        let mut server = Running::start(command)?;
        let ready = server.next_line()?;
        let url = ready.strip_prefix("redeliver listening on ").unwrap();
        for event in ["one", "two"] {
            run(redeliver(["emit", "t", event, "--url", url])?)?.succeeded()?;
        }
        server.signal(Signal::TERM)?;
        assert_eq!(server.finish()?.code(), Some(0), "--log {filter}");
    }
    Ok(())
}

#[test]
fn a_listener_without_events_ends_when_its_reader_goes() -> Result<()> {
    let server = ServerProcess::start()?;
    server.run(&["emit", "t", "one"])?.succeeded()?;
    let mut command = server.command(&["listen", "t", "--start", "earliest"])?;
    let mut listener = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let mut line = String::new();
    BufReader::new(listener.stdout.take().unwrap()).read_line(&mut line)?;
    assert_eq!(line, "one\n");
    assert_eq!(ended(listener)?.code(), Some(0));
    Ok(())
}

#[test]
fn a_durable_listener_with_a_closed_stdout_acknowledges_nothing() -> Result<()> {
    let server = ServerProcess::start()?;
    server.run(&["emit", "t", "one"])?.succeeded()?;
    let listen = server.command(&["listen", "t", "--as", "alice", "--start", "earliest", "--until-caught-up"])?;
    let mut blind = Command::new("sh");
    blind.args(["-c", "exec \"$0\" \"$@\" >&-"]).arg(listen.get_program()).args(listen.get_args());
    let refused = run(blind)?;
    assert_eq!(refused.code(), Some(1), "{refused:?}");
    assert!(refused.stderr.contains("error: stdout is closed"), "{}", refused.stderr);
    assert_eq!(run(listen)?.succeeded()?.stdout, "one\n");
    Ok(())
}

#[test]
fn one_signal_ends_an_emitter_that_waits_for_the_writer_of_a_named_pipe() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let pipe = dir.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status()?.success());
    let url = format!("ws://127.0.0.1:{}", free_port()?);
    let mut emitter = Running::start(redeliver(["emit", "t", "--lines", pipe.to_str().unwrap(), "--url", &url])?)?;
    emitter.wait_for_stderr("cannot be reached")?;
    emitter.signal(Signal::INT)?;
    assert_eq!(emitter.finish()?.code(), Some(130));
    Ok(())
}

#[test]
fn a_file_that_ends_with_a_line_feed_is_json_all_the_same() -> Result<()> {
    let server = ServerProcess::start()?;
    run_with_input(server.command(&["emit", "t", "-"])?, b"{\n  \"id\": 7\n}\n")?.succeeded()?;
    run_with_input(server.command(&["emit", "t", "--lines"])?, b"{\"id\":8}\r\n")?.succeeded()?;
    let all = ["listen", "t", "--start", "earliest", "--until-caught-up"];
    let plain = server.run(&all)?.succeeded()?;
    assert_eq!(plain.stdout, "{\n  \"id\": 7\n}\n\n{\"id\":8}\r\n", "byte for byte, as ever");
    let shown = server.run(&[&all[..], &["--format", "json"]].concat())?.succeeded()?;
    let ids: Vec<_> = shown.lines().iter().map(|line| json(line)["payload"]["id"].clone()).collect();
    assert_eq!(ids, [7, 8]);
    Ok(())
}

#[test]
fn repeating_the_command_ends_once_the_operator_has_raised_the_limit() -> Result<()> {
    const PUBLISHER: &str = "6c1c3d0e-7a6e-4b0e-9d55-0f2f3f0a1b2c";
    let dir = tempfile::tempdir()?;
    let config = dir.path().join("config.toml");
    fs::write(&config, "[limits]\nevent_bytes = \"1 KiB\"\n")?;
    let mut server = ServerProcess::start_with(&["--config", config.to_str().unwrap()])?;
    let input = format!("1\n2\n{}\n4\n5\n", "x".repeat(2_000));
    let emit = |server: &ServerProcess| {
        run_with_input(server.command(&["emit", "t", "--lines", "--publisher", PUBLISHER])?, input.as_bytes())
    };
    let refused = emit(&server)?;
    assert_eq!(refused.code(), Some(1), "{refused:?}");
    for words in ["error: line 3: ", "have 2008 bytes", "raise `limits.event_bytes`"] {
        assert!(refused.stderr.contains(words), "{words}: {}", refused.stderr);
    }
    fs::write(&config, "[limits]\nevent_bytes = \"4 KiB\"\n")?;
    server.restart()?;
    emit(&server)?.succeeded()?;
    let listened = server.run(&["listen", "t", "--start", "earliest", "--until-caught-up"])?.succeeded()?;
    let mut lines = listened.lines();
    lines.sort_unstable();
    assert_eq!(lines, ["1", "2", "4", "5", "x".repeat(2_000).as_str()]);
    Ok(())
}

#[test]
fn a_seq_that_does_not_exist_yet_is_waited_for() -> Result<()> {
    let server = ServerProcess::start()?;
    let emit = |number: &str| server.run(&["emit", "t", number])?.succeeded();
    for number in ["1", "2", "3"] {
        emit(number)?;
    }
    let mut listener = server.spawn(&["listen", "t", "--start", "5"])?;
    let (url, is_there) = (server.url(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        // What is volatile reaches it as soon as it follows the topic.
        scope.spawn(|| {
            while !is_there.load(Ordering::Relaxed) {
                let _ = redeliver(["emit", "t", "hello", "--volatile", "--url", &url]).and_then(run);
            }
        });
        let line = listener.next_line();
        is_there.store(true, Ordering::Relaxed);
        line
    })?;
    for number in ["4", "5"] {
        emit(number)?;
    }
    let line = loop {
        let line = listener.next_line()?;
        if line != "hello" {
            break line;
        }
    };
    assert_eq!(line, "5");
    Ok(())
}

#[test]
fn every_line_of_json_can_be_read_whatever_was_emitted() -> Result<()> {
    let server = ServerProcess::start()?;
    let deep = format!("{}{}", "[".repeat(5_000), "]".repeat(5_000));
    let payloads = [r#"{"a":"\ud800"}"#, r#"["\udc00 \ud800"]"#, deep.as_str(), r#"{"a":1e999}"#, "[\"\u{7f}\u{9b}\"]"];
    for payload in payloads {
        run_with_input(server.command(&["emit", "t", "-"])?, payload.as_bytes())?.succeeded()?;
    }
    let shown =
        server.run(&["listen", "t", "--start", "earliest", "--until-caught-up", "--format", "json"])?.succeeded()?;
    let lines = shown.lines();
    assert_eq!(lines.len(), payloads.len());
    for (line, payload) in lines.iter().zip(payloads).take(3) {
        assert_eq!(json(line)["payload"], payload, "shown as the text that it is");
    }
    assert!(lines[3].contains("\"payload\":{\"a\":1e999}"), "{}", lines[3]);
    assert_eq!(json(lines[4])["payload"], serde_json::json!(["\u{7f}\u{9b}"]));
    Ok(())
}

fn json(line: &str) -> Value {
    serde_json::from_str(line).unwrap()
}

/// How a child ended, if it does in time.
fn ended(mut child: Child) -> Result<ExitStatus> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(child.wait()));
    Ok(receiver.recv_timeout(PATIENCE).context("it does not end")??)
}
