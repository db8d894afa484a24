//! A script that a node does not know, and the proxy does: it is loaded there, and the call repeated in silence.
//!
//! A script can answer with a server's `-NOSCRIPT` of its own making, after having written. So one whose text makes
//! that conceivable is called again only once the node has said, on the same link, that it did not know it then.
//! What another link, or somebody else, loads in between goes unnoticed: the client gets NOSCRIPT, as from a server.

use std::rc::Rc;

use bytes::Bytes;

use super::lanes::{Held, Next};
use super::pending::State;
use super::scripts::{Sha, sha};
use super::{Session, Worker};
use crate::backend::{Link, Loss, Receiver, Reply, Request, Ticket};
use crate::command::{Script, resolve};
use crate::metrics::{Reached, ServerError};
use crate::protocol::{Args, RequestFramer, RequestLimits, write};

/// Exactly a server's words: those of Redis, and of Valkey since 9.
const NOSCRIPT: [&[u8]; 2] =
    [b"-NOSCRIPT No matching script. Please use EVAL.\r\n", b"-NOSCRIPT No matching script.\r\n"];
/// The reply to SCRIPT EXISTS for a script that is not there.
const ABSENT: &[u8] = b"*1\r\n:0\r\n";
/// A script without any of these makes no error of its own but at great pains: an error is a table with a field
/// `err`, made by a function of `redis`, as such, from text or by running text.
const ERROR_MAKERS: [&[u8]; 4] = [b"err", b"cjson", b"cmsgpack", b"load"];

/// What goes down the link before a call of a script is repeated.
#[derive(Clone, Debug, Default)]
pub(crate) enum Before {
    /// Nothing: it is any other command.
    #[default]
    Nothing,
    /// SCRIPT LOAD.
    Load(Known),
    /// The question whether the script is there, in place of the call.
    Exists(Doubt),
}

/// A script that the proxy knows.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    sha: Sha,
    text: Bytes,
}

/// What looks like a server's answer, and may be the script's own.
#[derive(Clone, Debug)]
pub(crate) struct Doubt {
    script: Known,
    /// The link that told,
    pub(crate) link: u32,
    /// and when: see [`ScriptCache::told`](super::scripts::ScriptCache::told).
    told: u64,
}

/// A call of a script, while a question about it is on its way in its place.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    request: Bytes,
    next: Next,
    doubt: Doubt,
}

/// Takes the reply to SCRIPT LOAD.
struct Loading {
    worker: Rc<Worker>,
    link: u32,
    sha: Sha,
}

impl Receiver for Loading {
    fn reply(&self, _: Ticket, _: Reply<'_>, _: Request<'_>) {
        // What this link told before was told while the script was absent.
        self.worker.scripts.absent(self.link, self.sha);
        self.worker.scripts.loaded(self.link, self.sha);
    }

    fn lost(&self, _: Ticket, _: &Loss, _: &[u8]) -> bool {
        self.worker.scripts.loaded(self.link, self.sha);
        false
    }
}

impl Session {
    /// Keeps the script that a request shows, or forgets all.
    #[cold]
    pub(super) fn see_script(&self, script: Script, args: &Args<'_>) {
        let (scripts, metrics) = (&self.worker.scripts, &self.worker.backend.metrics);
        match script {
            Script::None | Script::Hash => {}
            Script::Text(at) => {
                let gone = scripts.note(args.get(usize::from(at)));
                metrics.reached[Reached::ScriptCache.index()].add(gone as u64);
            }
            Script::Flush => scripts.forget_all(),
        }
    }

    /// Looks at an error reply. True if it was about a script that this proxy knows: the call is held.
    #[cold]
    pub(super) fn is_unknown_script(
        &self,
        state: &mut State,
        ticket: Ticket,
        reply: &[u8],
        request: Request<'_>,
    ) -> bool {
        let spec = state.get(ticket.seq).and_then(|pending| pending.spec);
        if !NOSCRIPT.contains(&reply) || spec.is_none_or(|spec| spec.script != Script::Hash) {
            return false;
        }
        let Some(script) = self.known(request.bytes()) else { return false };
        let (slot, link) = (state.slot(ticket), request.link());
        let mut history = state.lanes().back(slot, ticket);
        if history.loaded == link.id() {
            // It does not compile, or this is its own answer.
            return false;
        }
        history.tries += 1;
        history.sent = true;
        history.error = Some(Bytes::copy_from_slice(reply));
        let mut routes = self.worker.routes.borrow_mut();
        let is_owner = routes.owner(slot).is_some_and(|node| node.addr() == link.addr());
        let next = match routes.node(link.addr()) {
            Some(_) if !is_owner => Next::Ask(link.addr().clone()),
            _ => Next::Owner,
        };
        drop(routes);
        let own = ERROR_MAKERS.iter().any(|maker| memchr::memmem::find(&script.text, maker).is_some());
        let told = self.worker.scripts.told();
        let before = match own {
            true => Before::Exists(Doubt { script, link: link.id(), told }),
            false => Before::Load(script),
        };
        let held = self.held(ticket, request.to_bytes(), 0);
        state.hold(slot, Held { history, next, before, alone: own, ..held });
        true
    }

