//! Graceful shutdown.

use std::future::poll_fn;
use std::io::{self, Write};
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::error::Error;
use crate::telemetry::Telemetry;

/// Stage of the shutdown sequence, broadcast to every connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ShutdownPhase {
    /// Requests are accepted.
    Running,
    /// Connections close after the request in flight.
    Draining,
    /// Connections close immediately.
    Aborting,
}

/// Returns the time that is reserved for flushing spans and log lines: a quarter of `timeout`, at most two
/// seconds.
pub(super) fn flush_reserve(timeout: Duration) -> Duration {
    (timeout / 4).min(Duration::from_secs(2))
}

/// Drains all connections and aborts those that are still open shortly before `deadline`.
pub(super) async fn drain_connections(
    phase: &watch::Sender<ShutdownPhase>,
    deadline: Instant,
    timeout: Duration,
) {
    phase.send_replace(ShutdownPhase::Draining);
    if timeout_at(deadline - flush_reserve(timeout), phase.closed()).await.is_ok() {
        return;
    }
    tracing::warn!(
        target: "observability",
        connections = phase.receiver_count(),
        "aborting requests in flight"
    );
    phase.send_replace(ShutdownPhase::Aborting);
    let _ = timeout_at(deadline, phase.closed()).await;
}

/// Reports unready and serves for `DRAIN_DELAY_MS`. Returns the deadline of the shutdown.
pub(super) async fn delay_drain(
    telemetry: &Telemetry,
    signal: &str,
    signals: &mut ShutdownSignals,
) -> Instant {
    telemetry.set_ready(false);
    tracing::info!(target: "observability", signal, "stopping");
    let config = &telemetry.0.config;
    let now = Instant::now();
    let deadline = now + config.shutdown_timeout;
    tokio::select! {
        () = sleep_until(deadline.min(now + config.drain_delay)) => {}
        signal = signals.recv() => exit_on_second_signal(signal),
    }
    deadline
}

/// Flushes spans and log lines until `deadline`, on a thread because tokio's blocking pool may be full.
pub(super) async fn flush(telemetry: Telemetry, deadline: Instant) -> Result<(), Error> {
    let (flushed_tx, flushed) = oneshot::channel();
    let flush = move || {
        telemetry.shutdown(deadline.saturating_duration_since(Instant::now()));
        let _ = flushed_tx.send(());
    };
    thread::Builder::new().name("flush".to_owned()).spawn(flush).map_err(Error::other)?;
    // An error means that the thread panicked, which the log says.
    let _ = flushed.await;
    Ok(())
}

/// Ends the process without further cleanup.
pub(super) fn exit_on_second_signal(signal: &str) -> ! {
    let _ = writeln!(io::stderr(), "second signal ({signal}): exiting immediately");
    std::process::exit(1)
}

/// Stream of the signals that request a shutdown: SIGTERM, SIGINT and SIGHUP, or Ctrl-C on Windows.
///
/// SIGHUP stays ignored in a process that inherits that, such as a child of `nohup`.
#[derive(Debug)]
pub struct ShutdownSignals(Vec<(&'static str, Signal)>);

/// Handlers that [`run`](crate::run) installs before the service has a [`ShutdownSignals`], which takes them
/// over with the signals that have arrived.
static START_SIGNALS: Mutex<Option<ShutdownSignals>> = Mutex::new(None);

impl ShutdownSignals {
    /// Installs the handlers. From then on the signals do not end the process by themselves.
    ///
    /// # Errors
    /// [`Error::Other`] if the operating system rejects a handler.
    pub fn new() -> Result<Self, Error> {
        if let Some(signals) = START_SIGNALS.lock().take() {
            return Ok(signals);
        }
        let handlers = install_handlers();
        let rejected = |error| Error::other(format!("cannot handle shutdown signals: {error}"));
        Ok(Self(handlers.map_err(rejected)?))
    }

    /// Waits for the next signal and returns its name.
    pub async fn recv(&mut self) -> &'static str {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<&'static str> {
        for (name, signal) in &mut self.0 {
            if signal.poll_recv(cx).is_ready() {
                return Poll::Ready(name);
            }
        }
        Poll::Pending
    }
}

/// Runs `main`. A signal that arrives while the service has no [`ShutdownSignals`] ends it.
pub(crate) async fn run_until_start_signal(
    main: impl Future<Output = Result<(), Error>>,
) -> Result<(), Error> {
    *START_SIGNALS.lock() = Some(ShutdownSignals::new()?);
    let signal = poll_fn(|cx| match &mut *START_SIGNALS.lock() {
        Some(signals) => signals.poll_recv(cx),
        None => Poll::Pending,
    });
    tokio::select! {
        biased;
        result = main => result,
        signal = signal => {
            let _ = writeln!(io::stderr(), "{signal} during the start: exiting");
            Ok(())
        }
    }
}

#[cfg(windows)]
use tokio::signal::windows::CtrlC as Signal;

#[cfg(windows)]
fn install_handlers() -> io::Result<Vec<(&'static str, Signal)>> {
    Ok(vec![("CTRL-C", tokio::signal::windows::ctrl_c()?)])
}

#[cfg(unix)]
use tokio::signal::unix::Signal;

#[cfg(unix)]
fn install_handlers() -> io::Result<Vec<(&'static str, Signal)>> {
    use tokio::signal::unix::{SignalKind, signal};
    // The default action ends the process. With a handler, a write beyond `ulimit -f` fails and is counted.
    let _ = signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?;
    let mut handlers = vec![
        ("SIGTERM", signal(SignalKind::terminate())?),
        ("SIGINT", signal(SignalKind::interrupt())?),
    ];
    if !is_hangup_ignored() {
        handlers.push(("SIGHUP", signal(SignalKind::hangup())?));
    }
    Ok(handlers)
}

/// Returns `true` if the process ignores SIGHUP, where the system has `/proc`.
#[cfg(unix)]
fn is_hangup_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // Bit 0 is signal 1, SIGHUP.
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & 1 == 1)
}
