//! `redeliver emit` and `redeliver listen` against a real server: what goes in comes out, and every end is an honest one.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use anyhow::Result;
use redeliver_tests::process::{Finished, Running, ServerProcess, free_port, redeliver, run, run_with_input};
use rustix::process::Signal;
use serde_json::Value;

const ID: &str = "6c1c3d0e-7a6e-4b0e-9d55-0f2f3f0a1b2c";

#[test]
fn an_event_is_emitted_with_its_name_and_type_and_listened_to_as_it_is() -> Result<()> {
    let server = ServerProcess::start()?;
    let emitted = server.run(&["emit", "orders", "{\"id\": 7}", "--name", "created"])?.succeeded()?;
    assert_eq!(emitted.stdout, "emitted 1 event, seq 1..1\n");
    server.run(&["emit", "orders", "tea \u{2615}"])?.succeeded()?;
    server.run(&["emit", "other", "elsewhere"])?.succeeded()?;
    server.run(&["emit", "orders", "", "--type", "bytes"])?.succeeded()?;
    let from_stdin = run_with_input(server.command(&["emit", "orders", "-"])?, b"two\nlines\xff\n")?.succeeded()?;
    assert_eq!(from_stdin.stdout, "emitted 1 event, seq 5..5\n");

    let all = ["listen", "orders", "--start", "earliest", "--until-caught-up"];
    let plain = server.run(&all)?.succeeded()?;
    assert_eq!(
        plain.stdout_bytes,
        "{\"id\": 7}\ntea \u{2615}\n\ntwo\nlines".bytes().chain(*b"\xff\n\n").collect::<Vec<_>>()
    );
    let lines = json_lines(&server.run(&[&all[..], &["--format", "json"]].concat())?.succeeded()?);
    let numbers: Vec<_> =
        lines.iter().map(|line| (line["seq"].as_u64().unwrap(), line["nth"].as_u64().unwrap())).collect();
    assert_eq!(numbers, [(1, 1), (2, 2), (4, 3), (5, 4)]);
    assert_eq!(lines[0]["payload"], serde_json::json!({"id": 7}));
    assert_eq!(lines[0]["name"], "created");
    assert_eq!((&lines[1]["payload"], &lines[1]["name"]), (&Value::from("tea \u{2615}"), &Value::from("message")));
    assert_eq!(lines[2]["payload"], serde_json::json!({"base64": ""}));
    assert_eq!(lines[3]["payload"], serde_json::json!({"base64": "dHdvCmxpbmVz/wo="}));
    for line in &lines {
        assert_eq!((&line["topic"], &line["redelivered"]), (&Value::from("orders"), &Value::from(false)));
        assert!(line["time"].as_str().unwrap().ends_with('Z'));
    }
    Ok(())
}

#[test]
fn lines_come_out_byte_for_byte_as_they_went_in() -> Result<()> {
    let server = ServerProcess::start()?;
    let input = b"first\n\n{\"a\":1}\nwith return\r\n\xff\xfe\nlast without end";
    let file = server.folder().join("input");
    fs::write(&file, input)?;
    let emitted = server.run(&["emit", "t", "--lines", file.to_str().unwrap()])?.succeeded()?;
    assert_eq!(emitted.stdout, "emitted 6 events, seq 1..6\n");
    let emitted = run_with_input(server.command(&["emit", "t", "--lines"])?, input)?.succeeded()?;
    assert_eq!(emitted.stdout, "emitted 6 events, seq 7..12\n");
    let listened = server.run(&["listen", "t", "--start", "earliest", "--count", "12"])?.succeeded()?;
    assert_eq!(listened.stdout_bytes, [&input[..], b"\n", &input[..], b"\n"].concat());
    let nothing = run_with_input(server.command(&["emit", "t", "--lines"])?, b"")?.succeeded()?;
    assert_eq!(nothing.stdout, "emitted 0 events\n");
    Ok(())
}

