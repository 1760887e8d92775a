//! Events recorded by one thread and awaited by another.

use std::fmt::Debug;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use crate::wait::TEST_TIMEOUT;

/// Append-only list of events on which threads can wait. Clones share the list.
#[derive(Debug, Clone)]
pub(crate) struct EventLog<T>(Arc<Shared<T>>);

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

impl<T> Default for EventLog<T> {
    fn default() -> Self {
        let state = Mutex::new(State { events: Vec::new(), is_closed: false });
        Self(Arc::new(Shared { state, changed: Condvar::new() }))
    }
}

impl<T: Clone + Debug> EventLog<T> {
    /// Appends an event.
    pub(crate) fn push(&self, event: T) {
        self.0.state.lock().events.push(event);
        self.0.changed.notify_all();
    }

    /// Marks the log as complete, so that waiting for an event that never came fails immediately.
    pub(crate) fn close(&self) {
        self.0.state.lock().is_closed = true;
        self.0.changed.notify_all();
    }

    /// Returns the events recorded so far.
    pub(crate) fn events(&self) -> Vec<T> {
        self.0.state.lock().events.clone()
    }

    /// Waits until `find` returns a value for the recorded events.
    ///
    /// # Panics
    /// If `find` returns none within [`TEST_TIMEOUT`] or when the log is closed. The message contains
    /// `description` and all events.
    pub(crate) fn wait_for<R>(
        &self,
        description: &str,
        mut find: impl FnMut(&[T]) -> Option<R>,
    ) -> R {
        let mut found = None;
        let mut state = self.0.state.lock();
        let is_missing = |state: &mut State<T>| {
            found = find(&state.events);
            found.is_none() && !state.is_closed
        };
        self.0.changed.wait_while_for(&mut state, is_missing, TEST_TIMEOUT);
        found.unwrap_or_else(|| panic!("ended or timed out without {description}: {state:#?}"))
    }

    /// Waits until the log is closed and returns all events.
    ///
    /// # Panics
    /// If the log is not closed within [`TEST_TIMEOUT`]. The message contains all events.
    pub(crate) fn wait_until_closed(&self) -> Vec<T> {
        let mut state = self.0.state.lock();
        self.0.changed.wait_while_for(&mut state, |state| !state.is_closed, TEST_TIMEOUT);
        assert!(state.is_closed, "timed out waiting for the last event: {state:#?}");
        state.events.clone()
    }
}
