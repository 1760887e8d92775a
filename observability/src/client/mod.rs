//! Client side: a builder of clients whose calls are traced, measured and classified.
//!
//! The telemetry middleware is the innermost one, next to the connection, so that no other middleware
//! wraps an error before it is classified. Its guard lives to the end of the response body, so that a
//! body that fails makes the call a failed one.
//!
//! ```no_run
//! use observability::RequestBuilderExt;
//! use std::time::Duration;
//!
//! # async fn example(telemetry: observability::Telemetry) -> Result<(), Box<dyn std::error::Error>> {
//! let client = telemetry.client().timeout(Duration::from_secs(1)).max_connect_retries(2).build()?;
//! match client.get("http://127.0.0.1:8083/name").fetch_json::<String>().await {
//!     Ok(name) => println!("hello {name}"),
//!     Err(error) => println!("{}: {}", error.kind(), error.details()),
//! }
//! # Ok(())
//! # }
//! ```

mod circuit_breaker;
mod error;
mod json;
mod middleware;
mod resolver;
mod retry;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;
use reqwest_middleware::ClientWithMiddleware;

use crate::telemetry::Telemetry;

use circuit_breaker::CircuitBreaker;
use middleware::TelemetryMiddleware;
use resolver::SystemResolver;
use retry::ConnectRetry;

pub use error::CallError;
pub use json::{MAX_JSON_BODY, RequestBuilderExt};

/// Idle timeout of pooled connections. Shorter than the default of the server's `IDLE_TIMEOUT_MS`, so
/// that a reused connection is not one that the server is about to close.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

impl Telemetry {
    /// Creates a builder of clients whose calls are traced and measured.
    ///
    /// A call is one request. The clients follow no redirect, and do not repeat a request that an HTTP/2 server
    /// refuses, as reqwest does by default if its feature `http2` is enabled.
    pub fn client(&self) -> ClientBuilder {
        ClientBuilder::new(self.clone())
    }

    /// Measures the calls of a client that the service has built itself, for example with a proxy.
    ///
    /// Each redirect that such a client follows is part of one call.
    pub fn instrument_client(&self, client: reqwest::Client) -> ClientWithMiddleware {
        let middleware = TelemetryMiddleware::new(self.clone(), None);
        reqwest_middleware::ClientBuilder::new(client).with(middleware).build()
    }
}

/// Builder of a client whose calls are traced and measured; created with [`Telemetry::client`].
pub struct ClientBuilder {
    telemetry: Telemetry,
    client: reqwest::ClientBuilder,
    timeout: Option<Duration>,
    max_connect_retries: u32,
    breaker: Option<CircuitBreaker>,
}

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder").finish_non_exhaustive()
    }
}

impl ClientBuilder {
    fn new(telemetry: Telemetry) -> Self {
        // A redirect is returned to the caller, not followed. Proxies from the environment are meant for
        // calls to the outside, not for calls between services.
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .dns_resolver(Arc::new(SystemResolver))
            .pool_idle_timeout(IDLE_TIMEOUT)
            // A retry of reqwest would have no span, and each request would be copied for it.
            .retry(reqwest::retry::never().max_retries_per_request(0))
            // Folded headers are obsolete, but a client must accept them (RFC 9112, section 5.2).
            .http1_allow_obsolete_multiline_headers_in_responses(true)
            .tcp_nodelay(true);
        Self { telemetry, client, timeout: None, max_connect_retries: 0, breaker: None }
    }

    /// Sets the time budget of a call: connect, headers and body, retries included.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        // reqwest divides the connect timeout among the addresses of a host, so that an address that does
        // not respond leaves time for the next one.
        self.configure(|client| client.timeout(timeout).connect_timeout(timeout))
    }

    /// Sets the maximum number of retries of a call whose connection cannot be made. The default is 0.
    ///
    /// In ten seconds there are at most ten retries, plus a fifth of the calls.
    pub fn max_connect_retries(mut self, retries: u32) -> Self {
        self.max_connect_retries = retries;
        self
    }

    /// Adds a circuit breaker that opens after `failures` consecutive failures. 0 adds none.
    ///
    /// An open breaker rejects calls for one second, and for up to 30 seconds if the server keeps
    /// failing. Then it admits one call, whose outcome closes the breaker or opens it again. The client
    /// must call no other server than that of `url`.
    pub fn circuit_breaker(mut self, url: &Url, failures: u32) -> Self {
        self.breaker = (failures > 0).then(|| {
            let metrics = self.telemetry.0.metrics.client(url);
            CircuitBreaker::new(failures, metrics.circuit_breaker_open())
        });
        self
    }

    /// Registers a server that will be called. Its error counters are 0 from now on, so that a rate
    /// includes the first error.
    pub fn register_server(self, url: &Url) -> Self {
        self.telemetry.0.metrics.client(url);
        self
    }

    /// Applies any other option of reqwest's builder.
    pub fn configure(
        mut self,
        configure: impl FnOnce(reqwest::ClientBuilder) -> reqwest::ClientBuilder,
    ) -> Self {
        self.client = configure(self.client);
        self
    }

    /// Builds the client.
    ///
    /// # Errors
    /// If reqwest cannot build it, for example because TLS roots do not load.
    pub fn build(self) -> Result<ClientWithMiddleware, reqwest::Error> {
        let Self { telemetry, client, timeout, max_connect_retries, breaker } = self;
        let mut builder = reqwest_middleware::ClientBuilder::new(client.build()?);
        if max_connect_retries > 0 {
            builder =
                builder.with(ConnectRetry::new(telemetry.clone(), max_connect_retries, timeout));
        }
        Ok(builder.with(TelemetryMiddleware::new(telemetry, breaker)).build())
    }
}
