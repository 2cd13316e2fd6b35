//! `serve` while it runs: reads the configuration again on SIGHUP, takes new certificates, and lets tokens expire.
//!
//! A configuration that is not valid changes nothing. Whoever is connected is judged again, never only newcomers.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use redeliver_server::{Server, Tls};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};

use crate::access::{LiveTokens, Tokens};
use crate::config_file::ConfigFile;
use crate::settings::{self, Configuration};

/// What reads the configuration again.
pub(crate) struct Reload {
    path: PathBuf,
    hangup: Signal,
    /// The settings by which the server was started.
    running: Configuration,
    tokens: LiveTokens,
    /// Whether the server may go without tokens.
    may_be_open: bool,
}

impl Reload {
    /// Takes SIGHUP over, which would else end the process. To be called before anything is opened.
    pub(crate) fn on_hangup(
        path: PathBuf,
        running: Configuration,
        tokens: LiveTokens,
        may_be_open: bool,
    ) -> Result<Reload> {
        let hangup = signal(SignalKind::hangup()).context("SIGHUP cannot be watched")?;
        Ok(Reload { path, hangup, running, tokens, may_be_open })
    }

    /// Reads the configuration at each SIGHUP. Never returns. Cancel safe between two reads.
    pub(crate) async fn run(mut self, server: Server) {
        while self.hangup.recv().await.is_some() {
            match self.read() {
                Ok(tokens) => {
                    self.tokens.exchange(tokens);
                    server.reauthorize();
                    info!(config = %self.path.display(), "the configuration was read again: its tokens hold now");
                }
                Err(words) => error!("the configuration was read again, and nothing is changed: {words}"),
            }
        }
    }

    fn read(&self) -> Result<Tokens, String> {
        let file = ConfigFile::read(&self.path).map_err(|error| format!("{error:#}"))?;
        if file.tokens.is_empty() && !self.may_be_open {
            return Err(
                "without any token it would let anybody in; start the server with --insecure for that".to_owned()
            );
        }
        let later = settings::changed(&self.running, &file.configuration);
        if !later.is_empty() {
            warn!("these settings hold from the next start on: {}", later.join(", "));
        }
        warn_of_tokens(&file);
        Ok(file.tokens)
    }
}

/// Says which tokens are of no use, or of use to too many.
pub(crate) fn warn_of_tokens(file: &ConfigFile) {
    for name in &file.weak_tokens {
        warn!(token = name, "this token can be guessed: use at least 128 random bits, as from `openssl rand -hex 32`");
    }
    for name in file.tokens.expired(SystemTime::now()) {
        warn!(token = name, "this token has expired: nobody is let in by it");
    }
}

/// Sends away whose token expires. Never returns.
pub(crate) async fn watch_expiry(tokens: LiveTokens, server: Server) {
    let mut expired = tokens.expired(SystemTime::now());
    loop {
        tokio::time::sleep(EXPIRY_LOOK).await;
        let now = tokens.expired(SystemTime::now());
        if now > expired {
            server.reauthorize();
        }
        expired = now;
    }
}

/// Reads a new certificate when its files change, as after a renewal. A bad one changes nothing.
pub(crate) async fn follow_certificate(tls: Tls) {
    let stamps = || {
        let files = tls.files();
        let all = [Some(&files.cert), Some(&files.key), files.client_ca.as_ref()];
        all.map(|path| std::fs::metadata(path?).ok()?.modified().ok())
    };
    let mut seen = stamps();
    loop {
        tokio::time::sleep(CERTIFICATE_PAUSE).await;
        let now = stamps();
        if now == seen {
            continue;
        }
        seen = now;
        match tls.reload() {
            Ok(()) => info!(cert = %tls.files().cert.display(), "a new certificate counts for connections from now on"),
            Err(error) => warn!(%error, "the new certificate cannot be used; the one before it stays"),
        }
    }
}

/// How soon a new certificate is noticed.
const CERTIFICATE_PAUSE: Duration = Duration::from_secs(10);

/// How late a token may be seen to expire.
const EXPIRY_LOOK: Duration = Duration::from_millis(500);
