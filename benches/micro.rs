//! What one request costs in the pure parts: framing, looking up and keying, planning, merging; and what a change
//! of a cluster of a thousand nodes costs the refresher and a worker.
//!
//! `cargo bench --bench micro`

#![allow(missing_docs)] // criterion's macros make public functions

use std::cell::RefCell;
use std::fmt::Write;
use std::hint::black_box;
use std::rc::Rc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use slotmux::backend::{Allowance, Backend, Clock, DialGate, GateLimits, Memory, Settings};
use slotmux::command::{Merge, resolve};
use slotmux::config::ProcessLimits;
use slotmux::metrics::{Metrics, Shape};
use slotmux::net::{AddressMap, NodeAddr};
use slotmux::protocol::{ReplyFramer, RequestFramer, RequestLimits, write};
use slotmux::route::Routes;
use slotmux::route::merge::merge;
use slotmux::route::plan::{self, Groups};
use slotmux::topology::names::Names;
use slotmux::topology::view::{Info, View, parse};
use slotmux::topology::{Options, Refresh, Snapshot};

const LIMITS: RequestLimits = RequestLimits { arguments: 1 << 20, bytes: 1 << 30, unauthenticated: false };

fn request(words: &[String]) -> Vec<u8> {
    let mut out = Vec::new();
    write::request(&mut out, words.iter().map(String::as_bytes));
    out
}

fn gets(count: usize) -> Vec<u8> {
    (0..count).flat_map(|i| request(&["GET".into(), format!("key:{i:012}")])).collect()
}

/// A framer that has just framed `bytes`.
fn framed(bytes: &[u8]) -> RequestFramer {
    let mut framer = RequestFramer::default();
    framer.next(bytes, &LIMITS).expect("a request");
    framer
}

fn framing(c: &mut Criterion) {
    let mut group = c.benchmark_group("framing");
    let requests = gets(100);
    group.throughput(Throughput::Elements(100));
    group.bench_function("100 GETs", |b| {
        let mut framer = RequestFramer::default();
        b.iter(|| {
            let mut rest = &requests[..];
            while let Ok(Some(framed)) = framer.next(black_box(rest), &LIMITS) {
                rest = &rest[framed.len..];
            }
        });
    });
    let mut replies = Vec::new();
    (0..100).for_each(|_| write::bulk(&mut replies, &[b'x'; 64]));
    group.bench_function("100 replies of 64 bytes", |b| {
        let mut framer = ReplyFramer::default();
        b.iter(|| {
            let mut rest = &replies[..];
            while !rest.is_empty()
                && let Ok(Some(len)) = framer.next(black_box(rest))
            {
                rest = &rest[len..];
            }
        });
    });
}

fn planning(c: &mut Criterion) {
    let mut group = c.benchmark_group("planning");
    for (name, words) in [
        ("GET", &["GET", "key:000000001234"][..]),
        ("SET with a hash tag", &["SET", "{user:1000}.name", "x"]),
        ("ZUNIONSTORE of two", &["ZUNIONSTORE", "{t}d", "2", "{t}a", "{t}b"]),
    ] {
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        let bytes = request(&words);
        let framer = framed(&bytes);
        group.bench_function(name, |b| {
            b.iter(|| {
                let args = framer.args(black_box(&bytes));
                let spec = resolve(&args).expect("a command");
                plan::slot(spec, &args).expect("a slot")
            });
        });
    }
    let keys = (0..10).map(|i| format!("key:{i}"));
    let bytes = request(&std::iter::once("MGET".to_owned()).chain(keys).collect::<Vec<_>>());
    let framer = framed(&bytes);
    group.bench_function("MGET of ten, cut", |b| {
        let mut part = Vec::new();
        b.iter(|| {
            let args = framer.args(black_box(&bytes));
            let groups = Groups::of(resolve(&args).expect("a command"), &args).expect("keys");
            for group in groups.iter() {
                part.clear();
                groups.write(&args, group, &mut part);
            }
            groups.order()
        });
    });
    let part: &[u8] = b"*1\r\n$8\r\nabcdefgh\r\n";
    let (parts, order) = ([part; 10], (0..10).collect::<Vec<u32>>());
    group.bench_function("MGET of ten, merged", |b| {
        let mut out = Vec::new();
        b.iter(|| {
            out.clear();
            merge(Merge::ByKeyOrder, black_box(&parts), &order, &mut out);
        });
    });
}

