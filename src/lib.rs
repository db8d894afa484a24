//! slotmux: a Redis Cluster proxy that is correct and quiet while the cluster changes.
//!
//! The map of the house, from the socket inwards:
//!
//! - [`server`]: accepts clients, hands them to workers, drains.
//! - [`session`]: one client: its turn, its pending commands, and their order while the cluster changes.
//! - [`route`]: from a request to a node: planning, the worker's routing table, redirects, merging replies.
//! - [`topology`]: who owns which slot: what nodes say, merged into a snapshot, asked again in time.
//! - [`backend`]: the nodes and the links to them: handshake, pipelining, reconnecting.
//! - [`protocol`]: frames and writes RESP2 and RESP3; pure.
//! - [`command`]: the command table: which arguments are keys, where a call goes, how replies merge; pure.
//! - [`admin`]: HTTP for operators: metrics, health, readiness.
//! - [`demo`]: a throwaway cluster of real servers, for `slotmux demo`, the tests and the benchmarks.
//!
//! Leaves, which know none of the others:
//!
//! - [`config`]: the command line, typed and checked, and the table of bounds.
//! - [`error`]: every failure that a client can see and that the proxy itself creates.
//! - [`metrics`]: what is counted, and the page that shows it.
//! - [`net`]: addresses, streams, listeners and socket options.
//!
//! Imports go one way; `tests/architecture.rs` holds the rules and ARCHITECTURE.md the reasons.

#![warn(clippy::expect_used, clippy::print_stdout, clippy::print_stderr)]

pub mod admin;
pub mod backend;
pub mod command;
pub mod config;
pub mod demo;
pub mod error;
pub mod metrics;
pub mod net;
pub mod protocol;
pub mod route;
mod run;
pub mod server;
pub mod session;
pub mod topology;

pub use run::{Bound, RunError, run, run_demo};
