//! What happened: the schedule as it ran, errors by text, times without a reply, and what was wrong.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{keys::TAGS, nemesis::Kind};

/// Milliseconds since the run began.
pub type Ms = u32;

/// From when a command was sent until its reply was read. It was acknowledged somewhere between: a reply waits for those
/// to earlier commands of its pipeline.
pub type Span = (Ms, Ms);

/// What a primary acknowledged this long before it was lost may not have reached its replica.
const LAG: Ms = 2000;
/// An error that a window brought about may be read a moment after it.
const AFTERMATH: Ms = 2000;
/// What a command gets that was not executed and must not be sent again: behind it in its pipeline was a write to the
/// same key, which is in doubt since the node was lost.
const ORDER: &str = "TRYAGAIN this command was not executed, and a later one";
/// What a command gets that was not executed before its deadline: the cluster's last error, or the proxy's own.
const NOT_EXECUTED: [&str; 7] =
    ["CLUSTERDOWN ", "MOVED ", "ASK ", "TRYAGAIN ", "LOADING ", "READONLY ", "MASTERDOWN "];
/// Before it, if it was a transaction.
const ABORTED: &str = "EXECABORT Transaction discarded because of: ";
/// A stopped node's links are given up by then: a round of health checks after the link timeout.
const GIVEN_UP: Ms = 10_000;
/// More of a kind would only repeat the first ones.
const FAULTS_KEPT: usize = 20;
/// So many events of a key are kept.
const REMEMBERED: usize = 60;

/// A command that got an error, or lost its connection.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    pub name: &'a str,
    pub reads: bool,
    /// The tags of its keys; without any it is about all shards.
    pub tags: &'a [usize],
    pub sent: Ms,
    pub got: Ms,
}

/// What an error means for the command that got it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// It took effect once or not at all.
    Doubt,
    /// It had no effect.
    Refused,
}

/// A time in which a nemesis excuses something.
#[derive(Clone, Debug)]
pub struct Window {
    pub kind: Kind,
    /// Addresses of the nodes that it happens to. None for a replica that is away: only subscribers whose topics it had
    /// before a failover notice.
    pub nodes: Vec<String>,
    /// The tags whose slots these nodes serve.
    pub tags: Vec<usize>,
    /// The primary that is lost or demoted, by its number: what it acknowledged the cluster may lose, since replication
    /// is asynchronous.
    pub primary: Option<usize>,
    pub from: Ms,
    pub to: Ms,
    /// Until when a write may have been sent that the nodes took, and did not answer: then its outcome is unknown.
    pub unanswered: Ms,
}

impl Window {
    fn is_near(&self, from: Ms, to: Ms) -> bool {
        self.from <= to && from <= self.to.saturating_add(AFTERMATH)
    }
}

/// Slots on their way to another node.
struct Move {
    tags: Vec<usize>,
    /// The address of the node that has some of the keys already; none while the owner changes.
    target: Option<String>,
    span: Span,
}

impl Move {
    fn is_of(&self, tag: usize, from: Ms, to: Ms) -> bool {
        let (begun, end) = self.span;
        self.tags.contains(&tag) && begun <= to && from <= end.saturating_add(AFTERMATH)
    }
}

/// Something that must not be.
pub struct Fault {
    pub at: Ms,
    pub kind: &'static str,
    pub what: String,
    pub history: String,
}

/// The last things that happened to a key, as its client saw them.
#[derive(Clone, Default)]
pub struct History(VecDeque<(Ms, Ms, String)>);

impl History {
    pub fn note(&mut self, sent: Ms, got: Ms, what: String) {
        if self.0.len() == REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back((sent, got, what));
    }

    pub fn show(&self) -> String {
        self.0.iter().map(|(sent, got, what)| format!("    sent {sent} answered {got}: {what}\n")).collect()
    }
}

/// How long commands on a tag took.
#[derive(Default)]
struct Times {
    last_reply: AtomicU32,
    slowest: AtomicU32,
    silent: AtomicU32,
    slowest_at: AtomicU32,
    silent_at: AtomicU32,
}

