//! The guard of one request, and the responses that the layer sends itself.

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body::Body as HttpBody;
use opentelemetry::trace::{Status, TraceContextExt};
use opentelemetry::{Context, KeyValue};

use super::X_TRACE_ID;
use super::current::{self, Entered, RequestFields};
use super::forwarded::Origin;
use super::long_lived::is_long_lived;
use super::route::{RouteState, grpc_method};
use super::span::{generate_trace_context, set_request_attributes};
use crate::error::{ErrorKind, Failure, GrpcStatus};
use crate::hex::write_hex;
use crate::http::{BodyEnd, KnownMethod, OnBodyEnd, UrlScheme};
use crate::logs::AccessEntry;
use crate::metrics::{Outcome, ServerMetrics, UNMATCHED_ROUTE};
use crate::telemetry::Telemetry;
use crate::traces::end_after;

/// Details of a request whose handler panicked.
const HANDLER_PANICKED: &str = "handler panicked";

/// Guard of one request, from its arrival to the end of the response body.
///
/// It records the request exactly once, also if it is dropped because the client disconnected.
pub struct RequestGuard {
    state: Arc<RouteState>,
    route: &'static ServerMetrics,
    started: Instant,
    method: KnownMethod,
    is_head: bool,
    is_connect: bool,
    scheme: UrlScheme,
    version: Version,
    /// Path of the request, if it is needed for the log line or for the route of a gRPC call.
    path: Option<PathAndQuery>,
    is_grpc: bool,
    is_admitted: bool,
    is_long_lived: bool,
    cx: Context,
    is_recording: bool,
    /// Fields of the handler. Those of an enclosing request while this one is the current request.
    fields: Option<RequestFields>,
    status: Option<StatusCode>,
    grpc_status: Option<GrpcStatus>,
    failure: Option<Failure>,
    is_finished: bool,
}

impl RequestGuard {
    pub(super) fn start<B>(
        state: Arc<RouteState>,
        default_scheme: UrlScheme,
        request: &Request<B>,
    ) -> Box<Self> {
        let started = Instant::now();
        let route = state.route(request.extensions());
        let telemetry = &state.telemetry.0;
        let method = telemetry.otel.known_methods.classify(request.method());
        let config = &telemetry.config;
        // The trace layer has entered the span.
        let cx = current_context(&state.telemetry);
        let origin = Origin::new(request, &config.request.trusted_proxies);
        let scheme = origin.scheme.unwrap_or(default_scheme);
        let is_grpc = grpc_method(request).is_some();
        let span = cx.span();
        let is_recording = span.is_recording();
        if is_recording {
            set_request_attributes(&span, request, method, scheme, route, &origin, &config.request);
        }
        telemetry.metrics.server_active(method, scheme).increment(1);
        let in_flight = telemetry.in_flight.fetch_add(1, Ordering::Relaxed);
        let is_admitted = in_flight < config.max_concurrent_requests.get();
        let path = (is_grpc || config.request.log_path)
            .then(|| request.uri().path_and_query().cloned())
            .flatten();
        let fields = Some(RequestFields::new(&state.telemetry));
        Box::new(Self {
            state,
            route,
            started,
            method,
            is_head: request.method() == Method::HEAD,
            is_connect: request.method() == Method::CONNECT,
            scheme,
            version: request.version(),
            path,
            is_grpc,
            is_admitted,
            is_long_lived: false,
            cx,
            is_recording,
            fields,
            status: None,
            grpc_status: None,
            failure: None,
            is_finished: false,
        })
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
            || self.is_head
            || (self.is_connect && status.is_success())
    }

