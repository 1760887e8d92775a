//! Faults on purpose: what `/echo` can be made to do wrong, and the switch for it.

use std::future::pending;
use std::io;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use observability::{ErrorKind, Failure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The longest delay that can be asked for, in milliseconds.
const MAX_DELAY_MS: u64 = 60_000;

/// What `/echo` does wrong now; a clone is the same switch.
#[derive(Debug, Clone, Default)]
pub struct Faults(Arc<RwLock<Plan>>);

/// What to do wrong. All of it absent is nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Plan {
    /// Wait this long before anything else, in milliseconds.
    delay_ms: u64,
    /// The share of requests that are answered with `status`, from 0 to 1; absent with a `status`
    /// it is all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    error_rate: Option<f64>,
    /// Answer a 2xx body that is no echo.
    garbage: bool,
    /// Never answer.
    hang: bool,
    /// Close the connection before the answer is whole.
    reset: bool,
    /// The status of errors; 500 unless told otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
}

impl Plan {
    fn problem(&self) -> Option<String> {
        if self.delay_ms > MAX_DELAY_MS {
            return Some(format!("delay_ms: expected at most {MAX_DELAY_MS}"));
        }
        if self.error_rate.is_some_and(|rate| !(0.0..=1.0).contains(&rate)) {
            return Some("error_rate: expected a number from 0 to 1".to_owned());
        }
        if self.status.is_some_and(|status| !(300..=599).contains(&status)) {
            return Some("status: expected a status from 300 to 599".to_owned());
        }
        None
    }

    /// The status to fail with this time.
    fn error(&self) -> Option<StatusCode> {
        let rate = self.error_rate.unwrap_or(if self.status.is_some() { 1.0 } else { 0.0 });
        if rate <= 0.0 || rand::random::<f64>() >= rate {
            return None;
        }
        StatusCode::from_u16(self.status.unwrap_or(500)).ok()
    }
}

impl Faults {
    fn plan(&self) -> Plan {
        *self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, plan: Plan) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = plan;
    }
}

/// Around `/echo`: what is planned happens, in the order delay, hang, reset, error, garbage.
pub(crate) async fn strike(State(faults): State<Faults>, request: Request, next: Next) -> Response {
    let plan = faults.plan();
    if plan.delay_ms > 0 {
        tokio::time::sleep(Duration::from_millis(plan.delay_ms)).await;
    }
    if plan.hang {
        pending::<()>().await;
    }
    if plan.reset {
        return reset();
    }
    if let Some(status) = plan.error() {
        let details = "a fault on purpose".to_owned();
        let mut response = (status, Json(json!({"error": "fault"}))).into_response();
        if status.is_server_error() {
            let failure = Failure { kind: ErrorKind::Status(status), details, http_status: status };
            response.extensions_mut().insert(failure);
        }
        return response;
    }
    if plan.garbage {
        return ([(CONTENT_TYPE, "application/json")], "{\"echo\":").into_response();
    }
    next.run(request).await
}

/// An answer that announces more than it sends, so that the connection is closed in its midst.
fn reset() -> Response {
    let broken = Body::new(Broken(Some(Bytes::from_static(b"{\"echo\":"))));
    let headers = [(CONTENT_TYPE, "application/json"), (CONTENT_LENGTH, "100")];
    (headers, broken).into_response()
}

struct Broken(Option<Bytes>);

impl http_body::Body for Broken {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, io::Error>>> {
        std::task::Poll::Ready(Some(match self.0.take() {
            Some(bytes) => Ok(http_body::Frame::data(bytes)),
            None => Err(io::Error::new(io::ErrorKind::ConnectionReset, "a fault on purpose")),
        }))
    }
}

/// `/faults`: PUT sets them all, GET shows them, DELETE takes them away. 404 where they are not
/// enabled.
pub(crate) fn switch(faults: Option<Faults>) -> Router {
    match faults {
        Some(faults) => {
            Router::new().route("/faults", get(show).put(set).delete(clear)).with_state(faults)
        }
        None => Router::new().route("/faults", axum::routing::any(async || StatusCode::NOT_FOUND)),
    }
}

async fn show(State(faults): State<Faults>) -> Json<Plan> {
    Json(faults.plan())
}

/// Whatever the content type says: `curl -d` says it is a form.
async fn set(State(faults): State<Faults>, body: Bytes) -> Response {
    // An object first: a struct alone would be read from an array, too.
    let plan =
        serde_json::from_slice(&body).and_then(|plan| Plan::deserialize(Value::Object(plan)));
    let problem = match plan {
        Ok(plan) => match plan.problem() {
            None => {
                faults.set(plan);
                return Json(plan).into_response();
            }
            Some(problem) => problem,
        },
        Err(error) => error.to_string(),
    };
    (StatusCode::BAD_REQUEST, Json(json!({"error": problem}))).into_response()
}

async fn clear(State(faults): State<Faults>) -> Json<Plan> {
    faults.set(Plan::default());
    show(State(faults)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(json: &str) -> Plan {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn fault_defaults() {
        assert_eq!(plan(r#"{"status":404}"#).error(), Some(StatusCode::NOT_FOUND));
        assert_eq!(plan(r#"{"error_rate":1}"#).error(), Some(StatusCode::INTERNAL_SERVER_ERROR));
        assert_eq!(plan(r#"{"error_rate":0,"status":500}"#).error(), None);
        assert_eq!(plan("{}").error(), None);
    }

    #[test]
    fn error_rate_is_statistical() {
        let plan = plan(r#"{"error_rate":0.5}"#);
        let failed = (0..10_000).filter(|_| plan.error().is_some()).count();
        // Six standard deviations either way.
        assert!((4_700..5_300).contains(&failed), "{failed}");
    }

    #[test]
    fn invalid_config_is_rejected() {
        for json in [r#"{"delay_ms":60001}"#, r#"{"error_rate":1.5}"#, r#"{"status":200}"#] {
            assert!(plan(json).problem().is_some(), "{json}");
        }
        assert!(serde_json::from_str::<Plan>(r#"{"delay":1}"#).is_err());
    }
}
