//! Connections of a listener, with time limits for the requests of slow clients.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use axum::serve::Listener;
use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tower::ServiceExt as _;

/// Serves until the sender of `shutdown` is dropped, and then until the requests in flight are complete.
pub(crate) async fn serve(
    mut socket: TcpListener,
    router: Router,
    request_timeout: Duration,
    mut shutdown: watch::Receiver<()>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            // It retries, with a pause if the process has no free file descriptor.
            (stream, _) = Listener::accept(&mut socket) => {
                let connection = Connection { router: router.clone(), request_timeout };
                connections.spawn(connection.serve(stream, shutdown.clone()));
            }
            Some(_) = connections.join_next() => {}
            _ = shutdown.changed() => break,
        }
    }
    drop(socket);
    while connections.join_next().await.is_some() {}
}

struct Connection {
    router: Router,
    request_timeout: Duration,
}

impl Connection {
    async fn serve(self, stream: TcpStream, mut shutdown: watch::Receiver<()>) {
        // Nagle's algorithm would delay a small response until the client acknowledges the last one.
        let _ = stream.set_nodelay(true);
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(self.request_timeout);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(self.request_timeout)
            .keep_alive_timeout(self.request_timeout);
        let has_request = AtomicBool::new(false);
        let service = service_fn(|request: Request<Incoming>| {
            has_request.store(true, Ordering::Relaxed);
            respond(self.router.clone(), request.map(Body::new), self.request_timeout)
        });
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        // The limits of hyper do not include the time until it knows the version of HTTP.
        let mut first_request = pin!(sleep(self.request_timeout));
        let (mut is_first, mut is_closing) = (true, false);
        loop {
            tokio::select! {
                _ = connection.as_mut() => return,
                () = first_request.as_mut(), if is_first => {
                    if !has_request.load(Ordering::Relaxed) {
                        return;
                    }
                    is_first = false;
                }
                _ = shutdown.changed(), if !is_closing => {
                    connection.as_mut().graceful_shutdown();
                    is_closing = true;
                }
            }
        }
    }
}

/// Responds 408 if the body does not arrive in time. The time of a response's body is not limited.
async fn respond(
    router: Router,
    request: Request<Body>,
    request_timeout: Duration,
) -> Result<Response, Infallible> {
    let response = timeout(request_timeout, router.oneshot(request)).await;
    response.unwrap_or_else(|_| Ok(StatusCode::REQUEST_TIMEOUT.into_response()))
}
