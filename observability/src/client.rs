//! Calls to other services: context injected, a span, a duration, an error kind.
//!
//! The middleware sits innermost, next to the connection, so that no other wraps an error before it
//! is classified. Its guard (`CallGuard`) lives to the end of the answer's body: a body that breaks off
//! or comes too late is a failed call, though its headers were fine.

use std::error::Error;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use http::{Extensions, StatusCode};
use http_body::Body as HttpBody;
use opentelemetry::trace::{Status, TraceContextExt};
use opentelemetry::{Context, KeyValue};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Request, Response, ResponseBuilderExt, Url};
use reqwest_middleware::{ClientWithMiddleware, Middleware, Next, RequestBuilder};
use serde::de::DeserializeOwned;
use tracing::Span;
use tracing::field::Empty;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use url::Position;

use crate::body::{InstrumentedBody, OnBodyEnd};
use crate::error_kind::{DnsError, ErrorKind, error_chain};
use crate::method::Method;
use crate::metrics::{ClientMetrics, Outcome};
use crate::server::Failure;
use crate::telemetry::Telemetry;
use crate::trace_context;

mod resilience;

use resilience::{CircuitBreaker, ConnectRetry};

/// The largest body that [`RequestBuilderExt::fetch_json`] reads, in bytes: what is longer is no answer.
pub const MAX_JSON_BODY: usize = 1024 * 1024;

/// How long a connection is kept for the next call. Less than servers keep theirs, our own among them
/// ([`IDLE_TIMEOUT_MS`](crate::config::IDLE_TIMEOUT_MS)), so that no call goes out on a connection that
/// its server is just closing.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// Builds a client whose calls are exemplar_context and measured.
pub struct ClientBuilder {
    telemetry: Telemetry,
    client: reqwest::ClientBuilder,
    timeout: Option<Duration>,
    connect_retries: u32,
    breaker: Option<CircuitBreaker>,
}

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder").finish_non_exhaustive()
    }
}

impl ClientBuilder {
    pub(crate) fn new(telemetry: Telemetry) -> Self {
        // An answer that sends us elsewhere is an answer: it is shown, not followed. A neighbour is
        // called directly, whatever proxy a shell has set for the world outside.
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .dns_resolver(Arc::new(SystemResolver))
            .pool_idle_timeout(IDLE_TIMEOUT)
            .tcp_nodelay(true);
        Self { telemetry, client, timeout: None, connect_retries: 0, breaker: None }
    }

    /// The time budget of a call in all: connect, headers and body, retries included.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self.configure(|client| client.timeout(timeout))
    }

    /// Calls again, at most so often, where no connection could be made; off (0) unless asked for.
    /// Over time at most a fifth of the calls, or one a second, is made again.
    pub fn max_connect_retries(mut self, retries: u32) -> Self {
        self.connect_retries = retries;
        self
    }

    /// After so many failures in a row stops calling for a second or more; off (0) unless asked for.
    /// A client with a breaker is for one service, the one at `url`.
    pub fn circuit_breaker(mut self, url: &Url, failures: u32) -> Self {
        self.breaker = (failures > 0).then(|| {
            let metrics = self.telemetry.0.metrics.client(url);
            CircuitBreaker::new(failures, metrics.circuit_open())
        });
        self
    }

    /// A service that will be called: its error counters stand at 0 from now on, so that a rate is
    /// right from the first error on.
    pub fn register_server(self, url: &Url) -> Self {
        self.telemetry.0.metrics.client(url);
        self
    }

    /// Anything else that reqwest's builder can be told.
    pub fn configure(
        mut self,
        configure: impl FnOnce(reqwest::ClientBuilder) -> reqwest::ClientBuilder,
    ) -> Self {
        self.client = configure(self.client);
        self
    }

    /// The client.
    ///
    /// # Errors
    /// Where reqwest cannot build it, as with a TLS set-up that does not load.
    pub fn build(self) -> Result<ClientWithMiddleware, reqwest::Error> {
        let Self { telemetry, client, timeout, connect_retries, breaker } = self;
        let mut builder = reqwest_middleware::ClientBuilder::new(client.build()?);
        if connect_retries > 0 {
            builder = builder.with(ConnectRetry::new(telemetry.clone(), connect_retries, timeout));
        }
        Ok(builder.with(TelemetryMiddleware { telemetry, breaker }).build())
    }
}