#[test]
fn volatile_events_reach_who_listens_now_and_leave_no_trace() -> Result<()> {
    let server = ServerProcess::start()?;
    server.run(&["emit", "t", "stored"])?.succeeded()?;
    let mut listener = server.spawn(&["listen", "t", "--start", "earliest", "--format", "json"])?;
    assert!(listener.next_line()?.contains("\"seq\":1"));
    let sent =
        run_with_input(server.command(&["emit", "t", "--volatile", "--name", "typing", "--lines"])?, b"ann\n{}\n")?;
    assert_eq!(sent.succeeded()?.stdout, "sent 2 volatile events\n");
    for payload in [Value::from("ann"), serde_json::json!({})] {
        let line: Value = serde_json::from_str(&listener.next_line()?)?;
        assert_eq!((&line["volatile"], &line["name"]), (&Value::from(true), &Value::from("typing")));
        assert_eq!(line["payload"], payload);
        assert_eq!(line.get("seq"), None);
    }
    let later = server.run(&["listen", "t", "--start", "earliest", "--until-caught-up"])?.succeeded()?;
    assert_eq!(later.stdout, "stored\n");
    let nobody = free_port()?;
    let url = format!("ws://127.0.0.1:{nobody}");
    let alone = run(redeliver(["emit", "t", "x", "--volatile", "--url", &url, "--timeout", "1s"])?)?;
    assert_eq!((alone.code(), alone.stdout.as_str()), (Some(4), "sent 0 volatile events\n"));
    Ok(())
}

#[test]
fn several_topics_are_listened_to_in_the_order_of_the_log() -> Result<()> {
    let mut server = ServerProcess::start()?;
    for number in 1..=12 {
        server.run(&["emit", ["a", "b", "c"][number * number % 3], &number.to_string()])?.succeeded()?;
    }
    let merged = ["listen", "--merged", "b", "a", "b", "--as", "audit", "--format", "json"];
    let first = server.run(&[&merged[..], &["--start", "earliest", "--count", "5"]].concat())?.succeeded()?;
    server.kill()?;
    server.launch()?;
    let second = server.run(&[&merged[..], &["--until-caught-up"]].concat())?.succeeded()?;
    let lines = [json_lines(&first), json_lines(&second)].concat();
    let seqs: Vec<_> = lines.iter().map(|line| line["seq"].as_u64().unwrap()).collect();
    // Squares are 0 or 1 modulo 3.
    assert_eq!(seqs, (1..=12).collect::<Vec<_>>());
    Ok(())
}

#[test]
fn the_same_input_again_under_the_same_publisher_stores_nothing_twice() -> Result<()> {
    let mut server = ServerProcess::start()?;
    let emit = |server: &ServerProcess, input: &str| {
        run_with_input(server.command(&["emit", "t", "--lines", "--publisher", ID])?, input.as_bytes())
    };
    assert_eq!(emit(&server, "a\nb\n")?.succeeded()?.stdout, "emitted 2 events, seq 1..2\n");
    assert_eq!(emit(&server, "a\nb\n")?.succeeded()?.stdout, "emitted 2 events, seq 1..2, 2 already stored\n");
    server.restart()?;
    assert_eq!(emit(&server, "a\nb\nc\n")?.succeeded()?.stdout, "emitted 3 events, seq 1..3, 2 already stored\n");
    let differs = emit(&server, "a\nB\nc\nd\n")?;
    assert_eq!(differs.code(), Some(1));
    assert!(differs.stderr.contains("error: line 2: ") && differs.stderr.contains("hint: "), "{differs:?}");
    let listened = server.run(&["listen", "t", "--start", "earliest", "--until-caught-up"])?.succeeded()?;
    assert_eq!(listened.lines()[..3], ["a", "b", "c"]);
    assert!(!listened.stdout.contains('B'));
    Ok(())
}

#[test]
fn input_that_cannot_be_sent_is_named_by_its_line_and_what_came_before_is_stored() -> Result<()> {
    let server = ServerProcess::start()?;
    let long = format!("one\ntwo\n{}\nfour\n", "x".repeat(800_000));
    let emitted = run_with_input(server.command(&["emit", "t", "--lines"])?, long.as_bytes())?;
    assert_eq!((emitted.code(), emitted.stdout.as_str()), (Some(1), "emitted 2 events, seq 1..2\n"));
    assert!(emitted.stderr.contains("error: line 3 is longer than"), "{}", emitted.stderr);

    let over_the_limit = format!("three\n{}\n", "x".repeat(300_000));
    let emitted = run_with_input(server.command(&["emit", "t", "--lines"])?, over_the_limit.as_bytes())?;
    assert_eq!((emitted.code(), emitted.stdout.as_str()), (Some(1), "emitted 1 event, seq 3..3\n"));
    assert!(
        emitted.stderr.contains("error: line 2: ") && emitted.stderr.contains("larger than the server allows"),
        "{}",
        emitted.stderr
    );

    let emitted = run_with_input(server.command(&["emit", "t", "--lines", "--type", "json"])?, b"1\n{oops\n")?;
    assert_eq!(emitted.code(), Some(1));
    assert!(emitted.stderr.contains("error: line 2: it is not JSON"), "{}", emitted.stderr);
    assert_eq!(run(server.command(&["emit", "t", "--lines", "/no/such/file"])?)?.code(), Some(1));
    Ok(())
}

