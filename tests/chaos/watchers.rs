//! Those who only look: scans, subscribers, and one who asks a shard all the time.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Mutex,
    thread,
    time::Duration,
};

use fastrand::Rng;

use crate::{
    client::Client,
    conn::{Conn, PATIENCE},
    journal::{Asked, Ms, Outcome, lock},
    keys::{TAGS, key},
    ops::has_channel,
    run::Run,
    support::{Value, encode},
};

/// Keys that are there from the beginning to the end: some in each tag's slot, and others anywhere.
pub fn fixed_keys() -> Vec<String> {
    let of_tags = (0..TAGS).flat_map(|tag| (0..10).map(move |i| key(tag, &format!("fixed{i}"))));
    of_tags.chain((0..200).map(|i| format!("fixed{i}"))).collect()
}

impl Run {
    /// Scans the keyspace again and again; no key that is there throughout may be missing.
    pub fn scan(&self, who: usize) {
        let all: HashSet<String> = fixed_keys().into_iter().collect();
        let mut conn = Conn::connect(&self.listener(who), PATIENCE).expect("the proxy accepts");
        while !self.stopping() {
            let mut missing = all.clone();
            let (mut cursor, begun) = ("0".to_owned(), self.journal.now());
            loop {
                let sent = self.journal.now();
                let args = ["SCAN", &cursor, "MATCH", "*fixed*", "COUNT", "300"];
                let page = match conn.cmd(&args) {
                    Ok(Value::Array(page)) if page.len() == 2 => page,
                    Ok(Value::Error(text)) => {
                        let got = self.journal.now();
                        let asked = Asked { name: "SCAN", reads: true, tags: &[], sent, got };
                        self.journal.error(&asked, &text);
                        break;
                    }
                    other => {
                        let what = format!("SCAN sent at {sent}: {other:?}");
                        return self.journal.fault("connection lost", what, String::new());
                    }
                };
                page[1].items().iter().for_each(|key| _ = missing.remove(&key.text()));
                cursor = page[0].text();
                if cursor == "0" {
                    self.journal.count("SCANs of all keys", 1);
                    if !missing.is_empty() {
                        let what = format!("a scan from {begun} on lacks {missing:?}");
                        self.journal.fault("violation", what, String::new());
                    }
                    break;
                }
                if self.stopping() {
                    return;
                }
            }
            thread::sleep(Duration::from_millis(300));
        }
    }

