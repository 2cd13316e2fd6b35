//! `redeliver emit --volatile`: hands events to whoever listens now. Never says more of them than that they were sent.

use std::io::Write;

use anyhow::{Context, Result};
use indicatif::ProgressBar;
use redeliver_client::{Client, ConnectionState};

use super::{END_GRACE, Ended, event, what};
use crate::args::EmitArgs;
use crate::exit::{Exit, Problem};
use crate::lines::Input;
use crate::remote;
use crate::stop::Stop;

/// Sends the whole input, once there is a connection.
pub(super) async fn run(args: &EmitArgs, input: Input, mut stop: Stop) -> Result<Exit> {
    let builder = remote::builder(&args.remote)?.name("redeliver emit");
    let client = remote::connect(builder, &args.remote, &ProgressBar::hidden())?;
    let mut sent = 0;
    let ended = tokio::select! {
        ended = send_all(&client, input, args, &mut sent) => ended,
        how = stop.asked() => Err(Ended::Stopped(how)),
    };
    // What was sent leaves before the goodbye.
    let _ = client.shutdown(END_GRACE).await;
    writeln!(std::io::stdout(), "sent {sent} volatile event{}", if sent == 1 { "" } else { "s" })
        .context("stdout cannot be written")?;
    let problem = match ended {
        Ok(()) => return Ok(Exit::Success),
        Err(Ended::BadInput(problem)) => problem,
        Err(Ended::TimedOut(timeout)) => {
            let timeout = humantime::format_duration(timeout);
            Problem::new(format!("there was no connection for {timeout}")).exit(Exit::TimedOut)
        }
        Err(Ended::Stopped(how)) => Problem::new("interrupted").exit(how),
        Err(Ended::Failed { number, error, .. }) => match remote::close_of(&client).await {
            Some(close) => remote::why_ended(Some(&close)),
            None => Problem::new(format!("{}: {error}", what(number, args))),
        },
        Err(Ended::Done) => remote::why_ended(remote::close_of(&client).await.as_ref()),
    };
    Err(problem.into())
}

async fn send_all(client: &Client, mut input: Input, args: &EmitArgs, sent: &mut u64) -> Result<(), Ended> {
    while let Some(chunk) = input.recv().await {
        for line in chunk.map_err(|error| Ended::BadInput(Problem::new(error.to_string())))? {
            let (number, bytes) = (line.number, line.bytes.len());
            let event = event(line, args)?;
            // Nobody keeps it for a connection that is to come.
            match args.timeout {
                None => connected(client).await?,
                Some(timeout) => match tokio::time::timeout(timeout, connected(client)).await {
                    Ok(connected) => connected?,
                    Err(_) => return Err(Ended::TimedOut(timeout)),
                },
            }
            client.emit_volatile_event(event).map_err(|error| Ended::Failed { number, bytes, error })?;
            *sent += 1;
            // The client's task has its turn, so that what is read at once is not dropped for want of room.
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}

/// Waits for a connection. Done: there will be none.
async fn connected(client: &Client) -> Result<(), Ended> {
    let mut state = client.state();
    let is_decided = |state: &ConnectionState| match state {
        ConnectionState::Connected { .. } | ConnectionState::Ended { .. } => true,
        ConnectionState::Connecting | ConnectionState::Waiting { .. } | _ => false,
    };
    match state.wait_for(is_decided).await {
        Some(ConnectionState::Connected { .. }) => Ok(()),
        Some(ConnectionState::Ended { .. } | ConnectionState::Connecting | ConnectionState::Waiting { .. } | _)
        | None => Err(Ended::Done),
    }
}