/// CLUSTER NODES of a thousand primaries, each with the share of the node `turn` places before.
fn fleet(turn: usize) -> String {
    const NODES: usize = 1000;
    let mut text = String::new();
    for i in 0..NODES {
        let share = (i + NODES - turn) % NODES;
        let (first, next) = ((share * 16_384).div_ceil(NODES), ((share + 1) * 16_384).div_ceil(NODES));
        let (epoch, last, flags) = (turn + 1, next - 1, if i == 0 { "myself,master" } else { "master" });
        writeln!(
            text,
            "{i:040x} 10.0.{}.{}:6379@16379 {flags} - 0 1426238317239 {epoch} connected {first}-{last}",
            i / 250,
            i % 250
        )
        .expect("a String can be written to");
    }
    text
}

fn a_worker() -> Routes {
    let metrics = Metrics::new(Shape { clusters: vec!["main".into()], workers: 1, ..Shape::default() });
    let (gate, worker) = (
        DialGate::new(GateLimits { most: 100, shared: 10, dedicated: 10, dedicated_in_all: 10 }),
        metrics.workers()[0].clone(),
    );
    let settings = Settings {
        cluster: "main".into(),
        credentials: None,
        connections_per_node: 1,
        connect_timeout: Duration::from_secs(1),
        max_reply: 1 << 30,
        link_queue: 1 << 24,
        link_timeout: Duration::from_secs(1),
    };
    let memory = Memory::new(ProcessLimits::default(), metrics.workers(), 1);
    let backend = Backend {
        settings,
        gate: gate.clone(),
        clock: Clock::since(worker.begun),
        memory: memory.account(0, worker.clone()),
        metrics: worker,
        links: RefCell::default(),
        scratch: RefCell::default(),
        allowance: Allowance::default(),
    };
    let refresh = Refresh::new(Options::default(), gate, metrics.clusters()[0].clone());
    Routes::new(Rc::new(backend), refresh.shared())
}

fn topology(c: &mut Criterion) {
    let mut group = c.benchmark_group("a thousand nodes");
    let from = NodeAddr::new("10.0.0.0", 6379);
    let (text, map, names) = (fleet(0), AddressMap::default(), Names::new());
    group.bench_function("CLUSTER NODES, parsed", |b| b.iter(|| parse(black_box(&text), &from, &map)));
    let view = |turn| {
        let nodes = parse(&fleet(turn), &from, &map).expect("a view");
        View { from: from.clone(), asked: Instant::now(), info: Info::default(), nodes }
    };
    let (before, after) = (view(0), view(1));
    let first = slotmux::topology::merge::merge(None, &[&before], &names);
    let second = slotmux::topology::merge::merge(Some(&first), &[&after], &names);
    group.bench_function("three views, merged", |b| {
        b.iter(|| {
            slotmux::topology::merge::merge(Some(black_box(&first)), &[&before, &after, &after], &names)
        });
    });
    let mut routes = a_worker();
    group.bench_function("a worker's first table", |b| {
        let install = |mut routes: Routes| (routes.install(&first), routes);
        b.iter_batched(a_worker, install, criterion::BatchSize::PerIteration);
    });
    let moved = || {
        let mut routes = a_worker();
        routes.install(&first);
        for slot in 0..16_384 {
            let to = second.table.owner(slot).map(|shard| shard.addr.clone()).expect("it is covered");
            routes.moved(slot, &to, &from);
        }
        (routes, Snapshot { asked: vec![(from.clone(), Instant::now())], ..second.clone() })
    };
    group.bench_function("a worker's next table, after a MOVED of every slot", |b| {
        let install = |(mut routes, next): (Routes, Snapshot)| (routes.install(&next), routes, next);
        b.iter_batched(moved, install, criterion::BatchSize::PerIteration);
    });
    group.bench_function("a worker's next table, all slots moved", |b| {
        b.iter(|| (routes.install(black_box(&second)), routes.install(black_box(&first))));
    });
}

criterion_group!(benches, framing, planning, topology);
criterion_main!(benches);
