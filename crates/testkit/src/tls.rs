//! TLS in front of a server that speaks none, with a certificate made for it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{env, fs, process, thread};

use rcgen::{CertificateParams, DnType, KeyPair};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::{ServerConfig, version};

/// Takes TLS connections on a free port and passes on what is in them; it ends when it is dropped.
#[derive(Debug)]
pub struct TlsProxy {
    address: SocketAddr,
    certificate: PathBuf,
    _stop: oneshot::Sender<()>,
}

impl TlsProxy {
    /// In front of `backend`, under this name, which the certificate is for.
    pub fn start(name: &str, backend: SocketAddr) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut made = CertificateParams::new([name.to_owned()]).unwrap();
        // Nobody is the issuer of another's.
        made.distinguished_name.push(DnType::CommonName, name);
        let made = made.self_signed(&key).unwrap();
        let mut config = ServerConfig::builder_with_provider(aws_lc_rs::default_provider().into())
            .with_protocol_versions(&[&version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.der().clone()], key.serialize_der().try_into().unwrap())
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));

        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("listen");
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        // The port is ours alone for as long as the file is.
        let file = format!("testkit-{}-{}.pem", process::id(), address.port());
        let certificate = env::temp_dir().join(file);
        fs::write(&certificate, made.pem()).unwrap();
        let (stop, stopped) = oneshot::channel();
        thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = serve(listener, acceptor, backend) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { address, certificate, _stop: stop }
    }

    /// Its base URL, by address.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The file with its certificate, in PEM; it is signed by itself.
    pub fn certificate(&self) -> &Path {
        &self.certificate
    }
}

impl Drop for TlsProxy {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.certificate);
    }
}

async fn serve(listener: std::net::TcpListener, acceptor: TlsAcceptor, backend: SocketAddr) {
    let listener = TcpListener::from_std(listener).unwrap();
    while let Ok((stream, _)) = listener.accept().await {
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            // Who does not like the certificate goes away.
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            let Ok(mut backend) = TcpStream::connect(backend).await else { return };
            let _ = copy_bidirectional(&mut stream, &mut backend).await;
        });
    }
}
