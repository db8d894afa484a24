//! What happens to the cluster. Which steps, of which kinds, on which shards and for how long is drawn from the seed: the
//! same seed and settings give the same steps, as fast as the machine carries them out. Those that the cluster is not
//! ready for are left out.
//!
//! Which of them may overlap follows from what a cluster of Redis itself can bear; `world.rs` has the locks:
//! - slots move between two shards while anything happens to the nodes of the third, and to replicas of the two;
//! - no primary changes while its shard has an open slot: replicas do not know of open slots, so the new primary would
//!   answer nil for keys that have left, and take writes for them;
//! - a shard is not broken until its replica has all that was moved in: keys that were taken from elsewhere and not
//!   replicated yet would go lost though their old owner is well;
//! - one primary is down at a time, as two of three have to vote, and only while its replica is there to take over:
//!   shards without any primary would only wait for it to come back.

mod lossy;
mod moves;
mod pests;
mod watch;

use std::{fmt, thread, time::Duration};

use fastrand::Rng;

use crate::{run::Run, world::SHARDS, world::World};

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Move,
    Half,
    Rebalance,
    Burst,
    AddRemove,
    AddReplica,
    Failover,
    Force,
    Takeover,
    KillPrimary,
    StopPrimary,
    NewAddress,
    Mute,
    Garbage,
    KillReplica,
    StopReplica,
    Pause,
    KillClients,
    Reload,
}

use Kind::{
    AddRemove, AddReplica, Burst, Failover, Force, Garbage, Half, KillClients, KillPrimary, KillReplica,
    Move, Mute, NewAddress, Pause, Rebalance, Reload, StopPrimary, StopReplica, Takeover,
};

const ALL: [(Kind, &str); 19] = [
    (Move, "move"),
    (Half, "half"),
    (Rebalance, "rebalance"),
    (Burst, "burst"),
    (AddRemove, "add"),
    (AddReplica, "replica"),
    (Failover, "failover"),
    (Force, "force"),
    (Takeover, "takeover"),
    (KillPrimary, "kill"),
    (StopPrimary, "stop"),
    (NewAddress, "address"),
    (Mute, "mute"),
    (Garbage, "garbage"),
    (KillReplica, "kill-replica"),
    (StopReplica, "stop-replica"),
    (Pause, "pause"),
    (KillClients, "client-kill"),
    (Reload, "reload"),
];

/// Each lane does one thing after the other, beside the others.
const LANES: [(&str, &[Kind]); 4] = [
    ("mover", &[Move, Half, Rebalance, Burst, AddRemove, AddReplica]),
    ("breaker", &[Failover, Force, Takeover, KillPrimary, StopPrimary, NewAddress, Mute, Garbage]),
    ("second breaker", &[Failover, Force, Takeover, KillPrimary, StopPrimary, NewAddress, Mute, Garbage]),
    ("pest", &[KillReplica, StopReplica, Pause, KillClients, Reload]),
];

impl Kind {
    /// `quiet`, `all`, or names with commas between them. Slots move at once only on newer servers.
    pub fn parse(names: &str, newer: bool) -> Vec<Self> {
        let named = |name: &str| {
            let kind = ALL.iter().find(|(_, known)| *known == name);
            kind.unwrap_or_else(|| panic!("there is no nemesis {name:?}; there are: {ALL:?}")).0
        };
        let can = ALL.iter().map(|(kind, _)| *kind).filter(|kind| newer || *kind != Burst);
        match names {
            "all" => can.collect(),
            "quiet" => can.filter(|kind| kind.is_planned()).collect(),
            names => names.split(',').filter(|name| !name.is_empty()).map(named).collect(),
        }
    }

    pub fn name(self) -> &'static str {
        ALL.iter().find(|(kind, _)| *kind == self).map_or("", |(_, name)| name)
    }

    /// Whether it ends connections to primaries, so that writes on them may be in doubt.
    pub fn ends_links(self) -> bool {
        matches!(self, KillPrimary | StopPrimary | NewAddress | Mute | Garbage | KillClients)
    }

    /// Whether slots get another owner, or begin to.
    pub fn moves_slots(self) -> bool {
        matches!(self, Move | Half | Rebalance | Burst | AddRemove)
    }

    /// Whether a shard gets another primary.
    pub fn changes_primaries(self) -> bool {
        matches!(self, Failover | Force | Takeover | KillPrimary | StopPrimary | NewAddress | Mute | Garbage)
    }

    /// Whether an operator does this to a healthy cluster.
    pub fn is_planned(self) -> bool {
        matches!(self, Move | Half | Rebalance | Burst | AddRemove | AddReplica | Failover)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One step of the schedule, all of it drawn.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub kind: Kind,
    pub shard: usize,
    /// Another shard.
    pub to: usize,
    /// From 0 to 1: which tag, how long, how many; each nemesis says what of.
    pub which: f64,
    pub length: f64,
    pub coin: bool,
    /// Until the next step, in seconds.
    pub pause: f64,
}

