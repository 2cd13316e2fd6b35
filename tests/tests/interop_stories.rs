//! Stock Socket.IO clients, in JavaScript and Python, and a real browser, against real servers. The stories themselves are in
//! `tests/interop`; what cannot run here says so.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use anyhow::Result;
use redeliver_tests::process::ServerProcess;
use redeliver_tests::story::{ExampleProcess, Runner, allow_many_files, tell};

#[test]
fn engine_io_is_spoken_as_its_protocol_says() -> Result<()> {
    tell(Runner::Node, "engineio.mjs", &mut ExampleProcess::start("engineio_conformance")?)
}

#[test]
fn abandoned_handshakes_and_upgrades_leave_nothing() -> Result<()> {
    tell(Runner::Node, "abandoned.mjs", &mut ExampleProcess::start("engineio_conformance")?)
}

#[test]
fn socket_io_is_spoken_as_its_protocol_says_and_hostile_packets_close() -> Result<()> {
    tell(Runner::Node, "socketio.mjs", &mut ExampleProcess::start("socketio_conformance")?)
}

#[test]
fn the_js_client_works_by_polling_by_websocket_and_by_upgrade() -> Result<()> {
    tell(Runner::Node, "transports.mjs", &mut ServerProcess::start()?)
}

#[test]
fn the_js_client_misses_nothing_whatever_cuts_it() -> Result<()> {
    tell(Runner::Node, "recovery.mjs", &mut ServerProcess::start()?)
}

#[test]
fn a_thousand_js_clients_miss_nothing_when_the_server_is_killed() -> Result<()> {
    allow_many_files()?;
    tell(Runner::Node, "crash.mjs", &mut ServerProcess::start()?)
}

#[test]
fn native_clients_and_js_clients_share_topics() -> Result<()> {
    tell(Runner::Node, "bridge.mjs", &mut ServerProcess::start()?)
}

#[test]
fn an_apps_rooms_acks_namespaces_and_refusals_work_for_the_js_client() -> Result<()> {
    tell(Runner::Node, "app.mjs", &mut ExampleProcess::start("interop_server")?)
}

#[test]
fn the_python_client_works_with_handlers_of_fixed_arity() -> Result<()> {
    tell(Runner::Python, "standalone.py", &mut ServerProcess::start()?)
}

#[test]
fn an_apps_rooms_acks_namespaces_and_refusals_work_for_the_python_client() -> Result<()> {
    tell(Runner::Python, "app.py", &mut ExampleProcess::start("interop_server")?)
}

#[test]
fn the_page_shows_what_was_missed_in_a_real_browser() -> Result<()> {
    tell(Runner::Browser, "page.mjs", &mut ServerProcess::start()?)
}
