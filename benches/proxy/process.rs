//! A program that is measured, and what the kernel counts for it.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::Result;

/// How long a program may take to serve its first request.
const PATIENCE: Duration = Duration::from_secs(20);

/// A child on a CPU of its choice; killed when dropped.
pub(crate) struct Program {
    child: Child,
    port: u16,
    /// Resident memory when it served its first request, in KiB.
    start_kib: u64,
}

/// What the kernel counted so far, over all threads.
#[derive(Clone, Copy)]
pub(crate) struct Counted {
    cpu_ns: u64,
    switches: u64,
}

impl Program {
    /// Starts a command, in which `{port}` stands for the port to listen on, and waits until it serves.
    pub(crate) fn start(command: &[String], cpu: usize) -> Result<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let words = command.iter().map(|word| word.replace("{port}", &port.to_string()));
        let child = Command::new("taskset")
            .args(["-c", &cpu.to_string()])
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        let mut program = Self { child, port, start_kib: 0 };
        let until = Instant::now() + PATIENCE;
        while let Err(error) = program.get() {
            if let Some(status) = program.child.try_wait()? {
                return Err(format!("{} ended: {status}", command[0]).into());
            }
            if Instant::now() > until {
                return Err(format!("{} does not serve: {error}", command[0]).into());
            }
            thread::sleep(Duration::from_millis(20));
        }
        program.start_kib = program.status("VmRSS:")?;
        Ok(program)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Resident memory in KiB: at the start, and the peak so far.
    pub(crate) fn memory(&self) -> Result<(u64, u64)> {
        Ok((self.start_kib, self.status("VmHWM:")?))
    }

    /// The counters as they stand now.
    pub(crate) fn counted(&self) -> Result<Counted> {
        let mut counted = Counted { cpu_ns: 0, switches: 0 };
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let task = task?.path();
            // "run time, time spent waiting, timeslices"
            let times = fs::read_to_string(task.join("schedstat"))?;
            counted.cpu_ns += times.split(' ').next().unwrap_or_default().parse::<u64>()?;
            let status = fs::read_to_string(task.join("status"))?;
            for line in status.lines().filter(|line| line.contains("ctxt_switches:")) {
                counted.switches += line.split_whitespace().last().unwrap_or_default().parse::<u64>()?;
            }
        }
        Ok(counted)
    }

    /// The system calls during `work`, if `perf` is there and may count them.
    pub(crate) fn system_calls(&self, work: impl FnOnce() -> Result<()>) -> Result<Option<u64>> {
        let started = Command::new("perf")
            .args(["stat", "-x", ",", "-e", "raw_syscalls:sys_enter", "-p", &self.child.id().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut perf) = started else { return Ok(None) };
        // It says nothing when it begins to count; what it needs for that is far below this.
        thread::sleep(Duration::from_millis(300));
        let worked = work();
        // It prints its figures at SIGINT, and the shell has a `kill` on every machine.
        Command::new("sh").args(["-c", &format!("kill -INT {}", perf.id())]).status()?;
        let mut text = String::new();
        if let Some(mut stderr) = perf.stderr.take() {
            stderr.read_to_string(&mut text)?;
        }
        perf.wait()?;
        worked?;
        let count =
            text.lines().find(|line| line.contains("raw_syscalls")).and_then(|line| line.split(',').next());
        Ok(count.and_then(|count| count.parse().ok()))
    }

    fn get(&self) -> std::io::Result<()> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"*2\r\n$3\r\nGET\r\n$1\r\nx\r\n")?;
        let mut reply = [0; 64];
        match stream.read(&mut reply)? {
            n if n > 0 && reply[0] == b'$' => Ok(()),
            n => Err(std::io::Error::other(reply[..n].escape_ascii().to_string())),
        }
    }

    /// A line of /proc/PID/status, in KiB.
    fn status(&self, name: &str) -> Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)).ok_or("the program has ended")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Counted {
    /// CPU microseconds and context switches per request since `before`.
    pub(crate) fn per_request(self, before: Self, requests: usize) -> (f64, f64) {
        let per_request = |n: u64| n as f64 / requests as f64;
        (per_request(self.cpu_ns - before.cpu_ns) / 1000.0, per_request(self.switches - before.switches))
    }
}
