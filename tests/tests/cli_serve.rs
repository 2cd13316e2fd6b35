//! `redeliver serve` as a person or a supervisor meets it: the ready line, clean ends, refusals in words.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;

use anyhow::Result;
use redeliver_tests::process::{Finished, Running, ServerProcess, redeliver, run};
use rustix::process::Signal;
use tempfile::TempDir;

#[test]
fn a_server_says_where_it_listens_and_ends_cleanly_at_either_signal() -> Result<()> {
    for signal in [Signal::TERM, Signal::INT] {
        let dir = TempDir::new()?;
        let mut command = redeliver(["serve", "--listen", "127.0.0.1:0", "--data"])?;
        command.arg(dir.path().join("data"));
        let mut server = Running::start(command)?;
        let ready = server.next_line()?;
        let port: u16 = ready.strip_prefix("redeliver listening on ws://127.0.0.1:").unwrap().parse()?;
        assert_ne!(port, 0, "the real port");
        server.signal(signal)?;
        let finished = server.finish()?;
        assert_eq!((finished.code(), finished.lines()), (Some(0), vec![ready.as_str()]), "{}", finished.stderr);
    }
    Ok(())
}

#[test]
fn a_server_ends_cleanly_while_clients_are_connected() -> Result<()> {
    let mut server = ServerProcess::start()?;
    server.run(&["emit", "t", "one"])?.succeeded()?;
    let mut listener = server.spawn(&["listen", "t", "--start", "earliest"])?;
    assert_eq!(listener.next_line()?, "one");
    let finished = server.terminate()?;
    assert_eq!(finished.code(), Some(0), "{}", finished.stderr);
    assert!(listener.is_running()?, "the listener waits for the server to come back");
    server.restart()?;
    server.run(&["emit", "t", "two"])?.succeeded()?;
    assert_eq!(listener.next_line()?, "two");
    Ok(())
}

#[test]
fn a_server_takes_as_many_file_descriptors_as_it_may() -> Result<()> {
    let dir = TempDir::new()?;
    let serve = redeliver(["serve", "--listen", "127.0.0.1:0", "--data"])?;
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -Sn 100 && ulimit -Hn 3000 && exec \"$0\" \"$@\""]);
    command.arg(serve.get_program()).args(serve.get_args()).arg(dir.path().join("data"));
    let mut server = Running::start(command)?;
    server.next_line()?;
    let limits = fs::read_to_string(format!("/proc/{}/limits", server.pid()))?;
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(files.split_whitespace().skip(3).take(2).collect::<Vec<_>>(), ["3000", "3000"]);
    server.signal(Signal::TERM)?;
    assert!(server.finish()?.stderr.contains("descriptors=3000"));
    Ok(())
}

#[test]
fn the_gateway_is_where_and_how_the_configuration_file_says() -> Result<()> {
    let dir = TempDir::new()?;
    let config = dir.path().join("config.toml");
    let keys =
        "path = \"/rt\"\nrecovery = \"off\"\nping_interval = \"7s\"\nping_timeout = \"9s\"\npayload_bytes = \"1 KiB\"";
    fs::write(&config, format!("[socketio]\n{keys}\n"))?;
    let server = ServerProcess::start_with(&["--config", config.to_str().unwrap()])?;
    let ask = |request: &str, body: &str| http(&server, request, body);
    assert_eq!(ask("GET /socket.io/?EIO=4&transport=polling", "")?.0, 404);
    let (status, opening) = ask("GET /rt/?EIO=4&transport=polling", "")?;
    let opening: serde_json::Value = serde_json::from_str(opening.strip_prefix('0').unwrap())?;
    assert_eq!((status, &opening["pingInterval"], &opening["pingTimeout"]), (200, &7000.into(), &9000.into()));
    assert_eq!(opening["maxPayload"], 1024);
    let session = format!("/rt/?EIO=4&transport=polling&sid={}", opening["sid"].as_str().unwrap());
    assert_eq!(ask(&format!("POST {session}"), "40")?, (200, "ok".to_owned()));
    let connected = ask(&format!("GET {session}"), "")?.1;
    let connected: serde_json::Value = serde_json::from_str(connected.strip_prefix("40").unwrap())?;
    assert_eq!(connected.as_object().unwrap().keys().collect::<Vec<_>>(), ["sid"], "no pid: there is no recovery");
    assert_eq!(ask(&format!("POST {session}"), &"4".repeat(1025))?.0, 413);
    Ok(())
}

