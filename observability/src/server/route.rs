//! The route of a request: a template or gRPC method, never a path that a client makes up.

use std::sync::OnceLock;
use std::task::{Context, Poll, Waker};

use axum::Router;
use axum::body::Body;
use axum::extract::MatchedPath;
use axum::response::Response;
use axum::routing::any;
use http::{Extensions, Method, Request, header};
use tower::Service;

use crate::metrics::{ServerMetrics, UNMATCHED_ROUTE};
use crate::telemetry::Telemetry;

/// State that the requests of one route share.
pub(super) struct RouteState {
    pub(super) telemetry: Telemetry,
    /// Route of the first request. Differs from a later one only if the router is nested several times.
    route: OnceLock<&'static ServerMetrics>,
    /// Template of a route without `MatchedPath`.
    nested: OnceLock<Option<String>>,
}

impl RouteState {
    pub(super) fn new(telemetry: Telemetry) -> Self {
        Self { telemetry, route: OnceLock::new(), nested: OnceLock::new() }
    }

    pub(super) fn route(&self, extensions: &Extensions) -> &'static ServerMetrics {
        let template = match extensions.get::<MatchedPath>() {
            Some(matched) => matched.as_str(),
            None => {
                let nested = self.nested.get_or_init(|| nested_template(extensions));
                nested.as_deref().unwrap_or(UNMATCHED_ROUTE)
            }
        };
        let metrics = &self.telemetry.0.metrics;
        let route = *self.route.get_or_init(|| metrics.route(template));
        if route.template == template { route } else { metrics.route(template) }
    }
}

/// Returns the template of a service that is nested with `nest_service`, such as `/files/*`.
///
/// axum keeps the prefix of such a service in a private extension, and adds it to the `MatchedPath` of a
/// router inside. A request to a router of one route therefore tells the prefix.
fn nested_template(extensions: &Extensions) -> Option<String> {
    const PROBE: &str = "/probe";
    let echo_template = async |matched: MatchedPath| {
        let mut response = Response::new(Body::empty());
        response.extensions_mut().insert(matched);
        response
    };
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = PROBE.parse().ok()?;
    *request.extensions_mut() = extensions.clone();
    let mut router = Router::new().route(PROBE, any(echo_template));
    let response = std::pin::pin!(router.call(request));
    // The handler awaits nothing.
    let Poll::Ready(Ok(response)) = response.poll(&mut Context::from_waker(Waker::noop())) else {
        return None;
    };
    let prefix = response.extensions().get::<MatchedPath>()?.as_str().strip_suffix(PROBE)?;
    (!prefix.is_empty()).then(|| format!("{prefix}/*"))
}

/// Returns the fully qualified method of a gRPC request, such as `/helloworld.Greeter/SayHello`.
pub(super) fn grpc_method<B>(request: &Request<B>) -> Option<&str> {
    let is_grpc = request.method() == Method::POST
        && request
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|media_type| media_type.as_bytes().starts_with(b"application/grpc"));
    is_grpc.then(|| request.uri().path())
}
