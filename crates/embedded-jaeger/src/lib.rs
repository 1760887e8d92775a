//! A small in-memory Jaeger: OTLP in, Jaeger's query API and Jaeger's own interface out.
//!
//! For one machine: it lets whoever has only Rust look at the traces of the services they run.
//! Everything is in memory and bounded by [`Limits`], the oldest trace goes first, nothing survives
//! the process, and there is no authentication, so that it listens on loopback unless told
//! otherwise. Production exports the same OTLP to a real backend.
//!
//! | listener | default | takes |
//! |---|---|---|
//! | OTLP/gRPC | 127.0.0.1:4317 | `TraceService/Export`, plain or gzip |
//! | OTLP/HTTP | 127.0.0.1:4318 | `POST /v1/traces`, protobuf, plain or gzip |
//! | interface | 127.0.0.1:16686 | `/`, `/api/…` as Jaeger serves it, `/metrics`, `/licenses` |
//!
//! A span goes from `ingest` to the `store` as a small record and a few bytes of
//! protobuf; `search` finds traces, `tree` gives each a shape without circles, and `tags` and
//! `render` write it in Jaeger's JSON. `ui` is Jaeger's build, embedded by `build.rs`.
//!
//! ```no_run
//! # async fn example() -> Result<(), embedded_jaeger::StartError> {
//! let jaeger = embedded_jaeger::start(embedded_jaeger::JaegerConfig::default()).await?;
//! println!("http://{}/", jaeger.ui_addr());
//! jaeger.stop().await;
//! # Ok(())
//! # }
//! ```

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod api;
mod ids;
mod ingest;
mod metrics;
mod params;
mod render;
mod search;
mod store;
mod tags;
mod tree;
mod ui;

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::routing::get;
use axum::serve::ListenerExt as _;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

pub use store::{Limits, Stats, Store};
pub use ui::{JAEGER_UI_VERSION, LICENSES};

/// Where to listen, and how much to keep. Port 0 takes a free port.
#[derive(Clone, Debug)]
pub struct JaegerConfig {
    /// OTLP over gRPC. Default: 127.0.0.1:4317.
    pub otlp_grpc: SocketAddr,
    /// OTLP over HTTP. Default: 127.0.0.1:4318.
    pub otlp_http: SocketAddr,
    /// The interface and its query API. Default: 127.0.0.1:16686.
    pub ui: SocketAddr,
    /// How much is kept.
    pub limits: Limits,
}

impl JaegerConfig {
    /// Free ports of loopback, for tests and for several at once.
    pub fn with_ephemeral_ports() -> Self {
        Self::on_loopback(0, 0, 0)
    }

    fn on_loopback(otlp_grpc: u16, otlp_http: u16, ui: u16) -> Self {
        let [otlp_grpc, otlp_http, ui] =
            [otlp_grpc, otlp_http, ui].map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        Self { otlp_grpc, otlp_http, ui, limits: Limits::default() }
    }
}

impl Default for JaegerConfig {
    fn default() -> Self {
        Self::on_loopback(4317, 4318, 16686)
    }
}

/// One of the three listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    /// OTLP over gRPC.
    OtlpGrpc,
    /// OTLP over HTTP.
    OtlpHttp,
    /// The interface and its query API.
    Ui,
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OtlpGrpc => "OTLP/gRPC",
            Self::OtlpHttp => "OTLP/HTTP",
            Self::Ui => "the Jaeger UI",
        })
    }
}

