//! What one request costs in the pure parts: framing, looking up and keying, planning, merging.
//!
//! `cargo bench --bench micro`

#![allow(missing_docs)] // criterion's macros make public functions

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use slotmux::command::{Merge, resolve};
use slotmux::protocol::{ReplyFramer, RequestFramer, RequestLimits, write};
use slotmux::route::merge::merge;
use slotmux::route::plan::{self, Groups};

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

criterion_group!(benches, framing, planning);
criterion_main!(benches);
