//! The telemetry middleware: injects the trace context, and records span and metrics of each call.

use std::sync::Arc;
use std::time::Instant;

use http::{Extensions, StatusCode};
use http_body::Body as HttpBody;
use opentelemetry::trace::{Status, TraceContextExt};
use opentelemetry::{Context, KeyValue};
use parking_lot::Mutex;
use reqwest::{Request, Response, ResponseBuilderExt};
use reqwest_middleware::{Middleware, Next};
use tracing::Span;
use tracing::field::Empty;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::circuit_breaker::{Admission, CircuitBreaker};
use super::retry::ResendCount;
use crate::error::ErrorKind;
use crate::http::{
    BodyEnd, InstrumentedBody, KnownMethod, MAX_CLIENT_TEXT_BYTES, OnBodyEnd, redact_url, truncate,
};
use crate::metrics::{ClientMetrics, Outcome};
use crate::telemetry::Telemetry;
use crate::traces::{end_after, propagation};

pub(super) struct TelemetryMiddleware {
    pub(super) telemetry: Telemetry,
    pub(super) breaker: Option<CircuitBreaker>,
}

#[async_trait::async_trait]
impl Middleware for TelemetryMiddleware {
    async fn handle(
        &self,
        mut request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        let admission = match self.breaker.as_ref().map(CircuitBreaker::try_acquire).transpose() {
            Ok(admission) => admission,
            Err(open) => {
                self.telemetry.0.metrics.client(request.url()).record_rejected();
                return Err(reqwest_middleware::Error::middleware(open));
            }
        };
        let mut guard = CallGuard::start(&self.telemetry, &request, admission);
        if let Some(ResendCount(count)) = extensions.get() {
            let attribute = KeyValue::new("http.request.resend_count", i64::from(*count));
            guard.cx.span().set_attribute(attribute);
        }
        let propagators = self.telemetry.0.otel.propagators;
        propagation::inject_all(propagators, &guard.cx, request.headers_mut());
        let slot = extensions.get::<GuardSlot>().cloned();
        // The span is not entered because the layers below create no spans.
        let result = next.run(request, extensions).await;
        let response = match result {
            Ok(response) => response,
            Err(error) => {
                guard.finish(Some(ErrorKind::from_middleware(&error)));
                return Err(error);
            }
        };
        guard.status = Some(response.status());
        match slot {
            Some(slot) => {
                slot.set(guard);
                Ok(response)
            }
            None => Ok(guard.instrument_body(response)),
        }
    }
}

/// Place where the middleware leaves the guard for a caller that reads the body itself.
#[derive(Clone, Default)]
pub(super) struct GuardSlot(Arc<Mutex<Option<CallGuard>>>);

impl GuardSlot {
    fn set(&self, guard: CallGuard) {
        *self.0.lock() = Some(guard);
    }

    pub(super) fn take(&self) -> Option<CallGuard> {
        self.0.lock().take()
    }
}

/// Guard of one call, from its start to the end of the response body.
///
/// It records the call exactly once, also if it is dropped because the caller cancelled.
pub(super) struct CallGuard {
    telemetry: Telemetry,
    metrics: Arc<ClientMetrics>,
    started: Instant,
    method: KnownMethod,
    cx: Context,
    /// Keeps the `tracing` span open. [`finish`](Self::finish) ends the OpenTelemetry span.
    _span: Span,
    status: Option<StatusCode>,
    admission: Option<Admission>,
    is_finished: bool,
}

