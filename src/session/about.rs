//! What others are told of a client: its line in CLIENT LIST.

use std::cell::{Cell, RefCell};
use std::fmt::Write;

use super::Session;
use super::local::quoting;
use super::monitor::Monitoring;
use super::pending::State;
use crate::command::NAMES;
use crate::protocol::{Args, Protocol, write};

/// Bytes of a client's name, which it keeps for as long as it stays: so long ones are no names.
const LONGEST_NAME: usize = 1024;

/// What a client has told of itself, and is up to. Its own turn writes it, and others read it.
#[derive(Debug)]
pub(crate) struct About {
    /// When it came, by the worker's clock,
    since: u64,
    /// and when it was heard of last.
    pub(super) heard: Cell<u64>,
    /// The place in the table of its last command, if there was one.
    pub(super) last: Cell<Option<u16>>,
    /// How many commands it has queued since MULTI, or -1.
    pub(super) multi: Cell<i32>,
    pub(super) resp3: Cell<bool>,
    pub(super) no_evict: Cell<bool>,
    /// Since when it has owed a password; nothing if it has given one.
    pub(super) owes_since: Cell<Option<u64>>,
    pub(super) name: RefCell<Vec<u8>>,
}

impl About {
    /// A client that came at this time of the worker's clock.
    pub(super) fn new(now: u64) -> Self {
        About {
            since: now,
            heard: Cell::new(now),
            last: Cell::new(None),
            multi: Cell::new(-1),
            resp3: Cell::new(false),
            no_evict: Cell::new(false),
            owes_since: Cell::new(Some(now)),
            name: RefCell::default(),
        }
    }

    /// RESET.
    pub(super) fn reset(&self) {
        self.name.borrow_mut().clear();
        self.resp3.set(false);
    }

    /// CLIENT SETNAME
    pub(super) fn set_name(&self, name: &[u8], out: &mut Vec<u8>) {
        match self.rename(name) {
            Ok(()) => write::simple(out, "OK"),
            Err(error) => write::error(out, error),
        }
    }

    /// Takes a new name, or says why not.
    pub(super) fn rename(&self, name: &[u8]) -> Result<(), &'static str> {
        if !is_name(name) {
            return Err("ERR Client names cannot contain spaces, newlines or special characters.");
        }
        if name.len() > LONGEST_NAME {
            return Err("ERR Client names have at most 1024 bytes at this proxy");
        }
        *self.name.borrow_mut() = name.to_vec();
        Ok(())
    }

    /// CLIENT GETNAME
    pub(super) fn write_name(&self, protocol: Protocol, out: &mut Vec<u8>) {
        let name = self.name.borrow();
        if name.is_empty() { write::null(out, protocol) } else { write::bulk(out, &name) }
    }

    /// CLIENT NO-EVICT
    pub(super) fn set_no_evict(&self, word: &[u8], out: &mut Vec<u8>) {
        if !is_switch(word) {
            return write::error(out, "ERR syntax error");
        }
        self.no_evict.set(word.eq_ignore_ascii_case(b"on"));
        write::simple(out, "OK");
    }

    /// Keeps whether it is logged in.
    pub(super) fn log_in(&self, is_in: bool, now: u64) {
        let since = self.owes_since.get().unwrap_or(now);
        self.owes_since.set((!is_in).then_some(since));
    }

    /// For how many seconds it has been connected at `now`.
    pub(super) fn age(&self, now: u64) -> u64 {
        now.saturating_sub(self.since) / 1_000_000_000
    }

    /// As a server's letters, as far as they mean something here.
    fn flags(&self, state: &State, blocked: bool) -> String {
        let own = state.subscriptions.as_ref();
        let letters = [
            ('O', own.is_some_and(|own| own.monitoring == Monitoring::Yes)),
            ('P', own.is_some_and(|own| own.counts() != [0; 3])),
            ('x', self.multi.get() >= 0),
            ('b', blocked),
            ('e', self.no_evict.get()),
        ];
        let flags: String = letters.iter().filter(|(_, is)| *is).map(|(letter, _)| letter).collect();
        if flags.is_empty() { "N".to_owned() } else { flags }
    }
}

impl Session {
    /// CLIENT INFO
    pub(super) fn info(&self, state: &State, protocol: Protocol, out: &mut Vec<u8>) {
        let mut line = Vec::new();
        self.describe(state, self.worker.backend.clock.now(), &mut line);
        write::text(out, &String::from_utf8_lossy(&line), protocol);
    }

    /// Appends the client's line, as redis 7.0 writes it.
    pub(super) fn describe(&self, state: &State, now: u64, out: &mut Vec<u8>) {
        let about = &self.about;
        let idle = now.saturating_sub(about.heard.get().max(state.wrote_at)) / 1_000_000_000;
        let (id, addr, laddr, fd) = (self.id, self.ends.peer_text(), self.ends.local_text(), self.ends.fd);
        let mut line = format!("id={id} addr={addr} laddr={laddr} fd={fd} name=");
        out.extend_from_slice(line.as_bytes());
        out.extend_from_slice(&about.name.borrow());
        line.clear();
        let [sub, psub, ssub] = state.subscriptions.as_ref().map_or([0; 3], |own| own.counts());
        let (age, flags, multi) = (about.age(now), about.flags(state, self.is_blocked()), about.multi.get());
        let (input, output) = (state.kept_told.input, state.unread());
        let memory = input + state.out.memory() + state.early;
        let events = if state.out.is_empty() { "r" } else { "rw" };
        let command =
            about.last.get().map_or("NULL".to_owned(), |id| NAMES[usize::from(id)].replace(' ', "|"));
        let database = self.affinity.get().apart.database;
        let resp = if about.resp3.get() { 3 } else { 2 };
        // Writing to a text cannot fail.
        _ = writeln!(
            line,
            " age={age} idle={idle} flags={flags} db={database} sub={sub} psub={psub} ssub={ssub} multi={multi} qbuf={input} \
             qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl={output} oll=0 omem={output} tot-mem={memory} \
             events={events} cmd={command} user={} redir=-1 resp={resp}",
            crate::config::CLIENT_USER
        );
        out.extend_from_slice(line.as_bytes());
    }
}

/// A server's rule: printable, no space.
pub(super) fn is_name(name: &[u8]) -> bool {
    name.iter().all(|byte| (b'!'..=b'~').contains(byte))
}

/// ON or OFF.
pub(super) fn is_switch(word: &[u8]) -> bool {
    word.eq_ignore_ascii_case(b"on") || word.eq_ignore_ascii_case(b"off")
}

/// CLIENT SETINFO
pub(super) fn set_info(args: &Args<'_>, out: &mut Vec<u8>) {
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

/// CLIENT TRACKINGINFO: there is no tracking.
pub(super) fn tracking(protocol: Protocol, out: &mut Vec<u8>) {
    write::map(out, 3, protocol);
    write::bulk(out, b"flags");
    write::set(out, 1, protocol);
    write::bulk(out, b"off");
    write::bulk(out, b"redirect");
    write::integer(out, -1);
    write::bulk(out, b"prefixes");
    write::array(out, 0);
}
