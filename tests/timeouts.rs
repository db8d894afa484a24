//! What a node has of a client after `command_timeout` is not overtaken by what that client sends next.

#![allow(clippy::unwrap_used)]

mod support;

use support::{
    Action, Client, Gate, HIGH, LOW, Proxy, SOON, ScriptedCluster, TestCluster, Value, eventually, key,
};

/// Longer than a link's share of a request: it has a link of its own.
const LARGE: usize = 300 * 1024;

/// A node that has read a write, and has not carried it out yet, when the client is told that it timed out.
struct Stuck {
    cluster: ScriptedCluster,
    proxy: Proxy,
    client: Client,
    /// The key of the write.
    x: String,
    gate: Gate,
}

impl Stuck {
    /// `before` is what the client does first, `first` the write and its key.
    fn by(args: &[&str], before: impl FnOnce(&mut Client), first: &str) -> Self {
        let cluster = ScriptedCluster::start(2);
        let args = [&["--workers", "1", "--command-timeout", "200ms"], args].concat();
        let proxy = Proxy::for_seeds(&cluster.seeds()).args(&args).start();
        let (x, slow, gate) = (key(LOW, "x"), key(LOW, "slow"), Gate::new());
        let mut client = proxy.connect();
        for slot in [LOW, HIGH] {
            // The first may take longer than it has.
            eventually(SOON, || client.cmd(&["GET", &key(slot, "warm")]) == Value::NullBulk);
        }
        before(&mut client);
        let open = gate.clone();
        cluster.node(0).script(move |_, args| match args.get(1).is_some_and(|key| key.ends_with(b"slow")) {
            true => Action::bulk("late").after(&open),
            false => Action::Default,
        });
        // The node does not look at what comes behind this on the same connection.
        assert!(proxy.connect().cmd(&["GET", &slow]).text().starts_with("TIMEOUT "));
        let reply = client.cmd(&[first, &x, "1"]);
        assert!(reply.text().starts_with("INDOUBT "), "{reply:?}");
        cluster.clear_log();
        Stuck { cluster, proxy, client, x, gate }
    }

    fn set(args: &[&str]) -> Self {
        Self::by(args, |_| (), "SET")
    }

    /// The command waits, and has not reached the node when its own time is over.
    fn refuses(&mut self, command: &[&str]) {
        let reply = self.client.cmd(command);
        let text = reply.text();
        let text = text.strip_prefix("EXECABORT Transaction discarded because of: ").unwrap_or(&text);
        assert!(text.starts_with("CLUSTERDOWN "), "{:.40?}: {reply:?}", command[0]);
        assert_eq!(self.received(command[0]), 0, "{}", command[0]);
        assert!(!self.gate.is_open());
    }

    /// The command does not wait; a busy machine may take longer for it than it has.
    fn serves(&mut self, command: &[&str]) {
        eventually(SOON, || !self.client.cmd(command).is_error());
        assert!(!self.gate.is_open());
    }

    /// How often a node was sent this command with the value 2, or as the only one of its kind.
    fn received(&self, command: &str) -> usize {
        let is_it = |args: &[Vec<u8>]| {
            args[0] == command.as_bytes() && args.get(2).is_none_or(|value| value.first() == Some(&b'2'))
        };
        self.cluster.commands().iter().filter(|command| is_it(&command.args)).count()
    }

    /// Once the node goes on, the command goes too, and is the last to take effect.
    fn ends_with(&mut self, command: &[&str], value: &str) {
        self.gate.open();
        eventually(SOON, || self.client.cmd(command) == Value::ok());
        assert_eq!(self.cluster.count(&format!("SET {} 1", self.x)), 1);
        assert!(self.cluster.stored(&self.x).unwrap() == value);
        assert!(self.client.cmd(&["GET", &self.x]).text() == value);
        assert_eq!(self.proxy.metric("slotmux_held_requests"), 0.0);
    }
}

