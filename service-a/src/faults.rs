//! Fault injection: the `/faults` routes, and the middleware that makes `/echo` fail.

use std::future::pending;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use axum::{Json, Router};
use http_body::Frame;
use observability::{ErrorKind, Failure};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Maximum injected delay, in milliseconds.
const MAX_DELAY_MS: u64 = 60_000;

/// Start of a response body that is not complete JSON.
const TRUNCATED_ECHO: &str = "{\"echo\":";

/// Faults that `/echo` has at the moment. A clone shares them.
#[derive(Debug, Clone, Default)]
pub struct FaultInjector(Arc<RwLock<ActiveFaults>>);

impl FaultInjector {
    fn set(&self, config: FaultConfig) {
        *self.0.write() = ActiveFaults::new(config, Instant::now());
    }

    fn current(&self) -> FaultConfig {
        self.0.read().at(Instant::now())
    }
}

/// Faults and the time at which they end.
#[derive(Debug, Default)]
struct ActiveFaults {
    config: FaultConfig,
    expires_at: Option<Instant>,
}

impl ActiveFaults {
    fn new(config: FaultConfig, now: Instant) -> Self {
        let ttl = config.ttl_ms.map(Duration::from_millis);
        Self { config, expires_at: ttl.and_then(|ttl| now.checked_add(ttl)) }
    }

    /// Returns the faults at this time, with the time that is left, or none if they have expired.
    fn at(&self, now: Instant) -> FaultConfig {
        let Some(expires_at) = self.expires_at else { return self.config };
        let left = expires_at.saturating_duration_since(now);
        match u64::try_from(left.as_millis()) {
            Ok(0) | Err(_) => FaultConfig::default(),
            ttl_ms => FaultConfig { ttl_ms: ttl_ms.ok(), ..self.config },
        }
    }
}

/// Faults to inject. The default injects none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FaultConfig {
    /// Delay before anything else, in milliseconds.
    delay_ms: u64,
    /// Share of requests that receive `status`, from 0 to 1. The default is 1 if `status` is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    error_rate: Option<f64>,
    /// Respond 200 with a body that is not JSON.
    #[serde(rename = "garbage")]
    malformed_body: bool,
    /// Never respond.
    #[serde(rename = "hang")]
    no_response: bool,
    /// Close the connection before the response is complete.
    reset: bool,
    /// Status of injected errors. The default is 500.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    /// Time after which all faults are cleared, in milliseconds. A client that is killed leaves none behind.
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_ms: Option<u64>,
}

impl FaultConfig {
    fn validate(self) -> Result<Self, String> {
        if self.delay_ms > MAX_DELAY_MS {
            return Err(format!("delay_ms: expected at most {MAX_DELAY_MS}"));
        }
        if self.error_rate.is_some_and(|rate| !(0.0..=1.0).contains(&rate)) {
            return Err("error_rate: expected a number from 0 to 1".to_owned());
        }
        if self.status.is_some_and(|status| !(300..=599).contains(&status)) {
            return Err("status: expected a status from 300 to 599".to_owned());
        }
        Ok(self)
    }

    /// Returns the status of an injected error, or `None` if this request is spared.
    fn error_status(&self) -> Option<StatusCode> {
        let rate = self.error_rate.unwrap_or(if self.status.is_some() { 1.0 } else { 0.0 });
        if rate <= 0.0 || rand::random::<f64>() >= rate {
            return None;
        }
        StatusCode::from_u16(self.status.unwrap_or(500)).ok()
    }
}

/// Middleware that injects faults, in the order delay, no response, reset, error, malformed body.
pub(crate) async fn inject_fault(
    State(faults): State<FaultInjector>,
    request: Request,
    next: Next,
) -> Response {
    let config = faults.current();
    if config.delay_ms > 0 {
        tokio::time::sleep(Duration::from_millis(config.delay_ms)).await;
    }
    if config.no_response {
        pending::<()>().await;
    }
    if config.reset {
        return truncated_response();
    }
    if let Some(status) = config.error_status() {
        let mut response = (status, Json(json!({"error": "fault"}))).into_response();
        if status.is_server_error() {
            let failure = Failure::new(ErrorKind::Status(status), status, "injected fault");
            response.extensions_mut().insert(failure);
        }
        return response;
    }
    if config.malformed_body {
        return ([(CONTENT_TYPE, "application/json")], TRUNCATED_ECHO).into_response();
    }
    next.run(request).await
}

