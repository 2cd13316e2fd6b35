//! Many connections on one thread: readiness from the kernel, one buffer to read into, whole frames to a handler. The
//! cheapest client that there can be, so that the server is what is measured.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::wire::{UPGRADE, put_message, split_frame};

/// What becomes of the messages that arrive.
pub trait Handler {
    /// A message arrived on a connection; what is put into `out` is sent on it.
    ///
    /// # Errors
    ///
    /// What is wrong with it: the run ends.
    fn message(&mut self, connection: usize, message: &[u8], out: &mut Vec<u8>) -> Result<()>;
}

/// A set of connections.
#[derive(Debug)]
pub struct Fleet {
    poll: Poll,
    events: Events,
    members: Vec<Member>,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Member {
    stream: TcpStream,
    /// The start of a frame that is not whole yet.
    partial: Vec<u8>,
    out: Vec<u8>,
    /// What follows once the WebSocket is there.
    opening: Option<Vec<u8>>,
}

impl Fleet {
    /// Without connections.
    ///
    /// # Errors
    ///
    /// If the kernel has no readiness queue left.
    pub fn new() -> Result<Fleet> {
        let poll = Poll::new().context("no epoll")?;
        Ok(Fleet { poll, events: Events::with_capacity(4096), members: Vec::new(), buffer: vec![0; 256 * 1024] })
    }

    /// How many connections there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Begins a WebSocket connection; the messages go out once it is there. Returns the connection's number.
    ///
    /// # Errors
    ///
    /// If the socket cannot be made.
    pub fn connect(&mut self, address: SocketAddr, messages: &[&[u8]]) -> Result<usize> {
        self.add(address, UPGRADE.to_vec(), Some(opening(messages)), None)
    }

    /// The same, with the least of a receive buffer: for a reader that is not to take much when it does not read.
    ///
    /// # Errors
    ///
    /// If the socket cannot be made.
    pub fn connect_small(&mut self, address: SocketAddr, messages: &[&[u8]]) -> Result<usize> {
        self.add(address, UPGRADE.to_vec(), Some(opening(messages)), Some(4096))
    }

    /// Begins a WebSocket connection with this request; what follows comes from the handler.
    ///
    /// # Errors
    ///
    /// If the socket cannot be made.
    pub fn connect_with(&mut self, address: SocketAddr, request: &[u8]) -> Result<usize> {
        self.add(address, request.to_vec(), Some(Vec::new()), None)
    }

    /// Begins a plain TCP connection to the raw program.
    ///
    /// # Errors
    ///
    /// If the socket cannot be made.
    pub fn connect_raw(&mut self, address: SocketAddr) -> Result<usize> {
        self.add(address, Vec::new(), None, None)
    }

    /// What is to be sent on a connection; [`Fleet::flush`] sends it.
    pub fn out(&mut self, connection: usize) -> &mut Vec<u8> {
        &mut self.members[connection].out
    }

    /// Sends what waits on a connection, as far as the socket takes it.
    ///
    /// # Errors
    ///
    /// If the connection is broken.
    pub fn flush(&mut self, connection: usize) -> Result<()> {
        self.members[connection].flush()
    }

    /// Waits for at most `patience`, and hands over what has arrived.
    ///
    /// # Errors
    ///
    /// Of the handler, or if a connection is broken or ended.
    pub fn turn(&mut self, patience: Duration, handler: &mut impl Handler) -> Result<()> {
        match self.poll.poll(&mut self.events, Some(patience)) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error).context("epoll"),
        }
        for event in &self.events {
            let connection = event.token().0;
            let member = &mut self.members[connection];
            if event.is_writable() && (member.opening.is_none() || !member.out.is_empty()) {
                member.flush()?;
            }
            if event.is_readable() {
                member.read(connection, &mut self.buffer, handler)?;
            }
        }
        Ok(())
    }

    /// Turns until `done` says so.
    ///
    /// # Errors
    ///
    /// As [`Fleet::turn`], and if it takes longer than `patience`.
    pub fn until<H: Handler>(
        &mut self,
        patience: Duration,
        handler: &mut H,
        mut done: impl FnMut(&mut H) -> bool,
    ) -> Result<()> {
        let begun = Instant::now();
        while !done(handler) {
            if begun.elapsed() > patience {
                bail!("what was expected did not arrive within {patience:?}");
            }
            self.turn(Duration::from_millis(100), handler)?;
        }
        Ok(())
    }

    fn add(
        &mut self,
        address: SocketAddr,
        out: Vec<u8>,
        opening: Option<Vec<u8>>,
        receive_bytes: Option<usize>,
    ) -> Result<usize> {
        let connection = self.members.len();
        let mut stream = connect(address, source(connection), receive_bytes)?;
        self.poll
            .registry()
            .register(&mut stream, Token(connection), Interest::READABLE | Interest::WRITABLE)
            .context("epoll")?;
        self.members.push(Member { stream, partial: Vec::new(), out, opening });
        Ok(connection)
    }
}

