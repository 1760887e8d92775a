//! Accepted connections: limits, and hyper's HTTP/1.1 connection under graceful shutdown.

use std::future::pending;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_io_timeout::TimeoutWriter;

use super::shutdown::ShutdownPhase;

/// Time that an idle connection is given to send its first request once shutdown has begun.
const SHUTDOWN_HEADER_TIMEOUT: Duration = Duration::from_secs(1);

/// Maximum size of the request line and headers, in bytes.
///
/// Larger requests receive 431 or 414, unless they arrive in a single read. hyper accepts at most 100
/// headers.
const MAX_HEADER_BYTES: usize = 64 * 1024;

/// Maximum number of open connections. Further ones wait in the listener's queue.
const MAX_CONNECTIONS: usize = 8192;

/// Pause after a failed accept, for example when the process has no free file descriptor.
const ACCEPT_ERROR_BACKOFF: Duration = Duration::from_millis(100);

/// Accepts connections until the future is dropped, and serves each in a task.
pub(super) async fn accept_connections(
    listener: &TcpListener,
    router: Router,
    idle_timeout: Duration,
    phase: &watch::Receiver<ShutdownPhase>,
) {
    // `with_state` builds each handler's service once. Without it axum builds them for each request.
    let router = router.with_state(());
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(idle_timeout)
        .max_header_size(MAX_HEADER_BYTES)
        .max_buf_size(2 * MAX_HEADER_BYTES);
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut is_failing = false;
    loop {
        // The semaphore is never closed, so that this does not fail.
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) if is_connection_error(&error) => continue,
            Err(error) => {
                if !std::mem::replace(&mut is_failing, true) {
                    tracing::warn!(target: "observability", %error, "cannot accept connections");
                }
                sleep(ACCEPT_ERROR_BACKOFF).await;
                continue;
            }
        };
        is_failing = false;
        // Responses are small and complete. Nagle's algorithm would only delay them.
        let _ = stream.set_nodelay(true);
        let connection =
            serve_connection(http.clone(), stream, router.clone(), idle_timeout, phase.clone());
        tokio::spawn(async move {
            connection.await;
            drop(permit);
        });
    }
}

async fn serve_connection(
    http: http1::Builder,
    stream: TcpStream,
    router: Router,
    idle_timeout: Duration,
    mut phase: watch::Receiver<ShutdownPhase>,
) {
    // Without a write timeout, a client that does not read its response holds the request for ever.
    let mut stream = TimeoutWriter::new(stream);
    stream.set_timeout(Some(idle_timeout));
    let service = TowerToHyperService::new(router);
    let has_request = AtomicBool::new(false);
    let service = service_fn(|request| {
        has_request.store(true, Ordering::Relaxed);
        service.call(request)
    });
    let connection = http.serve_connection(TokioIo::new(Box::pin(stream)), service).with_upgrades();
    tokio::pin!(connection);
    let mut header_deadline = None;
    loop {
        tokio::select! {
            // Connection errors are caused by the peer and need no handling.
            _ = connection.as_mut() => break,
            changed = phase.changed() => {
                if changed.is_err() || *phase.borrow_and_update() == ShutdownPhase::Aborting {
                    break;
                }
                connection.as_mut().graceful_shutdown();
                header_deadline = Some(Instant::now() + SHUTDOWN_HEADER_TIMEOUT);
            }
            () = sleep_until_opt(header_deadline) => {
                if !has_request.load(Ordering::Relaxed) {
                    break;
                }
                header_deadline = None;
            }
        }
    }
}

async fn sleep_until_opt(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}

/// Returns `true` if the client closed the connection before it was accepted, so that the listener works.
fn is_connection_error(error: &io::Error) -> bool {
    use io::ErrorKind as Io;
    matches!(error.kind(), Io::ConnectionRefused | Io::ConnectionAborted | Io::ConnectionReset)
}
