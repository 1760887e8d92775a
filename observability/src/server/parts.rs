//! Parts of [`Server`](super::Server) for a service that accepts connections by other means, such as
//! [`axum::serve`].

use std::any::Any;
use std::fmt::Display;
use std::net::SocketAddr;

use axum::serve::Listener;
use tokio::time::{Instant, sleep_until};

use super::shutdown::{ShutdownSignals, delay_drain, exit_on_second_signal, flush_reserve};
use crate::error::Error;
use crate::telemetry::Telemetry;

impl Telemetry {
    /// Logs that the service listens on `address`, and the warnings about `OTEL_*` variables.
    pub fn log_listening(&self, address: impl Display) {
        tracing::info!(target: "observability", %address, "listening");
        self.log_warnings();
    }

    /// Creates the future that starts a graceful shutdown, for
    /// [`axum::serve::Serve::with_graceful_shutdown`] and its like.
    ///
    /// It waits for SIGTERM or SIGINT, reports unready, and completes after `DRAIN_DELAY_MS`. From then on
    /// the process exits at a second signal. It also exits, with code 0 and the spans flushed, if requests
    /// are still in flight at the end of `SHUTDOWN_TIMEOUT_MS`. Call [`shutdown`](Self::shutdown) after the
    /// server has ended.
    ///
    /// # Errors
    /// [`Error::Other`] if the operating system rejects a signal handler.
    ///
    /// ```no_run
    /// # async fn example(telemetry: observability::Telemetry) -> Result<(), Box<dyn std::error::Error>> {
    /// # let (router, listener) = (axum::Router::new(), tokio::net::TcpListener::bind("[::1]:0").await?);
    /// # let timeout = std::time::Duration::from_secs(10);
    /// telemetry.log_listening(listener.local_addr()?);
    /// axum::serve(listener, telemetry.instrument(router))
    ///     .with_graceful_shutdown(telemetry.shutdown_signal()?)
    ///     .await?;
    /// telemetry.shutdown(timeout);
    /// # Ok(())
    /// # }
    /// ```
    pub fn shutdown_signal(
        &self,
    ) -> Result<impl Future<Output = ()> + Send + 'static + use<>, Error> {
        let mut signals = ShutdownSignals::new()?;
        let telemetry = self.clone();
        Ok(async move {
            let signal = signals.recv().await;
            let deadline = delay_drain(&telemetry, signal, &mut signals).await;
            tokio::spawn(exit_at(deadline, telemetry, signals));
        })
    }
}

/// Exits at `deadline` or at a signal, whichever is first.
async fn exit_at(deadline: Instant, telemetry: Telemetry, mut signals: ShutdownSignals) {
    let reserve = flush_reserve(telemetry.0.config.shutdown_timeout);
    tokio::select! {
        () = sleep_until(deadline - reserve) => {}
        signal = signals.recv() => exit_on_second_signal(signal),
    }
    tracing::warn!(target: "observability", "aborting requests in flight");
    let flush = move || {
        telemetry.shutdown(deadline.saturating_duration_since(Instant::now()));
        std::process::exit(0)
    };
    tokio::task::spawn_blocking(flush);
}

/// Returns the address of a TCP or Unix listener.
pub(super) fn local_address<L: Listener<Addr: 'static>>(listener: &L) -> Option<String> {
    let address = listener.local_addr().ok()?;
    let address = &address as &dyn Any;
    #[cfg(unix)]
    if let Some(unix) = address.downcast_ref::<tokio::net::unix::SocketAddr>() {
        return Some(format!("unix:{}", unix.as_pathname()?.display()));
    }
    address.downcast_ref::<SocketAddr>().map(ToString::to_string)
}
