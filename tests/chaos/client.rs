//! One client: pipelines of random depth over keys of its own, every reply of which it can judge.

use std::{collections::BTreeMap, io, thread, time::Duration};

use fastrand::Rng;

use crate::{
    conn::Conn,
    journal::{Asked, History, Ms, Outcome},
    keys::{
        Count, Keys, TAGS, Verdict, key, large, number, register_number, register_value, shown as beginning,
        which,
    },
    ops::{Names, Op},
    run::Run,
    support::Value,
};

pub struct Client<'a> {
    pub me: usize,
    pub run: &'a Run,
    pub rng: Rng,
    pub names: Names,
    pub keys: Vec<Keys>,
    /// Commands that got no error, by name.
    done: BTreeMap<&'static str, u64>,
}

impl<'a> Client<'a> {
    pub fn new(me: usize, run: &'a Run) -> Self {
        let rng = Rng::with_seed(run.settings.seed ^ (me as u64 + 1) << 32);
        let keys = (0..TAGS).map(|_| Keys::new(me)).collect();
        Self { me, run, rng, names: Names::new(me), keys, done: BTreeMap::new() }
    }

    /// Works until the run stops.
    pub fn work(&mut self) {
        let mut conn = None;
        while !self.run.stopping() {
            let Some(open) = conn.as_mut() else {
                conn = self.run.connect(self.me);
                continue;
            };
            let ops = self.pipeline();
            let sent = self.run.journal.now();
            if let Err((error, from)) = self.talk(open, &ops) {
                let (first, got) = (&ops[from], self.run.journal.now());
                let asked =
                    Asked { name: first.name(), reads: first.is_read(), tags: &first.tags(), sent, got };
                let pipeline: String = ops
                    .iter()
                    .enumerate()
                    .map(|(i, op)| format!("    {i}: {} of tags {:?}\n", op.name(), op.tags()))
                    .collect();
                let later: Vec<usize> = ops[from + 1..].iter().flat_map(Op::tags).collect();
                self.run.cut_off(self.me, &error, &asked, &later, pipeline);
                ops[from..].iter().for_each(|op| self.failed(op, Outcome::Doubt, sent, got));
                conn = None;
            }
            let pause = ops.len() as f64 * self.run.settings.pause() * 2.0 * self.rng.f64();
            thread::sleep(Duration::from_secs_f64(pause));
        }
        self.done.iter().for_each(|(name, n)| self.run.journal.count(name, *n));
    }

    /// Sends the commands and judges the replies; on a lost connection, with the first that got none.
    fn talk(&mut self, conn: &mut Conn, ops: &[Op]) -> Result<(), (io::Error, usize)> {
        let bytes: Vec<u8> = ops.iter().flat_map(|op| op.encode(self.me, &self.names)).collect();
        let sent = self.run.journal.now();
        conn.send(&bytes).map_err(|error| (error, 0))?;
        for (i, op) in ops.iter().enumerate() {
            let mut reply = conn.read().map_err(|error| (error, i))?;
            for n in 1..op.replies() {
                if reply != Value::Simple(if n == 1 { "OK" } else { "QUEUED" }.to_owned()) {
                    self.wrong(op, sent, &reply);
                }
                reply = conn.read().map_err(|error| (error, i))?;
            }
            let got = self.run.journal.now();
            if let Some(tag) = op.tag() {
                self.run.journal.reply(tag, sent, got);
            }
            self.judge(op, &reply, sent, got);
        }
        self.run.journal.count("commands", ops.iter().map(|op| op.replies() as u64).sum());
        self.run.journal.count("pipelines", 1);
        Ok(())
    }

