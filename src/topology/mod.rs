//! Who owns which slot: parsing what nodes say, merging it into a snapshot, and asking again in time.

pub mod refresher;
pub mod slots;
pub mod snapshot;
pub mod view;

pub use refresher::{Cause, Refresh, Shared};
pub use slots::{SLOTS, slot_of};
pub use snapshot::{NO_SHARD, Shard, Snapshot, Table};
