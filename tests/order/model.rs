//! The scripted cluster that plays a plan, and the judge of what came of it.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use crate::support::{Action, Conn, Proxy, SOON, ScriptedCluster, Value, eventually, slot_of, tag_of};

/// The slots in play; node 0 owns the first two at the start.
const SLOTS: [u16; 3] = [100, 101, 16_000];
/// What is late takes so long where commands time out.
const LATE: Duration = Duration::from_millis(60);
const TRYAGAIN: &str = "TRYAGAIN Multiple keys request during rehashing of slot";

/// What happens when a command arrives at a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Fine,
    /// The reply comes late.
    Late,
    /// The command's slot has another owner from now on,
    MoveSlot,
    /// or all slots of its owner have, but those that are open.
    MoveAll,
    /// The slot begins to move,
    OpenSlot,
    /// one key of the command is at the target now,
    MoveKey,
    /// and the slot has moved.
    CloseSlot,
    TryAgain,
    ClusterDown,
    Loading,
    /// The connection ends before the command is read,
    LoseUnread,
    /// after it was executed,
    LoseExecuted,
    /// or in the middle of its reply.
    LoseInReply,
}

/// A command's kind, slot and keys.
pub(crate) type Drawn = (u8, u8, Vec<u8>);

/// What clients send, and what happens to it.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// For each client its pipelines.
    pub(crate) clients: Vec<Vec<Vec<Drawn>>>,
    pub(crate) fates: Vec<Fate>,
    pub(crate) nodes: usize,
    /// `command_timeout` is shorter than what is late, and clients change their links between pipelines.
    pub(crate) timeouts: bool,
}

/// A command as its client sent it, and its reply.
#[derive(Clone, Debug)]
struct Sent {
    client: usize,
    number: usize,
    pipeline: usize,
    args: Vec<String>,
    reply: Option<Value>,
}

#[derive(Default)]
struct Cluster {
    fates: VecDeque<Fate>,
    /// How long what is late takes.
    late: Duration,
    owner: HashMap<u16, usize>,
    target: HashMap<u16, usize>,
    /// Keys of open slots that are at the target.
    moved: HashSet<String>,
    /// For every key the writes that were executed on it, in order.
    history: BTreeMap<String, Vec<String>>,
    /// All writes in the order in which they were executed.
    log: Vec<String>,
}

pub(crate) struct World {
    plan: Plan,
    proxy: Proxy,
    // Declared after the proxy: it outlives it.
    cluster: Arc<ScriptedCluster>,
    state: Arc<Mutex<Cluster>>,
    sent: Mutex<Vec<Sent>>,
}

impl Sent {
    fn keys(&self) -> Vec<&String> {
        keys(&self.args)
    }

    fn is_write(&self) -> bool {
        is_write(&self.args[0])
    }

    fn id(&self) -> String {
        format!("{}.{}", self.client, self.number)
    }

    /// Whether both touch a key and one of them writes it.
    fn conflicts(&self, other: &Sent) -> bool {
        (self.is_write() || other.is_write()) && self.keys().iter().any(|key| other.keys().contains(key))
    }
}

fn is_write(name: &str) -> bool {
    !matches!(name, "GET" | "MGET" | "EXISTS")
}

fn keys(args: &[String]) -> Vec<&String> {
    match args[0].as_str() {
        "MSET" => args[1..].iter().step_by(2).collect(),
        "SET" | "APPEND" | "GET" => vec![&args[1]],
        _ => args[1..].iter().collect(),
    }
}

