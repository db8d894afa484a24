//! Packages of other languages, installed below the target folder at the first run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The programs of a virtual environment of Python that has these requirements. Two tests must not ask for the same
/// name at a time.
#[track_caller]
pub fn venv(name: &str, requirements: &Path) -> PathBuf {
    let folder = installed(name, &[requirements], |folder| {
        succeed(Command::new("python3").args(["-m", "venv"]).arg(folder.join("venv")));
        let quiet = ["install", "--quiet", "--disable-pip-version-check", "-r"];
        let mut pip = Command::new(folder.join("venv/bin/pip"));
        succeed(pip.args(quiet).arg(folder.join("requirements.txt")));
    });
    folder.join("venv/bin")
}

/// A folder of Node's packages, by the lists in `lists`.
#[track_caller]
pub fn node_modules(name: &str, lists: &Path) -> PathBuf {
    let lists = ["package.json", "package-lock.json"].map(|list| lists.join(list));
    let folder = installed(name, &lists.each_ref().map(PathBuf::as_path), |folder| {
        let quiet = ["ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"];
        succeed(Command::new("npm").args(quiet).current_dir(folder));
    });
    folder.join("node_modules")
}

/// Installs packages into a folder of their own, unless they are there by the same list.
#[track_caller]
fn installed(name: &str, lists: &[&Path], install: fn(&Path)) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let read = |list: &&Path| fs::read_to_string(list).expect("the list is there");
    let wanted: String = lists.iter().map(read).collect();
    let mark = folder.join("installed");
    if fs::read_to_string(&mark).is_ok_and(|found| found == wanted) {
        return folder;
    }
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a folder below target");
    for list in lists {
        fs::copy(list, folder.join(list.file_name().expect("a file"))).expect("a copy");
    }
    install(&folder);
    fs::write(mark, wanted).expect("a mark");
    folder
}

#[track_caller]
pub fn succeed(command: &mut Command) {
    let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}");
}
