//! Counters and latencies.

use std::collections::HashMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use observability::Error;
use tokio::task::JoinError;

use super::client::{Completed, Outcome};

/// Maximum latency that is measured: twice the maximum timeout because a request may start late.
const MAX_LATENCY_US: u64 = 2 * 60 * 60 * 1_000_000;

/// Statistics of a run. An interval is the difference of two copies.
#[derive(Debug, Clone)]
pub(super) struct Stats {
    /// Time during which requests were sent.
    pub(super) elapsed: Duration,
    pub(super) sent: u64,
    /// Requests that were due while the maximum number of requests was in flight.
    pub(super) not_sent: u64,
    /// Requests that a second signal aborted.
    pub(super) aborted: u64,
    pub(super) outcomes: HashMap<Outcome, u64>,
    /// Latencies of all completed requests in microseconds.
    pub(super) all: Histogram<u64>,
    /// Latencies of successful requests in microseconds.
    pub(super) ok: Histogram<u64>,
    /// Own lags of all completed requests in microseconds.
    pub(super) own_lag: Histogram<u64>,
}

impl Stats {
    pub(super) fn new() -> Result<Self, Error> {
        let all = Histogram::new_with_bounds(1, MAX_LATENCY_US, 3).map_err(Error::other)?;
        Ok(Self {
            elapsed: Duration::ZERO,
            sent: 0,
            not_sent: 0,
            aborted: 0,
            outcomes: HashMap::new(),
            ok: all.clone(),
            own_lag: all.clone(),
            all,
        })
    }

    pub(super) fn on_finished(&mut self, result: &Result<Completed, JoinError>) {
        let Ok(Completed { outcome, latency, own_lag }) = result else {
            self.aborted += 1;
            return;
        };
        *self.outcomes.entry(*outcome).or_default() += 1;
        self.all.saturating_record(as_micros(*latency));
        if *outcome == Outcome::Ok {
            self.ok.saturating_record(as_micros(*latency));
        }
        self.own_lag.saturating_record(as_micros(*own_lag));
    }

    /// Returns `true` if requests completed and B responded to none of them.
    pub(super) fn is_unreachable(&self) -> bool {
        let no_response = |outcome: &Outcome| matches!(outcome, Outcome::Transport(_));
        !self.outcomes.is_empty() && self.outcomes.keys().all(no_response)
    }
}

pub(super) fn as_micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use observability::ErrorKind;
    use reqwest::StatusCode;

    fn completed(outcome: Outcome, ms: u64) -> Result<Completed, JoinError> {
        let latency = Duration::from_millis(ms);
        Ok(Completed { outcome, latency, own_lag: latency / 5 })
    }

    const STATUS_500: Outcome = Outcome::UnexpectedStatus(StatusCode::INTERNAL_SERVER_ERROR);

    #[test]
    fn success_latencies_are_separate() {
        let mut stats = Stats::new().unwrap();
        stats.on_finished(&completed(Outcome::Ok, 10));
        stats.on_finished(&completed(STATUS_500, 1000));
        let assert_close = |latencies: &Histogram<u64>, expected: f64| {
            let ms = Duration::from_micros(latencies.value_at_quantile(1.0)).as_secs_f64() * 1e3;
            assert!((ms / expected - 1.0).abs() < 0.001, "{ms} is not {expected}");
        };
        assert_close(&stats.ok, 10.0);
        assert_close(&stats.all, 1000.0);
        assert_close(&stats.own_lag, 200.0);
        assert_eq!((stats.ok.len(), stats.all.len()), (1, 2));
        assert!(stats.ok.value_at_quantile(0.5) > 0);
    }

    #[test]
    fn any_response_means_reachable() {
        let mut stats = Stats::new().unwrap();
        assert!(!stats.is_unreachable());
        stats.on_finished(&completed(Outcome::Transport(ErrorKind::Refused), 1));
        assert!(stats.is_unreachable());
        stats.on_finished(&completed(STATUS_500, 1));
        assert!(!stats.is_unreachable());
    }

    #[test]
    fn latency_saturates() {
        let mut stats = Stats::new().unwrap();
        let (latency, own_lag) = (Duration::MAX, Duration::MAX);
        stats.on_finished(&Ok(Completed { outcome: Outcome::Ok, latency, own_lag }));
        assert!(stats.all.value_at_quantile(1.0) >= MAX_LATENCY_US);
    }
}
