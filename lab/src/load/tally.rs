//! What is counted while the load runs.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use observability::Error;

use super::request::{Done, Outcome};
use super::settings::MAX_TIMEOUT;

/// Every request that was due is in exactly one of: sent and done, sent and unfinished, not sent.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) sent: u64,
    /// Due, but not sent: as many as may be were in flight.
    pub(crate) not_sent: u64,
    /// Sent, and cut off by a second signal.
    pub(crate) unfinished: u64,
    /// The longest time between the moment a request was due and the moment it went out.
    pub(crate) lag: Duration,
    pub(crate) outcomes: BTreeMap<Outcome, u64>,
    /// Of every request that is done.
    pub(crate) all: Latencies,
    /// Of those that went well.
    pub(crate) ok: Latencies,
    /// Since it was last asked for.
    recent: Recent,
}

/// A stretch of time for the progress line.
#[derive(Debug)]
pub(crate) struct Recent {
    pub(crate) sent: u64,
    pub(crate) not_sent: u64,
    pub(crate) ok: u64,
    pub(crate) all: Latencies,
}

impl Tally {
    pub(crate) fn new() -> Result<Self, Error> {
        let recent = Recent { sent: 0, not_sent: 0, ok: 0, all: Latencies::new()? };
        Ok(Self {
            sent: 0,
            not_sent: 0,
            unfinished: 0,
            lag: Duration::ZERO,
            outcomes: BTreeMap::new(),
            all: Latencies::new()?,
            ok: Latencies::new()?,
            recent,
        })
    }

    pub(crate) fn sent(&mut self, lag: Duration) {
        self.sent += 1;
        self.recent.sent += 1;
        self.lag = self.lag.max(lag);
    }

    pub(crate) fn not_sent(&mut self) {
        self.not_sent += 1;
        self.recent.not_sent += 1;
    }

    pub(crate) fn done(&mut self, done: Done) {
        *self.outcomes.entry(done.outcome).or_default() += 1;
        self.all.record(done.latency);
        self.recent.all.record(done.latency);
        if done.outcome == Outcome::Ok {
            self.ok.record(done.latency);
            self.recent.ok += 1;
        }
    }

    /// Whether requests are done and B answered none of them.
    pub(crate) fn b_never_answered(&self) -> bool {
        !self.outcomes.is_empty() && !self.outcomes.keys().any(|outcome| outcome.is_answer())
    }

    /// What `show` makes of the time since the last call.
    pub(crate) fn recent<T>(&mut self, show: impl FnOnce(&Recent) -> T) -> T {
        let shown = show(&self.recent);
        let Recent { sent, not_sent, ok, all } = &mut self.recent;
        (*sent, *not_sent, *ok) = (0, 0, 0);
        all.0.reset();
        shown
    }
}

/// Latencies in microseconds, to three significant digits.
#[derive(Debug)]
pub(crate) struct Latencies(Histogram<u64>);

impl Latencies {
    fn new() -> Result<Self, Error> {
        // Twice the longest time budget: a request can be sent late, too.
        let longest = micros(MAX_TIMEOUT) * 2;
        let histogram = Histogram::new_with_bounds(1, longest, 3)
            .map_err(|error| Error::other(format!("lab load: no histogram: {error}")))?;
        Ok(Self(histogram))
    }

    fn record(&mut self, latency: Duration) {
        self.0.saturating_record(micros(latency));
    }

    /// How many there are.
    pub(crate) fn len(&self) -> u64 {
        self.0.len()
    }

    /// The latency that this share of the requests, from 0 to 1, did not exceed; `None` without any.
    pub(crate) fn quantile(&self, q: f64) -> Option<Duration> {
        (self.len() > 0).then(|| Duration::from_micros(self.0.value_at_quantile(q)))
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(outcome: Outcome, ms: u64) -> Done {
        Done { outcome, latency: Duration::from_millis(ms) }
    }

    #[test]
    fn success_latencies_are_separate() {
        let mut tally = Tally::new().unwrap();
        tally.done(done(Outcome::Ok, 10));
        tally.done(done(Outcome::BStatus(500), 1000));
        let close = |latencies: &Latencies, ms: f64| {
            let max = latencies.quantile(1.0).unwrap().as_secs_f64() * 1e3;
            assert!((max / ms - 1.0).abs() < 0.001, "{max} is not {ms}");
        };
        close(&tally.ok, 10.0);
        close(&tally.all, 1000.0);
        assert_eq!((tally.ok.len(), tally.all.len()), (1, 2));
        assert!(tally.ok.quantile(0.5).is_some());
    }

    #[test]
    fn interval_resets_after_read() {
        let mut tally = Tally::new().unwrap();
        tally.sent(Duration::ZERO);
        tally.done(done(Outcome::Ok, 1));
        let counts = |recent: &Recent| (recent.sent, recent.ok, recent.all.len());
        assert_eq!(tally.recent(counts), (1, 1, 1));
        assert_eq!(tally.recent(counts), (0, 0, 0));
        assert_eq!((tally.sent, tally.all.len()), (1, 1));
    }

    #[test]
    fn any_response_means_reachable() {
        let mut tally = Tally::new().unwrap();
        assert!(!tally.b_never_answered());
        tally.done(done(Outcome::BNoAnswer("refused"), 1));
        assert!(tally.b_never_answered());
        tally.done(done(Outcome::BStatus(500), 1));
        assert!(!tally.b_never_answered());
    }

    #[test]
    fn latency_saturates() {
        let mut tally = Tally::new().unwrap();
        tally.done(Done { outcome: Outcome::Ok, latency: Duration::MAX });
        assert!(tally.all.quantile(1.0).unwrap() >= MAX_TIMEOUT * 2);
    }
}
