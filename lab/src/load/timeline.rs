//! Latencies over time, by outcome.

use std::collections::HashMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use observability::Error;

use super::client::{Completed, Outcome};
use super::stats::as_micros;

/// Maximum number of intervals. When it is reached, their length doubles.
const MAX_INTERVALS: usize = 600;

/// Responses that completed during an interval: their latencies in microseconds, by outcome.
type Interval = HashMap<Outcome, Histogram<u32>>;

/// Intervals of equal length since the start of the run.
#[derive(Debug)]
pub(super) struct Timeline {
    pub(super) interval: Duration,
    pub(super) intervals: Vec<Interval>,
    empty: Histogram<u32>,
}

impl Timeline {
    pub(super) fn new() -> Result<Self, Error> {
        let empty = Histogram::new(2).map_err(Error::other)?;
        Ok(Self { interval: Duration::from_secs(1), intervals: Vec::new(), empty })
    }

    /// Records a request that completed this long after the start.
    pub(super) fn record(&mut self, elapsed: Duration, completed: &Completed) {
        while self.index(elapsed) >= MAX_INTERVALS {
            self.double_interval();
        }
        let index = self.index(elapsed);
        if index >= self.intervals.len() {
            self.intervals.resize_with(index + 1, Interval::new);
        }
        let latencies = self.intervals[index].entry(completed.outcome);
        let latencies = latencies.or_insert_with(|| self.empty.clone());
        // Neither this nor `add` fails because the histogram grows.
        let _ = latencies.record(as_micros(completed.latency));
    }

    fn index(&self, elapsed: Duration) -> usize {
        usize::try_from(elapsed.as_nanos() / self.interval.as_nanos()).unwrap_or(usize::MAX)
    }

    fn double_interval(&mut self) {
        self.interval *= 2;
        let mut intervals = std::mem::take(&mut self.intervals).into_iter();
        while let Some(mut merged) = intervals.next() {
            for (outcome, latencies) in intervals.next().unwrap_or_default() {
                let _ = merged.entry(outcome).or_insert_with(|| self.empty.clone()).add(latencies);
            }
            self.intervals.push(merged);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(outcome: Outcome) -> Completed {
        let latency = Duration::from_millis(2);
        Completed { outcome, latency, own_lag: Duration::ZERO }
    }

    #[test]
    fn interval_is_that_of_completion() {
        let mut timeline = Timeline::new().unwrap();
        timeline.record(Duration::from_millis(999), &completed(Outcome::Ok));
        timeline.record(Duration::from_secs(2), &completed(Outcome::InvalidBody));
        let outcomes: Vec<Vec<_>> = timeline
            .intervals
            .iter()
            .map(|interval| interval.iter().map(|(outcome, all)| (*outcome, all.len())).collect())
            .collect();
        assert_eq!(outcomes, [vec![(Outcome::Ok, 1)], vec![], vec![(Outcome::InvalidBody, 1)]]);
    }

    #[test]
    fn long_run_doubles_interval() {
        let mut timeline = Timeline::new().unwrap();
        let hours = 2 * 60 * 60;
        for second in 0..hours {
            timeline.record(Duration::from_secs(second), &completed(Outcome::Ok));
        }
        assert_eq!(timeline.interval, Duration::from_secs(16));
        assert_eq!(timeline.intervals.len(), 450);
        for interval in &timeline.intervals {
            let latencies = &interval[&Outcome::Ok];
            assert_eq!(latencies.len(), 16);
            assert!(latencies.equivalent(2000, latencies.max()), "{}", latencies.max());
        }
    }
}
