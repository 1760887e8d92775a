//! A body that reports its end to a guard, on the server and on the client.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

/// Callback for the end of a body. If it is dropped before [`end`](Self::end) is called, the body was
/// not read to completion.
pub(crate) trait OnBodyEnd<E> {
    /// Reports that the body is complete or failed with `error`.
    fn end(&mut self, error: Option<&E>);
}

pin_project! {
    /// Body with a callback for its end.
    pub(crate) struct InstrumentedBody<B, G> {
        #[pin]
        inner: B,
        guard: Option<G>,
    }
}

impl<B, G> InstrumentedBody<B, G> {
    /// Creates the body. `guard` is `None` if the end has been reported already.
    pub(crate) fn new(inner: B, guard: Option<G>) -> Self {
        Self { inner, guard }
    }
}

impl<B: Body, G: OnBodyEnd<B::Error>> Body for InstrumentedBody<B, G> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        let frame = ready!(this.inner.as_mut().poll_frame(cx));
        let error = match &frame {
            // hyper does not poll again after the last frame if `Content-Length` is known.
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
