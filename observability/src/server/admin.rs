//! Admin routes: `/metrics` and the probes. They have no spans, metrics and log lines.

use std::io::{self, Write};
use std::thread;

use axum::extract::State;
use axum::http::header::{
    ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, VARY,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

use super::readiness::ready;
use crate::http::Weight;
use crate::metrics::Format;
use crate::telemetry::Telemetry;

/// Bytes of a page that are compressed before other threads may run.
const CHUNK_LENGTH: usize = 64 * 1024;

impl Telemetry {
    /// Returns the admin routes: `/metrics`, `/health`, `/livez` and `/readyz`, below the prefix of
    /// [`ServiceInfo::admin_prefix`](crate::ServiceInfo::admin_prefix).
    pub fn admin_routes(&self) -> Router {
        let routes = Router::new()
            .route("/metrics", get(metrics))
            .route("/health", get(alive))
            .route("/livez", get(alive))
            .route("/readyz", get(ready))
            .with_state(self.clone());
        match self.0.service.admin_prefix {
            "" => routes,
            prefix => Router::new().nest(prefix, routes),
        }
    }
}

/// Responds with OpenMetrics or protobuf if the scraper prefers it, and with gzip if it accepts that.
/// Responds 406 if the scraper excludes all formats, or both gzip and no encoding.
async fn metrics(State(telemetry): State<Telemetry>, headers: HeaderMap) -> Response {
    let (Some(format), Some(is_gzip)) = (negotiate_format(&headers), negotiate_gzip(&headers))
    else {
        return StatusCode::NOT_ACCEPTABLE.into_response();
    };
    // Rendering thousands of series takes milliseconds, which would delay the requests of this thread.
    let page = tokio::task::spawn_blocking(move || {
        let page = telemetry.0.metrics.render(format);
        if is_gzip { compress(&page) } else { Ok(page) }
    });
    let Ok(Ok(page)) = page.await else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let mut response = page.into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(VARY, HeaderValue::from_static("accept, accept-encoding"));
    if is_gzip {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

/// Returns the format with the highest weight. Only a range of its name selects protobuf, and OpenMetrics
/// needs one to win a tie.
fn negotiate_format(headers: &HeaderMap) -> Option<Format> {
    let protobuf = weight(headers, ACCEPT, "application/vnd.google.protobuf");
    let openmetrics = weight(headers, ACCEPT, "application/openmetrics-text");
    let text = weight(headers, ACCEPT, "text/plain");
    if let Weight::Exact(weight @ 1..) = protobuf
        && weight >= openmetrics.value().max(text.value())
    {
        return Some(Format::Protobuf);
    }
    let is_preferred = match openmetrics {
        Weight::Exact(weight) => weight > 0 && weight >= text.value(),
        other => other.value() > text.value(),
    };
    match (is_preferred, text.is_excluded()) {
        (true, _) => Some(Format::OpenMetrics),
        // A scraper that lists neither format still receives a page.
        (false, false) => Some(Format::Text),
        (false, true) if openmetrics == Weight::Unlisted => Some(Format::OpenMetrics),
        (false, true) => None,
    }
}

/// Returns whether gzip is acceptable with at least the weight of no encoding, which is acceptable unless
/// it is excluded.
fn negotiate_gzip(headers: &HeaderMap) -> Option<bool> {
    let gzip = weight(headers, ACCEPT_ENCODING, "gzip").value();
    let identity = weight(headers, ACCEPT_ENCODING, "identity");
    match identity {
        Weight::Exact(weight) if gzip < weight => Some(false),
        _ if gzip > 0 => Some(true),
        identity => (!identity.is_excluded()).then_some(false),
    }
}

/// Returns the weight of a name in all headers of a kind, which form one list (RFC 9110, section 5.3).
fn weight(headers: &HeaderMap, header: HeaderName, name: &str) -> Weight {
    Weight::of(name, headers.get_all(header).iter().filter_map(|value| value.to_str().ok()))
}

fn compress(page: &[u8]) -> io::Result<Vec<u8>> {
    let buffer = Vec::with_capacity(page.len() / 8);
    let mut gzip = flate2::write::GzEncoder::new(buffer, flate2::Compression::fast());
    for chunk in page.chunks(CHUNK_LENGTH) {
        gzip.write_all(chunk)?;
        thread::yield_now();
    }
    gzip.finish()
}

async fn alive() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(header: HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header, HeaderValue::from_static(value))])
    }

    #[test]
    fn format_follows_accept_weights() {
        let (text, openmetrics) = (Some(Format::Text), Some(Format::OpenMetrics));
        for (accept, expected) in [
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                 application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;q=0.4,\
                 text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
                openmetrics,
            ),
            ("application/openmetrics-text", openmetrics),
            ("application/openmetrics-text, text/plain", openmetrics),
            ("text/plain;q=0, */*;q=0.1", openmetrics),
            ("text/*;q=0.1, application/*;q=0.2", openmetrics),
            ("text/plain;Q=0", openmetrics),
            (
                "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;\
                 encoding=delimited;q=0.6,application/openmetrics-text;version=1.0.0;q=0.5,\
                 text/plain;version=0.0.4;q=0.4,*/*;q=0.2",
                Some(Format::Protobuf),
            ),
            ("application/vnd.google.protobuf;q=0.1, text/plain;q=0.2", text),
            ("application/vnd.google.protobuf;q=0, */*", text),
            ("application/*", openmetrics),
            ("", text),
            ("*/*", text),
            ("text/plain", text),
            ("text/html, */*;q=0.1", text),
            ("application/json", text),
            ("application/openmetrics-text;q=0.1, text/plain", text),
            ("application/openmetrics-text; Q=0, */*;q=0.1", text),
            ("*/*;q=0", None),
            ("application/openmetrics-text;q=0, text/plain;q=0.000", None),
        ] {
            assert_eq!(negotiate_format(&headers(ACCEPT, accept)), expected, "{accept}");
        }
        assert_eq!(negotiate_format(&HeaderMap::new()), text);
    }

    #[test]
    fn encoding_follows_accept_weights() {
        for (accept, expected) in [
            ("", Some(false)),
            ("gzip", Some(true)),
            ("GZIP;Q=0.1", Some(true)),
            ("*", Some(true)),
            ("gzip;q=0.1, identity;q=0.5", Some(false)),
            ("gzip;Q=0", Some(false)),
            ("gzip;q=0, *", Some(false)),
            ("*;q=0", None),
            ("identity;q=0, br", None),
            ("identity;q=0, gzip;q=0.001", Some(true)),
        ] {
            assert_eq!(negotiate_gzip(&headers(ACCEPT_ENCODING, accept)), expected, "{accept}");
        }
    }
}