    /// The script that a request calls, if the proxy knows it.
    fn known(&self, request: &[u8]) -> Option<Known> {
        let digits = argument(request, 1);
        Some(Known { sha: sha(&digits)?, text: self.worker.scripts.text(&digits)? })
    }

    /// Whether what a script seemed to say has turned out to be the server's word.
    pub(super) fn settle_doubt(&self, held: &mut Held) {
        if let Before::Exists(Doubt { script, link, told }) = &held.before
            && self.worker.scripts.was_absent(*link, script.sha, *told)
        {
            (held.before, held.alone) = (Before::Load(script.clone()), false);
        }
    }

    /// Sends a block, behind the scripts that it calls.
    #[cold]
    pub(super) fn push_block(
        self: Rc<Self>,
        link: &Link,
        ticket: Ticket,
        requests: &Bytes,
        earlier: u32,
        scripts: bool,
    ) {
        if scripts {
            self.load_scripts(link, requests);
        }
        link.push_block(self, ticket, requests.clone(), earlier);
    }

    /// Loads the scripts that a block calls by their hashes: a NOSCRIPT inside it could not be repeated.
    #[cold]
    pub(super) fn load_scripts(&self, link: &Link, mut requests: &[u8]) {
        let (mut framer, mut loaded) = (RequestFramer::default(), Vec::new());
        while let Ok(Some(framed)) = framer.next(requests, &RequestLimits::NONE) {
            let (request, rest) = requests.split_at(framed.len);
            let args = framer.args(request);
            if resolve(&args).is_ok_and(|spec| spec.script == Script::Hash)
                && let Some(sha) = sha(args.get(1))
                && !loaded.contains(&sha)
                && let Some(text) = self.worker.scripts.text(args.get(1))
            {
                loaded.push(sha);
                link.push_script(&text);
            }
            requests = rest;
        }
    }

    /// What is sent for a held command: the question about its script, or the command itself, behind the script.
    pub(super) fn request_of(&self, link: &Link, held: &mut Held) -> Bytes {
        match std::mem::take(&mut held.before) {
            Before::Nothing => {}
            Before::Load(Known { sha, text }) => {
                held.history.loaded = link.id();
                if self.worker.scripts.load(link.id(), sha) {
                    let loading = Loading { worker: self.worker.clone(), link: link.id(), sha };
                    link.push_bytes(Rc::new(loading), held.ticket, script_request(b"LOAD", &text));
                }
            }
            Before::Exists(doubt) => {
                let question = script_request(b"EXISTS", &argument(&held.request, 1));
                let asked = Asked { request: held.request.clone(), next: held.next.clone(), doubt };
                held.history.asked = Some(Box::new(asked));
                return question;
            }
        }
        held.request.clone()
    }

    /// Takes the answer to a question about a script, or that there will be none. False if this is none.
    pub(super) fn script_told(&self, state: &mut State, ticket: Ticket, reply: Option<&[u8]>) -> bool {
        let slot = state.slot(ticket);
        let Some(lanes) = state.lanes.as_mut().filter(|lanes| lanes.is_asked(slot, ticket)) else {
            return false;
        };
        let mut history = lanes.back(slot, ticket);
        let Some(asked) = history.asked.take() else { return false };
        let Asked { request, next, doubt: Doubt { script, link, told } } = *asked;
        let scripts = &self.worker.scripts;
        if reply == Some(ABSENT) {
            scripts.absent(link, script.sha);
        }
        if reply.is_some() && scripts.was_absent(link, script.sha, told) {
            let held = self.held(ticket, request, 0);
            state.hold(slot, Held { history, next, before: Before::Load(script), ..held });
            return true;
        }
        // The script ran, and said so itself; or nobody can tell.
        state.lanes().took_effect(slot, ticket, &request, &self.worker.topology.learned());
        let (backend, error) = (&self.worker.backend, history.error.unwrap_or_default());
        backend.metrics.server_error(state.command(ticket), ServerError::of(&error));
        state.complete(ticket, Reply::Large(error), backend.clock.now(), &backend.metrics);
        true
    }
}

fn argument(request: &[u8], index: usize) -> Bytes {
    let mut framer = RequestFramer::default();
    match framer.next(request, &RequestLimits::NONE) {
        Ok(Some(_)) => Bytes::copy_from_slice(framer.args(request).get(index)),
        _ => Bytes::new(),
    }
}

fn script_request(word: &[u8], argument: &[u8]) -> Bytes {
    let mut request = Vec::with_capacity(argument.len() + 64);
    write::request(&mut request, [b"SCRIPT", word, argument].into_iter());
    request.into()
}
