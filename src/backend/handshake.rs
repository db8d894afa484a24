//! Opening a connection to a node: connect, authenticate, choose the protocol, name it.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::link::OldLink;
use crate::config::{ClusterAuth, Secret};
use crate::net::{NodeAddr, tune_node};
use crate::protocol::{Protocol, ReplyFramer, write};

/// What is sent behind the login; the connection's name follows SETNAME.
const BEHIND_LOGIN: [&[&str]; 3] = [&["CLIENT", "SETNAME"], &["CLIENT", "ID"], &["INFO", "server"]];
/// The largest answer that is read in a handshake: HELLO and a line of CLIENT LIST are some hundred bytes.
const MAX_REPLY: usize = 64 * 1024;
/// So many old links are asked about at once: a line of CLIENT LIST for each.
const OLD_AT_ONCE: usize = 64;

/// Why a node can't be used now. None of a command's bytes were sent.
#[derive(Debug)]
pub enum DialError {
    /// The connection could not be made, or ended in the handshake.
    Io(io::Error),
    /// Nothing came within `connect_timeout`.
    Timeout,
    /// The node wants another password or user: its own words.
    Auth(String),
    /// The node has no room for more clients.
    MaxClients,
    /// The node does not have the database: its own words.
    Database(String),
    /// The node answered something else than a Redis server does.
    Protocol(String),
}

impl DialError {
    /// The label for metrics.
    pub fn kind(&self) -> crate::metrics::DialFailure {
        use crate::metrics::DialFailure;
        match self {
            Self::Io(_) => DialFailure::Refused,
            Self::Timeout => DialFailure::Timeout,
            Self::Auth(_) => DialFailure::Auth,
            Self::MaxClients => DialFailure::MaxClients,
            Self::Database(_) | Self::Protocol(_) => DialFailure::Other,
        }
    }
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Timeout => f.write_str("no answer within connect_timeout"),
            Self::Auth(text) => write!(f, "the node refused the password or user: {text}"),
            Self::MaxClients => f.write_str("the node has reached its max number of clients"),
            Self::Database(text) => write!(f, "the node refused to select the database: {text}"),
            Self::Protocol(text) => write!(f, "unexpected answer in the handshake: {text}"),
        }
    }
}

impl From<io::Error> for DialError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A connection that is ready for commands.
#[derive(Debug)]
pub struct Opened {
    /// The connection itself, with nothing unread.
    pub stream: TcpStream,
    /// What the node told; nothing if it runs a script, and refuses all until that is over.
    pub told: Option<Told>,
    /// The old links that are no more, by the node's numbers.
    pub killed: HashSet<u64>,
}

/// What a node tells of a connection, and of itself.
#[derive(Debug)]
pub struct Told {
    /// The node's number for the connection, if it tells: with it the connection can be killed from another one.
    pub client_id: Option<u64>,
    /// What the node said of itself.
    pub server: Server,
}

impl Told {
    /// Reads the replies to CLIENT ID and INFO server.
    pub fn parse(id: &[u8], info: &[u8]) -> Option<Self> {
        if id.starts_with(b"-BUSY") {
            return None;
        }
        let id = id.strip_prefix(b":").and_then(|id| std::str::from_utf8(id).ok()?.trim_end().parse().ok());
        Some(Told { client_id: id, server: Server::parse(info) })
    }
}

/// What a node says of itself when a connection is opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Server {
    /// Names the process: another one hashes its keys in another order. Empty if the node does not tell.
    pub run_id: Box<str>,
    /// It keeps a table for each slot and scans slot by slot: Redis since 7.4, Valkey since 8.
    pub scans_by_slot: bool,
}

impl Server {
    /// Reads the reply to INFO server.
    fn parse(info: &[u8]) -> Self {
        let info = String::from_utf8_lossy(info);
        let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let version = |name| {
            let mut numbers = field(name)?.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
            Some((numbers.next()?, numbers.next()?))
        };
        let scans_by_slot = version("valkey_version").is_some_and(|version| version >= (8, 0))
            || version("redis_version").is_some_and(|version| version >= (7, 4));
        Server { run_id: field("run_id").unwrap_or_default().trim().into(), scans_by_slot }
    }
}

/// Connects to `addr` and makes the connection ready for commands of clients that speak `protocol` and have selected
/// `database`.
///
/// `old` tells which links to the same node were given up with writes in doubt, besides those with these numbers. They
/// are killed there first, so that a node that had been stopped can't execute those writes after later ones.
///
/// # Errors
/// See [`DialError`]; no command was sent.
pub async fn open(
    addr: &NodeAddr,
    protocol: Protocol,
    database: u32,
    credentials: Option<&ClusterAuth>,
    name: &str,
    old: impl Fn(&HashSet<u64>) -> Vec<OldLink>,
    limit: Duration,
) -> Result<Opened, DialError> {
    let opening = async {
        let stream = TcpStream::connect((&*addr.host, addr.port)).await?;
        tune_node(&stream)?;
        let mut talk = Talk { stream, input: Vec::new(), framer: ReplyFramer::default() };
        let told = talk.introduce(protocol, credentials, name).await?;
        let client_id = told.as_ref().and_then(|told| told.client_id);
        if database != 0 {
            talk.select(database).await?;
        }
        let mut killed = HashSet::new();
        loop {
            // Others may end while these are killed.
            let more = old(&killed);
            if more.is_empty() {
                break;
            }
            talk.kill(&more, client_id).await?;
            killed.extend(more.iter().map(|old| old.client_id));
        }
        if !talk.input.is_empty() {
            return Err(DialError::Protocol("more replies than requests".into()));
        }
        Ok(Opened { stream: talk.stream, told, killed })
    };
    timeout(limit, opening).await.unwrap_or(Err(DialError::Timeout))
}

