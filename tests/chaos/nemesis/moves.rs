//! Slots that move, and nodes that come and go: all planned, and nobody may notice.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::{Burst, Half, Rebalance, Step};
use crate::{
    journal::lock,
    keys::slot,
    run::Run,
    support::Value,
    world::{SHARDS, SPARES, World, wait},
};

/// A node that was forgotten is not known again for a minute.
const FORGOTTEN_FOR: Duration = Duration::from_secs(62);

/// Between the last slot that leaves a node and its removal. A message that is published at a node that was removed
/// reaches nobody, and no server tells the publisher that: those who route it have to hear of the move first.
const EMPTY_FOR: Duration = Duration::from_secs(1);

/// Keys that are moved by one command.
const AT_ONCE: usize = 100;

/// Moves one slot, at once or with a long half-way, or several, one after the other or all in one moment.
pub fn reshard(run: &Run, world: &World, step: &Step) -> Result<String, String> {
    let _held = world.lock_slots(vec![step.shard, step.to]);
    let tags = world.tags_of(step.shard);
    let (from, to) = (world.roles(step.shard)?.0, world.roles(step.to)?.0);
    let (count, half) = match step.kind {
        Rebalance => ((tags.len() / 2).min(4), Duration::ZERO),
        Burst => (tags.len() / 2, Duration::ZERO),
        Half => (1, step.between(0.5, 4.0)),
        _ => (1, step.between(0.0, 0.3)),
    };
    let first = (step.which * tags.len() as f64) as usize;
    // A shard keeps some tags.
    let chosen: Vec<usize> = tags.iter().cycle().skip(first).take(count).copied().collect();
    if tags.len() <= 3 {
        return Ok(String::new());
    }
    if step.kind == Burst {
        move_at_once(run, world, &chosen, from, to)?;
        chosen.iter().for_each(|&tag| world.give(tag, step.to));
    } else {
        for &tag in &chosen {
            move_slot(run, world, tag, from, to, half)?;
            world.give(tag, step.to);
        }
    }
    await_copy(world, step.to)?;
    Ok(format!("tags {chosen:?} from node {from} to {to}"))
}

/// Moves slots with all their keys in one moment, as newer servers do it by themselves.
fn move_at_once(run: &Run, world: &World, tags: &[usize], from: usize, to: usize) -> Result<(), String> {
    world.await_epoch(from)?;
    world.await_epoch(to)?;
    let slots: Vec<String> = tags.iter().map(|&tag| slot(tag).to_string()).collect();
    let mut call = vec!["CLUSTER", "MIGRATESLOTS", "SLOTSRANGE"];
    call.extend(slots.iter().flat_map(|slot| [slot.as_str(), slot]));
    let id = world.id(to);
    call.extend(["NODE", &id]);
    let gone = || {
        let view = world.cluster.node(from).view().unwrap_or_default();
        view.iter().any(|line| line.id == id && line.owns(slot(tags[0])))
    };
    let _awake = lock(&world.awake[to % SHARDS]);
    let _moving = run.journal.moving(tags.to_vec());
    // It may fail, if one of both loads its data just now; all keys are where they were then.
    wait("the slots move", Duration::from_secs(60), || {
        gone()
            || world
                .ask(from, &call)
                .is_ok_and(|_| wait("they are there", Duration::from_secs(10), gone).is_ok())
    })?;
    run.journal.count("slots moved at once", tags.len() as u64);
    tags.iter().try_for_each(|&tag| world.await_owner(slot(tag), to))
}

/// Waits until what was moved in is at the replica too.
fn await_copy(world: &World, shard: usize) -> Result<(), String> {
    let (primary, replica) = world.roles(shard)?;
    // A replica that is away just now resyncs when it comes back, before anything happens to its primary.
    if primary == replica {
        return Ok(());
    }
    wait("the replica has what was moved", Duration::from_secs(60), || {
        world.is_away(replica) || world.in_sync(primary, replica)
    })
}

/// Moves a tag's slot with all its keys, half of them first. Once begun it is carried through: the locks see to it that
/// neither end loses its role meanwhile.
fn move_slot(
    run: &Run,
    world: &World,
    tag: usize,
    from: usize,
    to: usize,
    half: Duration,
) -> Result<(), String> {
    let slot = slot(tag);
    let (number, target, source) = (slot.to_string(), world.id(to), world.id(from));
    world.await_epoch(from)?;
    world.await_epoch(to)?;
    world.ask(to, &["CLUSTER", "SETSLOT", &number, "IMPORTING", &source])?;
    let _opened = run.journal.opened(tag, world.addr(to));
    world.ask(from, &["CLUSTER", "SETSLOT", &number, "MIGRATING", &target])?;
    if !half.is_zero() {
        let keys = keys_in(world, from, slot, 100_000);
        let some: Vec<&str> = keys.iter().step_by(2).map(String::as_str).collect();
        some.chunks(AT_ONCE).try_for_each(|some| migrate(world, from, to, some))?;
        run.set_half_moved(Some(tag));
        thread::sleep(half);
        run.set_half_moved(None);
    }
    loop {
        let keys = keys_in(world, from, slot, AT_ONCE);
        if keys.is_empty() {
            break;
        }
        migrate(world, from, to, &keys.iter().map(String::as_str).collect::<Vec<_>>())?;
    }
    let _awake = lock(&world.awake[to % SHARDS]);
    let _moving = run.journal.moving(vec![tag]);
    for node in [to, from] {
        world.ask(node, &["CLUSTER", "SETSLOT", &number, "NODE", &target])?;
    }
    for node in world.up() {
        if node != to && node != from {
            // Replicas refuse it and learn it by gossip.
            let _ = world.cluster.node(node).call(&["CLUSTER", "SETSLOT", &number, "NODE", &target]);
        }
    }
    run.journal.count("slots moved", 1);
    world.await_owner(slot, to)
}