#[test]
fn a_start_that_is_still_to_come_is_waited_for() -> Result<()> {
    let server = ServerProcess::start()?;
    let mut listener = server.spawn(&["listen", "t", "--start", "30", "--count", "1"])?;
    // It subscribes somewhere on the way.
    for number in 1..=60 {
        server.run(&["emit", "t", &number.to_string()])?.succeeded()?;
    }
    assert_eq!(listener.next_line()?, "30");
    listener.finish()?.succeeded()?;
    Ok(())
}

#[test]
fn a_start_is_where_listening_starts() -> Result<()> {
    let server = ServerProcess::start()?;
    run_with_input(server.command(&["emit", "t", "--lines"])?, b"1\n2\n3\n4\n5\n")?.succeeded()?;
    for (start, expected) in [
        ("earliest", "1\n2\n3\n4\n5\n"),
        ("latest", ""),
        ("-2", "4\n5\n"),
        ("4", "4\n5\n"),
        ("0", "1\n2\n3\n4\n5\n"),
        ("1h", "1\n2\n3\n4\n5\n"),
    ] {
        let listened = server.run(&["listen", "t", "--start", start, "--until-caught-up"])?.succeeded()?;
        assert_eq!(listened.stdout, expected, "--start {start}");
    }
    let listened = server.run(&["listen", "t", "--start", "2", "--count", "2"])?.succeeded()?;
    assert_eq!(listened.stdout, "2\n3\n");
    let nameless = server.run(&["listen", "t", "--start", "resume"])?;
    assert_eq!(nameless.code(), Some(2), "{nameless:?}");
    Ok(())
}

#[test]
fn several_topics_are_counted_together() -> Result<()> {
    let server = ServerProcess::start()?;
    for topic in ["a", "b", "c"] {
        server.run(&["emit", topic, topic])?.succeeded()?;
    }
    let both = server.run(&["listen", "a", "b", "--start", "earliest", "--until-caught-up"])?.succeeded()?;
    let mut lines = both.lines();
    lines.sort_unstable();
    assert_eq!(lines, ["a", "b"]);
    let two = server.run(&["listen", "a", "b", "c", "a", "--start", "earliest", "--count", "2"])?.succeeded()?;
    assert_eq!(two.lines().len(), 2);
    Ok(())
}

#[test]
fn a_name_gets_what_it_missed_once_and_nothing_else() -> Result<()> {
    let mut server = ServerProcess::start()?;
    server.run(&["emit", "t", "before its time"])?.succeeded()?;
    let visit = |server: &ServerProcess, extra: &[&str]| -> Result<Vec<Value>> {
        let args = [&["listen", "t", "--as", "alice", "--format", "json"], extra].concat();
        Ok(json_lines(&server.run(&args)?.succeeded()?))
    };
    let new = visit(&server, &["--until-caught-up"])?;
    assert_eq!(payloads(&new), ["before its time"], "a new name starts with the earliest event");
    run_with_input(server.command(&["emit", "t", "--lines"])?, b"2\n3\n4\n5\n")?.succeeded()?;
    server.restart()?;

    let first = visit(&server, &["--count", "1"])?;
    assert_eq!(payloads(&first), ["2"]);
    let rest = visit(&server, &["--until-caught-up"])?;
    assert_eq!(payloads(&rest), ["3", "4", "5"]);
    assert!(first.iter().chain(&rest).all(|line| line["redelivered"] == false), "nothing was killed: {rest:?}");
    assert!(visit(&server, &["--until-caught-up"])?.is_empty());
    assert_eq!(
        payloads(&visit(&server, &["--rewind", "-2", "--until-caught-up"])?),
        ["4", "5"],
        "unless it is asked for"
    );
    let started = visit(&server, &["--start", "earliest", "--until-caught-up"])?;
    assert!(started.is_empty(), "a start is the first one: {started:?}");
    let late = server.run(&["listen", "t", "--as", "bob", "--start", "latest", "--until-caught-up"])?.succeeded()?;
    assert_eq!(late.stdout, "");
    Ok(())
}

