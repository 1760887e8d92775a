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
    value: f64,
    time: SystemTime,
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
        let mut hex = [0; 48];
        write_hex(&mut hex, &self.ids);
        let hex = std::str::from_utf8(&hex).unwrap_or_default();
        let (trace_id, span_id) = hex.split_at(32);
        write!(
            f,
            "{{trace_id=\"{trace_id}\",span_id=\"{span_id}\"}} {} {}",
            self.value,
            Timestamp(self.time)
        )
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