/// Keys of the slot, up to so many.
fn keys_in(world: &World, node: usize, slot: u16, most: usize) -> Vec<String> {
    let asked = || -> Option<Value> {
        let mut conn = crate::conn::Conn::connect(&world.addr(node), Duration::from_secs(10)).ok()?;
        conn.cmd(&["CLUSTER", "GETKEYSINSLOT", &slot.to_string(), &most.to_string()]).ok()
    };
    loop {
        match asked() {
            Some(Value::Array(keys)) => return keys.iter().map(Value::text).collect(),
            _ => thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Moves these keys. It may be repeated: while the source has a key, what the target may have of it is a remainder of
/// an attempt that was cut off.
fn migrate(world: &World, from: usize, to: usize, keys: &[&str]) -> Result<(), String> {
    if keys.is_empty() {
        return Ok(());
    }
    let port = world.cluster.node(to).port().to_string();
    let mut args = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "10000", "REPLACE", "KEYS"];
    args.extend(keys);
    world.ask(from, &args).map(drop)
}

/// Adds an empty primary, gives it slots of all shards, takes them back, and removes it.
pub fn add_and_remove(run: &Run, world: &World, step: &Step) -> Result<String, String> {
    let Some(spare) = join(world)? else { return Ok(String::new()) };
    let mut given = Vec::new();
    for shard in 0..SHARDS {
        let _held = world.lock_slots(vec![shard]);
        let tags = world.tags_of(shard);
        let Some(tag) = step.pick(&tags).filter(|_| tags.len() > 3) else { continue };
        move_slot(run, world, tag, world.roles(shard)?.0, spare, Duration::from_millis(50))?;
        world.give(tag, spare);
        given.push((tag, shard));
    }
    thread::sleep(step.between(0.2, 4.0));
    for &(tag, shard) in &given {
        let _held = world.lock_slots(vec![shard]);
        move_slot(run, world, tag, spare, world.roles(shard)?.0, Duration::from_millis(50))?;
        world.give(tag, shard);
        await_copy(world, shard)?;
    }
    leave(world, spare)?;
    Ok(if given.is_empty() { String::new() } else { format!("node {spare} had tags {given:?}") })
}

/// Adds a second replica to a shard, and removes it.
pub fn add_replica(_run: &Run, world: &World, step: &Step) -> Result<String, String> {
    let Some(spare) = join(world)? else { return Ok(String::new()) };
    {
        // Held until it is none any more, or it would be elected when its primary is lost.
        let _slots = world.lock_slots(vec![step.shard]);
        let primary = world.roles(step.shard)?.0;
        world.ask(spare, &["CLUSTER", "REPLICATE", &world.id(primary)])?;
        wait("the new replica is in sync", Duration::from_secs(60), || world.in_sync(primary, spare))?;
        thread::sleep(step.between(0.2, 3.0));
        world.set_away(spare, true);
        world.ask(spare, &["CLUSTER", "RESET", "SOFT"])?;
    }
    leave(world, spare)?;
    Ok(format!("node {spare} was a replica of shard {}", step.shard))
}

/// Introduces a spare node to the cluster, if there is one that nobody remembers.
fn join(world: &World) -> Result<Option<usize>, String> {
    let fresh = |spare: &usize| {
        lock(&world.forgotten)[spare - SPARES.start].is_none_or(|since| since.elapsed() > FORGOTTEN_FOR)
    };
    let Some(spare) = SPARES.into_iter().find(fresh) else { return Ok(None) };
    for node in world.up() {
        let port = world.cluster.node(spare).port().to_string();
        // Who is being broken right now learns it by gossip.
        let _ = world.cluster.node(node).call(&["CLUSTER", "MEET", "127.0.0.1", &port]);
    }
    world.set_away(spare, false);
    let id = world.id(spare);
    world.all_see("all know the new node", |view| {
        view.iter().any(|line| line.id == id && line.is_healthy())
    })?;
    wait("the new node knows all slots", Duration::from_secs(60), || {
        let info = world.cluster.node(spare).ask(&["CLUSTER", "INFO"]);
        info.is_ok_and(|info| {
            info.contains("cluster_state:ok") && info.contains("cluster_slots_assigned:16384")
        })
    })?;
    Ok(Some(spare))
}

/// Removes an empty node. All nodes must be there to forget it, or gossip would bring it back.
fn leave(world: &World, spare: usize) -> Result<(), String> {
    thread::sleep(EMPTY_FOR);
    let _slots = world.lock_slots((0..SHARDS).collect());
    let _nodes: Vec<_> = world.nodes.iter().map(lock).collect();
    let id = world.id(spare);
    world.all_see("the node is empty", |view| {
        view.iter().all(|line| line.id != id || line.slot_count() == 0)
    })?;
    world.set_away(spare, true);
    for node in world.up() {
        world.ask(node, &["CLUSTER", "FORGET", &id])?;
    }
    world.ask(spare, &["CLUSTER", "RESET", "SOFT"])?;
    lock(&world.forgotten)[spare - SPARES.start] = Some(Instant::now());
    Ok(())
}
