//! What is asked of several nodes at once, and answered as by one server.

use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout_at};

use super::info::{self, Sections};
use super::survey::{Survey, Trouble};
use crate::backend::{Answer, Node};
use crate::protocol::{RequestFramer, RequestLimits, write};
use crate::route::config::without_secrets;
use crate::route::merge::by_weight;

/// DBSIZE and RANDOMKEY, in one piece.
const SIZE_AND_KEY: &[u8] = b"*1\r\n$6\r\nDBSIZE\r\n*1\r\n$9\r\nRANDOMKEY\r\n";
/// INFO waits no longer for a node: clients ask it to find out whether they may begin.
const INFO: Duration = Duration::from_secs(1);
/// As often it is looked whether there is a table.
const NO_TABLE: Duration = Duration::from_millis(5);

impl Survey {
    /// RANDOMKEY: of a shard by chance, in proportion to how many keys it has.
    pub(super) async fn random_key(self: &Rc<Self>) -> Bytes {
        let request = Bytes::from_static(SIZE_AND_KEY);
        loop {
            let mut trouble = Trouble::Uncovered(0);
            let nodes = self.primaries();
            let answers = self.ask_each(&nodes, &request, 1, self.deadline()).await;
            let answers: Result<Vec<Answer>, Trouble> = answers.into_iter().collect();
            match answers {
                Ok(answers) if !answers.is_empty() => {
                    let parts: Vec<(&[u8], &[u8])> =
                        answers.iter().map(|answer| (&answer.earlier[..], &answer.reply[..])).collect();
                    return self.passed_on(Bytes::copy_from_slice(by_weight(&parts, fastrand::f64())));
                }
                Ok(_) => {}
                Err(other) => trouble = other,
            }
            if let Err(reply) = self.bear(trouble).await {
                return reply;
            }
        }
    }

    /// CONFIG GET: of any primary, without secrets.
    pub(super) async fn config(self: &Rc<Self>) -> Bytes {
        match self.ask_any().await {
            Ok(reply) | Err(reply) => without_secrets(&reply, self.protocol).into(),
        }
    }

    /// The reply of any primary.
    pub(super) async fn ask_any(&self) -> Result<Bytes, Bytes> {
        loop {
            let slot = self.worker().routes.borrow().any_slot().unwrap_or(0);
            let node = self.worker().routes.borrow().owner(slot).cloned();
            let asking = async {
                let link = self.link(&node.ok_or(Trouble::Uncovered(slot))?).await?;
                self.ask(&link, self.request.clone()).await
            };
            match asking.await {
                Ok(reply) => return Ok(self.passed_on(reply)),
                Err(trouble) => self.bear(trouble).await?,
            }
        }
    }

    /// INFO: of all primaries that answer soon, as of one server.
    pub(super) async fn info(self: &Rc<Self>) -> Bytes {
        let mut framer = RequestFramer::default();
        let Ok(Some(_)) = framer.next(&self.request, &RequestLimits::NONE) else { return Bytes::new() };
        let sections = Sections::of(&framer.args(&self.request));
        let until = self.deadline().min(Instant::now() + INFO);
        let mut nodes = self.primaries();
        // The proxy may have been started a moment ago.
        while nodes.is_empty() && Instant::now() < until {
            sleep(NO_TABLE).await;
            nodes = self.primaries();
        }
        let answers = self.ask_each(&nodes, &self.request, 0, until).await;
        let mut texts = Vec::new();
        for reply in answers.into_iter().flatten().map(|answer| answer.reply) {
            if reply.first() == Some(&b'-') {
                return self.passed_on(reply);
            }
            texts.extend(text(&reply));
        }
        let mut out = Vec::new();
        write::text(&mut out, &info::text(self.worker(), &sections, &texts, nodes.len()), self.protocol);
        out.into()
    }

    /// The primaries of all shards that own slots.
    fn primaries(&self) -> Vec<Rc<Node>> {
        let routes = self.worker().routes.borrow();
        routes.shard_slots().into_iter().filter_map(|slot| routes.owner(slot).cloned()).collect()
    }

    /// What each of these nodes answers, asked at the same time, but no later than `until`.
    async fn ask_each(
        self: &Rc<Self>,
        nodes: &[Rc<Node>],
        request: &Bytes,
        earlier: u32,
        until: Instant,
    ) -> Vec<Result<Answer, Trouble>> {
        let ask = |node: &Rc<Node>| {
            let (this, node, request) = (self.clone(), node.clone(), request.clone());
            spawn_local(async move {
                let asking = async {
                    let link = this.link(&node).await?;
                    this.call(&link, request, earlier).await
                };
                timeout_at(until.into(), asking).await.unwrap_or(Err(Trouble::Lost))
            })
        };
        let tasks: Vec<_> = nodes.iter().map(ask).collect();
        let mut answers = Vec::new();
        for task in tasks {
            answers.push(task.await.unwrap_or(Err(Trouble::Lost)));
        }
        answers
    }
}

/// What is in a bulk string, or verbatim one.
fn text(reply: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(reply);
    let (_, text) = text.split_once("\r\n")?;
    let text = if reply.first() == Some(&b'=') { text.get(4..)? } else { text };
    Some(text.to_owned())
}
