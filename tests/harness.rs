//! The tests' own tools, against real servers and against themselves.

mod support;

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use support::{
    Action, Client, ClusterOptions, Gate, SOON, ScriptedCluster, TestCluster, Value, eventually, slot_of,
    tag_of,
};

#[test]
fn slots_are_those_of_the_specification() {
    assert_eq!(slot_of("123456789"), 0x31C3);
    assert_eq!(slot_of("{user1000}.following"), slot_of("user1000"));
    assert_eq!(slot_of("foo{{bar}}zap"), slot_of("{bar"));
    assert_eq!(slot_of(format!("{{{}}}x", tag_of(12_182))), 12_182);
}

#[test]
fn every_kind_of_reply_is_read_at_every_split() {
    let bytes = b"*4\r\n$1\r\na\r\n$-1\r\n*-1\r\n:-3\r\n%1\r\n+k\r\n~1\r\n#t\r\n>1\r\n,1.5\r\n|1\r\n+a\r\n_\r\n(9\r\n=7\r\ntxt:abc\r\n!3\r\nERR\r\n-NO x\r\n";
    let (mut at, mut values) = (0, Vec::new());
    while at < bytes.len() {
        let (value, length) = Value::parse(&bytes[at..]).expect("the value is complete");
        for split in 0..length {
            assert_eq!(Value::parse(&bytes[at..at + split]), None, "at {split} of {value:?}");
        }
        at += length;
        values.push(value);
    }
    let array = Value::Array(vec![Value::bulk("a"), Value::NullBulk, Value::NullArray, Value::Int(-3)]);
    assert_eq!(values[0], array);
    assert_eq!(values[2], Value::Push(vec![Value::Double("1.5".to_owned())]));
    assert_eq!(
        values[4..],
        [
            Value::Verbatim("txt".to_owned(), b"abc".to_vec()),
            Value::BlobError(b"ERR".to_vec()),
            Value::error("NO x"),
        ]
    );
}

#[test]
fn a_slot_moves_and_comes_back() {
    let cluster = TestCluster::primaries(3);
    let slot = slot_of("{t}");
    let from = cluster.owner_of(slot);
    let to = (from + 1) % 3;
    let mut source = cluster.client(from);
    assert_eq!(source.cmd(&["SET", "{t}a", "1"]), Value::ok());

    cluster.begin_migration(slot, from, to);
    let ask = format!("ASK {slot} {}", cluster.node(to).addr());
    assert_eq!(source.cmd(&["GET", "{t}absent"]), Value::error(&ask));
    assert_eq!(source.cmd(&["GET", "{t}a"]), Value::bulk("1"));
    assert_eq!(cluster.move_keys(slot, from, to), 1);
    assert_eq!(source.cmd(&["GET", "{t}a"]), Value::error(&ask));
    cluster.finish_migration(slot, from, to);
    assert_eq!(cluster.owner_of(slot), to);
    let moved = format!("MOVED {slot} {}", cluster.node(to).addr());
    assert_eq!(source.cmd(&["GET", "{t}a"]), Value::error(&moved));

    cluster.migrate_slot(slot, to, from);
    cluster.await_owner(slot, from);
    assert_eq!(source.cmd(&["GET", "{t}a"]), Value::bulk("1"));
}

#[test]
fn replicas_take_over_by_order_and_by_need() {
    let cluster = TestCluster::start();
    assert_eq!(cluster.owner_of(0), 0);
    cluster.failover(3);
    assert_eq!(cluster.owner_of(0), 3);
    cluster.settle();

    cluster.kill9(1);
    assert!(!cluster.node(1).is_running());
    cluster.await_primary(4);
    assert_eq!(cluster.owner_of(8_000), 4);
    cluster.restart(1);
    cluster.settle();
    assert_eq!(cluster.owner_of(8_000), 4);
}

#[test]
fn nodes_can_be_stopped_and_added_behind_a_password() {
    let password = Some("secret".to_owned());
    let options = ClusterOptions { primaries: 3, replicas_per_primary: 0, password, ..Default::default() };
    let mut cluster = TestCluster::with(options);
    let mut client = cluster.client(0);
    client.patience(Duration::from_secs(1));
    cluster.stop(0);
    client.send(&["PING"]);
    client.expect_silence(Duration::from_millis(100));
    cluster.cont(0);
    assert_eq!(client.read_value(), Value::Simple("PONG".to_owned()));

    cluster.settle();
    let new = cluster.add_node();
    assert!(Client::connect(cluster.node(new).addr()).cmd(&["DBSIZE"]).text().starts_with("NOAUTH"));
    let slot = slot_of("a");
    let from = cluster.owner_of(slot);
    assert_eq!(cluster.client(from).cmd(&["SET", "a", "1"]), Value::ok());
    cluster.migrate_slot(slot, from, new);
    assert_eq!(cluster.owner_of(slot), new);
    assert_eq!(cluster.client(new).cmd(&["GET", "a"]), Value::bulk("1"));
}

