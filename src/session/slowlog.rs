//! SLOWLOG: the commands of a cluster's clients that took long, on whichever worker.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use super::Session;
use super::entry::Pending;
use super::local::quoting;
use super::pending::State;
use crate::backend::{Request, Ticket};
use crate::command::{Flags, Slowlog};
use crate::metrics::Reached;
use crate::protocol::{Args, RequestFramer, RequestLimits, integer, write};

/// As many arguments of a command are kept, and of each as many bytes: a server's own limits.
const MOST_ARGUMENTS: usize = 32;
const MOST_BYTES: usize = 128;
/// As many entries SLOWLOG GET gives that does not say how many.
const USUAL: usize = 10;

/// What all workers share. It is locked for a slow command, and for those that ask.
#[derive(Debug, Default)]
pub(super) struct SlowLog(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    next_id: i64,
    /// The oldest one first.
    entries: VecDeque<Entry>,
}

#[derive(Debug)]
struct Entry {
    id: i64,
    /// Seconds since the Unix epoch.
    at: i64,
    micros: i64,
    args: Vec<Vec<u8>>,
    addr: String,
    name: Vec<u8>,
}

impl SlowLog {
    /// Adds an entry, which gets its number here. True if the oldest one went.
    fn add(&self, mut entry: Entry, most: usize) -> bool {
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entry.id = log.next_id;
        log.next_id += 1;
        log.entries.push_back(entry);
        let full = log.entries.len() > most;
        if full {
            log.entries.pop_front();
        }
        full
    }

    /// Appends the reply to one of the subcommands.
    pub(super) fn answer(&self, what: Slowlog, args: &Args<'_>, out: &mut Vec<u8>) {
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match what {
            Slowlog::Len => write::integer(out, log.entries.len() as i64),
            Slowlog::Reset => {
                log.entries.clear();
                write::simple(out, "OK");
            }
            Slowlog::Get if args.len() > 3 => {
                let word = &args.get(1)[..args.get(1).len().min(128)];
                let before = "ERR unknown subcommand or wrong number of arguments for '";
                quoting(out, before, word, "'. Try SLOWLOG HELP.");
            }
            Slowlog::Get => {
                let wanted = if args.len() > 2 { integer(args.get(2)) } else { Some(USUAL as i64) };
                let count = match wanted {
                    Some(-1) => log.entries.len(),
                    Some(count @ 0..) => log.entries.len().min(count as usize),
                    _ => return write::error(out, "ERR count should be greater than or equal to -1"),
                };
                write::array(out, count);
                log.entries.iter().rev().take(count).for_each(|entry| entry.write(out));
            }
        }
    }
}

impl Entry {
    fn write(&self, out: &mut Vec<u8>) {
        write::array(out, 6);
        for number in [self.id, self.at, self.micros] {
            write::integer(out, number);
        }
        write::array(out, self.args.len());
        self.args.iter().for_each(|arg| write::bulk(out, arg));
        write::bulk(out, self.addr.as_bytes());
        write::bulk(out, &self.name);
    }
}

impl Session {
    /// Notes the command if it was slow; it is answered with this reply, but for its other parts.
    pub(super) fn note_slow(&self, state: &mut State, ticket: Ticket, request: Request<'_>, now: u64) {
        if let Some(pending) = state.get(ticket.seq)
            && let took = now.saturating_sub(pending.started)
            && took >= self.worker.slow_nanos
        {
            self.log_slow(pending, request, took, now);
        }
    }

    #[cold]
    fn log_slow(&self, pending: &Pending, request: Request<'_>, took: u64, now: u64) {
        let Some(spec) = pending.spec else { return };
        // Who waits for others is not slow, and the parts of a command are one. EXEC is for what is in it, which a server
        // notes instead.
        let skipped =
            spec.flags.has(Flags::BLOCKING) || spec.flags.has(Flags::SKIP_SLOWLOG) && !pending.is_exec();
        if skipped || !pending.is_last_part() {
            return;
        }
        let is_block = !request.earlier().is_empty();
        let mut args = if is_block { vec![spec.name.as_bytes().to_vec()] } else { cut(request.bytes()) };
        // There may be passwords among them.
        if spec.flags.has(Flags::ADMIN) {
            let name = spec.name.split(' ').count();
            args.iter_mut().skip(name).for_each(|arg| *arg = b"(redacted)".to_vec());
        }
        // Where a server says what it cut off, for that clients know the entry's layout.
        let on_node = request.on_node(now).min(took) / 1000;
        args.push(format!("... ({on_node} us on {})", request.link().addr()).into_bytes());
        let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
        let (addr, name) = (self.ends.peer_text(), self.about.name.borrow().clone());
        let entry = Entry { id: 0, at, micros: (took / 1000) as i64, args, addr, name };
        let reached = &self.worker.backend.metrics.reached;
        reached[Reached::SlowlogLogSlowerThan.index()].add(1);
        if self.worker.control.slowlog.add(entry, self.worker.config.limits.slowlog_max_len) {
            reached[Reached::SlowlogMaxLen.index()].add(1);
        }
    }
}

/// A request's arguments, cut as a server cuts them.
fn cut(request: &[u8]) -> Vec<Vec<u8>> {
    let mut framer = RequestFramer::default();
    let Ok(Some(_)) = framer.next(request, &RequestLimits::NONE) else { return Vec::new() };
    let args = framer.args(request);
    let kept = if args.len() > MOST_ARGUMENTS { MOST_ARGUMENTS - 1 } else { args.len() };
    let short = |arg: &[u8]| match arg.len().checked_sub(MOST_BYTES) {
        None | Some(0) => arg.to_vec(),
        Some(more) => [&arg[..MOST_BYTES], format!("... ({more} more bytes)").as_bytes()].concat(),
    };
    let mut words: Vec<Vec<u8>> = args.iter().take(kept).map(short).collect();
    if kept < args.len() {
        words.push(format!("... ({} more arguments)", args.len() - kept).into_bytes());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(args: &[&[u8]]) -> Vec<u8> {
        let mut request = Vec::new();
        write::request(&mut request, args.iter().copied());
        request
    }

    #[test]
    fn arguments_are_cut_as_by_a_server() {
        let (long, many) = ([b'x'; 130], [&b"a"[..]; 40]);
        assert_eq!(cut(&request(&[b"SET", b"k", &long[..128]])), [&b"SET"[..], b"k", &long[..128]]);
        let cut_long = [&long[..128], b"... (2 more bytes)"].concat();
        assert_eq!(cut(&request(&[b"SET", b"k", &long])), [&b"SET"[..], b"k", &cut_long]);
        assert_eq!(cut(&request(&many[..32])).len(), 32);
        let words = cut(&request(&many));
        assert_eq!((words.len(), &*words[31]), (32, &b"... (9 more arguments)"[..]));
    }
}
