//! Smallest service: one route with logs, traces, metrics, probes and graceful shutdown.
//!
//! ```sh
//! cargo run -p observability --example hello
//! curl -i "http://127.0.0.1:8082/hello"
//! curl "http://127.0.0.1:8082/metrics"
//! ```

use std::process::ExitCode;

use axum::Router;
use axum::routing::get;
use observability::{Error, ServiceInfo};

const SERVICE: ServiceInfo =
    observability::service!("hello", log_label: "hello", listen_addr: "127.0.0.1:8082");

fn main() -> ExitCode {
    observability::run(hello())
}

async fn hello() -> Result<(), Error> {
    let config = SERVICE.parse(std::env::args_os())?;
    let telemetry = observability::init(SERVICE, &config)?;
    telemetry.serve(Router::new().route("/hello", get(async || "hello"))).await
}
