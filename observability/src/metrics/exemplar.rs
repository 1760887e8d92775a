//! Exemplars: for each bucket or counter, the trace of the last sampled request that it counts.

use std::fmt::{self, Display};
use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry::trace::SpanContext;
use parking_lot::Mutex;

use crate::hex::write_hex;

/// Value and ids of one request. Its labels stay within the 128 characters that OpenMetrics 1.0, section
/// "Exemplars", allows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Exemplar {
    ids: [u8; 24],
    pub(super) value: f64,
    pub(super) time: SystemTime,
}

impl Exemplar {
    /// Calls `f` with the hexadecimal trace id and span id.
    pub(super) fn with_ids<T>(&self, f: impl FnOnce(&str, &str) -> T) -> T {
        let mut hex = [0; 48];
        write_hex(&mut hex, &self.ids);
        let (trace_id, span_id) = std::str::from_utf8(&hex).unwrap_or_default().split_at(32);
        f(trace_id, span_id)
    }
}

/// Last exemplar of one bucket or counter.
#[derive(Debug, Default)]
pub(super) struct ExemplarSlot(Mutex<Option<Exemplar>>);

impl ExemplarSlot {
    pub(super) fn set(&self, value: f64, span: &SpanContext) {
        // Of two requests that end at the same time, one exemplar is enough. None waits for the lock.
        let Some(mut slot) = self.0.try_lock() else { return };
        let mut ids = [0; 24];
        ids[..16].copy_from_slice(&span.trace_id().to_bytes());
        ids[16..].copy_from_slice(&span.span_id().to_bytes());
        *slot = Some(Exemplar { ids, value, time: SystemTime::now() });
    }

    pub(super) fn get(&self) -> Option<Exemplar> {
        *self.0.lock()
    }
}

/// Writes `{trace_id="…",span_id="…"} value time`.
impl Display for Exemplar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (value, time) = (self.value, Timestamp(self.time));
        self.with_ids(|trace_id, span_id| {
            write!(f, "{{trace_id=\"{trace_id}\",span_id=\"{span_id}\"}} {value} {time}")
        })
    }
}

/// Seconds since the Unix epoch with milliseconds.
pub(super) struct Timestamp(pub(super) SystemTime);

impl Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = self.0.duration_since(UNIX_EPOCH).unwrap_or_default();
        write!(f, "{}.{:03}", time.as_secs(), time.subsec_millis())
    }
}
