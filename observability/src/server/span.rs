//! The server span: its attributes by the HTTP semantic conventions, and its parent.

use axum::extract::Request;
use http::{Version, header};
use opentelemetry::trace::{SpanContext, TraceContextExt, TraceFlags, TraceState};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator};
use tower_http::trace::MakeSpan;
use tracing::Span;
use tracing::field::Empty;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::http::{KnownMethod, truncate};
use crate::metrics::{ServerMetrics, UNMATCHED_ROUTE, URL_SCHEME};
use crate::traces::propagation;

/// Maximum size of an attribute that a client controls, in bytes. Bounds the memory of queued spans.
const MAX_ATTRIBUTE_BYTES: usize = 1024;

/// Creates the server span as a child of the caller's span.
///
/// [`set_request_attributes`] sets the attributes, once it is known that the span is recorded.
#[derive(Clone, Copy)]
pub(super) struct MakeServerSpan;

impl<B> MakeSpan<B> for MakeServerSpan {
    fn make_span(&mut self, request: &http::Request<B>) -> Span {
        // The declared fields reserve room for the attributes, which are set through the OpenTelemetry API.
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
        if let Some(parent) = propagation::extract(request.headers()) {
            // Fails only if the span is disabled.
            let _ = span.set_parent(parent);
        }
        span
    }
}

/// Returns the OpenTelemetry context of the span that the trace layer has entered.
///
/// Avoids the reference count that `Span::current()` takes and releases.
pub(super) fn context_of_current_span() -> Context {
    tracing::dispatcher::get_default(|dispatch| {
        tracing_opentelemetry::get_otel_context(dispatch.current_span().id()?, dispatch)
    })
    .unwrap_or_default()
}

/// Generates an unsampled trace context, so that log lines correlate even if tracing is disabled.
pub(super) fn generate_trace_context() -> Context {
    let ids = RandomIdGenerator::default();
    Context::new().with_remote_span_context(SpanContext::new(
        ids.new_trace_id(),
        ids.new_span_id(),
        TraceFlags::NOT_SAMPLED,
        true,
        TraceState::NONE,
    ))
}

/// Sets name and attributes that are known at the start, by the semantic conventions for HTTP server
/// spans. The query is left out because its values may be secret.
pub(super) fn set_request_attributes(
    cx: &Context,
    request: &Request,
    method: KnownMethod,
    route: &ServerMetrics,
) {
    let span = cx.span();
    if !span.is_recording() {
        return;
    }
    let bounded = |text: &str| truncate(text, MAX_ATTRIBUTE_BYTES).to_owned();
    let original_method =
        (method == KnownMethod::Other).then(|| bounded(request.method().as_str()));
    let user_agent =
        request.headers().get(header::USER_AGENT).and_then(|agent| agent.to_str().ok());
    let route_template = (route.template != UNMATCHED_ROUTE).then_some(route.template);
    span.update_name(route_template.map_or(method.span_name(), |_| route.span_name(method)));
    let attributes = [
        Some(KeyValue::new("http.request.method", method.as_str())),
        Some(KeyValue::new("url.scheme", URL_SCHEME)),
        Some(KeyValue::new("url.path", bounded(request.uri().path()))),
        original_method.map(|method| KeyValue::new("http.request.method_original", method)),
        protocol_version(request.version())
            .map(|version| KeyValue::new("network.protocol.version", version)),
        user_agent.map(|agent| KeyValue::new("user_agent.original", bounded(agent))),
        route_template.map(|route| KeyValue::new("http.route", route)),
    ];
    span.set_attributes(attributes.into_iter().flatten());
}

fn protocol_version(version: Version) -> Option<&'static str> {
    match version {
        Version::HTTP_10 => Some("1.0"),
        Version::HTTP_11 => Some("1.1"),
        Version::HTTP_2 => Some("2"),
        Version::HTTP_3 => Some("3"),
        _ => None,
    }
}