impl CallGuard {
    fn start(telemetry: &Telemetry, request: &Request, admission: Option<Admission>) -> Self {
        let method = telemetry.0.otel.known_methods.classify(request.method());
        let (span, cx) = client_span(telemetry);
        let metrics = telemetry.0.metrics.client(request.url());
        if !span.is_disabled() && cx.span().is_recording() {
            cx.span().update_name(method.span_name());
            cx.span().set_attributes([
                KeyValue::new("http.request.method", method.as_str()),
                KeyValue::new("server.address", Arc::clone(&metrics.server.address)),
                KeyValue::new("server.port", i64::from(metrics.server.port)),
                KeyValue::new("url.full", redact_url(request.url())),
            ]);
            if method == KnownMethod::OTHER {
                let original =
                    truncate(request.method().as_str(), MAX_CLIENT_TEXT_BYTES).to_owned();
                cx.span().set_attribute(KeyValue::new("http.request.method_original", original));
            }
        }
        metrics.active(method).increment(1);
        Self {
            telemetry: telemetry.clone(),
            metrics,
            started: Instant::now(),
            method,
            cx,
            _span: span,
            status: None,
            admission,
            is_finished: false,
        }
    }

    /// Records the end of the call. A status of 4xx or 5xx is an error by itself.
    pub(super) fn finish(&mut self, error: Option<ErrorKind>) {
        if std::mem::replace(&mut self.is_finished, true) {
            return;
        }
        let duration = self.started.elapsed();
        let is_error = |status: &StatusCode| status.is_client_error() || status.is_server_error();
        let error = error.or_else(|| self.status.filter(is_error).map(ErrorKind::Status));
        if let Some(admission) = self.admission.take() {
            admission.record(error);
        }
        self.metrics.active(self.method).decrement(1);
        let span = self.cx.span();
        let outcome = Outcome { method: self.method, status: self.status, error };
        let exemplar = self.telemetry.exemplar_context(span.span_context());
        self.metrics.record(outcome, duration, exemplar);
        if !span.is_recording() {
            return;
        }
        outcome.set_attributes(&span);
        // Cancellation by the caller is not an error of the server.
        if error.is_some_and(|error| error != ErrorKind::Canceled) {
            span.set_status(Status::error(""));
        }
        end_after(&span, duration);
    }

    /// Moves the guard into the body of the response.
    fn instrument_body(mut self, response: Response) -> Response {
        let url = response.url().clone();
        let (mut parts, body) = http::Response::from(response).into_parts();
        let guard = if body.is_end_stream() {
            self.finish(None);
            None
        } else {
            Some(self)
        };
        // `http::Response` has no URL. reqwest restores it from an extension that only its builder sets.
        if let Ok(carrier) = http::Response::builder().url(url).body(()) {
            parts.extensions.extend(carrier.into_parts().0.extensions);
        }
        let body = reqwest::Body::wrap(InstrumentedBody::new(body, guard, None));
        Response::from(http::Response::from_parts(parts, body))
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        self.finish(Some(ErrorKind::Canceled));
    }
}

impl OnBodyEnd<reqwest::Error> for CallGuard {
    fn end(&mut self, end: BodyEnd<'_, reqwest::Error>) {
        self.finish(match end {
            // A caller that reads only the head has the outcome of the head.
            BodyEnd::Complete { .. } | BodyEnd::Unread => None,
            BodyEnd::Failed(error) => Some(ErrorKind::from_reqwest(error)),
            BodyEnd::Panicked => Some(ErrorKind::Other),
        });
    }
}

/// Creates the span of a call and the context to inject. Without a span, that is the caller's context.
fn client_span(telemetry: &Telemetry) -> (Span, Context) {
    let unrecorded = Context::map_current(|cx| {
        let caller = cx.span();
        let caller = caller.span_context();
        let is_unsampled = caller.is_valid() && !caller.is_sampled();
        let is_unrecorded = is_unsampled && telemetry.0.is_parent_based;
        (telemetry.0.otel.disabled || is_unrecorded).then(|| cx.clone())
    });
    if let Some(caller) = unrecorded {
        return (Span::none(), caller);
    }
    // The declared fields reserve room for the attributes, which are set through the OpenTelemetry API.
    let span = tracing::info_span!(
        target: "observability",
        "http.client.request",
        otel.kind = "client",
        http.request.method = Empty,
        http.response.status_code = Empty,
        server.address = Empty,
        server.port = Empty,
        url.full = Empty,
    );
    let cx = if span.is_disabled() { Context::current() } else { span.context() };
    let cx = if cx.span().span_context().is_valid() { cx } else { Context::current() };
    (span, cx)
}