impl World {
    pub(crate) fn start(plan: &Plan, args: &[&str]) -> World {
        let cluster = Arc::new(ScriptedCluster::start(plan.nodes));
        let owner = SLOTS.iter().map(|slot| (*slot, cluster.topology().owner(*slot).unwrap())).collect();
        let fates = plan.fates.iter().copied().collect();
        let late = if plan.timeouts { LATE } else { Duration::from_millis(5) };
        let state = Arc::new(Mutex::new(Cluster { fates, late, owner, ..Cluster::default() }));
        let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]).args(args).start();
        // What is asked before there are a table and links may time out for that alone.
        let mut client = proxy.connect();
        for slot in SLOTS {
            eventually(SOON, || client.cmd(&["GET", &format!("{{{}}}", tag_of(slot))]) == Value::NullBulk);
        }
        cluster.clear_log();
        let (shared, weak) = (state.clone(), Arc::downgrade(&cluster));
        cluster.script(move |conn, args| {
            let args: Vec<String> = args.iter().map(|a| String::from_utf8_lossy(a).into_owned()).collect();
            lock(&shared).arrive(conn, &args, &weak)
        });
        World { plan: plan.clone(), proxy, cluster, state, sent: Mutex::default() }
    }

    /// Lets all clients send and read everything.
    pub(crate) fn play(&self, patience: Duration) -> Result<(), String> {
        thread::scope(|scope| {
            let threads: Vec<_> = (0..self.plan.clients.len())
                .map(|client| scope.spawn(move || self.play_one(client, patience)))
                .collect();
            threads.into_iter().try_for_each(|t| t.join().map_err(|_| "a client got no reply".to_owned()))
        })
    }

    fn play_one(&self, client: usize, patience: Duration) {
        let mut connection = self.proxy.connect();
        connection.patience(patience);
        let mut number = 0;
        for (pipeline, commands) in self.plan.clients[client].iter().enumerate() {
            if self.plan.timeouts {
                let version = ["3", "2"][pipeline % 2];
                assert!(!connection.cmd(&["HELLO", version]).is_error());
            }
            let mut sent: Vec<Sent> = Vec::new();
            for (kind, slot, which) in commands {
                let args = command(*kind, usize::from(*slot), which, client, number);
                sent.push(Sent { client, number, pipeline, args, reply: None });
                number += 1;
            }
            let requests: Vec<&Vec<String>> = sent.iter().map(|sent| &sent.args).collect();
            let replies = connection.pipeline(&requests);
            for (sent, reply) in sent.iter_mut().zip(replies) {
                sent.reply = Some(reply);
            }
            lock(&self.sent).extend(sent);
        }
        // There was one reply for each.
        assert_eq!(connection.cmd(&["PING"]), Value::Simple("PONG".to_owned()));
    }

    /// How many writes were executed.
    pub(crate) fn executed(&self) -> usize {
        lock(&self.state).log.len()
    }

    /// Compares what the clients were told with what was executed.
    pub(crate) fn judge(&self, strict: bool) -> Result<(), String> {
        self.compare(strict).map_err(|why| {
            let seen = self.cluster.commands();
            let seen: Vec<String> = seen
                .iter()
                .map(|c| {
                    format!("{}.{}{} {}", c.node, c.conn, if c.asking { " ASKING" } else { "" }, c.text())
                })
                .collect();
            format!("{why}\nthe nodes received\n{}\nthe proxy's log\n{}", seen.join("\n"), self.proxy.log())
        })
    }

    fn compare(&self, strict: bool) -> Result<(), String> {
        let (sent, state) = (lock(&self.sent), lock(&self.state));
        for sent_one in sent.iter() {
            let verdict = self.judge_one(sent_one, &sent, &state);
            verdict.map_err(|why| format!("{why}: {sent_one:?}\n{:?}", state.history))?;
        }
        for (key, history) in &state.history {
            in_order(history, false).map_err(|why| format!("{key}: {why}: {history:?}"))?;
        }
        if strict {
            in_order(&state.log, true).map_err(|why| format!("across slots: {why}: {:?}", state.log))?;
        }
        Ok(())
    }

    fn judge_one(&self, sent: &Sent, all: &[Sent], state: &Cluster) -> Result<(), String> {
        let reply = sent.reply.as_ref().unwrap();
        let id = sent.id();
        let times = |key: &&String| {
            state.history.get(*key).map_or(0, |history| history.iter().filter(|other| **other == id).count())
        };
        let executed: Vec<usize> = sent.keys().iter().map(times).collect();
        let slots: HashSet<u16> = sent.keys().iter().map(slot_of).collect();
        if let Value::Error(text) = reply {
            let in_doubt = text.starts_with("INDOUBT ");
            let can_lose = self
                .plan
                .fates
                .iter()
                .any(|fate| matches!(fate, Fate::LoseUnread | Fate::LoseExecuted | Fate::LoseInReply));
            let timeouts = self.plan.timeouts;
            if in_doubt && !(sent.is_write() && (can_lose || timeouts)) {
                return Err("in doubt for no reason".into());
            }
            let timed_out = text.starts_with("TIMEOUT ") && timeouts && !sent.is_write();
            if !in_doubt
                && !timed_out
                && !["TRYAGAIN ", "CLUSTERDOWN ", "LOADING ", "MOVED ", "ASK "]
                    .iter()
                    .any(|code| text.starts_with(code))
            {
                return Err("no such error is expected".into());
            }
            if !in_doubt && slots.len() == 1 && executed.iter().any(|times| *times > 0) {
                return Err("executed though the error says that it was not".into());
            }
            // Only for the sake of order may anybody see that the cluster changes.
            let behind = |other: &&Sent| {
                other.client == sent.client && other.pipeline == sent.pipeline && other.number > sent.number
            };
            if !in_doubt && !timeouts && !all.iter().filter(behind).any(|other| other.conflicts(sent)) {
                return Err("an error for no reason".into());
            }
            if sent.args[0] == "MSET" && slots.len() == 1 && executed.iter().any(|n| *n != executed[0]) {
                return Err("torn".into());
            }
            return Ok(());
        }
        if sent.is_write() && executed.iter().any(|times| *times != 1) {
            return Err(format!("executed {executed:?} times"));
        }
        let lists: Vec<&Value> = match (sent.args[0].as_str(), reply) {
            ("SET" | "MSET", reply) if *reply == Value::ok() => return Ok(()),
            ("DEL" | "EXISTS", Value::Int(n)) if *n as usize == executed.len() => return Ok(()),
            ("APPEND", Value::Int(n)) if state.history[&sent.args[1]].get(*n as usize - 1) == Some(&id) => {
                return Ok(());
            }
            ("GET", reply) => vec![reply],
            ("MGET", Value::Array(values)) if values.len() == executed.len() => values.iter().collect(),
            _ => return Err("a wrong reply".into()),
        };
        sent.keys().iter().zip(lists).try_for_each(|(key, value)| read_fits(sent, key, value, state))
    }
}

