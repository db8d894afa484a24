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
    let (clients, dedicated) = shares(limit.saturating_sub(open), max_clients);
    if clients < max_clients {
        warn!(
            open_files = limit,
            needed = max_clients as u64 + open + OTHERS + dedicated as u64,
            clients,
            "the limit of open files is too low for max_clients: raise it, or fewer clients are served"
        );
    }
    clients
}

/// How many connections that single clients have to nodes of `clusters` clusters there may be, for each of these.
#[must_use]
pub fn affordable_dedicated(max_clients: usize, clusters: usize) -> usize {
    let Some(limit) = getrlimit(Resource::Nofile).current else { return usize::MAX };
    shares(limit, max_clients).1 / clusters.max(1)
}

/// Descriptors for clients, and for connections of single clients to nodes: a quarter, or what clients leave.
fn shares(spare: u64, max_clients: usize) -> (usize, usize) {
    let rest = usize::try_from(spare - OTHERS.min(spare / 2)).unwrap_or(usize::MAX);
    let clients = max_clients.min(rest - rest / 4).max(1);
    (clients, rest.saturating_sub(clients).max(1))
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

    #[test]
    fn clients_that_wait_leave_descriptors_for_all_else() {
        assert_eq!(shares(20_000, 10_000), (10_000, 9488));
        assert_eq!(shares(1976, 10_000), (1098, 366));
        assert_eq!(shares(10, 10_000), (4, 1));
    }
}
