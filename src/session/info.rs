//! INFO: what clients look at when they connect, of the one server that they see.

use super::Worker;
use super::local::version;
use crate::protocol::{Args, Protocol, write};

/// Appends the reply: all sections, or those that the request names.
pub(super) fn answer(args: &Args<'_>, worker: &Worker, protocol: Protocol, out: &mut Vec<u8>) {
    let server = format!(
        "redis_version:{}\r\nredis_mode:standalone\r\nprocess_id:{}\r\nslotmux_version:{}\r\n",
        version(worker),
        std::process::id(),
        env!("CARGO_PKG_VERSION"),
    );
    let sections = [
        ("Server", &*server),
        // Clients wait with their first command while it is 1.
        ("Persistence", "loading:0\r\nasync_loading:0\r\n"),
        ("Replication", "role:master\r\nconnected_slaves:0\r\n"),
        ("Cluster", "cluster_enabled:0\r\n"),
    ];
    let wanted = |name: &str| {
        args.len() == 1
            || args.iter().skip(1).any(|word| {
                let all = ["all", "default", "everything", name];
                all.iter().any(|all| word.eq_ignore_ascii_case(all.as_bytes()))
            })
    };
    let sections = sections.iter().filter(|(name, _)| wanted(name));
    let texts: Vec<String> = sections.map(|(name, lines)| format!("# {name}\r\n{lines}")).collect();
    write::text(out, &texts.join("\r\n"), protocol);
}
