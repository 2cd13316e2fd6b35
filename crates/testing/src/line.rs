//! The line between clients and the server: passes bytes on, and can be cut. Never looks at the bytes.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use redeliver_server::{OpenStream, Server};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, copy_bidirectional, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// The line's end at the clients: all connections go through it.
#[derive(Debug, Default)]
pub(crate) struct Line {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Where the server listens; nothing while it is away.
    server: Option<(SocketAddr, Server)>,
    /// Each connection holds a receiver until it has ended.
    cut: watch::Sender<()>,
}

impl Default for State {
    fn default() -> State {
        State { server: None, cut: watch::Sender::new(()) }
    }
}

impl Line {
    /// Joins the line to a server that listens there, or to none.
    pub(crate) fn join(&self, server: Option<(SocketAddr, Server)>) {
        self.state.lock().server = server;
    }

    /// Ends every connection, and waits until each has ended. New ones are not touched.
    pub(crate) async fn cut(&self) {
        let cut = std::mem::replace(&mut self.state.lock().cut, watch::Sender::new(()));
        cut.send_replace(());
        cut.closed().await;
    }

    /// Takes clients' connections. Never ends.
    pub(crate) async fn accept(self: Arc<Line>, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((client, _)) => {
                    let (server, cut) = self.now();
                    if let Some((address, _)) = server {
                        tokio::spawn(pass_socket(client, address, cut));
                    }
                }
                // Too many open files, most likely.
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        }
    }

    /// Opens a connection from within the process. It has ended already if the server is away.
    pub(crate) fn open(&self) -> DuplexStream {
        let (theirs, mut ours) = duplex(PIPE_BYTES);
        let (server, cut) = self.now();
        if let Some((_, server)) = server {
            let mut stream = server.open_stream();
            drop(server);
            tokio::spawn(async move {
                let mut cut = cut;
                let _was_cut = pass(&mut ours, &mut stream, &mut cut).await;
                drop((ours, stream));
                drop(cut);
            });
        }
        theirs
    }

    fn now(&self) -> (Option<(SocketAddr, Server)>, watch::Receiver<()>) {
        let state = self.state.lock();
        (state.server.clone(), state.cut.subscribe())
    }
}

async fn pass_socket(mut client: TcpStream, address: SocketAddr, mut cut: watch::Receiver<()>) {
    let connecting = async {
        let server = TcpStream::connect(address).await?;
        // Without this, small frames wait for 40 ms.
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        Ok::<TcpStream, io::Error>(server)
    };
    let server = tokio::select! {
        connected = connecting => connected,
        _ = cut.changed() => return,
    };
    if let Ok(mut server) = server {
        if pass(&mut client, &mut server, &mut cut).await {
            // A reset instead of an orderly end; if that cannot be, the end comes without a word all the same.
            let _ = socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO));
        }
        drop((client, server));
    }
    // Last: whoever cuts waits for it.
    drop(cut);
}

/// Passes bytes on in both directions until both have ended. Returns whether the line was cut.
async fn pass<A, B>(client: &mut A, server: &mut B, cut: &mut watch::Receiver<()>) -> bool
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    tokio::select! {
        biased;
        _ = cut.changed() => true,
        _ = copy_bidirectional(client, server) => false,
    }
}

/// What a pipe holds in one direction, in bytes.
const PIPE_BYTES: usize = 64 * 1024;

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
