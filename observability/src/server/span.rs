//! The server span: its attributes by the HTTP semantic conventions, and its parent.

use std::cell::RefCell;
use std::net::IpAddr;
use std::sync::Arc;

use http::{Request, Version, header};
use opentelemetry::trace::{SpanContext, SpanRef, TraceContextExt, TraceState};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator};
use tower_http::trace::MakeSpan;
use tracing::Span;
use tracing::field::Empty;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::current::is_measured_by;
use super::forwarded::Origin;
use crate::config::RequestConfig;
use crate::http::{KnownMethod, MAX_CLIENT_TEXT_BYTES, UrlScheme, truncate};
use crate::metrics::{ServerMetrics, UNMATCHED_ROUTE};
use crate::telemetry::Telemetry;
use crate::traces::propagation;

/// Creates the server span as a child of the caller's span.
///
/// [`set_request_attributes`] sets the attributes, once it is known that the span is recorded.
#[derive(Clone)]
pub struct MakeServerSpan {
    telemetry: Telemetry,
}

impl MakeServerSpan {
    pub(super) fn new(telemetry: Telemetry) -> Self {
        Self { telemetry }
    }
}

impl<B> MakeSpan<B> for MakeServerSpan {
    fn make_span(&mut self, request: &Request<B>) -> Span {
        if is_measured_by(&self.telemetry) {
            return Span::none();
        }
        // The declared fields reserve room for the attributes, which are set through the OpenTelemetry API.
        let span = tracing::info_span!(
            target: "observability",
            parent: None,
            "http.server.request",
            otel.kind = "server",
            client.address = Empty,
            http.request.method = Empty,
            http.response.status_code = Empty,
            http.route = Empty,
            network.peer.address = Empty,
            network.peer.port = Empty,
            network.protocol.version = Empty,
            server.address = Empty,
            server.port = Empty,
            url.path = Empty,
            url.scheme = Empty,
            user_agent.original = Empty,
        );
        let telemetry = &self.telemetry.0;
        let mut parent = telemetry.propagation.extract(request.headers());
        if telemetry.config.request.public_endpoint
            && let Some(stranger) = parent.take().filter(TraceContextExt::has_active_span)
        {
            span.add_link(stranger.span().span_context().clone());
        }
        if telemetry.otel.disabled {
            // The span has the trace context of its parent.
            let caller = parent.filter(TraceContextExt::has_active_span);
            parent = Some(caller.unwrap_or_else(generate_trace_context));
        }
        if let Some(parent) = parent {
            // Fails only if the span is disabled.
            let _ = span.set_parent(parent);
        }
        span
    }
}

/// Generates an unsampled trace context, so that log lines correlate even if tracing is disabled.
pub(super) fn generate_trace_context() -> Context {
    let ids = RandomIdGenerator::default();
    Context::new().with_remote_span_context(SpanContext::new(
        ids.new_trace_id(),
        ids.new_span_id(),
        propagation::RANDOM,
        true,
        TraceState::NONE,
    ))
}

/// Sets name and attributes that are known at the start, by the semantic conventions for HTTP server
/// spans. The values of the query are left out because they may be secret.
pub(super) fn set_request_attributes<B>(
    span: &SpanRef<'_>,
    request: &Request<B>,
    method: KnownMethod,
    scheme: UrlScheme,
    route: &ServerMetrics,
    origin: &Origin<'_>,
    config: &RequestConfig,
) {
    let bounded = |text: &str| truncate(text, MAX_CLIENT_TEXT_BYTES).to_owned();
    let original_method =
        (method == KnownMethod::OTHER).then(|| bounded(request.method().as_str()));
    let user_agent =
        request.headers().get(header::USER_AGENT).and_then(|agent| agent.to_str().ok());
    let query = request.uri().query().filter(|_| config.record_url_query);
    let route_template = (route.template != UNMATCHED_ROUTE).then_some(route.template);
    let server = origin.server(scheme);
    span.update_name(route_template.map_or(method.span_name(), |_| route.span_name(method)));
    let path = request.uri().path();
    let path = match route_template {
        Some(route) if route == path => route.into(),
        _ => Value::from(bounded(path)),
    };
    let mut attributes = [
        Some(KeyValue::new("http.request.method", method.as_str())),
        Some(KeyValue::new("url.scheme", scheme.as_str())),
        Some(KeyValue::new("url.path", path)),
        query.map(|query| KeyValue::new("url.query", bounded(&redact_query(query)))),
        original_method.map(|method| KeyValue::new("http.request.method_original", method)),
        protocol_version(request.version())
            .map(|version| KeyValue::new("network.protocol.version", version)),
        user_agent.map(|agent| {
            KeyValue::new("user_agent.original", LAST_USER_AGENT.with(|last| last.get(agent)))
        }),
        route_template.map(|route| KeyValue::new("http.route", route)),
        origin.client().map(|client| KeyValue::new("client.address", address_text(client))),
        origin.peer.map(|peer| KeyValue::new("network.peer.address", address_text(peer.ip()))),
        origin.peer.map(|peer| KeyValue::new("network.peer.port", i64::from(peer.port()))),
        server.map(|(host, _)| {
            KeyValue::new("server.address", LAST_HOST.with(|last| last.get(host)))
        }),
        server.map(|(_, port)| KeyValue::new("server.port", i64::from(port))),
    ];
    // Taken in place, because `flatten` moves each attribute twice more.
    span.set_attributes(attributes.iter_mut().filter_map(Option::take));
}

/// Returns the text of an address. Each thread keeps the last one, because formatting costs as much as the
/// other attributes together, and consecutive requests often have the same peer.
fn address_text(address: IpAddr) -> Arc<str> {
    thread_local! {
        static LAST: RefCell<Option<(IpAddr, Arc<str>)>> = const { RefCell::new(None) };
    }
    LAST.with_borrow_mut(|last| match last {
        Some((known, text)) if *known == address => Arc::clone(text),
        _ => {
            let text: Arc<str> = address.to_string().into();
            *last = Some((address, Arc::clone(&text)));
            text
        }
    })
}

thread_local! {
    static LAST_HOST: LastText = const { LastText::new() };
    static LAST_USER_AGENT: LastText = const { LastText::new() };
}

/// The last text of a header, which nearly all requests to a service share.
struct LastText(RefCell<Option<Arc<str>>>);

impl LastText {
    const fn new() -> Self {
        Self(RefCell::new(None))
    }

    /// Returns the bounded text.
    fn get(&self, text: &str) -> Arc<str> {
        let text = truncate(text, MAX_CLIENT_TEXT_BYTES);
        let mut last = self.0.borrow_mut();
        match &*last {
            Some(known) if **known == *text => Arc::clone(known),
            _ => Arc::clone(last.insert(text.into())),
        }
    }
}

/// Returns the query with each value replaced, such as `id=REDACTED&q=REDACTED`.
fn redact_query(query: &str) -> String {
    let redact = |pair: &str| match pair.split_once('=') {
        Some((name, _)) => format!("{name}=REDACTED"),
        None => pair.to_owned(),
    };
    query.split('&').map(redact).collect::<Vec<_>>().join("&")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_differs_from_last_one() {
        let last = LastText::new();
        for text in ["a.test", "b.test", "b.test", "a.test"] {
            assert_eq!(*last.get(text), *text);
        }
        assert_eq!(last.get(&"a".repeat(2000)).len(), MAX_CLIENT_TEXT_BYTES);
    }
}
