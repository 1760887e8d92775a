//! A service on a runtime with a single thread, its own: nothing in the library needs another one,
//! not even to flush the last spans.

use std::process::ExitCode;

use axum::Router;
use axum::routing::get;
use observability::Error;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    observability::exit_code(serve().await)
}

async fn serve() -> Result<(), Error> {
    let service =
        observability::service!("current-thread", log_label: "T", listen_addr: "127.0.0.1:8084");
    let telemetry = observability::init(service, &service.parse(std::env::args_os())?)?;
    telemetry.serve(Router::new().route("/hello", get(async || "hello"))).await
}
