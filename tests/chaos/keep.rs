//! What the nodes have written into their files: evidence of what they executed, also if they forgot it since.
//!
//! Every append-only file is hard-linked as soon as it is seen, since a resync deletes it. What the servers have
//! deleted is read and then removed here too, so that the disk does not fill.

use std::{
    collections::HashMap,
    fs::{self, File},
    hash::{DefaultHasher, Hash, Hasher},
    io::{BufRead, BufReader},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Mutex,
};

use crate::{journal::lock, keys::Evidence};

/// The kept files of all nodes, and what was read of those that are gone.
pub struct Keep {
    /// The nodes' folders, and where links to their files are kept.
    nodes: Vec<(PathBuf, PathBuf)>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By node and inode.
    files: HashMap<(usize, u64), Kept>,
    /// A bit for each node in whose file the write of this value to this key stands.
    written: HashMap<u64, u16>,
    /// The same for those in whose files it was pushed twice.
    pushed_twice: HashMap<u64, u16>,
    /// How high a counter stood on each node,
    reached: Vec<HashMap<u64, u64>>,
    /// and how high it stands as far as the node's files were read.
    counters: Vec<HashMap<u64, i64>>,
}

struct Kept {
    path: PathBuf,
    /// Its name at the node, as far as it is known: `appendonly.aof.3.incr.aof`.
    name: String,
    read: bool,
}

impl Keep {
    pub fn new(folders: Vec<PathBuf>, keep: &Path) -> Self {
        let node = |(i, folder): (usize, PathBuf)| {
            let kept = keep.join(i.to_string());
            fs::create_dir_all(&kept).expect("a folder for kept files");
            (folder.join("appendonlydir"), kept)
        };
        let nodes: Vec<_> = folders.into_iter().enumerate().map(node).collect();
        let counters = nodes.iter().map(|_| HashMap::new()).collect();
        let reached = nodes.iter().map(|_| HashMap::new()).collect();
        Self { nodes, state: Mutex::new(State { counters, reached, ..State::default() }) }
    }

    /// Links what is new. To be called often, and before anything happens to a node.
    pub fn link(&self) {
        let state = &mut *lock(&self.state);
        for (i, (folder, kept)) in self.nodes.iter().enumerate() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                let Ok(meta) = entry.metadata() else { continue };
                if name.ends_with("manifest") {
                    continue;
                }
                let path = kept.join(meta.ino().to_string());
                match state.files.get_mut(&(i, meta.ino())) {
                    Some(file) => file.name = name,
                    // It may have gone this very moment.
                    None if fs::hard_link(entry.path(), &path).is_ok() => {
                        state.files.insert((i, meta.ino()), Kept { path, name, read: false });
                    }
                    None => {}
                }
            }
        }
    }

    /// Reads what the nodes have deleted; in the end, all.
    pub fn read(&self, all: bool) {
        let state = &mut *lock(&self.state);
        let done = |file: &Kept| all || fs::metadata(&file.path).is_ok_and(|meta| meta.nlink() == 1);
        let mut ready: Vec<_> =
            state.files.iter().filter(|(_, file)| !file.read && done(file)).map(|(&at, _)| at).collect();
        ready.sort_by_key(|at| (at.0, order(&state.files[at].name)));
        for at in ready {
            let Some(file) = state.files.get_mut(&at) else { continue };
            file.read = true;
            let (path, is_base) = (file.path.clone(), file.name.contains(".base."));
            if let Ok(open) = File::open(&path) {
                state.digest(at.0, is_base, open);
            }
            let _ = fs::remove_file(path);
            // Its inode may be another file's from now on.
            state.files.remove(&at);
        }
    }

    /// The nodes whose files bear it out.
    pub fn nodes(&self, evidence: &Evidence) -> Vec<usize> {
        let state = lock(&self.state);
        match evidence {
            Evidence::Written(key, value) => state.these(&state.written, key, value),
            Evidence::Reached(key, n) => {
                let has = |node: &usize| {
                    state.reached[*node].get(&hash(key.as_bytes())).is_some_and(|most| most >= n)
                };
                (0..state.reached.len()).filter(has).collect()
            }
        }
    }

    /// The nodes that pushed the value to the list more than once.
    pub fn pushed_twice(&self, key: &str, value: &str) -> Vec<usize> {
        let state = lock(&self.state);
        state.these(&state.pushed_twice, key, value)
    }
}

impl State {
    fn these(&self, writes: &HashMap<u64, u16>, key: &str, value: &str) -> Vec<usize> {
        let nodes = writes.get(&hash(&(key.as_bytes(), value.as_bytes()))).copied().unwrap_or(0);
        (0..self.counters.len()).filter(|node| nodes & 1 << node != 0).collect()
    }

