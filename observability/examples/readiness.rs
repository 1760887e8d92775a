//! Readiness check of a dependency, and a service with a `/health` route of its own.
//!
//! ```sh
//! cargo run -p observability --example readiness -- --dependency-addr 127.0.0.1:5432
//! curl -i "http://127.0.0.1:8082/internal/readyz?verbose"
//! curl "http://127.0.0.1:8082/health"
//! ```

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use observability::{Config, Error, ServiceInfo};
use tokio::net::TcpStream;

const SERVICE: ServiceInfo =
    observability::service!("readiness", log_label: "readiness", listen_addr: "127.0.0.1:8082")
        // `/metrics` and the probes move below this path.
        .admin_prefix("/internal");

#[derive(clap::Args)]
struct Args {
    #[command(flatten)]
    config: Config,
    /// Address that must accept connections
    #[arg(long, env, value_name = "IP:PORT")]
    dependency_addr: SocketAddr,
}

fn main() -> ExitCode {
    observability::run(async {
        let args: Args = SERVICE.parse(std::env::args_os())?;
        let telemetry = observability::init(SERVICE, &args.config)?;
        telemetry.add_readiness_check(
            "dependency",
            Duration::from_millis(200),
            move || async move { TcpStream::connect(args.dependency_addr).await.map(drop) },
        );
        serve(telemetry).await
    })
}

async fn serve(telemetry: observability::Telemetry) -> Result<(), Error> {
    telemetry.serve(Router::new().route("/health", get(async || "healthy"))).await
}