#[test]
fn nothing_is_left_of_a_cluster() {
    let cluster = TestCluster::primaries(1);
    let (folder, pid) = (cluster.folder().to_owned(), cluster.node(0).pid());
    cluster.stop(0);
    drop(cluster);
    assert!(!folder.exists());
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn a_scripted_node_shakes_hands_and_knows_its_cluster() {
    let mut cluster = ScriptedCluster::start(2);
    let replica = cluster.add_node(Some(0));
    let mut client = Client::connect(cluster.node(0).addr());
    assert!(matches!(client.cmd(&["HELLO", "3", "SETNAME", "x"]), Value::Map(_)));
    cluster.edit(|topology| {
        topology.assign(100..=100, 1);
        topology.open(7, 1);
        topology.nodes[1].host = String::new();
    });
    let nodes = client.cmd(&["CLUSTER", "NODES"]).text();
    let lines: Vec<&str> = nodes.lines().collect();
    let (a, b) = (cluster.node(0).port(), cluster.node(1).port());
    let head = format!("{a:040x} 127.0.0.1:{a}@{} myself,master - 0 0 1 connected ", u32::from(a) + 10_000);
    assert_eq!(lines[0], format!("{head}0-99 101-8191 [7->-{b:040x}]"));
    assert!(
        lines[1].contains(&format!(" :{b}@")) && lines[1].ends_with(" 3 connected 100 8192-16383"),
        "{nodes}"
    );
    assert!(lines[2].contains(&format!(" slave {a:040x} ")), "{nodes}");

    let old = cluster.topology();
    cluster.edit(|topology| topology.fail_over(replica));
    cluster.set_view(1, Some(old));
    let mut other = Client::connect(cluster.node(1).addr());
    assert!(client.cmd(&["CLUSTER", "NODES"]).text().contains("myself,slave"));
    assert!(!other.cmd(&["CLUSTER", "NODES"]).text().contains("myself,slave"));
}

#[test]
fn a_scripted_node_serves_its_slots_and_records() {
    let cluster = ScriptedCluster::start(2);
    let slot = slot_of("a");
    let owner = cluster.topology().owner(slot).expect("all slots are covered");
    let mut right = Client::connect(cluster.node(owner).addr());
    let mut wrong = Client::connect(cluster.node(1 - owner).addr());
    let commands = [vec!["SET", "a", "1"], vec!["INCR", "a"], vec!["MGET", "a", "b"]];
    let mget = Value::Array(vec![Value::bulk("2"), Value::NullBulk]);
    assert_eq!(right.pipeline(&commands), [Value::ok(), Value::Int(2), mget]);
    let moved = format!("MOVED {slot} {}", cluster.owner_addr(slot));
    assert_eq!(wrong.cmd(&["GET", "a"]), Value::error(&moved));
    cluster.edit(|topology| topology.open(slot, 1 - owner));
    assert_eq!(wrong.pipeline(&[vec!["ASKING"], vec!["GET", "a"]]), [Value::ok(), Value::bulk("2")]);
    assert_eq!(cluster.texts(), ["SET a 1", "INCR a", "MGET a b", "GET a", "GET a"]);
    let log = cluster.commands();
    assert!(log[4].asking && !log[3].asking && log[3].conn != log[0].conn);
    assert_eq!(log[4].node, 1 - owner);
}

#[test]
fn a_script_delays_breaks_and_kills() {
    let cluster = ScriptedCluster::start(1);
    let gate = Gate::new();
    let opened = gate.clone();
    cluster.script(move |_, args| match args[0].as_slice() {
        b"LATE" => Action::reply_after(&opened, "+late\r\n"),
        b"HALF" => Action::Many(vec![Action::reply("$9\r\nhalf"), Action::CloseAfterReading]),
        b"RESET" | b"RST" => Action::Reset,
        b"HANG" => Action::Silent,
        _ => Action::Default,
    });
    let connect = || Client::connect(cluster.node(0).addr());

    let mut late = connect();
    late.send_raw("LATE\r\nGET x\r\n");
    late.expect_silence(Duration::from_millis(50));
    gate.open();
    assert_eq!(late.read_values(2), [Value::Simple("late".to_owned()), Value::NullBulk]);

    let mut half = connect();
    half.send_raw("HALF\r\nGET x\r\n");
    assert_eq!(half.read_to_end_raw(), b"$9\r\nhalf");

    let mut raw = TcpStream::connect(cluster.node(0).addr()).expect("the node accepts");
    raw.write_all(b"RST\r\n").expect("the node reads");
    let error = raw.read(&mut [0; 9]).expect_err("the node resets");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);

    let mut hung = connect();
    let id = hung.cmd(&["CLIENT", "ID"]).text();
    hung.send(&["HANG"]);
    assert_eq!(late.cmd(&["CLIENT", "KILL", "ID", &id]), Value::Int(1));
    assert_eq!(hung.read_to_end_raw(), b"");
    eventually(SOON, || cluster.node(0).open() == 1);
}

#[test]
fn a_scripted_node_refuses_and_comes_back() {
    let cluster = ScriptedCluster::start(1);
    let node = cluster.node(0);
    let mut client = Client::connect(node.addr());
    assert_eq!(client.cmd(&["PING"]), Value::Simple("PONG".to_owned()));
    node.down();
    assert_eq!(client.read_to_end_raw(), b"");
    let error = TcpStream::connect(node.addr()).expect_err("nobody listens");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    node.up();
    node.control(|_, args| match args[0].as_slice() {
        b"AUTH" => Action::error("WRONGPASS no"),
        _ => Action::Default,
    });
    assert_eq!(Client::connect(node.addr()).cmd(&["AUTH", "x"]), Value::error("WRONGPASS no"));
    assert_eq!(node.accepted(), 2);
}
