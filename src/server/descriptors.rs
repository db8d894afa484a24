//! The process's limit of open files.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

/// Descriptors for what is no client: listeners, links, the admin port, runtimes, standard streams.
const OTHERS: u64 = 512;

/// Raises the soft limit of open files as far as `max_clients` needs and the hard limit allows, as a
/// server does at its start. Says so if that is not enough: clients beyond it would have to wait.
pub fn raise_open_files(max_clients: usize) {
    let needed = max_clients as u64 + OTHERS;
    let limit = getrlimit(Resource::Nofile);
    let Some(current) = limit.current.filter(|current| *current < needed) else { return };
    let reachable = limit.maximum.map_or(needed, |maximum| needed.min(maximum));
    let raised = Rlimit { current: Some(reachable), maximum: limit.maximum };
    let now = if setrlimit(Resource::Nofile, raised).is_ok() { reachable } else { current };
    if now < needed {
        warn!(
            open_files = now,
            needed, "the limit of open files is too low for max_clients: raise it or lower --max-clients"
        );
    }
}
