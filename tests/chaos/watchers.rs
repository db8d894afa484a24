//! Those who only look: scans, and one who asks a shard all the time.

use std::{collections::HashSet, thread, time::Duration};

use fastrand::Rng;

use crate::{
    conn::{Conn, PATIENCE},
    journal::Asked,
    keys::{TAGS, key},
    run::Run,
    support::{Value, encode},
};

/// Longer than the proxy may hold a command.
const WAIT: Duration = Duration::from_secs(40);
/// Who waits looks so often whether the run is over.
const LOOK: Duration = Duration::from_millis(500);

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

    /// Waits for a stream that nobody writes, each time for longer than the proxy may hold a command: it is told nothing
    /// else than that its time is over.
    pub fn wait_for_long(&self, who: usize, tag: usize) {
        let (stream, block) = (key(tag, "never"), WAIT.as_millis().to_string());
        let mut conn = Conn::connect(&self.listener(who), LOOK).expect("the proxy accepts");
        let call = encode(&["XREAD", "BLOCK", &block, "STREAMS", &stream, "0"]);
        while !self.stopping() {
            let sent = self.journal.now();
            let asked = conn.send(&call).and_then(|()| {
                loop {
                    match conn.read() {
                        Err(error) if Conn::is_silence(&error) && !self.stopping() => {}
                        reply => return reply,
                    }
                }
            });
            let got = self.journal.now();
            let took = Duration::from_millis(u64::from(got - sent));
            match asked {
                _ if self.stopping() => return,
                Ok(Value::NullArray) if took + LOOK >= WAIT && took < WAIT + PATIENCE => {
                    self.journal.count("XREADs of nothing", 1);
                }
                Ok(Value::Error(text)) => {
                    self.error(who, &Asked { name: "XREAD", reads: true, tags: &[tag], sent, got }, &text);
                }
                other => {
                    let what = format!("XREAD sent at {sent}, read at {got}: {other:?}");
                    return self.journal.fault("wrong reply", what, String::new());
                }
            }
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
}
