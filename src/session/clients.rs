//! CLIENT LIST, KILL, PAUSE, UNPAUSE and UNBLOCK: what is about all clients of the process that use the same cluster.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::spawn_local;

use super::control::{Ask, Pause};
use super::local::quoting;
use super::planner::Planner;
use super::{Order, Session};
use crate::command::{Clients, Spec};
use crate::config::CLIENT_USER;
use crate::error::ErrorKind;
use crate::protocol::{Args, Protocol, integer, write};

/// Which clients are meant; all that is given must hold.
#[derive(Debug, Default)]
pub(super) struct Filter {
    ids: Option<Ids>,
    addr: Option<Vec<u8>>,
    laddr: Option<Vec<u8>>,
    kind: Option<Kind>,
    /// At least so many seconds old.
    age: Option<u64>,
    not: Option<u64>,
}

/// Some clients' numbers: there may be very many, one of them very often.
#[derive(Debug)]
struct Ids {
    asked: Vec<u64>,
    sorted: Vec<u64>,
}

impl Ids {
    fn new(asked: Vec<u64>) -> Self {
        let mut sorted = asked.clone();
        sorted.sort_unstable();
        Ids { asked, sorted }
    }
}

/// What a server calls the type of a client. Masters and replicas are none of a proxy's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Normal,
    Pubsub,
    Replication,
}

/// A client that was meant, and its line if that was asked for.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) id: u64,
    pub(super) line: Vec<u8>,
}

impl Session {
    /// This client, if it is meant.
    pub(super) fn find(&self, filter: &Filter, with_line: bool) -> Option<Found> {
        let state = self.state.borrow();
        let now = self.worker.backend.clock.tick();
        let is = |wanted: &Option<Vec<u8>>, text: String| {
            wanted.as_ref().is_none_or(|wanted| *wanted == text.into_bytes())
        };
        let subscribes = state.subscriptions.as_ref().is_some_and(|own| own.counts() != [0; 3]);
        let kind = if subscribes { Kind::Pubsub } else { Kind::Normal };
        let meant = !state.gone
            && filter.not != Some(self.id)
            && filter.ids.as_ref().is_none_or(|ids| ids.sorted.binary_search(&self.id).is_ok())
            && filter.kind.is_none_or(|wanted| wanted == kind)
            && filter.age.is_none_or(|age| self.about.age(now) >= age)
            && (filter.addr.is_none() || is(&filter.addr, self.ends.peer_text()))
            && (filter.laddr.is_none() || is(&filter.laddr, self.ends.local_text()));
        let mut line = Vec::new();
        if meant && with_line {
            self.describe(&state, now, &mut line);
        }
        meant.then_some(Found { id: self.id, line })
    }
}

impl Planner<'_> {
    /// Asks all workers, or says what is wrong. The reply comes when all have answered; nothing is planned until then.
    #[cold]
    pub(super) fn ask_workers(&mut self, spec: &'static Spec, what: Clients, args: &Args<'_>) {
        let parsed = match what {
            Clients::Kill => kill(args, self.session.id),
            Clients::List => list(args),
            Clients::Pause => pause(args),
            Clients::Unblock => unblock(args),
            Clients::Unpause => Ok(Ask::Unpause),
        };
        let ask = match parsed {
            Ok(ask) => ask,
            Err(reply) => return self.refuse(Some(spec), ErrorKind::BadArgument, reply),
        };
        // Lines in the order that was asked for.
        let order = match &ask {
            Ask::List(filter) => filter.ids.as_ref().map(|ids| ids.asked.clone()),
            _ => None,
        };
        let seq = self.expect(spec, 0, 0);
        let (session, protocol, is_old_kill) = (self.session.clone(), self.protocol, args.len() == 3);
        spawn_local(async move {
            let control = session.worker.control.clone();
            let mut found = control.ask(ask, session.id).await;
            found.sort_unstable_by_key(|found| found.id);
            let ends = what == Clients::Kill && found.iter().any(|found| found.id == session.id);
            let mut reply = Vec::new();
            match what {
                Clients::Kill if is_old_kill && found.is_empty() => {
                    write::error(&mut reply, "ERR No such client")
                }
                Clients::Kill if is_old_kill => write::simple(&mut reply, "OK"),
                Clients::Kill | Clients::Unblock => write::integer(&mut reply, found.len() as i64),
                Clients::List => lines(found, order, protocol, &mut reply),
                Clients::Pause | Clients::Unpause => write::simple(&mut reply, "OK"),
            }
            let backend = &session.worker.backend;
            session.state.borrow_mut().settle(
                seq,
                Some(Bytes::from(reply)),
                backend.clock.tick(),
                &backend.metrics,
            );
            session.wakeup.wake();
            if ends {
                session.order(Order::Finish);
            }
        });
    }
}

fn lines(mut found: Vec<Found>, order: Option<Vec<u64>>, protocol: Protocol, out: &mut Vec<u8>) {
    let mut text = Vec::new();
    match order {
        None => found.iter().for_each(|found| text.extend_from_slice(&found.line)),
        Some(ids) => {
            for id in ids {
                if let Ok(at) = found.binary_search_by_key(&id, |found| found.id) {
                    // Once, however often it was asked for.
                    text.append(&mut found[at].line);
                }
            }
        }
    }
    // A name has only printable characters.
    write::text(out, &String::from_utf8_lossy(&text), protocol);
}

type Parsed = Result<Ask, Vec<u8>>;

