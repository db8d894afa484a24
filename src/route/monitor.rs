//! MONITOR: what the primaries show of all commands, on one connection to each that all who watch on this worker share.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Notify;

use super::Routes;
use super::pubsub::{Batch, Messages};
use crate::backend::{Backend, Link, Listener, Loss, Receiver, Reply, Request, Ticket};
use crate::command::{Route, Survey, Transact, find};
use crate::error::ClientError;
use crate::net::NodeAddr;

/// How often the connections are looked at while any is not as it is to be.
const TICK: Duration = Duration::from_millis(20);
/// The connections stay for so long when nobody watches any more: who watches next need not wait for a dial, and who
/// comes and goes all the time costs none.
const KEPT: Duration = Duration::from_secs(3);
/// A node that refuses is asked again after this time.
const REFUSED: Duration = Duration::from_secs(1);
const MONITOR: &[u8] = b"*1\r\n$7\r\nMONITOR\r\n";
/// More is not gathered before it is handed out.
const MOST_GATHERED: usize = 64 * 1024;

/// Who watches. No call may lead back into the monitor.
pub trait Watcher {
    /// What the nodes have shown.
    fn show(&self, lines: &Messages<'_>);

    /// It is shown everything from now on, or gets this error.
    fn begun(&self, error: Option<&[u8]>);
}

/// What the clients of one worker are shown.
pub struct Monitor {
    backend: Rc<Backend>,
    state: RefCell<State>,
    events: RefCell<Vec<Event>>,
    notify: Notify,
}

#[derive(Default)]
struct State {
    watchers: HashMap<u64, Rc<dyn Watcher>>,
    waiting: HashMap<u64, (Rc<dyn Watcher>, Instant)>,
    views: HashMap<NodeAddr, View>,
    /// Nodes that could not be connected to.
    unreachable: HashSet<NodeAddr>,
    /// Since when nobody has watched, while connections are kept.
    unwatched: Option<Instant>,
    /// What a node said against it.
    refusal: Option<Bytes>,
    last: u64,
    batch: Batch,
}

/// A connection to one primary.
struct View {
    id: u64,
    link: Rc<Link>,
    confirmed: bool,
    /// When the node is asked again, which has refused.
    again: Option<Instant>,
}

enum Event {
    Confirmed(NodeAddr, u64),
    Refused(NodeAddr, u64, Bytes),
    Ended(NodeAddr, u64),
}

/// What the link of a view knows of it.
struct Ear {
    monitor: Rc<Monitor>,
    node: NodeAddr,
    id: u64,
}

impl fmt::Debug for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Monitor for {} clients", self.state.borrow().watchers.len())
    }
}

impl Monitor {
    /// Nobody watches yet.
    pub fn new(backend: Rc<Backend>) -> Rc<Self> {
        let (state, events, notify) = (RefCell::default(), RefCell::default(), Notify::new());
        Rc::new(Monitor { backend, state, events, notify })
    }

    /// Begins to watch; [`Watcher::begun`] says when.
    pub fn watch(&self, client: u64, watcher: Rc<dyn Watcher>, patience: Duration) {
        self.state.borrow_mut().waiting.insert(client, (watcher, Instant::now() + patience));
        self.notify.notify_one();
    }

    /// Ends it.
    pub fn leave(&self, client: u64) {
        let mut state = self.state.borrow_mut();
        state.watchers.remove(&client);
        state.waiting.remove(&client);
        self.notify.notify_one();
    }

    /// The routes have changed, or may have.
    pub fn routes_changed(&self) {
        self.notify.notify_one();
    }

    /// Waits until there is something to tend.
    pub async fn wait(&self) {
        self.notify.notified().await;
    }

