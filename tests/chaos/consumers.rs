//! Those who wait for elements of queues. Each element is handed out at most once.

use std::{collections::HashMap, sync::Mutex};

use fastrand::Rng;

use crate::{
    journal::{Asked, Ms, Outcome, Span, lock},
    keys::{TAGS, key},
    ops::has_queue,
    run::Run,
    support::Value,
};

/// What was handed out, to whom and when.
#[derive(Default)]
pub struct Taken(Mutex<State>);

#[derive(Default)]
struct State {
    elements: HashMap<String, Vec<Hand>>,
    /// By tag: until when pops may have taken an element which nobody got.
    doubts: HashMap<usize, Vec<Ms>>,
}

#[derive(Clone, Copy)]
struct Hand {
    tag: usize,
    sent: Ms,
    got: Ms,
    consumer: usize,
    moved: bool,
}

impl Taken {
    /// When an element was popped, and when it was moved.
    pub fn of(&self, value: &str) -> (Vec<Span>, Vec<Span>) {
        let hands = lock(&self.0).elements.get(value).cloned().unwrap_or_default();
        let times = |moved| {
            hands.iter().filter(|hand| hand.moved == moved).map(|hand| (hand.sent, hand.got)).collect()
        };
        (times(false), times(true))
    }

    pub fn doubts(&self, tag: usize) -> Vec<Ms> {
        lock(&self.0).doubts.get(&tag).cloned().unwrap_or_default()
    }

    /// What the queue of a tag gave, each with its history.
    pub fn all(&self, tag: usize) -> Vec<(String, String)> {
        let state = lock(&self.0);
        let of_tag = state.elements.iter().filter(|(_, hands)| hands.iter().any(|hand| hand.tag == tag));
        of_tag.map(|(value, hands)| (value.clone(), show(hands))).collect()
    }

    pub fn show(&self, value: &str) -> String {
        show(lock(&self.0).elements.get(value).map_or(&[], Vec::as_slice))
    }
}

fn show(hands: &[Hand]) -> String {
    let line = |hand: &Hand| {
        let Hand { tag, sent, got, consumer, moved } = hand;
        let word = if *moved { "BLMOVE" } else { "BLPOP" };
        format!("    consumer {consumer}: {word} of tag {tag} sent {sent} answered {got}\n")
    };
    hands.iter().map(line).collect()
}

impl Run {
    /// Pops, or moves, until the run stops.
    pub fn consume(&self, consumer: usize, taken: &Taken) {
        // Some that pop and some that move at each listener.
        let client = consumer / 2;
        let mut rng = Rng::with_seed(self.settings.seed ^ (consumer as u64) << 16);
        let queues: Vec<usize> = (0..TAGS).filter(|&tag| has_queue(tag)).collect();
        let moves = consumer % 3 == 2;
        let mut conn = None;
        while !self.stopping() {
            let Some(open) = conn.as_mut() else {
                conn = self.connect(client);
                continue;
            };
            let tag = queues[rng.usize(..queues.len())];
            let (queue, to) = (key(tag, "queue"), key(tag, "moved"));
            let args: &[&str] =
                if moves { &["BLMOVE", &queue, &to, "LEFT", "RIGHT", "1"] } else { &["BLPOP", &queue, "1"] };
            let sent = self.journal.now();
            let reply = open.cmd(args);
            let got = self.journal.now();
            let value = match &reply {
                Ok(Value::NullArray | Value::NullBulk) => continue,
                Ok(Value::Array(items)) if !moves && items.len() == 2 && items[0] == Value::bulk(&queue) => {
                    items[1].text()
                }
                Ok(Value::Bulk(_)) if moves => reply.as_ref().map(Value::text).unwrap_or_default(),
                Ok(Value::Error(text)) => {
                    let asked = Asked { name: args[0], reads: false, tags: &[tag], sent, got };
                    if self.error(client, &asked, text) == Outcome::Doubt && !moves {
                        lock(&taken.0).doubts.entry(tag).or_default().push(got);
                    }
                    continue;
                }
                Err(error) => {
                    let asked = Asked { name: args[0], reads: false, tags: &[tag], sent, got };
                    self.cut_off(client, error, &asked, &[], String::new());
                    lock(&taken.0).doubts.entry(tag).or_default().extend((!moves).then_some(got));
                    conn = None;
                    continue;
                }
                other => {
                    let what = format!("consumer {consumer}: {} sent at {sent}: {other:?}", args[0]);
                    self.journal.fault("wrong reply", what, String::new());
                    continue;
                }
            };
            self.journal.count(args[0], 1);
            let hand = Hand { tag, sent, got, consumer, moved: moves };
            lock(&taken.0).elements.entry(value).or_default().push(hand);
        }
    }
}
