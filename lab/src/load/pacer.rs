//! Due times of the requests: a constant rate, the first one at the start.

use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

/// Sends each due time when it is reached and closes the channel at the end. Without a `duration`, there
/// is no end.
///
/// Runs on a thread because the runtime's timers have a resolution of 1 ms and are late if the runtime
/// is busy.
pub(super) fn start_pacer(
    start: Instant,
    rate: f64,
    duration: Option<Duration>,
) -> mpsc::Receiver<Instant> {
    // A full channel does not distort latencies because each item is a due time.
    let (sender, receiver) = mpsc::channel(1024);
    spawn_blocking(move || {
        for due in (0..).map_while(|n| due_time(n, rate, duration)) {
            sleep_until(start + due);
            if sender.blocking_send(start + due).is_err() {
                return;
            }
        }
        // The last request is due before the duration is over.
        sleep_until(start + duration.unwrap_or_default());
    });
    receiver
}

/// Returns the due time of request `n` relative to the start, or `None` if `duration` is over.
#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 requests")]
fn due_time(n: u64, rate: f64, duration: Option<Duration>) -> Option<Duration> {
    // A sum of intervals would accumulate rounding errors.
    let due = Duration::try_from_secs_f64(n as f64 / rate).ok()?;
    duration.is_none_or(|duration| due < duration).then_some(due)
}

fn sleep_until(instant: Instant) {
    thread::sleep(instant.saturating_duration_since(Instant::now()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedule_is_even_and_end_exclusive() {
        let due = |n| due_time(n, 50.0, Some(Duration::from_secs(30)));
        assert_eq!(due(0), Some(Duration::ZERO));
        assert_eq!(due(1), Some(Duration::from_millis(20)));
        assert_eq!(due(1499), Some(Duration::from_millis(29_980)));
        assert_eq!(due(1500), None);
    }

    #[test]
    fn long_run_does_not_drift() {
        let year = 365 * 24 * 60 * 60;
        assert_eq!(due_time(3 * year, 3.0, None), Some(Duration::from_secs(year)));
        assert!(due_time(u64::MAX, 0.001, None).is_none());
    }

    #[tokio::test]
    async fn late_ticks_keep_due_times() {
        let late = Duration::from_secs(10);
        let start = Instant::now() - late;
        let mut due = start_pacer(start, 200.0, Some(late));
        let mut n = 0;
        while let Some(instant) = due.recv().await {
            assert_eq!(instant, start + Duration::from_millis(5 * n));
            n += 1;
        }
        assert_eq!(n, 2000);
    }
}