    /// Makes this request the current one until the result is dropped. The trace layer does that for its span.
    pub(super) fn enter(&mut self) -> Entered<'_> {
        current::enter(&mut self.fields)
    }

    /// Takes the handler's [`Failure`] from the response and adds the trace id. `content_length` is the
    /// announced length of the body.
    pub(super) fn on_response<B>(
        &mut self,
        response: &mut Response<B>,
        content_length: Option<u64>,
    ) {
        self.status = Some(response.status());
        self.failure = response.extensions_mut().remove::<Failure>();
        if self.is_grpc {
            self.grpc_status = GrpcStatus::from_headers(response.headers());
        }
        let telemetry = &self.state.telemetry;
        // An upgrade needs its own `Connection` header, and HTTP/2 has none.
        let is_upgrade = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if !telemetry.is_ready() && !is_upgrade && self.version < Version::HTTP_2 {
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
        let long_lived_types = &telemetry.0.config.request.long_lived_types;
        if content_length.is_none() && is_long_lived(response, long_lived_types) {
            self.is_long_lived = true;
            telemetry.0.in_flight.fetch_sub(1, Ordering::Relaxed);
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
        let telemetry = Arc::clone(&self.state.telemetry.0);
        telemetry.metrics.server_active(self.method, self.scheme).decrement(1);
        if !self.is_long_lived {
            telemetry.in_flight.fetch_sub(1, Ordering::Relaxed);
        }
        let (error, details) = match (&abort, &self.failure, self.grpc_status, self.status) {
            (Some((kind, details)), ..) => (Some(*kind), details.as_str()),
            (None, Some(failure), ..) => (Some(failure.kind), failure.details.as_str()),
            (None, None, Some(status), _) if !status.is_ok() => {
                (Some(ErrorKind::Grpc(status)), status.name())
            }
            (None, None, _, Some(status)) => (
                status.is_server_error().then_some(ErrorKind::Status(status)),
                status.canonical_reason().unwrap_or_default(),
            ),
            (None, None, _, None) => (None, ""),
        };
        let is_server_error = self.status.is_some_and(|status| status.is_server_error())
            || (self.failure.is_none() && error.is_some_and(ErrorKind::is_server_error));
        let outcome = Outcome { method: self.method, status: self.status, error };
        let route = self.final_route();
        let span = self.cx.span();
        if !self.is_long_lived {
            let exemplar = self.state.telemetry.exemplar_context(span.span_context());
            route.record(self.scheme, outcome, latency, exemplar);
        }
        self.end_span(route, outcome, is_server_error.then_some(details), latency);

        let http_status = self.failure.as_ref().map(|failure| failure.http_status).or(self.status);
        telemetry.logger.access(&AccessEntry {
            endpoint: route.template,
            method: self.method.as_str(),
            path: self
                .path
                .as_ref()
                .filter(|_| telemetry.config.request.log_path)
                .map(PathAndQuery::path),
            http_status: http_status.map(|status| status.as_u16()),
            is_server_error,
            failure: error.as_ref().map(|kind| (kind.as_str(), details)),
            latency_ms: u64::try_from(latency.as_millis()).unwrap_or(u64::MAX),
            fields: self.fields.as_ref().map_or(&[], RequestFields::as_slice),
            span: span.span_context(),
        });
    }

    /// Returns the route to record. That of a gRPC call is its method.
    fn final_route(&self) -> &'static ServerMetrics {
        match (&self.path, self.grpc_status) {
            (Some(path), Some(status)) if self.is_grpc => {
                self.state.telemetry.0.metrics.grpc_route(path.path(), status)
            }
            _ => self.route,
        }
    }

    fn end_span(
        &self,
        route: &ServerMetrics,
        outcome: Outcome,
        error: Option<&str>,
        latency: Duration,
    ) {
        if !self.is_recording {
            return;
        }
        let span = self.cx.span();
        for field in self.fields.iter().flat_map(RequestFields::as_slice) {
            span.set_attribute(field.clone());
        }
        span.set_attributes(outcome.attributes());
        if let Some(status) = self.grpc_status {
            span.set_attribute(KeyValue::new("rpc.response.status_code", status.name()));
            let is_known = route.template != UNMATCHED_ROUTE;
            let method = if is_known { &route.template[1..] } else { "_OTHER" };
            span.set_attribute(KeyValue::new("rpc.system.name", "grpc"));
            span.set_attribute(KeyValue::new("rpc.method", method.to_owned()));
            span.update_name(if is_known { method } else { "grpc" }.to_owned());
        }
        if let Some(error) = error {
            span.set_status(Status::error(error.to_owned()));
        }
        end_after(&span, latency);
    }

    fn on_trailers(&mut self, trailers: &HeaderMap) {
        if self.is_grpc {
            self.grpc_status = GrpcStatus::from_headers(trailers).or(self.grpc_status);
        }
    }
}

