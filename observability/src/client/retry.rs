//! Retries of calls that did not reach the server.

use std::sync::Arc;
use std::time::Duration;

use http::Extensions;
use opentelemetry::trace::TraceContextExt;
use opentelemetry::{Context, KeyValue};
use reqwest::{Request, Response};
use reqwest_middleware::{Middleware, Next};
use tokio::time::{Instant, sleep};
use tower::retry::budget::{Budget, TpsBudget};

use crate::error::ErrorKind;
use crate::telemetry::Telemetry;

/// Pause before a retry.
const RETRY_DELAY: Duration = Duration::from_millis(20);

/// Period and share of the retry budget, to which one retry per second is added.
const RETRY_BUDGET_PERIOD: Duration = Duration::from_secs(10);
const RETRY_BUDGET_RATIO: f32 = 0.2;

/// Number of the retry that a request is, in the extensions of a retried request.
#[derive(Debug, Clone, Copy)]
pub(super) struct ResendCount(pub(super) u32);

/// Middleware that retries a call whose connection cannot be made.
///
/// Nothing of such a call has been sent, so that nothing can happen twice.
pub(super) struct ConnectRetry {
    telemetry: Telemetry,
    max_retries: u32,
    timeout: Option<Duration>,
    budget: Arc<TpsBudget>,
}

impl ConnectRetry {
    pub(super) fn new(telemetry: Telemetry, max_retries: u32, timeout: Option<Duration>) -> Self {
        let budget = Arc::new(TpsBudget::new(RETRY_BUDGET_PERIOD, 1, RETRY_BUDGET_RATIO));
        Self { telemetry, max_retries, timeout, budget }
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
        let limit = request.timeout().copied().or(self.timeout);
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        self.budget.deposit();
        let mut request = request;
        let mut retry = 0;
        let mut first_error = None;
        loop {
            // A streamed body cannot be cloned. The call is then not retried.
            let retry_request = if retry < self.max_retries { request.try_clone() } else { None };
            let error = match next.clone().run(request, extensions).await {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            let kind = ErrorKind::from_middleware(&error);
            let is_in_time = deadline.is_none_or(|end| Instant::now() + RETRY_DELAY < end);
            match retry_request {
                Some(retry_request)
                    if is_connect_error(kind) && is_in_time && self.budget.withdraw() =>
                {
                    retry += 1;
                    self.record_retry(&retry_request, retry, kind);
                    extensions.insert(ResendCount(retry));
                    first_error.get_or_insert(error);
                    sleep(RETRY_DELAY).await;
                    request = retry_request;
                    *request.timeout_mut() = deadline.map(|end| end - Instant::now()).or(limit);
                }
                // The error that opened the breaker says more than the rejection.
                _ if kind == ErrorKind::CircuitOpen => return Err(first_error.unwrap_or(error)),
                _ => return Err(error),
            }
        }
    }
}

impl ConnectRetry {
    fn record_retry(&self, request: &Request, retry: u32, kind: ErrorKind) {
        self.telemetry.0.metrics.client(request.url()).record_retry();
        Context::map_current(|cx| {
            let attributes = vec![
                KeyValue::new("http.request.resend_count", i64::from(retry)),
                KeyValue::new("error.type", kind.as_label()),
            ];
            cx.span().add_event("retry", attributes);
        });
    }
}

/// Returns `true` if no connection was made, so that nothing was sent.
fn is_connect_error(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Refused | ErrorKind::Unreachable | ErrorKind::Dns | ErrorKind::Local)
}