/// Whether a read saw the key as it was at one moment, with all earlier and no later writes of its client.
fn read_fits(sent: &Sent, key: &str, value: &Value, state: &Cluster) -> Result<(), String> {
    let text = match value {
        Value::Bulk(_) => value.text(),
        _ => return Err("a wrong reply".into()),
    };
    let seen: Vec<&str> = text.split(',').filter(|id| !id.is_empty()).collect();
    let none = Vec::new();
    let history = state.history.get(key).unwrap_or(&none);
    if !history.iter().zip(&seen).all(|(a, b)| a == b) || seen.len() > history.len() {
        return Err("what it read never was".into());
    }
    for (i, id) in history.iter().enumerate() {
        let (client, number) = parse(id);
        if client == sent.client && (number < sent.number) != (i < seen.len()) {
            return Err(format!("it was read at the wrong time, {id} tells"));
        }
    }
    Ok(())
}

fn parse(id: &str) -> (usize, usize) {
    let (client, number) = id.split_once('.').unwrap();
    (client.parse().unwrap(), number.parse().unwrap())
}

/// Whether each client's commands come in order, and once; a command of several parts may come again.
fn in_order(ids: &[String], parts: bool) -> Result<(), String> {
    let mut last: HashMap<usize, usize> = HashMap::new();
    for id in ids {
        let (client, number) = parse(id);
        match last.insert(client, number) {
            Some(before) if before == number && !parts => return Err(format!("{id} was executed twice")),
            Some(before) if before > number => return Err(format!("{id} came after {client}.{before}")),
            _ => {}
        }
    }
    Ok(())
}

/// The command number `number` of a client. Each DEL has keys of its own, since it carries no value.
fn command(kind: u8, slot: usize, which: &[u8], client: usize, number: usize) -> Vec<String> {
    let id = format!("{client}.{number}");
    let name = |slot: usize, key: &str| format!("{{{}}}{key}", tag_of(SLOTS[slot % 3]));
    let mut seen = HashSet::new();
    let distinct: Vec<u8> = which.iter().copied().filter(|key| seen.insert(*key)).collect();
    let same: Vec<String> = distinct.iter().map(|key| name(slot, &key.to_string())).collect();
    let across: Vec<String> =
        distinct.iter().map(|key| name(slot + usize::from(*key), &key.to_string())).collect();
    let own: Vec<String> =
        distinct.iter().map(|key| name(slot + usize::from(*key) / 2, &format!("del {id}.{key}"))).collect();
    let pairs = |keys: Vec<String>| keys.into_iter().flat_map(|key| [key, id.clone()]).collect::<Vec<_>>();
    let (word, args) = match kind {
        0 => ("SET", vec![same[0].clone(), id.clone()]),
        1 => ("GET", vec![same[0].clone()]),
        2 => ("APPEND", vec![same[0].clone(), id.clone()]),
        3 => ("MSET", pairs(same)),
        4 => ("MGET", same),
        5 => ("DEL", own),
        6 => ("MSET", pairs(across)),
        _ => ("MGET", across),
    };
    std::iter::once(word.to_owned()).chain(args).collect()
}

