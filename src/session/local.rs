//! What the proxy answers itself, in a server's own words.

use std::sync::Arc;

use super::about::{is_switch, set_info, tracking};
use super::database;
use super::planner::Planner;
use super::transaction::Transaction;
use super::{Session, Worker};
use crate::command::{Local, Spec, repeat, reply};
use crate::config::SessionConfig;
use crate::error::{ClientError, ErrorKind};
use crate::protocol::{Args, Protocol, write};
use crate::topology::ServerName;

/// What clients are told that the servers are while those have not said it.
const SERVER: (&str, &str) = ("redis", "7.0.0");

/// What a client has told of itself, and what it may do.
#[derive(Debug)]
pub(super) struct Client {
    id: u64,
    pub(super) protocol: Protocol,
    /// Whether it may send commands.
    pub(super) authenticated: bool,
    /// What its listener asks of it.
    settings: Arc<SessionConfig>,
    /// What it has queued since MULTI.
    pub(super) transaction: Option<Box<Transaction>>,
    /// What the last error is counted as, if it is no bad argument.
    pub(super) failed: Option<ErrorKind>,
}

impl Client {
    /// A client that has just connected.
    pub(super) fn new(id: u64, settings: Arc<SessionConfig>) -> Self {
        let authenticated = settings.passwords.is_empty();
        Client { id, protocol: Protocol::Resp2, authenticated, settings, transaction: None, failed: None }
    }

    /// Whether no password is asked for.
    fn is_open(&self) -> bool {
        self.settings.passwords.is_empty()
    }

    /// Answers a request that is no part of a transaction.
    #[inline(never)]
    pub(super) fn answer_alone(
        &mut self,
        local: Local,
        spec: &'static Spec,
        args: &Args<'_>,
        planner: &mut Planner<'_>,
    ) {
        let mut reply = Vec::new();
        self.answer(local, args, planner, &mut reply);
        planner.session.about.log_in(self.authenticated, planner.now);
        if reply.first() == Some(&b'-') {
            let kind = self.failed.take().unwrap_or(ErrorKind::BadArgument);
            planner.session.worker.backend.metrics.error(Some(spec.id), kind);
        }
        planner.protocol = self.protocol;
        if planner.state.subscriptions.is_some() {
            return planner.changed(spec, local == Local::Reset, reply.into());
        }
        planner.answer(Some(spec), reply.into());
    }

    /// Appends the reply to a request that passed [`crate::command::resolve`].
    pub(super) fn answer(
        &mut self,
        local: Local,
        args: &Args<'_>,
        planner: &mut Planner<'_>,
        out: &mut Vec<u8>,
    ) {
        let (resp3, session) = (self.protocol == Protocol::Resp3, planner.session);
        let (worker, about) = (&*session.worker, &session.about);
        match local {
            Local::Ping => match args.len() {
                1 => write::simple(out, "PONG"),
                2 => write::bulk(out, args.get(1)),
                _ => write::error(out, "ERR wrong number of arguments for 'ping' command"),
            },
            Local::AclWhoami => write::bulk(out, crate::config::CLIENT_USER.as_bytes()),
            Local::Echo => write::bulk(out, args.get(1)),
            Local::Quit | Local::Asking | Local::Readonly | Local::Readwrite => write::simple(out, "OK"),
            Local::Select => select(args, session, out),
            Local::Hello => self.hello(args, session, out),
            Local::Auth => self.auth(args, out),
            Local::Reset => self.reset(planner, out),
            Local::ClientReply => self.reply(args, planner, out),
            Local::ClientSetname => about.set_name(args.get(2), out),
            Local::ClientGetname => about.write_name(self.protocol, out),
            Local::ClientGetredir => write::integer(out, -1),
            Local::ClientInfo => session.info(planner.state, self.protocol, out),
            Local::ClientNoEvict => about.set_no_evict(args.get(2), out),
            Local::ClientNoTouch if is_switch(args.get(2)) => write::simple(out, "OK"),
            Local::ClientNoTouch => write::error(out, "ERR syntax error"),
            Local::ClientTrackinginfo => tracking(self.protocol, out),
            Local::ClientSetinfo => set_info(args, out),
            Local::ClientId => write::integer(out, self.id as i64),
            Local::Cluster(what) => super::cluster::answer(what, args, session, self.protocol, out),
            Local::Slowlog(what) => worker.control.slowlog.answer(what, args, out),
            Local::Command => reply::command(&worker.topology.learned(), resp3, out),
            Local::CommandCount => reply::count(&worker.topology.learned(), out),
            Local::CommandInfo => reply::info(&worker.topology.learned(), args, resp3, out),
            Local::CommandList => reply::list(&worker.topology.learned(), args, resp3, out),
            Local::CommandGetkeys => reply::getkeys(&worker.topology.learned(), args, out),
        }
    }

    /// RESET: the client is what it was when it had just connected.
    fn reset(&mut self, planner: &mut Planner<'_>, out: &mut Vec<u8>) {
        *self = Client::new(self.id, self.settings.clone());
        planner.state.replies.reset();
        planner.session.about.reset();
        planner.session.watch.take();
        planner.session.select(0);
        write::simple(out, "RESET");
    }

    fn reply(&mut self, args: &Args<'_>, planner: &mut Planner<'_>, out: &mut Vec<u8>) {
        if !planner.state.replies.choose(args.get(2)) {
            write::error(out, "ERR syntax error");
        } else if planner.state.replies.are_all() {
            write::simple(out, "OK");
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
    fn hello(&mut self, args: &Args<'_>, session: &Session, out: &mut Vec<u8>) {
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
                if let Err(error) = session.about.rename(args.get(at + 1)) {
                    return write::error(out, error);
                }
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
        session.about.resp3.set(protocol == Protocol::Resp3);
        self.introduce(&server_name(&session.worker), out);
    }

    fn introduce(&self, server: &ServerName, out: &mut Vec<u8>) {
        write::map(out, 7, self.protocol);
        for (field, value) in [("server", &server.product), ("version", &server.version)] {
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
}

/// What the cluster's servers are, as far as it is known.
pub(super) fn server_name(worker: &Worker) -> Arc<ServerName> {
    let (product, version) = SERVER;
    let unknown = || ServerName { product: product.to_owned(), version: version.to_owned() }.into();
    worker.topology.server_name().unwrap_or_else(unknown)
}

/// SELECT within MULTI: the whole transaction is on links of one database.
fn select(args: &Args<'_>, session: &Session, out: &mut Vec<u8>) {
    match database::number(args) {
        Ok(number) if i64::from(number) == i64::from(session.affinity.get().apart.database) => {
            write::simple(out, "OK")
        }
        Ok(_) => write::error(out, "ERR SELECT of another database is not available within MULTI here"),
        Err(text) => write::error(out, text),
    }
}

/// An error that repeats what the client wrote.
pub(super) fn quoting(out: &mut Vec<u8>, before: &str, word: &[u8], after: &str) {
    let mut text = before.as_bytes().to_vec();
    repeat(word, word.len(), &mut text);
    text.extend_from_slice(after.as_bytes());
    write::error(out, text);
}
