//! Listening sockets.

use std::fmt;
use std::fs::Permissions;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, UnixListener};

use super::{ListenAddr, Peer, Stream};

/// Connections that the kernel keeps for us until they are accepted. A fleet's clients reconnect all
/// at once after a restart; the kernel lowers it to `net.core.somaxconn` by itself.
const BACKLOG: i32 = 4096;

/// A bound listening socket. A Unix socket's file is removed when this is dropped.
#[derive(Debug)]
pub struct Listener {
    socket: ListenSocket,
    local_addr: String,
    /// Held for its drop.
    _file: Option<SocketFile>,
}

#[derive(Debug)]
enum ListenSocket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// Binds `addr` and starts to listen. A host name is resolved here, once; IPv4 is preferred, since
    /// clients that are told `localhost` try it.
    ///
    /// The file of a Unix socket that nobody answers on (left by a crash) is replaced; it gets the permissions `mode`.
    ///
    /// # Errors
    /// The address cannot be resolved or bound; the text names it and says why.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn bind(addr: &ListenAddr, mode: Option<u32>) -> Result<Self, BindError> {
        let bound = match addr {
            ListenAddr::Tcp(host, port) => bind_tcp(host, *port),
            ListenAddr::Unix(path) => bind_unix(path, mode),
        };
        bound.map_err(|source| BindError { addr: addr.clone(), source })
    }

    /// Waits for the next connection.
    ///
    /// # Errors
    /// As `accept(2)`: the next call may well succeed (the client left, descriptors ran out).
    pub async fn accept(&self) -> io::Result<(Stream, Peer)> {
        match &self.socket {
            ListenSocket::Tcp(socket) => {
                let (stream, addr) = socket.accept().await?;
                Ok((Stream::Tcp(stream), Peer::Tcp(addr)))
            }
            ListenSocket::Unix(socket) => {
                let (stream, _) = socket.accept().await?;
                Ok((Stream::Unix(stream), Peer::Unix))
            }
        }
    }

    /// The address as bound, with the port that the kernel chose: `127.0.0.1:41234`, `unix:/path`.
    #[must_use]
    pub fn local_addr(&self) -> &str {
        &self.local_addr
    }
}

/// A listening address that could not be bound.
#[derive(Debug)]
pub struct BindError {
    addr: ListenAddr,
    source: io::Error,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot listen on {}: ", self.addr)?;
        match self.source.kind() {
            io::ErrorKind::AddrInUse => f.write_str("another process already does"),
            io::ErrorKind::AddrNotAvailable => f.write_str("this machine has no such address"),
            io::ErrorKind::PermissionDenied => {
                f.write_str("not permitted (ports below 1024 and other users' directories need more rights)")
            }
            _ => write!(f, "{}", self.source),
        }
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

fn bind_tcp(host: &str, port: u16) -> io::Result<Listener> {
    let mut addrs: Vec<SocketAddr> = (host, port).to_socket_addrs()?.collect();
    addrs.sort_by_key(SocketAddr::is_ipv6);
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
    for addr in addrs {
        match listen_tcp(addr) {
            Ok(socket) => {
                let local_addr = socket.local_addr()?.to_string();
                return Ok(Listener { socket: ListenSocket::Tcp(socket), local_addr, _file: None });
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn listen_tcp(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for connections of the last run in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn bind_unix(path: &Path, mode: Option<u32>) -> io::Result<Listener> {
    let socket = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale(path)? => {
            std::fs::remove_file(path)?;
            UnixListener::bind(path)?
        }
        other => other?,
    };
    let file = SocketFile::of(path)?;
    if let Some(mode) = mode {
        std::fs::set_permissions(path, Permissions::from_mode(mode))?;
    }
    let local_addr = format!("unix:{}", path.display());
    Ok(Listener { socket: ListenSocket::Unix(socket), local_addr, _file: Some(file) })
}

/// True if `path` is a socket that nobody answers on.
fn is_stale(path: &Path) -> io::Result<bool> {
    if !std::fs::symlink_metadata(path)?.file_type().is_socket() {
        return Err(io::Error::other("the file exists and is no socket"));
    }
    let answer = std::os::unix::net::UnixStream::connect(path);
    Ok(matches!(answer, Err(error) if error.kind() == io::ErrorKind::ConnectionRefused))
}

/// The file of a bound Unix socket, removed at drop if it is still ours: a successor may already have
/// put its own in its place.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), identity: Self::identity(path)? })
    }

    fn identity(path: &Path) -> io::Result<(u64, u64)> {
        std::fs::symlink_metadata(path).map(|meta| (meta.dev(), meta.ino()))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if Self::identity(&self.path).is_ok_and(|now| now == self.identity) {
            // Nothing can be done about a failure, and the next start replaces a stale file.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::StdStream;
    use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};

    #[tokio::test]
    async fn a_connection_survives_the_move_between_runtimes() {
        let listener = Listener::bind(&"127.0.0.1:0".parse().unwrap(), None).unwrap();
        let mut client = tokio::net::TcpStream::connect(listener.local_addr()).await.unwrap();
        let (stream, peer) = listener.accept().await.unwrap();
        assert_eq!(peer, Peer::Tcp(client.local_addr().unwrap()));
        let stream = stream.into_std().unwrap();
        assert!(matches!(stream, StdStream::Tcp(_)));
        let mut stream = Stream::from_std(stream).unwrap();
        assert!(stream.is_write_vectored());
        stream.write_all(b"hello").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello");
    }

    #[tokio::test]
    async fn a_busy_port_is_named() {
        let first = Listener::bind(&"127.0.0.1:0".parse().unwrap(), None).unwrap();
        let error = Listener::bind(&first.local_addr().parse().unwrap(), None).unwrap_err();
        let expected = format!("cannot listen on {}: another process already does", first.local_addr());
        assert_eq!(error.to_string(), expected);
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.sock");
        let addr = ListenAddr::Unix(path.clone());
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "the standard library leaves the file");

        let live = Listener::bind(&addr, None).unwrap();
        assert_eq!(live.local_addr(), format!("unix:{}", path.display()));
        assert!(Listener::bind(&addr, None).unwrap_err().to_string().contains("another process"));
        let client = tokio::net::UnixStream::connect(&path).await.unwrap();
        assert_eq!(live.accept().await.unwrap().1, Peer::Unix);
        drop((client, live));
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("precious");
        std::fs::write(&path, "data").unwrap();
        let error = Listener::bind(&ListenAddr::Unix(path.clone()), None).unwrap_err();
        assert!(error.to_string().contains("is no socket"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "data");
    }
}
