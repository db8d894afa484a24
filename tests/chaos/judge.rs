//! The verdict: what was acknowledged is there, once, in order; or it is the cluster's own loss.

use std::{collections::HashMap, sync::Mutex};

use crate::{
    client::Client,
    conn::{Conn, PATIENCE},
    consumers::Taken,
    journal::{History, Ms, Outcome, Span, Window, lock},
    keep::Keep,
    keys::{Evidence, List, TAGS, Verdict, key, number, shown},
    ops::has_queue,
    run::Run,
    support::Value,
};

#[cfg(test)]
use crate::{journal::Journal, nemesis::Kind, settings::Settings};

/// A reply that was older than what had been acknowledged.
struct Back {
    tag: usize,
    key: String,
    evidence: Evidence,
    known: Span,
    got: Ms,
    history: String,
}

/// What only the end can judge.
#[derive(Default)]
pub struct Judge {
    backs: Mutex<Vec<Back>>,
}

/// Who is asked in the end.
pub struct Side<'a> {
    pub name: &'static str,
    /// The address for each tag.
    pub addr: Box<dyn Fn(usize) -> String + 'a>,
    conns: HashMap<String, Conn>,
}

impl<'a> Side<'a> {
    pub fn new(name: &'static str, addr: impl Fn(usize) -> String + 'a) -> Self {
        Self { name, addr: Box::new(addr), conns: HashMap::new() }
    }

    pub fn ask(&mut self, tag: usize, args: &[&str]) -> Value {
        let addr = (self.addr)(tag);
        let conn = self
            .conns
            .entry(addr)
            .or_insert_with_key(|addr| Conn::connect(addr, PATIENCE).expect("it listens: all was healed"));
        conn.cmd(args).unwrap_or_else(|error| panic!("{} to {args:?}: {error}", self.name))
    }
}

impl Run {
    /// Judges a reply, or keeps it until the files can be asked.
    pub fn verdict(&self, tag: usize, key: &str, verdict: Verdict, got: Ms, history: &History) {
        match verdict {
            Verdict::Fine => {}
            Verdict::Wrong(what) => self.journal.fault("violation", what, history.show()),
            Verdict::Back { known, evidence } => {
                let (key, history) = (key.to_owned(), history.show());
                lock(&self.judge.backs).push(Back { tag, key, evidence, known, got, history });
            }
        }
    }

    /// Something that was acknowledged is not there any more. It is the cluster's loss if it stands in the file of a
    /// primary that was lost or demoted then.
    pub fn lost(
        &self,
        keep: &Keep,
        tag: usize,
        evidence: &Evidence,
        known: Span,
        what: &str,
        history: String,
    ) {
        let (windows, nodes) = (self.journal.lossy(tag, known), keep.nodes(evidence));
        let theirs = |window: &&Window| window.primary.is_some_and(|primary| nodes.contains(&primary));
        match windows.iter().find(theirs) {
            Some(window) => self.journal.count(&format!("the cluster's losses at {}", window.kind), 1),
            None => {
                let show = |w: &Window| format!("{} of node {:?} {}..{}", w.kind, w.primary, w.from, w.to);
                let windows: Vec<String> = windows.iter().map(show).collect();
                let what = format!(
                    "{what}; acknowledged in {known:?}; in the files of nodes: {nodes:?}; lost then: {windows:?}"
                );
                self.journal.fault("lost", what, history);
            }
        }
    }

