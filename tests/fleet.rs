//! A cluster of a thousand nodes.

#![allow(clippy::unwrap_used)]

mod support;

use std::fmt::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use support::{Proxy, SOON, Value, eventually, slot_of, tag_of};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const NODES: usize = 1_000;

/// Many scripted nodes on one thread: they answer every command with their number, and know whose slot is whose.
struct Fleet {
    ports: Vec<u16>,
    /// Node `i` owns the slots that node `i - turn` had at first.
    turn: AtomicUsize,
    /// How often CLUSTER NODES was asked.
    queries: AtomicUsize,
}

impl Fleet {
    fn start() -> Arc<Self> {
        let listeners: Vec<TcpListener> =
            (0..NODES).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port")).collect();
        let ports = listeners.iter().map(|l| l.local_addr().unwrap().port()).collect();
        let fleet = Arc::new(Self { ports, turn: AtomicUsize::new(0), queries: AtomicUsize::new(0) });
        let all = fleet.clone();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                for (i, listener) in listeners.into_iter().enumerate() {
                    listener.set_nonblocking(true).unwrap();
                    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                    let all = all.clone();
                    tokio::spawn(async move {
                        while let Ok((stream, _)) = listener.accept().await {
                            tokio::spawn(serve(stream, i, all.clone()));
                        }
                    });
                }
                std::future::pending::<()>().await;
            });
        });
        fleet
    }

    fn seeds(&self) -> Vec<String> {
        self.ports[..3].iter().map(|port| format!("127.0.0.1:{port}")).collect()
    }

    fn turn(&self) -> usize {
        self.turn.load(Ordering::Relaxed)
    }

    fn owner(&self, slot: u16) -> usize {
        (usize::from(slot) * NODES / 16_384 + self.turn()) % NODES
    }

    /// CLUSTER NODES as `myself` says it.
    fn view(&self, myself: usize) -> String {
        let (mut text, turn) = (String::new(), self.turn());
        for (i, port) in self.ports.iter().enumerate() {
            let share = (i + NODES - turn) % NODES;
            let (first, next) = (first_slot(share), first_slot(share + 1));
            let flags = if i == myself { "myself,master" } else { "master" };
            let (bus, epoch, last) = (port % 10_000 + 10_000, turn + 1, next - 1);
            writeln!(
                text,
                "{i:040x} 127.0.0.1:{port}@{bus} {flags} - 0 1426238317239 {epoch} connected {first}-{last}"
            )
            .unwrap();
        }
        text
    }
}

/// The first slot that node `i` had at first.
fn first_slot(i: usize) -> usize {
    (i * 16_384).div_ceil(NODES)
}

async fn serve(mut stream: tokio::net::TcpStream, node: usize, fleet: Arc<Fleet>) {
    let mut input = Vec::with_capacity(4096);
    while stream.read_buf(&mut input).await.is_ok_and(|n| n > 0) {
        let mut out = Vec::new();
        while let Some(args) = support::take_request(&mut input) {
            let words: Vec<_> = args.iter().map(|arg| String::from_utf8_lossy(arg)).collect();
            out.extend(match words.iter().map(|word| &**word).collect::<Vec<_>>()[..] {
                ["CLUSTER", "NODES"] => {
                    fleet.queries.fetch_add(1, Ordering::Relaxed);
                    bulk(&fleet.view(node))
                }
                ["CLUSTER", "INFO"] => bulk("cluster_state:ok\r\n"),
                ["CLUSTER", ..] => b"-ERR unknown subcommand\r\n".to_vec(),
                ["CLIENT", "ID"] => b":7\r\n".to_vec(),
                ["HELLO", ..] | ["CLIENT", ..] => b"+OK\r\n".to_vec(),
                [_, key, ..] => match fleet.owner(slot_of(key)) {
                    owner if owner == node => bulk(&node.to_string()),
                    owner => {
                        format!("-MOVED {} 127.0.0.1:{}\r\n", slot_of(key), fleet.ports[owner]).into_bytes()
                    }
                },
                _ => b"+OK\r\n".to_vec(),
            });
        }
        if stream.write_all(&out).await.is_err() {
            return;
        }
    }
}

fn bulk(text: &str) -> Vec<u8> {
    format!("${}\r\n{text}\r\n", text.len()).into_bytes()
}

#[test]
fn a_thousand_nodes_are_served_also_after_each_of_them_has_given_all_its_slots_away() {
    let fleet = Fleet::start();
    let proxy = Proxy::for_seeds(&fleet.seeds()).args(&["--workers", "1"]).start();
    let mut client = proxy.connect();
    // A slot of each node.
    let slots: Vec<u16> = (0..NODES).map(|i| first_slot(i) as u16).collect();
    let gets: Vec<[String; 2]> =
        slots.iter().map(|slot| ["GET".to_owned(), format!("{{{}}}", tag_of(*slot))]).collect();
    let numbers = |turn: usize| -> Vec<Value> {
        (0..NODES).map(|i| Value::bulk(((i + turn) % NODES).to_string())).collect()
    };
    assert_eq!(client.pipeline(&gets), numbers(0));
    assert_eq!(proxy.metric("slotmux_node_links{state=\"up\"}"), NODES as f64);
    fleet.turn.store(1, Ordering::Relaxed);
    assert_eq!(client.pipeline(&gets), numbers(1));
    eventually(SOON, || proxy.metric("slotmux_topology_version") >= 2.0);
    let moved = proxy.metric("slotmux_redirects_total{kind=\"moved\"}");
    assert_eq!(client.pipeline(&gets), numbers(1));
    assert_eq!(proxy.metric("slotmux_redirects_total{kind=\"moved\"}"), moved, "the table has it now");
    assert_eq!(proxy.metric("slotmux_topology_version"), 2.0);
    assert_eq!(proxy.metric("slotmux_node_links{state=\"up\"}"), NODES as f64, "the links stay");
    let refreshes = proxy.metric("slotmux_topology_refreshes_total") as usize;
    let queries = fleet.queries.load(Ordering::Relaxed);
    assert!(queries <= 3 * refreshes + 3, "{queries} queries in {refreshes} refreshes");
}
