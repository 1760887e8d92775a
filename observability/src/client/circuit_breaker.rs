//! Circuit breaker: rejects calls to a server that keeps failing.

use std::sync::Arc;
use std::time::Duration;

use metrics::Gauge;
use opentelemetry::Context;
use opentelemetry::trace::TraceContextExt;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::error::{CircuitOpenError, ErrorKind};

/// Time that an open breaker rejects calls. Doubles each time that the admitted call fails.
const MIN_OPEN_DURATION: Duration = Duration::from_secs(1);
const MAX_OPEN_DURATION: Duration = Duration::from_secs(30);

/// Circuit breaker of one client. A clone shares its state.
#[derive(Clone)]
pub(super) struct CircuitBreaker(Arc<Shared>);

struct Shared {
    max_failures: u32,
    state: Mutex<State>,
    /// 1 while the breaker is open or half-open.
    gauge: Gauge,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Closed { failures: u32 },
    Open { until: Instant, duration: Duration },
    HalfOpen { duration: Duration },
}

impl CircuitBreaker {
    pub(super) fn new(max_failures: u32, gauge: Gauge) -> Self {
        let state = Mutex::new(State::Closed { failures: 0 });
        Self(Arc::new(Shared { max_failures, state, gauge }))
    }

    /// Admits a call if the breaker is closed. Once an open breaker's time is over, admits one call.
    pub(super) fn try_acquire(&self) -> Result<Admission, CircuitOpenError> {
        let mut state = self.0.state.lock();
        match *state {
            State::Closed { .. } => {}
            State::Open { until, duration } if Instant::now() >= until => {
                *state = State::HalfOpen { duration };
            }
            State::Open { .. } | State::HalfOpen { .. } => {
                drop(state);
                Context::map_current(|cx| {
                    cx.span().add_event("circuit breaker is open", Vec::new());
                });
                return Err(CircuitOpenError);
            }
        }
        let is_probe = matches!(*state, State::HalfOpen { .. });
        drop(state);
        Ok(Admission { breaker: self.clone(), is_probe })
    }

    fn open(&self, state: &mut State, duration: Duration) {
        *state = State::Open { until: Instant::now() + duration, duration };
        self.0.gauge.set(1.0);
        tracing::warn!(target: "observability", "circuit breaker opened");
    }
}

/// Permission for one call. Dropped without [`record`](Self::record), it counts as a cancelled call.
pub(super) struct Admission {
    breaker: CircuitBreaker,
    /// The call is the only one that a half-open breaker admits.
    is_probe: bool,
}

impl Admission {
    /// Records the outcome of the call. A cancelled call says nothing about the server, and a 4xx is not
    /// a failure of the server.
    pub(super) fn record(self, error: Option<ErrorKind>) {
        let is_failure = match error {
            None => false,
            Some(ErrorKind::Status(status)) => status.is_server_error(),
            Some(ErrorKind::Canceled) => return,
            Some(_) => true,
        };
        let breaker = self.breaker.clone();
        let mut state = breaker.0.state.lock();
        match *state {
            State::Closed { failures } if is_failure => {
                *state = State::Closed { failures: failures + 1 };
                if failures + 1 >= breaker.0.max_failures {
                    breaker.open(&mut state, MIN_OPEN_DURATION);
                }
            }
            State::Closed { .. } => *state = State::Closed { failures: 0 },
            State::HalfOpen { duration } if self.is_probe => {
                if is_failure {
                    breaker.open(&mut state, (duration * 2).min(MAX_OPEN_DURATION));
                } else {
                    *state = State::Closed { failures: 0 };
                    breaker.0.gauge.set(0.0);
                }
            }
            // A call that was admitted before the breaker opened does not change it.
            State::HalfOpen { .. } | State::Open { .. } => {}
        }
    }
}

impl Drop for Admission {
    /// Lets the next call probe the server if the probe was cancelled.
    fn drop(&mut self) {
        if !self.is_probe {
            return;
        }
        let mut state = self.breaker.0.state.lock();
        if let State::HalfOpen { duration } = *state {
            *state = State::Open { until: Instant::now(), duration };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use http::StatusCode;

    use super::*;

    fn record(breaker: &CircuitBreaker, error: Option<ErrorKind>) {
        breaker.try_acquire().unwrap().record(error);
    }

    fn opened_breaker() -> CircuitBreaker {
        let breaker = CircuitBreaker::new(2, Gauge::noop());
        record(&breaker, Some(ErrorKind::Timeout));
        record(&breaker, Some(ErrorKind::Status(StatusCode::BAD_GATEWAY)));
        breaker
    }

    #[test]
    fn opens_after_consecutive_failures() {
        assert!(opened_breaker().try_acquire().is_err());
    }

    #[test]
    fn ignores_client_errors() {
        let breaker = CircuitBreaker::new(2, Gauge::noop());
        for not_a_failure in
            [None, Some(ErrorKind::Canceled), Some(ErrorKind::Status(StatusCode::NOT_FOUND))]
        {
            record(&breaker, Some(ErrorKind::Timeout));
            record(&breaker, not_a_failure);
            if not_a_failure == Some(ErrorKind::Canceled) {
                // A cancelled call does not end the series of failures, so this does.
                record(&breaker, None);
            }
            assert!(breaker.try_acquire().is_ok(), "{not_a_failure:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn half_open_admits_exactly_one_call() {
        let breaker = opened_breaker();
        tokio::time::advance(MIN_OPEN_DURATION - Duration::from_millis(1)).await;
        assert!(breaker.try_acquire().is_err());
        tokio::time::advance(Duration::from_millis(1)).await;
        let probe = breaker.try_acquire().unwrap();
        assert!(breaker.try_acquire().is_err());
        probe.record(None);
        for _ in 0..3 {
            assert!(breaker.try_acquire().is_ok());
        }
    }

    /// A half-open breaker rejects calls as well.
    #[tokio::test(start_paused = true)]
    async fn gauge_is_reset_by_successful_probe() {
        let value = Arc::new(AtomicU64::new(0));
        let breaker = CircuitBreaker::new(1, Gauge::from_arc(Arc::clone(&value)));
        let is_open = || f64::from_bits(value.load(Ordering::Relaxed)) == 1.0;
        record(&breaker, Some(ErrorKind::Timeout));
        tokio::time::advance(MIN_OPEN_DURATION).await;
        drop(breaker.try_acquire().unwrap());
        let probe = breaker.try_acquire().unwrap();
        assert!(is_open());
        probe.record(None);
        assert!(!is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn failed_probe_doubles_open_duration() {
        let breaker = opened_breaker();
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            tokio::time::advance(Duration::from_secs(seconds) - Duration::from_millis(1)).await;
            assert!(breaker.try_acquire().is_err(), "{seconds}");
            tokio::time::advance(Duration::from_millis(1)).await;
            record(&breaker, Some(ErrorKind::Refused));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn cancelled_probe_admits_another() {
        let breaker = opened_breaker();
        tokio::time::advance(MIN_OPEN_DURATION).await;
        drop(breaker.try_acquire().unwrap());
        record(&breaker, Some(ErrorKind::Canceled));
        record(&breaker, None);
        assert!(breaker.try_acquire().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn late_outcome_does_not_close_breaker() {
        let breaker = CircuitBreaker::new(1, Gauge::noop());
        let late = breaker.try_acquire().unwrap();
        record(&breaker, Some(ErrorKind::Timeout));
        late.record(None);
        assert!(breaker.try_acquire().is_err());
    }
}
