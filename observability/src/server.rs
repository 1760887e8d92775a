//! What stands around a router: tower-http's trace layer with our spans, and inside it one guard a
//! request that measures, logs and answers with the trace id.
//!
//! The guard (`RequestGuard`) lives from the request's arrival to the end of the response body and
//! fires exactly once, also where the caller goes away first.

pub use crate::serve::ShutdownSignals;

use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::task::{Context as TaskContext, Poll};
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Request};
use axum::response::{IntoResponse, Response};
use axum::routing::Route;
use axum::routing::future::RouteFuture;
use http::{HeaderName, HeaderValue, StatusCode, Version, header};
use http_body::Body as HttpBody;
use opentelemetry::trace::{SpanContext, Status, TraceContextExt};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator};
use pin_project_lite::pin_project;
use tower::{Layer, Service};
use tower_http::trace::{MakeSpan, TraceLayer};
use tracing::Span;
use tracing::field::Empty;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::body::{InstrumentedBody, OnBodyEnd};
use crate::error_kind::ErrorKind;
use crate::log::AccessEntry;
use crate::method::Method;
use crate::metrics::{Outcome, ServerMetrics, URL_SCHEME};
use crate::telemetry::Telemetry;
use crate::trace_context;

/// The answer's header with the request's trace id, 32 hex digits.
pub const X_TRACE_ID: HeaderName = HeaderName::from_static("x-trace-id");

/// Bytes of a client's text that a span attribute takes.
const MAX_ATTRIBUTE: usize = 1024;

/// The route of a request that matched none.
const UNMATCHED_ROUTE: &str = "unmatched";

/// Why a request failed, put by a handler into its response's extensions: metric, span and log line
/// then say the same word as the body.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The word.
    pub kind: ErrorKind,
    /// The whole chain of errors, for a person. No credentials.
    pub details: String,
    /// The status that the log line shows, where the answer's own says less.
    pub http_status: StatusCode,
}

/// The id of the trace that the code runs in, 32 hex digits; all zero outside of any.
pub fn current_trace_id() -> String {
    Context::map_current(|cx| cx.span().span_context().trace_id().to_string())
}

impl Telemetry {
    /// The layers around a router's routes and its fallback.
    pub(crate) fn observe(&self, router: Router) -> Router {
        let trace = TraceLayer::new_for_http()
            .make_span_with(RequestSpan)
            .on_request(())
            .on_response(())
            .on_body_chunk(())
            .on_eos(())
            .on_failure(());
        // axum boxes a future and a body for each layer it is given, so all of ours are one; and
        // without `with_state` it would build each handler's stack of layers anew for each request.
        router.with_state(()).layer((trace, TelemetryLayer { telemetry: self.clone() }))
    }
}

/// The answer to a request that is one too many.
fn overload_response() -> Response {
    let body = axum::Json(serde_json::json!({"error": ErrorKind::Overload.as_str()}));
    let status = StatusCode::SERVICE_UNAVAILABLE;
    let mut response = (status, [(header::RETRY_AFTER, "1")], body).into_response();
    let details = "too many requests are being served".to_owned();
    let failure = Failure { kind: ErrorKind::Overload, details, http_status: status };
    response.extensions_mut().insert(failure);
    response
}

fn panic_response() -> Response {
    let status = StatusCode::INTERNAL_SERVER_ERROR;
    let details = "the handler panic_response".to_owned();
    let mut response = status.into_response();
    response.extensions_mut().insert(Failure {
        kind: ErrorKind::Other,
        details,
        http_status: status,
    });
    response
}

/// Makes the server span and gives it its caller as parent. Attributes are set by the guard, which
/// knows by then whether anybody will read them.
#[derive(Clone, Copy)]
struct RequestSpan;

impl<B> MakeSpan<B> for RequestSpan {
    fn make_span(&mut self, request: &http::Request<B>) -> Span {
        // The guard fills the fields in through OpenTelemetry's API; that they are declared here
        // makes the list of attributes as long as it will be.
        let span = tracing::info_span!(
            parent: None,
            "http.server.request",
            otel.kind = "server",
            http.request.method = Empty,
            http.response.status_code = Empty,
            http.route = Empty,
            network.protocol.version = Empty,
            url.path = Empty,
            url.scheme = Empty,
            user_agent.original = Empty,
        );
        if let Some(parent) = trace_context::extract(request.headers()) {
            // Fails only where spans are switched off.
            let _ = span.set_parent(parent);
        }
        span
    }
}

#[derive(Clone)]
struct TelemetryLayer {
    telemetry: Telemetry,
}

impl Layer<Route> for TelemetryLayer {
    type Service = TelemetryService;
    fn layer(&self, inner: Route) -> TelemetryService {
        let telemetry = self.telemetry.clone();
        TelemetryService {
            inner,
            endpoint: Arc::new(RouteState { telemetry, route: OnceLock::new() }),
        }
    }
}