pub struct Journal {
    begun: Instant,
    /// How long the proxy may hold a command, in milliseconds.
    deadline: Ms,
    pub counts: Mutex<BTreeMap<String, u64>>,
    pub errors: Mutex<BTreeMap<String, (u64, Ms)>>,
    pub events: Mutex<Vec<(Ms, String)>>,
    windows: Mutex<Vec<Window>>,
    moves: Mutex<Vec<Move>>,
    pub faults: Mutex<Vec<Fault>>,
    pub fault_count: AtomicU64,
    times: Vec<Times>,
}

impl Journal {
    pub fn new(deadline: Duration) -> Self {
        Self {
            begun: Instant::now(),
            deadline: deadline.as_millis() as Ms,
            counts: Mutex::default(),
            errors: Mutex::default(),
            events: Mutex::default(),
            windows: Mutex::default(),
            moves: Mutex::default(),
            faults: Mutex::default(),
            fault_count: AtomicU64::new(0),
            times: (0..TAGS).map(|_| Times::default()).collect(),
        }
    }

    pub fn now(&self) -> Ms {
        self.begun.elapsed().as_millis() as Ms
    }

    pub fn at(&self, time: Instant) -> Ms {
        time.saturating_duration_since(self.begun).as_millis() as Ms
    }

    pub fn count(&self, what: &str, n: u64) {
        let mut counts = lock(&self.counts);
        match counts.get_mut(what) {
            Some(count) => *count += n,
            None => _ = counts.insert(what.to_owned(), n),
        }
    }

    /// Keeps the highest.
    pub fn most(&self, what: &str, n: u64) {
        let mut counts = lock(&self.counts);
        let most = counts.entry(what.to_owned()).or_default();
        *most = n.max(*most);
    }

    pub fn event(&self, what: String) {
        lock(&self.events).push((self.now(), what));
    }

    pub fn fault(&self, kind: &'static str, what: String, history: String) {
        self.fault_count.fetch_add(1, Ordering::Relaxed);
        self.count(&format!("faults: {kind}"), 1);
        let mut faults = lock(&self.faults);
        if faults.iter().filter(|fault| fault.kind == kind).count() < FAULTS_KEPT {
            faults.push(Fault { at: self.now(), kind, what, history });
        }
    }

    /// A nemesis begins; returns the window's number.
    pub fn open(&self, kind: Kind, nodes: Vec<String>, tags: Vec<usize>, primary: Option<usize>) -> usize {
        let (mut windows, from) = (lock(&self.windows), self.now());
        let unanswered = match kind {
            Kind::StopPrimary => from + GIVEN_UP,
            kind if kind.ends_links() => Ms::MAX,
            _ => 0,
        };
        windows.push(Window { kind, nodes, tags, primary, from, to: Ms::MAX, unanswered });
        windows.len() - 1
    }

    /// The nodes' links have ended: what is sent from now on reaches no node that does not answer.
    pub fn links_ended(&self, window: usize) {
        let window = &mut lock(&self.windows)[window];
        window.unanswered = window.unanswered.min(self.now());
    }

