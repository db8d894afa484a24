//! The scripts that clients have shown, so that a node which lacks one can be given it in silence.
//!
//! The process has one cache for each cluster, under a lock that only an unknown EVAL, SCRIPT LOAD and NOSCRIPT
//! touch: each worker remembers what it has noted already.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use sha1::{Digest, Sha1};

/// A script is known by the SHA-1 of its text.
pub(super) type Sha = [u8; 20];

/// As much a script costs besides its text: its places in two maps.
const OVERHEAD: usize = 160;
/// So many scripts a worker remembers to have noted, before it begins anew.
const MOST_NOTED: usize = 4096;

/// The scripts of one cluster, at most so many bytes of them: the one that was noted or asked for longest ago goes first.
#[derive(Debug)]
pub struct Scripts {
    limit: usize,
    kept: Mutex<Kept>,
    /// Goes up when scripts are forgotten.
    generation: AtomicU64,
}

#[derive(Debug, Default)]
struct Kept {
    by_sha: HashMap<Sha, Script>,
    by_use: BTreeMap<u64, Sha>,
    uses: u64,
    bytes: usize,
}

#[derive(Debug)]
struct Script {
    text: Bytes,
    used: u64,
}

impl Scripts {
    /// No scripts yet.
    #[must_use]
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Scripts { limit, kept: Mutex::default(), generation: AtomicU64::new(0) })
    }

    /// Keeps a script; how many others had to go.
    fn note(&self, text: &[u8]) -> usize {
        if text.len() + OVERHEAD > self.limit {
            return 0;
        }
        let sha = Sha1::digest(text).into();
        let mut kept = self.kept();
        if kept.touch(&sha).is_none() {
            kept.add(sha, Bytes::copy_from_slice(text));
        }
        let mut gone = 0;
        while kept.bytes > self.limit && kept.forget_oldest() {
            gone += 1;
        }
        if gone > 0 {
            self.generation.fetch_add(1, Relaxed);
        }
        gone
    }

    fn text(&self, sha: &Sha) -> Option<Bytes> {
        self.kept().touch(sha)
    }

    fn forget_all(&self) {
        *self.kept() = Kept::default();
        self.generation.fetch_add(1, Relaxed);
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// A script's text; it is the one that was used last.
    fn touch(&mut self, sha: &Sha) -> Option<Bytes> {
        let script = self.by_sha.get_mut(sha)?;
        self.by_use.remove(&script.used);
        self.uses += 1;
        script.used = self.uses;
        self.by_use.insert(self.uses, *sha);
        Some(script.text.clone())
    }

    fn add(&mut self, sha: Sha, text: Bytes) {
        self.uses += 1;
        self.bytes += text.len() + OVERHEAD;
        self.by_use.insert(self.uses, sha);
        self.by_sha.insert(sha, Script { text, used: self.uses });
    }

    fn forget_oldest(&mut self) -> bool {
        let Some((_, sha)) = self.by_use.pop_first() else { return false };
        if let Some(script) = self.by_sha.remove(&sha) {
            self.bytes -= script.text.len() + OVERHEAD;
        }
        true
    }
}

/// One worker's view of the cache.
#[derive(Debug)]
pub(super) struct ScriptCache {
    shared: Arc<Scripts>,
    /// Hashes of the texts that this worker has noted since the cache last forgot any.
    noted: RefCell<HashSet<u64>>,
    generation: Cell<u64>,
    hasher: RandomState,
    nodes: RefCell<Nodes>,
}

/// What is known of scripts on nodes, by the link that told.
#[derive(Debug, Default)]
struct Nodes {
    /// Counts what links have told.
    told: u64,
    /// When a script was last known to have been absent just before.
    absent: HashMap<(u32, Sha), u64>,
    /// Scripts that are being loaded.
    loading: HashSet<(u32, Sha)>,
}

impl ScriptCache {
    pub(super) fn new(shared: Arc<Scripts>) -> Self {
        let (noted, generation, nodes) = (RefCell::default(), Cell::new(0), RefCell::default());
        ScriptCache { shared, noted, generation, hasher: RandomState::new(), nodes }
    }

    /// Keeps a script; how many others had to go.
    pub(super) fn note(&self, text: &[u8]) -> usize {
        let (mut noted, generation) = (self.noted.borrow_mut(), self.shared.generation.load(Relaxed));
        if self.generation.replace(generation) != generation || noted.len() >= MOST_NOTED {
            noted.clear();
        }
        if noted.insert(self.hasher.hash_one(text)) { self.shared.note(text) } else { 0 }
    }

