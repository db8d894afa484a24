//! One connection to a scripted node.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use super::{Action, When};

/// A peer that sends nothing for this long has paused: [`Action::CloseAfterReading`].
const PAUSE: Duration = Duration::from_millis(30);

/// What a script may know of the connection that a command came on.
#[derive(Debug)]
pub struct Conn {
    /// The number of the node.
    pub node: usize,
    /// Unique in the cluster; CLIENT ID tells it.
    pub id: u64,
    /// ASKING came right before this command.
    pub asking: bool,
    /// 2 or 3.
    pub resp: u8,
}

/// The connection's socket, also in the hands of those who want to end it.
pub(super) struct Socket {
    stream: TcpStream,
    alive: AtomicBool,
}

impl Socket {
    pub(super) fn new(stream: TcpStream) -> Arc<Self> {
        stream.set_nodelay(true).expect("TCP_NODELAY");
        Arc::new(Self { stream, alive: AtomicBool::new(true) })
    }

    pub(super) fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Acquire)
    }

    /// Ends the connection from outside: nothing that it sent is executed from here on.
    pub(super) fn end(&self) {
        self.alive.store(false, Ordering::Release);
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }

    /// More input; false at the end.
    pub(super) fn fill(&self, input: &mut Vec<u8>) -> bool {
        let mut chunk = [0; 16_384];
        match (&self.stream).read(&mut chunk) {
            Ok(n) if n > 0 => {
                input.extend_from_slice(&chunk[..n]);
                true
            }
            _ => false,
        }
    }

    /// Does it; false if the connection is to be closed.
    pub(super) fn perform(&self, action: Action) -> bool {
        match action {
            Action::Default => unreachable!("the node has replaced it"),
            Action::Reply(bytes) => (&self.stream).write_all(&bytes).is_ok(),
            Action::Silent => true,
            Action::Close => false,
            Action::CloseAfterReading => {
                self.stream.set_read_timeout(Some(PAUSE)).expect("SO_RCVTIMEO");
                while self.fill(&mut Vec::new()) {}
                false
            }
            Action::Reset => {
                socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
                false
            }
            Action::After(when, then) => {
                match when {
                    When::Open(gate) => gate.wait(),
                    When::Later(by) => thread::sleep(by),
                }
                self.is_alive() && self.perform(*then)
            }
            Action::Many(actions) => actions.into_iter().all(|action| self.perform(action)),
        }
    }
}

/// Takes the first whole request off the input: an array of bulk strings, or an inline command.
pub fn take_request(input: &mut Vec<u8>) -> Option<Vec<Vec<u8>>> {
    let (args, length) = match input.first()? {
        b'*' => {
            let (count, mut at) = number(input, 0)?;
            let mut args = Vec::new();
            for _ in 0..count {
                let (length, from) = number(input, at)?;
                args.push(input.get(from..from + length)?.to_vec());
                at = from + length + 2;
            }
            (at <= input.len()).then_some((args, at))?
        }
        _ => {
            let end = input.iter().position(|&b| b == b'\n')?;
            let words = input[..end].split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
            (words.map(<[u8]>::to_vec).collect(), end + 1)
        }
    };
    input.drain(..length);
    Some(args)
}

/// The number behind the type byte at `at`, and where the next line begins.
fn number(input: &[u8], at: usize) -> Option<(usize, usize)> {
    let end = at + input.get(at..)?.iter().position(|&b| b == b'\n')?;
    let text = std::str::from_utf8(&input[at + 1..end - 1]).expect("a header is ASCII");
    Some((text.parse().unwrap_or_else(|_| panic!("no header of a request: {text:?}")), end + 1))
}
