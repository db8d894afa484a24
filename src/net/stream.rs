//! One type for the connections that the proxy reads and writes, whatever carries them.

use std::fmt;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// A connection registered with the runtime of the thread that made it.
#[derive(Debug)]
pub enum Stream {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a Unix domain socket.
    Unix(UnixStream),
}

/// A connection that belongs to no runtime: the form in which it goes from the acceptor to a worker.
/// Always non-blocking.
#[derive(Debug)]
pub enum StdStream {
    /// Over TCP.
    Tcp(std::net::TcpStream),
    /// Over a Unix domain socket.
    Unix(std::os::unix::net::UnixStream),
}

/// Who is at the other end of an accepted connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// An address and port.
    Tcp(SocketAddr),
    /// A process on this machine.
    Unix,
}

/// Where a client connected, and from where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The client's side.
    pub peer: Peer,
    /// This side.
    pub local: Local,
    /// The descriptor's number.
    pub fd: i32,
}

/// This side of an accepted connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Local {
    /// An address and port.
    Tcp(SocketAddr),
    /// The path of a Unix domain socket.
    Unix(PathBuf),
}

impl Ends {
    /// The client's address as a server writes it: a Unix socket's clients all have that of the socket.
    #[must_use]
    pub fn peer_text(&self) -> String {
        match self.peer {
            Peer::Tcp(addr) => addr.to_string(),
            Peer::Unix => self.local_text(),
        }
    }

    /// The address that it connected to, as a server writes it.
    #[must_use]
    pub fn local_text(&self) -> String {
        match &self.local {
            Local::Tcp(addr) => addr.to_string(),
            Local::Unix(path) => format!("{}:0", path.display()),
        }
    }
}

/// Calls the same method on whichever stream it is.
macro_rules! each {
    ($stream:expr, $inner:ident => $call:expr) => {
        match $stream {
            Stream::Tcp($inner) => $call,
            Stream::Unix($inner) => $call,
        }
    };
}

impl Stream {
    /// Takes the connection away from this thread's runtime.
    ///
    /// # Errors
    /// The runtime could not deregister it.
    pub fn into_std(self) -> io::Result<StdStream> {
        match self {
            Self::Tcp(stream) => stream.into_std().map(StdStream::Tcp),
            Self::Unix(stream) => stream.into_std().map(StdStream::Unix),
        }
    }

    /// Registers a connection with this thread's runtime.
    ///
    /// # Errors
    /// The runtime could not register it.
    ///
    /// # Panics
    /// Outside a Tokio runtime, as Tokio's own `from_std` does.
    pub fn from_std(stream: StdStream) -> io::Result<Self> {
        match stream {
            StdStream::Tcp(stream) => TcpStream::from_std(stream).map(Self::Tcp),
            StdStream::Unix(stream) => UnixStream::from_std(stream).map(Self::Unix),
        }
    }

    /// Whether the other side has reset the connection: also while nothing is read from it.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        !matches!(SockRef::from(self).take_error(), Ok(None))
    }

    /// Who is at the other end, for people.
    #[must_use]
    pub fn peer(&self) -> String {
        let addr = SockRef::from(self).peer_addr().ok().and_then(|addr| addr.as_socket());
        addr.map_or_else(|| Peer::Unix.to_string(), |addr| addr.to_string())
    }

    /// Both ends, of a connection that `peer` made.
    ///
    /// # Errors
    /// The connection has ended.
    pub fn ends(&self, peer: Peer) -> io::Result<Ends> {
        // To those who listen on all addresses of both kinds an IPv4 client has one of IPv6.
        let plain = |addr: SocketAddr| SocketAddr::new(addr.ip().to_canonical(), addr.port());
        let peer = match peer {
            Peer::Tcp(addr) => Peer::Tcp(plain(addr)),
            Peer::Unix => Peer::Unix,
        };
        let addr = SockRef::from(self).local_addr()?;
        let local = match addr.as_socket() {
            Some(addr) => Local::Tcp(plain(addr)),
            None => Local::Unix(addr.as_pathname().map(PathBuf::from).unwrap_or_default()),
        };
        Ok(Ends { peer, local, fd: self.as_fd().as_raw_fd() })
    }

    /// Writes what the kernel takes at once, without waiting.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if it takes nothing now, or the connection's own error.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        each!(self, stream => stream.try_write(bytes))
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        each!(self, stream => stream.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_shutdown(cx))
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        each!(self, stream => stream.as_fd())
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}
