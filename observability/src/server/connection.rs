//! Accepted connections: limits, and hyper's HTTP/1.1 and HTTP/2 connections under graceful shutdown.

use std::any::Any;
use std::convert::Infallible;
use std::future::pending;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::serve::Listener;
use bytes::Bytes;
use hyper::server::conn::{http1, http2};
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_io_timeout::TimeoutWriter;

use super::activity::{Activity, TrackedBody};
use super::head_timer::HeadTimer;
use super::rejection::Rejections;
use super::request_body::limit_reads;
use super::shutdown::ShutdownPhase;
use super::stream::{ClientStream, Protocol, detect_protocol};
use crate::http::UrlScheme;

/// Time that an idle connection is given to send its first request once shutdown has begun.
const SHUTDOWN_HEADER_TIMEOUT: Duration = Duration::from_secs(1);

/// Maximum size of the request line and headers, in bytes.
///
/// Larger requests receive 431. hyper accepts at most 100 headers.
const MAX_HEADER_BYTES: u32 = 64 * 1024;

/// Maximum number of requests in flight on an HTTP/2 connection.
const MAX_STREAMS: u32 = 100;

/// Maximum number of open connections of a listener. Further ones wait in the listener's queue.
const MAX_CONNECTIONS: usize = 8192;

/// Settings of the connections of one server. A clone shares their state.
#[derive(Clone)]
pub(super) struct Connections {
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
    idle_timeout: Duration,
    phase: watch::Receiver<ShutdownPhase>,
    rejections: Arc<Rejections>,
    is_tls: bool,
}

impl Connections {
    pub(super) fn new(
        idle_timeout: Duration,
        phase: watch::Receiver<ShutdownPhase>,
        rejections: Arc<Rejections>,
    ) -> Self {
        let mut http1 = http1::Builder::new();
        http1
            .header_read_timeout(idle_timeout)
            .max_header_size(MAX_HEADER_BYTES as usize)
            .max_buf_size(2 * MAX_HEADER_BYTES as usize);
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .max_header_list_size(MAX_HEADER_BYTES)
            .max_concurrent_streams(MAX_STREAMS)
            .enable_connect_protocol();
        Self { http1, http2, idle_timeout, phase, rejections, is_tls: false }
    }

    /// Sets whether the listener terminates TLS.
    pub(super) fn tls(mut self, is_tls: bool) -> Self {
        self.is_tls = is_tls;
        self
    }

