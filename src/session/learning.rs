//! Requests for commands that the table lacks. Nothing about them costs those that it has.

use std::rc::Rc;
use std::time::Instant;

use tokio::task::spawn_local;
use tokio::time::timeout_at;
use tokio_util::task::AbortOnDropHandle;

use super::Session;
use super::local::Client;
use super::planner::Planner;
use super::pump::NO_TABLE;
use super::turn::Turn;
use crate::command::{CommandError, Spec};
use crate::error::ClientError;
use crate::protocol::Args;

/// A client's wait for the cluster to tell its commands.
#[derive(Debug)]
pub(super) struct Wait {
    until: Instant,
    /// Wakes the session's task.
    _task: AbortOnDropHandle<()>,
}

impl Turn {
    /// The command of a request that names none of the table.
    #[cold]
    pub(super) fn learned<'a>(
        &self,
        error: CommandError<'a>,
        args: &Args<'a>,
    ) -> Result<&'static Spec, CommandError<'a>> {
        self.worker.topology.learned().resolve_after(error, args)
    }
}

impl Planner<'_> {
    /// Answers a request that names no command, or names one wrongly. True if it waits instead: as those with keys
    /// wait for the table of slots, until it is known what commands the cluster has.
    #[cold]
    pub(super) fn unknown(
        &mut self,
        error: &CommandError<'_>,
        client: &mut Client,
        wait: &mut Option<Wait>,
    ) -> bool {
        let session = self.session;
        let is_wrong = matches!(error, CommandError::WrongArity(_)) || !client.authenticated;
        if is_wrong || session.worker.topology.snapshot().is_some() {
            *wait = None;
            client.unqueueable(error.spec(), self);
            self.unresolved(error);
            return false;
        }
        let wait = wait.get_or_insert_with(|| Wait::begin(session.clone()));
        let waits = Instant::now() < wait.until;
        if !waits {
            client.unqueueable(None, self);
            let error = ClientError::ClusterDown { reason: NO_TABLE.into() };
            self.refuse(None, error.kind(), error.reply());
        }
        waits
    }
}

impl Wait {
    fn begin(session: Rc<Session>) -> Self {
        let until = Instant::now() + session.settings.limits.command_deadline;
        let mut published = session.worker.topology.published();
        let work = async move {
            drop(timeout_at(until.into(), published.changed()).await);
            session.wakeup.wake();
        };
        Wait { until, _task: AbortOnDropHandle::new(spawn_local(work)) }
    }
}
