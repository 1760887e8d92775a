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
//! # Modules
//!
//! | question | where |
//! |---|---|
//! | Which settings are there? | [`config`] |
//! | What is started and flushed, and in which order? | [`init`], [`Telemetry`] |
//! | What happens around a request, and how does a service stop? | [`server`] |
//! | What happens around a call to another service? | [`client`] |
//! | Which kinds of failure are there? | [`ErrorKind`] |
//! | How does a trace continue from one service to the next? | [`traces::propagation`] |
//! | Which metrics are there? | [`metrics`](mod@metrics) |
//! | What does a log line look like? | [`logs`] |
//!
//! A router that is served by other means uses [`Telemetry::instrument`] and [`Telemetry::shutdown`].

// docs.rs names the feature that an item needs.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod cli;
pub mod client;
pub mod config;
mod error;
mod health_check;
mod hex;
mod http;
pub mod logs;
pub mod metrics;
mod readiness;
pub mod server;
mod telemetry;
mod telemetry_check;
#[cfg(feature = "testing")]
pub mod testing;
pub mod traces;

pub use cli::parse;
pub use client::{CallError, RequestBuilderExt};
pub use config::{Config, ServiceInfo};
pub use error::{Error, ErrorKind, Failure, GrpcStatus, exit_code};
/// Client whose calls are traced and measured; see [`Telemetry::client`].
pub use reqwest_middleware::ClientWithMiddleware as Client;
pub use server::{LongLived, current_trace_id, record};
pub use telemetry::{Telemetry, TelemetryBuilder, init};

/// Runs the main task of a service on a multi-threaded runtime, prints its error, and returns the exit
/// code.
///
/// Unlike `#[tokio::main]`, it does not wait for blocking tasks such as a name resolution, so that the
/// time of the shutdown is bounded. A shutdown signal that arrives before the service handles it, with a
/// server or a [`ShutdownSignals`](server::ShutdownSignals), drops `main` and ends the process with exit code 0.
pub fn run(main: impl Future<Output = Result<(), Error>>) -> std::process::ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return exit_code(Err(Error::other(error))),
    };
    let result = runtime.block_on(server::run_until_start_signal(main));
    runtime.shutdown_background();
    exit_code(result)
}

/// Creates the [`ServiceInfo`] of the calling crate. Description and version come from its manifest, the
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
