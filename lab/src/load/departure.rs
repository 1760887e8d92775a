//! Time at which a request leaves the generator.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http_body::{Body, Frame};

tokio::task_local! {
    /// Departure of the request that this task sends.
    pub(super) static DEPARTURE: Departure;
}

/// Time at which a request is written or, without an idle connection, at which the connect starts.
///
/// It is also the empty body of the request, because an HTTP connection examines the body when it writes
/// the head.
#[derive(Debug, Clone, Default)]
pub(super) struct Departure(Arc<OnceLock<Instant>>);

impl Departure {
    /// Returns `None` if the request has not left.
    pub(super) fn time(&self) -> Option<Instant> {
        self.0.get().copied()
    }

    fn record(&self) {
        self.0.get_or_init(Instant::now);
    }
}

impl Body for Departure {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.record();
        true
    }
}

/// Records that the current request starts to connect. A function for
/// [`MapRequestLayer`](tower::util::MapRequestLayer) around a connector.
pub(super) fn record_connect<R>(request: R) -> R {
    // Fails for a connect without a request, of which there is none.
    let _ = DEPARTURE.try_with(Departure::record);
    request
}
