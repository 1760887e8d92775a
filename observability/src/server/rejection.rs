//! Requests that hyper rejects before they reach a route.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::stream::Protocol;
use crate::error::error_chain;
use crate::metrics::Rejection;
use crate::telemetry::Telemetry;

/// Minimum interval between the log lines of one reason.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Counts the requests that hyper rejects, and logs some of them.
pub(super) struct Rejections {
    telemetry: Telemetry,
    unlogged: Mutex<[Unlogged; Rejection::COUNT]>,
}

#[derive(Default, Clone, Copy)]
struct Unlogged {
    last_line: Option<Instant>,
    requests: u64,
}

impl Rejections {
    pub(super) fn new(telemetry: Telemetry) -> Self {
        Self { telemetry, unlogged: Mutex::default() }
    }

    /// Records the error that ended a connection, unless the client caused it by disconnecting.
    pub(super) fn record(
        &self,
        protocol: Protocol,
        error: &hyper::Error,
        is_awaiting_response: bool,
        peer: Option<SocketAddr>,
    ) {
        let Some(reason) = reason(protocol, error, is_awaiting_response) else { return };
        self.telemetry.0.metrics.rejected(reason).increment(1);
        let requests = {
            let mut unlogged = self.unlogged.lock();
            let unlogged = &mut unlogged[reason as usize];
            unlogged.requests += 1;
            if unlogged.last_line.is_some_and(|at| at.elapsed() < LOG_INTERVAL) {
                return;
            }
            unlogged.last_line = Some(Instant::now());
            std::mem::take(&mut unlogged.requests)
        };
        tracing::warn!(
            target: "observability",
            reason = reason.as_str(),
            requests,
            peer = peer.map(tracing::field::display),
            details = error_chain(error),
            "request rejected before it reached a route"
        );
    }
}

fn reason(
    protocol: Protocol,
    error: &hyper::Error,
    is_awaiting_response: bool,
) -> Option<Rejection> {
    if protocol == Protocol::Tls {
        Some(Rejection::Tls)
    } else if error.is_parse_too_large() {
        Some(Rejection::HeadersTooLarge)
    } else if error.is_parse() {
        Some(Rejection::BadRequest)
    } else if error.is_timeout() && is_awaiting_response {
        Some(Rejection::Timeout)
    } else {
        let is_violation = std::error::Error::source(error)
            .and_then(|source| source.downcast_ref::<h2::Error>())
            .is_some_and(h2::Error::is_library);
        is_violation.then_some(Rejection::Http2)
    }
}