    /// One turn. Returns when the next one is due, if anything is left to do by then.
    pub fn tend(self: &Rc<Self>, routes: &mut Routes) -> Option<Instant> {
        let now = Instant::now();
        let mut state = self.state.borrow_mut();
        for event in self.events.take() {
            state.happened(event, now);
        }
        let is_watched = !state.watchers.is_empty() || !state.waiting.is_empty();
        let is_kept = !is_watched && !state.views.is_empty();
        state.unwatched = is_kept.then(|| state.unwatched.unwrap_or(now));
        let until = state.unwatched.map(|since| since + KEPT).filter(|until| *until > now);
        let wanted: Vec<NodeAddr> = match is_watched || until.is_some() {
            true => routes.primaries().cloned().collect(),
            false => Vec::new(),
        };
        for node in &wanted {
            if is_watched && !state.views.contains_key(node) {
                self.open(&mut state, node, routes);
            }
        }
        let is_due = |view: &&mut View| is_watched && view.again.is_some_and(|again| again <= now);
        for (node, view) in state.views.iter_mut().filter(|(_, view)| is_due(view)) {
            view.again = None;
            view.link.push(self.ear(node, view.id), Ticket { seq: view.id, part: 0 }, MONITOR);
        }
        if wanted.is_empty() {
            state.refusal = None;
        }
        let left = state.views.extract_if(|node, _| !wanted.contains(node));
        let left: Vec<Rc<Link>> = left.map(|(_, view)| view.link).collect();
        state.unreachable.retain(|node| wanted.contains(node));
        let is_there = |node: &NodeAddr| state.views.get(node).is_some_and(|view| view.confirmed);
        let settled = |node: &NodeAddr| is_there(node) || state.unreachable.contains(node);
        let (any, all) = (wanted.iter().any(is_there), wanted.iter().all(is_there));
        let settled = wanted.iter().all(settled);
        if any && settled {
            for (client, (watcher, _)) in std::mem::take(&mut state.waiting) {
                watcher.begun(None);
                state.watchers.insert(client, watcher);
            }
        }
        let refusal = if settled { state.refusal.clone() } else { None };
        state.waiting.retain(|_, (watcher, until)| {
            let reason = "No primary can be connected to";
            let late = || ClientError::ClusterDown { reason: reason.into() }.reply().into();
            let error = refusal.clone().or_else(|| (now >= *until).then(late));
            error.iter().for_each(|error| watcher.begun(Some(error)));
            error.is_none()
        });
        let tries = is_watched && (!all || !state.waiting.is_empty());
        let next = if tries { Some(now + TICK) } else { until };
        drop(state);
        left.iter().for_each(|link| link.retire());
        next
    }

    fn open(self: &Rc<Self>, state: &mut State, node: &NodeAddr, routes: &mut Routes) {
        state.last += 1;
        let ear = self.ear(node, state.last);
        match routes.node(node).map(|node| node.listen(ear.clone())) {
            Some(Ok(link)) => {
                link.push(ear, Ticket { seq: state.last, part: 0 }, MONITOR);
                state
                    .views
                    .insert(node.clone(), View { id: state.last, link, confirmed: false, again: None });
            }
            Some(Err(down)) if down.since.is_none() => {}
            _ => _ = state.unreachable.insert(node.clone()),
        }
    }

    fn ear(self: &Rc<Self>, node: &NodeAddr, id: u64) -> Rc<Ear> {
        Rc::new(Ear { monitor: self.clone(), node: node.clone(), id })
    }

    fn hand_out(&self, state: &mut State) {
        let State { watchers, batch, .. } = state;
        if batch.len() > 0 {
            batch.hand_out(&self.backend.metrics, watchers.len(), |lines| {
                watchers.values().for_each(|watcher| watcher.show(lines));
            });
        }
    }
}

