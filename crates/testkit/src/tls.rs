//! Self-signed certificates, a TLS proxy, and a TLS client.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{env, fs, process};

use rcgen::{CertificateParams, DnType, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig, version};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Self-signed certificate and its key, in files that are removed when it is dropped.
#[derive(Debug)]
pub struct Certificate {
    /// Path of the certificate in PEM format.
    pub certificate_file: PathBuf,
    /// Path of the private key in PEM format.
    pub key_file: PathBuf,
}

impl Certificate {
    /// Generates a certificate for the host `name`. `id` keeps the files of one process apart.
    pub fn generate(name: &str, id: u16) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        // Distinct issuer names keep the certificates of two services apart.
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.self_signed(&key).unwrap();
        let file = |kind| env::temp_dir().join(format!("testkit-{}-{id}{kind}.pem", process::id()));
        let (certificate_file, key_file) = (file(""), file("-key"));
        fs::write(&certificate_file, certificate.pem()).unwrap();
        fs::write(&key_file, key.serialize_pem()).unwrap();
        Self { certificate_file, key_file }
    }
}

impl Drop for Certificate {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.certificate_file);
        let _ = fs::remove_file(&self.key_file);
    }
}

/// Sends a `GET` request to the host `name` over TLS, and returns the response as text.
///
/// # Panics
/// If the handshake fails, or the certificate is not the one at `certificate_file`.
pub fn get(address: SocketAddr, name: &str, certificate_file: &Path, target: &str) -> String {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificate_file).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(aws_lc_rs::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let request = format!("GET {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    Runtime::new().unwrap().block_on(async {
        let stream = TcpStream::connect(address).await.expect("connect");
        let connector = TlsConnector::from(Arc::new(config));
        let mut stream = connector.connect(name, stream).await.expect("a TLS handshake");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        response
    })
}

/// Proxy that accepts TLS connections on a free port and forwards their contents in plain text. Dropping
/// it closes the listener.
#[derive(Debug)]
pub struct TlsProxy {
    address: SocketAddr,
    /// Certificate of the proxy.
    pub certificate: Certificate,
    _runtime: Runtime,
}

impl TlsProxy {
    /// Starts a proxy to `target` with a certificate for the host `name`.
    pub fn start(name: &str, target: SocketAddr) -> Self {
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("listen");
        let address = listener.local_addr().unwrap();
        let certificate = Certificate::generate(name, address.port());
        let chain = vec![CertificateDer::from_pem_file(&certificate.certificate_file).unwrap()];
        let key = PrivateKeyDer::from_pem_file(&certificate.key_file).unwrap();
        let mut config = ServerConfig::builder_with_provider(aws_lc_rs::default_provider().into())
            .with_protocol_versions(&[&version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        runtime.spawn(serve(listener, TlsAcceptor::from(Arc::new(config)), target));
        Self { address, certificate, _runtime: runtime }
    }

    /// Returns the base URL. Its host is the IP address, not the name in the certificate.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
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
