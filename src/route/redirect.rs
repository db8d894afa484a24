//! Errors by which a cluster says "not executed, not here, or not now".

use crate::net::NodeAddr;

const NO_REPLICAS: &[u8] = b"NOREPLICAS Not enough good replicas to write.";

/// What such an error asks for. The command was not executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signal {
    /// The slot has another owner.
    Moved {
        /// Which slot.
        slot: u16,
        /// Its owner.
        to: NodeAddr,
    },
    /// The slot is being moved and the key is not at its owner any more.
    Ask {
        /// Which slot.
        slot: u16,
        /// Where to ask, for this command only.
        to: NodeAddr,
    },
    /// Some of the keys are here and some are not, while the slot is being moved.
    TryAgain,
    /// The cluster, or the slot, is not served now.
    ClusterDown,
    /// The node is reading its data.
    Loading,
    /// The replica has lost its primary.
    MasterDown,
    /// The node is a replica now.
    ReadOnly,
    /// The primary has fewer replicas than its `min-replicas-to-write` asks for: in a failover the old one has lost
    /// them, and the new one's have not found it yet.
    NoReplicas,
}

impl Signal {
    /// Reads an error reply as `asked` sent it; `None` if it is the command's own result.
    pub fn parse(reply: &[u8], asked: &NodeAddr) -> Option<Signal> {
        let line = reply.strip_prefix(b"-")?;
        let line = line.strip_suffix(b"\r\n").unwrap_or(line);
        let word = line.split(|byte| *byte == b' ').next()?;
        match word {
            b"MOVED" => place(line, asked).map(|(slot, to)| Signal::Moved { slot, to }),
            b"ASK" => place(line, asked).map(|(slot, to)| Signal::Ask { slot, to }),
            b"TRYAGAIN" => Some(Signal::TryAgain),
            b"CLUSTERDOWN" => Some(Signal::ClusterDown),
            b"LOADING" => Some(Signal::Loading),
            b"MASTERDOWN" => Some(Signal::MasterDown),
            b"READONLY" => Some(Signal::ReadOnly),
            b"NOREPLICAS" if line == NO_REPLICAS => Some(Signal::NoReplicas),
            _ => None,
        }
    }

    /// Whether `reply`, which [`Signal::parse`] took for this one, is in exactly the form in which a
    /// server writes it. A script can write anything, and what it raises ends with ` script: …`.
    pub fn is_exact(&self, reply: &[u8]) -> bool {
        let text = reply.strip_prefix(b"-").and_then(|line| line.strip_suffix(b"\r\n")).unwrap_or(reply);
        match self {
            Signal::Moved { .. } | Signal::Ask { .. } => text.split(|byte| *byte == b' ').count() == 3,
            Signal::TryAgain => text == b"TRYAGAIN Multiple keys request during rehashing of slot",
            Signal::ClusterDown => matches!(
                text,
                b"CLUSTERDOWN The cluster is down"
                    | b"CLUSTERDOWN The cluster is down and only accepts read commands"
                    | b"CLUSTERDOWN Hash slot not served"
            ),
            Signal::Loading => {
                matches!(
                    text,
                    b"LOADING Redis is loading the dataset in memory"
                        | b"LOADING Valkey is loading the dataset in memory"
                )
            }
            Signal::MasterDown => {
                text == b"MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'."
            }
            Signal::ReadOnly => text == b"READONLY You can't write against a read only replica.",
            // What a script's own `redis.pcall` gives is this very text, and by then it may have done anything.
            Signal::NoReplicas => false,
        }
    }
}

/// The slot and the address of `MOVED SLOT HOST:PORT`. An empty host is the one that was asked.
fn place(line: &[u8], asked: &NodeAddr) -> Option<(u16, NodeAddr)> {
    let mut words = std::str::from_utf8(line).ok()?.split(' ').skip(1);
    let slot: u16 = words.next()?.parse().ok().filter(|slot| usize::from(*slot) < crate::topology::SLOTS)?;
    let (host, port) = words.next()?.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let port = port.parse().ok().filter(|port| *port != 0)?;
    let host = if host.is_empty() || host == "?" { asked.host.clone() } else { host.into() };
    Some((slot, NodeAddr { host, port }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(reply: &str) -> Option<Signal> {
        Signal::parse(reply.as_bytes(), &NodeAddr::new("10.1.1.1", 7000))
    }

    #[test]
    fn redirects_name_a_slot_and_a_node() {
        let to = |host: &str, port| NodeAddr::new(host, port);
        assert_eq!(
            parse("-MOVED 3999 127.0.0.1:6381\r\n"),
            Some(Signal::Moved { slot: 3999, to: to("127.0.0.1", 6381) })
        );
        assert_eq!(parse("-ASK 3999 ::1:6381\r\n"), Some(Signal::Ask { slot: 3999, to: to("::1", 6381) }));
        assert_eq!(parse("-MOVED 1 :6381\r\n"), Some(Signal::Moved { slot: 1, to: to("10.1.1.1", 6381) }));
        assert_eq!(parse("-MOVED 1 ?:6381\r\n"), Some(Signal::Moved { slot: 1, to: to("10.1.1.1", 6381) }));
        for other in [
            "-MOVED 16384 a:1\r\n",
            "-MOVED x a:1\r\n",
            "-MOVED 1 a\r\n",
            "-MOVED 1 a:0\r\n",
            "-ERR x\r\n",
            "-MOVEDX 1 a:1\r\n",
            "+MOVED 1 a:1\r\n",
        ] {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    #[test]
    fn what_a_script_says_is_not_exactly_the_servers_form() {
        let real = "-CLUSTERDOWN Hash slot not served\r\n";
        assert!(parse(real).unwrap().is_exact(real.as_bytes()));
        let raised = "-CLUSTERDOWN Hash slot not served script: 1f, on @user_script:1.\r\n";
        assert!(!parse(raised).unwrap().is_exact(raised.as_bytes()));
    }
}
