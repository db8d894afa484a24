//! Asking one node: one round trip, on a connection that is kept.

use std::io::{Error, ErrorKind};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::names::{self, Names};
use super::options::Options;
use super::shared::ServerName;
use super::view::Info;
use crate::backend::{DialError, Permit, open};
use crate::net::NodeAddr;
use crate::protocol::{Protocol, ReplyFramer, write};

/// One query, its dial included.
const QUERY: Duration = Duration::from_secs(2);
/// The largest answer that is read: a thousand nodes take a fifth of a megabyte.
const MAX_ANSWER: usize = 16 << 20;

/// A connection that is kept for the next query.
#[derive(Debug)]
pub(super) struct Control {
    stream: TcpStream,
    /// Given back behind the stream, when that is closed.
    _permit: Permit,
}

/// How to reach a node.
pub(super) enum Way {
    /// Over the connection that is there.
    Kept(Control),
    /// Over a new one.
    Dial(Permit),
}

/// How a node is asked for further names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Ask {
    /// By CLUSTER SHARDS, since 7.0.
    #[default]
    Shards,
    /// By CLUSTER SLOTS.
    Slots,
}

/// What a node answered.
pub(super) struct Answer {
    /// The text of CLUSTER NODES.
    pub(super) nodes: String,
    pub(super) info: Info,
    /// Further names, if they were asked for; `Err` if the node does not know the command.
    pub(super) names: Option<Result<Names, ()>>,
    /// The whole reply to COMMAND, if that was asked for.
    pub(super) commands: Option<Vec<u8>>,
    /// Told on a new connection only.
    pub(super) server: Option<ServerName>,
    pub(super) connection: Control,
}

/// Asks `node`; once, whatever happens.
///
/// # Errors
/// Those of a dial; an answer that is none.
pub(super) async fn query(
    node: &NodeAddr,
    way: Way,
    options: &Options,
    names: Option<Ask>,
    commands: bool,
) -> Result<Answer, DialError> {
    let asking = async {
        let (mut control, is_new) = match way {
            Way::Kept(control) => (control, false),
            Way::Dial(permit) => {
                let credentials = options.credentials.as_ref();
                let opened =
                    open(node, Protocol::Resp2, 0, credentials, "slotmux-topology", |_| Vec::new(), QUERY)
                        .await?;
                (Control { stream: opened.stream, _permit: permit }, true)
            }
        };
        let mut requests: Vec<&[&str]> = vec![&["CLUSTER", "NODES"], &["CLUSTER", "INFO"]];
        requests.extend(names.map(|ask| match ask {
            Ask::Shards => &["CLUSTER", "SHARDS"][..],
            Ask::Slots => &["CLUSTER", "SLOTS"][..],
        }));
        requests.extend(commands.then_some(&["COMMAND"][..]));
        requests.extend(is_new.then_some(&["HELLO"][..]));
        let mut replies = control.round_trip(&requests).await?.into_iter();
        let mut next = || replies.next().unwrap_or_default();
        let (nodes, info) =
            (text(&next())?, text(&next()).map(|text| Info::parse(&text)).unwrap_or_default());
        let names = names.map(|ask| {
            let read = if ask == Ask::Shards { names::shards } else { names::slots };
            read(&next()).ok_or(())
        });
        let commands = commands.then(&mut next);
        let server = is_new.then(|| ServerName::parse(&String::from_utf8_lossy(&next()))).flatten();
        Ok(Answer { nodes, info, names, commands, server, connection: control })
    };
    timeout(QUERY, asking).await.unwrap_or(Err(DialError::Timeout))
}

/// The text of a bulk string; an error is an error.
fn text(reply: &[u8]) -> Result<String, DialError> {
    let reply = String::from_utf8_lossy(reply);
    match reply.split_once("\r\n") {
        Some((head, text)) if head.starts_with('$') => Ok(text.trim_end_matches("\r\n").to_owned()),
        _ => Err(DialError::Protocol(reply.trim_end().chars().take(200).collect())),
    }
}

impl ServerName {
    /// Reads HELLO's reply; nothing from servers so old that they do not know HELLO.
    fn parse(hello: &str) -> Option<Self> {
        let field = |name| hello.lines().skip_while(|line| *line != name).nth(2).map(str::to_owned);
        Some(ServerName { product: field("server")?, version: field("version")? })
    }
}

impl Control {
    /// Whether the node has neither closed the connection nor sent what nobody asked for.
    pub(super) fn is_open(&self) -> bool {
        self.stream.try_read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    /// Sends requests in one write; their whole replies as they came.
    async fn round_trip(&mut self, requests: &[&[&str]]) -> Result<Vec<Vec<u8>>, DialError> {
        let mut bytes = Vec::new();
        for request in requests {
            write::request(&mut bytes, request.iter().map(|arg| arg.as_bytes()));
        }
        self.stream.write_all(&bytes).await?;
        let (mut input, mut framer, mut replies) = (Vec::new(), ReplyFramer::default(), Vec::new());
        while replies.len() < requests.len() {
            match framer.next(&input).map_err(|error| DialError::Protocol(error.to_string()))? {
                Some(len) => {
                    let rest = input.split_off(len);
                    replies.push(std::mem::replace(&mut input, rest));
                    continue;
                }
                None if input.len() > MAX_ANSWER => {
                    return Err(DialError::Protocol("an endless reply".into()));
                }
                None => {}
            }
            // At once for as much as is known to come, so that a long answer is not read in little pieces.
            // No more than the bound is believed, and there is always room for a little.
            let wanted = framer.wants().min(MAX_ANSWER).saturating_sub(input.len());
            input.reserve(wanted.max(4096));
            if self.stream.read_buf(&mut input).await? == 0 {
                return Err(Error::from(ErrorKind::UnexpectedEof).into());
            }
        }
        Ok(replies)
    }
}
