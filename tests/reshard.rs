//! Slots of a real cluster move to and fro under load, half-moved for a while, and no client can tell.

#![allow(clippy::unwrap_used, clippy::too_many_lines)]

mod support;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::{Client, Proxy, TestCluster, Value, slot_of};

const CLIENTS: usize = 4;
const TAGS: usize = 6;
/// So many slots are moved,
const MOVES: usize = 60;
/// in about this time.
const LIMIT: Duration = Duration::from_secs(10);
/// A slot stays half-moved for so many pipelines, or this long if something waits for the slot itself.
const HALF: (usize, Duration) = (20, Duration::from_millis(120));

/// One client, alone on its keys, and what they must hold.
struct Load {
    me: usize,
    random: u64,
    values: HashMap<String, String>,
    /// Keys of a command that was refused after a part of it may have been executed.
    unknown: HashSet<String>,
    refused: usize,
}

impl Load {
    fn below(&mut self, n: usize) -> usize {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) as usize % n
    }

    fn key(&mut self, tag: usize) -> String {
        let key = self.below(4);
        format!("{{t{tag}}}{}:{key}", self.me)
    }

    /// Some keys: of one tag, or of many.
    fn keys(&mut self) -> Vec<String> {
        let (tag, across) = (self.below(TAGS), self.below(2) == 0);
        let mut keys: Vec<String> = Vec::new();
        for _ in 0..=self.below(4) {
            let tag = if across { self.below(TAGS) } else { tag };
            let key = self.key(tag);
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        keys
    }

    fn command(&mut self) -> Vec<String> {
        let tag = self.below(TAGS);
        let value = self.below(1_000_000).to_string();
        let (word, args) = match self.below(7) {
            0 | 1 => ("SET", vec![self.key(tag), value]),
            2 => ("GET", vec![self.key(tag)]),
            3 => ("INCR", vec![self.key(tag)]),
            4 => ("MGET", self.keys()),
            5 => ("MSET", self.keys().into_iter().flat_map(|key| [key, value.clone()]).collect()),
            _ => ("DEL", self.keys()),
        };
        std::iter::once(word.to_owned()).chain(args).collect()
    }

    /// What one server would have answered.
    fn apply(&mut self, command: &[String]) -> Value {
        let read = |value: Option<&String>| value.map_or(Value::NullBulk, Value::bulk);
        match command[0].as_str() {
            "SET" => {
                self.values.insert(command[1].clone(), command[2].clone());
                Value::ok()
            }
            "GET" => read(self.values.get(&command[1])),
            "INCR" => {
                let value = self.values.get(&command[1]).map_or(0, |value| value.parse().unwrap()) + 1;
                self.values.insert(command[1].clone(), value.to_string());
                Value::Int(value)
            }
            "MGET" => Value::Array(command[1..].iter().map(|key| read(self.values.get(key))).collect()),
            "MSET" => {
                self.values.extend(command[1..].chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())));
                Value::ok()
            }
            _ => {
                Value::Int(command[1..].iter().filter(|key| self.values.remove(*key).is_some()).count() as i64)
            }
        }
    }

    /// Believes what a reply says of keys whose values are not known.
    fn learn(&mut self, command: &[String], reply: &Value) {
        let replies = match reply {
            Value::Array(replies) => replies.clone(),
            reply => vec![reply.clone()],
        };
        for (i, key) in keys_of(command).into_iter().enumerate() {
            if self.unknown.remove(&key) {
                match (command[0].as_str(), replies.get(i)) {
                    ("GET" | "MGET", Some(Value::Bulk(value))) => {
                        self.values.insert(key, String::from_utf8(value.clone()).unwrap());
                    }
                    ("INCR", Some(Value::Int(n))) => _ = self.values.insert(key, (n - 1).to_string()),
                    _ => _ = self.values.remove(&key),
                }
            }
        }
    }

    /// Whether the error is the one that the contract allows: for several keys in one half-moved slot, when a
    /// later command of the pipeline on one of them was executed.
    fn may_be_refused(command: &[String], later: &[Vec<String>], reply: &Value) -> bool {
        let keys = keys_of(command);
        let mut slots: Vec<u16> = keys.iter().map(slot_of).collect();
        slots.sort_unstable();
        matches!(reply, Value::Error(text) if text.starts_with("TRYAGAIN "))
            && slots.windows(2).any(|pair| pair[0] == pair[1])
            && later.iter().flat_map(|command| keys_of(command)).any(|key| keys.contains(&key))
    }

    fn pipeline(&mut self, client: &mut Client) {
        let commands: Vec<Vec<String>> = (0..=self.below(30)).map(|_| self.command()).collect();
        let replies = client.pipeline(&commands);
        for (i, (command, reply)) in commands.iter().zip(&replies).enumerate() {
            if Self::may_be_refused(command, &commands[i + 1..], reply) {
                self.refused += 1;
                let slots: HashSet<u16> = keys_of(command).iter().map(slot_of).collect();
                if command[0] == "DEL" || (command[0] == "MSET" && slots.len() > 1) {
                    self.unknown.extend(keys_of(command));
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
}

fn keys_of(command: &[String]) -> Vec<String> {
    match command[0].as_str() {
        "MSET" => command[1..].iter().step_by(2).cloned().collect(),
        "MGET" | "DEL" => command[1..].to_vec(),
        _ => vec![command[1].clone()],
    }
}

/// Moves slots until it has moved enough; returns how many.
fn move_slots(cluster: &TestCluster, done: &AtomicUsize) -> usize {
    let begun = Instant::now();
    for n in 0..MOVES {
        let slot = slot_of(format!("{{t{}}}", n % TAGS));
        let from = cluster.owner_of(slot);
        let to = (from + 1 + n % 2) % 3;
        cluster.begin_migration(slot, from, to);
        let keys = cluster.keys_in_slot(slot, from);
        let some: Vec<&str> = keys.iter().step_by(2).map(String::as_str).collect();
        if !some.is_empty() {
            cluster.move_some_keys(from, to, &some);
        }
        let (before, since) = (done.load(Ordering::Relaxed), Instant::now());
        while done.load(Ordering::Relaxed) < before + HALF.0 && since.elapsed() < HALF.1 {
            thread::yield_now();
        }
        cluster.move_keys(slot, from, to);
        cluster.finish_migration(slot, from, to);
        if begun.elapsed() > LIMIT {
            return n + 1;
        }
    }
    MOVES
}

fn reshard(args: &[&str]) {
    let cluster = TestCluster::primaries(3);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(args).start();
    let (stop, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|me| {
                let (proxy, stop, done) = (&proxy, &stop, &done);
                scope.spawn(move || {
                    let mut load = Load {
                        me,
                        random: 17 + me as u64,
                        values: HashMap::new(),
                        unknown: HashSet::new(),
                        refused: 0,
                    };
                    let mut client = proxy.connect();
                    while !stop.load(Ordering::Relaxed) {
                        load.pipeline(&mut client);
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                    // All is as it was told.
                    for (key, value) in load.values.iter().filter(|(key, _)| !load.unknown.contains(*key)) {
                        assert_eq!(client.cmd(&["GET", key]), Value::bulk(value), "{key}");
                    }
                    load.refused
                })
            })
            .collect();
        let moved = scope.spawn(|| move_slots(&cluster, &done)).join();
        stop.store(true, Ordering::Relaxed);
        let refused: usize = clients.into_iter().map(|client| client.join().unwrap()).sum();
        let (moved, pipelines) = (moved.unwrap(), done.load(Ordering::Relaxed));
        println!(
            "{moved} slots moved under {pipelines} pipelines, {refused} commands refused for order's sake"
        );
        assert!(moved > 5 && pipelines > 100);
        // Only what was on its way when a slot was opened can have been caught.
        assert!(refused <= moved * CLIENTS, "{refused} of {pipelines}");
    });
    let seen = proxy.metric_sum("slotmux_redirects_total");
    assert!(seen > 0.0, "nothing was redirected");
    assert_eq!(proxy.metric("slotmux_errors_total{kind=\"indoubt\"}"), 0.0);
}

#[test]
fn slots_that_move_to_and_fro_under_load_are_not_noticed() {
    reshard(&["--workers", "2"]);
}
