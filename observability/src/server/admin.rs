//! Admin routes: `/metrics` and the probes. They have no spans, metrics and log lines.

use std::io::{self, Write};

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
use crate::metrics::openmetrics::{
    OPENMETRICS_CONTENT_TYPE, TEXT_CONTENT_TYPE, accept_weight, prefers_openmetrics,
};
use crate::telemetry::Telemetry;

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

/// Responds with OpenMetrics and exemplars if the scraper prefers it, and with gzip if it accepts that.
async fn metrics(State(telemetry): State<Telemetry>, headers: HeaderMap) -> Response {
    let is_openmetrics = prefers_openmetrics(&join_values(&headers, ACCEPT));
    let is_gzip = accept_weight(&join_values(&headers, ACCEPT_ENCODING), "gzip") > 0.0;
    // Rendering thousands of series takes milliseconds, which would delay the requests of this thread.
    let page = tokio::task::spawn_blocking(move || {
        let metrics = &telemetry.0.metrics;
        let page = if is_openmetrics { metrics.render_openmetrics() } else { metrics.render() };
        if is_gzip { compress(page.as_bytes()) } else { Ok(page.into_bytes()) }
    });
    let Ok(Ok(page)) = page.await else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let content_type = if is_openmetrics { OPENMETRICS_CONTENT_TYPE } else { TEXT_CONTENT_TYPE };
    let mut response = page.into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(VARY, HeaderValue::from_static("accept, accept-encoding"));
    if is_gzip {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

/// Joins all headers of a name to one list (RFC 9110, section 5.3).
fn join_values(headers: &HeaderMap, name: HeaderName) -> String {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.collect::<Vec<_>>().join(",")
}

fn compress(page: &[u8]) -> io::Result<Vec<u8>> {
    let buffer = Vec::with_capacity(page.len() / 8);
    let mut gzip = flate2::write::GzEncoder::new(buffer, flate2::Compression::fast());
    gzip.write_all(page)?;
    gzip.finish()
}

async fn alive() -> Json<Value> {
    Json(json!({"status": "ok"}))
}
