//! Primaries that are replaced: by plan, by force, or because they died.

use std::{
    io::Write,
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use slotmux::demo::Cluster;

use super::{
    Failover, Force, Garbage, Kind, Mute, NewAddress, Step, StopPrimary, StopReplica, Takeover, watch::Watch,
};
use crate::{
    journal::lock,
    run::Run,
    world::{SHARDS, World, wait},
};

/// What a node says that has lost its mind.
const GARBAGE: &[u8] = b"$-7\r\n!!HTTP/1.1 400 Bad Request\r\n\r\n*3\r\n:x\r\n\0\0\0\0";
const PATIENCE: Duration = Duration::from_secs(60);

/// CLUSTER FAILOVER, with FORCE or TAKEOVER if it is not planned.
pub fn fail_over(run: &Run, world: &World, step: &Step) -> Result<String, String> {
    let _slots = world.lock_slots(vec![step.shard]);
    let _nodes = lock(&world.nodes[step.shard]);
    let _loss = lock(&world.loss);
    let (primary, replica) = ready(world, step.shard)?;
    if step.kind != Takeover && !world.may_be_elected(replica) {
        return Ok(String::new());
    }
    world.keep.link();
    let how: &[&str] = match step.kind {
        Failover => &["CLUSTER", "FAILOVER"],
        Force => &["CLUSTER", "FAILOVER", "FORCE"],
        _ => &["CLUSTER", "FAILOVER", "TAKEOVER"],
    };
    let window = (step.kind != Failover).then(|| {
        run.journal.open(step.kind, vec![world.addr(primary)], world.tags_of(step.shard), Some(primary))
    });
    let (asked, _moving) = (run.journal.now(), run.journal.moving(world.tags_of(step.shard)));
    world.ask(replica, how)?;
    // A plain one that gets no answer in five seconds is given up by the replica: then it is asked again.
    let changed = || world.roles(step.shard).is_ok_and(|(now, _)| now == replica);
    while wait("the replica takes over", Duration::from_secs(8), changed).is_err() {
        world.ask(replica, how)?;
    }
    let taken = run.journal.now() - asked;
    let whole = world.await_pair(step.shard);
    if let Some(window) = window {
        run.journal.close(window);
    }
    whole.map(|()| format!("node {replica} took over from {primary} within {taken} ms"))
}

/// Takes the primary away, for a moment or until its replica has taken over.
pub fn break_primary(run: &Run, world: &World, step: &Step) -> Result<String, String> {
    let _slots = world.lock_slots(vec![step.shard]);
    let _nodes = lock(&world.nodes[step.shard]);
    let _loss = lock(&world.loss);
    let (primary, replica) = ready(world, step.shard)?;
    // One in four comes back before anybody takes over.
    let quick = step.coin && step.length < 0.5;
    if !quick && !world.may_be_elected(replica) {
        return Ok(String::new());
    }
    world.keep.link();
    let window =
        run.journal.open(step.kind, vec![world.addr(primary)], world.tags_of(step.shard), Some(primary));
    let _moving = run.journal.moving(world.tags_of(step.shard));
    world.set_away(primary, true);
    let watch = Watch::begin(run, world, step.shard, replica);
    let result = take_away(world, step.kind, primary, || {
        if step.kind != StopPrimary {
            run.journal.links_ended(window);
        }
        if quick {
            thread::sleep(step.between(0.1, 1.0));
            return Ok(());
        }
        let taken = wait("the replica takes over", PATIENCE, || {
            let view = world.cluster.node(replica).view().unwrap_or_default();
            view.iter().any(|line| line.is("myself") && line.is("master"))
        });
        thread::sleep(step.between(0.2, 3.0));
        taken
    });
    run.journal.widen(window, world.addr(primary));
    world.set_away(primary, false);
    if let Some(watch) = watch {
        watch.end(run, step.kind, window);
    }
    let whole = world.await_pair(step.shard);
    run.journal.close(window);
    result.and(whole).map(|()| {
        let now = world.roles(step.shard).map_or(primary, |(now, _)| now);
        format!("node {primary} was away, and now {now} is the primary")
    })
}

/// The primary and the replica of a shard, once the primary may be lost.
fn ready(world: &World, shard: usize) -> Result<(usize, usize), String> {
    world.await_pair(shard)?;
    let (primary, replica) = world.roles(shard)?;
    // If another primary has the same epoch one of them takes a new one: if it is this one, and that when it comes back,
    // it claims again what its replica has taken over.
    world.await_own_epoch(primary)?;
    Ok((primary, replica))
}

/// Takes a node away for as long as `meanwhile` takes, and brings it back.
pub fn take_away(
    world: &World,
    kind: Kind,
    node: usize,
    meanwhile: impl FnOnce() -> Result<(), String>,
) -> Result<(), String> {
    if matches!(kind, StopPrimary | StopReplica) {
        return stop(world, node, meanwhile);
    }
    world.cluster.kill9(node);
    let result = if matches!(kind, Mute | Garbage) {
        let impostor = Impostor::start(world.cluster.node(node).port(), kind == Garbage);
        impostor.and_then(|_there| meanwhile())
    } else {
        meanwhile()
    };
    let back = if kind == NewAddress { Cluster::restart_elsewhere } else { Cluster::restart };
    result.and(back(&world.cluster, node).map_err(|error| error.to_string()))
}

/// Stops a node for as long as `meanwhile` takes, and until it has read what came then.
pub fn stop<T>(world: &World, node: usize, meanwhile: impl FnOnce() -> T) -> T {
    let _awake = lock(&world.awake[node % SHARDS]);
    let pid = world.cluster.node(node).pid();
    signal(pid, Signal::STOP);
    let result = meanwhile();
    signal(pid, Signal::CONT);
    // It answers a new connection in a later round than it accepts it, and so it does with one of another node.
    (0..2).for_each(|_| _ = world.cluster.node(node).view());
    result
}

/// Sends a signal to a process that may have ended.
fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// Listens where a node was: it never answers, or it answers what is no protocol.
struct Impostor {
    port: u16,
    over: Arc<AtomicBool>,
}

impl Impostor {
    fn start(port: u16, garbage: bool) -> Result<Self, String> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .map_err(|error| format!("port {port}: {error}"))?;
        let over = Arc::new(AtomicBool::new(false));
        let flag = over.clone();
        thread::spawn(move || {
            let mut open = Vec::new();
            for mut stream in listener.incoming().map_while(Result::ok) {
                if flag.load(Ordering::Acquire) {
                    return;
                }
                if garbage {
                    let _ = stream.write_all(GARBAGE);
                }
                open.push(stream);
            }
        });
        Ok(Self { port, over })
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        drop(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)));
    }
}
