//! slotmux: a Redis Cluster proxy that is correct and quiet while the cluster changes.

pub mod demo;
pub mod protocol;
