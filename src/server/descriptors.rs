//! The process's limit of open files, and how many clients fit in it.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

/// Descriptors for what is no client: links, the admin port, the topology's connections, host name lookups. As many
/// as a worker's links to a few hundred nodes.
const OTHERS: u64 = 512;
/// Where the hard limit is none, more than this is of no use to anybody.
const MOST: u64 = 1 << 20;

/// Raises the soft limit of open files as far as the hard limit allows.
pub fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let Some(current) = limit.current else { return };
    let reachable = limit.maximum.unwrap_or(MOST);
    if current < reachable {
        // It stays as it is if the system refuses; then fewer clients fit.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(reachable), maximum: limit.maximum });
    }
}

/// How many clients may connect, `max_clients` at most, so that descriptors are left for links: clients that can
/// connect and not be served would be worse off than those that are told so. Says so if that is fewer.
///
/// To be called when everything is bound and the workers run: what is open then stays open.
#[must_use]
pub fn affordable_clients(max_clients: usize) -> usize {
    let Some(limit) = getrlimit(Resource::Nofile).current else { return max_clients };
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64);
    let spare = limit.saturating_sub(open);
    let affordable = (spare - OTHERS.min(spare / 2)).max(1);
    if affordable < max_clients as u64 {
        warn!(
            open_files = limit,
            needed = max_clients as u64 + open + OTHERS,
            clients = affordable,
            "the limit of open files is too low for max_clients: raise it, or fewer clients are served"
        );
    }
    max_clients.min(usize::try_from(affordable).unwrap_or(max_clients))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_is_raised_and_no_more_clients_than_declared_are_taken() {
        raise_open_files();
        let limit = getrlimit(Resource::Nofile);
        assert!(limit.current == limit.maximum || limit.maximum.is_none());
        assert_eq!(affordable_clients(1), 1);
        let affordable = affordable_clients(usize::MAX >> 1) as u64;
        assert!(limit.current.is_none_or(|limit| affordable < limit), "{affordable}");
    }
}
