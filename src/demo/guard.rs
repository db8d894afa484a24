//! Nothing is left behind, even after `kill -9`.
//!
//! The servers run in process groups of their own, so that a terminal's Ctrl-C reaches only slotmux, which then
//! stops them in order. For the case that slotmux has no time for that, a shell waits on a pipe whose other end
//! only slotmux holds: when it breaks, the shell kills the servers and removes the folder.
//!
//! The kernel's own means, `PR_SET_PDEATHSIG`, was not taken: it needs `unsafe`, it fires when the *thread* that
//! started a child ends, and it leaves the folder.

use std::{
    io::Write,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
};

use super::DemoError;

/// Reads one process id per line. At the end of its input it kills those that still run in the folder `$1` (a
/// process id alone could meanwhile be somebody else's), and removes the folder. The line `done` calls it off.
const SCRIPT: &str = r#"
trap '' HUP INT TERM
pids=
while read -r line; do
    [ "$line" = done ] && exit 0
    pids="$pids $line"
done
for pid in $pids; do
    case "$(readlink "/proc/$pid/cwd")" in "$1"/*) kill -KILL "$pid" ;; esac
done
rm -rf -- "$1"
"#;

/// The shell that outlives this process by a moment.
pub(super) struct Guard(Child);

impl Guard {
    /// Starts to watch over `folder`.
    pub(super) fn start(folder: &Path) -> Result<Self, DemoError> {
        Command::new("sh")
            .args(["-c", SCRIPT, "slotmux-demo-guard"])
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map(Self)
            .map_err(DemoError::Guard)
    }

    /// Makes the guard responsible for a server, too.
    pub(super) fn watch(&self, pid: u32) {
        self.tell(&pid.to_string());
    }

    fn tell(&self, line: &str) {
        if let Some(mut pipe) = self.0.stdin.as_ref() {
            // One write, or two threads' lines could mix. A guard that somebody killed cannot be helped.
            let _ = pipe.write_all(format!("{line}\n").as_bytes());
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.tell("done");
        let _ = self.0.wait();
    }
}
