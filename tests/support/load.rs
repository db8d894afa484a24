//! Mixed load from clients each of which is alone on its keys, and knows what every reply has to be.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    panic::resume_unwind,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use super::{Client, Proxy, Value, slot_of};

/// What kind of load.
pub struct Mix {
    pub clients: usize,
    /// The hash tags of all keys; all clients use all of them, with keys of their own.
    pub tags: Vec<String>,
    /// Whether a command may share a key with an earlier one of its pipeline that has several keys in one slot. If
    /// it does, and the slot is just being opened, the earlier one may be refused with TRYAGAIN for order's sake;
    /// nothing else may ever be refused.
    pub conflicts: bool,
}

/// What the clients did.
#[derive(Default)]
pub struct Done {
    pub pipelines: usize,
    pub commands: usize,
    /// Commands refused for order's sake.
    pub refused: usize,
    /// The longest that a pipeline took.
    pub slowest: Duration,
}

impl Mix {
    /// Does the work under load. It is told how many pipelines are done. Fails at the first reply that one server
    /// would not have given, and if in the end a key does not hold what it should.
    pub fn under<T: Send>(&self, proxy: &Proxy, work: impl FnOnce(&AtomicUsize) -> T + Send) -> (T, Done) {
        let (stop, pipelines) = (AtomicBool::new(false), AtomicUsize::new(0));
        let run = |me| {
            let mut load = Load::new(me, self);
            let mut client = proxy.connect();
            while !stop.load(Ordering::Relaxed) {
                load.pipeline(&mut client);
                pipelines.fetch_add(1, Ordering::Relaxed);
            }
            load.check(&mut client);
            load.done
        };
        thread::scope(|scope| {
            let run = &run;
            let clients: Vec<_> = (0..self.clients).map(|me| scope.spawn(move || run(me))).collect();
            let result = scope.spawn(|| work(&pipelines)).join();
            stop.store(true, Ordering::Relaxed);
            let mut all = Done::default();
            for client in clients {
                let done = client.join().unwrap_or_else(|panic| resume_unwind(panic));
                all.pipelines += done.pipelines;
                all.commands += done.commands;
                all.refused += done.refused;
                all.slowest = all.slowest.max(done.slowest);
            }
            (result.unwrap_or_else(|panic| resume_unwind(panic)), all)
        })
    }
}

type Command = Vec<String>;

/// One client, and what its keys must hold.
struct Load<'a> {
    me: usize,
    mix: &'a Mix,
    random: u64,
    strings: HashMap<String, String>,
    lists: HashMap<String, VecDeque<String>>,
    /// Keys of a command that was refused after a part of it may have been executed.
    unknown: HashSet<String>,
    done: Done,
}

impl<'a> Load<'a> {
    fn new(me: usize, mix: &'a Mix) -> Self {
        Self {
            me,
            mix,
            random: 17 + me as u64,
            strings: HashMap::new(),
            lists: HashMap::new(),
            unknown: HashSet::new(),
            done: Done::default(),
        }
    }

