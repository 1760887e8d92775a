//! A small in-memory Jaeger: receives OTLP and serves Jaeger's query API and UI.
//!
//! It shows the traces of services on the same machine and needs nothing but Rust. Traces are kept
//! in memory within [`Limits`], and the oldest are evicted first. There is no persistence and no
//! authentication, so the default addresses are loopback addresses. There, a request with another host than
//! a loopback address or `localhost` gets 403, which protects from DNS rebinding. In production, services
//! export the same OTLP to a real backend.
//!
//! | listener | default | serves |
//! |---|---|---|
//! | OTLP/gRPC | 127.0.0.1:4317 | `TraceService/Export`, plain or gzip |
//! | OTLP/HTTP | 127.0.0.1:4318 | `POST /v1/traces`, protobuf or JSON, plain or gzip |
//! | UI | 127.0.0.1:16686 | `/`, `/api/…` in Jaeger's format, `/metrics`, `/licenses` |
//!
//! ```
//! # #[tokio::main]
//! # async fn main() -> Result<(), embedded_jaeger::StartError> {
//! use embedded_jaeger::JaegerConfig;
//!
//! let jaeger = embedded_jaeger::start(JaegerConfig::with_ephemeral_ports()).await?;
//! println!("http://{}/", jaeger.ui_addr());
//! jaeger.stop().await;
//! # Ok(())
//! # }
//! ```
//!
//! # Modules
//!
//! An import only refers to a later row.
//!
//! | module | contents |
//! |---|---|
//! | crate root | configuration, listeners, start and stop |
//! | `api`, `api_v3`, `ui`, `metrics`, `ingest` | the services behind the listeners |
//! | `connection` | connections of a listener |
//! | `host_check` | protection against DNS rebinding |
//! | `monitor` | metrics of the Monitor page |
//! | `json_stream` | JSON responses in chunks |
//! | `query_params` | parameters of the query API |
//! | `search`, `json` | queries over all traces; traces in Jaeger's JSON |
//! | `clock_skew` | warnings of clocks that do not agree |
//! | `tags`, `trace_tree` | tags of a span; references without cycles |
//! | `store` | the bounded store of traces |
//! | `red` | rate, errors and durations of the spans |
//! | `span` | spans as the store keeps them |
//! | `ids` | trace and span ids |

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod api;
mod api_v3;
mod clock_skew;
mod connection;
mod host_check;
mod ids;
mod ingest;
mod json;
mod json_stream;
mod metrics;
mod monitor;
mod query_params;
mod red;
mod search;
mod span;
mod store;
mod tags;
mod trace_tree;
mod ui;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::middleware::from_fn;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use connection::serve;
use host_check::require_loopback_host;
use ids::TraceId;
use store::Store;

pub use store::{Limits, Stats};
pub use ui::{JAEGER_UI_VERSION, LICENSES};

/// Time that requests in flight are given to complete once shutdown has begun.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// Addresses and limits. Port 0 selects a free port.
#[derive(Clone, Debug)]
pub struct JaegerConfig {
    /// Address of the OTLP/gRPC listener. Default: 127.0.0.1:4317.
    pub otlp_grpc: SocketAddr,
    /// Address of the OTLP/HTTP listener. Default: 127.0.0.1:4318.
    pub otlp_http: SocketAddr,
    /// Address of the UI and its query API. Default: 127.0.0.1:16686.
    pub ui: SocketAddr,
    /// Maximum time for a client to send the headers of a request, and the whole request. Default: 10 s.
    pub request_timeout: Duration,
    /// Limits of the store.
    pub limits: Limits,
}

impl JaegerConfig {
    /// Creates a configuration that selects free loopback ports.
    pub fn with_ephemeral_ports() -> Self {
        Self::on_loopback(0, 0, 0)
    }

    fn on_loopback(otlp_grpc: u16, otlp_http: u16, ui: u16) -> Self {
        let [otlp_grpc, otlp_http, ui] =
            [otlp_grpc, otlp_http, ui].map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let request_timeout = Duration::from_secs(10);
        Self { otlp_grpc, otlp_http, ui, request_timeout, limits: Limits::default() }
    }
}

