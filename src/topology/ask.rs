//! Whom to ask, and hearing them.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::Cause;
use super::membership::Selection;
use super::query::{Answer, Ask, Control, Way, query};
use super::refresher::{COOL_DOWN, Refresh};
use super::view::{Health, View, parse};
use crate::backend::{DialError, Purpose};
use crate::net::NodeAddr;

/// How many nodes are asked at once.
pub(super) const ASKED: usize = 3;
/// How many seeds are asked at once while nothing is known: those of another cluster are to be noticed.
const SEEDS: usize = 16;
/// Once one node has answered, the others have this much time; and if none has, others are asked too.
const STRAGGLERS: Duration = Duration::from_millis(250);
/// As many times others are asked too.
const HEDGES: usize = 3;
/// Connections that are kept for the next query.
const KEPT: usize = 32;

type Answered = (NodeAddr, Instant, bool, Result<Answer, DialError>);
/// What was heard, and one of the failures.
type Heard = (Vec<View>, Option<(NodeAddr, DialError)>);

impl Refresh {
    /// Asks the nodes that were named, and others, until somebody answers or nobody is left.
    pub(super) async fn ask_some(&mut self, cause: Cause, named: Vec<NodeAddr>) -> Heard {
        let mut nodes = self.choose(cause, named).await;
        let mut queries = JoinSet::new();
        let mut heard: Heard = (Vec::new(), None);
        for _ in 0..HEDGES {
            self.send(std::mem::take(&mut nodes), cause, &mut queries);
            self.hear(&mut queries, &mut heard, STRAGGLERS).await;
            if !heard.0.is_empty() || queries.is_empty() {
                return heard;
            }
            nodes = self.take(self.candidates(&[]), ASKED);
        }
        // Each query is bounded by itself.
        self.send(nodes, cause, &mut queries);
        self.hear(&mut queries, &mut heard, Duration::MAX).await;
        heard
    }

    /// Asks some of these nodes.
    pub(super) async fn ask_all(&mut self, nodes: Vec<NodeAddr>) -> Heard {
        let mut queries = JoinSet::new();
        let nodes = self.take(nodes, ASKED);
        self.send(nodes, Cause::Start, &mut queries);
        let mut heard: Heard = (Vec::new(), None);
        self.hear(&mut queries, &mut heard, STRAGGLERS).await;
        heard
    }

    /// Whom to ask: those that were named, then others; waits until there is somebody who was not asked just
    /// now.
    async fn choose(&mut self, cause: Cause, mut named: Vec<NodeAddr>) -> Vec<NodeAddr> {
        let snapshot = self.shared.snapshot();
        let is_known = |addr: &NodeAddr| snapshot.as_ref().is_some_and(|s| s.table.known.contains_key(addr));
        // Who left the cluster meanwhile is not asked any more.
        named.retain(is_known);
        let mut seeds: Vec<NodeAddr> = Vec::new();
        if cause == Cause::Periodic {
            seeds = self.options.seeds.iter().filter(|seed| !is_known(seed)).cloned().collect();
            seeds.sort_by_key(|seed| self.budget.last(seed));
            seeds.truncate(1);
            seeds.extend(self.outsiders.doubtful().cloned());
        }
        let most = if snapshot.is_none() { SEEDS } else { ASKED };
        // While the cluster answers, a seed that is none of its nodes is never asked alone.
        let anybody = snapshot.is_none() || self.is_lost;
        loop {
            // Who was named by a redirect knows: wait for it rather than ask somebody else.
            if named.first().is_none_or(|node| self.budget.is_free(node, Instant::now())) {
                let mut candidates = self.candidates(&named);
                candidates.retain(|node| anybody || is_known(node));
                let mut chosen = self.take(candidates, most);
                if !chosen.is_empty() {
                    chosen.extend(self.take(seeds, SEEDS));
                    return chosen;
                }
            }
            sleep(COOL_DOWN / 4).await;
        }
    }

    /// Everybody who may be asked: those that were named; primaries that are well, other nodes that are, the
    /// rest, each at random; and the seeds, first those that were not asked for longest. While nobody of the
    /// cluster answers they take turns with the seeds: those may all be nodes that have other addresses now.
    fn candidates(&self, named: &[NodeAddr]) -> Vec<NodeAddr> {
        let Some(snapshot) = self.shared.snapshot() else { return self.seeds_in_turn() };
        let mut members: Vec<(u8, u32, &NodeAddr)> = snapshot
            .members
            .values()
            .map(|member| {
                let rank = u8::from(!member.primary) + 2 * u8::from(member.health != Health::Good);
                (rank, fastrand::u32(..), &member.addr)
            })
            .collect();
        members.sort_unstable_by_key(|(rank, random, _)| (*rank, *random));
        let members = members.into_iter().map(|(.., addr)| addr.clone());
        let seeds =
            self.seeds_in_turn().into_iter().filter(|seed| self.is_lost || !self.outsiders.has_seed(seed));
        match self.is_lost {
            true => named.iter().cloned().chain(in_turns(seeds, members)).collect(),
            false => named.iter().cloned().chain(members).chain(seeds).collect(),
        }
    }

    fn seeds_in_turn(&self) -> Vec<NodeAddr> {
        let mut seeds = self.options.seeds.clone();
        seeds.sort_by_key(|seed| self.budget.last(seed));
        seeds
    }