    fn below(&mut self, n: usize) -> usize {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) as usize % n
    }

    /// What the keys of some tag begin with.
    fn tag(&mut self) -> String {
        let tag = self.below(self.mix.tags.len());
        format!("{{{}}}{}", self.mix.tags[tag], self.me)
    }

    fn key(&mut self, tag: &str) -> String {
        format!("{tag}:{}", self.below(4))
    }

    /// Some keys: of one tag, or of many.
    fn keys(&mut self) -> Vec<String> {
        let (tag, across) = (self.tag(), self.below(2) == 0);
        let mut keys: Vec<String> = Vec::new();
        for _ in 0..=self.below(4) {
            let key = if across { self.tag() } else { tag.clone() };
            let key = self.key(&key);
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        keys
    }

    fn command(&mut self) -> Command {
        let tag = self.tag();
        let value = self.below(1_000_000).to_string();
        let list = format!("{tag}:list");
        let (word, args) = match self.below(10) {
            0 | 1 => ("SET", vec![self.key(&tag), value]),
            2 => ("GET", vec![self.key(&tag)]),
            3 => ("INCR", vec![self.key(&tag)]),
            4 => ("MGET", self.keys()),
            5 => ("MSET", self.keys().into_iter().flat_map(|key| [key, value.clone()]).collect()),
            6 => ("DEL", self.keys()),
            7 => ("RPUSH", vec![list, value]),
            8 => ("LPOP", vec![list]),
            _ => ("LRANGE", vec![list, "0".to_owned(), "-1".to_owned()]),
        };
        std::iter::once(word.to_owned()).chain(args).collect()
    }

    fn commands(&mut self) -> Vec<Command> {
        let mut commands = Vec::new();
        let mut together = HashSet::new();
        for _ in 0..=self.below(30) {
            let command = self.command();
            let keys = keys_of(&command);
            if !self.mix.conflicts && keys.iter().any(|key| together.contains(key)) {
                break;
            }
            if has_two_in_one_slot(&keys) {
                together.extend(keys);
            }
            commands.push(command);
        }
        commands
    }

    /// What one server would have answered.
    fn apply(&mut self, command: &Command) -> Value {
        let read = |value: Option<&String>| value.map_or(Value::NullBulk, Value::bulk);
        let key = &command[1];
        match command[0].as_str() {
            "SET" => {
                self.strings.insert(key.clone(), command[2].clone());
                Value::ok()
            }
            "GET" => read(self.strings.get(key)),
            "INCR" => {
                let value = self.strings.get(key).map_or(0, |value| value.parse().expect("a number")) + 1;
                self.strings.insert(key.clone(), value.to_string());
                Value::Int(value)
            }
            "MGET" => Value::Array(command[1..].iter().map(|key| read(self.strings.get(key))).collect()),
            "MSET" => {
                self.strings.extend(command[1..].chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())));
                Value::ok()
            }
            "DEL" => {
                let there = command[1..].iter().filter(|key| self.strings.remove(*key).is_some());
                Value::Int(there.count() as i64)
            }
            "RPUSH" => {
                let list = self.lists.entry(key.clone()).or_default();
                list.push_back(command[2].clone());
                Value::Int(list.len() as i64)
            }
            "LPOP" => read(self.lists.get_mut(key).and_then(VecDeque::pop_front).as_ref()),
            _ => Value::Array(self.lists.get(key).into_iter().flatten().map(Value::bulk).collect()),
        }
    }

    /// Believes what a reply says of keys whose values are not known.
    fn learn(&mut self, command: &Command, reply: &Value) {
        let replies = match reply {
            Value::Array(replies) => replies.clone(),
            reply => vec![reply.clone()],
        };
        for (i, key) in keys_of(command).into_iter().enumerate() {
            if self.unknown.remove(&key) {
                match (command[0].as_str(), replies.get(i)) {
                    ("GET" | "MGET", Some(Value::Bulk(value))) => {
                        self.strings.insert(key, String::from_utf8_lossy(value).into_owned());
                    }
                    ("INCR", Some(Value::Int(n))) => _ = self.strings.insert(key, (n - 1).to_string()),
                    _ => _ = self.strings.remove(&key),
                }
            }
        }
    }

    fn may_be_refused(command: &Command, later: &[Command], reply: &Value) -> bool {
        let keys = keys_of(command);
        matches!(reply, Value::Error(text) if text.starts_with("TRYAGAIN "))
            && has_two_in_one_slot(&keys)
            && later.iter().flat_map(keys_of).any(|key| keys.contains(&key))
    }

    fn pipeline(&mut self, client: &mut Client) {
        let commands = self.commands();
        let begun = Instant::now();
        let replies = client.pipeline(&commands);
        self.done.slowest = self.done.slowest.max(begun.elapsed());
        self.done.pipelines += 1;
        self.done.commands += commands.len();
        for (i, (command, reply)) in commands.iter().zip(&replies).enumerate() {
            if Self::may_be_refused(command, &commands[i + 1..], reply) {
                self.done.refused += 1;
                let keys = keys_of(command);
                let slots: HashSet<u16> = keys.iter().map(slot_of).collect();
                if command[0] == "DEL" || (command[0] == "MSET" && slots.len() > 1) {
                    self.unknown.extend(keys);
                }
                continue;
            }
            if command[0] == "DEL" && keys_of(command).iter().any(|key| self.unknown.contains(key)) {
                self.learn(command, reply);
                self.apply(command);
                continue;
            }
            self.learn(command, reply);
            assert_eq!(*reply, self.apply(command), "to number {i} {command:?} of {commands:#?}");
        }
    }

    /// All is as it was told.
    fn check(&self, client: &mut Client) {
        let strings = self.strings.iter().filter(|(key, _)| !self.unknown.contains(*key));
        let strings = strings.map(|(key, value)| (vec!["GET", key], Value::bulk(value)));
        let lists = self.lists.iter().map(|(key, list)| {
            (vec!["LRANGE", key, "0", "-1"], Value::Array(list.iter().map(Value::bulk).collect()))
        });
        let (commands, expected): (Vec<_>, Vec<_>) = strings.chain(lists).unzip();
        for (commands, expected) in commands.chunks(500).zip(expected.chunks(500)) {
            assert_eq!(client.pipeline(commands), expected, "to {commands:?}");
        }
    }
}

fn keys_of(command: &Command) -> Vec<String> {
    match command[0].as_str() {
        "MSET" => command[1..].iter().step_by(2).cloned().collect(),
        "MGET" | "DEL" => command[1..].to_vec(),
        _ => vec![command[1].clone()],
    }
}

fn has_two_in_one_slot(keys: &[String]) -> bool {
    let slots: HashSet<u16> = keys.iter().map(slot_of).collect();
    slots.len() < keys.len()
}
