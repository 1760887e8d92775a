//! Listen, serve, and stop in order: readiness off, drain, drain_connections what is in flight, flush.

use std::fmt;
use std::future::pending;
use std::io::Write;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::error::Error;
use crate::patience::WriteTimeout;
use crate::telemetry::Telemetry;

/// How long a connection that has asked nothing yet may go on to send its first head while the
/// service stops.
const SHUTDOWN_HEADER_TIMEOUT: Duration = Duration::from_secs(1);

/// Bytes of a request's head, target included, that are taken however they come. A longer one is taken
/// only where its end came in the same read, and answered 431 or 414 otherwise. hyper itself takes 100
/// headers at most.
const MAX_HEADER_BYTES: usize = 64 * 1024;

/// Connections open at a time; the next ones wait to be accepted.
const MAX_CONNECTIONS: usize = 8192;

/// Pause after a failed accept, as when the process has no file descriptors left.
const ACCEPT_ERROR_BACKOFF: Duration = Duration::from_millis(100);

/// A service about to run.
pub struct Server {
    telemetry: Telemetry,
    router: Router,
    admin: Router,
    stop: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

impl Server {
    pub(crate) fn new(telemetry: Telemetry, router: Router) -> Self {
        Self { telemetry, router, admin: Router::new(), stop: Box::pin(pending()) }
    }

    /// Routes beside `/metrics` and the probes: like them without spans, samples and log lines, and
    /// on the admin address where there is one.
    pub fn merge_admin(mut self, routes: Router) -> Self {
        self.admin = self.admin.merge(routes);
        self
    }

    /// Stop in order when `stop` is ready, beside SIGTERM and SIGINT.
    pub fn with_graceful_shutdown(
        mut self,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        self.stop = Box::pin(stop);
        self
    }

    /// Serves until told to stop, then stops in order, within the shutdown timeout in all.
    ///
    /// # Errors
    /// Where an address cannot be listened on.
    pub async fn run(self) -> Result<(), Error> {
        let Self { telemetry, router, admin, stop } = self;
        let config = &telemetry.0.config;
        let admin = telemetry.admin_routes().merge(admin);
        let listener = listen(config.listen_addr).await?;
        let admin_listener = match config.admin_addr {
            Some(address) => Some(listen(address).await?),
            None => None,
        };
        let mut signals = ShutdownSignals::new()?;
        log_listening(&telemetry, &listener, admin_listener.as_ref());

        let api = telemetry.observe(router);
        let (phase, connections) = watch::channel(ShutdownPhase::Running);
        let idle = config.idle_timeout;
        let serving = async {
            match &admin_listener {
                Some(admin_listener) => {
                    tokio::join!(
                        accept(&listener, api, idle, &connections),
                        accept(admin_listener, admin, idle, &connections)
                    );
                }
                // In this order, so that what matches no route is observed.
                None => accept(&listener, admin.merge(api), idle, &connections).await,
            }
        };

        let deadline = {
            tokio::pin!(serving);
            let signal = tokio::select! {
                () = &mut serving => "none",
                signal = signals.recv() => signal,
                () = stop => "stop",
            };
            telemetry.set_ready(false);
            tracing::info!(target: "observability", signal, "stopping");
            let now = Instant::now();
            let deadline = now + config.shutdown_timeout;
            let drained = deadline.min(now + config.drain_delay);
            tokio::select! {
                // New work is still taken until the delay is over.
                _ = timeout_at(drained, serving) => {}
                signal = signals.recv() => exit_on_second_signal(signal),
            }
            deadline
        };
        drop((listener, admin_listener, connections));
        tokio::select! {
            () = drain_connections(&phase, deadline, config.shutdown_timeout) => {}
            signal = signals.recv() => exit_on_second_signal(signal),
        }
        let flushing = tokio::task::spawn_blocking({
            let telemetry = telemetry.clone();
            move || telemetry.shutdown(deadline.saturating_duration_since(Instant::now()))
        });
        tokio::select! {
            _ = flushing => Ok(()),
            signal = signals.recv() => exit_on_second_signal(signal),
        }
    }
}

/// What connections are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ShutdownPhase {
    Running,
    /// End after the request in flight.
    Draining,
    /// End now.
    Aborting,
}

/// Lets requests in flight drain_connections and cuts those that do not in time; then no connection is left.
async fn drain_connections(
    phase: &watch::Sender<ShutdownPhase>,
    deadline: Instant,
    whole: Duration,
) {
    // Part of the time is kept for the spans and lines of the requests that end last.
    let for_flush = (whole / 4).min(Duration::from_secs(2));
    phase.send_replace(ShutdownPhase::Draining);
    if timeout_at(deadline - for_flush, phase.closed()).await.is_err() {
        tracing::warn!(
            target: "observability", connections = phase.receiver_count(),
            "requests still in flight are cut off"
        );
        phase.send_replace(ShutdownPhase::Aborting);
        let _ = timeout_at(deadline, phase.closed()).await;
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })
}

