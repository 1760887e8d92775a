//! Service that reads the address of its client. No option is needed for `ConnectInfo<SocketAddr>`.
//!
//! ```sh
//! cargo run -p observability --example connect_info
//! curl "http://127.0.0.1:8082/client"
//! ```

use std::net::SocketAddr;
use std::process::ExitCode;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::routing::get;
use observability::{Error, ServiceInfo};

const SERVICE: ServiceInfo = observability::service!("connect-info", log_label: "connect-info", listen_addr: "127.0.0.1:8082");

fn main() -> ExitCode {
    observability::run(serve())
}

async fn serve() -> Result<(), Error> {
    let config = SERVICE.parse(std::env::args_os())?;
    let telemetry = observability::init(SERVICE, &config)?;
    telemetry.serve(Router::new().route("/client", get(client))).await
}

async fn client(ConnectInfo(client): ConnectInfo<SocketAddr>) -> String {
    client.to_string()
}
