//! The cluster under test: three shards of a pair of nodes each, and spare nodes that come and go.

use std::{
    fs,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use slotmux::demo::{NodeLine, Reply};

use crate::{
    journal::lock,
    keep::Keep,
    keys::{TAGS, slot},
    settings::Settings,
    support::{ClusterOptions, TestCluster},
};

pub const SHARDS: usize = 3;
/// Nodes 0 to 5 are the shards'; these come behind them.
pub const SPARES: std::ops::Range<usize> = 2 * SHARDS..2 * SHARDS + 3;
/// How long anything that the cluster does may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// Errors that pass, as parts of what a node says.
const PASSING: [&str; 3] = ["LOADING ", "IOERR ", "CLUSTERDOWN "];

pub struct World {
    pub cluster: TestCluster,
    pub keep: Keep,
    /// Who moves slots of a shard holds this one,
    pub slots: [Mutex<()>; SHARDS],
    /// and who does something to its nodes this one. What changes the primary needs both: a replica does not know that
    /// a slot is open, so after any failover, a planned one too, the keys that have left it are not found by ASK.
    pub nodes: [Mutex<()>; SHARDS],
    /// Who stops a node of the shard holds this one, and who moves a slot in, from the claim until all know of it. A
    /// replica that wakes up may read an old heartbeat of its primary behind the one with the claim, which came over
    /// another link. Then it takes the slot for one that its owner gave up (Redis 7.0 says so until the owner's slots
    /// change again), and as the primary gives it to whoever claims it: its old primary, when that comes back.
    pub awake: [Mutex<()>; SHARDS],
    /// One primary at a time may be down: two of the three have to vote for a new one.
    pub loss: Mutex<()>,
    /// When each spare node was forgotten by the others.
    pub forgotten: Mutex<[Option<Instant>; SPARES.end - SPARES.start]>,
    /// The shard of each tag; a spare node's number while it has the tag's slot.
    owners: Vec<AtomicUsize>,
    /// When each node last stood for election.
    elected: Vec<Mutex<Option<Instant>>>,
    /// Nodes that do not answer just now, or are no part of the cluster.
    away: Vec<AtomicBool>,
}

impl World {
    pub fn start(settings: &Settings) -> Self {
        let args = [
            ["--appendonly", "yes"],
            ["--appendfsync", "always"],
            // So that all that is written is text.
            ["--aof-use-rdb-preamble", "no"],
            ["--cluster-allow-replica-migration", "no"],
            ["--enable-debug-command", "yes"],
            // A replica that lost its primary for a while comes back without a full resync.
            ["--repl-backlog-size", "16mb"],
        ];
        let server_args = args.concat().into_iter().map(str::to_owned).collect();
        let mut cluster = TestCluster::with(ClusterOptions {
            node_timeout: settings.node_timeout(),
            server: settings.server.clone(),
            server_args,
            patience: PATIENCE,
            ..ClusterOptions::default()
        });
        SPARES.for_each(|_| _ = cluster.start_node());
        let folders = cluster.nodes().iter().map(|node| node.folder().to_owned()).collect();
        let keep = Keep::new(folders, &cluster.folder().join("kept"));
        keep.link();
        let first = |tag: usize| {
            (0..SHARDS).find(|&shard| {
                cluster
                    .node(shard)
                    .view()
                    .expect("it runs")
                    .iter()
                    .any(|line| line.is("myself") && line.owns(slot(tag)))
            })
        };
        let owners = (0..TAGS).map(|tag| AtomicUsize::new(first(tag).expect("an owner"))).collect();
        let away = (0..SPARES.end).map(|i| AtomicBool::new(SPARES.contains(&i))).collect();
        Self {
            cluster,
            keep,
            slots: Default::default(),
            nodes: Default::default(),
            awake: Default::default(),
            loss: Mutex::default(),
            forgotten: Mutex::default(),
            owners,
            elected: (0..2 * SHARDS).map(|_| Mutex::default()).collect(),
            away,
        }
    }

    pub fn addr(&self, node: usize) -> String {
        self.cluster.node(node).addr()
    }

    pub fn id(&self, node: usize) -> String {
        self.cluster.node(node).id().to_owned()
    }

    /// Who has the tag's slot: a shard, or a spare node.
    pub fn owner(&self, tag: usize) -> usize {
        self.owners[tag].load(Ordering::Acquire)
    }

    pub fn give(&self, tag: usize, owner: usize) {
        self.owners[tag].store(owner, Ordering::Release);
    }

    pub fn tags_of(&self, owner: usize) -> Vec<usize> {
        (0..TAGS).filter(|&tag| self.owner(tag) == owner).collect()
    }

    pub fn set_away(&self, node: usize, away: bool) {
        self.away[node].store(away, Ordering::Release);
    }

    pub fn is_away(&self, node: usize) -> bool {
        self.away[node].load(Ordering::Acquire)
    }

    /// The members of the cluster that answer.
    pub fn up(&self) -> Vec<usize> {
        (0..SPARES.end).filter(|&node| !self.is_away(node)).collect()
    }

    /// The primary and the replica of a shard, or a spare node as its own primary.
    pub fn roles(&self, shard: usize) -> Result<(usize, usize), String> {
        if shard >= SHARDS {
            return Ok((shard, shard));
        }
        let mut found = Err(String::new());
        wait(&format!("a primary of shard {shard}"), PATIENCE, || {
            let own = |node: usize| {
                let view = self.cluster.node(node).view().ok()?;
                let line = view.into_iter().find(|line| line.is("myself") && line.is("master"))?;
                Some((line.epoch, line.slot_count(), node))
            };
            let primary = [shard, shard + SHARDS].into_iter().filter_map(own).max();
            found = primary.map(|(.., node)| (node, 2 * shard + SHARDS - node)).ok_or_else(String::new);
            found.is_ok()
        })?;
        found
    }

    /// Sends a command to a node that is, or soon will be, there to answer.
    pub fn ask(&self, node: usize, args: &[&str]) -> Result<String, String> {
        let until = Instant::now() + PATIENCE;
        loop {
            let failed = match self.cluster.node(node).call(args) {
                // The node itself, or the target of a MIGRATE, needs a moment.
                Ok(Reply::Error(text)) if PASSING.iter().any(|passing| text.contains(passing)) => text,
                Ok(Reply::Error(text)) => return Err(format!("node {node} to {args:?}: {text}")),
                Ok(reply) => return Ok(reply.text()),
                Err(error) => error.to_string(),
            };
            if Instant::now() > until {
                return Err(format!("node {node} to {args:?}: {failed}"));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until every node that is up sees this, or has gone meanwhile.
    pub fn all_see(&self, what: &str, sees: impl Fn(&[NodeLine]) -> bool) -> Result<(), String> {
        wait(what, PATIENCE, || self.do_all_see(&sees))
    }

    fn do_all_see(&self, sees: impl Fn(&[NodeLine]) -> bool) -> bool {
        self.up().into_iter().all(|node| {
            self.cluster.node(node).view().map_or_else(|_| self.is_away(node), |view| sees(&view))
        })
    }

    /// Waits until all know a node's epoch, and no other primary has it. Of two with the same epoch one takes a new one,
    /// and what it claims with it in the moment in which it gives a slot away, the new owner forgets, with all keys.
    pub fn await_epoch(&self, node: usize) -> Result<(), String> {
        let id = self.id(node);
        let epoch = |view: &[NodeLine]| view.iter().find(|line| line.id == id).map(|line| line.epoch);
        wait("all know the node's epoch", PATIENCE, || {
            let own = self.cluster.node(node).view().ok().and_then(|view| epoch(&view));
            let alone = |view: &[NodeLine]| {
                view.iter()
                    .filter(|line| line.is("master") && Some(line.epoch) == own)
                    .all(|line| line.id == id)
            };
            own.is_some() && self.do_all_see(|view| epoch(view) == own && (own == Some(0) || alone(view)))
        })
    }

    /// Waits until no other primary with slots has the node's epoch.
    pub fn await_own_epoch(&self, node: usize) -> Result<(), String> {
        let id = self.id(node);
        wait("no other primary has the node's epoch", PATIENCE, || {
            self.do_all_see(|view| {
                let epoch = view.iter().find(|line| line.id == id).map(|line| line.epoch);
                let mut others = view.iter().filter(|line| line.id != id && line.slot_count() > 0);
                epoch.is_some() && others.all(|line| Some(line.epoch) != epoch)
            })
        })
    }

    /// Waits until all know a slot's owner and its epoch.
    pub fn await_owner(&self, slot: u16, owner: usize) -> Result<(), String> {
        let id = self.id(owner);
        let claim = |view: &[NodeLine]| {
            view.iter().find(|line| line.id == id && line.owns(slot)).map(|line| line.epoch)
        };
        wait("all know the slot's owner and its epoch", PATIENCE, || {
            let own = self.cluster.node(owner).view().ok().and_then(|view| claim(&view));
            own.is_some() && self.do_all_see(|view| claim(view) == own)
        })
    }

    /// Whether the replica has all that its primary had a moment ago.
    pub fn in_sync(&self, primary: usize, replica: usize) -> bool {
        let info = |node: usize| self.cluster.node(node).ask(&["INFO", "replication"]).unwrap_or_default();
        let field = |info: &str, name: &str| -> Option<i64> {
            info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok())
        };
        let before = field(&info(primary), "master_repl_offset");
        let copy = info(replica);
        let there = field(&copy, "slave_repl_offset");
        copy.contains("role:slave")
            && copy.contains("master_link_status:up")
            && before.is_some_and(|before| there.is_some_and(|there| there >= before))
    }

    /// Waits until a shard is as a shard should be: all know its primary, and the replica is in sync. It also has to know
    /// of all of the shard's slots: one that was moved in while it was away it would not take over.
    pub fn await_pair(&self, shard: usize) -> Result<(), String> {
        wait(&format!("shard {shard} is whole"), PATIENCE, || {
            let Ok((primary, replica)) = self.roles(shard) else { return false };
            let (id, copy) = (self.id(primary), self.id(replica));
            let slots = |node: usize| {
                let view = self.cluster.node(node).view().ok()?;
                view.into_iter().find(|line| line.id == id).map(|line| line.slots)
            };
            let knows = |node: usize| {
                let Ok(view) = self.cluster.node(node).view() else { return self.is_away(node) };
                let line = |id: &str| view.iter().find(|line| line.id == id && line.is_healthy());
                // Whose replica a node is goes round by gossip alone, which takes long; the two have to know.
                let pair = node != primary && node != replica
                    || line(&copy).is_some_and(|line| line.primary.as_ref() == Some(&id));
                pair && line(&id).is_some_and(|line| line.is("master") && line.slot_count() > 0)
            };
            self.up().into_iter().all(knows)
                && self.in_sync(primary, replica)
                && slots(primary).is_some_and(|own| slots(replica) == Some(own))
        })
    }

    /// Whether this replica may be elected: it asks for votes once in four times the node timeout, and the others give
    /// them once in twice that. A planned failover would only stop its shard's writes for five seconds, and fail.
    pub fn may_be_elected(&self, replica: usize) -> bool {
        let mut elected = lock(&self.elected[replica]);
        let pause = self.cluster.options().node_timeout * 4 + Duration::from_millis(500);
        let may = elected.is_none_or(|since| since.elapsed() > pause);
        if may {
            *elected = Some(Instant::now());
        }
        may
    }

    /// Waits until the cluster is whole: every slot has an owner on which all agree, and no slot is open.
    pub fn await_whole(&self) -> Result<(), String> {
        (0..SHARDS).try_for_each(|shard| self.await_pair(shard))?;
        self.all_see("all slots are served, and none is open", |view| {
            view.iter().map(NodeLine::slot_count).sum::<usize>() == 16_384
                && view.iter().all(|line| line.is_healthy() && line.open.is_empty())
        })?;
        wait("every node finds the cluster well", PATIENCE, || {
            self.up().into_iter().all(|node| {
                self.cluster
                    .node(node)
                    .ask(&["CLUSTER", "INFO"])
                    .is_ok_and(|info| info.contains("cluster_state:ok"))
            })
        })
    }

    /// What each node knows of the cluster, and has logged of it: why slots have no owner.
    pub fn state(&self) -> String {
        let of = |node: &usize| {
            let view = self.cluster.node(*node).ask(&["CLUSTER", "NODES"]).unwrap_or_default();
            let log =
                fs::read_to_string(self.cluster.node(*node).folder().join("server.log")).unwrap_or_default();
            let words = ["epoch", "slot", "Slot", "lection", "aster", "Ready"];
            let lines: Vec<&str> =
                log.lines().filter(|line| words.iter().any(|word| line.contains(word))).collect();
            format!("--- node {node} ---\n{view}\n{}\n", lines.join("\n"))
        };
        self.up().iter().map(of).collect()
    }

    /// Locks what several shards need, in the order in which everybody does.
    pub fn lock_slots(&self, mut shards: Vec<usize>) -> Vec<std::sync::MutexGuard<'_, ()>> {
        shards.sort_unstable();
        shards.dedup();
        shards.into_iter().filter(|&shard| shard < SHARDS).map(|shard| lock(&self.slots[shard])).collect()
    }
}

/// Waits for a condition; what did not come true is the error.
pub fn wait(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) -> Result<(), String> {
    let until = Instant::now() + limit;
    while !condition() {
        if Instant::now() > until {
            return Err(format!("not within {limit:?}: {what}"));
        }
        thread::sleep(Duration::from_millis(15));
    }
    Ok(())
}
