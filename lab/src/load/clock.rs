//! When requests are due, and a clock that says so whatever happens to the requests.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use observability::Error;
use tokio::sync::mpsc;

/// Requests at a constant rate, the first at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schedule {
    /// Requests per second.
    pub(crate) rate: f64,
    /// `None`: without an end.
    pub(crate) duration: Option<Duration>,
}

impl Schedule {
    /// When request number `n` is due, counted from the start; `None` where the end comes first. Not
    /// a sum of intervals, so that nothing adds up over a long run.
    #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 requests")]
    fn due(&self, n: u64) -> Option<Duration> {
        let due = Duration::try_from_secs_f64(n as f64 / self.rate).ok()?;
        self.duration.is_none_or(|end| due < end).then_some(due)
    }
}

/// A running clock; dropping it stops it.
///
/// A thread of its own: it keeps time to some 0.1 ms, where the runtime's timers know whole
/// milliseconds, and a busy runtime does not slow it.
#[derive(Debug)]
pub(crate) struct Clock {
    due: mpsc::Receiver<Instant>,
    _stop: Sender<()>,
}

impl Clock {
    pub(crate) fn start(schedule: Schedule, start: Instant) -> Result<Self, Error> {
        // A full channel makes nobody late: what is sent is when a request was due, not that it is.
        let (send, due) = mpsc::channel(1024);
        let (_stop, stopped) = channel();
        std::thread::Builder::new()
            .name("load-clock".to_owned())
            .spawn(move || tick(schedule, start, &send, &stopped))
            .map_err(|error| Error::other(format!("lab load: no thread for the clock: {error}")))?;
        Ok(Self { due, _stop })
    }

    /// Waits for the next request to be due; gives the moment it was, or `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Instant> {
        self.due.recv().await
    }
}

fn tick(schedule: Schedule, start: Instant, due: &mpsc::Sender<Instant>, stopped: &Receiver<()>) {
    // Waiting on a channel that only ever closes is a sleep that can be ended.
    let wait_until = |moment: Instant| {
        stopped.recv_timeout(moment.saturating_duration_since(Instant::now()))
            == Err(RecvTimeoutError::Timeout)
    };
    for n in 0.. {
        let Some(offset) = schedule.due(n) else { break };
        let moment = start + offset;
        if !wait_until(moment) || due.blocking_send(moment).is_err() {
            return;
        }
    }
    // The end is when the time is over, not when the last request went out.
    if let Some(duration) = schedule.duration {
        wait_until(start + duration);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedule_is_even_and_end_exclusive() {
        let schedule = Schedule { rate: 50.0, duration: Some(Duration::from_secs(30)) };
        assert_eq!(schedule.due(0), Some(Duration::ZERO));
        assert_eq!(schedule.due(1), Some(Duration::from_millis(20)));
        assert_eq!(schedule.due(1499), Some(Duration::from_millis(29_980)));
        assert_eq!(schedule.due(1500), None);
    }

    #[test]
    fn a_long_run_does_not_drift() {
        let schedule = Schedule { rate: 3.0, duration: None };
        let year = 365 * 24 * 60 * 60;
        assert_eq!(schedule.due(3 * year), Some(Duration::from_secs(year)));
        assert!(Schedule { rate: 0.001, duration: None }.due(u64::MAX).is_none());
    }

    #[tokio::test]
    async fn late_ticks_keep_due_times() {
        let late = Duration::from_secs(10);
        let start = Instant::now() - late;
        let schedule = Schedule { rate: 200.0, duration: Some(late) };
        let mut clock = Clock::start(schedule, start).unwrap();
        let mut n = 0;
        while let Some(moment) = clock.next().await {
            assert_eq!(moment, start + Duration::from_millis(5 * n));
            n += 1;
        }
        assert_eq!(n, 2000);
    }
}
