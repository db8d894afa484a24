//! Making a node's replicas acknowledge: a node asks them for it while anybody waits for more of them than there are.

use std::rc::Rc;

use super::{Node, Purpose};
use crate::protocol::Protocol;

/// Waits for more replicas than there are, for one millisecond.
const ACKNOWLEDGE: &[u8] = b"*3\r\n$4\r\nWAIT\r\n$7\r\n1000000\r\n$1\r\n1\r\n";
/// The node may look at the millisecond only a tenth of a second later. One behind that one is asked after it.
const ON_WAY: usize = 2;

impl Node {
    /// Makes the node's replicas acknowledge what they have, soon. It is for all who wait, so a worker has one connection
    /// for it, which waits at the node so that others need not.
    pub fn acknowledge(self: &Rc<Self>) {
        let mut own = self.acknowledging.borrow_mut();
        if !own.as_ref().is_some_and(|link| link.takes_commands()) {
            *own = self.dial(Protocol::Resp2, 0, Purpose::Acknowledge, None).ok();
        }
        if let Some(link) = &*own
            && link.queue.borrow().entries.len() < ON_WAY
        {
            link.push_internal(ACKNOWLEDGE);
        }
    }
}
