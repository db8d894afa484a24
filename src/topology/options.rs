//! What the refresher has to be told.

use crate::config::ClusterAuth;
use crate::net::{AddressMap, NodeAddr};

/// How to find a cluster, and how to come in.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Nodes to learn the cluster from; one that answers is enough. If they are of several clusters, the first
    /// one that answers decides.
    pub seeds: Vec<NodeAddr>,
    /// What to show to the nodes.
    pub credentials: Option<ClusterAuth>,
    /// Where nodes are dialled that announce another address.
    pub address_map: AddressMap,
}
