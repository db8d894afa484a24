//! A blocking client that sees the bytes.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs},
    time::Duration,
};

use super::Value;

/// How long a reply may take, unless the test says otherwise.
const PATIENCE: Duration = Duration::from_secs(40);

/// One connection, to the proxy or to a server.
pub struct Client {
    stream: TcpStream,
    input: Vec<u8>,
}

impl Client {
    #[track_caller]
    pub fn connect(addr: impl ToSocketAddrs) -> Self {
        Self::over(TcpStream::connect(addr).expect("the server accepts"))
    }

    fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("TCP_NODELAY");
        let mut client = Self { stream, input: Vec::new() };
        client.patience(PATIENCE);
        client
    }

    /// A connection, if somebody listens there.
    pub fn try_connect(addr: impl ToSocketAddrs) -> Option<Self> {
        TcpStream::connect(addr).ok().map(Self::over)
    }

    /// For how long a read may find nothing.
    pub fn patience(&mut self, limit: Duration) {
        self.stream.set_read_timeout(Some(limit)).expect("SO_RCVTIMEO");
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.stream.local_addr().expect("a connected socket has an address")
    }

    /// Sends a command and reads its reply.
    #[track_caller]
    pub fn cmd<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Value {
        self.send(args);
        self.read_value()
    }

    /// Sends a command.
    #[track_caller]
    pub fn send<A: AsRef<[u8]>>(&mut self, args: &[A]) {
        self.send_raw(encode(args));
    }

    /// Sends all commands in one write and then reads all replies.
    #[track_caller]
    pub fn pipeline<C: AsRef<[A]>, A: AsRef<[u8]>>(&mut self, commands: &[C]) -> Vec<Value> {
        let bytes: Vec<u8> = commands.iter().flat_map(|command| encode(command.as_ref())).collect();
        self.send_raw(&bytes);
        self.read_values(commands.len())
    }

    #[track_caller]
    pub fn send_raw(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("the server reads");
    }

    #[track_caller]
    pub fn read_value(&mut self) -> Value {
        loop {
            if let Some((value, length)) = Value::parse(&self.input) {
                self.input.drain(..length);
                return value;
            }
            self.fill();
        }
    }

    #[track_caller]
    pub fn read_values(&mut self, n: usize) -> Vec<Value> {
        (0..n).map(|_| self.read_value()).collect()
    }

    /// The next `n` bytes, as they are.
    #[track_caller]
    pub fn read_exact_raw(&mut self, n: usize) -> Vec<u8> {
        while self.input.len() < n {
            self.fill();
        }
        self.input.drain(..n).collect()
    }

    /// All bytes until the server closes.
    #[track_caller]
    pub fn read_to_end_raw(&mut self) -> Vec<u8> {
        match self.stream.read_to_end(&mut self.input) {
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::ConnectionReset => {}
            Err(e) => panic!("the server does not close: {e}; read so far: {}", show(&self.input)),
        }
        std::mem::take(&mut self.input)
    }

    /// Asserts that nothing arrives for this long.
    #[track_caller]
    pub fn expect_silence(&mut self, length: Duration) {
        self.patience(length);
        let mut byte = [0; 64];
        let got = if self.input.is_empty() { self.stream.read(&mut byte) } else { Ok(0) };
        match got {
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            other => panic!("no silence: {other:?} {}{}", show(&self.input), show(&byte)),
        }
        self.patience(PATIENCE);
    }

    /// Closes the sending side, as `printf … | nc` does.
    pub fn finish_sending(&mut self) {
        self.stream.shutdown(Shutdown::Write).expect("the connection is open");
    }

    /// Closes with RST.
    pub fn reset(self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    #[track_caller]
    fn fill(&mut self) {
        let mut chunk = [0; 65_536];
        match self.stream.read(&mut chunk) {
            Ok(0) => panic!("the server closed; read so far: {}", show(&self.input)),
            Ok(n) => self.input.extend_from_slice(&chunk[..n]),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => panic!("no reply: {e}; read so far: {}", show(&self.input)),
        }
    }
}

/// A command as RESP.
pub fn encode<A: AsRef<[u8]>>(args: &[A]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        let arg = arg.as_ref();
        bytes.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        bytes.extend_from_slice(arg);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

fn show(bytes: &[u8]) -> String {
    bytes[..bytes.len().min(400)].escape_ascii().to_string()
}
