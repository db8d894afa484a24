//! SELECT: which of the cluster's databases a client's commands are about. Most clusters have one.

use bytes::Bytes;

use super::errand::{Errand, within};
use super::planner::Planner;
use crate::backend::{Affinity, Apart, Use};
use crate::command::Spec;
use crate::error::ClientError;
use crate::protocol::{Args, integer, write};

/// Reads the number of a database.
///
/// # Errors
/// A server's own words.
pub(super) fn number(args: &Args<'_>) -> Result<i32, String> {
    let number = integer(args.get(1)).ok_or("ERR value is not an integer or out of range")?;
    let (least, most) = (i32::MIN, i32::MAX);
    number.try_into().map_err(|_| format!("ERR value is out of range, value must between {least} and {most}"))
}

impl Planner<'_> {
    /// SELECT outside MULTI. The cluster says whether it has the database, if it is another one than 0.
    pub(super) fn select(&mut self, spec: &'static Spec, args: &Args<'_>) {
        let number = match number(args) {
            Ok(number) => number,
            Err(text) => return self.refuse_as(spec, text),
        };
        let selected = self.session.affinity.get().apart.database;
        if number == 0 || i64::from(number) == i64::from(selected) {
            self.session.select(number.unsigned_abs());
            return self.answer(Some(spec), Bytes::from_static(b"+OK\r\n"));
        }
        let slot = self.routes.any_slot().unwrap_or(0);
        let errand = self.errand(spec, slot, 0);
        self.session.send_out(false, errand.select(number));
    }
}

impl super::Session {
    /// The commands from now on are about this database.
    pub(super) fn select(&self, database: u32) {
        let apart = Apart { database, ..self.affinity.get().apart };
        self.affinity.set(Affinity { apart, ..self.affinity.get() });
    }
}

impl Errand {
    /// Asks on a connection of the session's own, and leaves that as it was.
    async fn select(self, number: i32) {
        let mut hold = self.hold();
        let before = self.session.affinity.get().apart.database.to_string();
        let mut requests = Vec::new();
        for database in [number.to_string(), before] {
            write::request(&mut requests, [&b"SELECT"[..], database.as_bytes()].into_iter());
        }
        let requests = Bytes::from(requests);
        let reply = loop {
            let reached = within(Some(hold.deadline()), self.reach(&mut hold, Use::Watching)).await;
            let own = match reached {
                Some(Ok((own, _))) => own,
                Some(Err(reply)) => break reply,
                None => break self.refusal(&ClientError::NoConnection),
            };
            match own.link().call(requests.clone(), 1, false).await {
                Ok(answer) => break self.passed_on(answer.earlier),
                Err(_) => {
                    if let Err(reply) = self.lost(&mut hold).await {
                        break reply;
                    }
                }
            }
        };
        if reply.first() == Some(&b'+') {
            self.session.select(number.unsigned_abs());
        }
        self.finish(Some(reply));
    }
}
