//! Addresses, byte streams and socket options: what every part that opens or accepts a connection
//! shares. A leaf: it knows nothing of clients, nodes or slots.

mod addr;
mod address_map;
mod listener;
mod options;
mod stream;

pub use addr::{AddrError, ListenAddr, NodeAddr};
pub use address_map::AddressMap;
pub use listener::{BindError, Listener};
pub use options::{NODE_USER_TIMEOUT, set_linger_zero, tune_client, tune_node};
pub use stream::{Ends, Local, Peer, StdStream, Stream};
