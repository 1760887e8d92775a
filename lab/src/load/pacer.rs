//! Due times of the requests.

use std::thread;
use std::time::{Duration, Instant};

use observability::Error;
use tokio::sync::mpsc;

/// Schedule of requests at a constant rate. The first one is due at the start.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pacer {
    /// Requests per second.
    pub(super) rate: f64,
    /// Unlimited if absent.
    pub(super) duration: Option<Duration>,
}

impl Pacer {
    /// Starts a thread that sends each due time when it is reached and closes the channel at the end.
    ///
    /// The runtime's timers have a resolution of 1 ms and are late if the runtime is busy.
    pub(super) fn start(self, start: Instant) -> Result<mpsc::Receiver<Instant>, Error> {
        // A full channel does not distort latencies because each item is a due time.
        let (sender, receiver) = mpsc::channel(1024);
        let run = move || {
            for due in (0..).map_while(|n| self.due(n)) {
                sleep_until(start + due);
                if sender.blocking_send(start + due).is_err() {
                    return;
                }
            }
            // The last request is due before the duration is over.
            sleep_until(start + self.duration.unwrap_or_default());
        };
        let thread = thread::Builder::new().name("load-pacer".to_owned()).spawn(run);
        thread.map_err(|error| Error::other(format!("lab load: cannot start pacer: {error}")))?;
        Ok(receiver)
    }

    /// Returns the due time of request `n` relative to the start, or `None` if the duration is over.
    #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 requests")]
    fn due(&self, n: u64) -> Option<Duration> {
        // A sum of intervals would accumulate rounding errors.
        let due = Duration::try_from_secs_f64(n as f64 / self.rate).ok()?;
        self.duration.is_none_or(|duration| due < duration).then_some(due)
    }
}

fn sleep_until(instant: Instant) {
    thread::sleep(instant.saturating_duration_since(Instant::now()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedule_is_even_and_end_exclusive() {
        let pacer = Pacer { rate: 50.0, duration: Some(Duration::from_secs(30)) };
        assert_eq!(pacer.due(0), Some(Duration::ZERO));
        assert_eq!(pacer.due(1), Some(Duration::from_millis(20)));
        assert_eq!(pacer.due(1499), Some(Duration::from_millis(29_980)));
        assert_eq!(pacer.due(1500), None);
    }

    #[test]
    fn long_run_does_not_drift() {
        let pacer = Pacer { rate: 3.0, duration: None };
        let year = 365 * 24 * 60 * 60;
        assert_eq!(pacer.due(3 * year), Some(Duration::from_secs(year)));
        assert!(Pacer { rate: 0.001, duration: None }.due(u64::MAX).is_none());
    }

    #[tokio::test]
    async fn late_ticks_keep_due_times() {
        let late = Duration::from_secs(10);
        let start = Instant::now() - late;
        let mut due = Pacer { rate: 200.0, duration: Some(late) }.start(start).unwrap();
        let mut n = 0;
        while let Some(instant) = due.recv().await {
            assert_eq!(instant, start + Duration::from_millis(5 * n));
            n += 1;
        }
        assert_eq!(n, 2000);
    }
}