    fn judge(&mut self, op: &Op, reply: &Value, sent: Ms, got: Ms) {
        if let Value::Error(text) = reply {
            let asked = Asked { name: op.name(), reads: op.is_read(), tags: &op.tags(), sent, got };
            let outcome = self.run.error(self.me, &asked, text);
            return self.failed(op, outcome, sent, got);
        }
        *self.done.entry(op.name()).or_default() += 1;
        match (op, reply) {
            (Op::Push(tag, n), Value::Int(length)) => {
                self.keys[*tag].list.log[*n as usize] = (sent, got, Some(Outcome::Done));
                self.measure(
                    *tag,
                    |count, key| count.raised(key, *length as u64, (sent, got)),
                    sent,
                    got,
                    || format!("RPUSH {n} -> {length}"),
                );
            }
            (Op::Tail(tag), Value::Array(items)) => self.tail(*tag, items, sent, got),
            (Op::Incr(tag, _), Value::Int(n)) => self.counter(*tag, true, *n, sent, got),
            (Op::Count(tag), Value::Bulk(_)) => {
                self.counter(*tag, false, reply.text().parse().unwrap_or(-1), sent, got);
            }
            (Op::Count(tag), Value::NullBulk) => self.counter(*tag, false, 0, sent, got),
            (Op::Set(tag, n), Value::Simple(ok)) if ok == "OK" => {
                self.set(*tag, *n, Outcome::Done, sent, got)
            }
            (Op::MSet(pairs), Value::Simple(ok)) if ok == "OK" => {
                pairs.iter().for_each(|&(tag, n)| self.set(tag, n, Outcome::Done, sent, got));
            }
            (Op::Get(tag), value) => self.get(*tag, 0, value, sent, got),
            (Op::MGet(places), Value::Array(values)) if places.len() == values.len() => {
                places.iter().zip(values).for_each(|(&(tag, which), value)| {
                    self.get(tag, which, value, sent, got);
                });
            }
            (Op::Many(many), reply) if many.reply == *reply => {}
            (Op::Transfer(tag, _, n), Value::Array(items)) if is_balanced(items) => {
                self.keys[*tag].blocks.log[*n as usize] = (sent, got, Some(Outcome::Done));
            }
            (Op::Enqueue(tag, n), Value::Int(_)) => {
                self.keys[*tag].queue[*n as usize] = (sent, got, Some(Outcome::Done));
            }
            (Op::Publish(tag, n), Value::Int(_)) => {
                self.keys[*tag].channel[*n as usize] = (sent, got, Some(Outcome::Done));
            }
            (Op::Fixed(tag), Value::Bulk(bytes)) if *bytes == key(*tag, "fixed0").as_bytes() => {}
            (Op::Large(tag), Value::Bulk(bytes)) if *bytes == large(*tag).as_bytes() => {}
            (Op::Keyless(_, Some(expected)), reply) if expected == reply => {}
            (Op::Keyless("DBSIZE", _), Value::Int(1..)) => {}
            _ => self.wrong(op, sent, reply),
        }
    }

    fn wrong(&self, op: &Op, sent: Ms, reply: &Value) {
        let what =
            format!("client {}: {} on tag {:?} sent at {sent}: {reply:?}", self.me, op.name(), op.tag());
        let expected = match op {
            Op::Many(many) => {
                format!("    for {} keys of tags {:?}: {:?}\n", many.keys.len(), many.tags, many.reply)
            }
            _ => String::new(),
        };
        self.run.journal.fault("wrong reply", beginning(&what), beginning(&expected));
    }

    /// A command got an error.
    fn failed(&mut self, op: &Op, outcome: Outcome, sent: Ms, got: Ms) {
        let entry = (sent, got, Some(outcome));
        match op {
            Op::Push(tag, n) => {
                let keys = &mut self.keys[*tag];
                keys.list.log[*n as usize] = entry;
                keys.list.length.failed(outcome);
                keys.list_history.note(sent, got, format!("RPUSH {n} -> {outcome:?}"));
            }
            Op::Incr(tag, _) => {
                self.keys[*tag].counter.failed(outcome);
                self.keys[*tag].counter_history.note(sent, got, format!("INCR -> {outcome:?}"));
            }
            Op::Set(tag, n) => self.set(*tag, *n, outcome, sent, got),
            // Other parts of it may have been executed.
            Op::MSet(pairs) => pairs.iter().for_each(|&(tag, n)| self.set(tag, n, Outcome::Doubt, sent, got)),
            Op::Transfer(tag, _, n) => self.keys[*tag].blocks.log[*n as usize] = entry,
            Op::Enqueue(tag, n) => self.keys[*tag].queue[*n as usize] = entry,
            Op::Publish(tag, n) => self.keys[*tag].channel[*n as usize] = entry,
            _ => {}
        }
    }