/// A connection on which requests are answered one by one.
struct Talk {
    stream: TcpStream,
    input: Vec<u8>,
    framer: ReplyFramer,
}

impl Talk {
    /// Tries one password after the other; a refused one leaves the connection as it was.
    async fn introduce(
        &mut self,
        protocol: Protocol,
        credentials: Option<&ClusterAuth>,
        name: &str,
    ) -> Result<Option<Told>, DialError> {
        let user = credentials.and_then(|credentials| credentials.user.as_deref());
        let passwords = credentials.iter().flat_map(|credentials| &credentials.passwords);
        let passwords: Vec<&[u8]> = passwords.map(Secret::as_bytes).collect();
        let Some((last, others)) = passwords.split_last() else {
            return self.introduce_with(first_request(protocol, None, None), name).await;
        };
        for password in others {
            match self.introduce_with(first_request(protocol, user, Some(password)), name).await {
                Err(DialError::Auth(text)) if !text.starts_with("DENIED") => {
                    // What was sent behind the login is answered too.
                    for _ in BEHIND_LOGIN {
                        self.reply().await?;
                    }
                }
                other => return other,
            }
        }
        self.introduce_with(first_request(protocol, user, Some(last)), name).await
    }

    async fn introduce_with(
        &mut self,
        first: Option<Vec<&[u8]>>,
        name: &str,
    ) -> Result<Option<Told>, DialError> {
        let mut requests = Vec::new();
        if let Some(first) = &first {
            write::request(&mut requests, first.iter().copied());
        }
        introduction(&mut requests, name);
        self.stream.write_all(&requests).await?;
        if first.is_some() {
            let reply = self.reply().await?;
            check(&reply)?;
        }
        // A name is a courtesy to who reads CLIENT LIST: an ACL may forbid it.
        let named = self.reply().await?;
        let (id, info) = (self.reply().await?, self.reply().await?);
        for reply in [&named, &id] {
            if reply.starts_with(b"-NOAUTH") {
                check(reply)?;
            }
        }
        Ok(Told::parse(&id, &info))
    }

    /// Kills links that were given up with writes in doubt, those that are still there.
    async fn kill(&mut self, old: &[OldLink], own_id: Option<u64>) -> Result<(), DialError> {
        // A node that was restarted counts from 1 again: a higher number may be another client's by now.
        let old: Vec<&OldLink> =
            old.iter().filter(|old| own_id.is_none_or(|own| own > old.client_id)).collect();
        for old in old.chunks(OLD_AT_ONCE) {
            let ids: Vec<String> = old.iter().map(|old| old.client_id.to_string()).collect();
            let words: Vec<&str> =
                ["CLIENT", "LIST", "ID"].into_iter().chain(ids.iter().map(String::as_str)).collect();
            let listed = self.ask(&words).await?;
            let is_error = listed.first() == Some(&b'-');
            let is_there = |old: &OldLink| {
                is_error || memchr::memmem::find(&listed, format!(" name={} ", old.name).as_bytes()).is_some()
            };
            let (mut requests, mut kills) = (Vec::new(), 0);
            for (_, id) in old.iter().zip(&ids).filter(|(old, _)| is_there(old)) {
                command(&mut requests, &["CLIENT", "KILL", "ID", id]);
                kills += 1;
            }
            self.stream.write_all(&requests).await?;
            for _ in 0..kills {
                if self.reply().await?.starts_with(b"-NOPERM") {
                    tracing::warn!(
                        "the node does not allow CLIENT KILL: a write in doubt may be executed after a later one"
                    );
                }
            }
        }
        Ok(())
    }

    async fn select(&mut self, database: u32) -> Result<(), DialError> {
        let reply = self.ask(&["SELECT", &database.to_string()]).await?;
        let Some(error) = reply.strip_prefix(b"-") else { return Ok(()) };
        Err(DialError::Database(String::from_utf8_lossy(error).trim_end().to_owned()))
    }

    async fn ask(&mut self, args: &[&str]) -> Result<Vec<u8>, DialError> {
        let mut request = Vec::new();
        command(&mut request, args);
        self.stream.write_all(&request).await?;
        self.reply().await
    }

