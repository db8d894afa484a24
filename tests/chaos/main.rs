//! The checker: clients that know what they may see, while everything happens to the cluster that can. `make chaos`
//! runs the long form; the settings are in the Makefile.
//!
//! At the end it says what happened, what the cluster itself lost, and what the proxy did wrong: nothing.

#![allow(clippy::unwrap_used, unreachable_pub)]

mod choice;
mod client;
mod conn;
mod consumers;
mod ears;
mod journal;
mod judge;
mod keep;
mod keys;
mod many;
mod nemesis;
mod ops;
mod report;
mod run;
mod settings;
#[path = "../support/mod.rs"]
mod support;
mod watchers;
mod world;

use std::{
    fs,
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use client::Client;
use consumers::Taken;
use ears::{Heard, Way};
use journal::Journal;
use judge::Side;
use keys::{TAGS, key, large};
use run::Run;
use settings::Settings;
use support::{Proxy, Value};
use watchers::fixed_keys;
use world::{SHARDS, World};

/// How long the proxy may hold a command.
const DEADLINE: Duration = Duration::from_secs(30);
/// Who waits for elements, scans, and listens.
const CONSUMERS: usize = 6;
const SCANNERS: usize = 2;
const SUBSCRIBERS: usize = 3;

/// One at a time: each of them wants the machine.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn planned_changes_are_not_noticed() {
    chaos(Settings::or(40, 8, 1500, "quiet"));
}

#[test]
fn slots_that_move_at_once_are_not_noticed() {
    chaos(Settings::or(30, 8, 1500, "burst,failover").on_valkey());
}

#[test]
fn unplanned_losses_cost_what_was_in_flight() {
    chaos(Settings::or(40, 8, 1500, "all"));
}

/// `make chaos`
#[test]
#[ignore = "takes an hour"]
fn an_hour_of_everything() {
    chaos(Settings::or(3600, 50, 6000, "all"));
}

fn chaos(settings: Settings) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    println!("CHAOS_SEED={} {settings:?}", settings.seed);
    let world = World::start(&settings);
    let proxy = start_proxy(&world, &settings);
    let run = Run::new(settings, Journal::new(DEADLINE), proxy.addrs().to_vec());
    set_fixed_keys(&run, &world);
    let (taken, heard) = (Taken::default(), Heard::default());
    let mut clients: Vec<Client> = (0..run.settings.clients).map(|me| Client::new(me, &run)).collect();
    thread::scope(|scope| {
        let (run, world, taken, heard) = (&run, &world, &taken, &heard);
        for who in 0..SUBSCRIBERS {
            for way in Way::ALL {
                scope.spawn(move || run.subscribe(who, way, heard));
            }
        }
        let keeper = scope.spawn(move || {
            while !heard.is_over() {
                world.keep.link();
                world.keep.read(false);
                thread::sleep(Duration::from_millis(50));
            }
        });
        thread::scope(|scope| {
            clients.iter_mut().for_each(|client| _ = scope.spawn(move || client.work()));
            (0..CONSUMERS).for_each(|who| _ = scope.spawn(move || run.consume(who, taken)));
            (0..SCANNERS).for_each(|who| _ = scope.spawn(move || run.scan(who)));
            for shard in 0..SHARDS {
                scope.spawn(move || run.probe(shard, world.tags_of(shard)));
                scope.spawn(move || world.tags_of(shard).first().map(|&tag| run.wait_for_long(shard, tag)));
            }
            nemesis::run(run, world);
            run.stop();
        });
        // What was published last may still be on its way.
        thread::sleep(Duration::from_secs(2));
        heard.over();
        keeper.join().unwrap();
    });
    let whole = world.await_whole();
    if let Err(error) = &whole {
        run.journal.fault("the cluster is not whole", error.clone(), world.state());
    } else {
        judge(&run, &world, &mut clients, &taken, &heard);
    }
    report::expect_all(&run);
    let report = report::report(&run, &proxy);
    println!("{report}");
    assert!(!report::failed(&run), "CHAOS_SEED={}", run.settings.seed);
}

/// Two workers with two links to each node. The second listener keeps the order of whole pipelines; the third one closes
/// the connection of whoever has a write in doubt.
fn start_proxy(world: &World, settings: &Settings) -> Proxy {
    let file = world.cluster.folder().join("proxy.yaml");
    let seeds = world.cluster.seeds()[..2 * SHARDS].join(", ");
    // A primary that is failed over by plan answers no write for up to five seconds.
    let link_timeout = if settings.is_quiet() { "15s" } else { "6s" };
    let deadline = DEADLINE.as_secs();
    let text = format!(
        "admin: 127.0.0.1:0\nworkers: 2\nconnections_per_node: 2\nlink_timeout: {link_timeout}\n\
         command_deadline: {deadline}s\nclusters:\n  main:\n    seeds: [{seeds}]\nlisteners:\n\
         - address: 127.0.0.1:0\n- address: 127.0.0.1:0\n  ordering: connection\n\
         - address: 127.0.0.1:0\n  on_indoubt: disconnect\n"
    );
    fs::write(&file, text).unwrap();
    let mut args = vec!["--config", file.to_str().unwrap()];
    args.extend(settings.proxy.iter().map(String::as_str));
    Proxy::with(&args, 3).start()
}

fn set_fixed_keys(run: &Run, world: &World) {
    let mut conn = conn::Conn::connect(&run.listener(0), conn::PATIENCE).unwrap();
    for key in fixed_keys() {
        assert_eq!(conn.cmd(&["SET", &key, &key]).unwrap(), Value::ok());
    }
    for tag in 0..TAGS {
        assert_eq!(conn.cmd(&["SET", &key(tag, "large"), &large(tag)]).unwrap(), Value::ok());
        let pairs = many::all_there(tag).flat_map(|key| [key.clone(), key]);
        let words: Vec<String> = ["MSET".to_owned()].into_iter().chain(pairs).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        assert_eq!(conn.cmd(&words).unwrap(), Value::ok());
    }
    world.await_whole().unwrap();
}

fn judge(run: &Run, world: &World, clients: &mut [Client], taken: &Taken, heard: &Heard) {
    world.keep.link();
    world.keep.read(true);
    let mut proxy = Side::new("the proxy", |_| run.listener(0));
    let mut direct = Side::new("the node", |tag| world.addr(world.roles(world.owner(tag)).unwrap().0));
    run.judge_keys(clients, &world.keep, &mut proxy, &mut direct);
    run.judge_queues(clients, &world.keep, &mut direct, taken);
    run.judge_channels(clients, heard);
}
