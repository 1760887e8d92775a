//! Request body with a limit on the time between two reads.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body as AxumBody;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};
use tower::BoxError;

pin_project! {
    /// Request body that fails if a handler waits longer than `timeout` for a frame.
    ///
    /// Unlike the body of `tower_http::timeout`, it has the length of `inner` and prefers a frame to the timeout.
    struct TimeoutBody<B> {
        #[pin]
        inner: B,
        timeout: Duration,
        // `Some` while a handler waits.
        #[pin]
        waiting: Option<Sleep>,
    }
}

/// Limits the time for which a handler waits for the next frame of `body`. An empty body needs no limit.
pub(super) fn limit_reads<B>(body: B, timeout: Duration) -> AxumBody
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    if body.is_end_stream() {
        return AxumBody::empty();
    }
    AxumBody::new(TimeoutBody { inner: body, timeout, waiting: None })
}

impl<B: Body<Error: Into<BoxError>>> Body for TimeoutBody<B> {
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        let mut this = self.project();
        if let Poll::Ready(frame) = this.inner.poll_frame(cx) {
            this.waiting.set(None);
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        if this.waiting.is_none() {
            this.waiting.set(Some(sleep(*this.timeout)));
        }
        match this.waiting.as_pin_mut().map(|waiting| waiting.poll(cx)) {
            Some(Poll::Ready(())) => {
                let error = io::Error::new(io::ErrorKind::TimedOut, "request body stalled");
                Poll::Ready(Some(Err(error.into())))
            }
            _ => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use http_body_util::BodyExt;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(10);

    /// Returns a body that pauses for `pause` before each of three frames.
    fn paused_body(pause: Duration) -> AxumBody {
        let frames = stream::unfold(0, move |frame| async move {
            sleep(pause).await;
            (frame < 3).then_some((Ok::<_, io::Error>("x"), frame + 1))
        });
        limit_reads(AxumBody::from_stream(frames), TIMEOUT)
    }

    #[tokio::test(start_paused = true)]
    async fn slow_upload_is_complete() {
        let body = paused_body(TIMEOUT * 2 / 3).collect().await.unwrap();
        assert_eq!(body.to_bytes(), "xxx");
    }

    #[tokio::test(start_paused = true)]
    async fn stalled_upload_fails() {
        let error = paused_body(TIMEOUT * 4 / 3).collect().await.unwrap_err();
        assert_eq!(error.to_string(), "request body stalled");
    }

    #[tokio::test]
    async fn length_is_kept() {
        assert_eq!(limit_reads(AxumBody::from("hello"), TIMEOUT).size_hint().exact(), Some(5));
    }
}
