//! HTTP for operators: metrics, health and readiness.
//!
//! Runs on the control runtime, so that a scrape never delays a client. Every connection serves one
//! request and has ten seconds for all of it.

mod health;
mod pages;

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
pub use health::health;
use pages::Pages;

/// Connections at a time: scrapers and probes are a handful; further ones wait in the backlog.
const MAX_CONNECTIONS: usize = 64;
/// From accepting a connection to the last byte of the answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// The request line and the headers of a scraper are a few hundred bytes; hyper's least is 8 KiB.
const MAX_HEAD: usize = 8 * 1024;
/// After a failed accept, most often for lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Says whether the proxy can serve clients: it has a slot table.
pub type Ready = Arc<dyn Fn() -> bool + Send + Sync>;

/// Serves `/metrics`, `/healthz`, `/readyz` and an index until `shutdown`.
pub async fn serve(listener: Listener, metrics: Arc<Metrics>, ready: Ready, shutdown: CancellationToken) {
    let pages = Arc::new(Pages { metrics, ready });
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
        .header_read_timeout(REQUEST_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
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
        let (shutdown, is_ready) = (CancellationToken::new(), Arc::new(AtomicBool::new(false)));
        let flag = Arc::clone(&is_ready);
        let ready: Ready = Arc::new(move || flag.load(Relaxed));
        let server = tokio::spawn(serve(listener, Metrics::new(&["string"], 1), ready, shutdown.clone()));

        let metrics = request(&addr, "GET /metrics").await;
        assert!(metrics.starts_with("HTTP/1.1 200 OK\r\n"), "{metrics}");
        assert!(metrics.contains("content-type: text/plain; version=0.0.4"), "{metrics}");
        assert!(metrics.contains("\nslotmux_clients 0\n"), "{metrics}");
        assert!(request(&addr, "GET /healthz").await.ends_with("\r\n\r\nok\n"));
        assert!(request(&addr, "GET /readyz").await.starts_with("HTTP/1.1 503"));
        is_ready.store(true, Relaxed);
        assert!(request(&addr, "GET /readyz?verbose").await.starts_with("HTTP/1.1 200"));
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