impl Default for JaegerConfig {
    fn default() -> Self {
        Self::on_loopback(4317, 4318, 16686)
    }
}

/// Error of [`start`]: a listener cannot be bound to its address.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {addr} for {listener}: {source}")]
#[non_exhaustive]
pub struct StartError {
    /// Listener that failed.
    pub listener: &'static str,
    /// Address from the configuration.
    pub addr: SocketAddr,
    /// Error of the operating system.
    pub source: io::Error,
}

/// Binds all three listeners and serves on them until [`JaegerHandle::stop`] is called.
///
/// The servers run on the current tokio runtime, whose I/O and time drivers must be enabled.
///
/// # Errors
/// Returns a [`StartError`] for the first address that cannot be bound. Nothing runs then, and the
/// other addresses are free again.
pub async fn start(config: JaegerConfig) -> Result<JaegerHandle, StartError> {
    let (grpc, grpc_addr) = bind("OTLP/gRPC", config.otlp_grpc).await?;
    let (http, http_addr) = bind("OTLP/HTTP", config.otlp_http).await?;
    let (ui, ui_addr) = bind("the Jaeger UI", config.ui).await?;

    let store = Arc::new(Store::new(config.limits));
    let ui_router = ui::router()
        .merge(api::router(Arc::clone(&store)))
        .merge(api_v3::router(Arc::clone(&store)))
        .route("/metrics", get(metrics::render).with_state(Arc::clone(&store)));

    let (shutdown, receiver) = watch::channel(());
    let mut servers = JoinSet::new();
    for (socket, router) in [
        (grpc, ingest::grpc::router(Arc::clone(&store))),
        (http, ingest::http::router(Arc::clone(&store))),
        (ui, ui_router),
    ] {
        // A listener on a loopback address serves only its names.
        let is_loopback = socket.local_addr().is_ok_and(|address| address.ip().is_loopback());
        let router =
            if is_loopback { router.layer(from_fn(require_loopback_host)) } else { router };
        servers.spawn(serve(socket, router, config.request_timeout, receiver.clone()));
    }
    Ok(JaegerHandle { addrs: [grpc_addr, http_addr, ui_addr], store, shutdown, servers })
}

/// Handle to a running Jaeger. Dropping it aborts requests in flight;
/// [`stop`](Self::stop) completes them.
#[derive(Debug)]
#[must_use = "dropping the handle stops Jaeger"]
pub struct JaegerHandle {
    addrs: [SocketAddr; 3],
    store: Arc<Store>,
    /// Shutdown begins when this is dropped.
    shutdown: watch::Sender<()>,
    servers: JoinSet<()>,
}

impl JaegerHandle {
    /// Returns the address of the OTLP/gRPC listener.
    pub fn otlp_grpc_addr(&self) -> SocketAddr {
        self.addrs[0]
    }

    /// Returns the address of the OTLP/HTTP listener. The path is `/v1/traces`.
    pub fn otlp_http_addr(&self) -> SocketAddr {
        self.addrs[1]
    }

    /// Returns the address of the UI.
    pub fn ui_addr(&self) -> SocketAddr {
        self.addrs[2]
    }

    /// Returns `true` if the store has a span of the trace with this id in hex.
    pub fn has_trace(&self, trace_id: &str) -> bool {
        TraceId::from_hex(trace_id).is_some_and(|id| self.store.trace(id).is_some())
    }

    /// Returns the contents of the store and its counters.
    pub fn stats(&self) -> Stats {
        self.store.stats()
    }

    /// Closes the listeners and waits up to two seconds for requests in flight.
    pub async fn stop(self) {
        let Self { shutdown, mut servers, .. } = self;
        drop(shutdown);
        let all_stopped = async { while servers.join_next().await.is_some() {} };
        if timeout(SHUTDOWN_TIMEOUT, all_stopped).await.is_err() {
            servers.shutdown().await;
        }
    }
}

async fn bind(
    listener: &'static str,
    addr: SocketAddr,
) -> Result<(TcpListener, SocketAddr), StartError> {
    let start_error = |source| StartError { listener, addr, source };
    let socket = TcpListener::bind(addr).await.map_err(start_error)?;
    let addr = socket.local_addr().map_err(start_error)?;
    Ok((socket, addr))
}