impl<E: Display> OnBodyEnd<E> for Box<RequestGuard> {
    fn end(&mut self, end: BodyEnd<'_, E>) {
        let abort = match end {
            BodyEnd::Complete { trailers } => {
                if let Some(trailers) = trailers {
                    self.on_trailers(trailers);
                }
                None
            }
            BodyEnd::Failed(error) => Some(format!("response body failed: {error}")),
            BodyEnd::Panicked => Some("response body panicked".to_owned()),
            // Dropping the guard records that the client disconnected.
            BodyEnd::Unread => return,
        };
        self.finish(abort.map(|details| (ErrorKind::Other, details)));
    }

    fn in_context<T>(&mut self, poll: impl FnOnce() -> T) -> T {
        let _entered = self.enter();
        poll()
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        if self.is_finished {
            return;
        }
        let (kind, details) = if std::thread::panicking() {
            (ErrorKind::Other, HANDLER_PANICKED)
        } else if self.is_long_lived {
            // A response that announces no end ends when the client leaves.
            return self.finish(None);
        } else {
            (ErrorKind::Canceled, "client disconnected before the response completed")
        };
        self.finish(Some((kind, details.to_owned())));
    }
}

/// Returns the context of the server span, or generated ids if there is none.
fn current_context(telemetry: &Telemetry) -> Context {
    static IS_WARNED: AtomicBool = AtomicBool::new(false);
    let cx = Context::current();
    if cx.has_active_span() {
        return cx;
    }
    if !telemetry.0.otel.disabled && !IS_WARNED.swap(true, Ordering::Relaxed) {
        telemetry.0.logger.warn(
            "requests have no spans; add the layer of `Telemetry::tracing_layer` to the tracing \
             subscriber, and enable the target `observability` at the level INFO",
        );
    }
    generate_trace_context()
}

/// Returns the length that hyper announces: the header `Content-Length`, or else the exact size of the body.
pub(super) fn announced_length<B: HttpBody>(response: &Response<B>) -> Option<u64> {
    match response.headers().get(header::CONTENT_LENGTH) {
        Some(length) => length.to_str().ok()?.parse().ok(),
        None => response.body().size_hint().exact(),
    }
}

/// Returns the response to a request that exceeds `MAX_CONCURRENT_REQUESTS`.
pub(super) fn overload_response<B: From<Bytes>>() -> Response<B> {
    let body = Bytes::from_static(br#"{"error":"overload"}"#);
    let mut response = failure_response(
        StatusCode::SERVICE_UNAVAILABLE,
        body,
        ErrorKind::Overload,
        "too many requests in flight",
    );
    let headers = response.headers_mut();
    headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Returns the response to a request whose handler panicked.
pub(super) fn panic_response<B: From<Bytes>>() -> Response<B> {
    let status = StatusCode::INTERNAL_SERVER_ERROR;
    failure_response(status, Bytes::new(), ErrorKind::Other, HANDLER_PANICKED)
}

fn failure_response<B: From<Bytes>>(
    status: StatusCode,
    body: Bytes,
    kind: ErrorKind,
    details: &str,
) -> Response<B> {
    let mut response = Response::new(B::from(body));
    *response.status_mut() = status;
    response.extensions_mut().insert(Failure::new(kind, status, details));
    response
}
