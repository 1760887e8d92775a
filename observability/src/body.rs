//! A body that tells a guard of its end, on the server's side and on the client's alike.

use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

/// What waits for the end of a body. Dropped without having been told of it, nobody read to the end.
pub(crate) trait OnBodyEnd<E> {
    /// The body is over, or broke off with `error`.
    fn end(&mut self, error: Option<&E>);
}

pin_project! {
    /// A body and its guard.
    pub(crate) struct InstrumentedBody<B, G> {
        #[pin]
        inner: B,
        guard: Option<G>,
    }
}

impl<B, G> InstrumentedBody<B, G> {
    /// `guard` is absent where all has been told already.
    pub(crate) fn new(inner: B, guard: Option<G>) -> Self {
        Self { inner, guard }
    }
}

impl<B: Body, G: OnBodyEnd<B::Error>> Body for InstrumentedBody<B, G> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        let frame = ready!(this.inner.as_mut().poll_frame(cx));
        let error = match &frame {
            // Nobody polls again after the last frame where the length was announced.
            Some(Ok(_)) if !this.inner.is_end_stream() => return Poll::Ready(frame),
            Some(Err(error)) => Some(error),
            Some(Ok(_)) | None => None,
        };
        if let Some(mut guard) = this.guard.take() {
            guard.end(error);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
