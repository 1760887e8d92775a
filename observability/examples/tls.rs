//! Service that terminates TLS, with HTTP/1.1 and HTTP/2.
//!
//! ```sh
//! openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost \
//!     -addext subjectAltName=DNS:localhost -keyout key.pem -out certificate.pem
//! TLS_CERTIFICATE_FILE=certificate.pem TLS_KEY_FILE=key.pem \
//!     cargo run -p observability --features tls --example tls
//! curl --cacert certificate.pem "https://localhost:8082/hello"
//! ```

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use observability::{Config, Error, ServiceInfo};
use tls_listener::TlsListener;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

const SERVICE: ServiceInfo =
    observability::service!("tls", log_label: "tls", listen_addr: "127.0.0.1:8082");

/// The settings of the service.
#[derive(Debug, clap::Args)]
struct Args {
    #[command(flatten)]
    config: Config,
    /// Certificate chain in PEM format
    #[arg(long, env, value_name = "PATH")]
    tls_certificate_file: PathBuf,
    /// Private key in PEM format
    #[arg(long, env, value_name = "PATH")]
    tls_key_file: PathBuf,
}

fn main() -> ExitCode {
    observability::run(serve())
}

async fn serve() -> Result<(), Error> {
    let args: Args = SERVICE.parse(std::env::args_os())?;
    let telemetry = observability::init(SERVICE, &args.config)?;
    let tcp = TcpListener::bind(args.config.listen_addr()).await.map_err(Error::other)?;
    // It performs the handshakes concurrently, each within ten seconds.
    let listener = TlsListener::new(tls_acceptor(&args)?, tcp);
    let router = Router::new().route("/hello", get(async || "hello"));
    telemetry.server(router).tls_listener(listener).run().await
}

fn tls_acceptor(args: &Args) -> Result<TlsAcceptor, Error> {
    let certificates = CertificateDer::pem_file_iter(&args.tls_certificate_file)
        .and_then(Iterator::collect)
        .map_err(Error::other)?;
    let key = PrivateKeyDer::from_pem_file(&args.tls_key_file).map_err(Error::other)?;
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .map_err(Error::other)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config).into())
}
