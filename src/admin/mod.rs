//! HTTP for operators: metrics, health, readiness and the topology.
//!
//! Runs on the control runtime, so that a scrape never delays a client. Every connection serves one
//! request and has ten seconds for all of it. Where there are too many, the oldest that has asked nothing goes.

mod health;
mod pages;
mod topology;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::metrics::Metrics;
use crate::net::{Listener, Stream};
use crate::topology::Shared;
pub use health::health;
use pages::Pages;

/// Connections at a time: scrapers and probes are a handful.
const MAX_CONNECTIONS: usize = 64;
/// From accepting a connection to the last byte of the answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Of that, for its request: a scraper sends it as soon as it is connected.
const HEAD_TIMEOUT: Duration = Duration::from_secs(2);
/// The request line and the headers of a scraper are a few hundred bytes; hyper's least is 8 KiB.
const MAX_HEAD: usize = 8 * 1024;
/// After a failed accept, most often for lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the pages show.
#[derive(Debug)]
pub struct State {
    /// The counts.
    pub metrics: Arc<Metrics>,
    /// The topology of each cluster, in the order of [`Metrics::clusters`].
    pub topologies: Vec<Arc<Shared>>,
    /// Cancelled when the proxy takes no new clients any more.
    pub drain: CancellationToken,
}

/// Serves `/metrics`, `/healthz`, `/readyz`, `/topology` and an index until `shutdown`.
pub async fn serve(listener: Listener, state: State, shutdown: CancellationToken) {
    let pages = Arc::new(Pages::new(state));
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let accept = async {
        let (mut failing, mut visitors) = (false, VecDeque::new());
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    failing = false;
                    visitors.retain(|visitor: &Visitor| !visitor.task.is_finished());
                    if places.available_permits() == 0 {
                        end_oldest_silent(&visitors);
                    }
                    // The semaphore is never closed.
                    let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
                    let (pages, has_asked) = (Arc::clone(&pages), Arc::new(AtomicBool::new(false)));
                    let asked = Arc::clone(&has_asked);
                    let task = tokio::spawn(async move {
                        // A client that is late or broken concerns nobody else.
                        let _ = tokio::time::timeout(REQUEST_TIMEOUT, answer(stream, pages, asked)).await;
                        drop(place);
                    });
                    visitors.push_back(Visitor { has_asked, task: task.abort_handle() });
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        warn!(%error, "the admin listener cannot accept; trying again until it works");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    shutdown.run_until_cancelled(accept).await;
}

/// Who is connected.
struct Visitor {
    has_asked: Arc<AtomicBool>,
    task: AbortHandle,
}

/// Makes a place, so that no number of connections that ask nothing keeps others from being answered.
fn end_oldest_silent(visitors: &VecDeque<Visitor>) {
    if let Some(silent) = visitors.iter().find(|visitor| !visitor.has_asked.load(Relaxed)) {
        silent.task.abort();
    }
}

async fn answer(stream: Stream, pages: Arc<Pages>, asked: Arc<AtomicBool>) -> Result<(), hyper::Error> {
    let service = service_fn(move |request| {
        asked.store(true, Relaxed);
        let page = pages.answer(&request);
        async move { Ok::<_, std::convert::Infallible>(page) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Shape;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    async fn request(addr: &str, head: &str) -> String {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(format!("{head} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn the_pages_are_served_and_nothing_else() {
        let listener = Listener::bind(&"127.0.0.1:0".parse().unwrap(), None).unwrap();
        let addr = listener.local_addr().to_owned();
        let (shutdown, drain) = (CancellationToken::new(), CancellationToken::new());
        let metrics = Metrics::new(Shape { workers: 1, ..Shape::default() });
        let state = State { metrics, topologies: Vec::new(), drain: drain.clone() };
        let server = tokio::spawn(serve(listener, state, shutdown.clone()));

        let metrics = request(&addr, "GET /metrics").await;
        assert!(metrics.starts_with("HTTP/1.1 200 OK\r\n"), "{metrics}");
        assert!(metrics.contains("content-type: text/plain; version=0.0.4"), "{metrics}");
        assert!(metrics.contains("\nslotmux_clients 0\n"), "{metrics}");
        assert!(request(&addr, "GET /healthz").await.ends_with("\r\n\r\nok\n"));
        let unready = request(&addr, "GET /readyz?verbose").await;
        assert!(unready.starts_with("HTTP/1.1 503") && unready.ends_with("no slot table yet\n"), "{unready}");
        drain.cancel();
        assert!(request(&addr, "GET /readyz").await.ends_with("\r\n\r\ndraining\n"));
        let topology = request(&addr, "GET /topology").await;
        assert!(topology.contains("content-type: application/json"), "{topology}");
        assert!(topology.ends_with("{\"clusters\":[]}\n"), "{topology}");
        assert!(request(&addr, "GET /").await.contains("/metrics"));
        assert!(request(&addr, "GET /nothing").await.starts_with("HTTP/1.1 404"));
        assert!(request(&addr, "POST /metrics").await.starts_with("HTTP/1.1 405"));
        let head = request(&addr, "HEAD /metrics").await;
        assert!(head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"), "{head}");

        shutdown.cancel();
        server.await.unwrap();
        assert!(TcpStream::connect(&addr).await.is_err(), "the port is free again");
    }

    #[tokio::test]
    async fn connections_that_ask_nothing_keep_nobody_from_being_answered() {
        let listener = Listener::bind(&"127.0.0.1:0".parse().unwrap(), None).unwrap();
        let addr = listener.local_addr().to_owned();
        let metrics = Metrics::new(Shape { workers: 1, ..Shape::default() });
        let state = State { metrics, topologies: Vec::new(), drain: CancellationToken::new() };
        tokio::spawn(serve(listener, state, CancellationToken::new()));
        // On a machine that is too slow all of them have had their time when the last one is there.
        for _ in 0..20 {
            let begun = tokio::time::Instant::now();
            let mut silent = Vec::new();
            for _ in 0..2 * MAX_CONNECTIONS {
                silent.push(TcpStream::connect(&addr).await.unwrap());
            }
            assert!(request(&addr, "GET /healthz").await.ends_with("ok\n"));
            assert_eq!(silent[0].read(&mut [0; 1]).await.unwrap_or(0), 0, "the oldest has gone");
            let newest = silent[2 * MAX_CONNECTIONS - 1].try_read(&mut [0; 1]);
            if begun.elapsed() < HEAD_TIMEOUT {
                assert_eq!(newest.unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "the newest has time");
                return;
            }
        }
        panic!("places are given only when the time of others is over");
    }
}