/// The first lines of the log: where to find the service, and what was odd about its settings.
fn log_listening(telemetry: &Telemetry, listener: &TcpListener, admin: Option<&TcpListener>) {
    let address = |listener: &TcpListener| {
        listener.local_addr().map(|address| address.to_string()).unwrap_or_default()
    };
    match admin {
        None => tracing::info!(target: "observability", address = address(listener), "listening"),
        Some(admin) => {
            tracing::info!(
                target: "observability", address = address(listener),
                admin_address = address(admin),
                "listening"
            );
        }
    }
    for warning in &telemetry.0.otel.warnings {
        tracing::warn!(target: "observability", "{warning}");
    }
}

/// Accepts sleep_until_opt dropped.
async fn accept(
    listener: &TcpListener,
    router: Router,
    idle: Duration,
    connections: &watch::Receiver<ShutdownPhase>,
) {
    // Without this, axum builds each handler's service anew for each request.
    let router = router.with_state(());
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(idle)
        .max_header_size(MAX_HEADER_BYTES)
        .max_buf_size(2 * MAX_HEADER_BYTES);
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut failing = false;
    loop {
        // Fails only where the semaphore is closed, which nobody does.
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) if is_connection_error(&error) => continue,
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(target: "observability", %error, "cannot accept connections");
                }
                sleep(ACCEPT_ERROR_BACKOFF).await;
                continue;
            }
        };
        failing = false;
        // Answers are small and complete; waiting to fill a packet only costs time.
        let _ = stream.set_nodelay(true);
        let has_asked = Arc::new(AtomicBool::new(false));
        let service = {
            let (has_asked, router) = (Arc::clone(&has_asked), router.clone());
            let service = TowerToHyperService::new(router);
            service_fn(move |request| {
                has_asked.store(true, Ordering::Relaxed);
                service.call(request)
            })
        };
        let stream = TokioIo::new(WriteTimeout::new(stream, idle));
        let connection = http.serve_connection(stream, service).with_upgrades();
        let mut phase = connections.clone();
        tokio::spawn(async move {
            let _place = permit;
            tokio::pin!(connection);
            let mut header_deadline = None;
            loop {
                tokio::select! {
                    // What a peer does to its connection is its own affair.
                    _ = connection.as_mut() => break,
                    changed = phase.changed() => {
                        if changed.is_err() || *phase.borrow_and_update() == ShutdownPhase::Aborting {
                            break;
                        }
                        connection.as_mut().graceful_shutdown();
                        header_deadline = Some(Instant::now() + SHUTDOWN_HEADER_TIMEOUT);
                    }
                    () = sleep_until_opt(header_deadline) => {
                        if !has_asked.load(Ordering::Relaxed) {
                            break;
                        }
                        header_deadline = None;
                    }
                }
            }
        });
    }
}

async fn sleep_until_opt(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => pending().await,
    }
}

/// The peer gave up before it was accepted: nothing is wrong with the listener.
fn is_connection_error(error: &std::io::Error) -> bool {
    use std::io::ErrorKind as Io;
    matches!(error.kind(), Io::ConnectionRefused | Io::ConnectionAborted | Io::ConnectionReset)
}

fn exit_on_second_signal(signal: &str) -> ! {
    let _ = writeln!(std::io::stderr(), "second signal ({signal}): stopped at once");
    std::process::exit(1)
}

/// The signals that ask a process to stop: SIGTERM and SIGINT, or Ctrl-C where there are none.
#[derive(Debug)]
pub struct ShutdownSignals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
}

impl ShutdownSignals {
    /// From here on they no longer end the process by themselves.
    ///
    /// # Errors
    /// Where the system does not let us listen for them.
    #[cfg(unix)]
    pub fn new() -> Result<Self, Error> {
        use tokio::signal::unix::{SignalKind, signal};
        let listen = |kind| {
            signal(kind)
                .map_err(|error| Error::other(format!("cannot listen for signals: {error}")))
        };
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next one and names it.
    #[cfg(unix)]
    pub async fn recv(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }

    /// From here on Ctrl-C no longer ends the process by itself.
    ///
    /// # Errors
    /// Never here.
    #[cfg(not(unix))]
    pub fn new() -> Result<Self, Error> {
        Ok(Self {})
    }

    /// Waits for the next one and names it.
    #[cfg(not(unix))]
    pub async fn recv(&mut self) -> &'static str {
        match tokio::signal::ctrl_c().await {
            Ok(()) => "CTRL-C",
            Err(_) => std::future::pending().await,
        }
    }
}
