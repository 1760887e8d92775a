//! hyper's timer for the heads of the requests on one HTTP/1.1 connection.
//!
//! hyper starts the timer before each head and drops it at the end of the head. The timer of hyper-util then
//! registers an entry in the runtime's timer wheel for each request. This timer registers one entry for many
//! requests: the entry may elapse before the deadline of the current head, and is then moved to it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};
use parking_lot::Mutex;
use tokio::time::{self, sleep_until};

/// Timer of one connection. A clone shares the entry.
#[derive(Clone, Default)]
pub(super) struct HeadTimer(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// Deadline of the current head.
    deadline: Option<Instant>,
    /// Registered at or before the deadline, with the waker of the connection's task.
    entry: Option<Pin<Box<time::Sleep>>>,
}

impl Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        self.0.lock().deadline = Some(deadline);
        Box::pin(HeadSleep(self.clone()))
    }

    fn now(&self) -> Instant {
        time::Instant::now().into_std()
    }

    fn reset(&self, _: &mut Pin<Box<dyn Sleep>>, deadline: Instant) {
        self.0.lock().deadline = Some(deadline);
    }
}

/// Future that completes at the deadline. Deadlines only become later, because hyper uses one timeout.
struct HeadSleep(HeadTimer);

impl Future for HeadSleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let State { deadline, entry } = &mut *self.0.0.lock();
        if entry.as_ref().is_some_and(|entry| !entry.is_elapsed()) {
            return Poll::Pending;
        }
        let Some(deadline) = deadline.map(time::Instant::from_std) else { return Poll::Pending };
        let entry = entry.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if entry.deadline() < deadline {
            entry.as_mut().reset(deadline);
        }
        // With a budget, the poll could return without a registration.
        Pin::new(&mut tokio::task::unconstrained(entry.as_mut())).poll(cx)
    }
}

impl Sleep for HeadSleep {}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn entry_moves_to_later_deadline() {
        let timeout = Duration::from_secs(10);
        let timer = HeadTimer::default();
        let started = time::Instant::now();
        for second in 1..=3 {
            let head = time::timeout(Duration::from_secs(1), timer.sleep(timeout));
            assert!(head.await.is_err());
            assert_eq!(started.elapsed(), Duration::from_secs(second));
        }
        timer.sleep(timeout).await;
        assert_eq!(started.elapsed(), Duration::from_secs(3) + timeout);
    }
}
