//! The guard of one request, and the responses that the layer sends itself.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use axum::extract::{MatchedPath, Request};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use opentelemetry::trace::{Status, TraceContextExt};
use opentelemetry::{Context, ContextGuard};

use super::X_TRACE_ID;
use super::span::{context_of_current_span, generate_trace_context, set_request_attributes};
use crate::error::{ErrorKind, Failure};
use crate::hex::write_hex;
use crate::http::{BodyEnd, KnownMethod, OnBodyEnd};
use crate::logs::AccessEntry;
use crate::metrics::{Outcome, ServerMetrics, UNMATCHED_ROUTE};
use crate::telemetry::Telemetry;
use crate::traces::propagation;

/// State that the requests of one route share.
pub(super) struct RouteState {
    telemetry: Telemetry,
    /// Route of the first request. Differs from a later one only if the router is nested several times.
    route: OnceLock<&'static ServerMetrics>,
}

impl RouteState {
    pub(super) fn new(telemetry: Telemetry) -> Self {
        Self { telemetry, route: OnceLock::new() }
    }

    fn route(&self, request: &Request) -> &'static ServerMetrics {
        let matched = request.extensions().get::<MatchedPath>();
        let template = matched.map_or(UNMATCHED_ROUTE, MatchedPath::as_str);
        let metrics = &self.telemetry.0.metrics;
        let route = *self.route.get_or_init(|| metrics.route(template));
        if route.template == template { route } else { metrics.route(template) }
    }
}

/// Guard of one request, from its arrival to the end of the response body.
///
/// It records the request exactly once, also if it is dropped because the client disconnected.
pub(super) struct RequestGuard {
    state: Arc<RouteState>,
    route: &'static ServerMetrics,
    started: Instant,
    /// Wall clock at `started`. The end of the span is computed from it, because the clock may be set.
    started_at: SystemTime,
    method: KnownMethod,
    is_admitted: bool,
    cx: Context,
    status: Option<StatusCode>,
    failure: Option<Failure>,
    is_finished: bool,
}

impl RequestGuard {
    pub(super) fn start(state: Arc<RouteState>, request: &Request) -> Self {
        let (started, started_at) = (Instant::now(), SystemTime::now());
        let method = KnownMethod::from(request.method());
        let route = state.route(request);
        let telemetry = &state.telemetry.0;
        let cx = if telemetry.otel.disabled {
            propagation::extract(request.headers()).unwrap_or_else(generate_trace_context)
        } else {
            context_of_current_span()
        };
        set_request_attributes(&cx, request, method, route);
        telemetry.metrics.server_active(method).increment(1);
        let in_flight = telemetry.in_flight.fetch_add(1, Ordering::Relaxed);
        let is_admitted = in_flight < telemetry.config.max_concurrent_requests.get();
        Self {
            state,
            route,
            started,
            started_at,
            method,
            is_admitted,
            cx,
            status: None,
            failure: None,
            is_finished: false,
        }
    }

    /// Returns `false` if the request exceeds `MAX_CONCURRENT_REQUESTS`.
    pub(super) fn is_admitted(&self) -> bool {
        self.is_admitted
    }

    /// Returns `true` if the response ends with its head (RFC 9112, section 6.3). hyper does not poll the
    /// body of such a response.
    pub(super) fn has_no_body(&self, status: StatusCode) -> bool {
        status.is_informational()
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
            || self.method == KnownMethod::Head
            || (self.method == KnownMethod::Connect && status.is_success())
    }

    /// Makes the request's context the current one.
    pub(super) fn attach(&self) -> ContextGuard {
        self.cx.clone().attach()
    }

