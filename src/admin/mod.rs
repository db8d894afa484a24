//! HTTP for operators: metrics, health, readiness and the topology.
//!
//! Runs on the control runtime, so that a scrape never delays a client. Every connection serves one
//! request and has ten seconds for all of it.

mod health;
mod pages;
mod topology;

use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::metrics::Metrics;
use crate::net::{Listener, Stream};
use crate::topology::Shared;
pub use health::health;
use pages::Pages;

/// Connections at a time: scrapers and probes are a handful; further ones wait in the backlog.
const MAX_CONNECTIONS: usize = 64;
/// From accepting a connection to the last byte of the answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Of that, for its request: who does not finish it takes a place that others wait for.
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
        let mut failing = false;
        // The semaphore is never closed.
        while let Ok(place) = Arc::clone(&places).acquire_owned().await {
            match listener.accept().await {
                Ok((stream, _)) => {
                    failing = false;
                    let pages = Arc::clone(&pages);
                    tokio::spawn(async move {
                        // A client that is late or broken concerns nobody else.
                        let _ = tokio::time::timeout(REQUEST_TIMEOUT, answer(stream, pages)).await;
                        drop(place);
                    });
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

async fn answer(stream: Stream, pages: Arc<Pages>) -> Result<(), hyper::Error> {
    let service = service_fn(move |request| {
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
}
