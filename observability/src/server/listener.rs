//! The TCP listener of a server.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::serve::Listener;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use crate::error::Error;

/// Pause after a failed accept, for example when the process has no free file descriptor.
const ACCEPT_ERROR_BACKOFF: Duration = Duration::from_millis(100);

/// TCP listener that warns once about failures to accept, and retries.
pub(super) struct HttpListener {
    inner: TcpListener,
    is_failing: bool,
}

impl HttpListener {
    pub(super) async fn bind(address: SocketAddr) -> Result<Self, Error> {
        let bound = TcpListener::bind(address).await;
        let inner = bound.map_err(|source| Error::Listen { address, source })?;
        Ok(Self { inner, is_failing: false })
    }

    /// Returns the address, with the port that the operating system selected.
    pub(super) fn address(&self) -> String {
        self.inner.local_addr().map(|address| address.to_string()).unwrap_or_default()
    }
}

impl Listener for HttpListener {
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
