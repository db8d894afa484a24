//! A raw connection whose end is a result and not a panic.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::TcpStream,
    time::Duration,
};

use crate::support::{Value, encode};

/// Longer than the proxy's deadline and link timeout together: what takes longer never comes.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// One connection, to the proxy or to a node.
pub struct Conn {
    stream: TcpStream,
    input: Vec<u8>,
    at: usize,
}

impl Conn {
    pub fn connect(addr: &str, patience: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        Ok(Self { stream, input: Vec::new(), at: 0 })
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    pub fn read(&mut self) -> io::Result<Value> {
        loop {
            if let Some((value, length)) = Value::parse(&self.input[self.at..]) {
                self.at += length;
                return Ok(value);
            }
            self.input.drain(..self.at);
            self.at = 0;
            let mut chunk = [0; 16_384];
            match self.stream.read(&mut chunk)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                n => self.input.extend_from_slice(&chunk[..n]),
            }
        }
    }

    pub fn cmd(&mut self, args: &[&str]) -> io::Result<Value> {
        self.send(&encode(args))?;
        self.read()
    }

    /// Whether a read has only found nothing for as long as its patience.
    pub fn is_silence(error: &io::Error) -> bool {
        matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
    }
}
