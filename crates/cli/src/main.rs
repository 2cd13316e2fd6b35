//! redeliver, the program: `serve`, `emit`, `listen`, `bench`. Reads the command line, starts a runtime, tells how it ended.

mod access;
mod args;
mod bench;
mod config_file;
mod emit;
mod exit;
mod lines;
mod listen;
mod output;
mod payload;
mod remote;
mod serve;
mod settings;
mod stop;
mod tally;
mod units;

use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::args::{Cli, Command};
use crate::exit::Exit;
use crate::stop::Stop;

fn main() -> ExitCode {
    let exit = run(Cli::parse()).unwrap_or_else(|error| exit::report(&error, &mut std::io::stderr()));
    ExitCode::from(exit.code())
}

fn run(cli: Cli) -> Result<Exit> {
    start_logging(&cli)?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime could be started")?;
    let ended = runtime.block_on(async {
        let stop = Stop::on_signals()?;
        match cli.command {
            Command::Serve(args) => serve::run(args, stop).await,
            Command::Emit(args) => emit::run(args, stop).await,
            Command::Listen(args) => listen::run(args, stop).await,
            Command::Bench(args) => bench::run(args, stop).await,
        }
    });
    // Nothing that still runs matters any more.
    runtime.shutdown_background();
    ended
}

/// A server tells what it does; a client only what is asked for, since stderr is where it speaks to people.
fn start_logging(cli: &Cli) -> Result<()> {
    let default = match cli.command {
        Command::Serve(_) => "info",
        Command::Emit(_) | Command::Listen(_) | Command::Bench(_) => "off",
    };
    let filter = cli.log.as_deref().filter(|filter| !filter.is_empty()).unwrap_or(default);
    let filter = EnvFilter::try_new(filter).with_context(|| format!("--log `{filter}` is not a filter"))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .try_init()
        .map_err(|error| anyhow!("logging cannot be started: {error}"))
}