/// What requests to one of the router's endpoints share.
struct RouteState {
    telemetry: Telemetry,
    /// The route of the first request, which is that of nearly all.
    route: OnceLock<&'static ServerMetrics>,
}

impl RouteState {
    fn route(&self, request: &Request) -> &'static ServerMetrics {
        let matched = request.extensions().get::<MatchedPath>();
        let template = matched.map_or(UNMATCHED_ROUTE, MatchedPath::as_str);
        let metrics = &self.telemetry.0.metrics;
        let route = *self.route.get_or_init(|| metrics.route(template));
        // A wrapped router may be nested in several places.
        if route.template == template { route } else { metrics.route(template) }
    }
}

#[derive(Clone)]
struct TelemetryService {
    inner: Route,
    endpoint: Arc<RouteState>,
}

impl Service<Request> for TelemetryService {
    type Response = http::Response<InstrumentedBody<Body, RequestGuard>>;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), Infallible>> {
        Service::<Request>::poll_ready(&mut self.inner, cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let exchange = RequestGuard::start(Arc::clone(&self.endpoint), &request);
        let inner = exchange.is_admitted.then(|| self.inner.call(request));
        ResponseFuture { inner, exchange: Some(exchange) }
    }
}

pin_project! {
    struct ResponseFuture {
        // Absent where the request is not admitted.
        #[pin]
        inner: Option<RouteFuture<Infallible>>,
        exchange: Option<RequestGuard>,
    }
}

impl Future for ResponseFuture {
    type Output = Result<http::Response<InstrumentedBody<Body, RequestGuard>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let this = self.project();
        // What the handler logs and whom it calls belongs to this request.
        let _attached = this.exchange.as_ref().map(|exchange| exchange.cx.clone().attach());
        let mut response = match this.inner.as_pin_mut() {
            // A handler that panics is polled no more: its answer is there.
            Some(inner) => match catch_unwind(AssertUnwindSafe(|| inner.poll(cx))) {
                Ok(Poll::Pending) => return Poll::Pending,
                Ok(Poll::Ready(Ok(response))) => response,
                Err(_) => panic_response(),
            },
            None => overload_response(),
        };
        let exchange = this.exchange.take().and_then(|mut exchange| {
            exchange.answer(&mut response);
            if exchange.is_head || response.body().is_end_stream() {
                exchange.finish(None);
                return None;
            }
            Some(exchange)
        });
        Poll::Ready(Ok(response.map(|inner| InstrumentedBody::new(inner, exchange))))
    }
}

/// The guard of one request.
struct RequestGuard {
    endpoint: Arc<RouteState>,
    route: &'static ServerMetrics,
    started: Instant,
    method: Method,
    is_head: bool,
    is_admitted: bool,
    cx: Context,
    status: Option<StatusCode>,
    failure: Option<Failure>,
    finished: bool,
}

impl RequestGuard {
    fn start(endpoint: Arc<RouteState>, request: &Request) -> Self {
        let started = Instant::now();
        let method = Method::from(request.method());
        let route = endpoint.route(request);
        let telemetry = &endpoint.telemetry.0;
        let cx = if telemetry.otel.disabled {
            trace_context::extract(request.headers()).unwrap_or_else(generate_trace_context)
        } else {
            context_of_current_span()
        };
        set_request_attributes(&cx, request, method, route);
        telemetry.metrics.server_active(method).increment(1);
        let already = telemetry.in_flight.fetch_add(1, Ordering::Relaxed);
        let is_admitted = already < telemetry.config.max_concurrent_requests.get();
        Self {
            endpoint,
            route,
            started,
            method,
            is_head: request.method() == http::Method::HEAD,
            is_admitted,
            cx,
            status: None,
            failure: None,
            finished: false,
        }
    }