    /// The text of the script with this hash, as a client writes it: 40 hexadecimal digits.
    pub(super) fn text(&self, digits: &[u8]) -> Option<Bytes> {
        self.shared.text(&sha(digits)?)
    }

    /// The time, counted in what links have told.
    pub(super) fn told(&self) -> u64 {
        let mut nodes = self.nodes.borrow_mut();
        nodes.told += 1;
        nodes.told
    }

    /// Notes that a link told just now that this script was absent.
    pub(super) fn absent(&self, link: u32, sha: Sha) {
        let now = self.told();
        let absent = &mut self.nodes.borrow_mut().absent;
        if absent.len() >= MOST_NOTED {
            absent.clear();
        }
        absent.insert((link, sha), now);
    }

    /// Whether the script was absent when the link told something at that time.
    pub(super) fn was_absent(&self, link: u32, sha: Sha, told: u64) -> bool {
        self.nodes.borrow().absent.get(&(link, sha)).is_some_and(|absent| *absent > told)
    }

    /// Whether the script has to be loaded: it is not being loaded on this link. To be told when it is.
    pub(super) fn load(&self, link: u32, sha: Sha) -> bool {
        self.nodes.borrow_mut().loading.insert((link, sha))
    }

    /// Notes that loading a script has ended.
    pub(super) fn loaded(&self, link: u32, sha: Sha) {
        self.nodes.borrow_mut().loading.remove(&(link, sha));
    }

    /// Forgets all scripts.
    pub(super) fn forget_all(&self) {
        self.shared.forget_all();
    }
}

/// Reads 40 hexadecimal digits.
pub(super) fn sha(digits: &[u8]) -> Option<Sha> {
    let digit = |digit: u8| char::from(digit).to_digit(16).map(|digit| digit as u8);
    let (pairs, rest) = digits.as_chunks::<2>();
    let mut sha = Sha::default();
    if pairs.len() != sha.len() || !rest.is_empty() {
        return None;
    }
    for (byte, [high, low]) in sha.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(sha)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHA_OF_RETURN_1: &[u8] = b"e0e1f9fabfc9d4800c877a703b823ac0578ff8db";

    #[test]
    fn a_script_is_found_by_the_hash_that_a_server_gives_it() {
        let cache = ScriptCache::new(Scripts::new(10_000));
        assert_eq!(cache.note(b"return 1"), 0);
        assert_eq!(cache.text(SHA_OF_RETURN_1).unwrap(), "return 1");
        assert_eq!(cache.text(&SHA_OF_RETURN_1.to_ascii_uppercase()).unwrap(), "return 1");
        for other in [&SHA_OF_RETURN_1[1..], b"", &[b'x'; 40], &[b'0'; 40], &[b'0'; 42]] {
            assert_eq!(cache.text(other), None);
        }
        cache.forget_all();
        assert_eq!(cache.text(SHA_OF_RETURN_1), None);
        // A worker does not believe to have noted what was forgotten.
        cache.note(b"return 1");
        assert!(cache.text(SHA_OF_RETURN_1).is_some());
    }

    #[test]
    fn the_script_that_was_used_longest_ago_goes_first() {
        let shared = Scripts::new(10 * (OVERHEAD + 100));
        let cache = ScriptCache::new(shared.clone());
        let script = |i: usize| format!("return '{i}'{}", " ".repeat(100 - 10 - i.to_string().len()));
        let sha = |i: usize| -> Sha { Sha1::digest(script(i)).into() };
        for i in 0..10 {
            assert_eq!(cache.note(script(i).as_bytes()), 0, "{i}");
        }
        assert!(shared.text(&sha(0)).is_some());
        assert_eq!(cache.note(script(10).as_bytes()), 1);
        assert!(shared.text(&sha(1)).is_none() && shared.text(&sha(0)).is_some());
        // What does not fit at all displaces nothing.
        assert_eq!(cache.note(&vec![b' '; 100_000]), 0);
        assert!(shared.text(&sha(10)).is_some());
        // And what has gone is noted again when it comes again.
        assert_eq!(cache.note(script(1).as_bytes()), 1);
        assert!(shared.text(&sha(1)).is_some());
    }
}
