//! Server side: the layer around a router's routes, the admin routes, and the server with its graceful
//! shutdown.
//!
//! ```no_run
//! use axum::{Router, routing::get};
//!
//! # async fn example(telemetry: observability::Telemetry) -> Result<(), observability::Error> {
//! let routes = Router::new().route("/greet", get(async || "hello"));
//! let switch = Router::new().route("/pause", get(async || "paused"));
//! telemetry.server(routes).merge_admin(switch).run().await
//! # }
//! ```

mod activity;
mod admin;
mod connection;
mod current;
mod forwarded;
mod head_timer;
mod host_check;
mod layer;
mod listener;
mod long_lived;
mod parts;
mod readiness;
mod rejection;
mod request;
mod request_body;
mod route;
mod shutdown;
mod span;
mod stream;

use std::convert::Infallible;
use std::fmt;
use std::future::pending;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::response::IntoResponse;
use axum::routing::Route;
use axum::serve::Listener;
use http::HeaderName;
use opentelemetry::Context;
use opentelemetry::trace::TraceContextExt;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tower::{Layer, Service};

use crate::error::Error;
use crate::telemetry::Telemetry;

use connection::Connections;
use host_check::check_hosts;
use listener::{Accept, accept_on, bind};
use parts::local_address;
use rejection::Rejections;
use shutdown::{ShutdownPhase, delay_drain, drain_connections, exit_on_second_signal, flush};

pub use current::record;
pub use layer::TelemetryLayer;
pub use long_lived::LongLived;
pub use shutdown::ShutdownSignals;
pub(crate) use shutdown::run_until_start_signal;

/// Response header with the trace id of the request, 32 hex digits.
pub const X_TRACE_ID: HeaderName = HeaderName::from_static("x-trace-id");

/// Returns the trace id of the current context, 32 hex digits; all zeros outside of a request.
pub fn current_trace_id() -> String {
    Context::map_current(|cx| cx.span().span_context().trace_id().to_string())
}

impl Telemetry {
    /// Adds spans, metrics, access log and `x-trace-id` to the routes of `router`, and merges
    /// `/metrics`, `/health`, `/livez` and `/readyz` into it.
    ///
    /// For a router that is served by other means than [`serve`](Self::serve).
    pub fn instrument(&self, router: Router) -> Router {
        let allowed_hosts = &self.0.config.request.allowed_hosts;
        let [router, admin] =
            [router, self.admin_routes()].map(|router| check_hosts(router, allowed_hosts));
        // `merge` keeps the fallback of its argument, so that unmatched requests are measured too.
        admin.merge(router.layer(self.layer()))
    }

    /// Instruments `router`, serves it until the process receives a shutdown signal, and flushes the
    /// telemetry.
    ///
    /// # Errors
    /// [`Error::Listen`] if an address cannot be bound.
    pub async fn serve(&self, router: Router) -> Result<(), Error> {
        self.server(router).run().await
    }

    /// Creates a server for `router`, for options that [`serve`](Self::serve) does not have.
    pub fn server(&self, router: Router) -> Server {
        // `with_state` builds each handler's service once. Without it axum builds them for each request.
        let router = check_hosts(router.with_state(()), &self.0.config.request.allowed_hosts);
        Server {
            router: router.layer(self.layer()),
            telemetry: self.clone(),
            admin: Some(self.admin_routes()),
            listeners: Vec::new(),
            addresses: Vec::new(),
            shutdown: Box::pin(pending()),
        }
    }
}

/// Server of an instrumented router; created with [`Telemetry::server`].
pub struct Server {
    telemetry: Telemetry,
    router: Router,
    /// `None` without admin routes.
    admin: Option<Router>,
    listeners: Vec<Accept>,
    /// Addresses of `listeners`, for the log.
    addresses: Vec<String>,
    shutdown: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

impl Server {
    /// Adds a layer outside of the telemetry, such as CORS. It also sees the responses of requests that
    /// panic or that exceed `MAX_CONCURRENT_REQUESTS`. The time that it takes is not measured.
    pub fn layer<L>(mut self, layer: L) -> Self
    where
        L: Layer<Route> + Clone + Send + Sync + 'static,
        L::Service: Service<Request, Error: Into<Infallible>, Response: IntoResponse + 'static>
            + Clone
            + Send
            + Sync
            + 'static,
        <L::Service as Service<Request>>::Future: Send + 'static,
    {
        self.router = self.router.layer(layer);
        self
    }

