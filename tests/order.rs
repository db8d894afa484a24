//! Order and at-most-once, by property: a scripted cluster plays every trick, an independent model judges.
//!
//! Every write carries a number of its own, so that the model sees which command was executed when. Nodes
//! execute atomically, under one lock, and record what they executed; a fate drawn for each arriving command
//! says what goes wrong. A failing case prints the plan that it was drawn from, proptest its seed.

#![allow(clippy::unwrap_used, clippy::too_many_lines)]

mod support;

#[path = "order/model.rs"]
mod model;

use std::cell::Cell;
use std::time::Duration;

use model::{Fate, Plan, World};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

/// The fates of commands as they arrive at a node; mostly nothing happens.
fn fates(losses: bool, timeouts: bool) -> impl Strategy<Value = Vec<Fate>> {
    let mut fates = vec![
        (20, Fate::Fine),
        (if timeouts { 8 } else { 2 }, Fate::Late),
        (3, Fate::MoveSlot),
        (1, Fate::MoveAll),
        (3, Fate::OpenSlot),
        (2, Fate::MoveKey),
        (2, Fate::CloseSlot),
        (2, Fate::TryAgain),
        (1, Fate::ClusterDown),
        (1, Fate::Loading),
    ];
    if losses {
        fates.extend([(1, Fate::LoseUnread), (1, Fate::LoseExecuted), (1, Fate::LoseInReply)]);
    }
    let fate = proptest::sample::select(
        fates.into_iter().flat_map(|(weight, fate)| vec![fate; weight]).collect::<Vec<_>>(),
    );
    proptest::collection::vec(fate, 0..60)
}

fn plan(losses: bool, timeouts: bool) -> impl Strategy<Value = Plan> {
    let command = (0..8u8, 0..3u8, proptest::collection::vec(0..3u8, 1..4));
    let pipeline = proptest::collection::vec(command, 1..25);
    let clients = proptest::collection::vec(proptest::collection::vec(pipeline, 1..4), 1..4);
    (clients, fates(losses, timeouts), 2..4usize).prop_map(move |(clients, fates, nodes)| Plan {
        clients,
        fates,
        nodes,
        timeouts,
    })
}

fn hold(cases: u32, losses: bool, strict: bool, args: &[&str]) {
    let config = Config { cases, max_shrink_iters: 60, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new(config);
    let timeouts = args.contains(&"--command-timeout");
    let executed = Cell::new(0);
    let result = runner.run(&plan(losses, timeouts), |plan| {
        let world = World::start(&plan, args);
        world.play(Duration::from_secs(30)).map_err(TestCaseError::fail)?;
        executed.set(executed.get() + world.executed());
        world.judge(strict).map_err(TestCaseError::fail)
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    assert!(executed.get() > cases as usize, "hardly anything was executed: {}", executed.get());
}

#[test]
fn a_changing_cluster_changes_neither_order_nor_replies() {
    hold(60, false, false, &[]);
}

#[test]
fn lost_connections_change_neither_order_nor_at_most_once() {
    hold(60, true, false, &[]);
}

#[test]
fn several_connections_per_node_change_nothing() {
    hold(40, true, false, &["--connections-per-node", "2"]);
}

#[test]
fn strict_ordering_holds_across_slots() {
    hold(40, true, true, &["--ordering", "connection"]);
}

#[test]
fn strict_ordering_holds_across_slots_with_several_connections_per_node() {
    hold(40, true, true, &["--ordering", "connection", "--connections-per-node", "2"]);
}

#[test]
fn what_timed_out_is_not_overtaken() {
    hold(60, false, false, &["--command-timeout", "20ms"]);
}

#[test]
fn what_timed_out_is_not_overtaken_on_a_connection_that_was_lost() {
    hold(30, true, true, &["--command-timeout", "20ms", "--ordering", "connection"]);
}
