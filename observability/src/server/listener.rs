//! The listeners of a server: TCP, or a Unix socket.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use super::connection::Connections;
use crate::config::ListenAddr;
use crate::error::Error;

/// Pause after a failed accept, for example when the process has no free file descriptor.
const ACCEPT_ERROR_BACKOFF: Duration = Duration::from_millis(100);

/// Bound listener, as a function that accepts its connections.
pub(super) type Accept =
    Box<dyn FnOnce(Connections, Router) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

pub(super) fn accept_on(listener: impl Listener<Addr: 'static>) -> Accept {
    Box::new(|connections, router| Box::pin(connections.accept(listener, router)))
}

/// Binds a listener. Returns it with its address, which has the port that the system selected.
pub(super) async fn bind(address: &ListenAddr) -> Result<(Accept, String), Error> {
    let failed = |source| Error::Listen { address: address.to_string(), source };
    match address {
        ListenAddr::Tcp { host, port } => {
            let inner = TcpListener::bind((host.as_str(), *port)).await.map_err(failed)?;
            let bound = inner.local_addr().map_err(failed)?.to_string();
            Ok((accept_on(RetryingListener { inner, is_failing: false }), bound))
        }
        #[cfg(unix)]
        ListenAddr::Unix(path) => {
            let listener = unix::SocketListener::bind(path).map_err(failed)?;
            Ok((accept_on(listener), address.to_string()))
        }
        #[cfg(not(unix))]
        ListenAddr::Unix(_) => Err(failed(io::ErrorKind::Unsupported.into())),
    }
}

/// TCP listener that warns once about failures to accept, and retries.
struct RetryingListener {
    inner: TcpListener,
    is_failing: bool,
}

impl Listener for RetryingListener {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            match self.inner.accept().await {
                Ok((stream, peer)) => {
                    self.is_failing = false;
                    // Responses are small and complete. Nagle's algorithm would only delay them.
                    let _ = stream.set_nodelay(true);
                    return (stream, peer);
                }
                Err(error) if is_connection_error(&error) => {}
                Err(error) => {
                    if !std::mem::replace(&mut self.is_failing, true) {
                        tracing::warn!(target: "observability", %error, "cannot accept connections");
                    }
                    sleep(ACCEPT_ERROR_BACKOFF).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}

/// Returns `true` if the client closed the connection before it was accepted, so that the listener works.
fn is_connection_error(error: &io::Error) -> bool {
    use io::ErrorKind as Io;
    matches!(error.kind(), Io::ConnectionRefused | Io::ConnectionAborted | Io::ConnectionReset)
}

#[cfg(unix)]
mod unix {
    use std::io;
    use std::os::unix::net::UnixStream as StdUnixStream;
    use std::path::{Path, PathBuf};

    use axum::serve::Listener;
    use tokio::net::unix::SocketAddr;
    use tokio::net::{UnixListener, UnixStream};

    /// Listener on a Unix socket. Dropping it removes the file.
    pub(super) struct SocketListener {
        inner: UnixListener,
        path: PathBuf,
    }

    impl SocketListener {
        /// Binds the socket. Replaces the file of a process that has ended.
        pub(super) fn bind(path: &Path) -> io::Result<Self> {
            let connected = StdUnixStream::connect(path);
            if connected.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
                std::fs::remove_file(path)?;
            }
            Ok(Self { inner: UnixListener::bind(path)?, path: path.to_owned() })
        }
    }

    impl Drop for SocketListener {
        fn drop(&mut self) {
            // The file may be gone already.
            let _ = std::fs::remove_file(&self.path);
        }
    }

    impl Listener for SocketListener {
        type Io = UnixStream;
        type Addr = SocketAddr;

        async fn accept(&mut self) -> (UnixStream, SocketAddr) {
            Listener::accept(&mut self.inner).await
        }

        fn local_addr(&self) -> io::Result<SocketAddr> {
            self.inner.local_addr()
        }
    }
}
