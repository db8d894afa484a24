//! The socket options of client and node connections.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// How long sent bytes may stay unacknowledged by a node's kernel before ours gives the connection up.
///
/// Without it a node whose machine vanished is retransmitted to for a quarter of an hour. It is only
/// the backstop: `link_timeout`, which knows whether replies are due, is shorter and decides first.
/// The kernel counts a receive window that stays closed as well, so it must not be shorter than the
/// longest script or command that a node may be busy with; it is the default `command_deadline`.
pub const NODE_USER_TIMEOUT: Duration = Duration::from_secs(30);

/// The first keep-alive probe after this much silence: below the five minutes after which common
/// load balancers and NAT tables forget an idle connection.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// Four probes 15 s apart: a peer that vanished is noticed within two minutes, and a minute of
/// network trouble costs nobody his connection.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 4;

/// Prepares an accepted client connection: no Nagle delay, and a client that vanished is noticed.
///
/// No user timeout here: a client that reads slowly is bounded by the output limits, not by the kernel.
///
/// # Errors
/// The kernel refused an option, as it does on a connection that was reset in the meantime.
pub fn tune_client(stream: &TcpStream) -> io::Result<()> {
    tune(SockRef::from(stream))
}

/// Prepares a connection to a node: as for a client, and with [`NODE_USER_TIMEOUT`].
///
/// # Errors
/// The kernel refused an option.
pub fn tune_node(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(NODE_USER_TIMEOUT))?;
    tune(socket)
}

/// Makes the next close of `socket` a reset (RST), which also throws away what is not sent yet.
///
/// A link that is given up with writes in doubt is closed so: the node's kernel then drops what the
/// node did not read, so that a stopped node does not execute it after it goes on.
///
/// # Errors
/// The kernel refused the option.
pub fn set_linger_zero(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(socket).set_linger(Some(Duration::ZERO))
}

fn tune(socket: SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL);
    socket.set_tcp_keepalive(&keepalive.with_retries(KEEPALIVE_PROBES))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn options_are_set_and_linger_zero_resets() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let node = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut client, _) = listener.accept().await.unwrap();
        tune_client(&client).unwrap();
        tune_node(&node).unwrap();
        assert!(client.nodelay().unwrap() && node.nodelay().unwrap());
        let socket = SockRef::from(&node);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(NODE_USER_TIMEOUT));
        assert!(socket.keepalive().unwrap());

        set_linger_zero(&node).unwrap();
        drop(node);
        let error = client.read(&mut [0; 8]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}
