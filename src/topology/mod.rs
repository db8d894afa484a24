//! Who owns which slot: parsing what nodes say, merging it into a snapshot, and asking again in time.

mod ask;
mod budget;
mod commands;
pub mod membership;
pub mod merge;
pub mod names;
mod options;
mod outsiders;
mod query;
mod refresher;
mod shared;
pub mod slots;
pub mod snapshot;
pub mod view;

pub use crate::metrics::Cause;
pub use options::Options;
pub use refresher::Refresh;
pub use shared::{ServerName, Shared};
pub use slots::{SLOTS, slot_of};
pub use snapshot::{NO_SHARD, Shard, Snapshot, State, Table};