impl Step {
    fn draw(rng: &mut Rng, kind: Kind) -> Self {
        let shard = rng.usize(..SHARDS);
        Self {
            kind,
            shard,
            to: (shard + rng.usize(1..SHARDS)) % SHARDS,
            which: rng.f64(),
            length: rng.f64(),
            coin: rng.bool(),
            pause: 0.1 + 1.4 * rng.f64(),
        }
    }

    /// A time between these, in seconds.
    pub fn between(&self, least: f64, most: f64) -> Duration {
        Duration::from_secs_f64(least + (most - least) * self.length)
    }

    /// One of these.
    pub fn pick<T: Copy>(&self, of: &[T]) -> Option<T> {
        of.get((self.which * of.len() as f64) as usize).copied()
    }
}

/// Runs all lanes until the run's time is over, and heals what they did.
pub fn run(run: &Run, world: &World) {
    thread::scope(|scope| {
        for (i, (name, kinds)) in LANES.iter().enumerate() {
            let kinds: Vec<Kind> =
                kinds.iter().copied().filter(|kind| run.settings.nemeses.contains(kind)).collect();
            // Two plain failovers at a time would only wait for each other's votes.
            let needless = i == 2 && run.settings.is_quiet();
            if !kinds.is_empty() && !needless {
                scope.spawn(move || lane(run, world, i as u64, name, &kinds));
            }
        }
    });
}

/// The steps of a lane: each kind once, in random order, and again, so that none is missing in a run of some minutes.
fn steps(seed: u64, lane: u64, kinds: &[Kind]) -> impl Iterator<Item = Step> {
    let mut rng = Rng::with_seed(seed.wrapping_mul(31).wrapping_add(lane));
    let mut deck = Vec::new();
    std::iter::from_fn(move || {
        if deck.is_empty() {
            deck = kinds.to_vec();
            rng.shuffle(&mut deck);
        }
        deck.pop().map(|kind| Step::draw(&mut rng, kind))
    })
}

fn lane(run: &Run, world: &World, number: u64, name: &str, kinds: &[Kind]) {
    let end = run.settings.length.as_millis() as u32;
    for (n, step) in steps(run.settings.seed, number, kinds).enumerate() {
        thread::sleep(Duration::from_secs_f64(step.pause));
        if run.journal.now() >= end {
            return;
        }
        let begun = run.journal.now();
        let title = format!("{name} {n}: {} shard {} to {}", step.kind, step.shard, step.to);
        let result = carry_out(run, world, &step);
        let took = run.journal.now() - begun;
        match &result {
            Ok(what) => run.journal.count(&format!("nemesis {}", step.kind), u64::from(!what.is_empty())),
            Err(_) => run.journal.count(&format!("nemesis {} failed", step.kind), 1),
        }
        run.journal.event(format!("{title}: {result:?} in {took} ms"));
    }
}

/// Does it, and returns when the cluster is as before; what was done.
fn carry_out(run: &Run, world: &World, step: &Step) -> Result<String, String> {
    match step.kind {
        Move | Half | Rebalance | Burst => moves::reshard(run, world, step),
        AddRemove => moves::add_and_remove(run, world, step),
        AddReplica => moves::add_replica(run, world, step),
        Failover | Force | Takeover => lossy::fail_over(run, world, step),
        KillPrimary | StopPrimary | NewAddress | Mute | Garbage => lossy::break_primary(run, world, step),
        KillReplica | StopReplica => pests::break_replica(run, world, step),
        Pause | KillClients | Reload => pests::annoy(run, world, step),
    }
}

#[test]
fn the_seed_repeats_the_schedule() {
    let kinds = LANES[0].1;
    let drawn =
        |seed| -> Vec<String> { steps(seed, 0, kinds).take(50).map(|step| format!("{step:?}")).collect() };
    assert_eq!(drawn(1), drawn(1));
    assert_ne!(drawn(1), drawn(2));
}
