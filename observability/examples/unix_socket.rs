//! Service that listens on a TCP port and on a Unix socket at the same time.
//!
//! ```sh
//! SOCKET_PATH=/tmp/hello.sock cargo run -p observability --example unix_socket
//! curl --unix-socket /tmp/hello.sock "http://localhost/hello"
//! curl "http://127.0.0.1:8082/hello"
//! ```

use std::path::PathBuf;
use std::process::ExitCode;

use axum::Router;
use axum::routing::get;
use observability::{Config, Error, ServiceInfo};
use tokio::net::{TcpListener, UnixListener};

const SERVICE: ServiceInfo =
    observability::service!("unix-socket", log_label: "unix-socket", listen_addr: "127.0.0.1:8082");

/// The settings of the service.
#[derive(Debug, clap::Args)]
struct Args {
    #[command(flatten)]
    config: Config,
    /// Path of the Unix socket
    #[arg(long, env, value_name = "PATH")]
    socket_path: PathBuf,
}

fn main() -> ExitCode {
    observability::run(serve())
}

async fn serve() -> Result<(), Error> {
    let args: Args = SERVICE.parse(std::env::args_os())?;
    let telemetry = observability::init(SERVICE, &args.config)?;
    let tcp = TcpListener::bind(args.config.listen_addr()).await.map_err(Error::other)?;
    let unix = UnixListener::bind(&args.socket_path).map_err(Error::other)?;
    let router = Router::new().route("/hello", get(async || "hello"));
    let served = telemetry.server(router).listener(tcp).listener(unix).run().await;
    std::fs::remove_file(args.socket_path).map_err(Error::other)?;
    served
}