/// A JSON answer in one step, with an error that knows its kind.
pub trait RequestBuilderExt {
    /// Sends the request, expects a 2xx answer, reads its body, decodes it. All of it is one call: a
    /// body that does not decode is a failed call in span and metrics, with the kind `decode`.
    fn fetch_json<T: DeserializeOwned>(self) -> impl Future<Output = Result<T, CallError>> + Send;
}

impl RequestBuilderExt for RequestBuilder {
    fn fetch_json<T: DeserializeOwned>(
        mut self,
    ) -> impl Future<Output = Result<T, CallError>> + Send {
        let slot = GuardSlot::default();
        let mut extensions = std::mem::take(self.extensions());
        extensions.insert(slot.clone());
        // What `send` does, without moving the builder into a future of its own.
        let (client, request) = self.build_split();
        async move {
            let request = request.map_err(reqwest_middleware::Error::from);
            let sent = match request {
                Ok(request) => client.execute_with_extensions(request, &mut extensions).await,
                Err(error) => Err(error),
            };
            let mut response = match sent {
                Ok(response) => response,
                Err(error) => return Err(CallError::from_send_error(slot.take(), error)),
            };
            let result = decode(&mut response).await;
            // The guard is there whenever our middleware is; without it there is nothing to measure.
            let mut call = slot.take();
            if let Some(call) = &mut call {
                call.finish(result.as_ref().err().map(|error| error.kind));
            }
            result.map_err(|error| error.with_request(call.as_ref(), Some(response.url())))
        }
    }
}

async fn decode<T: DeserializeOwned>(response: &mut Response) -> Result<T, CallError> {
    let status = response.status();
    if !status.is_success() {
        return Err(CallError::response_received(
            ErrorKind::Status(status),
            format!("answered {status}"),
        ));
    }
    let too_long = || {
        let details = format!("answered {status} with a body of more than {MAX_JSON_BODY} bytes");
        CallError::response_received(ErrorKind::Decode, details)
    };
    let broken = |error: reqwest::Error| {
        let kind = ErrorKind::from_reqwest(&error);
        CallError::response_received(kind, error_chain(&error.without_url()))
    };
    let length = response.content_length();
    // Most bodies come in one piece, which is decoded where it lies.
    let mut body = response.chunk().await.map_err(broken)?.unwrap_or_default();
    let is_whole = length == Some(body.len() as u64);
    if !is_whole && let Some(second) = response.chunk().await.map_err(broken)? {
        let mut whole = BytesMut::from(body);
        let mut next = Some(second);
        while let Some(chunk) = next {
            if whole.len() + chunk.len() > MAX_JSON_BODY {
                return Err(too_long());
            }
            whole.extend_from_slice(&chunk);
            next = response.chunk().await.map_err(broken)?;
        }
        body = whole.freeze();
    }
    if body.len() > MAX_JSON_BODY {
        return Err(too_long());
    }
    serde_json::from_slice(&body).map_err(|error| {
        // It quotes the body, which may be long.
        let error = truncate(error.to_string());
        let details = format!("answered {status} with a body that is not what was agreed: {error}");
        CallError::response_received(ErrorKind::Decode, details)
    })
}

fn truncate(mut text: String) -> String {
    const MAX: usize = 512;
    if text.len() > MAX {
        text.truncate(text.floor_char_boundary(MAX));
        text.push('…');
    }
    text
}

/// Why a call failed.
#[derive(Debug, Clone)]
pub struct CallError {
    kind: ErrorKind,
    details: String,
    is_response_received: bool,
}

impl CallError {
    fn response_received(kind: ErrorKind, details: String) -> Self {
        Self { kind, details, is_response_received: true }
    }