    /// Reads everything from both sides, which must be the same, and compares it with what the clients know.
    pub fn judge_keys(&self, clients: &mut [Client], keep: &Keep, proxy: &mut Side, direct: &mut Side) {
        for client in clients {
            for tag in 0..TAGS {
                let now = self.journal.now();
                let mut both = |args: &[&str]| {
                    let [one, other] = [proxy.ask(tag, args), direct.ask(tag, args)];
                    if one != other {
                        let both = format!("{args:?} of the proxy: {one:?}");
                        let what = format!("{}, of the node: {}", shown(&both), shown(&format!("{other:?}")));
                        self.journal.fault("violation", what, String::new());
                    }
                    one
                };
                let registers: Vec<Value> =
                    client.names.register[tag].iter().map(|key| both(&["GET", key])).collect();
                let counter = both(&["GET", &client.names.counter[tag]]);
                let list = both(&["LRANGE", &client.names.list[tag], "0", "-1"]);
                let blocks = both(&["LRANGE", &client.names.blocks[tag], "0", "-1"]);
                for (which, value) in registers.iter().enumerate() {
                    client.get(tag, which, value, now, now);
                }
                let counter = match counter {
                    Value::NullBulk => 0,
                    counter => counter.text().parse().unwrap_or(-1),
                };
                client.counter(tag, false, counter, now, now);
                let (names, keys) = (&client.names, &client.keys[tag]);
                let lists = [
                    (&names.list[tag], list, &keys.list, &keys.list_history),
                    (&names.blocks[tag], blocks, &keys.blocks, &History::default()),
                ];
                for (name, items, list, history) in lists {
                    self.judge_list(keep, client.me, tag, name, items.items(), list, history);
                }
            }
        }
        for back in lock(&self.judge.backs).drain(..) {
            let Back { tag, key, evidence, known, got, history } = back;
            let what = format!("{key} went back at {got} behind {evidence}");
            self.lost(keep, tag, &evidence, known, &what, history);
        }
        for tag in 0..TAGS {
            let mut sum = 0;
            for name in ["a", "b"] {
                match proxy.ask(tag, &["GET", &key(tag, name)]) {
                    Value::NullBulk => {}
                    value => sum += value.text().parse::<i64>().unwrap_or(i64::MAX / 4),
                }
            }
            if sum != 0 {
                let what = format!("the two keys of tag {tag} have the sum {sum}");
                self.journal.fault("violation", what, String::new());
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "all that is known of one list")]
    fn judge_list(
        &self,
        keep: &Keep,
        client: usize,
        tag: usize,
        key: &str,
        items: &[Value],
        list: &List,
        history: &History,
    ) {
        let mut times = vec![0u32; list.log.len()];
        let mut last = None;
        for item in items {
            let Some(n) = number(client, tag, &item.text()).filter(|n| (*n as usize) < times.len()) else {
                let what = format!("{key} has {}, which nobody wrote", item.text());
                self.journal.fault("violation", what, history.show());
                continue;
            };
            times[n as usize] += 1;
            if last >= Some(n) && times[n as usize] == 1 {
                let what = format!("{key} has element {n} behind {last:?}");
                self.journal.fault("order", what, history.show());
            }
            last = Some(n);
        }
        let mut lost = 0;
        for (n, (&times, &(sent, got, end))) in times.iter().zip(&list.log).enumerate() {
            let what = format!("element {n} of {key}, sent at {sent}, answered {end:?} at {got}");
            match (times, end) {
                (0, Some(Outcome::Done)) => {
                    lost += 1;
                    let value = crate::keys::value(client, tag, n as u32);
                    let evidence = Evidence::Written(key.to_owned(), value);
                    self.lost(keep, tag, &evidence, (sent, got), &what, history.show());
                }
                (1, Some(Outcome::Refused)) => {
                    self.journal.fault("violation", format!("{what}, is there"), history.show());
                }
                (2.., _) => {
                    let what = format!("{what}, is there {times} times");
                    self.journal.fault("duplicate", what, history.show());
                }
                _ => {}
            }
        }
        if let Some(shrunk) = list.shrunk.as_ref().filter(|_| lost == 0) {
            let what = format!("{key} seemed to have lost elements, and has all");
            self.journal.fault("violation", what, shrunk.to_string());
        }
    }

    /// Each element of a queue was handed out once, or is still there.
    pub fn judge_queues(&self, clients: &[Client], keep: &Keep, side: &mut Side, taken: &Taken) {
        for tag in (0..TAGS).filter(|&tag| has_queue(tag)) {
            let mut there: HashMap<String, u32> = HashMap::new();
            let mut list = |name: &str| -> Vec<String> {
                let items = side.ask(tag, &["LRANGE", &key(tag, name), "0", "-1"]);
                items.items().iter().map(Value::text).collect()
            };
            let (queue, moved) = (list("queue"), list("moved"));
            queue.iter().chain(&moved).for_each(|value| *there.entry(value.clone()).or_default() += 1);
            let mut doubts = taken.doubts(tag);
            for client in clients {
                for (n, &(sent, got, end)) in client.keys[tag].queue.iter().enumerate() {
                    let value = crate::keys::value(client.me, tag, n as u32);
                    let here = there.remove(&value).unwrap_or(0);
                    let what =
                        format!("element {value} of a queue, sent at {sent}, answered {end:?} at {got}");
                    let element = Element { tag, value, what, at: (sent, got), end, here };
                    self.judge_element(keep, &element, taken, &mut doubts);
                }
            }
            let pushed = |value: &str| {
                clients.iter().any(|client| {
                    let n = number(client.me, tag, value);
                    n.is_some_and(|n| (n as usize) < client.keys[tag].queue.len())
                })
            };
            for (value, history) in taken.all(tag).into_iter().filter(|(value, _)| !pushed(value)) {
                let what = format!("the queue of tag {tag} gave {value}, which nobody put there");
                self.journal.fault("violation", what, history);
            }
            for value in there.keys() {
                let what = format!("the queue of tag {tag} has {value}, which nobody put there");
                self.journal.fault("violation", what, String::new());
            }
        }
    }

    fn judge_element(&self, keep: &Keep, element: &Element, taken: &Taken, doubts: &mut Vec<Ms>) {
        let Element { tag, value, what, at, end, here } = element;
        let (popped, moved) = taken.of(value);
        let history = || taken.show(value);
        let handed_out = popped.len() + moved.len();
        let here = *here as usize;
        if *end == Some(Outcome::Refused) && handed_out + here > 0 {
            self.journal.fault("violation", format!("{what}, is there"), history());
        }
        if popped.len() + moved.len().max(here) > 1 {
            let first = popped.iter().chain(&moved).min();
            let windows = first.map(|&first| self.journal.lossy(*tag, first)).unwrap_or_default();
            let twice = keep.pushed_twice(&key(*tag, "queue"), value);
            match windows.first().filter(|_| twice.is_empty()) {
                Some(window) => {
                    self.journal.count(&format!("the cluster's pops undone at {}", window.kind), 1)
                }
                None => {
                    let what = format!(
                        "{what}, was handed out {handed_out} times and is there {here} times; pushed twice on \
                         nodes {twice:?}"
                    );
                    self.journal.fault("duplicate", what, history());
                }
            }
        } else if popped.is_empty() && here == 0 && (*end == Some(Outcome::Done) || !moved.is_empty()) {
            let evidence = Evidence::Written(key(*tag, "queue"), value.clone());
            // The earliest of those that may have taken it: the others may have taken later ones too. What no node has
            // written nobody could take.
            let (sent, written) = (at.0, !keep.nodes(&evidence).is_empty());
            let doubt =
                (0..doubts.len()).filter(|&i| written && sent <= doubts[i]).min_by_key(|&i| doubts[i]);
            if let Some(doubt) = doubt {
                doubts.swap_remove(doubt);
                return self.journal.count("elements whose pop was in doubt", 1);
            }
            let known = moved.first().copied().unwrap_or(*at);
            self.lost(keep, *tag, &evidence, known, what, history());
        }
    }
}

/// An element of a queue, and what became of its push.
struct Element {
    tag: usize,
    value: String,
    what: String,
    at: Span,
    end: Option<Outcome>,
    here: u32,
}

#[test]
fn lists_show_what_is_lost_twice_there_or_out_of_order() {
    let folder = tempfile::tempdir().unwrap();
    let files = folder.path().join("node").join("appendonlydir");
    std::fs::create_dir_all(&files).unwrap();
    let written = "*3\r\n$5\r\nRPUSH\r\n$1\r\nk\r\n$5\r\n0.0.2\r\n";
    std::fs::write(files.join("appendonly.aof.1.incr.aof"), written).unwrap();
    let keep = Keep::new(vec![folder.path().join("node")], &folder.path().join("kept"));
    keep.link();
    keep.read(true);
    // Element 3 was refused, element 4 is in doubt, the others were acknowledged.
    let end = |n: u32| match n {
        3 => Outcome::Refused,
        4 => Outcome::Doubt,
        _ => Outcome::Done,
    };
    let list = List { log: (0..5).map(|n| (n, n, Some(end(n)))).collect(), ..List::default() };
    let faults = |items: &[u32], breaks: bool| -> Vec<&'static str> {
        let run = Run::new(Settings::or(1, 1, 1, "quiet"), Journal::new(PATIENCE), vec![String::new(); 3]);
        if breaks {
            run.journal.open(Kind::KillPrimary, Vec::new(), vec![0], Some(0));
        }
        let items: Vec<Value> = items.iter().map(|n| Value::bulk(format!("0.0.{n}"))).collect();
        run.judge_list(&keep, 0, 0, "k", &items, &list, &History::default());
        let faults = lock(&run.journal.faults);
        faults.iter().map(|fault| fault.kind).collect()
    };
    assert!(faults(&[0, 1, 2], false).is_empty() && faults(&[0, 1, 2, 4], false).is_empty());
    assert_eq!(faults(&[0, 1], false), ["lost"]);
    assert_eq!(faults(&[0, 1, 1, 2], false), ["duplicate"]);
    assert_eq!(faults(&[0, 2, 1], false), ["order"]);
    assert_eq!(faults(&[0, 1, 2, 3], false), ["violation"], "it was refused");
    assert_eq!(faults(&[0, 1, 2, 9], false), ["violation"], "nobody wrote it");
    // The cluster's own loss stands in the file of the primary that was lost.
    assert!(faults(&[0, 1], true).is_empty());
    assert_eq!(faults(&[0, 2], true), ["lost"]);
}
