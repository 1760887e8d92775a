//! TLS proxy with a self-signed certificate.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::{env, fs, process};

use rcgen::{CertificateParams, DnType, KeyPair};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::{ServerConfig, version};

/// Proxy that accepts TLS connections on a free port and forwards their contents in plain text. Dropping
/// it closes the listener.
#[derive(Debug)]
pub struct TlsProxy {
    address: SocketAddr,
    /// Path of the certificate in PEM format.
    pub certificate_file: PathBuf,
    _runtime: Runtime,
}

impl TlsProxy {
    /// Starts a proxy to `target` with a certificate for the host `name`.
    pub fn start(name: &str, target: SocketAddr) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        // Distinct issuer names keep the certificates of two proxies apart.
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.self_signed(&key).unwrap();
        let mut config = ServerConfig::builder_with_provider(aws_lc_rs::default_provider().into())
            .with_protocol_versions(&[&version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                key.serialize_der().try_into().unwrap(),
            )
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));

        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("listen");
        let address = listener.local_addr().unwrap();
        let file = format!("testkit-{}-{}.pem", process::id(), address.port());
        let certificate_file = env::temp_dir().join(file);
        fs::write(&certificate_file, certificate.pem()).unwrap();
        runtime.spawn(serve(listener, acceptor, target));
        Self { address, certificate_file, _runtime: runtime }
    }

    /// Returns the base URL. Its host is the IP address, not the name in the certificate.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }
}

impl Drop for TlsProxy {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.certificate_file);
    }
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, target: SocketAddr) {
    while let Ok((stream, _)) = listener.accept().await {
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            // Handshakes fail on purpose in some tests.
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            let Ok(mut target) = TcpStream::connect(target).await else { return };
            let _ = copy_bidirectional(&mut stream, &mut target).await;
        });
    }
}
