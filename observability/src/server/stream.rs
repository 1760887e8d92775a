//! The stream of one connection: protocol detection, and a delayed end for clients that half-close.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// First bytes of an HTTP/2 connection (RFC 9113, section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// First byte of a TLS connection: the content type of a handshake record (RFC 8446, section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// Time from the last write until the end of the client's stream is reported to hyper.
///
/// A client that disconnects and a client that only half-closes its connection look the same until the
/// server writes to them. hyper cancels the request at once. The delay lets the response to a
/// half-closing client complete, and still cancels the work for a client that disconnected.
const END_DELAY: Duration = Duration::from_millis(250);

/// Protocol that a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
    /// TLS on a listener without TLS.
    Tls,
}

/// Reads until the protocol is certain, and returns the bytes that were read. The first byte decides for
/// nearly all clients.
pub(super) async fn detect_protocol(
    stream: &mut (impl AsyncRead + Unpin),
) -> io::Result<(Protocol, Bytes)> {
    let mut read = BytesMut::with_capacity(HTTP2_PREFACE.len());
    loop {
        let is_end = stream.read_buf(&mut read).await? == 0;
        let protocol = if read.first() == Some(&TLS_HANDSHAKE) {
            Protocol::Tls
        } else if read.starts_with(HTTP2_PREFACE) {
            Protocol::Http2
        } else if is_end || !HTTP2_PREFACE.starts_with(&read) {
            Protocol::Http1
        } else {
            continue;
        };
        return Ok((protocol, read.freeze()));
    }
}

pin_project! {
    /// Stream that replays bytes, and delays its end while the client awaits a response.
    pub(super) struct ClientStream<S> {
        #[pin]
        inner: S,
        replay: Bytes,
        // The client has sent bytes that no response has followed yet.
        is_awaiting_response: Arc<AtomicBool>,
        // `Some` after the client has closed its half while it awaits a response.
        #[pin]
        end: Option<Sleep>,
    }
}

impl<S> ClientStream<S> {
    /// Creates a stream that starts with `replay`. `is_awaiting_response` is kept up to date.
    pub(super) fn new(inner: S, replay: Bytes, is_awaiting_response: Arc<AtomicBool>) -> Self {
        is_awaiting_response.store(!replay.is_empty(), Ordering::Relaxed);
        Self { inner, replay, is_awaiting_response, end: None }
    }
}

impl<S: AsyncRead> AsyncRead for ClientStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut this = self.project();
        if this.replay.has_remaining() {
            let length = this.replay.len().min(buf.remaining());
            buf.put_slice(&this.replay.split_to(length));
            return Poll::Ready(Ok(()));
        }
        if this.end.is_none() {
            let before = buf.filled().len();
            ready!(this.inner.poll_read(cx, buf))?;
            if buf.filled().len() > before {
                this.is_awaiting_response.store(true, Ordering::Relaxed);
                return Poll::Ready(Ok(()));
            }
            if !this.is_awaiting_response.load(Ordering::Relaxed) {
                return Poll::Ready(Ok(()));
            }
            this.end.set(Some(sleep(END_DELAY)));
        }
        match this.end.as_pin_mut() {
            Some(end) => end.poll(cx).map(Ok),
            None => Poll::Ready(Ok(())),
        }
    }
}

impl<S: AsyncWrite> AsyncWrite for ClientStream<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.write(|inner| inner.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write(|inner| inner.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().inner.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().inner.poll_shutdown(cx)
    }
}

impl<S: AsyncWrite> ClientStream<S> {
    fn write<T>(
        self: Pin<&mut Self>,
        write: impl FnOnce(Pin<&mut S>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let this = self.project();
        let written = ready!(write(this.inner))?;
        this.is_awaiting_response.store(false, Ordering::Relaxed);
        if let Some(end) = this.end.as_pin_mut() {
            end.reset(Instant::now() + END_DELAY);
        }
        Poll::Ready(Ok(written))
    }
}
