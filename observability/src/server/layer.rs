//! The tower layer: starts a [`RequestGuard`] for each request and puts it into the response body.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{Either, Full};
use pin_project_lite::pin_project;
use tower::{BoxError, Layer, Service};
use tower_http::classify::{ServerErrorsAsFailures, SharedClassifier};
use tower_http::trace::{Trace, TraceLayer};

use super::current::is_measured_by;
use super::request::{RequestGuard, announced_length, overload_response, panic_response};
use super::route::RouteState;
use super::span::MakeServerSpan;
use crate::error::ErrorKind;
use crate::http::{InstrumentedBody, UrlScheme};
use crate::telemetry::Telemetry;

impl Telemetry {
    /// Creates the layer that traces, measures and logs requests.
    ///
    /// For an axum router use [`Router::layer`](axum::Router::layer) after the routes are added, so that
    /// requests have their route's template. Layers that are added before it see the requests that it
    /// admits. Layers that are added after it, such as CORS, also see the responses that it sends
    /// itself: 500 after a panic, and 503 for an overload.
    ///
    /// Around any other service, such as a tonic or hyper server, a request has no route, and a gRPC call
    /// has its method.
    ///
    /// `ALLOWED_HOSTS` has no effect on the layer alone. [`instrument`](Self::instrument) and
    /// [`server`](Self::server) check the hosts.
    ///
    /// ```
    /// # fn example(telemetry: observability::Telemetry) -> axum::Router {
    /// use axum::{Router, routing::get};
    ///
    /// Router::new().route("/hello", get(async || "hello")).layer(telemetry.layer())
    /// # }
    /// ```
    pub fn layer(&self) -> TelemetryLayer {
        TelemetryLayer { telemetry: self.clone(), scheme: UrlScheme::Http }
    }
}

/// Layer that traces, measures and logs requests; created with [`Telemetry::layer`].
#[derive(Clone, Debug)]
pub struct TelemetryLayer {
    telemetry: Telemetry,
    scheme: UrlScheme,
}

impl TelemetryLayer {
    /// Sets `url.scheme` to `https`, for a listener that terminates TLS.
    pub fn https(mut self) -> Self {
        self.scheme = UrlScheme::Https;
        self
    }
}

type TracedService<S> = Trace<
    MeasuredService<S>,
    SharedClassifier<ServerErrorsAsFailures>,
    MakeServerSpan,
    (),
    (),
    (),
    (),
    (),
>;

impl<S> Layer<S> for TelemetryLayer {
    type Service = TracedService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        let state = Arc::new(RouteState::new(self.telemetry.clone()));
        let measured = MeasuredService { inner, state, scheme: self.scheme };
        TraceLayer::new_for_http()
            .make_span_with(MakeServerSpan::new(self.telemetry.clone()))
            .on_request(())
            .on_response(())
            .on_body_chunk(())
            .on_eos(())
            .on_failure(())
            .layer(measured)
    }
}

/// Service inside of the server span.
#[derive(Clone)]
pub struct MeasuredService<S> {
    inner: S,
    state: Arc<RouteState>,
    scheme: UrlScheme,
}

type ResponseBody<B> = InstrumentedBody<Either<B, Full<Bytes>>, Box<RequestGuard>>;

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for MeasuredService<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    ResBody: Body<Data = Bytes, Error: Into<BoxError>>,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        if is_measured_by(&self.state.telemetry) {
            warn_about_second_layer();
            return ResponseFuture { inner: Some(self.inner.call(request)), guard: None };
        }
        let mut guard = RequestGuard::start(Arc::clone(&self.state), self.scheme, &request);
        let inner = if guard.is_admitted() {
            let _entered = guard.enter();
            Some(self.inner.call(request))
        } else {
            None
        };
        ResponseFuture { inner, guard: Some(guard) }
    }
}

fn warn_about_second_layer() {
    static IS_WARNED: AtomicBool = AtomicBool::new(false);
    if !IS_WARNED.swap(true, Ordering::Relaxed) {
        tracing::warn!(
            target: "observability",
            "the telemetry layer is applied twice; remove one, because the inner one does nothing"
        );
    }
}

pin_project! {
    /// Future of the response.
    pub struct ResponseFuture<F> {
        // `None` if the request is not admitted.
        #[pin]
        inner: Option<F>,
        // `None` if an enclosing layer measures the request.
        guard: Option<Box<RequestGuard>>,
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body<Data = Bytes, Error: Into<BoxError>>,
{
    type Output = Result<Response<ResponseBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Some(guard) = this.guard else {
            let response = match this.inner.as_pin_mut() {
                Some(inner) => ready!(inner.poll(cx))?.map(Either::Left),
                None => overload_response().map(Either::Right),
            };
            return Poll::Ready(Ok(response.map(|body| InstrumentedBody::new(body, None, None))));
        };
        // Log lines and calls of the handler belong to this request.
        let mut response = match this.inner.as_pin_mut() {
            // After a panic the future is ready and is not polled again, so that unwind safety holds.
            Some(inner) => {
                let entered = guard.enter();
                let polled = catch_unwind(AssertUnwindSafe(|| inner.poll(cx)));
                drop(entered);
                match polled {
                    Ok(Poll::Pending) => return Poll::Pending,
                    Ok(Poll::Ready(Ok(response))) => response.map(Either::Left),
                    Ok(Poll::Ready(Err(error))) => {
                        guard.finish(Some((ErrorKind::Other, "service failed".to_owned())));
                        return Poll::Ready(Err(error));
                    }
                    Err(_) => panic_response().map(Either::Right),
                }
            }
            None => overload_response().map(Either::Right),
        };
        let content_length = announced_length(&response);
        guard.on_response(&mut response, content_length);
        let is_ended = guard.has_no_body(response.status()) || content_length == Some(0);
        if is_ended {
            guard.finish(None);
        }
        let guard = this.guard.take_if(|_| !is_ended);
        if matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
            // hyper would send the body over HTTP/2.
            *response.body_mut() = Either::Right(Full::default());
        }
        Poll::Ready(Ok(response.map(|body| InstrumentedBody::new(body, guard, content_length))))
    }
}
