//! End of a span whose duration was measured with the monotonic clock.

use std::time::{Duration, SystemTime};

use opentelemetry::trace::SpanRef;
use opentelemetry_sdk::trace::SpanData;

/// Latest end that is taken as relative. No span ends within a year of the epoch.
const MAX_RELATIVE: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Ends a span `duration` after its start.
///
/// The wall clock may be set while the span lives, and only the SDK knows the start. The end is therefore
/// set relative to the epoch, and [`resolve_end`] adds the start.
pub(crate) fn end_after(span: &SpanRef<'_>, duration: Duration) {
    span.end_with_timestamp(relative_end(duration));
}

/// Returns the timestamp that ends a span `duration` after its start; see [`end_after`].
pub(crate) fn relative_end(duration: Duration) -> SystemTime {
    SystemTime::UNIX_EPOCH + duration
}

/// Makes the end that [`end_after`] set absolute, and moves an end before the start to the start.
pub(super) fn resolve_end(span: &mut SpanData) {
    let relative = span.end_time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    if relative <= MAX_RELATIVE {
        span.end_time = span.start_time + relative;
    }
    span.end_time = span.end_time.max(span.start_time);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traces::test_span;

    #[test]
    fn clock_set_back_ends_at_start() {
        let mut span = test_span();
        span.end_time = span.start_time - Duration::from_secs(1);
        resolve_end(&mut span);
        assert_eq!(span.end_time, span.start_time);
    }
}
