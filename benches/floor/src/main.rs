//! The floor: a forwarder that does the least that a cluster proxy can do, to measure slotmux against.
//!
//! usage: `floor LISTEN SEED [WORKERS]`, for example `floor 127.0.0.1:7491 127.0.0.1:7000`
//!
//! It knows commands whose key is the first argument, reads the slot table once, keeps one pipelined connection per
//! worker and node, and panics at anything unexpected: no redirects, limits or metrics, no other commands. What it
//! does have in common with a real proxy is that a request's bytes are kept until its reply came.

mod kept;
mod link;
mod resp;
mod session;
mod slots;

use std::{cell::RefCell, net::SocketAddr, rc::Rc, task::Context, task::Poll, task::Waker};

use bytes::BytesMut;
use tokio::{
    net::{TcpListener, TcpStream},
    runtime,
    task::{LocalSet, spawn_local},
};

use link::Link;
use slots::Slots;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What one worker's sessions forward to.
struct Cluster {
    links: Vec<Rc<Link>>,
    /// The index of the link of each slot's owner.
    owners: Vec<u8>,
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [listen, seed, rest @ ..] = args.as_slice() else { panic!("usage: floor LISTEN SEED [WORKERS]") };
    let listen: SocketAddr = listen.parse().expect("LISTEN is address:port");
    let workers = rest.first().map_or(1, |n| n.parse().expect("WORKERS is a number"));
    let slots = slots::read(seed);
    let threads: Vec<_> = (0..workers)
        .map(|_| {
            let slots = slots.clone();
            std::thread::spawn(move || {
                let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
                LocalSet::new().block_on(&runtime, work(listen, slots));
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("a worker never ends");
    }
}

async fn work(listen: SocketAddr, slots: Slots) {
    let mut links = Vec::new();
    for node in slots.nodes {
        let stream = TcpStream::connect(node).await.expect("the node accepts");
        stream.set_nodelay(true).expect("TCP_NODELAY");
        let link = Rc::new(Link::default());
        spawn_local(link::run(stream, link.clone()));
        links.push(link);
    }
    let cluster = Rc::new(Cluster { links, owners: slots.owners });
    let listener = bind(listen);
    loop {
        let (stream, _) = listener.accept().await.expect("accept works");
        stream.set_nodelay(true).expect("TCP_NODELAY");
        spawn_local(session::run(stream, cluster.clone()));
    }
}

/// Each worker listens on the same port; the kernel deals the connections out.
fn bind(addr: SocketAddr) -> TcpListener {
    let socket = socket2::Socket::new(socket2::Domain::for_address(addr), socket2::Type::STREAM, None);
    let socket = socket.expect("a socket");
    socket.set_reuse_port(true).expect("SO_REUSEPORT");
    socket.set_reuse_address(true).expect("SO_REUSEADDR");
    socket.set_nonblocking(true).expect("O_NONBLOCK");
    socket.bind(&addr.into()).expect("the port is free");
    socket.listen(1024).expect("listen works");
    TcpListener::from_std(socket.into()).expect("a listener")
}

/// Reads once; 0 at the end of the stream or after an error.
fn fill(stream: &mut TcpStream, input: &mut BytesMut, cx: &mut Context<'_>) -> Poll<usize> {
    if input.capacity() - input.len() < 4096 {
        input.reserve(16_384);
    }
    tokio_util::io::poll_read_buf(std::pin::Pin::new(stream), cx, input).map(|read| read.unwrap_or(0))
}

fn wake(waker: &RefCell<Option<Waker>>) {
    if let Some(waker) = waker.borrow_mut().take() {
        waker.wake();
    }
}
