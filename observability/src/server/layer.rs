//! The tower layer: starts a [`RequestGuard`] for each request and puts it into the response body.

use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use axum::routing::Route;
use axum::routing::future::RouteFuture;
use http::header;
use http_body::Body as HttpBody;
use pin_project_lite::pin_project;
use tower::{Layer, Service};
use tower_http::trace::TraceLayer;

use super::request::{RequestGuard, RouteState, overload_response, panic_response};
use super::span::MakeServerSpan;
use crate::http::InstrumentedBody;
use crate::telemetry::Telemetry;

impl Telemetry {
    /// Adds the layers to a router's routes and fallback.
    pub(super) fn instrument_routes(&self, router: Router) -> Router {
        let trace = TraceLayer::new_for_http()
            .make_span_with(MakeServerSpan)
            .on_request(())
            .on_response(())
            .on_body_chunk(())
            .on_eos(())
            .on_failure(());
        // axum boxes a future and a body per layer, so both layers are added as one. `with_state` builds
        // each handler's service once, otherwise axum builds them for each request.
        router.with_state(()).layer((trace, TelemetryLayer { telemetry: self.clone() }))
    }
}

/// Layer that measures and logs the requests of a route.
#[derive(Clone)]
struct TelemetryLayer {
    telemetry: Telemetry,
}

impl Layer<Route> for TelemetryLayer {
    type Service = TelemetryService;
    fn layer(&self, inner: Route) -> TelemetryService {
        TelemetryService { inner, state: Arc::new(RouteState::new(self.telemetry.clone())) }
    }
}

#[derive(Clone)]
struct TelemetryService {
    inner: Route,
    state: Arc<RouteState>,
}

impl Service<Request> for TelemetryService {
    type Response = http::Response<InstrumentedBody<Body, RequestGuard>>;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), Infallible>> {
        Service::<Request>::poll_ready(&mut self.inner, cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let guard = RequestGuard::start(Arc::clone(&self.state), &request);
        let inner = guard.is_admitted().then(|| self.inner.call(request));
        ResponseFuture { inner, guard: Some(guard) }
    }
}

pin_project! {
    struct ResponseFuture {
        // `None` if the request is not admitted.
        #[pin]
        inner: Option<RouteFuture<Infallible>>,
        guard: Option<RequestGuard>,
    }
}

impl Future for ResponseFuture {
    type Output = Result<http::Response<InstrumentedBody<Body, RequestGuard>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let this = self.project();
        // Log lines and calls of the handler belong to this request.
        let _attached = this.guard.as_ref().map(RequestGuard::attach);
        let mut response = match this.inner.as_pin_mut() {
            // After a panic the future is ready and is not polled again, so that unwind safety holds.
            Some(inner) => match catch_unwind(AssertUnwindSafe(|| inner.poll(cx))) {
                Ok(Poll::Pending) => return Poll::Pending,
                Ok(Poll::Ready(Ok(response))) => response,
                Err(_) => panic_response(),
            },
            None => overload_response(),
        };
        let content_length = announced_length(&response);
        let guard = this.guard.take().and_then(|mut guard| {
            guard.on_response(&mut response);
            if guard.has_no_body(response.status()) || content_length == Some(0) {
                guard.finish(None);
                return None;
            }
            Some(guard)
        });
        Poll::Ready(Ok(response.map(|body| InstrumentedBody::new(body, guard, content_length))))
    }
}

/// Returns the length that hyper announces: the header `Content-Length`, or else the exact size of the body.
fn announced_length(response: &Response) -> Option<u64> {
    match response.headers().get(header::CONTENT_LENGTH) {
        Some(length) => length.to_str().ok()?.parse().ok(),
        None => response.body().size_hint().exact(),
    }
}
