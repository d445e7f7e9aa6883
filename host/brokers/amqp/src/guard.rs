//! The socket that lapin is given: all that is read from it has gone through the sieve.
//!
//! Called by the connection. It lies over TLS, where there is any.

use std::{
    io::{self, Read, Write},
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use async_rs::{Runtime, Tokio, traits::Reactor, util::RuntimeParts};
use futures::{AsyncRead, AsyncWrite, Stream};
use lapin::AsyncTcpStream;

use crate::sieve::Sieve;

/// Bytes that are read at once.
const PIECE: usize = 64 * 1024;

/// A socket as it comes from the system, maybe with TLS.
pub(crate) type Bare = AsyncTcpStream<<Tokio as Reactor>::TcpStream>;

/// What lapin's tasks and sockets belong to.
pub(crate) type Guarded = Runtime<RuntimeParts<Tokio, Sockets>>;

/// The present runtime, with guarded sockets.
pub(crate) fn guarded() -> Guarded {
    Runtime::new(RuntimeParts::new(Tokio::current(), Sockets(Tokio::current())))
}

/// A socket whose bytes are looked through.
pub(crate) struct Guard {
    bare: Bare,
    sieve: Sieve,
    piece: Vec<u8>,
    /// What has passed and was not taken yet, from `taken` on.
    passed: Vec<u8>,
    taken: usize,
}

impl Guard {
    pub(crate) fn over(bare: Bare) -> Self {
        Self { bare, sieve: Sieve::new(), piece: vec![0; PIECE], passed: Vec::new(), taken: 0 }
    }

    /// Gives what has passed.
    fn give(&mut self, to: &mut [u8]) -> usize {
        let waiting = self.passed.get(self.taken..).unwrap_or_default();
        let count = waiting.len().min(to.len());
        if let (Some(from), Some(to)) = (waiting.get(..count), to.get_mut(..count)) {
            to.copy_from_slice(from);
        }
        self.taken += count;
        if self.taken == self.passed.len() {
            self.passed.clear();
            self.taken = 0;
        }
        count
    }
}

impl AsyncRead for Guard {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, to: &mut [u8]) -> Poll<io::Result<usize>> {
        let guard = self.get_mut();
        // A piece may be the part of a frame that is held.
        while guard.passed.is_empty() && !to.is_empty() {
            let read = ready!(Pin::new(&mut guard.bare).poll_read(context, &mut guard.piece))?;
            if read == 0 {
                return Poll::Ready(Ok(0));
            }
            let piece = guard.piece.get(..read).unwrap_or_default();
            guard.sieve.pass(piece, &mut guard.passed)?;
        }
        Poll::Ready(Ok(guard.give(to)))
    }
}

impl AsyncWrite for Guard {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.bare).poll_write(context, from)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.bare).poll_write_vectored(context, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.bare).poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.bare).poll_close(context)
    }
}

/// Makes guarded sockets; all else is tokio's.
#[derive(Clone, Debug)]
pub(crate) struct Sockets(Tokio);

impl Reactor for Sockets {
    type TcpStream = Guard;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: Read + Write + AsFd + AsRawFd + Send + 'static>(
        &self,
        socket: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        self.0.register(socket)
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }

    fn interval(&self, duration: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(duration)
    }

    fn tcp_connect_addr(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<Guard>> + Send + 'static {
        let connecting = self.0.tcp_connect_addr(address);
        async move { Ok(Guard::over(AsyncTcpStream::Plain(connecting.await?))) }
    }
}