impl State {
    fn happened(&mut self, event: Event, now: Instant) {
        match event {
            Event::Confirmed(node, id) => {
                self.unreachable.remove(&node);
                self.refusal = None;
                if let Some(view) = self.views.get_mut(&node).filter(|view| view.id == id) {
                    view.confirmed = true;
                }
            }
            Event::Refused(node, id, error) => {
                if let Some(view) = self.views.get_mut(&node).filter(|view| view.id == id) {
                    view.again = Some(now + REFUSED);
                }
                self.unreachable.insert(node);
                self.refusal = Some(error);
            }
            Event::Ended(node, id) => {
                if self.views.get(&node).is_some_and(|view| view.id == id) {
                    self.views.remove(&node);
                    self.unreachable.insert(node);
                }
            }
        }
    }
}

impl Ear {
    fn note(&self, event: Event) {
        self.monitor.events.borrow_mut().push(event);
        self.monitor.notify.notify_one();
    }
}

impl Listener for Ear {
    fn hear(&self, frame: &Reply<'_>, _: Option<Ticket>) -> bool {
        let frame = frame.bytes();
        // A line is a status that begins with the time; `OK`, `PONG` and errors answer something.
        if frame.first() != Some(&b'+') || !frame.get(1).is_some_and(u8::is_ascii_digit) {
            return frame.first() != Some(&b'>');
        }
        let mut state = self.monitor.state.borrow_mut();
        if !is_internal(frame) {
            state.batch.push_line(frame);
        }
        if state.batch.len() >= MOST_GATHERED {
            self.monitor.hand_out(&mut state);
        }
        false
    }

    fn pause(&self) {
        self.monitor.hand_out(&mut self.monitor.state.borrow_mut());
    }

    fn ended(&self) {
        self.note(Event::Ended(self.node.clone(), self.id));
    }
}

impl Receiver for Ear {
    fn reply(&self, _: Ticket, reply: Reply<'_>, _: Request<'_>) {
        if reply.bytes().first() == Some(&b'+') {
            return self.note(Event::Confirmed(self.node.clone(), self.id));
        }
        self.note(Event::Refused(self.node.clone(), self.id, reply.into_bytes()));
    }

    fn lost(&self, _: Ticket, _: &Loss, _: &[u8]) -> bool {
        false
    }
}

/// Whether it shows a command that no client sends to a node through a proxy: the proxy's own. What a client asks a
/// proxy, the proxy answers itself.
fn is_internal(line: &[u8]) -> bool {
    let Some(at) = memchr::memmem::find(line, b"] \"") else { return false };
    let mut words = line[at + 3..].split(|byte| *byte == b'"');
    let (Some(first), second) = (words.next(), words.nth(1)) else { return false };
    let spec = match (find(first), second) {
        (Some(spec), Some(second)) if spec.container => find(&[first, b"|", second].concat()).or(Some(spec)),
        (spec, _) => spec,
    };
    // INFO is what every connection begins with.
    let own = |route| {
        matches!(
            route,
            Route::Local(_)
                | Route::Listen(_)
                | Route::Refused(_)
                | Route::Replicas
                | Route::Transaction(Transact::Unwatch)
                | Route::Survey(Survey::Info)
        )
    };
    spec.is_some_and(|spec| own(spec.route))
}

#[cfg(test)]
mod tests {
    use super::is_internal;

    #[test]
    fn the_proxys_own_commands_are_told_apart() {
        let line = |command: &str| format!("+1795254066.044036 [0 127.0.0.1:51592] {command}\r\n");
        for own in [
            "\"PING\"",
            "\"CLUSTER\" \"NODES\"",
            "\"client\" \"setname\" \"x\"",
            "\"ASKING\"",
            "\"INFO\" \"server\"",
            "\"HELLO\" \"3\"",
            "\"WAIT\" \"1000000\" \"1\"",
            "\"unwatch\"",
        ] {
            assert!(is_internal(line(own).as_bytes()), "{own}");
        }
        for other in [
            "\"SET\" \"a] \\\"PING\\\"\" \"b\"",
            "\"get\" \"a\"",
            "\"MULTI\"",
            "\"json.get\" \"a\"",
            "\"script\" \"load\" \"x\"",
        ] {
            assert!(!is_internal(line(other).as_bytes()), "{other}");
        }
    }
}
