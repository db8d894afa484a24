//! Nodes that do what they should not: the proxy goes on, and nobody else notices.

mod support;

use support::{Action, Gate, HIGH, LOW, SOON, ScriptedCluster, Value, eventually, key};

#[test]
fn a_reply_to_a_request_that_is_not_all_sent_yet_ends_the_link_and_nothing_else() {
    let cluster = ScriptedCluster::start(2);
    let proxy = cluster.proxy(&[]);
    for behind in [0, 1, 3] {
        let early = Gate::new();
        let gate = early.clone();
        let mut done = false;
        cluster.node(0).script(move |_, args| match args[0] == b"GET" && !done {
            true => {
                done = true;
                Action::Many(vec![Action::reply("$-1\r\n"), Action::error("ERR early").after(&gate)])
            }
            false => Action::Default,
        });
        let mut client = proxy.connect();
        // What is large goes over a connection of its own, and what the client sends next does, too.
        assert_eq!(client.cmd(&["SET", &key(LOW, "a"), &"v".repeat(1 << 20)]), Value::ok());
        assert_eq!(client.cmd(&["GET", &key(LOW, "a")]), Value::NullBulk);
        // More than the sockets between them hold: the node does not read now.
        let large = "v".repeat(12 << 20);
        let read = proxy.metric("slotmux_client_read_bytes_total");
        client.send(&["SET", &key(LOW, "a"), &large]);
        for _ in 0..behind {
            client.send(&["SET", &key(LOW, "b"), &large[..100_000]]);
        }
        eventually(SOON, || proxy.metric("slotmux_client_read_bytes_total") - read > large.len() as f64);
        early.open();
        assert_eq!(client.read_value(), Value::error("ERR early"));
        assert_eq!(client.read_values(behind), vec![Value::ok(); behind]);
        assert_eq!(proxy.connect().cmd(&["GET", &key(HIGH, "b")]), Value::NullBulk);
    }
}
