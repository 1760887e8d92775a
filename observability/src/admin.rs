//! `/metrics` and the probes: no spans, no samples, no log lines.

use std::io::Write;

use axum::extract::State;
use axum::http::header::{
    ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, VARY,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;

use crate::metrics::openmetrics;
use crate::telemetry::Telemetry;

impl Telemetry {
    /// The routes that every service has beside its own.
    pub(crate) fn admin_routes(&self) -> Router {
        Router::new()
            .route("/metrics", get(metrics))
            .route("/health", get(alive))
            .route("/livez", get(alive))
            .route("/readyz", get(ready))
            .with_state(self.clone())
    }
}

/// In OpenMetrics with exemplars where the scraper asks for it, compressed where it may be.
async fn metrics(State(telemetry): State<Telemetry>, headers: HeaderMap) -> Response {
    let open = openmetrics::prefers_openmetrics(&list(&headers, ACCEPT));
    let gzip = openmetrics::accept_weight(&list(&headers, ACCEPT_ENCODING), "gzip") > 0.0;
    // A page of thousands of series takes milliseconds, in which no request is to stand still.
    let page = tokio::task::spawn_blocking(move || {
        let metrics = &telemetry.0.metrics;
        let page = if open { metrics.render_openmetrics() } else { metrics.render() };
        if gzip { compress(page.as_bytes()) } else { Ok(page.into_bytes()) }
    });
    let Ok(Ok(page)) = page.await else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let media_type =
        if open { openmetrics::OPENMETRICS_CONTENT_TYPE } else { openmetrics::TEXT_CONTENT_TYPE };
    let mut response = page.into_response();
    let answer = response.headers_mut();
    answer.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    answer.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer.insert(VARY, HeaderValue::from_static("accept, accept-encoding"));
    if gzip {
        answer.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

/// All headers of a name as the one list that they are (RFC 9110, section 5.3).
fn list(headers: &HeaderMap, name: HeaderName) -> String {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.collect::<Vec<_>>().join(",")
}

fn compress(page: &[u8]) -> std::io::Result<Vec<u8>> {
    let fast = flate2::Compression::fast();
    let mut gzip = flate2::write::GzEncoder::new(Vec::with_capacity(page.len() / 8), fast);
    gzip.write_all(page)?;
    gzip.finish()
}

async fn alive() -> Json<serde_json::Value> {
    Json(json!({"status": "ok"}))
}

async fn ready(State(telemetry): State<Telemetry>) -> Response {
    if telemetry.is_ready() {
        alive().await.into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"status": "draining"}))).into_response()
    }
}
