//! A plain server and the proxy beside each other: the same bytes to both.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
};

use super::{PlainServer, Proxy, SOON, TestCluster, eventually};

/// Both sides, with or without a password.
pub struct Pair {
    pub server: PlainServer,
    pub proxy: Proxy,
    _cluster: TestCluster,
}

impl Pair {
    #[track_caller]
    pub fn start(password: Option<&str>) -> Self {
        let cluster = TestCluster::primaries(3);
        let args: Vec<&str> = password.map_or(vec![], |password| vec!["--requirepass", password]);
        let builder = Proxy::for_seeds(&cluster.seeds()).args(&["--workers", "1"]);
        let proxy = match password {
            Some(password) => builder.env("SLOTMUX_CLIENT_PASSWORD", password),
            None => builder,
        };
        let proxy = proxy.start();
        // A client that ends its sending does not wait for a link that is only being dialled again.
        let mut client = proxy.connect();
        if let Some(password) = password {
            client.cmd(&["AUTH", password]);
        }
        for protocol in ["2", "3"] {
            client.cmd(&["HELLO", protocol]);
            eventually(SOON, || client.cmd(&["MGET", "a", "b", "c", "d", "e"]).items().len() == 5);
        }
        Self { server: PlainServer::start(&args), proxy, _cluster: cluster }
    }

    /// Sends the bytes to both; all that does not come back alike is added to `differences`.
    fn compare(&self, bytes: &[u8], differences: &mut Vec<String>) {
        let (server, proxy) = (talk(self.server.addr(), bytes), talk(self.proxy.addr(), bytes));
        if server != proxy {
            let common = server.iter().zip(&proxy).take_while(|(one, other)| one == other).count();
            let show = |bytes: &[u8]| bytes[..bytes.len().min(300)].escape_ascii().to_string();
            let (server, proxy) = (&server[common..], &proxy[common..]);
            differences.push(format!(
                "sent   {}\nserver …{}\nproxy  …{}",
                show(bytes),
                show(server),
                show(proxy)
            ));
        }
    }

    #[track_caller]
    pub fn compare_all<B: AsRef<[u8]>>(&self, all: impl IntoIterator<Item = B>) {
        let mut differences = Vec::new();
        all.into_iter().for_each(|bytes| self.compare(bytes.as_ref(), &mut differences));
        assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n\n"));
    }
}

/// Sends the bytes on a connection of its own and ends it; all that comes back, with what no two connections share
/// masked.
pub fn talk(addr: &str, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(addr).expect("the server accepts");
    stream.set_read_timeout(Some(SOON)).expect("the server answers");
    // Whoever answers with an error may close before it has read all.
    if stream.write_all(bytes).is_ok() {
        let _ = stream.shutdown(Shutdown::Write);
    }
    let mut got = Vec::new();
    match stream.read_to_end(&mut got) {
        Err(error) if error.kind() != ErrorKind::ConnectionReset => {
            got.extend_from_slice(format!(" and then {error}").as_bytes());
        }
        _ => {}
    }
    mask_id(got)
}

/// HELLO's reply tells the connection's number.
fn mask_id(mut reply: Vec<u8>) -> Vec<u8> {
    let marker = b"$2\r\nid\r\n:";
    while let Some(at) = reply.windows(marker.len()).position(|window| window == marker) {
        let digits = at + marker.len();
        let end =
            digits + reply[digits..].iter().position(|byte| *byte == b'\r').expect("the server answers");
        reply.splice(at..end, *b"(id)");
    }
    reply
}

/// What both sides get in each version of the protocol.
pub fn in_both(requests: &[&str]) -> Vec<Vec<u8>> {
    let plain = requests.iter().map(|line| format!("{line}\r\n").into_bytes());
    let resp3 = requests.iter().map(|line| format!("HELLO 3\r\n{line}\r\n").into_bytes());
    plain.chain(resp3).collect()
}
