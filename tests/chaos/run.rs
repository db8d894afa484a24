//! What all threads of a run share.

use std::{
    io::{self, ErrorKind},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use crate::{
    conn::{Conn, PATIENCE},
    journal::{Asked, Journal, Outcome},
    judge::Judge,
    keys::TAGS,
    settings::Settings,
};

/// The listener with `on_indoubt: disconnect`.
const IN_DOUBT: usize = 2;
/// Longer than a node pauses that nobody takes for dead.
const SETTLED: Duration = Duration::from_secs(3);

pub struct Run {
    pub settings: Settings,
    pub journal: Journal,
    pub judge: Judge,
    /// The proxy's listeners; the second one keeps the order of whole pipelines, the third one disconnects in doubt.
    pub listeners: Vec<String>,
    /// The tag whose slot is half moved, if there is one: those who use several of its keys prefer it.
    half: AtomicUsize,
    stop: AtomicBool,
}

impl Run {
    pub fn new(settings: Settings, journal: Journal, listeners: Vec<String>) -> Self {
        Self {
            settings,
            journal,
            judge: Judge::default(),
            listeners,
            half: AtomicUsize::new(usize::MAX),
            stop: AtomicBool::new(false),
        }
    }

    /// Connects a client; it is always taken.
    pub fn connect(&self, client: usize) -> Option<Conn> {
        let conn = Conn::connect(&self.listener(client), PATIENCE);
        if let Err(error) = &conn {
            self.journal.fault("connection refused", error.to_string(), String::new());
            thread::sleep(SETTLED);
        }
        conn.ok()
    }

    /// The listener that a client connects to.
    pub fn listener(&self, client: usize) -> String {
        self.listeners[client % self.listeners.len()].clone()
    }

    pub fn half_moved(&self) -> Option<usize> {
        Some(self.half.load(Ordering::Acquire)).filter(|&tag| tag < TAGS)
    }

    pub fn set_half_moved(&self, tag: Option<usize>) {
        self.half.store(tag.unwrap_or(usize::MAX), Ordering::Release);
    }

    /// A client got an error: on the third listener never for a write in doubt.
    pub fn error(&self, client: usize, asked: &Asked, text: &str) -> Outcome {
        if text.starts_with("INDOUBT ") && client % self.listeners.len() == IN_DOUBT {
            self.journal.fault("unexpected error", format!("client {client}: {text}"), String::new());
        }
        self.journal.error(asked, text)
    }

    /// A client's connection ended; `later` are the tags of what was asked behind the first command without a reply. On
    /// the third listener that means a write in doubt, as when a server crashes: a node that it is about has to be
    /// broken, and it is the first command without a reply. What was read of a connection that was reset says nothing:
    /// replies may have gone with it.
    pub fn cut_off(
        &self,
        client: usize,
        error: &io::Error,
        asked: &Asked,
        later: &[usize],
        pipeline: String,
    ) {
        let Asked { name, reads, tags, sent, got } = asked;
        let in_doubt = |tags: &[usize]| self.journal.is_in_doubt(tags, *sent, *got);
        let fits = match error.kind() {
            ErrorKind::UnexpectedEof => !reads && in_doubt(tags),
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => in_doubt(tags) || in_doubt(later),
            _ => false,
        };
        if fits && client % self.listeners.len() == IN_DOUBT {
            self.journal.count("connections closed for a write in doubt", 1);
            // What was on its way may yet be carried out by a node that pauses, beside what comes from a new connection.
            return thread::sleep(SETTLED);
        }
        let what = format!(
            "client {client} at {got}: {error}; first without a reply: {name} of tags {tags:?} sent at {sent}"
        );
        self.journal.fault("connection lost", what, pipeline);
    }

    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    pub fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}