    /// The first `most` of `nodes` that may be asked now. This is the only place from which nodes are asked.
    fn take(&mut self, nodes: Vec<NodeAddr>, most: usize) -> Vec<NodeAddr> {
        let now = Instant::now();
        nodes.into_iter().filter(|node| self.budget.take(node, now)).take(most).collect()
    }

    /// Sends the queries. Of one node more is asked if there are new nodes, and now and then.
    fn send(&mut self, nodes: Vec<NodeAddr>, cause: Cause, queries: &mut JoinSet<Answered>) {
        let snapshot = self.shared.snapshot();
        let are_new = snapshot.as_ref().is_some_and(|s| !s.members.keys().eq(&self.named));
        let mut names = (are_new || cause == Cause::Periodic).then_some(self.ask_names_by);
        let (mut commands, all) = (self.commands.is_due(Instant::now()), self.commands.is_first());
        for node in nodes {
            let way = match self.connections.remove(&node).filter(Control::is_open) {
                Some(connection) => Way::Kept(connection),
                None => match self.gate.take(&node, Purpose::Topology, Instant::now()) {
                    Ok(permit) => Way::Dial(permit),
                    // Also one that may not be dialled now has had its turn.
                    Err(_) => continue,
                },
            };
            let (options, names) = (self.options.clone(), names.take());
            let is_primary = snapshot.as_ref().is_none_or(|s| s.table.shard_at(&node).is_some());
            let tells_commands = is_primary && commands;
            commands &= all || !tells_commands;
            queries.spawn(async move {
                let asked = Instant::now();
                let answer = query(&node, way, &options, names, tells_commands).await;
                (node, asked, names.is_some(), answer)
            });
        }
    }

    /// Hears those that were asked: all of them, or those that answer in time once one has answered, or nobody
    /// within `limit`.
    async fn hear(&mut self, queries: &mut JoinSet<Answered>, heard: &mut Heard, limit: Duration) {
        let (views, failure) = heard;
        let mut until = Instant::now().checked_add(limit);
        loop {
            let next = match until {
                Some(until) => {
                    timeout(until.saturating_duration_since(Instant::now()), queries.join_next()).await
                }
                None => Ok(queries.join_next().await),
            };
            let Ok(Some(joined)) = next else { return };
            let Ok((from, asked, told_names, answer)) = joined else { continue };
            let read = answer.and_then(|answer| {
                let nodes = parse(&answer.nodes, &from, &self.options.address_map);
                Ok((nodes.map_err(|error| DialError::Protocol(error.to_string()))?, answer))
            });
            match read {
                Ok((nodes, answer)) => {
                    if views.is_empty() {
                        until = Some(Instant::now() + STRAGGLERS);
                    }
                    let info = answer.info;
                    if let Some(node) = nodes.iter().find(|node| node.myself) {
                        self.budget.is_same(&from, &node.addr);
                    }
                    if told_names {
                        self.named = nodes.iter().map(|node| node.id.clone()).collect();
                        self.named.sort_unstable();
                    }
                    self.keep(from.clone(), answer);
                    views.push(View { from, asked, info, nodes });
                }
                Err(error) => {
                    tracing::debug!(node = %from, %error, "a node did not tell the topology");
                    *failure = Some((from, error));
                }
            }
        }
    }

    /// Keeps what else an answer brought.
    fn keep(&mut self, from: NodeAddr, answer: Answer) {
        if let Some(server) = answer.server {
            self.shared.server.store(Some(server.into()));
        }
        if let Some(commands) = answer.commands {
            self.commands.heard(from.clone(), commands);
        }
        match answer.names {
            Some(Ok(names)) => self.names = names,
            // A server before 7.0: asked otherwise the next time.
            Some(Err(())) if self.ask_names_by == Ask::Shards => {
                self.ask_names_by = Ask::Slots;
                self.named.clear();
            }
            _ => {}
        }
        if self.connections.len() >= KEPT
            && let Some(other) = self.connections.keys().next().cloned()
        {
            self.connections.remove(&other);
        }
        self.connections.insert(from, answer.connection);
    }
}

/// One of each, as long as there are any.
fn in_turns<T>(one: impl Iterator<Item = T>, other: impl Iterator<Item = T>) -> impl Iterator<Item = T> {
    let (mut one, mut other) = (one.fuse(), other.fuse());
    std::iter::from_fn(move || {
        Some([one.next(), other.next()]).filter(|next| next.iter().any(Option::is_some))
    })
    .flatten()
    .flatten()
}

/// Other nodes that the views which count name: those first that own slots and are well, each at random.
pub(super) fn named_by(selection: &Selection<'_>) -> Vec<NodeAddr> {
    let nodes = selection.counted.iter().flat_map(|view| &view.nodes).filter(|node| !node.myself);
    let mut nodes: Vec<(bool, u32, &NodeAddr)> = nodes
        .map(|node| {
            let is_good = node.health == Health::Good && !node.slots.is_empty();
            (!is_good, fastrand::u32(..), &node.addr)
        })
        .collect();
    nodes.sort_unstable_by_key(|(is_bad, random, _)| (*is_bad, *random));
    nodes.into_iter().map(|(.., addr)| addr.clone()).collect()
}
