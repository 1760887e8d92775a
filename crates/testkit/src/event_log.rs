//! Events recorded by one thread and awaited by another.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use crate::wait::TEST_TIMEOUT;

/// Append-only list of events on which threads can wait. Clones share the list.
#[derive(Debug)]
pub struct EventLog<T>(Arc<Shared<T>>);

#[derive(Debug)]
struct Shared<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

#[derive(Debug)]
struct State<T> {
    events: Vec<T>,
    is_closed: bool,
}

impl<T> Clone for EventLog<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Default for EventLog<T> {
    fn default() -> Self {
        let state = Mutex::new(State { events: Vec::new(), is_closed: false });
        Self(Arc::new(Shared { state, changed: Condvar::new() }))
    }
}

impl<T: Debug> EventLog<T> {
    /// Appends an event.
    pub fn push(&self, event: T) {
        self.0.state.lock().events.push(event);
        self.0.changed.notify_all();
    }

    /// Marks the log as complete, so that waiting for an event that never came fails immediately.
    pub fn close(&self) {
        self.0.state.lock().is_closed = true;
        self.0.changed.notify_all();
    }

    /// Returns the events recorded so far.
    pub fn events(&self) -> Vec<T>
    where
        T: Clone,
    {
        self.0.state.lock().events.clone()
    }

    /// Waits until `find` returns a value for the recorded events.
    ///
    /// # Panics
    /// If `find` returns none within [`TEST_TIMEOUT`] or when the log is closed. The message contains
    /// `description` and all events.
    pub fn wait_for<R>(&self, description: &str, mut find: impl FnMut(&[T]) -> Option<R>) -> R {
        let deadline = Instant::now() + TEST_TIMEOUT;
        let mut state = self.0.state.lock();
        loop {
            if let Some(found) = find(&state.events) {
                return found;
            }
            let State { events, is_closed } = &*state;
            assert!(!is_closed, "ended without {description}; events: {events:#?}");
            assert!(
                Instant::now() < deadline,
                "timed out waiting for {description}; events: {events:#?}"
            );
            self.0.changed.wait_until(&mut state, deadline);
        }
    }
}
