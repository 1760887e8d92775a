//! Something happens on one thread and is waited for on another.

use std::fmt::Debug;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::TEST_TIMEOUT;

/// A list that one thread adds to and another waits on; a clone is the same list.
#[derive(Debug)]
pub struct EventLog<T>(Arc<Shared<T>>);

#[derive(Debug)]
struct Shared<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

#[derive(Debug)]
struct State<T> {
    items: Vec<T>,
    closed: bool,
}

impl<T> Clone for EventLog<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Default for EventLog<T> {
    fn default() -> Self {
        let state = Mutex::new(State { items: Vec::new(), closed: false });
        Self(Arc::new(Shared { state, changed: Condvar::new() }))
    }
}

impl<T: Debug> EventLog<T> {
    /// Adds an item.
    pub fn push(&self, item: T) {
        self.lock().items.push(item);
        self.0.changed.notify_all();
    }

    /// Nothing will be added any more.
    pub fn close(&self) {
        self.lock().closed = true;
        self.0.changed.notify_all();
    }

    /// What is there now.
    pub fn items(&self) -> Vec<T>
    where
        T: Clone,
    {
        self.lock().items.clone()
    }

    /// Waits until `find` finds what it looks for among the items.
    ///
    /// # Panics
    /// Where it does not within [`TEST_TIMEOUT`], or never will, because the board is closed. The message
    /// says `what` was waited for and shows every item.
    pub fn wait_for<R>(&self, what: &str, mut find: impl FnMut(&[T]) -> Option<R>) -> R {
        let deadline = Instant::now() + TEST_TIMEOUT;
        let mut state = self.lock();
        loop {
            if let Some(found) = find(&state.items) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if state.closed || left.is_zero() {
                let why = if state.closed { "the end came" } else { "time was up" };
                panic!("{why} without {what}; there were {:#?}", state.items);
            }
            state =
                self.0.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until nothing will be added any more, and gives all that was.
    pub fn wait_for_end(&self, what: &str) -> Vec<T>
    where
        T: Clone,
    {
        let deadline = Instant::now() + TEST_TIMEOUT;
        let mut state = self.lock();
        while !state.closed {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "time was up before {what}; there were {:#?}", state.items);
            state =
                self.0.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.items.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
