//! `/readyz`, and the checks that a service adds to it.

use std::time::Duration;

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::{Map, Value, json};
use tower::BoxError;

use crate::telemetry::Telemetry;

impl Telemetry {
    /// Adds a check to `/readyz`, such as a ping of a database.
    ///
    /// `/readyz` runs all checks at once and responds 503 if one fails or takes longer than `limit`.
    /// `/readyz?verbose` lists them by name.
    ///
    /// ```
    /// # fn example(telemetry: observability::Telemetry) {
    /// use std::time::{Duration, SystemTime};
    ///
    /// telemetry.add_readiness_check("clock", Duration::from_secs(1), async || {
    ///     SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map(|_| ())
    /// });
    /// # }
    /// ```
    pub fn add_readiness_check<F, E>(
        &self,
        name: &'static str,
        limit: Duration,
        check: impl Fn() -> F + Send + Sync + 'static,
    ) where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError>,
    {
        self.0.readiness_checks.add(name, limit, move || {
            let result = check();
            Box::pin(async { result.await.map_err(Into::into) })
        });
    }
}

/// Responds 503 while the service drains or a check fails.
pub(super) async fn ready(
    State(telemetry): State<Telemetry>,
    RawQuery(query): RawQuery,
) -> Response {
    let results = telemetry.0.readiness_checks.run().await;
    let (code, status) = if !telemetry.is_ready() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining")
    } else if results.values().any(Result::is_err) {
        (StatusCode::SERVICE_UNAVAILABLE, "unavailable")
    } else {
        (StatusCode::OK, "ok")
    };
    let mut body = json!({"status": status});
    if query.is_some_and(|query| query.split('&').any(|parameter| parameter == "verbose")) {
        let text = |result: Result<(), String>| result.err().unwrap_or_else(|| "ok".to_owned());
        let checks =
            results.into_iter().map(|(name, result)| (name.to_owned(), text(result).into()));
        body["checks"] = Value::Object(checks.collect::<Map<_, _>>());
    }
    (code, Json(body)).into_response()
}
