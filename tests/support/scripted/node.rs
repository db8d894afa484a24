//! One scripted node: a listener, a thread per connection, a script.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Instant,
};

use super::{Action, Conn, Recorded, Shared, builtin, conn, conn::Socket, lock};
use crate::support::{SOON, eventually_some};

type Script = Box<dyn FnMut(&Conn, &[Vec<u8>]) -> Action + Send>;

/// One node of a [`ScriptedCluster`](super::ScriptedCluster).
pub struct ScriptedNode {
    port: u16,
    state: Arc<State>,
    listener: Mutex<Option<JoinHandle<()>>>,
}

struct State {
    index: usize,
    shared: Arc<Shared>,
    script: Mutex<Option<Script>>,
    control: Mutex<Option<Script>>,
    sockets: Mutex<HashMap<u64, Arc<Socket>>>,
    accepted: AtomicU64,
    down: AtomicBool,
}

impl ScriptedNode {
    pub(super) fn start(index: usize, shared: Arc<Shared>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let state = Arc::new(State {
            index,
            shared,
            script: Mutex::default(),
            control: Mutex::default(),
            sockets: Mutex::default(),
            accepted: AtomicU64::new(0),
            down: AtomicBool::new(false),
        });
        let thread = state.clone().listen(listener);
        Self { port, state, listener: Mutex::new(Some(thread)) }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// `127.0.0.1:port`
    pub fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Lets a closure answer every command that is not control: not the handshake, not CLUSTER.
    pub fn script(&self, script: impl FnMut(&Conn, &[Vec<u8>]) -> Action + Send + 'static) {
        *lock(&self.state.script) = Some(Box::new(script));
    }

    /// Lets a closure answer the control commands: for refused handshakes and hung refreshes.
    pub fn control(&self, script: impl FnMut(&Conn, &[Vec<u8>]) -> Action + Send + 'static) {
        *lock(&self.state.control) = Some(Box::new(script));
    }

    /// How many connections were accepted since the start.
    pub fn accepted(&self) -> u64 {
        self.state.accepted.load(Ordering::Acquire)
    }

    /// How many connections are open.
    pub fn open(&self) -> usize {
        lock(&self.state.sockets).len()
    }

    /// Ends all connections, cleanly.
    pub fn drop_connections(&self) {
        lock(&self.state.sockets).values().for_each(|socket| socket.end());
    }

    /// Like a process that died: connections end, and new ones are refused.
    pub fn down(&self) {
        self.state.down.store(true, Ordering::Release);
        if let Some(thread) = lock(&self.listener).take() {
            // Wakes the listener's thread, which then drops the listener.
            drop(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)));
            thread.join().expect("the listener's thread does not panic");
        }
        self.drop_connections();
    }

    /// Listens again, on the same port.
    pub fn up(&self) {
        let mut thread = lock(&self.listener);
        if thread.is_none() {
            // Somebody's connection may have its local port there for a moment.
            let listener = eventually_some(SOON, || TcpListener::bind((Ipv4Addr::LOCALHOST, self.port)).ok());
            self.state.down.store(false, Ordering::Release);
            *thread = Some(self.state.clone().listen(listener));
        }
    }
}

impl Drop for ScriptedNode {
    fn drop(&mut self) {
        self.down();
    }
}

impl State {
    fn listen(self: Arc<Self>, listener: TcpListener) -> JoinHandle<()> {
        thread::spawn(move || {
            for stream in listener.incoming() {
                if self.down.load(Ordering::Acquire) {
                    return;
                }
                let socket = Socket::new(stream.expect("accept works"));
                let id = self.next_connection();
                self.accepted.fetch_add(1, Ordering::AcqRel);
                lock(&self.sockets).insert(id, socket.clone());
                let node = self.clone();
                thread::spawn(move || node.serve(id, socket));
            }
        })
    }

    fn next_connection(&self) -> u64 {
        let mut last = lock(&self.shared.connections);
        *last += 1;
        *last
    }

    fn serve(&self, id: u64, socket: Arc<Socket>) {
        let mut conn = Conn { node: self.index, id, asking: false, resp: 2 };
        let mut input = Vec::new();
        'open: while socket.fill(&mut input) {
            while let Some(args) = conn::take_request(&mut input) {
                if args.is_empty() {
                    continue;
                }
                if !socket.is_alive() {
                    break 'open;
                }
                let action = self.decide(&mut conn, &args);
                if !socket.perform(action) {
                    break 'open;
                }
            }
        }
        // The socket closes with its last owner, which is this thread.
        lock(&self.sockets).remove(&id);
    }

    fn decide(&self, conn: &mut Conn, args: &[Vec<u8>]) -> Action {
        let control = builtin::is_control(args);
        let (node, asking) = (self.index, conn.asking);
        let command =
            Recorded { node, conn: conn.id, args: args.to_vec(), asking, control, at: Instant::now() };
        lock(&self.shared.log).push(command);
        let script = if control { &self.control } else { &self.script };
        let action = match lock(script).as_mut() {
            Some(script) => script(conn, args),
            None => Action::Default,
        };
        let action = self.resolve(action, conn, args);
        let is_asking = args[0].eq_ignore_ascii_case(b"ASKING");
        conn.asking = is_asking;
        action
    }

    /// Replaces [`Action::Default`] by what it means.
    fn resolve(&self, action: Action, conn: &mut Conn, args: &[Vec<u8>]) -> Action {
        match action {
            Action::Default => self.kill(args).unwrap_or_else(|| builtin::answer(&self.shared, conn, args)),
            Action::After(when, then) => Action::After(when, Box::new(self.resolve(*then, conn, args))),
            Action::Many(actions) => {
                Action::Many(actions.into_iter().map(|action| self.resolve(action, conn, args)).collect())
            }
            other => other,
        }
    }

    /// CLIENT KILL ID: ends the connection, together with what it sent and was not executed yet.
    fn kill(&self, args: &[Vec<u8>]) -> Option<Action> {
        let words = ["CLIENT", "KILL", "ID"];
        let matches =
            args.len() == 4 && words.iter().zip(args).all(|(w, arg)| arg.eq_ignore_ascii_case(w.as_bytes()));
        if !matches {
            return None;
        }
        let id: u64 = String::from_utf8_lossy(&args[3]).parse().ok()?;
        let socket = lock(&self.sockets).get(&id).cloned();
        if let Some(socket) = &socket {
            socket.end();
        }
        Some(Action::int(i64::from(socket.is_some())))
    }
}
