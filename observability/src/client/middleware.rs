//! The telemetry middleware: injects the trace context, and records span and metrics of each call.

use std::sync::Arc;
use std::time::Instant;

use http::{Extensions, StatusCode};
use http_body::Body as HttpBody;
use opentelemetry::trace::{Span as _, SpanBuilder, SpanKind, Status, TraceContextExt, Tracer};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{SdkTracer, Span};
use reqwest::{Request, Response, ResponseBuilderExt};
use reqwest_middleware::{Middleware, Next};

use super::circuit_breaker::{Admission, CircuitBreaker};
use super::retry::ResendCount;
use crate::error::ErrorKind;
use crate::http::{
    BodyEnd, InstrumentedBody, KnownMethod, MAX_CLIENT_TEXT_BYTES, OnBodyEnd, redact_url, truncate,
};
use crate::metrics::{ClientMetrics, Outcome};
use crate::telemetry::Telemetry;
use crate::traces::relative_end;

pub(super) struct TelemetryMiddleware {
    telemetry: Telemetry,
    /// `None` if tracing is disabled.
    tracer: Option<SdkTracer>,
    breaker: Option<CircuitBreaker>,
}

impl TelemetryMiddleware {
    pub(super) fn new(telemetry: Telemetry, breaker: Option<CircuitBreaker>) -> Self {
        Self { tracer: telemetry.tracer(), telemetry, breaker }
    }

    /// Starts a call and injects its context.
    fn start_call(
        &self,
        request: &mut Request,
        resend: Option<ResendCount>,
        admission: Option<Admission>,
    ) -> CallGuard {
        let telemetry = &self.telemetry.0;
        let method = telemetry.otel.known_methods.classify(request.method());
        let metrics = telemetry.metrics.client(request.url());
        metrics.active(method).increment(1);
        let started = Instant::now();
        // A copy, because a propagator of the service may enter another context.
        let caller = Context::current();
        let span = self.start_span(&caller, request, method, &metrics, resend);
        let guard = CallGuard {
            telemetry: self.telemetry.clone(),
            metrics,
            started,
            method,
            span,
            status: None,
            admission,
            is_finished: false,
        };
        // The guard records the end of the call even if a propagator panics.
        let own = guard.span.as_ref().map(Span::span_context);
        telemetry.propagation.inject(own, &caller, request.headers_mut());
        guard
    }

    /// Starts the span of a call, which is not the current one because the layers below create no spans.
    /// Returns `None` if the context of the caller is to be injected.
    fn start_span(
        &self,
        caller: &Context,
        request: &Request,
        method: KnownMethod,
        metrics: &ClientMetrics,
        resend: Option<ResendCount>,
    ) -> Option<Span> {
        let tracer = self.tracer.as_ref()?;
        let parent = caller.span();
        let parent = parent.span_context();
        if parent.is_valid() && !parent.is_sampled() && self.telemetry.0.is_parent_based {
            return None;
        }
        // Room for the status and the error of the call.
        let mut attributes = Vec::with_capacity(7);
        attributes.extend([
            KeyValue::new("http.request.method", method.as_str()),
            KeyValue::new("server.address", Arc::clone(&metrics.server.address)),
            KeyValue::new("server.port", i64::from(metrics.server.port)),
            KeyValue::new("url.full", redact_url(request.url())),
        ]);
        if method == KnownMethod::OTHER {
            let original = truncate(request.method().as_str(), MAX_CLIENT_TEXT_BYTES).to_owned();
            attributes.push(KeyValue::new("http.request.method_original", original));
        }
        if let Some(ResendCount(count)) = resend {
            attributes.push(KeyValue::new("http.request.resend_count", i64::from(count)));
        }
        let mut builder = SpanBuilder::from_name(method.span_name()).with_kind(SpanKind::Client);
        builder.attributes = Some(attributes);
        let span = tracer.build_with_context(builder, caller);
        span.span_context().is_valid().then_some(span)
    }
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
        let mut guard = self.start_call(&mut request, extensions.get().copied(), admission);
        let result = next.run(request, extensions).await;
        let response = match result {
            Ok(response) => response,
            Err(error) => {
                guard.finish(Some(ErrorKind::from_middleware(&error)));
                return Err(error);
            }
        };
        guard.status = Some(response.status());
        match extensions.get_mut::<GuardSlot>() {
            Some(slot) => {
                slot.0 = Some(guard);
                Ok(response)
            }
            None => Ok(guard.instrument_body(response)),
        }
    }
}

/// Place in the extensions of a call where the middleware leaves the guard for a caller that reads the body
/// itself.
#[derive(Default)]
pub(super) struct GuardSlot(Option<CallGuard>);

impl GuardSlot {
    pub(super) fn take(&mut self) -> Option<CallGuard> {
        self.0.take()
    }
}

/// Extensions demand it. No middleware clones those of a call before the guard is in its place.
impl Clone for GuardSlot {
    fn clone(&self) -> Self {
        Self(None)
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
    span: Option<Span>,
    status: Option<StatusCode>,
    admission: Option<Admission>,
    is_finished: bool,
}

impl CallGuard {
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
        let outcome = Outcome { method: self.method, status: self.status, error };
        let span_context = self.span.as_ref().map(Span::span_context);
        let exemplar = span_context.and_then(|span| self.telemetry.exemplar_context(span));
        self.metrics.record(outcome, duration, exemplar);
        let Some(span) = self.span.as_mut().filter(|span| span.is_recording()) else { return };
        span.set_attributes(outcome.attributes());
        // Cancellation by the caller is not an error of the server.
        if error.is_some_and(|error| error != ErrorKind::Canceled) {
            span.set_status(Status::error(""));
        }
        span.end_with_timestamp(relative_end(duration));
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
