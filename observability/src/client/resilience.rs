//! What may be put around calls: a circuit breaker, and retries of calls that never got through.
//!
//! Both are off unless asked for. A retry is for a connection that could not be made: nothing was sent,
//! so that nothing can happen twice. Both keep the time budget of the call and show in metrics and as
//! events of the caller's span.

use std::sync::Arc;
use std::time::Duration;

use failsafe::backoff::{self, Exponential};
use failsafe::failure_policy::{self, ConsecutiveFailures};
use failsafe::{Instrument, StateMachine};
use http::Extensions;
use metrics::Gauge;
use opentelemetry::trace::TraceContextExt;
use opentelemetry::{Context, KeyValue};
use reqwest::{Request, Response};
use reqwest_middleware::{Middleware, Next};
use tokio::time::{Instant, sleep};
use tower::retry::budget::{Budget, TpsBudget};

use crate::error_kind::{CircuitOpen, ErrorKind};
use crate::telemetry::Telemetry;

/// How long an open breaker stays open, the first time and at most.
const OPEN_DURATION: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Pause before a retry.
const RETRY_DELAY: Duration = Duration::from_millis(20);

/// Of the calls of the last ten seconds, this share may be retried, and one a second in any case.
const RETRY_BUDGET_RATIO: f32 = 0.2;

/// Stops calling a peer that fails, and tries again after a while. One for each client.
#[derive(Debug, Clone)]
pub(super) struct CircuitBreaker(StateMachine<ConsecutiveFailures<Exponential>, BreakerGauge>);

impl CircuitBreaker {
    pub(super) fn new(failures: u32, open: Gauge) -> Self {
        // The jittered ones count in whole seconds too, and so begin at none at all.
        let backoff = backoff::exponential(OPEN_DURATION.0, OPEN_DURATION.1);
        let policy = failure_policy::consecutive_failures(failures, backoff);
        Self(StateMachine::new(policy, BreakerGauge(open)))
    }

    /// Whether a call may be made now.
    pub(super) fn try_acquire(&self) -> Result<(), CircuitOpen> {
        if self.0.is_call_permitted() {
            return Ok(());
        }
        Context::map_current(|cx| cx.span().add_event("circuit breaker is open", Vec::new()));
        Err(CircuitOpen)
    }

    /// How a call ended. A caller that went away says nothing about the peer, nor does a 4xx.
    pub(super) fn record(&self, error: Option<ErrorKind>) {
        match error {
            Some(ErrorKind::Canceled) => {}
            Some(ErrorKind::Status(status)) if !status.is_server_error() => self.0.on_success(),
            Some(_) => self.0.on_error(),
            None => self.0.on_success(),
        }
    }
}

/// The breaker's state as a metric and a log line.
#[derive(Clone)]
struct BreakerGauge(Gauge);

impl Instrument for BreakerGauge {
    fn on_call_rejected(&self) {}

    fn on_open(&self) {
        self.0.set(1.0);
        tracing::warn!(target: "observability", "circuit breaker opens");
    }

    fn on_half_open(&self) {
        self.0.set(0.0);
    }

    fn on_closed(&self) {
        self.0.set(0.0);
    }
}

/// Makes a call again whose connection could not be made.
pub(super) struct ConnectRetry {
    telemetry: Telemetry,
    retries: u32,
    timeout: Option<Duration>,
    budget: Arc<TpsBudget>,
}

impl ConnectRetry {
    pub(super) fn new(telemetry: Telemetry, retries: u32, timeout: Option<Duration>) -> Self {
        let budget = Arc::new(TpsBudget::new(Duration::from_secs(10), 1, RETRY_BUDGET_RATIO));
        Self { telemetry, retries, timeout, budget }
    }
}

#[async_trait::async_trait]
impl Middleware for ConnectRetry {
    async fn handle(
        &self,
        request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        let deadline =
            request.timeout().copied().or(self.timeout).map(|limit| Instant::now() + limit);
        self.budget.deposit();
        let mut request = request;
        let mut retry = 0;
        let mut first_error = None;
        loop {
            // A body that is a stream can be sent once.
            let again = if retry < self.retries { request.try_clone() } else { None };
            let error = match next.clone().run(request, extensions).await {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            let kind = ErrorKind::from_middleware(&error);
            let in_time = deadline.is_none_or(|end| Instant::now() + RETRY_DELAY < end);
            match again {
                Some(again) if is_connect_error(kind) && in_time && self.budget.withdraw() => {
                    retry += 1;
                    self.count(&again, retry, kind);
                    first_error.get_or_insert(error);
                    sleep(RETRY_DELAY).await;
                    request = again;
                    *request.timeout_mut() = deadline.map(|end| end - Instant::now());
                }
                // Why the breaker opened says more than that it did.
                _ if kind == ErrorKind::CircuitOpen => return Err(first_error.unwrap_or(error)),
                _ => return Err(error),
            }
        }
    }
}

impl ConnectRetry {
    fn count(&self, request: &Request, retry: u32, kind: ErrorKind) {
        self.telemetry.0.metrics.client(request.url()).retried();
        Context::map_current(|cx| {
            let attributes = vec![
                KeyValue::new("http.request.resend_count", i64::from(retry)),
                KeyValue::new("error.type", kind.as_label()),
            ];
            cx.span().add_event("retry", attributes);
        });
    }
}

/// Nothing of the request has left: no connection was made.
fn is_connect_error(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Refused | ErrorKind::Unreachable | ErrorKind::Dns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::StatusCode;

    #[test]
    fn a_breaker_opens_after_failures_in_a_row_and_counts_only_the_peers() {
        let breaker = CircuitBreaker::new(2, Gauge::noop());
        for harmless in
            [None, Some(ErrorKind::Canceled), Some(ErrorKind::Status(StatusCode::NOT_FOUND))]
        {
            breaker.record(Some(ErrorKind::Timeout));
            breaker.record(harmless);
            if harmless == Some(ErrorKind::Canceled) {
                // Says nothing either way, so that the row goes on; begin a new one.
                breaker.record(None);
            }
            assert!(breaker.try_acquire().is_ok(), "{harmless:?}");
        }
        breaker.record(Some(ErrorKind::Timeout));
        breaker.record(Some(ErrorKind::Status(StatusCode::BAD_GATEWAY)));
        assert!(breaker.try_acquire().is_err());
    }
}
