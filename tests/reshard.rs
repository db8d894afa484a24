//! Slots of a real cluster move to and fro under load, half-moved for a while, and no client can tell.

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::{Done, Mix, Proxy, TestCluster, slot_of};

const CLIENTS: usize = 4;
const TAGS: usize = 6;
/// So many slots are moved,
const MOVES: usize = 60;
/// in about this time.
const LIMIT: Duration = Duration::from_secs(10);
/// A slot stays half-moved for so many pipelines, or this long if something waits for the slot itself.
const HALF: (usize, Duration) = (20, Duration::from_millis(120));

/// Moves slots until it has moved enough; returns how many.
fn move_slots(cluster: &TestCluster, done: &AtomicUsize) -> usize {
    let begun = Instant::now();
    for n in 0..MOVES {
        let slot = slot_of(format!("t{}", n % TAGS));
        let from = cluster.owner_of(slot);
        let to = (from + 1 + n % 2) % 3;
        cluster.begin_migration(slot, from, to);
        let keys = cluster.keys_in_slot(slot, from);
        let some: Vec<&str> = keys.iter().step_by(2).map(String::as_str).collect();
        if !some.is_empty() {
            cluster.move_some_keys(from, to, &some);
        }
        let (before, since) = (done.load(Ordering::Relaxed), Instant::now());
        while done.load(Ordering::Relaxed) < before + HALF.0 && since.elapsed() < HALF.1 {
            thread::yield_now();
        }
        cluster.move_keys(slot, from, to);
        cluster.finish_migration(slot, from, to);
        if begun.elapsed() > LIMIT {
            return n + 1;
        }
    }
    MOVES
}

#[test]
fn slots_that_move_to_and_fro_under_load_are_not_noticed() {
    let cluster = TestCluster::primaries(3);
    let proxy = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "2"]).start();
    let tags = (0..TAGS).map(|n| format!("t{n}")).collect();
    let mix = Mix { clients: CLIENTS, tags, conflicts: true };
    let (moved, Done { pipelines, refused, .. }) = mix.under(&proxy, |done| move_slots(&cluster, done));
    println!("{moved} slots moved under {pipelines} pipelines, {refused} commands refused for order's sake");
    assert!(moved > 5 && pipelines > 100);
    // Only what was on its way when a slot was opened can have been caught.
    assert!(refused <= moved * CLIENTS, "{refused} of {pipelines}");
    let seen = proxy.metric("slotmux_redirects_total");
    assert!(seen > 0.0, "nothing was redirected");
    assert_eq!(proxy.metric("slotmux_errors_total{kind=\"indoubt\"}"), 0.0);
}