    /// Slots are given to another node until what it returns is dropped: then all know the new owner.
    pub fn moving(&self, tags: Vec<usize>) -> Moving<'_> {
        self.begin_move(tags, None)
    }

    /// A tag's slot is open, and some of its keys are at this address, until what it returns is dropped.
    pub fn opened(&self, tag: usize, target: String) -> Moving<'_> {
        self.begin_move(vec![tag], Some(target))
    }

    fn begin_move(&self, tags: Vec<usize>, target: Option<String>) -> Moving<'_> {
        let mut moves = lock(&self.moves);
        moves.push(Move { tags, target, span: (self.now(), Ms::MAX) });
        Moving { journal: self, number: moves.len() - 1 }
    }

    /// Whether the tag's slot got another owner in this time, or a moment before it.
    pub fn has_moved(&self, tag: usize, from: Ms, to: Ms) -> bool {
        lock(&self.moves).iter().any(|m| m.target.is_none() && m.is_of(tag, from, to))
    }

    /// Whether the tag's slot was open in this time, and some of its keys at one of the window's nodes.
    fn is_half_there(&self, tag: usize, window: &Window, from: Ms, to: Ms) -> bool {
        let is_there = |m: &Move| m.target.as_ref().is_some_and(|addr| window.nodes.contains(addr));
        lock(&self.moves).iter().any(|m| is_there(m) && m.is_of(tag, from, to))
    }

    /// One more address belongs to the window.
    pub fn widen(&self, window: usize, node: String) {
        lock(&self.windows)[window].nodes.push(node);
    }

    /// All is as before.
    pub fn close(&self, window: usize) {
        lock(&self.windows)[window].to = self.now();
    }

    /// The windows in which the cluster itself may have lost what was acknowledged on this tag then; the last one first.
    pub fn lossy(&self, tag: usize, (sent, got): Span) -> Vec<Window> {
        let windows = lock(&self.windows);
        let fits = |w: &&Window| {
            let may_lose = w.primary.is_some() && w.tags.contains(&tag);
            may_lose && w.from.saturating_sub(LAG) <= got && sent <= w.to
        };
        windows.iter().rev().filter(fits).cloned().collect()
    }

    /// Counts an error, and judges whether it may be.
    pub fn error(&self, asked: &Asked, text: &str) -> Outcome {
        let class = mask(text);
        lock(&self.errors).entry(class).or_insert((0, asked.got)).0 += 1;
        let indoubt = text.starts_with("INDOUBT ");
        if !self.excuses(asked, indoubt, text) {
            let Asked { name, tags, sent, got, .. } = asked;
            let what = format!("{name} of tags {tags:?} sent at {sent} got at {got}: {text}");
            self.fault("unexpected error", what, String::new());
        }
        if indoubt { Outcome::Doubt } else { Outcome::Refused }
    }

    fn excuses(&self, asked: &Asked, indoubt: bool, text: &str) -> bool {
        let node = text.split("node ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or_default();
        let cause = text.strip_prefix(ABORTED).unwrap_or(text);
        let Asked { tags, sent, got, .. } = *asked;
        let about = |w: &Window| tags.is_empty() || tags.iter().any(|tag| w.tags.contains(tag));
        lock(&self.windows).iter().filter(|w| w.is_near(asked.sent, asked.got)).any(|w| {
            if indoubt {
                // What only reads is sent again.
                !asked.reads && asked.sent <= w.unanswered && w.nodes.iter().any(|addr| addr == node)
            } else if text.starts_with(ORDER) {
                about(w) || tags.iter().any(|&tag| self.is_half_there(tag, w, sent, got))
            } else {
                // The shard was without a primary for a whole deadline, and still is or was until just now.
                about(w)
                    && asked.got.saturating_sub(w.from) >= self.deadline
                    && NOT_EXECUTED.iter().any(|code| cause.starts_with(code))
            }
        })
    }

    /// Whether a write to one of these tags that was sent then, and got no answer until `got`, may be in doubt.
    pub fn is_in_doubt(&self, tags: &[usize], sent: Ms, got: Ms) -> bool {
        let about = |w: &Window| {
            tags.iter().any(|&tag| {
                w.tags.contains(&tag)
                    || self.has_moved(tag, sent, got)
                    || self.is_half_there(tag, w, sent, got)
            })
        };
        lock(&self.windows).iter().any(|w| w.is_near(sent, got) && sent <= w.unanswered && about(w))
    }

    /// Whether anything happened to a node in this time, or a moment before it.
    pub fn is_anybody_away(&self, from: Ms, to: Ms) -> bool {
        lock(&self.windows).iter().any(|w| w.is_near(from, to))
    }

    /// Whether a node was stopped within this time, and went on at most a moment before `end`, if at all.
    pub fn is_anybody_stopped(&self, from: Ms, to: Ms, end: Ms) -> bool {
        let stops = |kind| matches!(kind, Kind::Pause | Kind::StopPrimary | Kind::KillClients);
        lock(&self.windows)
            .iter()
            .any(|w| stops(w.kind) && w.from <= to && from <= w.to && end <= w.to.saturating_add(AFTERMATH))
    }

    /// Whether another window than this one was open in this time.
    pub fn is_broken_besides(&self, window: usize, from: Ms, to: Ms) -> bool {
        lock(&self.windows)
            .iter()
            .enumerate()
            .any(|(i, w)| i != window && !w.nodes.is_empty() && w.from <= to && from <= w.to)
    }

    /// A reply came for a command of this tag.
    pub fn reply(&self, tag: usize, sent: Ms, got: Ms) {
        let times = &self.times[tag];
        let last = times.last_reply.fetch_max(got, Ordering::Relaxed);
        if times.slowest.fetch_max(got - sent, Ordering::Relaxed) < got - sent {
            times.slowest_at.store(got, Ordering::Relaxed);
        }
        let silent = got.saturating_sub(last.max(sent));
        if times.silent.fetch_max(silent, Ordering::Relaxed) < silent {
            times.silent_at.store(got, Ordering::Relaxed);
        }
    }

    /// The slowest reply and the longest silence while asked, with their times, of these tags.
    pub fn stalls(&self, tags: impl Iterator<Item = usize> + Clone) -> [(Ms, Ms); 2] {
        let worst = |pick: fn(&Times) -> (&AtomicU32, &AtomicU32)| {
            let of = |tag| {
                let (length, at) = pick(&self.times[tag]);
                (length.load(Ordering::Relaxed), at.load(Ordering::Relaxed))
            };
            tags.clone().map(of).max().unwrap_or_default()
        };
        [worst(|t| (&t.slowest, &t.slowest_at)), worst(|t| (&t.silent, &t.silent_at))]
    }
}