/// LIST [TYPE type | ID id …]
fn list(args: &Args<'_>) -> Parsed {
    let mut filter = Filter::default();
    match args.len() {
        2 => {}
        4 if is(args, 2, "TYPE") => filter.kind = Some(kind(args.get(3))?),
        4.. if is(args, 2, "ID") => {
            let id = |word| integer(word).map(|id| id.try_into().unwrap_or(0));
            let ids: Option<Vec<u64>> = args.iter().skip(3).map(id).collect();
            filter.ids = Some(Ids::new(ids.ok_or_else(|| error("ERR Invalid client ID"))?));
        }
        _ => return Err(error(SYNTAX)),
    }
    Ok(Ask::List(filter))
}

/// KILL address, or KILL with any of ID, ADDR, LADDR, TYPE, USER, MAXAGE, SKIPME.
fn kill(args: &Args<'_>, me: u64) -> Parsed {
    if args.len() == 3 {
        return Ok(Ask::Kill(Filter { addr: Some(args.get(2).to_vec()), ..Filter::default() }));
    }
    let mut filter = Filter { not: Some(me), ..Filter::default() };
    let mut at = 2;
    while at < args.len() {
        let word = args.get(at + 1);
        if at + 1 == args.len() {
            return Err(error(SYNTAX));
        } else if is(args, at, "ID") {
            let id = integer(word).and_then(|id| u64::try_from(id).ok()).filter(|id| *id > 0);
            let id = id.ok_or_else(|| error("ERR client-id should be greater than 0"))?;
            filter.ids = Some(Ids::new(vec![id]));
        } else if is(args, at, "ADDR") {
            filter.addr = Some(word.to_vec());
        } else if is(args, at, "LADDR") {
            filter.laddr = Some(word.to_vec());
        } else if is(args, at, "TYPE") {
            filter.kind = Some(kind(word)?);
        } else if is(args, at, "USER") {
            if word != CLIENT_USER.as_bytes() {
                return Err(quoted("ERR No such user '", word, "'"));
            }
        } else if is(args, at, "MAXAGE") {
            let age = integer(word).ok_or_else(|| error("ERR maxage is not an integer or out of range"))?;
            let age = u64::try_from(age).ok().filter(|age| *age > 0);
            filter.age = Some(age.ok_or_else(|| error("ERR maxage should be greater than 0"))?);
        } else if is(args, at, "SKIPME") {
            filter.not = match word {
                _ if word.eq_ignore_ascii_case(b"yes") => Some(me),
                _ if word.eq_ignore_ascii_case(b"no") => None,
                _ => return Err(error(SYNTAX)),
            };
        } else {
            return Err(error(SYNTAX));
        }
        at += 2;
    }
    Ok(Ask::Kill(filter))
}

/// PAUSE milliseconds [WRITE | ALL]
fn pause(args: &Args<'_>) -> Parsed {
    let what = match args.len() {
        3 => Pause::All,
        4 if is(args, 3, "WRITE") => Pause::Writes,
        4 if is(args, 3, "ALL") => Pause::All,
        4 => return Err(error("ERR CLIENT PAUSE mode must be WRITE or ALL")),
        _ => return Err(wrong_count(args)),
    };
    let millis =
        integer(args.get(2)).ok_or_else(|| error("ERR timeout is not an integer or out of range"))?;
    let millis = u64::try_from(millis).map_err(|_| error("ERR timeout is negative"))?;
    let until = Instant::now().checked_add(Duration::from_millis(millis));
    Ok(Ask::Pause(what, until.ok_or_else(|| error("ERR timeout is out of range"))?))
}

/// UNBLOCK id [TIMEOUT | ERROR]
fn unblock(args: &Args<'_>) -> Parsed {
    let with_error = match args.len() {
        3 => false,
        4 if is(args, 3, "TIMEOUT") => false,
        4 if is(args, 3, "ERROR") => true,
        4 => return Err(error("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR")),
        _ => return Err(wrong_count(args)),
    };
    let id = integer(args.get(2)).ok_or_else(|| error("ERR value is not an integer or out of range"))?;
    Ok(Ask::Unblock(id.try_into().unwrap_or(0), with_error))
}

fn kind(word: &[u8]) -> Result<Kind, Vec<u8>> {
    let known = [
        ("normal", Kind::Normal),
        ("pubsub", Kind::Pubsub),
        ("master", Kind::Replication),
        ("replica", Kind::Replication),
        ("slave", Kind::Replication),
    ];
    let found = known.iter().find(|(name, _)| word.eq_ignore_ascii_case(name.as_bytes()));
    found.map(|(_, kind)| *kind).ok_or_else(|| quoted("ERR Unknown client type '", word, "'"))
}

const SYNTAX: &str = "ERR syntax error";

fn is(args: &Args<'_>, at: usize, word: &str) -> bool {
    args.get(at).eq_ignore_ascii_case(word.as_bytes())
}

fn error(text: &str) -> Vec<u8> {
    let mut reply = Vec::new();
    write::error(&mut reply, text);
    reply
}

fn quoted(before: &str, word: &[u8], after: &str) -> Vec<u8> {
    let mut reply = Vec::new();
    quoting(&mut reply, before, word, after);
    reply
}

/// What a server says to a number of arguments that the table's arity lets pass.
fn wrong_count(args: &Args<'_>) -> Vec<u8> {
    let word = args.get(1);
    quoted(
        "ERR unknown subcommand or wrong number of arguments for '",
        &word[..word.len().min(128)],
        "'. Try CLIENT HELP.",
    )
}
