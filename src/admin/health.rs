//! Asking a running proxy whether it is ready: what a container's health check runs.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::net::ListenAddr;

/// For connecting, and for each read and write: a probe has a few seconds in all.
const PATIENCE: Duration = Duration::from_secs(2);
/// The answer is a status line, some headers and a line of text.
const LONGEST_ANSWER: usize = 4096;

/// Whether the proxy with this admin address is ready, and what to tell a person, with a line ending.
#[must_use]
pub fn health(admin: &ListenAddr) -> (bool, String) {
    match ask(admin) {
        Ok(answer) => {
            let ready = answer.starts_with("HTTP/1.1 200 ");
            let body = answer.split_once("\r\n\r\n").map_or(&*answer, |(_, body)| body).trim_end();
            (ready, format!("{}: {body}\n", if ready { "ready" } else { "not ready" }))
        }
        Err(error) => (false, format!("not running: {admin} does not answer: {error}\n")),
    }
}

fn ask(admin: &ListenAddr) -> std::io::Result<String> {
    match admin {
        ListenAddr::Unix(path) => {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            exchange(stream)
        }
        ListenAddr::Tcp(host, port) => {
            // What listens on all addresses is there on this one too.
            let host = match host.as_str() {
                "0.0.0.0" => "127.0.0.1",
                "::" => "::1",
                host => host,
            };
            let mut failure = std::io::Error::from(std::io::ErrorKind::NotFound);
            for addr in (host, *port).to_socket_addrs()? {
                match TcpStream::connect_timeout(&addr, PATIENCE) {
                    Ok(stream) => {
                        stream.set_read_timeout(Some(PATIENCE))?;
                        stream.set_write_timeout(Some(PATIENCE))?;
                        return exchange(stream);
                    }
                    Err(error) => failure = error,
                }
            }
            Err(failure)
        }
    }
}

fn exchange(mut stream: impl Read + Write) -> std::io::Result<String> {
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: slotmux\r\nConnection: close\r\n\r\n")?;
    let (mut answer, mut piece, begun) = (Vec::new(), [0; 512], Instant::now());
    while answer.len() < LONGEST_ANSWER {
        match stream.read(&mut piece)? {
            0 => break,
            count => answer.extend_from_slice(&piece[..count]),
        }
        // Each read has its own time: a byte now and then would take hours.
        if begun.elapsed() > PATIENCE {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
