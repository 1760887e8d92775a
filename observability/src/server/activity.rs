//! Activity of an HTTP/2 connection, for its idle timeout and its slow readers.
//!
//! hyper limits how long an HTTP/1.1 client may take for its next request. It has no such limit for
//! HTTP/2, and a client that grants no flow-control window can hold a response for ever.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use pin_project_lite::pin_project;
use tokio::time::Instant;

/// Activity of one connection.
pub(super) struct Activity(Mutex<State>);

struct State {
    /// Requests in flight. The value is the time since which hyper waits for the client to read.
    requests: BTreeMap<u64, Option<Instant>>,
    next_id: u64,
    /// End of the last request, or start of the connection.
    idle_since: Instant,
}

impl Activity {
    pub(super) fn new() -> Self {
        let idle_since = Instant::now();
        Self(Mutex::new(State { requests: BTreeMap::new(), next_id: 0, idle_since }))
    }

    /// Returns the guard of a request that starts now.
    pub(super) fn start_request(self: &Arc<Self>) -> ActivityGuard {
        let mut state = self.0.lock();
        let id = state.next_id;
        state.next_id += 1;
        state.requests.insert(id, None);
        ActivityGuard { activity: Arc::clone(self), id }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.0.lock().requests.is_empty()
    }

    /// Returns the time at which the connection exceeds `timeout`, if nothing happens until then. `None`
    /// while handlers work.
    pub(super) fn deadline(&self, timeout: Duration) -> Option<Instant> {
        let state = self.0.lock();
        if state.requests.is_empty() {
            return Some(state.idle_since + timeout);
        }
        state.requests.values().flatten().min().map(|since| *since + timeout)
    }
}

/// Guard of one request in flight.
pub(super) struct ActivityGuard {
    activity: Arc<Activity>,
    id: u64,
}

impl ActivityGuard {
    fn set_waiting_since(&self, since: Option<Instant>) {
        self.activity.0.lock().requests.insert(self.id, since);
    }
}

impl Drop for ActivityGuard {
    fn drop(&mut self) {
        let mut state = self.activity.0.lock();
        state.requests.remove(&self.id);
        state.idle_since = Instant::now();
    }
}

pin_project! {
    /// Response body that reports whether hyper waits for the client to read.
    pub(super) struct TrackedBody<B> {
        #[pin]
        inner: B,
        guard: ActivityGuard,
    }
}

impl<B> TrackedBody<B> {
    pub(super) fn new(inner: B, guard: ActivityGuard) -> Self {
        Self { inner, guard }
    }
}

impl<B: Body> Body for TrackedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let polled = this.inner.poll_frame(cx);
        // hyper polls again once the client has room for the frame.
        this.guard.set_waiting_since(polled.is_ready().then(Instant::now));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
