//! What the proxy answers itself, in a server's own words.

use std::sync::Arc;

use super::Worker;
use super::transaction::Transaction;
use crate::command::{Local, repeat, reply};
use crate::config::SessionConfig;
use crate::error::{ClientError, ErrorKind};
use crate::protocol::{Args, Protocol, write};

/// The version that clients are told while the cluster's own is not known.
const VERSION: &str = "7.0.0";

/// What a client has told of itself, and what it may do.
#[derive(Debug)]
pub(super) struct Client {
    id: u64,
    pub(super) protocol: Protocol,
    /// Whether it may send commands.
    pub(super) authenticated: bool,
    /// What its listener asks of it.
    settings: Arc<SessionConfig>,
    name: Vec<u8>,
    /// What it has queued since MULTI.
    pub(super) transaction: Option<Box<Transaction>>,
    /// What the last error is counted as, if it is no bad argument.
    pub(super) failed: Option<ErrorKind>,
}

impl Client {
    /// A client that has just connected.
    pub(super) fn new(id: u64, settings: Arc<SessionConfig>) -> Self {
        let authenticated = settings.passwords.is_empty();
        Client {
            id,
            protocol: Protocol::Resp2,
            authenticated,
            settings,
            name: Vec::new(),
            transaction: None,
            failed: None,
        }
    }

    /// Whether no password is asked for.
    fn is_open(&self) -> bool {
        self.settings.passwords.is_empty()
    }

    /// Appends the reply to a request that passed [`crate::command::resolve`].
    pub(super) fn answer(&mut self, local: Local, args: &Args<'_>, worker: &Worker, out: &mut Vec<u8>) {
        let resp3 = self.protocol == Protocol::Resp3;
        match local {
            Local::Ping => match args.len() {
                1 => write::simple(out, "PONG"),
                2 => write::bulk(out, args.get(1)),
                _ => write::error(out, "ERR wrong number of arguments for 'ping' command"),
            },
            Local::Echo => write::bulk(out, args.get(1)),
            Local::Quit | Local::Readonly | Local::Readwrite => write::simple(out, "OK"),
            Local::Select => select(args, out),
            Local::Hello => self.hello(args, worker, out),
            Local::Auth => self.auth(args, out),
            Local::Reset => {
                *self = Client::new(self.id, self.settings.clone());
                write::simple(out, "RESET");
            }
            Local::ClientSetname => self.set_name(args.get(2), out),
            Local::ClientGetname if self.name.is_empty() => write::null(out, self.protocol),
            Local::ClientGetname => write::bulk(out, &self.name),
            Local::ClientSetinfo => set_info(args, out),
            Local::ClientId => write::integer(out, self.id as i64),
            Local::Command => reply::command(resp3, out),
            Local::CommandCount => reply::count(out),
            Local::CommandInfo => reply::info(args, resp3, out),
            Local::CommandDocs => reply::docs(args, resp3, out),
            Local::CommandList => reply::list(args, resp3, out),
            Local::CommandGetkeys => reply::getkeys(args, out),
        }
    }

    fn auth(&mut self, args: &Args<'_>, out: &mut Vec<u8>) {
        let (user, password) = match args.len() {
            2 => (None, args.get(1)),
            3 => (Some(args.get(1)), args.get(2)),
            _ => return write::error(out, "ERR syntax error"),
        };
        if self.is_open() && user.is_none() {
            return write::error(
                out,
                "ERR AUTH <password> called without any password configured for the default user. \
                 Are you sure your configuration is correct?",
            );
        }
        if self.login(user, password) {
            write::simple(out, "OK");
        } else {
            ClientError::WrongPass.append_to(out);
        }
    }

    /// As on a server, a default user without a password takes any.
    fn login(&mut self, user: Option<&[u8]>, password: &[u8]) -> bool {
        let admitted = match self.is_open() {
            true => user.is_none_or(|user| user == crate::config::CLIENT_USER.as_bytes()),
            false => self.settings.admits(user, password),
        };
        self.authenticated |= admitted;
        if !admitted {
            self.failed = Some(ErrorKind::WrongPass);
        }
        admitted
    }