    fn digest(&mut self, node: usize, is_base: bool, file: File) {
        if is_base {
            self.counters[node].clear();
        }
        let mut file = BufReader::with_capacity(1 << 18, file);
        let mut args = Vec::new();
        while command(&mut file, &mut args).is_some() {
            let text = |i: usize| String::from_utf8_lossy(&args[i]);
            match text(0).to_ascii_uppercase().as_str() {
                // What is rewritten was written before, and stands in an earlier file.
                "RPUSH" if !is_base => {
                    for value in &args[2..] {
                        if self.write(node, &args[1], value) {
                            *self.pushed_twice.entry(hash(&(&args[1], value))).or_default() |= 1 << node;
                        }
                    }
                }
                "SET" if args.len() > 2 => {
                    _ = self.write(node, &args[1], &args[2]);
                    if let Ok(n) = text(2).parse() {
                        self.count(node, &args[1], |_| n);
                    }
                }
                "MSET" => args[1..].chunks_exact(2).for_each(|pair| _ = self.write(node, &pair[0], &pair[1])),
                "INCR" => self.count(node, &args[1], |n| n + 1),
                "RESTORE" | "RESTORE-ASKING" if args.len() > 3 => {
                    if let Some(n) = dumped(&args[3]) {
                        self.count(node, &args[1], |_| n);
                    }
                }
                _ => {}
            }
        }
    }

    /// Notes a write; true if the node had made it before.
    fn write(&mut self, node: usize, key: &[u8], value: &[u8]) -> bool {
        let nodes = self.written.entry(hash(&(key, value))).or_default();
        let before = *nodes;
        *nodes |= 1 << node;
        *nodes == before
    }

    fn count(&mut self, node: usize, key: &[u8], to: impl FnOnce(i64) -> i64) {
        let key = hash(key);
        let n = self.counters[node].entry(key).or_default();
        *n = to(*n);
        let most = self.reached[node].entry(key).or_default();
        *most = (*most).max(u64::try_from(*n).unwrap_or(0));
    }
}

fn hash<T: Hash + ?Sized>(value: &T) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Base 3 comes before what was written after it; a file without a number is the newest.
fn order(name: &str) -> (u64, bool) {
    let number = name.split('.').find_map(|part| part.parse().ok()).unwrap_or(u64::MAX);
    (number, !name.contains(".base."))
}

/// The next command; `None` at the end, also if that is in the middle of a command.
fn command(file: &mut impl BufRead, args: &mut Vec<Vec<u8>>) -> Option<()> {
    args.clear();
    let mut line = Vec::new();
    let mut number = |file: &mut dyn BufRead, kind: u8| -> Option<usize> {
        line.clear();
        file.read_until(b'\n', &mut line).ok()?;
        let digits = line.strip_prefix(&[kind])?.strip_suffix(b"\r\n")?;
        std::str::from_utf8(digits).ok()?.parse().ok()
    };
    for _ in 0..number(file, b'*')? {
        let length = number(file, b'$')?;
        let mut arg = vec![0; length + 2];
        file.read_exact(&mut arg).ok()?;
        arg.truncate(length);
        args.push(arg);
    }
    (!args.is_empty()).then_some(())
}

/// A counter's value in the form of DUMP: type 0, and an integer of 1, 2 or 4 bytes.
fn dumped(bytes: &[u8]) -> Option<i64> {
    match bytes {
        [0, 0xC0, a, ..] => Some(i64::from(*a as i8)),
        [0, 0xC1, a, b, ..] => Some(i64::from(i16::from_le_bytes([*a, *b]))),
        [0, 0xC2, a, b, c, d, ..] => Some(i64::from(i32::from_le_bytes([*a, *b, *c, *d]))),
        _ => None,
    }
}

#[test]
fn files_show_who_wrote_and_who_pushed_twice() {
    let folder = tempfile::tempdir().unwrap();
    let nodes: Vec<PathBuf> = ["a", "b"].iter().map(|name| folder.path().join(name)).collect();
    let push = "*3\r\n$5\r\nRPUSH\r\n$1\r\nk\r\n$1\r\nv\r\n";
    let incr = "*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n";
    for (node, text) in nodes.iter().zip([push.repeat(2), format!("{push}{incr}{incr}")]) {
        let files = node.join("appendonlydir");
        fs::create_dir_all(&files).unwrap();
        // What is rewritten is not pushed once more.
        fs::write(files.join("appendonly.aof.1.base.aof"), push).unwrap();
        fs::write(files.join("appendonly.aof.1.incr.aof"), text).unwrap();
    }
    let keep = Keep::new(nodes, &folder.path().join("kept"));
    keep.link();
    keep.read(true);
    assert_eq!(keep.nodes(&Evidence::Written("k".into(), "v".into())), [0, 1]);
    assert_eq!(keep.nodes(&Evidence::Reached("n".into(), 2)), [1]);
    assert_eq!((keep.pushed_twice("k", "v"), keep.pushed_twice("k", "w")), (vec![0], vec![]));
}