    fn from_send_error(call: Option<CallGuard>, error: reqwest_middleware::Error) -> Self {
        let kind = ErrorKind::from_middleware(&error);
        let is_response_received = is_parse_error(&error);
        let url = error.url().cloned();
        let details = error_chain(&error.without_url());
        Self { kind, details, is_response_received }.with_request(call.as_ref(), url.as_ref())
    }

    /// Says whom the call went to.
    fn with_request(self, call: Option<&CallGuard>, url: Option<&Url>) -> Self {
        let details = match (call, url) {
            (Some(call), Some(url)) => {
                let (method, url) = (call.method.as_str(), redact_url(url));
                format!("{method} {url}: {}", self.details)
            }
            _ => self.details,
        };
        Self { details, ..self }
    }

    /// The one word for it.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The URL (without query and credentials) and the chain of causes, for a person.
    pub fn details(&self) -> &str {
        &self.details
    }

    /// What a gateway would have said (RFC 9110, sections 15.6.3 to 15.6.5): 504 for a time-out, 502
    /// where the peer answered and the answer was unusable, 503 otherwise.
    pub fn http_status(&self) -> StatusCode {
        match self.kind {
            ErrorKind::Timeout => StatusCode::GATEWAY_TIMEOUT,
            _ if self.is_response_received => StatusCode::BAD_GATEWAY,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.details)
    }
}

impl Error for CallError {}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        Self { kind: error.kind, http_status: error.http_status(), details: error.details }
    }
}