#[test]
fn a_large_write_waits_for_the_small_one_that_timed_out() {
    let mut stuck = Stuck::set(&[]);
    let (x, large) = (stuck.x.clone(), "2".repeat(LARGE));
    stuck.refuses(&["SET", &x, &large]);
    // Nor is it overtaken by what follows on that link; other slots go on.
    stuck.refuses(&["SET", &x, "2"]);
    stuck.serves(&["SET", &key(LOW + 1, "y"), &large]);
    stuck.serves(&["SET", &key(HIGH, "z"), "2"]);
    stuck.ends_with(&["SET", &x, &large], &large);
}

#[test]
fn a_read_on_another_link_waits_too() {
    let mut stuck = Stuck::set(&[]);
    stuck.serves(&["HELLO", "3"]);
    let x = stuck.x.clone();
    stuck.refuses(&["GET", &x]);
    stuck.gate.open();
    eventually(SOON, || stuck.client.cmd(&["GET", &x]) == Value::bulk("1"));
}

#[test]
fn after_hello_a_write_waits_for_the_one_that_timed_out() {
    let mut stuck = Stuck::set(&[]);
    let x = stuck.x.clone();
    // What reaches no node does not wait.
    stuck.serves(&["HELLO", "3"]);
    stuck.serves(&["PING"]);
    stuck.refuses(&["SET", &x, "2"]);
    stuck.serves(&["SET", &key(LOW + 1, "y"), "2"]);
    stuck.refuses(&["FLUSHALL"]);
    stuck.refuses(&["EVAL", "return 1", "0"]);
    stuck.ends_with(&["SET", &x, "2"], "2");
}

#[test]
fn after_select_a_write_waits_for_the_one_that_timed_out() {
    let mut stuck = Stuck::set(&[]);
    let x = stuck.x.clone();
    stuck.serves(&["SELECT", "1"]);
    stuck.refuses(&["SET", &x, "2"]);
    stuck.ends_with(&["SET", &x, "2"], "2");
}

#[test]
fn a_blocking_command_waits_for_the_write_that_timed_out() {
    let mut stuck = Stuck::by(&[], |_| (), "LPUSH");
    let x = stuck.x.clone();
    stuck.refuses(&["BLPOP", &x, "2"]);
    stuck.gate.open();
    eventually(SOON, || stuck.client.cmd(&["BLPOP", &x, "2"]) == Value::ok());
    let words = ["LPUSH", "BLPOP"];
    let received = stuck.cluster.commands().into_iter().map(|command| command.text());
    let received: Vec<_> = received.filter(|text| words.iter().any(|word| text.starts_with(word))).collect();
    assert_eq!(received, [format!("LPUSH {x} 1"), format!("BLPOP {x} 2")]);
}

#[test]
fn watching_waits_for_the_write_that_timed_out() {
    let mut stuck = Stuck::set(&[]);
    let x = stuck.x.clone();
    stuck.refuses(&["WATCH", &x]);
    stuck.ends_with(&["SET", &x, "2"], "2");
    eventually(SOON, || stuck.client.cmd(&["WATCH", &x]) == Value::ok());
}

#[test]
fn the_transaction_of_watched_keys_waits_for_the_write_that_timed_out() {
    let watch = |client: &mut Client| {
        eventually(SOON, || client.cmd(&["WATCH", &key(LOW, "w")]) == Value::ok());
    };
    let mut stuck = Stuck::by(&[], watch, "SET");
    let x = stuck.x.clone();
    assert_eq!(stuck.client.cmd(&["MULTI"]), Value::ok());
    assert_eq!(stuck.client.cmd(&["SET", &x, "2"]), Value::Simple("QUEUED".into()));
    stuck.refuses(&["EXEC"]);
    // It is over, as after any refusal.
    assert_eq!(stuck.client.cmd(&["EXEC"]), Value::error("ERR EXEC without MULTI"));
    stuck.ends_with(&["SET", &x, "2"], "2");
}

