//! Service with its listener in `axum::serve`: the telemetry is a layer, and the shutdown is built from parts.
//!
//! ```sh
//! cargo run -p observability --example axum_serve
//! curl -i "http://127.0.0.1:8082/hello"
//! ```

use std::net::SocketAddr;
use std::process::ExitCode;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::routing::get;
use observability::{Config, Error, ServiceInfo};
use tokio::net::TcpListener;

const SERVICE: ServiceInfo =
    observability::service!("axum-serve", log_label: "axum-serve", listen_addr: "127.0.0.1:8082");

fn main() -> ExitCode {
    observability::run(serve())
}

async fn serve() -> Result<(), Error> {
    let config: Config = SERVICE.parse(std::env::args_os())?;
    let telemetry = observability::init(SERVICE, &config)?;
    // The layer, and the admin routes outside of it.
    let router = telemetry.instrument(Router::new().route("/hello", get(hello)));

    let listener = TcpListener::bind(config.listen_addr()).await.map_err(Error::other)?;
    telemetry.log_listening(listener.local_addr().map_err(Error::other)?);
    axum::serve(listener, router.into_make_service_with_connect_info::<SocketAddr>())
        .with_graceful_shutdown(telemetry.shutdown_signal()?)
        .await
        .map_err(Error::other)?;
    telemetry.shutdown(config.shutdown_timeout());
    Ok(())
}

async fn hello(ConnectInfo(client): ConnectInfo<SocketAddr>) -> String {
    format!("hello, {}", client.ip())
}
