//! Telemetry that registers no globals, beside the layers of a `tracing` subscriber.
//!
//! ```sh
//! cargo run -p observability --example own_subscriber
//! curl -i "http://127.0.0.1:8082/hello"
//! ```

use std::net::SocketAddr;
use std::process::ExitCode;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::routing::get;
use observability::{Config, Error, ServiceInfo, Telemetry};
use tokio::net::TcpListener;
use tracing_subscriber::prelude::*;

const SERVICE: ServiceInfo = observability::service!("own-subscriber", log_label: "own-subscriber", listen_addr: "127.0.0.1:8082");

#[tokio::main]
async fn main() -> ExitCode {
    observability::exit_code(serve().await)
}

async fn serve() -> Result<(), Error> {
    let config: Config = SERVICE.parse(std::env::args_os())?;
    let telemetry = Telemetry::start(SERVICE, &config)?;
    // Layers of the service stand beside that of the telemetry.
    tracing_subscriber::registry().with(telemetry.tracing_layer()).init();

    let router = Router::new()
        .route("/hello", get(async |ConnectInfo(peer): ConnectInfo<SocketAddr>| format!("{peer}")))
        .layer(telemetry.layer());
    let router = telemetry.admin_routes().merge(router);
    let listener = TcpListener::bind(config.listen_addr()).await.map_err(Error::other)?;
    telemetry.log_listening(listener.local_addr().map_err(Error::other)?);
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    let shutdown = telemetry.shutdown_signal()?;
    axum::serve(listener, service).with_graceful_shutdown(shutdown).await.map_err(Error::other)?;
    telemetry.shutdown(config.shutdown_timeout());
    Ok(())
}
