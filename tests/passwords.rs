//! A cluster's password is changed while the proxy runs.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use slotmux::backend::{Credentials, DialGate, open};
use slotmux::metrics::{Cause, Metrics};
use slotmux::net::NodeAddr;
use slotmux::protocol::Protocol;
use slotmux::topology::{Options, Refresh};
use support::{Client, ClusterOptions, SOON, TestCluster, eventually};

/// Whether a link to each node can be opened now, in both protocols.
fn all_open(cluster: &TestCluster, credentials: &Credentials) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for node in cluster.nodes() {
        let addr: NodeAddr = node.addr().parse().unwrap();
        for protocol in [Protocol::Resp2, Protocol::Resp3] {
            let opened = open(&addr, protocol, Some(credentials), "slotmux-test", &[], SOON);
            assert!(runtime.block_on(opened).unwrap().client_id.is_some());
        }
    }
}

#[test]
fn a_password_is_changed_and_taken_away_while_links_are_opened_and_the_topology_is_asked() {
    let options = ClusterOptions {
        replicas_per_primary: 0,
        password: Some("one".to_owned()),
        ..ClusterOptions::default()
    };
    let cluster = TestCluster::with(options);
    let credentials = |passwords: [&str; 2]| {
        let passwords = passwords.iter().map(|&password| password.to_owned()).collect();
        Credentials { user: None, passwords }
    };
    let both = credentials(["two", "one"]);
    let metrics = Metrics::new(&["string"], 1);
    let seeds = cluster.seeds().iter().map(|seed| seed.parse().unwrap()).collect();
    let options = Options { seeds, credentials: Some(both.clone()), ..Options::default() };
    let refresh = Refresh::new(options, Arc::new(DialGate::default()), metrics.control().clone());
    let shared = refresh.shared();
    thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(refresh.run());
    });
    eventually(SOON, || shared.snapshot().is_some_and(|snapshot| snapshot.members.len() == 3));
    let mut admins: Vec<Client> = (0..3).map(|i| cluster.client(i)).collect();
    for password in ["two", ""] {
        for (i, admin) in admins.iter_mut().enumerate() {
            admin.cmd(&["CONFIG", "SET", "masterauth", password]);
            assert!(!admin.cmd(&["CONFIG", "SET", "requirepass", password]).is_error());
            assert!(!admin.cmd(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).is_error());
            // Some nodes have the new one, and some the old one.
            all_open(&cluster, &both);
            let addr: NodeAddr = cluster.node(i).addr().parse().unwrap();
            let asked = || shared.snapshot().and_then(|snapshot| snapshot.asked_at(&addr));
            let before = asked();
            eventually(SOON, || {
                shared.ask(Cause::Uncovered, Some(&addr));
                thread::sleep(Duration::from_millis(20));
                asked() > before
            });
        }
    }
    let failed = metrics.control().refreshes[slotmux::metrics::Refresh::Failed.index()].value();
    assert_eq!(failed, 0);
}
