//! Where nodes are for the proxy when the cluster calls them otherwise: behind NAT, or a port forward.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use super::addr::{AddrError, NodeAddr, split_host};

/// From the addresses that the cluster announces to those that are dialled.
///
/// A rule for a host and port goes before one for the host alone, which keeps the port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressMap {
    addrs: HashMap<NodeAddr, NodeAddr>,
    hosts: HashMap<Arc<str>, Arc<str>>,
}

impl AddressMap {
    /// Adds a rule, `FROM=TO`: both `host:port`, or both only a host (IPv6 in brackets).
    ///
    /// # Errors
    /// It is no rule, or there is one for the same `FROM` already.
    pub fn add(&mut self, rule: &str) -> Result<(), AddrError> {
        let (from, to) = rule
            .split_once('=')
            .ok_or_else(|| AddrError::new(rule, "write FROM=TO, as in 10.0.0.1:6379=127.0.0.1:7001"))?;
        let (from, to) = (from.trim(), to.trim());
        let before = match (split_host(from), split_host(to)) {
            (Ok(from), Ok(to)) => self.hosts.insert(from.into(), to.into()).is_some(),
            (Err(_), Err(_)) => self.addrs.insert(from.parse()?, to.parse()?).is_some(),
            (Ok(_), Err(_)) => {
                return Err(AddrError::new(rule, "a host alone is mapped to a host alone; the port is kept"));
            }
            (Err(_), Ok(_)) => {
                from.parse::<NodeAddr>()?;
                return Err(AddrError::new(rule, "the port behind `=` is missing"));
            }
        };
        if before {
            return Err(AddrError::new(rule, "the same address is mapped twice"));
        }
        Ok(())
    }

    /// Where the node is that the cluster says is at `addr`, if a rule says so.
    #[must_use]
    pub fn map(&self, addr: &NodeAddr) -> Option<NodeAddr> {
        self.addrs.get(addr).cloned().or_else(|| {
            self.hosts.get(&addr.host).map(|host| NodeAddr { host: host.clone(), port: addr.port })
        })
    }

    /// Whether there is no rule.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.addrs.is_empty() && self.hosts.is_empty()
    }
}

impl fmt::Display for AddressMap {
    /// The rules in the form in which they are read, sorted, with commas between.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = |host: &str| if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let hosts = self.hosts.iter().map(|(from, to)| format!("{}={}", host(from), host(to)));
        let addrs = self.addrs.iter().map(|(from, to)| format!("{from}={to}"));
        let mut rules: Vec<String> = hosts.chain(addrs).collect();
        rules.sort_unstable();
        f.write_str(&rules.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(rules: &[&str]) -> AddressMap {
        let mut map = AddressMap::default();
        rules.iter().for_each(|rule| map.add(rule).unwrap());
        map
    }

    #[test]
    fn an_address_goes_before_its_host_and_a_host_keeps_the_port() {
        let map = map(&["10.0.0.1=192.0.2.1", "10.0.0.1:7000=127.0.0.1:1", "[fe80::1]=[::1]", "a:1=[::1]:2"]);
        let mapped = |text: &str| map.map(&text.parse().unwrap()).map(|to| to.to_string());
        assert_eq!(mapped("10.0.0.1:7000").unwrap(), "127.0.0.1:1");
        assert_eq!(mapped("10.0.0.1:7001").unwrap(), "192.0.2.1:7001");
        assert_eq!(mapped("[fe80::1]:5").unwrap(), "[::1]:5");
        assert_eq!(mapped("a:1").unwrap(), "[::1]:2");
        assert_eq!((mapped("a:2"), mapped("10.0.0.2:7000")), (None, None));
        assert!(!map.is_empty() && AddressMap::default().is_empty());
    }

    #[test]
    fn a_map_is_printed_as_it_is_read() {
        let rules = "10.0.0.1:7000=127.0.0.1:1,10.0.0.1=192.0.2.1,[fe80::1]=[::1]";
        assert_eq!(map(&rules.split(',').collect::<Vec<_>>()).to_string(), rules);
    }

    #[test]
    fn what_is_no_rule_says_why() {
        for (rule, part) in [
            ("10.0.0.1", "write FROM=TO"),
            ("10.0.0.1=127.0.0.1:1", "the port is kept"),
            ("10.0.0.1:1=127.0.0.1", "port behind `=`"),
            ("a:0=b:1", "port 0"),
            ("a:1=b:x", "0 to 65535"),
            ("=b", "port is missing"),
            ("::1=::2", "brackets"),
            ("a b=c", "port is missing"),
        ] {
            let error = AddressMap::default().add(rule).unwrap_err().to_string();
            assert!(error.contains(part), "{rule}: {error}");
        }
        let error = map(&["a:1=b:1"]).add("a:1=c:1").unwrap_err().to_string();
        assert!(error.contains("twice"), "{error}");
    }
}
