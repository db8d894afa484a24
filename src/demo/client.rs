//! A blocking RESP2 client, just large enough to build a cluster with.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::Duration,
};

/// How long a server may take to accept or to answer. The commands that build a cluster answer at once;
/// what takes longer is a stopped process.
const PATIENCE: Duration = Duration::from_secs(2);

/// One connection to a server on 127.0.0.1.
pub(super) struct Client(BufReader<TcpStream>);

/// A reply in RESP2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// `+OK`
    Status(String),
    /// `-ERR …`, without the dash.
    Error(String),
    /// `:1`
    Integer(i64),
    /// `$…`; `None` is the null bulk string.
    Bulk(Option<Vec<u8>>),
    /// `*…`; `None` is the null array.
    Array(Option<Vec<Reply>>),
}

impl Reply {
    /// The text of a status, an error, an integer or a bulk string; empty for a null and for an array.
    pub fn text(&self) -> String {
        match self {
            Self::Status(text) | Self::Error(text) => text.clone(),
            Self::Integer(n) => n.to_string(),
            Self::Bulk(Some(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
            Self::Bulk(None) | Self::Array(_) => String::new(),
        }
    }
}

impl Client {
    /// Connects to `port`, and authenticates if there is a password.
    pub(super) fn connect(port: u16, password: Option<&str>) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        let mut client = Self(BufReader::new(stream));
        if let Some(password) = password
            && let Reply::Error(text) = client.call(&["AUTH", password])?
        {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
        Ok(client)
    }

    /// Sends one command and reads its reply.
    pub(super) fn call(&mut self, args: &[&str]) -> io::Result<Reply> {
        let mut request = format!("*{}\r\n", args.len());
        for arg in args {
            request.push_str(&format!("${}\r\n{arg}\r\n", arg.len()));
        }
        self.0.get_mut().write_all(request.as_bytes())?;
        self.reply()
    }

    fn reply(&mut self) -> io::Result<Reply> {
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        let line = line.strip_suffix("\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
        let (kind, rest) = line.split_at_checked(1).ok_or(io::ErrorKind::InvalidData)?;
        let number = || rest.parse::<i64>().map_err(io::Error::other);
        Ok(match kind {
            "+" => Reply::Status(rest.to_owned()),
            "-" => Reply::Error(rest.to_owned()),
            ":" => Reply::Integer(number()?),
            "$" => Reply::Bulk(match usize::try_from(number()?) {
                Ok(length) => Some(self.bulk(length)?),
                Err(_) => None,
            }),
            "*" => Reply::Array(match usize::try_from(number()?) {
                Ok(length) => Some((0..length).map(|_| self.reply()).collect::<io::Result<_>>()?),
                Err(_) => None,
            }),
            _ => return Err(io::ErrorKind::InvalidData.into()),
        })
    }

    fn bulk(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length + 2];
        self.0.read_exact(&mut bytes)?;
        bytes.truncate(length);
        Ok(bytes)
    }
}
