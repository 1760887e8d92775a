//! Graceful shutdown.

use std::io::Write;
use std::time::Duration;

use tokio::sync::watch;
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

/// Ends the process without further cleanup.
pub(super) fn exit_on_second_signal(signal: &str) -> ! {
    let _ = writeln!(std::io::stderr(), "second signal ({signal}): exiting immediately");
    std::process::exit(1)
}

/// Stream of the signals that request a shutdown: SIGTERM and SIGINT, or Ctrl-C on Windows.
#[derive(Debug)]
pub struct ShutdownSignals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(windows)]
    ctrl_c: tokio::signal::windows::CtrlC,
}

impl ShutdownSignals {
    /// Installs the handlers. From then on the signals do not end the process by themselves.
    ///
    /// # Errors
    /// [`Error::Other`] if the operating system rejects a handler.
    pub fn new() -> Result<Self, Error> {
        let rejected = |error| Error::other(format!("cannot handle shutdown signals: {error}"));
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            Ok(Self {
                terminate: signal(SignalKind::terminate()).map_err(rejected)?,
                interrupt: signal(SignalKind::interrupt()).map_err(rejected)?,
            })
        }
        #[cfg(windows)]
        Ok(Self { ctrl_c: tokio::signal::windows::ctrl_c().map_err(rejected)? })
    }

    /// Waits for the next signal and returns its name.
    pub async fn recv(&mut self) -> &'static str {
        #[cfg(unix)]
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
        #[cfg(windows)]
        {
            self.ctrl_c.recv().await;
            "CTRL-C"
        }
    }
}