    /// Takes the handler's [`Failure`] from the response and adds the trace id.
    pub(super) fn on_response<B>(&mut self, response: &mut http::Response<B>) {
        self.status = Some(response.status());
        self.failure = response.extensions_mut().remove::<Failure>();
        // An upgrade needs its own `Connection` header.
        let is_upgrade = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if !self.state.telemetry.is_ready() && !is_upgrade {
            // A client with a persistent connection reconnects elsewhere before this one is closed.
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        let span = self.cx.span();
        if span.span_context().is_valid() {
            let mut id = [0; 32];
            write_hex(&mut id, &span.span_context().trace_id().to_bytes());
            if let Ok(id) = HeaderValue::from_bytes(&id) {
                response.headers_mut().insert(X_TRACE_ID, id);
            }
        }
    }

    /// Records the end of the request. `abort` is the reason if the response body is incomplete.
    ///
    /// The span ends here, even if a task that the handler spawned holds it.
    pub(super) fn finish(&mut self, abort: Option<(ErrorKind, String)>) {
        if std::mem::replace(&mut self.is_finished, true) {
            return;
        }
        let latency = self.started.elapsed();
        let telemetry = &self.state.telemetry;
        telemetry.0.metrics.server_active(self.method).decrement(1);
        telemetry.0.in_flight.fetch_sub(1, Ordering::Relaxed);
        let is_server_error = self.status.is_some_and(|status| status.is_server_error())
            || abort.as_ref().is_some_and(|(kind, _)| *kind != ErrorKind::Canceled);
        let (error, details) = match (&abort, &self.failure, self.status) {
            (Some((kind, details)), _, _) => (Some(*kind), details.as_str()),
            (None, Some(failure), _) => (Some(failure.kind), failure.details.as_str()),
            (None, None, Some(status)) => (
                status.is_server_error().then_some(ErrorKind::Status(status)),
                status.canonical_reason().unwrap_or_default(),
            ),
            (None, None, None) => (None, ""),
        };
        let outcome = Outcome { method: self.method, status: self.status, error };
        let span = self.cx.span();
        self.route.record(outcome, latency, telemetry.exemplar_context(span.span_context()));
        self.end_span(outcome, is_server_error.then_some(details), latency);

        let http_status = self.failure.as_ref().map(|failure| failure.http_status).or(self.status);
        telemetry.0.logger.access(&AccessEntry {
            endpoint: self.route.template,
            method: self.method.as_str(),
            http_status: http_status.map(|status| status.as_u16()),
            is_server_error,
            failure: error.as_ref().map(|kind| (kind.as_str(), details)),
            latency_ms: u64::try_from(latency.as_millis()).unwrap_or(u64::MAX),
            span: span.span_context(),
        });
    }

    fn end_span(&self, outcome: Outcome, error: Option<&str>, latency: Duration) {
        let span = self.cx.span();
        if !span.is_recording() {
            return;
        }
        outcome.set_attributes(&span);
        if let Some(error) = error {
            span.set_status(Status::error(error.to_owned()));
        }
        span.end_with_timestamp(self.started_at + latency);
    }
}

impl OnBodyEnd<axum::Error> for RequestGuard {
    fn end(&mut self, end: BodyEnd<'_, axum::Error>) {
        let abort = match end {
            BodyEnd::Complete => None,
            BodyEnd::Failed(error) => Some(format!("response body failed: {error}")),
            BodyEnd::Panicked => Some("response body panicked".to_owned()),
            // Dropping the guard records that the client disconnected.
            BodyEnd::Unread => return,
        };
        self.finish(abort.map(|details| (ErrorKind::Other, details)));
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        if !self.is_finished {
            let details = "client disconnected before the response completed".to_owned();
            self.finish(Some((ErrorKind::Canceled, details)));
        }
    }
}

/// Returns the response to a request that exceeds `MAX_CONCURRENT_REQUESTS`.
pub(super) fn overload_response() -> Response {
    let status = StatusCode::SERVICE_UNAVAILABLE;
    let body = axum::Json(serde_json::json!({"error": ErrorKind::Overload.as_str()}));
    let response = (status, [(header::RETRY_AFTER, "1")], body).into_response();
    with_failure(response, ErrorKind::Overload, "too many requests in flight")
}

/// Returns the response to a request whose handler panicked.
pub(super) fn panic_response() -> Response {
    let response = StatusCode::INTERNAL_SERVER_ERROR.into_response();
    with_failure(response, ErrorKind::Other, "handler panicked")
}

fn with_failure(mut response: Response, kind: ErrorKind, details: &str) -> Response {
    let failure = Failure::new(kind, response.status(), details);
    response.extensions_mut().insert(failure);
    response
}
