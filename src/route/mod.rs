//! From a request to a node: planning, the worker's routing table, redirects, and merging replies.

pub mod config;
pub mod info;
pub mod merge;
pub mod monitor;
pub mod plan;
pub mod pubsub;
mod redirect;
mod routes;
pub mod scan;

pub use redirect::Signal;
pub use routes::{Moved, Routes};
