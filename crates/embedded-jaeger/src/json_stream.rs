//! JSON responses that are written while the client reads them.

use std::io::{self, BufWriter, Write};

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use http::header::CONTENT_TYPE;
use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use crate::query_params::QueryParams;

/// Size of the chunks of a response in bytes.
const CHUNK_SIZE: usize = 64 << 10;

/// Runs a query and serializes its result in chunks, at the speed at which the client reads. A search
/// may match most of the store, and its JSON is several times as large.
pub(crate) fn stream_json<T: Serialize>(
    params: QueryParams,
    query: impl FnOnce(&QueryParams) -> T + Send + 'static,
) -> Response {
    let (sender, mut chunks) = mpsc::channel(2);
    spawn_blocking(move || {
        let result = query(&params);
        let mut out = BufWriter::with_capacity(CHUNK_SIZE, ChunkWriter(sender));
        let written = if params.first("prettyPrint").is_some_and(|value| value != "false") {
            let indented = PrettyFormatter::with_indent(b"    ");
            result.serialize(&mut Serializer::with_formatter(&mut out, indented))
        } else {
            result.serialize(&mut Serializer::new(&mut out))
        };
        // It fails only if the client has disconnected.
        let _ = written.map_err(io::Error::from).and_then(|()| out.flush());
    });
    let chunks =
        stream::poll_fn(move |cx| chunks.poll_recv(cx).map(|chunk| chunk.map(io::Result::Ok)));
    ([(CONTENT_TYPE, "application/json")], Body::from_stream(chunks)).into_response()
}

/// Writer that sends each write as a chunk and blocks while the channel is full.
struct ChunkWriter(mpsc::Sender<Bytes>);

impl Write for ChunkWriter {
    fn write(&mut self, chunk: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Bytes::copy_from_slice(chunk));
        sent.map(|()| chunk.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
