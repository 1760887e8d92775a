//! Due times of the requests: a constant rate, the first one at the start, after an optional ramp.

use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

/// Rate over time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Schedule {
    /// Requests per second after the ramp.
    pub(super) rate: f64,
    /// Time during which the rate grows linearly from 0.
    pub(super) ramp: Duration,
    /// Time of the whole schedule, without an end if `None`.
    pub(super) duration: Option<Duration>,
}

/// Sends each due time when it is reached and closes the channel at the end.
///
/// Runs on a thread because the runtime's timers have a resolution of 1 ms and are late if the runtime
/// is busy.
pub(super) fn start_pacer(start: Instant, schedule: Schedule) -> mpsc::Receiver<Instant> {
    // A full channel does not distort latencies because each item is a due time.
    let (sender, receiver) = mpsc::channel(1024);
    spawn_blocking(move || {
        for due in (0..).map_while(|n| schedule.due_time(n)) {
            sleep_until(start + due);
            if sender.blocking_send(start + due).is_err() {
                return;
            }
        }
        // The last request is due before the duration is over.
        sleep_until(start + schedule.duration.unwrap_or_default());
    });
    receiver
}

impl Schedule {
    /// Returns the due time of request `n` relative to the start, or `None` if the schedule is over.
    #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 requests")]
    fn due_time(self, n: u64) -> Option<Duration> {
        let (n, ramp) = (n as f64, self.ramp.as_secs_f64());
        // During the ramp, rate * t^2 / (2 * ramp) requests are due before t.
        let sent_in_ramp = self.rate * ramp / 2.0;
        // A sum of intervals would accumulate rounding errors.
        let seconds = if n < sent_in_ramp {
            (2.0 * ramp * n / self.rate).sqrt()
        } else {
            n / self.rate + ramp / 2.0
        };
        let due = Duration::try_from_secs_f64(seconds).ok()?;
        self.duration.is_none_or(|duration| due < duration).then_some(due)
    }
}

fn sleep_until(instant: Instant) {
    thread::sleep(instant.saturating_duration_since(Instant::now()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn constant(rate: f64, duration: Option<Duration>) -> Schedule {
        Schedule { rate, ramp: Duration::ZERO, duration }
    }

    #[test]
    fn schedule_is_even_and_end_exclusive() {
        let due = |n| constant(50.0, Some(Duration::from_secs(30))).due_time(n);
        assert_eq!(due(0), Some(Duration::ZERO));
        assert_eq!(due(1), Some(Duration::from_millis(20)));
        assert_eq!(due(1499), Some(Duration::from_millis(29_980)));
        assert_eq!(due(1500), None);
    }

    #[test]
    fn long_run_does_not_drift() {
        let year = 365 * 24 * 60 * 60;
        assert_eq!(constant(3.0, None).due_time(3 * year), Some(Duration::from_secs(year)));
        assert!(constant(0.001, None).due_time(u64::MAX).is_none());
    }

    #[test]
    fn ramp_grows_linearly_to_rate() {
        let ramp = Duration::from_secs(10);
        let schedule = Schedule { rate: 100.0, ramp, duration: Some(Duration::from_secs(20)) };
        let due: Vec<_> = (0..).map_while(|n| schedule.due_time(n)).collect();
        // Half of the rate on average during the ramp, and the whole rate after it.
        assert_eq!(due.len(), 500 + 1000);
        assert_eq!(due[0], Duration::ZERO);
        let before = |seconds| due.partition_point(|due| *due < Duration::from_secs(seconds));
        assert_eq!(
            [before(1), before(2), before(4), before(10), before(11)],
            [5, 20, 80, 500, 600]
        );
        assert!(due.is_sorted_by(|earlier, later| earlier < later));
    }

    #[tokio::test]
    async fn late_ticks_keep_due_times() {
        let late = Duration::from_secs(10);
        let start = Instant::now() - late;
        let mut due = start_pacer(start, constant(200.0, Some(late)));
        let mut n = 0;
        while let Some(instant) = due.recv().await {
            assert_eq!(instant, start + Duration::from_millis(5 * n));
            n += 1;
        }
        assert_eq!(n, 2000);
    }
}