    /// The response's head is there: takes what the handler said of a failure, adds the trace id.
    fn answer<B>(&mut self, response: &mut http::Response<B>) {
        self.status = Some(response.status());
        self.failure = response.extensions_mut().remove::<Failure>();
        if !self.endpoint.telemetry.is_ready() {
            // Callers that hold their connections move on by themselves, and none of them sends a
            // request into a connection that is being closed.
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        let span = self.cx.span();
        if span.span_context().is_valid() {
            let mut id = [0; 32];
            trace_context::write_hex(&mut id, &span.span_context().trace_id().to_bytes());
            if let Ok(id) = HeaderValue::from_bytes(&id) {
                response.headers_mut().insert(X_TRACE_ID, id);
            }
        }
    }

    /// The response body is over, or `broken` for the reason given.
    fn finish(&mut self, broken: Option<(ErrorKind, String)>) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        let latency = self.started.elapsed();
        let telemetry = &self.endpoint.telemetry;
        telemetry.0.metrics.server_active(self.method).decrement(1);
        telemetry.0.in_flight.fetch_sub(1, Ordering::Relaxed);
        let failed = self.status.is_some_and(|status| status.is_server_error());
        let error = match (&broken, &self.failure, self.status) {
            (Some((kind, _)), _, _) => Some(*kind),
            (None, Some(failure), _) => Some(failure.kind),
            (None, None, Some(status)) if failed => Some(ErrorKind::Status(status)),
            _ => None,
        };
        let outcome = Outcome { method: self.method, status: self.status, error };
        let span = self.cx.span();
        self.route.request(outcome, latency, telemetry.exemplar_context(span.span_context()));
        self.record_span(outcome, failed);

        let details = match (&broken, &self.failure, self.status) {
            (Some((_, details)), _, _) => details.as_str(),
            (None, Some(failure), _) => failure.details.as_str(),
            (None, None, Some(status)) => status.canonical_reason().unwrap_or_default(),
            (None, None, None) => "",
        };
        let shown = self.failure.as_ref().map(|failure| failure.http_status).or(self.status);
        telemetry.0.logger.access(&AccessEntry {
            endpoint: self.route.template,
            method: self.method.as_str(),
            http_status: shown.map(|status| status.as_u16()),
            failure: error.as_ref().map(|kind| (kind.as_str(), details)),
            latency_ms: u64::try_from(latency.as_millis()).unwrap_or(u64::MAX),
            span: self.cx.span().span_context(),
        });
    }

    fn record_span(&self, outcome: Outcome, failed: bool) {
        let span = self.cx.span();
        if !span.is_recording() {
            return;
        }
        outcome.set_attributes(&span);
        if failed {
            let details = self.failure.as_ref().map(|failure| failure.details.clone());
            span.set_status(Status::error(details.unwrap_or_default()));
        }
    }
}

impl OnBodyEnd<axum::Error> for RequestGuard {
    fn end(&mut self, error: Option<&axum::Error>) {
        self.finish(
            error.map(|error| (ErrorKind::Other, format!("the response body broke off: {error}"))),
        );
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        if !self.finished {
            let details = "the caller went away before the answer was whole".to_owned();
            self.finish(Some((ErrorKind::Canceled, details)));
        }
    }
}

/// The OpenTelemetry context of the span that the trace layer has just entered. `Span::current()` would
/// take and give back a reference to it.
fn context_of_current_span() -> Context {
    tracing::dispatcher::get_default(|dispatch| {
        tracing_opentelemetry::get_otel_context(dispatch.current_span().id()?, dispatch)
    })
    .unwrap_or_default()
}

/// Attributes that are known from the start, by the semantic conventions for HTTP server spans.
/// The query is left out: its values belong to the caller.
fn set_request_attributes(cx: &Context, request: &Request, method: Method, route: &ServerMetrics) {
    let span = cx.span();
    if !span.is_recording() {
        return;
    }
    let original = method.is_other().then(|| truncate(request.method().as_str()));
    let agent = request.headers().get(header::USER_AGENT).and_then(|agent| agent.to_str().ok());
    let matched = (route.template != UNMATCHED_ROUTE).then_some(route.template);
    span.update_name(matched.map_or(method.span_name(), |_| route.span_name(method)));
    let attributes = [
        Some(KeyValue::new("http.request.method", method.as_str())),
        Some(KeyValue::new("url.scheme", URL_SCHEME)),
        Some(KeyValue::new("url.path", truncate(request.uri().path()))),
        original.map(|method| KeyValue::new("http.request.method_original", method)),
        version(request.version())
            .map(|version| KeyValue::new("network.protocol.version", version)),
        agent.map(|agent| KeyValue::new("user_agent.original", truncate(agent))),
        matched.map(|route| KeyValue::new("http.route", route)),
    ];
    span.set_attributes(attributes.into_iter().flatten());
}

/// What a client sent, as far as a span takes it: a full queue of spans stays a few megabytes.
fn truncate(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_ATTRIBUTE)].to_owned()
}

fn version(version: Version) -> Option<&'static str> {
    match version {
        Version::HTTP_10 => Some("1.0"),
        Version::HTTP_11 => Some("1.1"),
        Version::HTTP_2 => Some("2"),
        Version::HTTP_3 => Some("3"),
        _ => None,
    }
}

/// Ids for a request that nobody traces: they tie the log lines of the services together all the same.
fn generate_trace_context() -> Context {
    let ids = RandomIdGenerator::default();
    Context::new().with_remote_span_context(SpanContext::new(
        ids.new_trace_id(),
        ids.new_span_id(),
        opentelemetry::TraceFlags::NOT_SAMPLED,
        true,
        opentelemetry::trace::TraceState::NONE,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncates_at_char_boundary() {
        assert_eq!(truncate("/echo"), "/echo");
        assert_eq!(truncate(&"a".repeat(2000)).len(), MAX_ATTRIBUTE);
        assert_eq!(truncate(&"\u{20ac}".repeat(1000)).len(), MAX_ATTRIBUTE - 1);
    }
}
