//! What a run prints in the end.

use std::{fmt::Write, sync::atomic::Ordering, time::Duration};

use crate::{journal::lock, keys::TAGS, nemesis::Kind, ops::NAMES, run::Run, support::Proxy, world::SHARDS};

/// A run that is long enough for everything.
const LONG: Duration = Duration::from_secs(300);
/// Faults that are counted also if there are none.
const WORST: [&str; 4] = ["violation", "duplicate", "lost", "order"];
/// What others do than the clients with pipelines.
const OTHERS: [&str; 7] = [
    "BLPOP",
    "BLMOVE",
    "SCANs of all keys",
    "XREADs of nothing",
    "messages of Channels heard",
    "messages of Patterns heard",
    "messages of Shards heard",
];

/// Whether anything was wrong.
pub fn failed(run: &Run) -> bool {
    run.journal.fault_count.load(Ordering::Relaxed) > 0
}

/// What never ran proves nothing. In a run of some minutes all that can happen has to; in a shorter one commands, and
/// slots that move and primaries that change, or any nemesis where they wait for each other's harm.
pub fn expect_all(run: &Run) {
    let kinds = &run.settings.nemeses;
    let nemesis = |kind: &Kind| format!("nemesis {kind}");
    let alone = |name: &str| vec![name.to_owned()];
    let expected: Vec<Vec<String>> = if run.settings.length < LONG {
        let planned = kinds.iter().all(|kind| kind.is_planned());
        let sorts: &[fn(Kind) -> bool] =
            if planned { &[Kind::moves_slots, Kind::changes_primaries] } else { &[|_| true] };
        let named = |sort: &fn(Kind) -> bool| kinds.iter().filter(|kind| sort(**kind)).map(nemesis).collect();
        sorts.iter().map(named).chain([alone("commands")]).collect()
    } else {
        let kills = kinds.contains(&Kind::KillPrimary).then(|| alone("takeovers after kill, judged"));
        let clients = NAMES.iter().chain(&OTHERS).map(|name| alone(name));
        clients.chain(kinds.iter().map(|kind| vec![nemesis(kind)])).chain(kills).collect()
    };
    let counts = lock(&run.journal.counts).clone();
    let happened = |what: &String| counts.get(what).is_some_and(|n| *n > 0);
    for any in expected.into_iter().filter(|any| !any.is_empty() && !any.iter().any(happened)) {
        run.journal.fault("never happened", any.join(", "), String::new());
    }
}

/// Everything; with the schedule if something was wrong.
pub fn report(run: &Run, proxy: &Proxy) -> String {
    let mut text = String::new();
    write(run, proxy, &mut text).expect("a String takes everything");
    text
}

fn write(run: &Run, proxy: &Proxy, text: &mut String) -> std::fmt::Result {
    let (journal, settings) = (&run.journal, &run.settings);
    writeln!(text, "--- chaos, CHAOS_SEED={} ---", settings.seed)?;
    let nemeses: Vec<&str> = settings.nemeses.iter().map(|kind| kind.name()).collect();
    writeln!(text, "{} clients, {:?}, nemeses: {}", settings.clients, settings.length, nemeses.join(","))?;
    WORST.iter().for_each(|kind| journal.count(&format!("faults: {kind}"), 0));
    for (what, n) in &*lock(&journal.counts) {
        writeln!(text, "{n:>12}  {what}")?;
    }
    writeln!(text, "errors by text:")?;
    for (error, (n, first)) in &*lock(&journal.errors) {
        writeln!(text, "{n:>12}  {error}  (first at {first})")?;
    }
    for shard in 0..SHARDS {
        let tags = (0..TAGS).filter(|tag| tag * SHARDS / TAGS == shard);
        let [(slowest, at), (silent, since)] = journal.stalls(tags);
        writeln!(
            text,
            "slots that shard {shard} had first: slowest reply {slowest} ms (at {at}), longest silence while \
             asked {silent} ms (until {since})"
        )?;
    }
    for name in ["slotmux_redirects_total", "slotmux_replays_total", "process_resident_memory_bytes"] {
        writeln!(text, "{:>12}  {name}", proxy.metric(name))?;
    }
    let count = journal.fault_count.load(Ordering::Relaxed);
    if count > 0 || settings.verbose {
        writeln!(text, "--- the schedule, in milliseconds ---")?;
        for (at, event) in &*lock(&journal.events) {
            writeln!(text, "{at:>8}  {event}")?;
        }
        writeln!(text, "--- {count} faults ---")?;
        for fault in &*lock(&journal.faults) {
            writeln!(text, "{}: found at {}: {}\n{}", fault.kind, fault.at, fault.what, fault.history)?;
        }
    }
    writeln!(text, "{count} faults; CHAOS_SEED={}", settings.seed)
}
