//! CLIENT REPLY and RESET: who wants no reply gets none, and everything in between stays as it is.

#![allow(clippy::unwrap_used)]

mod support;

use support::{
    Action, HIGH, LOW, Pair, Proxy, SOON, ScriptedCluster, TestCluster, Value, eventually, in_both, key,
};

#[test]
fn what_a_client_wants_no_reply_to_is_silent_as_on_a_server() {
    let pair = Pair::start(None);
    pair.compare_all(in_both(&[
        "CLIENT REPLY",
        "CLIENT REPLY x",
        "CLIENT REPLY ON",
        "CLIENT REPLY on x",
        "CLIENT REPLY OFF\r\nPING\r\nnonsense\r\nCLIENT REPLY ON\r\nPING",
        "CLIENT REPLY SKIP\r\nPING a\r\nPING b",
        "CLIENT REPLY SKIP\r\n\r\nPING b",
        "CLIENT REPLY SKIP\r\n*0\r\nPING b",
        "CLIENT REPLY SKIP\r\nCLIENT REPLY SKIP\r\nPING b\r\nPING c",
        "CLIENT REPLY SKIP\r\nCLIENT REPLY ON\r\nPING b",
        "CLIENT REPLY SKIP\r\nCLIENT REPLY x\r\nPING",
        "CLIENT REPLY SKIP\r\nCLIENT REPLY OFF\r\nPING",
        "CLIENT REPLY SKIP\r\nHELLO 3\r\nGET x",
        "CLIENT REPLY SKIP\r\nnonsense\r\nPING",
        "CLIENT REPLY SKIP\r\nGET\r\nPING",
        "CLIENT REPLY SKIP\r\nRESET\r\nPING",
        "CLIENT REPLY OFF\r\nCLIENT REPLY SKIP\r\nPING b\r\nCLIENT REPLY ON",
        "CLIENT REPLY OFF\r\nCLIENT REPLY x\r\nCLIENT REPLY ON x\r\nCLIENT REPLY on",
        "CLIENT REPLY OFF\r\nRESET\r\nPING",
        "CLIENT REPLY OFF\r\nQUIT",
        "CLIENT REPLY OFF\r\n*1\r\n$a",
        "CLIENT REPLY SKIP\r\nQUIT",
        // On their way to nodes.
        "CLIENT REPLY SKIP\r\nSET a 1\r\nGET a\r\nINCR a",
        "SET a 1\r\nCLIENT REPLY SKIP\r\nINCR a\r\nGET a\r\nCLIENT REPLY SKIP\r\nINCR a\r\nINCR a",
        "CLIENT REPLY SKIP\r\nLPUSH a x\r\nGET a",
        "CLIENT REPLY SKIP\r\nMSET b 1 c 2 d 3\r\nMGET b c d",
        "CLIENT REPLY SKIP\r\nMGET b c d\r\nMGET d c b",
        "CLIENT REPLY SKIP\r\nDBSIZE\r\nPING",
        "CLIENT REPLY OFF\r\nMSET e 1 f 2 g 3\r\nDEL e f\r\nCLIENT REPLY ON\r\nMGET e f g",
    ]));
}

#[test]
fn silent_commands_take_effect_in_their_order() {
    const ROUNDS: usize = 2_000;
    let cluster = TestCluster::primaries(3);
    let proxy = Proxy::start(&cluster.seeds());
    let mut client = proxy.connect();
    let mut commands: Vec<Vec<String>> = vec![vec!["CLIENT".into(), "REPLY".into(), "OFF".into()]];
    let large = "x".repeat(20_000);
    for i in 0..ROUNDS {
        commands.push(vec!["INCR".into(), format!("n{}", i % 7)]);
        commands.push(vec!["SET".into(), "last".into(), i.to_string()]);
        if i % 100 == 0 {
            commands.push(vec!["SET".into(), "large".into(), large.clone()]);
            commands.push(vec!["GET".into(), "large".into()]);
        }
    }
    commands.push(vec!["CLIENT".into(), "REPLY".into(), "ON".into()]);
    commands.push(vec!["GET".into(), "last".into()]);
    let bytes: Vec<u8> = commands.iter().flat_map(|command| support::encode(command)).collect();
    client.send_raw(&bytes);
    assert_eq!(client.read_value(), Value::ok());
    assert_eq!(client.read_value(), Value::bulk((ROUNDS - 1).to_string()));
    let counted: usize =
        (0..7).map(|i| client.cmd(&["GET", &format!("n{i}")]).text().parse::<usize>().unwrap()).sum();
    assert_eq!(counted, ROUNDS);
}

#[test]
fn silent_commands_are_redirected_and_lost_in_silence() {
    let cluster = ScriptedCluster::start(2);
    let proxy = cluster.proxy(&[]);
    let mut client = proxy.connect();
    let (moved, lost, other) = (key(LOW, "moved"), key(LOW, "lost"), key(HIGH, "other"));
    assert_eq!(client.cmd(&["SET", &other, "v"]), Value::ok());
    cluster.edit(|topology| topology.assign(LOW..=LOW, 1));
    let requests: [&[&str]; 6] = [
        &["CLIENT", "REPLY", "SKIP"],
        &["SET", &moved, "1"],
        &["GET", &moved],
        &["CLIENT", "REPLY", "SKIP"],
        &["MSET", &moved, "2", &other, "w"],
        &["MGET", &moved, &other],
    ];
    client.send_raw(requests.iter().flat_map(|request| support::encode(request)).collect::<Vec<u8>>());
    assert_eq!(client.read_value(), Value::bulk("1"));
    assert_eq!(client.read_value(), Value::bulks(&["2", "w"]));
    // Its unknown outcome is an error, which it does not want either.
    cluster.script(|_, args| if args[0] == b"INCR" { Action::CloseAfterReading } else { Action::Default });
    let requests: [&[&str]; 3] = [&["CLIENT", "REPLY", "SKIP"], &["INCR", &lost], &["GET", &moved]];
    client.send_raw(requests.iter().flat_map(|request| support::encode(request)).collect::<Vec<u8>>());
    assert_eq!(client.read_value(), Value::bulk("2"));
    eventually(SOON, || proxy.metric("slotmux_errors_total{kind=\"indoubt\"}") == 1.0);
}