#[test]
fn a_listener_that_is_asked_to_end_has_its_acks_confirmed() -> Result<()> {
    let server = ServerProcess::start()?;
    for (signal, start, text) in [(Signal::INT, "earliest", "one"), (Signal::TERM, "resume", "two")] {
        server.run(&["emit", "t", text])?.succeeded()?;
        let mut listener = server.spawn(&["listen", "t", "--as", "alice", "--start", start])?;
        assert_eq!(listener.next_line()?, text);
        listener.signal(signal)?;
        let finished = listener.finish()?;
        assert_eq!((finished.code(), finished.stderr.as_str()), (Some(0), ""));
        let again = server.run(&["listen", "t", "--as", "alice", "--until-caught-up"])?.succeeded()?;
        assert_eq!(again.stdout, "", "what was printed is not printed again");
    }
    Ok(())
}

#[test]
fn a_second_listener_of_a_name_takes_over_and_the_first_says_so() -> Result<()> {
    let server = ServerProcess::start()?;
    server.run(&["emit", "t", "one"])?.succeeded()?;
    let mut first = server.spawn(&["listen", "t", "--as", "alice", "--start", "earliest"])?;
    assert_eq!(first.next_line()?, "one");
    let mut second = server.spawn(&["listen", "t", "--as", "alice"])?;
    let first = first.finish()?;
    assert_eq!(first.code(), Some(3), "{first:?}");
    assert!(first.stderr.contains("error: another listener has taken `alice` over"), "{}", first.stderr);
    server.run(&["emit", "t", "two"])?.succeeded()?;
    let line = second.next_line()?;
    // What the first had printed but not had confirmed may come again.
    assert_eq!(if line == "one" { second.next_line()? } else { line }, "two");
    Ok(())
}

#[test]
fn a_listener_whose_reader_goes_ends_quietly() -> Result<()> {
    let server = ServerProcess::start()?;
    let input: String = (0..20_000).map(|i| format!("line {i}\n")).collect();
    run_with_input(server.command(&["emit", "t", "--lines"])?, input.as_bytes())?.succeeded()?;
    let mut command = server.command(&["listen", "t", "--start", "earliest"])?;
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::with_capacity(16, child.stdout.take().unwrap()).read_line(&mut line)?;
    assert_eq!(line, "line 0\n");
    let ended = child.wait_with_output()?;
    assert_eq!((ended.status.code(), ended.stderr.as_slice()), (Some(0), &b""[..]));
    Ok(())
}

#[test]
fn events_that_retention_took_from_a_sleeping_name_are_one_exact_gap() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let config = dir.path().join("config.toml");
    fs::write(&config, "[retention]\ncount = 10\n")?;
    let server = ServerProcess::start_with(&["--config", config.to_str().unwrap()])?;
    server.run(&["emit", "t", "seen"])?.succeeded()?;
    server.run(&["listen", "t", "--as", "alice", "--start", "earliest", "--count", "1"])?.succeeded()?;
    let input: String = (2..=1_000).map(|i| format!("{i}\n")).collect();
    run_with_input(server.command(&["emit", "t", "--lines"])?, input.as_bytes())?.succeeded()?;
    // Trimming is the server's business in the background: look until it is through.
    let oldest = loop {
        let kept = json_lines(
            &server
                .run(&["listen", "t", "--start", "earliest", "--until-caught-up", "--format", "json"])?
                .succeeded()?,
        );
        let oldest = kept.iter().find_map(|line| line["seq"].as_u64()).unwrap();
        if oldest >= 900 {
            break oldest;
        }
    };
    let resume = ["listen", "t", "--as", "alice", "--until-caught-up", "--format", "json"];
    let lines = json_lines(&server.run(&resume)?.succeeded()?);
    let gaps: Vec<_> = lines.iter().filter(|line| line.get("gap").is_some()).collect();
    let gap = &gaps[0]["gap"];
    assert_eq!(gaps.len(), 1, "{lines:?}");
    let first = lines.iter().find_map(|line| line["seq"].as_u64()).unwrap();
    assert!(first >= oldest);
    assert_eq!(
        gap,
        &serde_json::json!({"topic": "t", "after": 1, "through": first - 1, "count": first - 2, "exact": true, "cause": "retention_size"})
    );
    assert_eq!(lines[0], *gaps[0], "the gap stands where the events would");
    assert_eq!(
        json_lines(&server.run(&resume)?.succeeded()?),
        Vec::<Value>::new(),
        "a gap that was printed is dealt with"
    );
    Ok(())
}