#[test]
fn a_data_directory_has_one_server() -> Result<()> {
    let server = ServerProcess::start()?;
    let mut second = redeliver(["serve", "--listen", "127.0.0.1:0", "--data"])?;
    second.arg(server.data());
    refused(&run(second)?, &["in use"]);
    server.run(&["emit", "t", "still served"])?.succeeded()?;
    Ok(())
}

#[test]
fn a_port_has_one_server() -> Result<()> {
    let server = ServerProcess::start()?;
    let dir = TempDir::new()?;
    let mut second = redeliver(["serve", "--listen", server.url().strip_prefix("ws://").unwrap(), "--data"])?;
    second.arg(dir.path().join("data"));
    refused(&run(second)?, &["cannot listen on", "hint: another server runs there"]);
    assert!(!dir.path().join("data").exists(), "nothing was touched");
    Ok(())
}

#[test]
fn a_data_directory_that_lost_its_store_is_not_taken_for_a_new_one() -> Result<()> {
    let mut server = ServerProcess::start()?;
    server.run(&["emit", "t", "precious"])?.succeeded()?;
    server.terminate()?;
    fs::remove_dir_all(server.data().join("store"))?;
    refused(&run(server.serve_command()?)?, &["restore it from a backup"]);
    assert!(!server.data().join("store/db").exists(), "nothing was created in its place");
    Ok(())
}

#[test]
fn a_data_directory_of_a_newer_format_is_refused() -> Result<()> {
    let mut server = ServerProcess::start()?;
    server.terminate()?;
    let marker = server.data().join("redeliver.marker");
    let text = fs::read_to_string(&marker)?;
    let newer: String = text
        .lines()
        .map(|line| if line.starts_with("format ") { "format 99\n".to_owned() } else { format!("{line}\n") })
        .collect();
    assert_ne!(text, newer);
    fs::write(&marker, newer)?;
    refused(&run(server.serve_command()?)?, &["format 99", "newer redeliver"]);
    Ok(())
}

#[test]
fn a_data_directory_that_is_a_file_is_refused() -> Result<()> {
    let dir = TempDir::new()?;
    let file = dir.path().join("data");
    fs::write(&file, "something of the user's")?;
    let mut command = redeliver(["serve", "--listen", "127.0.0.1:0", "--data"])?;
    command.arg(&file);
    refused(&run(command)?, &["cannot be used"]);
    assert_eq!(fs::read_to_string(&file)?, "something of the user's");
    Ok(())
}

#[test]
fn listening_beyond_this_machine_without_authentication_must_be_asked_for() -> Result<()> {
    let dir = TempDir::new()?;
    let serve = |extra: &[&str]| {
        let mut command = redeliver(["serve", "--listen", "0.0.0.0:0", "--data"])?;
        command.arg(dir.path().join("data")).args(extra);
        anyhow::Ok(command)
    };
    refused(&run(serve(&[])?)?, &["without authentication", "--insecure"]);
    let mut server = Running::start(serve(&["--insecure"])?)?;
    assert!(server.next_line()?.starts_with("redeliver listening on ws://0.0.0.0:"));
    server.signal(Signal::TERM)?;
    assert_eq!(server.finish()?.code(), Some(0));

    let config = dir.path().join("config.toml");
    fs::write(&config, "[[auth.token]]\ntoken = \"0123456789abcdef0123456789abcdef\"\n")?;
    let mut server = Running::start(serve(&["--config", config.to_str().unwrap()])?)?;
    server.next_line()?;
    Ok(())
}

#[test]
fn a_configuration_file_is_taken_to_the_letter_and_flags_win_over_it() -> Result<()> {
    let dir = TempDir::new()?;
    let config = dir.path().join("config.toml");
    let in_file = dir.path().join("in-file");
    let serve = |extra: &[&str]| {
        let mut command = redeliver(["serve", "--config", config.to_str().unwrap()])?;
        command.args(extra);
        anyhow::Ok(command)
    };
    fs::write(&config, "[retention]\nage = \"30d\"\nbites = 5\n")?;
    refused(
        &run(serve(&[])?)?,
        &["line 3", "bites", "has age, bytes, count", "hint: `redeliver serve --example-config`"],
    );
    fs::write(&config, "[limits]\nevent_bytes = \"2 MiB\"\n")?;
    refused(
        &run(serve(&["--listen", "127.0.0.1:0"])?)?,
        &["line 2: limits.event_bytes must be at most 768 KiB, not 2 MiB"],
    );
    fs::remove_file(&config)?;
    refused(&run(serve(&[])?)?, &["config.toml cannot be read"]);

    fs::write(&config, format!("listen = \"127.0.0.1:0\"\ndata = {in_file:?}\n"))?;
    let mut server = Running::start(serve(&[])?)?;
    server.next_line()?;
    assert!(in_file.is_dir());
    let in_flag = dir.path().join("in-flag");
    let mut server = Running::start(serve(&["--data", in_flag.to_str().unwrap()])?)?;
    server.next_line()?;
    assert!(in_flag.is_dir());
    Ok(())
}