    fn set(&mut self, tag: usize, n: u32, outcome: Outcome, sent: Ms, got: Ms) {
        self.keys[tag].registers[which(n)].set(n, outcome, (sent, got));
        self.keys[tag].register_history.note(
            sent,
            got,
            format!("SET of register {} to {n} -> {outcome:?}", which(n)),
        );
    }

    pub fn get(&mut self, tag: usize, which: usize, reply: &Value, sent: Ms, got: Ms) {
        let n = match reply {
            Value::NullBulk => Some(0),
            Value::Bulk(bytes) => register_number(self.me, tag, which, &String::from_utf8_lossy(bytes)),
            _ => None,
        };
        let (me, keys, key) = (self.me, &mut self.keys[tag], &self.names.register[tag][which]);
        keys.register_history.note(sent, got, format!("GET of register {which} -> {n:?}"));
        let verdict = keys.registers[which].read(key, n, |n| register_value(me, tag, n), (sent, got));
        self.run.verdict(tag, key, verdict, got, &keys.register_history);
    }

    pub fn counter(&mut self, tag: usize, raised: bool, n: i64, sent: Ms, got: Ms) {
        let (keys, key) = (&mut self.keys[tag], &self.names.counter[tag]);
        keys.counter_history.note(sent, got, format!("{} -> {n}", if raised { "INCR" } else { "GET" }));
        let n = n.try_into().unwrap_or(u64::MAX);
        let at = (sent, got);
        let verdict = if raised { keys.counter.raised(key, n, at) } else { keys.counter.read(key, n, at) };
        self.run.verdict(tag, key, verdict, got, &keys.counter_history);
    }

    /// The length of a list was told. A list that shrank has lost elements, which the end finds one by one.
    fn measure(
        &mut self,
        tag: usize,
        learn: impl FnOnce(&mut Count, &str) -> Verdict,
        sent: Ms,
        got: Ms,
        what: impl FnOnce() -> String,
    ) {
        let (keys, key) = (&mut self.keys[tag], &self.names.list[tag]);
        keys.list_history.note(sent, got, what());
        match learn(&mut keys.list.length, key) {
            Verdict::Back { .. } => keys.list.shrunk = Some(shown(&keys.list_history)),
            verdict => self.run.verdict(tag, key, verdict, got, &keys.list_history),
        }
    }

    /// The last elements of a list: each was sent, in this order, and the last acknowledged one is there.
    fn tail(&mut self, tag: usize, items: &[Value], sent: Ms, got: Ms) {
        let me = self.me;
        let (keys, key) = (&mut self.keys[tag], &self.names.list[tag]);
        let there: Option<Vec<u32>> = items.iter().map(|item| number(me, tag, &item.text())).collect();
        keys.list_history.note(sent, got, format!("LRANGE -3 -1 -> {there:?}"));
        let acknowledged = keys.list.log.iter().rposition(|(.., end)| *end == Some(Outcome::Done));
        let last = there.as_ref().map(|there| there.last().map(|n| *n as usize));
        let ordered = there.is_some_and(|there| there.is_sorted_by(|a, b| a < b));
        if !ordered || last.flatten().is_some_and(|n| n >= keys.list.log.len()) {
            let what = format!("the end of {key} is out of order, or was never sent");
            self.run.journal.fault("order", what, keys.list_history.show());
        } else if last.flatten() < acknowledged && keys.list.shrunk.is_none() {
            keys.list.shrunk = Some(shown(&keys.list_history));
        }
    }
}

fn shown(history: &History) -> std::sync::Arc<str> {
    history.show().into()
}

/// What EXEC answered to a transfer: the sum of both keys is 0, and they are what the changes gave.
fn is_balanced(items: &[Value]) -> bool {
    let numbers: Option<Vec<i64>> = items
        .iter()
        .map(|item| match item {
            Value::Int(n) => Some(*n),
            Value::Bulk(bytes) => String::from_utf8_lossy(bytes).parse().ok(),
            _ => None,
        })
        .collect();
    numbers.is_some_and(|n| n.len() == 5 && n[0] + n[1] == 0 && n[2] == n[0] && n[3] == n[1])
}