/// Slots that are on their way to another node.
pub struct Moving<'a> {
    journal: &'a Journal,
    number: usize,
}

impl Drop for Moving<'_> {
    fn drop(&mut self) {
        lock(&self.journal.moves)[self.number].span.1 = self.journal.now();
    }
}

/// An error's text without what differs each time.
fn mask(text: &str) -> String {
    let word = |word: &str| {
        if word.starts_with("127.0.0.1:") {
            return "ADDR".to_owned();
        }
        let mut out = String::new();
        for c in word.chars() {
            match c {
                '0'..='9' if out.ends_with('N') => {}
                '0'..='9' => out.push('N'),
                c => out.push(c),
            }
        }
        out
    };
    text.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn errors_are_excused_only_for_what_is_broken() {
    let journal = Journal::new(Duration::from_secs(30));
    let doubt = "INDOUBT the connection to node 127.0.0.1:1 was lost after the command was sent; …";
    let excuses = |reads, tag: usize, sent, got, text: &str| {
        let asked = Asked { name: "SET", reads, tags: &[tag], sent, got };
        journal.excuses(&asked, text.starts_with("INDOUBT "), text)
    };
    let order = format!("{ORDER} …");
    assert!(!excuses(false, 0, 0, 0, doubt), "nothing is broken");
    let window = journal.open(Kind::KillPrimary, vec!["127.0.0.1:1".to_owned()], vec![0], Some(1));
    assert!(excuses(false, 0, 0, 0, doubt));
    assert!(!excuses(true, 0, 0, 0, doubt), "a read is asked again");
    assert!(!excuses(false, 0, 0, 0, &doubt.replace(":1 ", ":2 ")), "another node");
    assert!(excuses(false, 0, 0, 0, &order) && !excuses(false, 1, 0, 0, &order));
    for refused in ["MOVED 1 127.0.0.1:1", "LOADING …", "CLUSTERDOWN …"] {
        assert!(!excuses(false, 0, 0, 20_000, refused), "before the deadline: {refused}");
        assert!(excuses(false, 0, 0, 40_000, refused) && !excuses(false, 1, 0, 40_000, refused));
    }
    assert!(!excuses(false, 0, 0, 40_000, "ERR anything else"));
    assert!(journal.is_in_doubt(&[0], 0, 0) && !journal.is_in_doubt(&[1], 0, 0));
    let opened = journal.opened(1, "127.0.0.1:2".to_owned());
    assert!(!journal.is_in_doubt(&[1], 0, 0), "the target is another node");
    drop(opened);
    let _opened = journal.opened(1, "127.0.0.1:1".to_owned());
    assert!(journal.is_in_doubt(&[1], 0, 0) && excuses(false, 1, 0, 0, &order));
    journal.close(window);
    let late = journal.now() + AFTERMATH + 1;
    assert!(!excuses(false, 0, late, late, doubt) && !journal.is_in_doubt(&[0], late, late));
}
