//! What is at which path.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};

use super::{State, topology};

const INDEX: &str = "\
slotmux
/metrics   counts and durations, for Prometheus
/healthz   200 while the process runs
/readyz    200 from the first slot table until the proxy stops taking clients
/topology  who owns which slot, as JSON
";

/// The pages and what they show.
pub(super) struct Pages {
    state: State,
    /// A slot table with an owner was there once.
    usable: AtomicBool,
}

impl Pages {
    pub(super) fn new(state: State) -> Self {
        Pages { state, usable: AtomicBool::new(false) }
    }

    /// The answer to a request, whose body is never looked at.
    pub(super) fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
            refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refused;
        }
        match request.uri().path() {
            "/" => text(StatusCode::OK, INDEX),
            "/healthz" => text(StatusCode::OK, "ok\n"),
            "/readyz" => match self.unready() {
                None => text(StatusCode::OK, "ok\n"),
                Some(reason) => text(StatusCode::SERVICE_UNAVAILABLE, reason),
            },
            "/metrics" => {
                let page = text(StatusCode::OK, self.state.metrics.render());
                of_type(page, "text/plain; version=0.0.4; charset=utf-8")
            }
            "/topology" => of_type(text(StatusCode::OK, topology::page(&self.state)), "application/json"),
            _ => text(StatusCode::NOT_FOUND, "no such page; / lists them\n"),
        }
    }

    /// Why no new clients should be sent here. What happens to the cluster later is no reason: every instance of a
    /// fleet would say so at once, and clients had better wait here than nowhere.
    fn unready(&self) -> Option<&'static str> {
        if self.state.drain.is_cancelled() {
            return Some("draining\n");
        }
        // From one table on: commands for a cluster that is not known yet wait.
        let usable = self.usable.load(Relaxed)
            || self
                .state
                .topologies
                .iter()
                .any(|topology| topology.snapshot().is_some_and(|snapshot| snapshot.table.covered() > 0));
        self.usable.store(usable, Relaxed);
        (!usable).then_some("no slot table yet\n")
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    of_type(response, "text/plain; charset=utf-8")
}

fn of_type(mut response: Response<Full<Bytes>>, kind: &'static str) -> Response<Full<Bytes>> {
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
