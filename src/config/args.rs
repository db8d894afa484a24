//! The command line as written: flags and their help, every value still text.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use super::bounds::BoundArgs;
use super::demo::DemoArgs;

/// A Redis Cluster proxy that is correct and quiet while the cluster changes
///
/// Plain Redis clients connect to it as if the cluster were one server: each command is hashed to its
/// slot and forwarded to the slot's owner, and moving slots, failovers and lost connections are absorbed.
#[derive(Clone, Debug, Parser)]
#[command(name = "slotmux", version, max_term_width = 100)]
#[command(after_help = "\
Durations are written 250ms, 30s, 2m; sizes 64KiB, 512MiB, 1GiB.
Exit codes: 0 after a clean stop, 64 for a mistake on the command line, 1 otherwise.
SIGTERM and SIGINT stop it: no new clients, replies in flight are delivered; a second one ends it at once.")]
pub struct Cli {
    /// The proxy's own flags.
    #[command(flatten)]
    pub args: Args,
    #[command(subcommand)]
    command: Option<Sub>,
}

#[derive(Clone, Debug, Subcommand)]
enum Sub {
    /// Start a throwaway cluster of real servers and put the proxy in front of it
    ///
    /// The servers run in a temporary folder on free ports; Ctrl-C leaves nothing behind.
    Demo(DemoArgs),
}

impl Cli {
    pub(super) fn demo(&self) -> Option<&DemoArgs> {
        self.command.as_ref().map(|Sub::Demo(demo)| demo)
    }
}

/// The flags of the proxy. They may stand behind a subcommand too.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Nodes of the cluster, one of which must answer at the start
    #[arg(long, global = true, value_delimiter = ',', value_name = "HOST:PORT,…")]
    pub seeds: Vec<String>,

    /// Where clients connect: HOST:PORT or unix:/path; may be repeated; port 0 takes a free one
    /// [default: 127.0.0.1:6379, for the demo 127.0.0.1:7379]
    #[arg(long, global = true, value_name = "ADDRESS")]
    pub listen: Vec<String>,

    /// Where /metrics, /healthz and /readyz are served; `off` serves none
    #[arg(long, global = true, value_name = "ADDRESS", default_value = "127.0.0.1:9400")]
    pub admin: String,

    /// Worker threads [default: one per core]
    #[arg(long, global = true, value_name = "N")]
    pub workers: Option<String>,

    /// Shared connections per worker and node
    #[arg(long, global = true, value_name = "N", default_value = "1")]
    pub connections_per_node: String,

    /// Across what a client's commands keep their order: `key` or `connection`
    #[arg(long, global = true, value_name = "ACROSS", default_value = "key")]
    pub ordering: String,

    /// Poll for a moment before sleeping while that pays: `auto` or `off`
    #[arg(long, global = true, value_name = "HOW", default_value = "auto")]
    pub spin: String,

    /// What to log on stderr: error, warn, info, debug, trace, or per module `info,slotmux::topology=debug`
    #[arg(long, global = true, value_name = "LEVEL", default_value = "info")]
    pub log_level: String,

    /// File with the nodes' password; or set SLOTMUX_CLUSTER_PASSWORD
    #[arg(long, global = true, value_name = "FILE", help_heading = "Access")]
    pub cluster_password_file: Option<PathBuf>,

    /// The nodes' ACL user
    #[arg(long, global = true, value_name = "NAME", env = "SLOTMUX_CLUSTER_USER", help_heading = "Access")]
    pub cluster_user: Option<String>,

    /// File with the password that clients must give; or set SLOTMUX_CLIENT_PASSWORD
    #[arg(long, global = true, value_name = "FILE", help_heading = "Access")]
    pub client_password_file: Option<PathBuf>,

    /// Let other machines connect without a client password
    #[arg(long, global = true, help_heading = "Access")]
    pub unprotected: bool,

    #[command(flatten)]
    pub(super) bounds: BoundArgs,
}
