//! COMMAND DOCS: what a node of the cluster says of its commands, or, where none answers at once, what the proxy knows.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use super::Session;
use super::survey::{Survey, Trouble};
use crate::command::reply;
use crate::protocol::{Args, Protocol, RequestFramer, RequestLimits};

/// A tool that asks for help on commands, as redis-cli does when it starts, does not wait for a cluster to come back.
const PATIENCE: Duration = Duration::from_secs(1);

impl Survey {
    pub(super) async fn docs(&self) -> Bytes {
        match timeout(PATIENCE, self.documented()).await {
            Ok(Ok(reply)) if reply.first() != Some(&b'-') => reply,
            _ => self.own_docs(),
        }
    }

    async fn documented(&self) -> Result<Bytes, Trouble> {
        let node = {
            let routes = self.worker().routes.borrow();
            routes.any_slot().and_then(|slot| routes.owner(slot).cloned()).ok_or(Trouble::Uncovered(0))?
        };
        let link = self.link(&node).await?;
        self.ask(&link, self.request.clone()).await
    }

    fn own_docs(&self) -> Bytes {
        let (mut framer, mut out) = (RequestFramer::default(), Vec::new());
        if framer.next(&self.request, &RequestLimits::NONE).is_ok() {
            own_docs(&self.session, &framer.args(&self.request), self.protocol, &mut out);
        }
        out.into()
    }
}

/// What the proxy knows itself.
pub(super) fn own_docs(session: &Session, args: &Args<'_>, protocol: Protocol, out: &mut Vec<u8>) {
    reply::docs(&session.worker.topology.learned(), args, protocol == Protocol::Resp3, out);
}
