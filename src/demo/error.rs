//! What can go wrong while a throwaway cluster is started, in words that say what to do.

use std::{error, fmt, io, path::PathBuf, time::Duration};

/// Why a throwaway cluster could not be started or changed.
#[derive(Debug)]
pub enum DemoError {
    /// Neither `redis-server` nor `valkey-server` is on the `PATH`.
    NoServer,
    /// The server binary is there (or was named) but does not start.
    Spawn {
        /// The binary.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The temporary folder or a file in it could not be made.
    Folder {
        /// The path in question.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// `sh`, which watches over the servers, does not start.
    Guard(io::Error),
    /// No pair of free ports (client port, bus port) was found.
    NoPort,
    /// A server ended by itself; the end of its log says why.
    Ended {
        /// The client port that it had.
        port: u16,
        /// The last lines of its log.
        log: String,
    },
    /// A server could not be reached or stopped answering.
    Unreachable {
        /// Its client port.
        port: u16,
        /// What the system said.
        source: io::Error,
    },
    /// A server refused a command that builds the cluster.
    Refused {
        /// Its client port.
        port: u16,
        /// The command.
        command: String,
        /// The server's error, word for word.
        reply: String,
    },
    /// The condition did not come true in time.
    Timeout {
        /// What was awaited.
        what: String,
        /// For how long.
        after: Duration,
    },
}

impl fmt::Display for DemoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoServer => f.write_str(
                "redis-server not found: install the package redis-server (apt-get install redis-server) \
                 or valkey-server",
            ),
            Self::Spawn { path, source } => write!(f, "cannot start {}: {source}", path.display()),
            Self::Folder { path, source } => write!(f, "cannot create {}: {source}", path.display()),
            Self::Guard(source) => write!(f, "cannot start sh, which watches over the servers: {source}"),
            Self::NoPort => f.write_str("found no free pair of ports on 127.0.0.1 (port and port + 10000)"),
            Self::Ended { port, log } => {
                write!(f, "the server for port {port} ended at once; its log ends with:\n{log}")
            }
            Self::Unreachable { port, source } => write!(f, "the server on port {port}: {source}"),
            Self::Refused { port, command, reply } => {
                write!(f, "the server on port {port} refused {command}: {reply}")
            }
            Self::Timeout { what, after } => write!(f, "after {after:?} still not true: {what}"),
        }
    }
}

impl error::Error for DemoError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Spawn { source, .. } | Self::Folder { source, .. } | Self::Unreachable { source, .. } => {
                Some(source)
            }
            Self::Guard(source) => Some(source),
            _ => None,
        }
    }
}
