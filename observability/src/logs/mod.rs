//! Log lines: one per request and one per event, logfmt or JSON, written by a dedicated thread.
//!
//! A line is formatted into a reused buffer and handed to a writer that never waits. A slow
//! or closed stdout drops lines, which are counted, but delays no request.
//!
//! ```
//! # fn handler(order: u64) {
//! // level=info service=G target=shop msg="order accepted" order=7 trace_id=… span_id=…
//! tracing::info!(target: "shop", order, "order accepted");
//! # }
//! ```

mod access;
mod encoder;
mod layer;
mod writer;

use std::cell::RefCell;
use std::sync::Arc;

use tracing::Level;
use tracing_subscriber::filter::Targets;

use crate::config::LogFormat;

use encoder::{LineEncoder, key};

pub(crate) use access::AccessEntry;
pub(crate) use layer::LogLayer;
pub(crate) use writer::NonBlockingWriter;

/// Target of the lines of requests, for `RUST_LOG`: `RUST_LOG=info,access=warn`.
pub const ACCESS_TARGET: &str = "access";

/// Capacity that the buffer of a thread keeps after a long line, in bytes.
const KEPT_CAPACITY: usize = 16 * 1024;

/// Formats the lines of one service. A clone writes to the same writer.
#[derive(Clone)]
pub(crate) struct Logger {
    writer: Arc<NonBlockingWriter>,
    format: LogFormat,
    service: &'static str,
    /// Enabled levels of access lines: info, warn, error.
    access: [bool; 3],
}

impl Logger {
    pub(crate) fn new(
        writer: Arc<NonBlockingWriter>,
        format: LogFormat,
        service: &'static str,
        filter: &Targets,
    ) -> Self {
        let access = [Level::INFO, Level::WARN, Level::ERROR]
            .map(|level| filter.would_enable(ACCESS_TARGET, &level));
        Self { writer, format, service, access }
    }

    pub(crate) fn writer(&self) -> &NonBlockingWriter {
        &self.writer
    }

    /// Writes a warning without `tracing`, for a process whose subscriber lacks the log layer.
    pub(crate) fn warn(&self, message: &str) {
        self.write_line("warn", |line| {
            line.field_str(key!("target"), "observability");
            line.field_quoted(key!("msg"), message);
        });
    }

    /// Writes one line. `fields` adds what follows the level and the service.
    fn write_line(&self, level: &str, fields: impl FnOnce(&mut LineEncoder<'_>)) {
        thread_local! {
            static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        let write = |buffer: &mut Vec<u8>| {
            buffer.clear();
            let mut line = LineEncoder::start(buffer, self.format, level, self.service);
            fields(&mut line);
            line.end();
            self.writer.write_line(buffer);
            buffer.shrink_to(KEPT_CAPACITY);
        };
        BUFFER.with(|buffer| match buffer.try_borrow_mut() {
            Ok(mut buffer) => write(&mut buffer),
            // The buffer is in use if formatting a value writes a line itself.
            Err(_) => write(&mut Vec::new()),
        });
    }
}

#[cfg(test)]
mod tests;
