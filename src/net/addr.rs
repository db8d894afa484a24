//! Where a node is, and where the proxy listens.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

/// The address of a cluster node as the cluster names it: a host name or an IP address, and a port.
///
/// A clone costs no allocation, since these are handed about with every redirect.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeAddr {
    /// Host name or IP address; IPv6 without brackets.
    pub host: Arc<str>,
    /// TCP port.
    pub port: u16,
}

impl NodeAddr {
    /// An address from its two parts; `host` is taken as it is, IPv6 without brackets.
    #[must_use]
    pub fn new(host: impl Into<Arc<str>>, port: u16) -> Self {
        Self { host: host.into(), port }
    }
}

impl FromStr for NodeAddr {
    type Err = AddrError;

    /// Reads `host:port` or `[v6]:port`. Port 0 is refused: nothing answers there.
    fn from_str(text: &str) -> Result<Self, AddrError> {
        let (host, port) = split_host_port(text)?;
        if port == 0 {
            return Err(AddrError::new(text, "port 0 cannot be connected to"));
        }
        Ok(Self::new(host, port))
    }
}

impl fmt::Display for NodeAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_host_port(f, &self.host, self.port)
    }
}

impl fmt::Debug for NodeAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where the proxy listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddr {
    /// Host and port; port 0 lets the kernel choose one.
    Tcp(String, u16),
    /// The path of a Unix domain socket.
    Unix(PathBuf),
}

impl ListenAddr {
    /// True if only this machine can connect: a loopback IP address, `localhost` or a Unix socket.
    ///
    /// Any other host name counts as open, since what it resolves to may change.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Unix(_) => true,
            Self::Tcp(host, _) => match host.parse::<IpAddr>() {
                Ok(ip) => ip.is_loopback(),
                Err(_) => host.eq_ignore_ascii_case("localhost"),
            },
        }
    }
}

impl FromStr for ListenAddr {
    type Err = AddrError;

    /// Reads `host:port`, `[v6]:port` or `unix:/path`.
    fn from_str(text: &str) -> Result<Self, AddrError> {
        match text.strip_prefix("unix:") {
            Some("") => Err(AddrError::new(text, "a path must follow `unix:`")),
            Some(path) => Ok(Self::Unix(PathBuf::from(path))),
            None => split_host_port(text).map(|(host, port)| Self::Tcp(host.to_owned(), port)),
        }
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) => write_host_port(f, host, *port),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A text that is no address: what it was, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddrError {
    text: String,
    reason: &'static str,
}

impl AddrError {
    pub(super) fn new(text: &str, reason: &'static str) -> Self {
        Self { text: text.to_owned(), reason }
    }
}

impl fmt::Display for AddrError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is no address: {}", self.text, self.reason)
    }
}

impl std::error::Error for AddrError {}

fn split_host_port(text: &str) -> Result<(&str, u16), AddrError> {
    let (host, port) =
        text.rsplit_once(':').ok_or_else(|| AddrError::new(text, "the port is missing, write HOST:PORT"))?;
    let host = split_host(host).map_err(|reason| AddrError::new(text, reason))?;
    // `u16::from_str` would take "+1".
    let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    match port.parse() {
        Ok(number) if digits => Ok((host, number)),
        _ => Err(AddrError::new(text, "the port is no number from 0 to 65535")),
    }
}

/// A host name or IP address, IPv6 without its brackets; else what is wrong with it.
pub(super) fn split_host(host: &str) -> Result<&str, &'static str> {
    let host = match host.strip_prefix('[').map(|rest| rest.strip_suffix(']')) {
        Some(Some(v6)) if v6.parse::<Ipv6Addr>().is_ok() => v6,
        Some(_) => return Err("brackets hold an IPv6 address, as in [::1]:6379"),
        None if host.contains(':') => return Err("an IPv6 address needs brackets, as in [::1]:6379"),
        None => host,
    };
    if host.is_empty() {
        return Err("the host is missing, write HOST:PORT");
    }
    if host.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/' || c == '@') {
        return Err("the host holds a character that no host name has");
    }
    Ok(host)
}

fn write_host_port(f: &mut fmt::Formatter<'_>, host: &str, port: u16) -> fmt::Result {
    if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_printed_as_it_is_read() {
        for text in ["127.0.0.1:6379", "redis-1.internal:7000", "[::1]:6379", "[2001:db8::5]:1"] {
            assert_eq!(text.parse::<NodeAddr>().unwrap().to_string(), text);
            assert_eq!(text.parse::<ListenAddr>().unwrap().to_string(), text);
        }
        assert_eq!("unix:/run/s.sock".parse::<ListenAddr>().unwrap().to_string(), "unix:/run/s.sock");
        assert_eq!(&*"[::1]:6379".parse::<NodeAddr>().unwrap().host, "::1");
    }

    #[test]
    fn what_is_no_address_says_why() {
        for (text, part) in [
            ("redis", "port is missing"),
            (":6379", "host is missing"),
            ("::1:6379", "needs brackets"),
            ("[::1:6379", "hold an IPv6"),
            ("[redis]:6379", "hold an IPv6"),
            ("redis:70000", "0 to 65535"),
            ("redis:+1", "0 to 65535"),
            ("redis:", "0 to 65535"),
            ("redis://redis:1", "needs brackets"),
            ("re dis:1", "no host name"),
            ("redis:0", "port 0"),
        ] {
            let error = text.parse::<NodeAddr>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
        assert!("unix:".parse::<ListenAddr>().is_err());
        assert!("127.0.0.1:0".parse::<ListenAddr>().is_ok());
    }

    #[test]
    fn only_this_machine_is_local() {
        for text in ["127.0.0.1:1", "127.8.0.1:1", "[::1]:1", "localhost:1", "LocalHost:1", "unix:/s"] {
            assert!(text.parse::<ListenAddr>().unwrap().is_local(), "{text}");
        }
        for text in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "redis:1", "localhost.example.com:1"] {
            assert!(!text.parse::<ListenAddr>().unwrap().is_local(), "{text}");
        }
    }
}
