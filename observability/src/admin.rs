//! `/metrics` and the probes: no spans, no samples, no log lines.

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;

use crate::telemetry::Telemetry;

/// Prometheus' text exposition format 0.0.4.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

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

async fn metrics(State(telemetry): State<Telemetry>) -> Response {
    // A page of thousands of series takes milliseconds, in which no request is to stand still.
    match tokio::task::spawn_blocking(move || telemetry.0.metrics.render()).await {
        Ok(page) => {
            ([(CONTENT_TYPE, TEXT_FORMAT), (CACHE_CONTROL, "no-store")], page).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
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