impl Cluster {
    /// A command arrives at a node.
    fn arrive(&mut self, conn: &Conn, args: &[String], cluster: &Weak<ScriptedCluster>) -> Action {
        let Some(cluster) = cluster.upgrade() else { return Action::Close };
        let keys: Vec<String> = keys(args).into_iter().cloned().collect();
        let slot = slot_of(&keys[0]);
        assert!(keys.iter().all(|key| slot_of(key) == slot), "a node refuses this: {args:?}");
        // In the end every slot that is open moves: nothing waits for ever.
        let fate = self.fates.pop_front().unwrap_or(Fate::CloseSlot);
        self.change(fate, slot, &keys, &cluster);
        match fate {
            Fate::TryAgain => return Action::error(TRYAGAIN),
            Fate::ClusterDown => return Action::error("CLUSTERDOWN The cluster is down"),
            Fate::Loading => return Action::error("LOADING Redis is loading the dataset in memory"),
            Fate::LoseUnread => return Action::Close,
            _ => {}
        }
        let (owner, target) = (self.owner[&slot], self.target.get(&slot).copied());
        let away = keys.iter().filter(|key| self.moved.contains(*key)).count();
        let at = |node: usize| cluster.node(node).addr();
        if conn.node == owner {
            match target {
                Some(target) if away == keys.len() => {
                    return Action::error(&format!("ASK {slot} {}", at(target)));
                }
                Some(_) if away > 0 => return Action::error(TRYAGAIN),
                _ => {}
            }
        } else if !(conn.asking && target == Some(conn.node) && away > 0) {
            return Action::error(&format!("MOVED {slot} {}", at(owner)));
        } else if away < keys.len() {
            return Action::error(TRYAGAIN);
        }
        let reply = self.execute(args, &keys);
        match fate {
            Fate::Late => reply.delayed(self.late),
            Fate::LoseExecuted => Action::CloseAfterReading,
            Fate::LoseInReply => Action::Many(vec![Action::reply("$50\r\nx"), Action::Close]),
            _ => reply,
        }
    }

    fn change(&mut self, fate: Fate, slot: u16, keys: &[String], cluster: &ScriptedCluster) {
        let (owner, target) = (self.owner[&slot], self.target.get(&slot).copied());
        let next = (owner + 1) % cluster.nodes().len();
        match fate {
            Fate::OpenSlot if target.is_none() => {
                self.target.insert(slot, next);
                cluster.edit(|topology| topology.open(slot, next));
            }
            Fate::MoveKey if target.is_some() => {
                let key = keys.iter().find(|key| !self.moved.contains(*key));
                self.moved.extend(key.cloned());
            }
            Fate::MoveAll => {
                let (owners, targets) = (&self.owner, &self.target);
                let moves = |slot: &u16| owners[slot] == owner && !targets.contains_key(slot);
                let all: Vec<u16> = SLOTS.into_iter().filter(moves).collect();
                self.owner.extend(all.iter().map(|&slot| (slot, next)));
                cluster.edit(|topology| all.iter().for_each(|&slot| topology.assign(slot..=slot, next)));
            }
            Fate::MoveSlot | Fate::CloseSlot if fate == Fate::MoveSlot || target.is_some() => {
                let to = target.unwrap_or(next);
                self.moved.retain(|key| slot_of(key) != slot);
                self.target.remove(&slot);
                self.owner.insert(slot, to);
                cluster.edit(|topology| topology.assign(slot..=slot, to));
            }
            _ => {}
        }
    }

    fn execute(&mut self, args: &[String], keys: &[String]) -> Action {
        let values = |history: &BTreeMap<String, Vec<String>>, key: &String| {
            let text = history.get(key).map(|ids| ids.join(",")).unwrap_or_default();
            format!("${}\r\n{text}\r\n", text.len())
        };
        if args[0] == "GET" {
            return Action::reply(values(&self.history, &keys[0]));
        }
        if args[0] == "MGET" {
            let all: String = keys.iter().map(|key| values(&self.history, key)).collect();
            return Action::reply(format!("*{}\r\n{all}", keys.len()));
        }
        for (i, key) in keys.iter().enumerate() {
            let id = match args[0].as_str() {
                "DEL" => {
                    let own = key.rsplit(' ').next().unwrap();
                    own.rsplit_once('.').unwrap().0.to_owned()
                }
                "MSET" => args[2 + 2 * i].clone(),
                _ => args[2].clone(),
            };
            self.log.push(id.clone());
            self.history.entry(key.clone()).or_default().push(id);
        }
        match args[0].as_str() {
            "DEL" => Action::int(keys.len() as i64),
            "APPEND" => Action::int(self.history[&keys[0]].len() as i64),
            _ => Action::ok(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