    /// HELLO [VERSION [AUTH USER PASSWORD] [SETNAME NAME]]: options count one by one, the version if all are right.
    fn hello(&mut self, args: &Args<'_>, worker: &Worker, out: &mut Vec<u8>) {
        let mut protocol = self.protocol;
        if args.len() > 1 {
            protocol = match crate::protocol::integer(args.get(1)) {
                None => return write::error(out, "ERR Protocol version is not an integer or out of range"),
                Some(2) => Protocol::Resp2,
                Some(3) => Protocol::Resp3,
                Some(_) => return write::error(out, "NOPROTO unsupported protocol version"),
            };
        }
        let mut at = 2;
        while at < args.len() {
            let (option, left) = (args.get(at), args.len() - at - 1);
            if option.eq_ignore_ascii_case(b"AUTH") && left >= 2 {
                if !self.login(Some(args.get(at + 1)), args.get(at + 2)) {
                    return ClientError::WrongPass.append_to(out);
                }
                at += 3;
            } else if option.eq_ignore_ascii_case(b"SETNAME") && left >= 1 {
                if !is_name(args.get(at + 1)) {
                    return write::error(out, BAD_NAME);
                }
                self.name = args.get(at + 1).to_vec();
                at += 2;
            } else {
                return quoting(out, "ERR Syntax error in HELLO option '", option, "'");
            }
        }
        if !self.authenticated {
            self.failed = Some(ErrorKind::NoAuth);
            return write::error(
                out,
                "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO AUTH \
                 <user> <pass> option can be used to authenticate the client and select the RESP protocol \
                 version at the same time",
            );
        }
        self.protocol = protocol;
        self.introduce(&version(worker), out);
    }

    fn introduce(&self, version: &str, out: &mut Vec<u8>) {
        write::map(out, 7, self.protocol);
        for (field, value) in [("server", "redis"), ("version", version)] {
            write::bulk(out, field.as_bytes());
            write::bulk(out, value.as_bytes());
        }
        write::bulk(out, b"proto");
        write::integer(out, if self.protocol == Protocol::Resp3 { 3 } else { 2 });
        write::bulk(out, b"id");
        write::integer(out, self.id as i64);
        for (field, value) in [("mode", "standalone"), ("role", "master")] {
            write::bulk(out, field.as_bytes());
            write::bulk(out, value.as_bytes());
        }
        write::bulk(out, b"modules");
        write::array(out, 0);
    }

    fn set_name(&mut self, name: &[u8], out: &mut Vec<u8>) {
        if !is_name(name) {
            return write::error(out, BAD_NAME);
        }
        self.name = name.to_vec();
        write::simple(out, "OK");
    }
}

/// The cluster's version, as far as it is known.
pub(super) fn version(worker: &Worker) -> String {
    worker.topology.server_version().map_or_else(|| VERSION.to_owned(), |version| (*version).clone())
}

const BAD_NAME: &str = "ERR Client names cannot contain spaces, newlines or special characters.";

/// A server's rule: printable, no space.
fn is_name(name: &[u8]) -> bool {
    name.iter().all(|byte| (b'!'..=b'~').contains(byte))
}

fn set_info(args: &Args<'_>, out: &mut Vec<u8>) {
    let option = args.get(2);
    let Some(known) =
        ["lib-name", "lib-ver"].iter().find(|known| option.eq_ignore_ascii_case(known.as_bytes()))
    else {
        return quoting(out, "ERR Unrecognized option '", option, "'");
    };
    if !is_name(args.get(3)) {
        return write::error(
            out,
            format!("ERR {known} cannot contain spaces, newlines or special characters."),
        );
    }
    write::simple(out, "OK");
}

fn select(args: &Args<'_>, out: &mut Vec<u8>) {
    match crate::protocol::integer(args.get(1)).map(i32::try_from) {
        Some(Ok(0)) => write::simple(out, "OK"),
        Some(Ok(_)) => write::error(out, "ERR SELECT is not allowed in cluster mode"),
        Some(Err(_)) => {
            let (least, most) = (i32::MIN, i32::MAX);
            write::error(out, format!("ERR value is out of range, value must between {least} and {most}"));
        }
        None => write::error(out, "ERR value is not an integer or out of range"),
    }
}

/// An error that repeats what the client wrote.
fn quoting(out: &mut Vec<u8>, before: &str, word: &[u8], after: &str) {
    let mut text = before.as_bytes().to_vec();
    repeat(word, word.len(), &mut text);
    text.extend_from_slice(after.as_bytes());
    write::error(out, text);
}