/// An address that could not be listened on; the others are free again.
#[derive(Debug)]
pub struct StartError {
    /// Which listener it was for.
    pub listener: Listener,
    /// The address.
    pub addr: SocketAddr,
    /// What the system said.
    pub source: io::Error,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot listen on {} for {}: {}", self.addr, self.listener, self.source)
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// Binds all three listeners, then serves on them until [`JaegerHandle::stop`].
///
/// It runs on the runtime that calls it, which needs its I/O and time drivers.
///
/// # Errors
/// [`StartError`] names the first address that could not be bound; nothing runs then.
pub async fn start(settings: JaegerConfig) -> Result<JaegerHandle, StartError> {
    let grpc = Bound::bind(Listener::OtlpGrpc, settings.otlp_grpc).await?;
    let http = Bound::bind(Listener::OtlpHttp, settings.otlp_http).await?;
    let ui = Bound::bind(Listener::Ui, settings.ui).await?;
    let addrs = [grpc.addr, http.addr, ui.addr];

    let store = Arc::new(Store::new(settings.limits));
    let (stop, stopped) = watch::channel(());
    let mut servers = JoinSet::new();
    servers.spawn(serve_grpc(grpc.socket, Arc::clone(&store), until_closed(stopped.clone())));
    let otlp = ingest::http::router(Arc::clone(&store));
    servers.spawn(serve_http(http.socket, otlp, until_closed(stopped.clone())));
    let figures = Arc::clone(&store);
    let ui_and_api = ui::router()
        .merge(api::router(Arc::clone(&store)))
        .route("/metrics", get(move || async move { metrics::exposition(&figures) }));
    servers.spawn(serve_http(ui.socket, ui_and_api, until_closed(stopped)));
    Ok(JaegerHandle { addrs, store, stop, servers })
}

/// A Jaeger that runs. Dropped, it stops at once; [`stop`](Self::stop) lets answers finish.
#[derive(Debug)]
#[must_use = "dropped, it stops"]
pub struct JaegerHandle {
    addrs: [SocketAddr; 3],
    store: Arc<Store>,
    stop: watch::Sender<()>,
    servers: JoinSet<()>,
}

/// How long answers in flight may take once it stops.
const GRACE: Duration = Duration::from_secs(2);

impl JaegerHandle {
    /// Where OTLP over gRPC is taken.
    pub fn otlp_grpc_addr(&self) -> SocketAddr {
        self.addrs[0]
    }

    /// Where OTLP over HTTP is taken; the path is `/v1/traces`.
    pub fn otlp_http_addr(&self) -> SocketAddr {
        self.addrs[1]
    }

    /// Where the interface is.
    pub fn ui_addr(&self) -> SocketAddr {
        self.addrs[2]
    }

    /// The store, for its counts.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Takes no more connections, lets answers in flight finish, and returns within two seconds.
    pub async fn stop(self) {
        let Self { stop, mut servers, .. } = self;
        drop(stop);
        let all = async { while servers.join_next().await.is_some() {} };
        if timeout(GRACE, all).await.is_err() {
            servers.shutdown().await;
        }
    }
}

struct Bound {
    socket: TcpListener,
    addr: SocketAddr,
}

impl Bound {
    async fn bind(listener: Listener, addr: SocketAddr) -> Result<Self, StartError> {
        let failed = |source| StartError { listener, addr, source };
        let socket = TcpListener::bind(addr).await.map_err(failed)?;
        let addr = socket.local_addr().map_err(failed)?;
        Ok(Self { socket, addr })
    }
}

async fn serve_grpc(socket: TcpListener, store: Arc<Store>, stop: impl Future<Output = ()>) {
    let incoming = TcpIncoming::from(socket).with_nodelay(Some(true));
    let service = ingest::grpc::TraceService(store);
    // Its errors are those of single connections, which end with them.
    let _ =
        Server::builder().add_service(service).serve_with_incoming_shutdown(incoming, stop).await;
}

async fn serve_http(
    socket: TcpListener,
    router: axum::Router,
    stop: impl Future<Output = ()> + Send + 'static,
) {
    let socket = socket.tap_io(|connection| {
        // Without it a small answer may wait for the last one's acknowledgement.
        let _ = connection.set_nodelay(true);
    });
    let _ = axum::serve(socket, router).with_graceful_shutdown(stop).await;
}

async fn until_closed(mut stopped: watch::Receiver<()>) {
    while stopped.changed().await.is_ok() {}
}
