//! A real server as a child process, and a client of it that reads any reply.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A node of a cluster of one without any slot, in a folder of its own; it ends with this value.
pub(crate) struct Server {
    child: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Server {
    /// Starts it and waits until it answers.
    pub(crate) fn start() -> Server {
        // Somebody else may take the free port first: then the child ends at once, and another port is tried.
        (0..10).find_map(|_| Server::try_start()).expect("redis-server does not start")
    }

    fn try_start() -> Option<Server> {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        // The cluster bus takes the port above by ten thousand.
        if port > 55_535 {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let child = Command::new("redis-server")
            .args([
                "--port",
                &port.to_string(),
                "--bind",
                "127.0.0.1",
                "--cluster-enabled",
                "yes",
                "--save",
                "",
            ])
            .arg("--dir")
            .arg(folder.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is not installed");
        let mut server = Server { child, port, _folder: folder };
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline && server.child.try_wait().unwrap().is_none() {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                server.client().call(&["PING"]);
                return Some(server);
            }
            std::thread::yield_now();
        }
        None
    }

    /// A new connection.
    pub(crate) fn client(&self) -> Client {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_nodelay(true).unwrap();
        Client { input: BufReader::new(stream) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection to the server.
pub(crate) struct Client {
    input: BufReader<TcpStream>,
}

impl Client {
    /// Sends one request and reads its reply.
    pub(crate) fn call<W: AsRef<[u8]>>(&mut self, words: &[W]) -> Value {
        self.send(words);
        Value::read(&mut self.input)
    }

    /// The bytes of an error reply between its `-` and its line's end.
    pub(crate) fn call_for_error<W: AsRef<[u8]>>(&mut self, words: &[W]) -> Vec<u8> {
        self.send(words);
        let line = line(&mut self.input);
        assert_eq!(line[0], b'-', "{}", String::from_utf8_lossy(&line));
        line[1..].to_vec()
    }

    fn send<W: AsRef<[u8]>>(&mut self, words: &[W]) {
        let mut request = format!("*{}\r\n", words.len()).into_bytes();
        for word in words.iter().map(AsRef::as_ref) {
            request.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            request.extend_from_slice(word);
            request.extend_from_slice(b"\r\n");
        }
        self.input.get_mut().write_all(&request).unwrap();
    }
}

/// A reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Simple(String),
    Error(String),
    Integer(i64),
    Bulk(Vec<u8>),
    Null,
    Array(Vec<Value>),
    Set(Vec<Value>),
    Map(Vec<Value>),
}

impl Value {
    /// Exactly one reply.
    pub(crate) fn parse(mut bytes: &[u8]) -> Value {
        let value = Value::read(&mut bytes);
        assert!(bytes.is_empty(), "{} bytes too many", bytes.len());
        value
    }

    fn read(input: &mut impl BufRead) -> Value {
        let line = line(input);
        let text = || String::from_utf8_lossy(&line[1..]).into_owned();
        let number = || text().parse::<i64>().unwrap();
        let mut items = |count: i64| (0..count).map(|_| Value::read(input)).collect();
        match line[0] {
            b'+' => Value::Simple(text()),
            b'-' => Value::Error(text()),
            b':' => Value::Integer(number()),
            b'_' => Value::Null,
            b'$' | b'*' if number() < 0 => Value::Null,
            b'*' => Value::Array(items(number())),
            b'~' => Value::Set(items(number())),
            b'%' => Value::Map(items(2 * number())),
            b'$' => {
                let mut bytes = vec![0; number() as usize + 2];
                input.read_exact(&mut bytes).unwrap();
                bytes.truncate(bytes.len() - 2);
                Value::Bulk(bytes)
            }
            other => panic!("a reply of type {other}"),
        }
    }

    /// The bytes of a text.
    pub(crate) fn text(&self) -> &[u8] {
        match self {
            Value::Bulk(bytes) => bytes,
            Value::Simple(text) => text.as_bytes(),
            other => panic!("{other:?} is no text"),
        }
    }

    /// Whether it is this bulk string.
    pub(crate) fn is_text(&self, text: &[u8]) -> bool {
        matches!(self, Value::Bulk(bytes) if bytes == text)
    }

    /// The number that it is.
    pub(crate) fn integer(&self) -> i64 {
        match self {
            Value::Integer(number) => *number,
            other => panic!("{other:?} is no number"),
        }
    }
}

fn line(input: &mut impl BufRead) -> Vec<u8> {
    let mut line = Vec::new();
    input.read_until(b'\n', &mut line).unwrap();
    assert!(line.ends_with(b"\r\n"), "the connection was closed");
    line.truncate(line.len() - 2);
    line
}
