//! slotmux: a Redis Cluster proxy that is correct and quiet while the cluster changes.

pub mod config;
pub mod error;
pub mod metrics;
pub mod net;
pub mod protocol;