    /// Adds admin routes beside `/metrics` and the probes.
    ///
    /// Admin routes have no spans, metrics and access log lines. They move to `ADMIN_ADDR` if it is set.
    pub fn merge_admin(mut self, routes: Router) -> Self {
        self.admin = Some(self.admin.unwrap_or_default().merge(routes));
        self
    }

    /// Removes the admin routes, for a service that serves [`Telemetry::admin_routes`] itself.
    pub fn without_admin_routes(mut self) -> Self {
        self.admin = None;
        self
    }

    /// Serves on `listener` in place of `LISTEN_ADDR`, such as a Unix socket. May be called several times.
    pub fn listener(self, listener: impl Listener<Addr: 'static>) -> Self {
        self.push_listener(listener, false)
    }

    /// Serves on a listener that terminates TLS, in place of `LISTEN_ADDR`. Sets `url.scheme` to `https`.
    ///
    /// The listener must accept further connections while a client is slow in its TLS handshake.
    pub fn tls_listener(self, listener: impl Listener<Addr: 'static>) -> Self {
        self.push_listener(listener, true)
    }

    fn push_listener(mut self, listener: impl Listener<Addr: 'static>, is_tls: bool) -> Self {
        self.addresses.extend(local_address(&listener));
        let accept = accept_on(listener);
        self.listeners
            .push(Box::new(move |connections, router| accept(connections.tls(is_tls), router)));
        self
    }

    /// Starts a graceful shutdown when `signal` completes, as SIGTERM, SIGINT and SIGHUP do.
    pub fn with_graceful_shutdown(
        mut self,
        signal: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        self.shutdown = Box::pin(signal);
        self
    }

    /// Serves HTTP/1.1 and HTTP/2 until a shutdown signal, then shuts down within `SHUTDOWN_TIMEOUT_MS`:
    /// reports unready, serves for `DRAIN_DELAY_MS`, finishes the requests in flight, and flushes spans
    /// and log lines.
    ///
    /// # Errors
    /// [`Error::Listen`] if an address cannot be bound.
    pub async fn run(self) -> Result<(), Error> {
        let Self { telemetry, router, admin, mut listeners, addresses, shutdown } = self;
        let config = &telemetry.0.config;
        let mut signals = ShutdownSignals::new()?;
        let mut address = (!addresses.is_empty()).then(|| addresses.join(","));
        if listeners.is_empty() {
            let (listener, bound) = bind(&config.listen_addr).await?;
            address = Some(bound);
            listeners.push(listener);
        }
        let (admin_listener, admin_address) = match &config.admin_addr {
            Some(address) => bind(address).await.map(|(bound, at)| (Some(bound), Some(at)))?,
            None => (None, None),
        };
        tracing::info!(target: "observability", address, admin_address, "listening");
        telemetry.log_warnings();

        let (phase, phase_rx) = watch::channel(ShutdownPhase::Running);
        let rejections = Arc::new(Rejections::new(telemetry.clone()));
        let connections = Connections::new(config.idle_timeout, phase_rx, rejections);
        let admin = check_hosts(admin.unwrap_or_default(), &config.request.allowed_hosts);
        let mut accepting = JoinSet::new();
        let router = match admin_listener {
            Some(accept) => {
                accepting.spawn(accept(connections.clone(), admin));
                router
            }
            None => merge_admin(admin, router)?,
        };
        for accept in listeners {
            accepting.spawn(accept(connections.clone(), router.clone()));
        }
        drop(connections);

        let signal = tokio::select! {
            signal = signals.recv() => signal,
            () = shutdown => "stop",
        };
        let deadline = delay_drain(&telemetry, signal, &mut signals).await;
        accepting.shutdown().await;
        tokio::select! {
            () = drain_connections(&phase, deadline, config.shutdown_timeout) => {}
            signal = signals.recv() => exit_on_second_signal(signal),
        }
        tokio::select! {
            flushed = flush(telemetry.clone(), deadline) => flushed,
            signal = signals.recv() => exit_on_second_signal(signal),
        }
    }
}

/// Merges the admin routes and the routes of the service.
///
/// `merge` keeps the fallback of its argument, so that unmatched requests are measured. It panics if both
/// routers have a route, which only the start of the process can show.
fn merge_admin(admin: Router, router: Router) -> Result<Router, Error> {
    catch_unwind(AssertUnwindSafe(|| admin.merge(router))).map_err(|_| {
        Error::other(
            "a route of the service is an admin route as well; move the admin routes with \
             `ServiceInfo::admin_prefix` or remove them with `Server::without_admin_routes`",
        )
    })
}