    /// Reads a key of one of these tags all the time, without a pipeline.
    pub fn probe(&self, who: usize, tags: Vec<usize>) {
        let mut rng = Rng::with_seed(self.settings.seed ^ who as u64);
        let mut conn = Conn::connect(&self.listener(who), PATIENCE).expect("the proxy accepts");
        while !self.stopping() {
            let tag = tags[rng.usize(..tags.len())];
            let fixed = key(tag, "fixed1");
            let sent = self.journal.now();
            match conn.cmd(&["GET", &fixed]) {
                Ok(Value::Error(text)) => {
                    let got = self.journal.now();
                    self.journal.error(&Asked { name: "GET", reads: true, tags: &[tag], sent, got }, &text);
                }
                Ok(Value::Bulk(value)) if value == fixed.as_bytes() => {
                    self.journal.reply(tag, sent, self.journal.now());
                }
                other => {
                    let what = format!("GET {fixed} sent at {sent}: {other:?}");
                    return self.journal.fault("wrong reply", what, String::new());
                }
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Subscribes to all channels until everything is over.
    pub fn subscribe(&self, who: usize, heard: &Heard) {
        let channels: Vec<String> =
            (0..TAGS).filter(|&tag| has_channel(tag)).map(|tag| key(tag, "channel")).collect();
        let words: Vec<&str> = ["SUBSCRIBE"].into_iter().chain(channels.iter().map(String::as_str)).collect();
        while !heard.is_over() {
            let Ok(mut conn) = Conn::connect(&self.listener(who), Duration::from_millis(500)) else {
                continue;
            };
            let mut last = BTreeMap::new();
            if conn.send(&encode(&words)).is_err() {
                continue;
            }
            let end = loop {
                match conn.read() {
                    Ok(Value::Array(items)) if items.len() == 3 && items[0].text() == "message" => {
                        self.hear(who, &items[2].text(), &mut last, heard);
                    }
                    Ok(Value::Array(items)) if items.len() == 3 && items[0].text() == "subscribe" => {}
                    Err(error) if Conn::is_silence(&error) && heard.is_over() => break None,
                    Err(error) if Conn::is_silence(&error) => {}
                    other => break Some(other),
                }
            };
            let Some(end) = end else { return heard.finish(who, last) };
            self.journal.event(format!("subscriber {who} lost its connection: {end:?}"));
            self.journal.count("subscribers disconnected", 1);
            if self.settings.is_quiet() {
                let what = format!("a subscriber: {end:?}");
                self.journal.fault("connection lost", what, String::new());
            }
        }
    }

    fn hear(&self, who: usize, message: &str, last: &mut Last, heard: &Heard) {
        let mut numbers = message.split('.').map(|n| n.parse::<usize>().unwrap_or(usize::MAX));
        let mut next = || numbers.next().unwrap_or(usize::MAX);
        let (client, tag, n) = (next(), next(), next());
        self.journal.count("messages heard", 1);
        match last.insert((client, tag), n) {
            Some(before) if before >= n => {
                let what = format!("subscriber {who} got {message} behind number {before}");
                self.journal.fault("duplicate or out of order", what, String::new());
            }
            Some(before) if before + 1 < n => {
                let gap = Gap { who, client, tag, from: before + 1, to: n, at: self.journal.now() };
                lock(&heard.0).gaps.push(gap);
            }
            _ => {}
        }
    }

    /// Whoever was connected throughout has missed nothing that was published.
    pub fn judge_channels(&self, clients: &[Client], heard: &Heard) {
        let heard = lock(&heard.0);
        let published = |client: &Client, tag: usize, n: usize| {
            client.keys[tag].channel.get(n).filter(|(.., end)| *end == Some(Outcome::Done)).copied()
        };
        let missed = |who: usize, client: &Client, tag: usize, n: usize, at: Ms| {
            if let Some((sent, got, _)) = published(client, tag, n) {
                let what = format!(
                    "subscriber {who} missed {}.{tag}.{n}, published {sent}..{got}, found out at {at}",
                    client.me
                );
                self.journal.fault("message lost", what, String::new());
            }
        };
        for Gap { who, client, tag, from, to, at } in &heard.gaps {
            (*from..*to).for_each(|n| missed(*who, &clients[*client], *tag, n, *at));
        }
        for (who, last) in &heard.last {
            for (&(client, tag), &n) in last {
                let client = &clients[client];
                (n + 1..client.keys[tag].channel.len()).for_each(|n| missed(*who, client, tag, n, Ms::MAX));
            }
        }
    }
}

/// By client and tag, the number of the last message.
type Last = BTreeMap<(usize, usize), usize>;

/// What the subscribers heard, and what not.
#[derive(Default)]
pub struct Heard(Mutex<Ears>);

#[derive(Default)]
struct Ears {
    gaps: Vec<Gap>,
    /// At the end.
    last: Vec<(usize, Last)>,
    over: bool,
}

/// A subscriber got `to` and not `from` and what is between.
struct Gap {
    who: usize,
    client: usize,
    tag: usize,
    from: usize,
    to: usize,
    at: Ms,
}

impl Heard {
    /// Nothing is published any more.
    pub fn over(&self) {
        lock(&self.0).over = true;
    }

    pub fn is_over(&self) -> bool {
        lock(&self.0).over
    }

    fn finish(&self, who: usize, last: Last) {
        lock(&self.0).last.push((who, last));
    }
}
