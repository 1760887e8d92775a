//! Server side: the layer around a router's routes, the admin routes, and the server with its graceful
//! shutdown.

mod admin;
mod connection;
mod layer;
mod request;
mod shutdown;
mod span;

use std::fmt;
use std::future::pending;
use std::net::SocketAddr;
use std::pin::Pin;

use axum::Router;
use http::HeaderName;
use opentelemetry::Context;
use opentelemetry::trace::TraceContextExt;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::error::Error;
use crate::telemetry::Telemetry;

use connection::accept_connections;
use shutdown::{ShutdownPhase, drain_connections, exit_on_second_signal};

pub use shutdown::ShutdownSignals;

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
        // `merge` keeps the fallback of its argument, so that unmatched requests are measured too.
        self.admin_routes().merge(self.instrument_routes(router))
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
        Server {
            telemetry: self.clone(),
            router,
            admin: Router::new(),
            shutdown: Box::pin(pending()),
        }
    }
}

/// Server of an instrumented router; created with [`Telemetry::server`].
pub struct Server {
    telemetry: Telemetry,
    router: Router,
    admin: Router,
    shutdown: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

impl Server {
    /// Adds admin routes beside `/metrics` and the probes.
    ///
    /// Admin routes have no spans, metrics and access log lines. They move to `ADMIN_ADDR` if it is set.
    pub fn merge_admin(mut self, routes: Router) -> Self {
        self.admin = self.admin.merge(routes);
        self
    }

    /// Starts a graceful shutdown when `signal` completes, as SIGTERM and SIGINT do.
    pub fn with_graceful_shutdown(
        mut self,
        signal: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        self.shutdown = Box::pin(signal);
        self
    }

    /// Serves until a shutdown signal, then shuts down within `SHUTDOWN_TIMEOUT_MS`: reports unready,
    /// serves for `DRAIN_DELAY_MS`, finishes the requests in flight, and flushes spans and log lines.
    ///
    /// # Errors
    /// [`Error::Listen`] if an address cannot be bound.
    pub async fn run(self) -> Result<(), Error> {
        let Self { telemetry, router, admin, shutdown } = self;
        let config = &telemetry.0.config;
        let admin = telemetry.admin_routes().merge(admin);
        let listener = bind(config.listen_addr).await?;
        let admin_listener = match config.admin_addr {
            Some(address) => Some(bind(address).await?),
            None => None,
        };
        let mut signals = ShutdownSignals::new()?;
        log_listening(&telemetry, &listener, admin_listener.as_ref());

        let api = telemetry.instrument_routes(router);
        let (phase, connections) = watch::channel(ShutdownPhase::Running);
        let idle_timeout = config.idle_timeout;
        let serving = async {
            match &admin_listener {
                Some(admin_listener) => {
                    tokio::join!(
                        accept_connections(&listener, api, idle_timeout, &connections),
                        accept_connections(admin_listener, admin, idle_timeout, &connections)
                    );
                }
                // `merge` keeps the fallback of `api`, so that unmatched requests are measured.
                None => {
                    let router = admin.merge(api);
                    accept_connections(&listener, router, idle_timeout, &connections).await;
                }
            }
        };

        let deadline = {
            tokio::pin!(serving);
            let signal = tokio::select! {
                () = &mut serving => "none",
                signal = signals.recv() => signal,
                () = shutdown => "stop",
            };
            telemetry.set_ready(false);
            tracing::info!(target: "observability", signal, "stopping");
            let now = Instant::now();
            let deadline = now + config.shutdown_timeout;
            let drain_end = deadline.min(now + config.drain_delay);
            tokio::select! {
                _ = timeout_at(drain_end, serving) => {}
                signal = signals.recv() => exit_on_second_signal(signal),
            }
            deadline
        };
        drop((listener, admin_listener, connections));
        tokio::select! {
            () = drain_connections(&phase, deadline, config.shutdown_timeout) => {}
            signal = signals.recv() => exit_on_second_signal(signal),
        }
        let flush = tokio::task::spawn_blocking({
            let telemetry = telemetry.clone();
            move || telemetry.shutdown(deadline.saturating_duration_since(Instant::now()))
        });
        tokio::select! {
            _ = flush => Ok(()),
            signal = signals.recv() => exit_on_second_signal(signal),
        }
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })
}

/// Logs the addresses and the warnings about `OTEL_*` variables.
fn log_listening(telemetry: &Telemetry, listener: &TcpListener, admin: Option<&TcpListener>) {
    let address = |listener: &TcpListener| {
        listener.local_addr().map(|address| address.to_string()).unwrap_or_default()
    };
    tracing::info!(
        target: "observability",
        address = address(listener),
        admin_address = admin.map(address),
        "listening"
    );
    for warning in &telemetry.0.otel.warnings {
        tracing::warn!(target: "observability", "{warning}");
    }
}
