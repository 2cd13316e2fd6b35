//! The limit: the least work that moves the same bytes. A writer that shares one pre-framed buffer with a cursor for each
//! connection, and an appender that syncs. No sessions, no log, no answers.

use std::io::{ErrorKind, Read, Seek, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

use crate::turns::Turn;
use crate::wire::put_events;

/// Serves until its first connection, which tells it when to show the next round, ends. `ready` is told the address.
///
/// # Errors
///
/// If the kernel refuses something.
pub fn fanout(per_round: u64, rounds: u64, ready: impl FnOnce(SocketAddr) -> Result<()>) -> Result<()> {
    let mut buffer = Vec::new();
    let mut ends = Vec::new();
    for round in 0..rounds {
        put_events(&mut buffer, round * per_round, per_round, 0);
        ends.push(buffer.len());
    }
    let mut listener = listen().context("cannot listen")?;
    let mut poll = Poll::new().context("no epoll")?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE).context("epoll")?;
    ready(listener.local_addr().context("no address")?)?;
    let mut events = Events::with_capacity(4096);
    let mut readers: Vec<Reader> = Vec::new();
    let (mut rounds_shown, mut shown) = (0, 0);
    loop {
        match poll.poll(&mut events, None) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).context("epoll"),
        }
        for event in &events {
            match event.token() {
                LISTENER => accept(&listener, &poll, &mut readers, &buffer[..shown])?,
                CONTROL => {
                    let Some(asked) = readers[CONTROL.0].asked()? else { return Ok(()) };
                    rounds_shown += asked;
                    shown = ends.get(rounds_shown.wrapping_sub(1)).copied().unwrap_or(shown);
                    for reader in &mut readers[1..] {
                        reader.write(&buffer[..shown]);
                    }
                }
                Token(at) => readers[at].write(&buffer[..shown]),
            }
        }
    }
}

/// A file whose blocks are there already, so that a sync writes the commit and no metadata: the best that a disk can do.
#[derive(Debug)]
pub struct Appender {
    file: std::fs::File,
    at: usize,
}

impl Appender {
    /// Makes the file, written through once.
    ///
    /// # Errors
    ///
    /// Of the file.
    pub fn new(path: &Path) -> Result<Appender> {
        let mut file = std::fs::File::create(path).context("the file cannot be made")?;
        file.write_all(&vec![0; FILE_BYTES]).context("the file cannot be written")?;
        file.sync_all().context("the file cannot be synced")?;
        Ok(Appender { file, at: FILE_BYTES })
    }

    /// Writes commits of a size one behind another, with an fdatasync each, for so long.
    ///
    /// # Errors
    ///
    /// Of the file.
    pub fn turn(&mut self, commit_bytes: usize, span: Duration) -> Result<Turn> {
        let commit = vec![0x5a; commit_bytes];
        let mut took = Vec::new();
        let begun = Instant::now();
        while begun.elapsed() < span {
            let before = Instant::now();
            if self.at + commit_bytes > FILE_BYTES {
                self.file.rewind().context("the file cannot be written")?;
                self.at = 0;
            }
            self.file.write_all(&commit).context("the file cannot be written")?;
            self.file.sync_data().context("the file cannot be synced")?;
            self.at += commit_bytes;
            took.push(before.elapsed());
        }
        Ok(Turn::of(took, begun.elapsed()))
    }
}

struct Reader {
    stream: TcpStream,
    cursor: usize,
    ended: bool,
}

impl Reader {
    fn write(&mut self, shown: &[u8]) {
        while !self.ended && self.cursor < shown.len() {
            match self.stream.write(&shown[self.cursor..]) {
                Ok(bytes) => self.cursor += bytes,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.ended = true,
            }
        }
    }

    /// How many rounds the controller asks for; nothing at its end. A byte is a round.
    fn asked(&mut self) -> Result<Option<usize>> {
        let (mut bytes, mut asked) = ([0; 4096], 0);
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => return Ok(None),
                Ok(read) => asked += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Some(asked)),
                Err(error) => return Err(error).context("the controller is gone"),
            }
        }
    }
}

fn listen() -> std::io::Result<TcpListener> {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
    socket.listen(4096)?;
    Ok(TcpListener::from_std(socket.into()))
}

fn accept(listener: &TcpListener, poll: &Poll, readers: &mut Vec<Reader>, shown: &[u8]) -> Result<()> {
    loop {
        let mut stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error).context("cannot accept"),
        };
        stream.set_nodelay(true).context("nodelay")?;
        socket2::SockRef::from(&stream).set_send_buffer_size(SEND_BUFFER_BYTES).context("send buffer")?;
        let token = Token(readers.len());
        poll.registry().register(&mut stream, token, Interest::READABLE | Interest::WRITABLE).context("epoll")?;
        let mut reader = Reader { stream, cursor: 0, ended: false };
        if token != CONTROL {
            reader.write(shown);
        }
        readers.push(reader);
    }
}

const CONTROL: Token = Token(0);
const LISTENER: Token = Token(usize::MAX - 1);

/// As the server has it.
const SEND_BUFFER_BYTES: usize = 256 * 1024;

const FILE_BYTES: usize = 64 * 1024 * 1024;