#[test]
fn a_gap_beside_plain_lines_is_a_warning() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut server = ServerProcess::start()?;
    server.run(&["emit", "t", "seen"])?.succeeded()?;
    server.run(&["listen", "t", "--as", "alice", "--start", "earliest", "--count", "1"])?.succeeded()?;
    // The cursor's server is wiped: the name's place belongs to a log that is gone, and so does the name. A client that
    // lives through it is told.
    let mut listener = server.spawn(&["listen", "t", "--start", "earliest"])?;
    assert_eq!(listener.next_line()?, "seen");
    server.kill()?;
    fs::rename(server.data(), dir.path().join("old"))?;
    server.restart()?;
    listener.wait_for_stderr("warning: t: ")?;
    server.run(&["emit", "t", "new"])?.succeeded()?;
    assert_eq!(listener.next_line()?, "new");
    Ok(())
}

#[test]
fn an_emitter_without_a_server_waits_and_ends_honestly_when_its_time_is_over() -> Result<()> {
    let url = format!("ws://127.0.0.1:{}", free_port()?);
    let finished =
        run_with_input(redeliver(["emit", "t", "--lines", "--timeout", "300ms", "--url", &url])?, b"a\nb\n")?;
    assert_eq!((finished.code(), finished.stdout.as_str()), (Some(4), "emitted 0 events\n"));
    assert!(finished.stderr.contains("cannot be reached"), "{}", finished.stderr);
    assert!(finished.stderr.contains("0 events are acknowledged, nothing else is stored"), "{}", finished.stderr);
    assert!(finished.stderr.contains("--publisher "), "{}", finished.stderr);
    let nonsense = run(redeliver(["emit", "t", "x", "--url", "http://127.0.0.1:1"])?)?;
    assert_eq!(nonsense.code(), Some(1));
    assert!(nonsense.stderr.contains("hint: give --url"), "{}", nonsense.stderr);
    Ok(())
}

#[test]
fn an_emitter_waits_for_a_server_that_starts_later() -> Result<()> {
    let mut server = ServerProcess::start()?;
    server.kill()?;
    let mut emitter = server.spawn(&["emit", "t", "patience"])?;
    emitter.wait_for_stderr("cannot be reached")?;
    server.restart()?;
    assert_eq!(emitter.finish()?.succeeded()?.stdout, "emitted 1 event, seq 1..1\n");
    Ok(())
}

#[test]
fn an_emitter_that_is_interrupted_says_how_far_it_came_and_can_go_on_from_there() -> Result<()> {
    let server = ServerProcess::start()?;
    server.run(&["emit", "t", "ready"])?.succeeded()?;
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let mut listener = server.spawn(&["listen", "t", "--start", "-1"])?;
        listener.next_line()?;
        let mut command = server.command(&["emit", "t", "--lines"])?;
        command.stdin(Stdio::piped());
        let mut emitter = Running::start(command)?;
        // Its stdin stays open, so it has no other reason to end.
        emitter.write(b"one\ntwo\n")?;
        while listener.next_line()? != "two" {}
        emitter.signal(signal)?;
        let finished = emitter.finish()?;
        assert_eq!(finished.code(), Some(code), "{finished:?}");
        assert!(finished.stdout.starts_with("emitted 2 events, seq "), "{finished:?}");
        assert!(
            finished.stderr.contains("interrupted: 2 events are acknowledged, nothing else is stored"),
            "{}",
            finished.stderr
        );
    }
    Ok(())
}

fn json_lines(finished: &Finished) -> Vec<Value> {
    finished.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn payloads(lines: &[Value]) -> Vec<&str> {
    lines.iter().map(|line| line["payload"].as_str().unwrap()).collect()
}