impl Member {
    fn flush(&mut self) -> Result<()> {
        let mut sent = 0;
        while sent < self.out.len() {
            match self.stream.write(&self.out[sent..]) {
                Ok(0) => bail!("a connection takes nothing more"),
                Ok(bytes) => sent += bytes,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("a connection cannot be written"),
            }
        }
        self.out.drain(..sent);
        Ok(())
    }

    fn read(&mut self, connection: usize, buffer: &mut [u8], handler: &mut impl Handler) -> Result<()> {
        loop {
            // What was left over goes first, so that frames are always contiguous.
            let kept = self.partial.len();
            ensure!(kept < buffer.len(), "a frame is larger than {} bytes", buffer.len());
            let read = match self.stream.read(&mut buffer[kept..]) {
                Ok(0) => bail!("the server ended connection {connection}"),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).context("a connection cannot be read"),
            };
            buffer[..kept].copy_from_slice(&self.partial);
            self.partial.clear();
            let bytes = &buffer[..kept + read];
            let used = self.take(connection, bytes, handler)?;
            self.partial.extend_from_slice(&bytes[used..]);
            if !self.out.is_empty() {
                self.flush()?;
            }
            // A short read has emptied the socket; the kernel tells of what comes later.
            if kept + read < buffer.len() {
                return Ok(());
            }
        }
    }

    /// Hands whole frames over; returns how many bytes they had.
    fn take(&mut self, connection: usize, bytes: &[u8], handler: &mut impl Handler) -> Result<usize> {
        let mut used = 0;
        if let Some(opening) = &self.opening {
            let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(0) };
            let head = String::from_utf8_lossy(&bytes[..end]);
            ensure!(head.starts_with("HTTP/1.1 101"), "no WebSocket was granted: {head}");
            self.out.extend_from_slice(opening);
            self.opening = None;
            used = end + 4;
        }
        while let Some((opcode, at)) = split_frame(&bytes[used..]) {
            let payload = &bytes[used + at.start..used + at.end];
            match opcode {
                1 | 2 => handler.message(connection, payload, &mut self.out)?,
                8 => bail!("the server closed connection {connection}"),
                9 => bail!("a WebSocket ping: the server has its own"),
                _ => {}
            }
            used += at.end;
        }
        Ok(used)
    }
}

fn opening(messages: &[&[u8]]) -> Vec<u8> {
    let mut opening = Vec::new();
    for message in messages {
        put_message(&mut opening, message);
    }
    opening
}

fn connect(address: SocketAddr, source: Ipv4Addr, receive_bytes: Option<usize>) -> Result<TcpStream> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))
        .context("no socket left: raise `ulimit -n`")?;
    socket.set_nonblocking(true).context("a socket cannot be made non-blocking")?;
    socket.set_tcp_nodelay(true).context("Nagle cannot be turned off")?;
    if source != Ipv4Addr::LOCALHOST {
        socket.bind(&SocketAddr::from((source, 0)).into()).context("a source address cannot be taken")?;
    }
    if let Some(bytes) = receive_bytes {
        socket.set_recv_buffer_size(bytes).context("a receive buffer cannot be bounded")?;
    }
    if let Err(error) = socket.connect(&address.into())
        && error.kind() != ErrorKind::WouldBlock
        && error.raw_os_error() != Some(EINPROGRESS)
    {
        return Err(error).context("cannot connect");
    }
    Ok(TcpStream::from_std(socket.into()))
}

/// Where a connection comes from: an address has some 28,000 ports.
fn source(connection: usize) -> Ipv4Addr {
    let address = u8::try_from(connection / CONNECTIONS_PER_ADDRESS).unwrap_or(u8::MAX - 1);
    Ipv4Addr::new(127, 0, 0, address.saturating_add(1))
}

const CONNECTIONS_PER_ADDRESS: usize = 20_000;

/// On Linux.
const EINPROGRESS: i32 = 115;
