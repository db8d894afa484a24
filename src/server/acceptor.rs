//! One task per listener: accepts, counts, tunes, and hands over.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::BytesMut;
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use super::{ClientSlot, Incoming, WorkerHandle};
use crate::error::ClientError;
use crate::metrics::{ControlMetrics, Reached};
use crate::net::{Listener, Peer, Stream, tune_client};

/// The first pause after a failed accept, and what it doubles to. Descriptors come back when clients
/// leave; asking a few times a second costs nothing, and nobody waits much longer than he had to.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Accepts the clients of one listener. All acceptors run on one thread, so that between reading the
/// counts of the workers and raising one of them nothing else is accepted.
#[derive(Debug)]
pub(super) struct Acceptor {
    listener: Listener,
    /// Its place in the configuration.
    index: usize,
    workers: Vec<WorkerHandle>,
    max_clients: usize,
    metrics: Arc<ControlMetrics>,
    state: State,
}

/// What was logged already, so that a state is logged once and not for every connection.
#[derive(Debug, Default)]
struct State {
    full: bool,
    pause: Option<Duration>,
}

impl Acceptor {
    pub(super) fn new(
        listener: Listener,
        index: usize,
        workers: Vec<WorkerHandle>,
        max_clients: usize,
        metrics: Arc<ControlMetrics>,
    ) -> Self {
        Self { listener, index, workers, max_clients, metrics, state: State::default() }
    }

    /// Accepts until it is dropped.
    pub(super) async fn run(mut self) {
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    if self.state.pause.take().is_some() {
                        info!(listener = self.listener.local_addr(), "accepting again");
                    }
                    self.take(stream, peer).await;
                }
                Err(error) => self.failed(&error).await,
            }
        }
    }

    async fn take(&mut self, stream: Stream, peer: Peer) {
        if super::clients(&self.workers) >= self.max_clients {
            self.reject(&stream);
            return;
        }
        self.state.full = false;
        if let Stream::Tcp(socket) = &stream
            && tune_client(socket).is_err()
        {
            return; // Reset before it was accepted: there is nobody to serve.
        }
        let Some((permit, slot)) = reserve(&mut self.workers).await else { return };
        if let Ok(stream) = stream.into_std() {
            permit.send(Incoming { stream, peer, listener: self.index, slot });
        }
    }

    /// Tells a client that there is no room, without waiting for it: what the socket does not take at
    /// once is lost.
    fn reject(&mut self, stream: &Stream) {
        self.metrics.rejected.inc();
        self.metrics.reached[Reached::MaxClients.index()].inc();
        if !std::mem::replace(&mut self.state.full, true) {
            warn!(max_clients = self.max_clients, "max_clients reached: closing further connections");
        }
        let mut reply = BytesMut::new();
        ClientError::MaxClients.append_to(&mut reply);
        let _ = stream.try_write(&reply);
    }

    /// A failed accept concerns either one connection, and then the next is taken at once, or the whole
    /// process (no descriptors, no memory), and then it waits.
    async fn failed(&mut self, error: &io::Error) {
        self.metrics.accept_errors.inc();
        if concerns_one_connection(error) {
            return;
        }
        let pause = self.state.pause.map_or(FIRST_PAUSE, |pause| (pause * 2).min(LONGEST_PAUSE));
        if self.state.pause.replace(pause).is_none() {
            error!(listener = self.listener.local_addr(), %error, "cannot accept; trying again until it works");
        }
        tokio::time::sleep(pause).await;
    }
}

/// A place in the queue of the worker with the fewest clients. A worker whose queue is full is passed
/// over; with all of them full, clients wait in the kernel's backlog.
async fn reserve(workers: &mut [WorkerHandle]) -> Option<(mpsc::Permit<'_, Incoming>, ClientSlot)> {
    workers.sort_by_key(|worker| (worker.clients.load(Relaxed), worker.index));
    let ready = workers.iter().find_map(|worker| Some((worker, worker.sender.try_reserve().ok()?)));
    let (worker, permit) = match ready {
        Some(found) => found,
        None => {
            let worker = workers.first()?;
            (worker, worker.sender.reserve().await.ok()?)
        }
    };
    Some((permit, ClientSlot::take(&worker.clients)))
}

fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, TimedOut};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | TimedOut)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use crate::server::INCOMING_QUEUE;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpStream;
    use tokio_util::sync::CancellationToken;

    fn worker(index: usize, metrics: &Metrics) -> (WorkerHandle, mpsc::Receiver<Incoming>) {
        let (sender, receiver) = mpsc::channel(INCOMING_QUEUE);
        let metrics = Arc::clone(&metrics.workers()[index]);
        let ended = CancellationToken::new();
        (WorkerHandle { index, sender, clients: Arc::default(), metrics, ended }, receiver)
    }

    #[tokio::test]
    async fn clients_go_to_the_emptiest_worker_and_no_further_than_the_limit() {
        let metrics = Metrics::new(crate::metrics::Shape { workers: 2, ..Default::default() });
        let ((one, mut to_one), (two, mut to_two)) = (worker(0, &metrics), worker(1, &metrics));
        let listener = Listener::bind(&"127.0.0.1:0".parse().unwrap(), None).unwrap();
        let addr = listener.local_addr().to_owned();
        let acceptor = Acceptor::new(listener, 7, vec![one.clone(), two], 3, Arc::clone(metrics.control()));
        let running = tokio::spawn(acceptor.run());

        let _clients = [TcpStream::connect(&addr).await.unwrap(), TcpStream::connect(&addr).await.unwrap()];
        let first = to_one.recv().await.unwrap();
        let _second = to_two.recv().await.unwrap();
        assert_eq!(first.listener, 7);
        let _third = TcpStream::connect(&addr).await.unwrap();
        let third = to_one.recv().await.unwrap();
        assert_eq!(one.clients.load(Relaxed), 2);

        let mut refused = TcpStream::connect(&addr).await.unwrap();
        let mut text = String::new();
        refused.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "-ERR max number of clients reached\r\n");
        assert_eq!(metrics.control().rejected.value(), 1);

        drop((first, third));
        let _fourth = TcpStream::connect(&addr).await.unwrap();
        assert!(to_one.recv().await.is_some(), "a client that left makes room");
        running.abort();
    }

    #[test]
    fn only_the_process_running_out_makes_it_wait() {
        assert!(concerns_one_connection(&io::Error::from_raw_os_error(103))); // ECONNABORTED
        assert!(!concerns_one_connection(&io::Error::from_raw_os_error(24))); // EMFILE
    }
}
