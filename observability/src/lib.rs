//! Logs, traces and metrics for an axum service: two calls and a client builder.
//!
//! ```no_run
//! use axum::{Router, extract::State, routing::get};
//! use observability::{Config, Error, RequestBuilderExt};
//! use std::{process::ExitCode, time::Duration};
//!
//! fn main() -> ExitCode {
//!     observability::run(greeter())
//! }
//!
//! async fn greeter() -> Result<(), Error> {
//!     let service = observability::service!("greeter", log_label: "G", listen_addr: "127.0.0.1:8082");
//!     let config: Config = service.parse(std::env::args_os())?; // flags, variables, --help
//!     let telemetry = observability::init(service, &config)?; // 1: logs, traces, metrics
//!     let client = telemetry.client().timeout(Duration::from_secs(1)).build()?;
//!     let greet = async |State(client): State<observability::Client>| {
//!         let name = client.get("http://127.0.0.1:8083/name").fetch_json::<String>().await;
//!         name.map_or_else(|error| format!("hello (name: {})", error.kind()), |name| format!("hello {name}"))
//!     };
//!     telemetry.serve(Router::new().route("/greet", get(greet)).with_state(client)).await // 2: serve it
//! }
//! ```
//!
//! That service writes a log line a request, answers `/metrics`, `/health`, `/livez` and `/readyz`,
//! sends its spans where `OTEL_EXPORTER_OTLP_ENDPOINT` says, goes on with its caller's trace, and
//! stops in order on SIGTERM.
//!
//! # The map
//! In the order in which a service meets them:
//!
//! | question | where |
//! |---|---|
//! | which settings are there, and what do they mean? | [`config`] |
//! | what is started, what is flushed, in which order? | [`Telemetry`], [`init`] |
//! | what happens around a request? | [`server`] |
//! | what happens around a call? | [`client`] |
//! | what is a failure called? | [`ErrorKind`] |
//! | how does a trace go from one service to the next? | [`trace_context`] |
//! | which metrics are there? | [`metrics`](mod@metrics) |
//! | how does a log line look, and where does it go? | [`log`] |
//! | how do spans leave, and which are lost? | [`export`] |
//! | how does a service listen and stop? | [`serve`] |
//!
//! Where a router is served by other means, [`Telemetry::instrument`] and [`Telemetry::shutdown`] do the
//! same without the listener.

mod admin;
mod body;
mod cli;
pub mod client;
pub mod config;
mod error;
pub mod error_kind;
pub mod export;
mod health_check;
pub mod log;
mod method;
pub mod metrics;
mod otel;
mod patience;
pub mod serve;
pub mod server;
mod telemetry;
pub mod trace_context;

pub use cli::parse;
pub use client::{CallError, RequestBuilderExt};
pub use config::{Config, LogFormat, ServiceInfo};
pub use error::{Error, exit_code};
pub use error_kind::ErrorKind;
/// A client whose calls are exemplar_context and measured; see [`Telemetry::client`].
pub use reqwest_middleware::ClientWithMiddleware as Client;
pub use server::{Failure, current_trace_id};
pub use telemetry::{Telemetry, init};

/// Runs a service's main task on a runtime of its own and gives `main` its exit code.
///
/// Unlike `#[tokio::main]` it does not wait for blocking work at the end, as for a name that is still
/// being resolved: the time a service takes to stop is bounded.
pub fn run(main: impl Future<Output = Result<(), Error>>) -> std::process::ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return exit_code(Err(Error::other(error))),
    };
    let result = runtime.block_on(main);
    runtime.shutdown_background();
    exit_code(result)
}

/// The [`ServiceInfo`] that the calling crate is: its description and version come from its manifest, its
/// revision from the variable `REVISION` at build time.
#[macro_export]
macro_rules! service {
    ($name:expr, log_label: $log_label:expr, listen_addr: $listen_addr:expr) => {
        $crate::ServiceInfo::new($name, $log_label, $listen_addr)
            .description(env!("CARGO_PKG_DESCRIPTION"))
            .build(
                env!("CARGO_PKG_VERSION"),
                match option_env!("REVISION") {
                    Some(revision) => revision,
                    None => "unknown",
                },
            )
    };
}
