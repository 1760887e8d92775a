//! A body that reports its end to a guard, on the server and on the client.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Buf;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

/// End of a body.
pub enum BodyEnd<'a, E> {
    /// The last frame was handed over.
    Complete {
        /// Trailers, if the body has any.
        trailers: Option<&'a HeaderMap>,
    },
    /// The body failed.
    Failed(&'a E),
    /// The body panicked.
    Panicked,
    /// The body was dropped before its first frame was requested.
    Unread,
}

/// Callback for the end of a body. If it is dropped before [`end`](Self::end) is called, the body was
/// dropped before its end.
pub trait OnBodyEnd<E> {
    /// Reports the end.
    fn end(&mut self, end: BodyEnd<'_, E>);

    /// Polls the body in the context of its request.
    fn in_context<T>(&mut self, poll: impl FnOnce() -> T) -> T {
        poll()
    }
}

pin_project! {
    /// Body with a callback for its end.
    pub struct InstrumentedBody<B: Body, G: OnBodyEnd<B::Error>> {
        #[pin]
        inner: B,
        guard: Option<G>,
        is_polled: bool,
        // Bytes until the end, if the length was announced.
        remaining: Option<u64>,
    }

    impl<B: Body, G: OnBodyEnd<B::Error>> PinnedDrop for InstrumentedBody<B, G> {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            if let Some(guard) = this.guard.as_mut().filter(|_| !*this.is_polled) {
                guard.end(BodyEnd::Unread);
            }
        }
    }
}

impl<B: Body, G: OnBodyEnd<B::Error>> InstrumentedBody<B, G> {
    /// Creates the body. `guard` is `None` if the end has been reported already, and `content_length` is
    /// the announced length.
    pub(crate) fn new(inner: B, guard: Option<G>, content_length: Option<u64>) -> Self {
        Self { inner, guard, is_polled: false, remaining: content_length }
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
        *this.is_polled = true;
        let mut poll_inner = || this.inner.as_mut().poll_frame(cx);
        let polled = catch_unwind(AssertUnwindSafe(|| match this.guard {
            Some(guard) => guard.in_context(poll_inner),
            None => poll_inner(),
        }));
        let end = match &polled {
            Ok(Poll::Pending) => None,
            Ok(Poll::Ready(None)) => Some(BodyEnd::Complete { trailers: None }),
            Ok(Poll::Ready(Some(Err(error)))) => Some(BodyEnd::Failed(error)),
            Err(_) => Some(BodyEnd::Panicked),
            Ok(Poll::Ready(Some(Ok(frame)))) => {
                if let (Some(remaining), Some(data)) = (this.remaining.as_mut(), frame.data_ref()) {
                    *remaining = remaining.saturating_sub(data.remaining() as u64);
                }
                // hyper polls again neither after the announced bytes nor after trailers.
                let is_last =
                    *this.remaining == Some(0) || frame.is_trailers() || this.inner.is_end_stream();
                is_last.then_some(BodyEnd::Complete { trailers: frame.trailers_ref() })
            }
        };
        if let Some(end) = end
            && let Some(mut guard) = this.guard.take()
        {
            guard.end(end);
        }
        match polled {
            Ok(polled) => polled,
            Err(panic) => resume_unwind(panic),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
