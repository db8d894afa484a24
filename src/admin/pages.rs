//! What is at which path.

use std::sync::Arc;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};

use super::Ready;
use crate::metrics::Metrics;

const INDEX: &str = "\
slotmux
/metrics  counts and durations, for Prometheus
/healthz  200 while the process runs
/readyz   200 once the cluster's slot table is known
";

/// The pages and what they show.
pub(super) struct Pages {
    pub(super) metrics: Arc<Metrics>,
    pub(super) ready: Ready,
}

impl Pages {
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
            "/readyz" if (self.ready)() => text(StatusCode::OK, "ok\n"),
            "/readyz" => text(StatusCode::SERVICE_UNAVAILABLE, "no slot table yet\n"),
            "/metrics" => {
                let mut page = text(StatusCode::OK, self.metrics.render());
                let version = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
                page.headers_mut().insert(CONTENT_TYPE, version);
                page
            }
            _ => text(StatusCode::NOT_FOUND, "no such page; / lists them\n"),
        }
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}
