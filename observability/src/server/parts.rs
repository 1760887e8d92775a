//! The parts of [`Server`](super::Server), for a service that accepts its connections itself.

use std::fmt::Display;

use tokio::time::sleep;

use super::shutdown::{ShutdownSignals, exit_on_second_signal};
use crate::error::Error;
use crate::telemetry::Telemetry;

impl Telemetry {
    /// Logs the address of a listener, and the warnings about `OTEL_*` variables.
    pub fn log_listening(&self, address: impl Display) {
        tracing::info!(target: "observability", address = %address, "listening");
        self.log_warnings();
    }

    /// Returns a future for `axum::serve(..).with_graceful_shutdown(..)`. It waits for a shutdown signal,
    /// reports unready, and completes after `DRAIN_DELAY_MS`.
    ///
    /// A second signal, or the end of `SHUTDOWN_TIMEOUT_MS`, ends the process.
    ///
    /// # Errors
    /// [`Error::Other`] if the operating system rejects a signal handler.
    pub fn shutdown_requested(
        &self,
    ) -> Result<impl Future<Output = ()> + Send + 'static + use<>, Error> {
        let mut signals = ShutdownSignals::new()?;
        let telemetry = self.clone();
        Ok(async move {
            let signal = signals.recv().await;
            telemetry.set_ready(false);
            tracing::info!(target: "observability", signal, "stopping");
            let timeout = telemetry.0.config.shutdown_timeout;
            let drain_delay = telemetry.0.config.drain_delay;
            tokio::spawn(async move {
                tokio::select! {
                    signal = signals.recv() => exit_on_second_signal(signal),
                    () = sleep(timeout) => {
                        telemetry.flush().await;
                        std::process::exit(1);
                    }
                }
            });
            sleep(drain_delay).await;
        })
    }

    /// Exports the queued spans and writes the queued log lines, within `SHUTDOWN_TIMEOUT_MS`. The last
    /// step of a shutdown.
    pub async fn flush(&self) {
        let telemetry = self.clone();
        let timeout = self.0.config.shutdown_timeout;
        // Fails only if the runtime is shutting down.
        let _ = tokio::task::spawn_blocking(move || telemetry.shutdown(timeout)).await;
    }
}