#[test]
fn a_token_opens_what_its_holder_may_do_and_nothing_else() -> Result<()> {
    let dir = TempDir::new()?;
    let config = dir.path().join("config.toml");
    let text = "[[auth.token]]\nname = \"billing\"\ntoken = \"0123456789abcdef0123456789abcdef\"\n\
                emit = [\"invoices/*\"]\nsubscribe = [\"invoices/*\", \"orders\"]\nsubscribers = [\"billing\"]\n";
    fs::write(&config, text)?;
    let server = ServerProcess::start_with(&["--config", config.to_str().unwrap()])?;
    let with_token = |token: &str, args: &[&str]| {
        let mut command = server.command(args)?;
        command.env("REDELIVER_TOKEN", token);
        run(command)
    };
    const TOKEN: &str = "0123456789abcdef0123456789abcdef";

    for token in ["", "0123456789abcdef0123456789abcdeg"] {
        let stranger = with_token(token, &["emit", "invoices/1", "x"])?;
        refused(&stranger, &["authentication was refused", "hint: give a valid token"]);
        refused(&with_token(token, &["listen", "invoices/1"])?, &["authentication was refused"]);
    }
    with_token(TOKEN, &["emit", "invoices/1", "x"])?.succeeded()?;
    refused(&with_token(TOKEN, &["emit", "orders", "x"])?, &["permission is missing"]);
    let listened = with_token(TOKEN, &["listen", "invoices/1", "--start", "earliest", "--until-caught-up"])?;
    assert_eq!(listened.succeeded()?.stdout, "x\n");
    refused(&with_token(TOKEN, &["listen", "secrets"])?, &["permission is missing"]);
    with_token(TOKEN, &["listen", "orders", "--as", "billing", "--until-caught-up"])?.succeeded()?;
    assert_eq!(with_token(TOKEN, &["listen", "orders", "--as", "alice", "--until-caught-up"])?.code(), Some(1));
    Ok(())
}

#[test]
fn help_and_version_are_there_and_nonsense_is_wrong_usage() -> Result<()> {
    for args in [&["--help"][..], &["help", "serve"], &["serve", "--help"], &["emit", "--help"], &["listen", "--help"]]
    {
        let help = run(redeliver(args)?)?.succeeded()?;
        assert!(help.stdout.contains("redeliver") && help.stdout.contains("Exit codes:"), "{args:?}: {}", help.stdout);
    }
    assert!(run(redeliver(["--version"])?)?.succeeded()?.stdout.starts_with("redeliver 0."));
    let none: [&str; 0] = [];
    assert_eq!(run(redeliver(none)?)?.code(), Some(2));
    assert_eq!(run(redeliver(["serve", "--lisen", "x"])?)?.code(), Some(2));
    Ok(())
}

fn refused(finished: &Finished, words: &[&str]) {
    assert_eq!(finished.code(), Some(1), "{finished:?}");
    assert!(finished.stderr.starts_with("error: ") || finished.stderr.contains("\nerror: "), "{finished:?}");
    for words in words {
        assert!(finished.stderr.contains(words), "`{words}` is not in {finished:?}");
    }
    assert!(!finished.stdout.contains("listening"), "{finished:?}");
}

/// The status and the body of an answer.
fn http(server: &ServerProcess, request: &str, body: &str) -> Result<(u16, String)> {
    let mut wire = TcpStream::connect(server.url().strip_prefix("ws://").unwrap())?;
    let length = body.len();
    write!(wire, "{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}")?;
    let mut answer = String::new();
    wire.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    Ok((head.split(' ').nth(1).unwrap().parse()?, body.to_owned()))
}