#[test]
fn publish_waits_for_a_write_that_timed_out_but_not_for_another_publish() {
    let channel = key(HIGH, "news");
    let mut stuck = Stuck::set(&[]);
    stuck.refuses(&["PUBLISH", &channel, "2"]);
    stuck.gate.open();
    let mut stuck = Stuck::by(&[], |_| (), "PUBLISH");
    stuck.serves(&["PUBLISH", &channel, "2"]);
}

#[test]
fn with_ordering_by_connection_other_slots_wait_too() {
    let mut stuck = Stuck::set(&["--ordering", "connection"]);
    let z = key(HIGH, "z");
    stuck.refuses(&["SET", &z, "2"]);
    stuck.gate.open();
    eventually(SOON, || stuck.client.cmd(&["SET", &z, "2"]) == Value::ok());
}

#[test]
fn what_waits_goes_as_soon_as_the_late_reply_comes_or_the_link_ends() {
    for ends in [false, true] {
        let mut stuck = Stuck::set(&["--link-timeout", "1h"]);
        let x = stuck.x.clone();
        stuck.serves(&["HELLO", "3"]);
        let stuck = &mut stuck;
        // A busy machine may take longer than the second one has.
        eventually(SOON, || {
            stuck.client.send(&["SET", &x, "2"]);
            stuck.client.send(&["FLUSHALL"]);
            match ends {
                true => stuck.cluster.node(0).drop_connections(),
                false => stuck.gate.open(),
            }
            stuck.client.read_values(2) == [Value::ok(), Value::ok()]
        });
        assert_eq!(stuck.cluster.stored(&x).unwrap(), "2");
        assert_eq!(stuck.cluster.count(&format!("SET {x} 1")), usize::from(!ends));
        stuck.gate.open();
    }
}

#[test]
fn a_command_that_only_asks_nodes_obeys_command_timeout() {
    let cluster = TestCluster::primaries(1);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--command-timeout", "200ms"]).start();
    let mut client = proxy.connect();
    eventually(SOON, || client.cmd(&["SET", "k", "1"]) == Value::ok());
    cluster.stop(0);
    for command in [&["SCAN", "0"][..], &["INFO"], &["RANDOMKEY"], &["CONFIG", "GET", "maxmemory"]] {
        let text = "CLUSTERDOWN No node could serve the command within command_timeout";
        assert_eq!(client.cmd(command), Value::error(text), "{command:?}");
    }
    cluster.cont(0);
    eventually(SOON, || client.cmd(&["RANDOMKEY"]) == Value::bulk("k"));
}

#[test]
fn a_write_of_which_a_part_was_carried_out_is_in_doubt() {
    let cluster = ScriptedCluster::start(1);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--command-timeout", "1s"]).start();
    let mut client = proxy.connect();
    let (first, second) = (key(LOW, "first"), key(LOW, "second"));
    eventually(SOON, || client.cmd(&["GET", &first]) == Value::NullBulk);
    // The slot is half moved, and one of the keys cannot be reached.
    cluster.node(0).script(|_, args| match (&args[0][..], args.len()) {
        (b"DEL", 2) if args[1].ends_with(b"first") => Action::reply(":1\r\n"),
        (b"DEL", _) => Action::reply("-TRYAGAIN Multiple keys request during rehashing of slot\r\n"),
        _ => Action::Default,
    });
    let reply = client.cmd(&["DEL", &first, &second]);
    assert!(reply.text().starts_with("INDOUBT "), "{reply:?}");
    // Of a command without any effect that is known.
    eventually(SOON, || {
        let reply = client.cmd(&["DEL", &second]).text();
        // It may have been on its way just then.
        assert!(reply.starts_with("TRYAGAIN ") || reply.starts_with("INDOUBT "), "{reply}");
        reply.starts_with("TRYAGAIN ")
    });
}
