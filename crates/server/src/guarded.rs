//! A byte stream under guard: it ends when its peer is still a stranger and has to go, and, until that is lifted, when its
//! peer takes nothing of what is written. So whatever serves the stream need not know of either.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::strangers::{SocketPermit, Stranger, Watch};

/// A stream with its guard. Lean: one is held for each idle reader.
#[derive(Debug)]
pub(crate) struct Guarded<S> {
    io: S,
    /// Until the peer is known.
    gate: Option<Box<Gate>>,
    /// While writing is bounded in time.
    writing: Option<Box<Writing>>,
    /// Last, when the stream is closed.
    _permit: Option<SocketPermit>,
}

#[derive(Debug)]
struct Gate {
    watch: Watch,
    bytes_left: usize,
}

#[derive(Debug)]
struct Writing {
    timeout: Duration,
    /// Set while bytes wait of which the peer takes none.
    stuck: Option<Pin<Box<Sleep>>>,
    /// Set while bytes that were written do not get out, as with TLS.
    flush_stuck: Option<Pin<Box<Sleep>>>,
}

impl<S> Guarded<S> {
    /// A stream whose peer is a stranger. `permit` is given back when the stream is closed.
    pub(crate) fn new(io: S, stranger: Stranger, permit: Option<SocketPermit>) -> Guarded<S> {
        let gate = Some(Box::new(Gate { watch: Watch::over(stranger), bytes_left: STRANGER_BYTES_MAX }));
        Guarded { io, gate, writing: None, _permit: permit }
    }

    /// Ends the stream when its peer takes no byte of what is written for so long.
    pub(crate) fn bounding_writes(mut self, timeout: Duration) -> Guarded<S> {
        self.writing = Some(Box::new(Writing { timeout, stuck: None, flush_stuck: None }));
        self
    }

    /// Leaves it to others to bound the time of writing.
    pub(crate) fn without_bounded_writes(mut self) -> Guarded<S> {
        self.writing = None;
        self
    }

    /// Why the peer has to go, if it does.
    fn poll_gate(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let Some(gate) = &mut self.gate else { return Poll::Pending };
        match gate.watch.poll_farewell(cx) {
            Poll::Ready(farewell) => Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, farewell)),
            Poll::Pending => {
                if gate.watch.is_over() {
                    self.gate = None;
                }
                Poll::Pending
            }
        }
    }

    /// A stranger that has sent too much is not read any more.
    fn may_read(&self) -> io::Result<()> {
        match &self.gate {
            Some(gate) if gate.bytes_left == 0 => Err(io::Error::other("it sent too much before it was authenticated")),
            Some(_) | None => Ok(()),
        }
    }

    fn has_read(&mut self, bytes: usize) {
        let Some(gate) = &mut self.gate else { return };
        gate.bytes_left = gate.bytes_left.saturating_sub(bytes);
        if bytes > 0
            && let Some(stranger) = gate.watch.stranger()
        {
            stranger.has_spoken();
        }
    }

    /// Passes on what a write came to, unless nothing leaves any more.
    fn has_written(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let Some(writing) = &mut self.writing else { return written };
        if written.is_ready() {
            writing.stuck = None;
            return written;
        }
        poll_stuck(&mut writing.stuck, writing.timeout, cx).map(Err)
    }
}

/// Ready when nothing has left for too long. The time runs from the first call.
fn poll_stuck(timer: &mut Option<Pin<Box<Sleep>>>, timeout: Duration, cx: &mut Context<'_>) -> Poll<io::Error> {
    let timer = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + timeout)));
    timer.as_mut().poll(cx).map(|()| io::Error::new(io::ErrorKind::TimedOut, "it reads nothing"))
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(error) = self.poll_gate(cx) {
            return Poll::Ready(Err(error));
        }
        self.may_read()?;
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        self.has_read(buf.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if let Poll::Ready(error) = self.poll_gate(cx) {
            return Poll::Ready(Err(error));
        }
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        self.has_written(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(error) = self.poll_gate(cx) {
            return Poll::Ready(Err(error));
        }
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.has_written(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        let Some(writing) = &mut self.writing else { return flushed };
        if flushed.is_ready() {
            writing.flush_stuck = None;
            return flushed;
        }
        poll_stuck(&mut writing.flush_stuck, writing.timeout, cx).map(Err)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// All that a stranger may send, in bytes: the heads of a few requests with large cookies, and its credentials.
const STRANGER_BYTES_MAX: usize = 128 * 1024;

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;
    use crate::strangers::Strangers;
    use crate::strangers::budget::{Budget, StrangerLimits};

    fn stranger() -> (Strangers, SocketPermit, Stranger) {
        let pool = Strangers::new(Budget::new(100, 10, 1000), StrangerLimits::default());
        let (permit, stranger) = pool.enter(SocketAddr::from(([192, 0, 2, 1], 1)));
        (pool, permit, stranger)
    }

    fn guarded(stranger: Stranger) -> (Guarded<DuplexStream>, DuplexStream) {
        let (ours, theirs) = duplex(1024);
        (Guarded::new(ours, stranger, None), theirs)
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_of_a_stranger_ends_when_its_time_is_over_and_that_of_a_known_peer_does_not() {
        let (_pool, _permit, stranger) = stranger();
        let (mut stream, _peer) = guarded(stranger.clone());
        let begun = Instant::now();
        let error = stream.read_u8().await.unwrap_err();
        assert_eq!((error.kind(), begun.elapsed()), (io::ErrorKind::TimedOut, Duration::from_secs(10)));

        let (_pool, _permit, stranger) = self::stranger();
        let (mut stream, mut peer) = guarded(stranger.clone());
        assert!(stranger.admit());
        let silent = tokio::time::timeout(Duration::from_secs(3600), stream.read_u8()).await;
        assert!(silent.is_err(), "it is waited for");
        peer.write_all(&vec![7; 1024]).await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stranger_may_send_so_much_and_no_more() {
        let (_pool, _permit, stranger) = stranger();
        let (mut stream, mut peer) = guarded(stranger);
        tokio::spawn(async move { while peer.write_all(&[7; 1024]).await.is_ok() {} });
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap_err();
        assert!(all.len() < STRANGER_BYTES_MAX + 64 * 1024, "{}", all.len());
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_is_given_up_and_who_takes_a_little_is_not() {
        let (_pool, _permit, stranger) = stranger();
        assert!(stranger.admit());
        let (stream, mut peer) = guarded(stranger);
        let mut stream = stream.bounding_writes(Duration::from_secs(30));
        let begun = Instant::now();
        tokio::spawn(async move {
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_secs(20)).await;
                peer.read_u8().await.unwrap();
            }
            std::future::pending::<()>().await;
        });
        let error = stream.write_all(&[0; 4096]).await.unwrap_err();
        assert_eq!((error.kind(), begun.elapsed().as_secs()), (io::ErrorKind::TimedOut, 230));
    }
}
