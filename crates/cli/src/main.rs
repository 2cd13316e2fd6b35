//! redeliver, the program: `serve`, `emit`, `listen`, `bench`. Reads the command line, starts a runtime, tells how it ended.

mod access;
mod args;
mod bench;
mod config_file;
mod emit;
mod escape;
mod exit;
mod hints;
mod lines;
mod listen;
mod logging;
mod output;
mod payload;
mod reload;
mod remote;
mod serve;
mod settings;
mod stdout;
mod stop;
mod tally;
mod units;

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;

use crate::args::{Cli, Command};
use crate::exit::Exit;
use crate::stop::Stop;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refused(&error),
    };
    let exit = run(cli).unwrap_or_else(|error| exit::report(&error, &mut std::io::stderr()));
    ExitCode::from(exit.code())
}

/// Shows what clap has to say, which may be the help that was asked for.
fn refused(error: &clap::Error) -> ExitCode {
    // Nothing can be done about an stdout or stderr that is closed.
    let _ = error.print();
    let command = std::env::args().nth(1);
    if let Some(hint) = hints::hint(error, command.as_deref()) {
        let _ = writeln!(std::io::stderr(), "\nhint: {hint}");
    }
    ExitCode::from(if error.use_stderr() { Exit::Usage.code() } else { Exit::Success.code() })
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

/// A server logs what it does. A client logs only what is asked for, since stderr is where it speaks to people.
fn start_logging(cli: &Cli) -> Result<()> {
    let default = match cli.command {
        Command::Serve(_) => "info",
        Command::Emit(_) | Command::Listen(_) | Command::Bench(_) => "off",
    };
    logging::start(cli.log.as_deref().filter(|filter| !filter.is_empty()).unwrap_or(default))
}