/// Returns a response that is shorter than its `Content-Length`, so that hyper closes the connection.
fn truncated_response() -> Response {
    let body = Body::new(TruncatedBody(Some(Bytes::from_static(TRUNCATED_ECHO.as_bytes()))));
    ([(CONTENT_TYPE, "application/json"), (CONTENT_LENGTH, "100")], body).into_response()
}

struct TruncatedBody(Option<Bytes>);

impl http_body::Body for TruncatedBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        Poll::Ready(Some(match self.0.take() {
            Some(bytes) => Ok(Frame::data(bytes)),
            None => Err(io::Error::new(io::ErrorKind::ConnectionReset, "injected fault")),
        }))
    }
}

/// Returns the `/faults` routes: PUT sets the faults, GET returns them, DELETE clears them. Responds 404
/// if fault injection is disabled.
pub(crate) fn faults_router(faults: Option<FaultInjector>) -> Router {
    match faults {
        Some(faults) => Router::new()
            .route("/faults", get(get_faults).put(put_faults).delete(delete_faults))
            .with_state(faults),
        None => Router::new().route("/faults", any(async || StatusCode::NOT_FOUND)),
    }
}

async fn get_faults(State(faults): State<FaultInjector>) -> Json<FaultConfig> {
    Json(faults.current())
}

/// Accepts any content type because `curl -d` sends that of a form.
async fn put_faults(State(faults): State<FaultInjector>, body: Bytes) -> Response {
    // Parsed as an object first because serde also accepts an array for a struct.
    let config = serde_json::from_slice(&body)
        .and_then(|object| FaultConfig::deserialize(Value::Object(object)))
        .map_err(|error| error.to_string())
        .and_then(FaultConfig::validate);
    match config {
        Ok(config) => {
            faults.set(config);
            Json(config).into_response()
        }
        Err(error) => (StatusCode::BAD_REQUEST, Json(json!({"error": error}))).into_response(),
    }
}

async fn delete_faults(State(faults): State<FaultInjector>) -> Json<FaultConfig> {
    faults.set(FaultConfig::default());
    Json(FaultConfig::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: &str) -> FaultConfig {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn fault_defaults() {
        assert_eq!(config(r#"{"status":404}"#).error_status(), Some(StatusCode::NOT_FOUND));
        let rate_only = config(r#"{"error_rate":1}"#);
        assert_eq!(rate_only.error_status(), Some(StatusCode::INTERNAL_SERVER_ERROR));
        assert_eq!(config(r#"{"error_rate":0,"status":500}"#).error_status(), None);
        assert_eq!(config("{}").error_status(), None);
    }

    #[test]
    fn error_rate_is_statistical() {
        let config = config(r#"{"error_rate":0.5}"#);
        let failed = (0..10_000).filter(|_| config.error_status().is_some()).count();
        // Six standard deviations on each side.
        assert!((4_700..5_300).contains(&failed), "{failed}");
    }

    #[test]
    fn invalid_config_is_rejected() {
        for json in [r#"{"delay_ms":60001}"#, r#"{"error_rate":1.5}"#, r#"{"status":200}"#] {
            assert!(config(json).validate().is_err(), "{json}");
        }
        assert!(serde_json::from_str::<FaultConfig>(r#"{"delay":1}"#).is_err());
    }

    #[test]
    fn faults_end_after_ttl() {
        let now = Instant::now();
        let faults = ActiveFaults::new(config(r#"{"hang":true,"ttl_ms":60000}"#), now);
        let left = |ms| faults.at(now + Duration::from_millis(ms));
        assert_eq!(left(0), faults.config);
        assert_eq!(left(59_999), config(r#"{"hang":true,"ttl_ms":1}"#));
        assert_eq!(left(60_000), FaultConfig::default());
        assert_eq!(left(90_000), FaultConfig::default());
        for unlimited in [r#"{"hang":true}"#, r#"{"hang":true,"ttl_ms":18446744073709551615}"#] {
            let faults = ActiveFaults::new(config(unlimited), now);
            assert!(faults.at(now + Duration::from_secs(1_000_000)).no_response, "{unlimited}");
        }
    }
}