    async fn reply(&mut self) -> Result<Vec<u8>, DialError> {
        loop {
            match self.framer.next(&self.input) {
                Ok(Some(len)) => return Ok(self.input.drain(..len).collect()),
                Ok(None) => {}
                Err(error) => return Err(DialError::Protocol(error.to_string())),
            }
            if self.input.len() > MAX_REPLY {
                return Err(DialError::Protocol("an endless reply".into()));
            }
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
    }
}

/// What is asked behind the login: for the name, [`Told`] for the rest.
pub(super) fn introduction(out: &mut Vec<u8>, name: &str) {
    for words in BEHIND_LOGIN {
        let named = words.contains(&"SETNAME").then_some(name);
        command(out, &words.iter().copied().chain(named).collect::<Vec<_>>());
    }
}

/// What must succeed before anything else is sent.
fn first_request<'a>(
    protocol: Protocol,
    user: Option<&'a str>,
    password: Option<&'a [u8]>,
) -> Option<Vec<&'a [u8]>> {
    let user = user.map(str::as_bytes);
    match (protocol, user, password) {
        (Protocol::Resp2, _, None) => None,
        (Protocol::Resp2, None, Some(password)) => Some(vec![b"AUTH", password]),
        (Protocol::Resp2, Some(user), Some(password)) => Some(vec![b"AUTH", user, password]),
        (Protocol::Resp3, _, None) => Some(vec![b"HELLO", b"3"]),
        (Protocol::Resp3, user, Some(password)) => {
            Some(vec![b"HELLO", b"3", b"AUTH", user.unwrap_or(b"default"), password])
        }
    }
}

fn check(reply: &[u8]) -> Result<(), DialError> {
    let Some(error) = reply.strip_prefix(b"-") else { return Ok(()) };
    let text = String::from_utf8_lossy(error).trim_end().to_owned();
    Err(match text.split(' ').next().unwrap_or_default() {
        // The cluster's password was taken away: the node lets everybody in.
        _ if text.contains("without any password configured") => return Ok(()),
        "NOAUTH" | "WRONGPASS" | "NOPERM" | "DENIED" => DialError::Auth(text),
        _ if text.starts_with("ERR max number of clients") => DialError::MaxClients,
        _ if text.starts_with("ERR invalid password") => DialError::Auth(text),
        _ => DialError::Protocol(text),
    })
}

fn command(out: &mut Vec<u8>, args: &[&str]) {
    write::request(out, args.iter().map(|arg| arg.as_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    /// Opens a connection to a node that takes only `right`; what came of it, and how many requests it saw.
    async fn dial(
        protocol: Protocol,
        right: &'static str,
        passwords: &[&str],
    ) -> (Result<(), String>, usize) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = NodeAddr::new("127.0.0.1", listener.local_addr().unwrap().port());
        let node = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (mut input, mut logins, mut is_in) = (Vec::new(), 0, false);
            while stream.read_buf(&mut input).await.unwrap_or(0) > 0 {
                if !input.ends_with(b"server\r\n") {
                    continue;
                }
                let text = String::from_utf8(std::mem::take(&mut input)).unwrap();
                for request in text.split('*').filter(|request| !request.is_empty()) {
                    let reply = if request.contains("AUTH") {
                        logins += 1;
                        is_in = request.ends_with(&format!("\r\n{right}\r\n"));
                        if is_in { "+OK\r\n" } else { "-WRONGPASS invalid\r\n" }
                    } else if is_in {
                        ":7\r\n"
                    } else {
                        "-NOAUTH Authentication required.\r\n"
                    };
                    _ = stream.write_all(reply.as_bytes()).await;
                }
            }
            logins
        });
        let passwords = passwords.iter().map(|password| Secret::new(password.as_bytes())).collect();
        let credentials = ClusterAuth { user: None, passwords };
        let opened =
            open(&addr, protocol, 0, Some(&credentials), "x", |_| Vec::new(), Duration::from_secs(10)).await;
        let result = opened
            .map(|opened| assert_eq!(opened.told.unwrap().client_id, Some(7)))
            .map_err(|e| e.to_string());
        (result, node.await.unwrap())
    }

    #[test]
    fn a_server_says_which_process_it_is_and_how_it_scans() {
        let parse = |text: &str| Server::parse(format!("$1\r\n# Server\r\n{text}\r\n\r\n").as_bytes());
        let server = parse("redis_version:7.0.15\r\nrun_id:48bee");
        assert_eq!(server, Server { run_id: "48bee".into(), scans_by_slot: false });
        assert!(!parse("redis_version:7.2.4\r\nserver_name:valkey").scans_by_slot);
        assert!(parse("redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.0.1").scans_by_slot);
        assert!(parse("redis_version:7.4.0").scans_by_slot && parse("redis_version:8.0.0").scans_by_slot);
        assert_eq!(Server::parse(b"-NOPERM\r\n"), Server::default());
    }

    #[tokio::test]
    async fn passwords_are_tried_in_order_on_the_same_connection() {
        for protocol in [Protocol::Resp2, Protocol::Resp3] {
            assert_eq!(dial(protocol, "new", &["new", "old"]).await, (Ok(()), 1));
            assert_eq!(dial(protocol, "old", &["new", "older", "old"]).await, (Ok(()), 3));
            let (refused, logins) = dial(protocol, "other", &["new", "old"]).await;
            assert!(refused.unwrap_err().contains("WRONGPASS") && logins == 2);
        }
    }
}