/// Whether something came back that is no HTTP: an answer, if an unusable one.
fn is_parse_error(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref().is_some_and(hyper::Error::is_parse) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The middleware.
struct TelemetryMiddleware {
    telemetry: Telemetry,
    breaker: Option<CircuitBreaker>,
}

#[async_trait::async_trait]
impl Middleware for TelemetryMiddleware {
    async fn handle(
        &self,
        mut request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        if let Some(Err(open)) = self.breaker.as_ref().map(CircuitBreaker::try_acquire) {
            self.telemetry.0.metrics.client(request.url()).record_rejected();
            return Err(reqwest_middleware::Error::middleware(open));
        }
        let mut call = CallGuard::start(&self.telemetry, &request);
        call.breaker = self.breaker.clone();
        trace_context::inject(&call.cx, request.headers_mut());
        let slot = extensions.get::<GuardSlot>().cloned();
        // The span is not entered: below here is only the connection, which makes no spans.
        let result = next.run(request, extensions).await;
        let response = match result {
            Ok(response) => response,
            Err(error) => {
                call.finish(Some(ErrorKind::from_middleware(&error)));
                if let Some(slot) = slot {
                    slot.set(call);
                }
                return Err(error);
            }
        };
        call.status = Some(response.status());
        match slot {
            Some(slot) => {
                slot.set(call);
                Ok(response)
            }
            None => Ok(call.instrument_body(response)),
        }
    }
}

impl Telemetry {
    /// The span of a call, with the context that goes out with it: the caller's own where no span is
    /// made.
    fn client_span(&self) -> (Span, Context) {
        let caller = Context::map_current(|cx| {
            let span = cx.span();
            let span = span.span_context();
            // A span that will not be sampled is not made at all.
            let is_unsampled = span.is_valid() && !span.is_sampled();
            (is_unsampled && self.0.is_parent_based).then(|| cx.clone())
        });
        if let Some(caller) = caller {
            return (Span::none(), caller);
        }
        // Declared fields make the list of attributes as long as it will be.
        let span = tracing::info_span!(
            "http.client.request",
            otel.kind = "client",
            http.request.method = Empty,
            http.response.status_code = Empty,
            server.address = Empty,
            server.port = Empty,
            url.full = Empty,
        );
        let cx = if span.is_disabled() { Context::current() } else { span.context() };
        // Where spans are switched off, the caller's context goes on as it is.
        let cx = if cx.span().span_context().is_valid() { cx } else { Context::current() };
        (span, cx)
    }
}

/// Where the middleware leaves the guard for one who reads the body himself.
#[derive(Clone, Default)]
struct GuardSlot(Arc<Mutex<Option<CallGuard>>>);

impl GuardSlot {
    fn set(&self, call: CallGuard) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(call);
    }

    fn take(&self) -> Option<CallGuard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The guard of one call.
struct CallGuard {
    telemetry: Telemetry,
    peer: Arc<ClientMetrics>,
    started: Instant,
    method: Method,
    cx: Context,
    /// The span ends when this is dropped.
    _span: Span,
    status: Option<StatusCode>,
    breaker: Option<CircuitBreaker>,
    finished: bool,
}

impl CallGuard {
    fn start(telemetry: &Telemetry, request: &Request) -> Self {
        let method = Method::from(request.method());
        let (span, cx) = telemetry.client_span();
        let peer = telemetry.0.metrics.client(request.url());
        if !span.is_disabled() && cx.span().is_recording() {
            cx.span().update_name(method.span_name());
            cx.span().set_attributes([
                KeyValue::new("http.request.method", method.as_str()),
                KeyValue::new("server.address", Arc::clone(&peer.peer.address)),
                KeyValue::new("server.port", i64::from(peer.peer.port)),
                KeyValue::new("url.full", redact_url(request.url())),
            ]);
        }
        peer.active(method).increment(1);
        let started = Instant::now();
        Self {
            telemetry: telemetry.clone(),
            peer,
            started,
            method,
            cx,
            _span: span,
            status: None,
            breaker: None,
            finished: false,
        }
    }

    fn finish(&mut self, error: Option<ErrorKind>) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        let duration = self.started.elapsed();
        let error = error
            .or_else(|| self.status.filter(|status| !status.is_success()).map(ErrorKind::Status));
        if let Some(breaker) = &self.breaker {
            breaker.record(error);
        }
        self.peer.active(self.method).decrement(1);
        let span = self.cx.span();
        let outcome = Outcome { method: self.method, status: self.status, error };
        self.peer.request(outcome, duration, self.telemetry.exemplar_context(span.span_context()));
        if !span.is_recording() {
            return;
        }
        outcome.set_attributes(&span);
        // A caller that went away is no error of the peer's.
        if error.is_some_and(|error| error != ErrorKind::Canceled) {
            span.set_status(Status::error(""));
        }
    }

    /// The answer, with the guard in its body.
    fn instrument_body(mut self, response: Response) -> Response {
        let url = response.url().clone();
        let (mut parts, body) = http::Response::from(response).into_parts();
        let call = if body.is_end_stream() {
            self.finish(None);
            None
        } else {
            Some(self)
        };
        // reqwest keeps the URL beside the response it is made of.
        if let Ok(carrier) = http::Response::builder().url(url).body(()) {
            parts.extensions.extend(carrier.into_parts().0.extensions);
        }
        let body = reqwest::Body::wrap(InstrumentedBody::new(body, call));
        Response::from(http::Response::from_parts(parts, body))
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        self.finish(Some(ErrorKind::Canceled));
    }
}

impl OnBodyEnd<reqwest::Error> for CallGuard {
    fn end(&mut self, error: Option<&reqwest::Error>) {
        self.finish(error.map(ErrorKind::from_reqwest));
    }
}

/// Scheme, host, port and path: what is left of a URL without credentials and query values.
fn redact_url(url: &Url) -> String {
    // Most URLs have a port and no credentials: then it is their beginning.
    if url.port().is_some() && url.username().is_empty() && url.password().is_none() {
        return url[..Position::AfterPath].to_owned();
    }
    let host = url.host_str().unwrap_or_default();
    match url.port_or_known_default() {
        Some(port) => format!("{}://{host}:{port}{}", url.scheme(), url.path()),
        None => format!("{}://{host}{}", url.scheme(), url.path()),
    }
}

/// The system's resolver, with an error that has a type.
struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await.map_err(DnsError)?;
            let addresses: Vec<SocketAddr> = found.collect();
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redacts_credentials_and_query() {
        for (url, shown) in [
            ("http://user:pw@a.test/echo?msg=1#f", "http://a.test:80/echo"),
            ("http://[::1]:8080/", "http://[::1]:8080/"),
        ] {
            assert_eq!(redact_url(&url.parse().unwrap()), shown);
        }
    }
}