    /// Accepts connections until the future is dropped, and serves each in a task.
    pub(super) async fn accept<L>(self, mut listener: L, router: Router)
    where
        L: Listener<Addr: 'static>,
    {
        // `with_state` builds each handler's service once. Without it axum builds them for each request.
        let router = router.with_state(());
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            // The semaphore is never closed, so that this does not fail.
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
            let (stream, raw_peer) = listener.accept().await;
            // Other listeners, such as one of a Unix socket, have no IP address.
            let peer = (&raw_peer as &dyn Any).downcast_ref::<SocketAddr>().copied();
            // Boxed, because the future is several kilobytes large and would be moved four times.
            let connection = Box::pin(self.clone().serve(stream, peer, router.clone()));
            tokio::spawn(async move {
                connection.await;
                drop(permit);
            });
        }
    }

    async fn serve(
        self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        peer: Option<SocketAddr>,
        router: Router,
    ) {
        let mut phase = self.phase.clone();
        let Some((protocol, replay)) = self.detect_protocol(&mut stream, &mut phase).await else {
            return;
        };
        // Without a write timeout, a client that does not read its response holds the request for ever.
        let mut stream = TimeoutWriter::new(stream);
        stream.set_timeout(Some(self.idle_timeout));
        let is_awaiting_response = Arc::new(AtomicBool::new(false));
        let stream = ClientStream::new(stream, replay, Arc::clone(&is_awaiting_response));
        let io = TokioIo::new(Box::pin(stream));
        let service = TowerToHyperService::new(router);
        let call = |mut request: http::Request<hyper::body::Incoming>| {
            if let Some(peer) = peer {
                request.extensions_mut().insert(ConnectInfo(peer));
            }
            if self.is_tls {
                request.extensions_mut().insert(UrlScheme::Https);
            }
            service.call(request.map(|body| limit_reads(body, self.idle_timeout)))
        };
        let result = match protocol {
            Protocol::Http1 | Protocol::Tls => {
                let has_request = AtomicBool::new(false);
                let service = service_fn(|request| {
                    has_request.store(true, Ordering::Relaxed);
                    call(request)
                });
                let mut http1 = self.http1;
                let connection = http1.timer(HeadTimer::default()).serve_connection(io, service);
                let connection = connection.with_upgrades();
                let shutdown = http1::UpgradeableConnection::graceful_shutdown;
                let on_deadline = |_| match has_request.load(Ordering::Relaxed) {
                    true => Next::Wait(None),
                    false => Next::Abort,
                };
                drive(connection, shutdown, phase, None, on_deadline).await
            }
            Protocol::Http2 => {
                let activity = Arc::new(Activity::new());
                let service = service_fn(|request| {
                    let guard = activity.start_request();
                    let response = call(request);
                    async move {
                        let Ok(response) = response.await;
                        Ok::<_, Infallible>(response.map(|body| TrackedBody::new(body, guard)))
                    }
                });
                let connection = self.http2.serve_connection(io, service);
                let shutdown = http2::Connection::graceful_shutdown;
                let on_deadline = |is_closing| {
                    let now = Instant::now();
                    match activity.deadline(self.idle_timeout) {
                        _ if is_closing && activity.is_idle() => Next::Abort,
                        Some(deadline) if deadline > now => Next::Wait(Some(deadline)),
                        Some(_) if activity.is_idle() => Next::Shutdown,
                        Some(_) => Next::Abort,
                        None => Next::Wait(Some(now + self.idle_timeout)),
                    }
                };
                let deadline = Some(Instant::now() + self.idle_timeout);
                drive(connection, shutdown, phase, deadline, on_deadline).await
            }
        };
        if let Err(error) = result {
            let is_awaiting_response = is_awaiting_response.load(Ordering::Relaxed);
            self.rejections.record(protocol, &error, is_awaiting_response, peer);
        }
    }

    async fn detect_protocol(
        &self,
        stream: &mut (impl AsyncRead + Unpin),
        phase: &mut watch::Receiver<ShutdownPhase>,
    ) -> Option<(Protocol, Bytes)> {
        let mut detected = pin!(detect_protocol(stream));
        let detected = tokio::select! {
            detected = timeout(self.idle_timeout, &mut detected) => detected,
            _ = phase.changed() => {
                phase.mark_changed();
                timeout(SHUTDOWN_HEADER_TIMEOUT, &mut detected).await
            }
        };
        detected.ok()?.ok()
    }
}

/// Decision at a deadline of a connection.
enum Next {
    /// Continue until the next deadline.
    Wait(Option<Instant>),
    /// Accept no further requests.
    Shutdown,
    /// Close the connection.
    Abort,
}

/// Drives a connection to its end. `on_deadline` decides at each deadline; its argument is `true` once the
/// connection accepts no further requests.
async fn drive<C: Future<Output = Result<(), hyper::Error>>>(
    connection: C,
    graceful_shutdown: impl Fn(Pin<&mut C>),
    mut phase: watch::Receiver<ShutdownPhase>,
    mut deadline: Option<Instant>,
    on_deadline: impl Fn(bool) -> Next,
) -> Result<(), hyper::Error> {
    let mut connection = pin!(connection);
    let mut is_closing = false;
    loop {
        let next = tokio::select! {
            biased;
            result = connection.as_mut() => return result,
            changed = phase.changed() => {
                match changed.is_err() || *phase.borrow_and_update() == ShutdownPhase::Aborting {
                    true => Next::Abort,
                    false => Next::Shutdown,
                }
            }
            () = sleep_until_opt(deadline) => on_deadline(is_closing),
        };
        match next {
            Next::Wait(next_deadline) => deadline = next_deadline,
            Next::Shutdown => {
                graceful_shutdown(connection.as_mut());
                is_closing = true;
                deadline = Some(Instant::now() + SHUTDOWN_HEADER_TIMEOUT);
            }
            Next::Abort => return Ok(()),
        }
    }
}

async fn sleep_until_opt(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}
