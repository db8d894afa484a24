//! What a cluster hardly notices: replicas that come and go, links that end, nodes that pause for a moment.

use std::{thread, time::Duration};

use super::{
    KillClients, KillReplica, NewAddress, Pause, Step,
    lossy::{stop, take_away},
};
use crate::{
    conn::Conn,
    journal::lock,
    run::Run,
    support::{Value, encode},
    world::World,
};

/// Of a reload, what is spent on waiting. Who hears nobody for the node timeout is taken for dead for twice as long, and its
/// replica may be elected though it serves again: the cluster loses what it acknowledged meanwhile.
const LONGEST_RELOAD: Duration = Duration::from_millis(1200);

/// Takes a replica away for some seconds. Its shard's slots may move meanwhile.
pub fn break_replica(run: &Run, world: &World, step: &Step) -> Result<String, String> {
    let _nodes = lock(&world.nodes[step.shard]);
    let (_, replica) = world.roles(step.shard)?;
    world.keep.link();
    world.set_away(replica, true);
    let window = run.journal.open(step.kind, Vec::new(), Vec::new(), None);
    let kind = if step.kind == KillReplica && step.coin { NewAddress } else { step.kind };
    let result = take_away(world, kind, replica, || {
        thread::sleep(step.between(0.1, 6.0));
        Ok(())
    });
    world.set_away(replica, false);
    run.journal.close(window);
    result.and(world.await_pair(step.shard)).map(|()| format!("node {replica} was away"))
}

/// Annoys one node of a shard, whatever else happens to it: shorter than anybody takes it for dead.
pub fn annoy(run: &Run, world: &World, step: &Step) -> Result<String, String> {
    let node = step.shard + if step.coin { 3 } else { 0 };
    if world.is_away(node) {
        return Ok(String::new());
    }
    let window = run.journal.open(step.kind, vec![world.addr(node)], world.tags_of(step.shard), None);
    let result = match step.kind {
        Pause => {
            stop(world, node, || thread::sleep(step.between(0.05, 1.2)));
            Some("paused".to_owned())
        }
        KillClients => kill_links(world, node, step),
        _ => reload(world, node, step),
    };
    run.journal.links_ended(window);
    run.journal.close(window);
    Ok(result.map_or(String::new(), |what| format!("node {node}: {what}")))
}

/// Ends the proxy's connections to a node. Mostly it sleeps before that, so that it executes what has come meanwhile
/// in the same round, and the replies go lost: that is what a write in doubt is about.
fn kill_links(world: &World, node: usize, step: &Step) -> Option<String> {
    let mut conn = Conn::connect(&world.addr(node), Duration::from_secs(20)).ok()?;
    let list = conn.cmd(&["CLIENT", "LIST"]).ok()?.text();
    let ours = list.lines().filter(|line| line.contains(" name=slotmux"));
    let ids: Vec<&str> =
        ours.filter_map(|line| line.split(' ').find_map(|word| word.strip_prefix("id="))).collect();
    if ids.is_empty() {
        return None;
    }
    let kills: Vec<u8> = ids.iter().flat_map(|id| encode(&["CLIENT", "KILL", "ID", id])).collect();
    let asleep = step.length > 0.2;
    let sent = if asleep {
        stop(world, node, || {
            thread::sleep(Duration::from_millis(150));
            conn.send(&kills)
        })
    } else {
        conn.send(&kills)
    };
    sent.ok()?;
    ids.iter().try_for_each(|_| conn.read().map(drop)).ok()?;
    Some(format!("{} links ended{}", ids.len(), if asleep { " in its sleep" } else { "" }))
}

/// Lets a primary load its data again, so slowly that it has to say LOADING for a while. A replica refuses what its
/// primary sends meanwhile, and counts it as done.
fn reload(world: &World, node: usize, step: &Step) -> Option<String> {
    let mut conn = Conn::connect(&world.addr(node), Duration::from_secs(20)).ok()?;
    if !matches!(conn.cmd(&["ROLE"]).ok()?, Value::Array(role) if role.first() == Some(&Value::bulk("master")))
    {
        return None;
    }
    // In microseconds for each key.
    let Value::Int(keys) = conn.cmd(&["DBSIZE"]).ok()? else { return None };
    let delay = (step.which * LONGEST_RELOAD.as_micros() as f64 / keys.max(1) as f64) as u32;
    conn.cmd(&["CONFIG", "SET", "key-load-delay", &delay.to_string()]).ok()?;
    let reply = conn.cmd(&["DEBUG", "RELOAD"]).ok()?;
    conn.cmd(&["CONFIG", "SET", "key-load-delay", "0"]).ok()?;
    (reply == Value::ok()).then(|| "reloaded".to_owned())
}
