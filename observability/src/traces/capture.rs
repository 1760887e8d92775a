//! Span processor that keeps spans in memory, for tests.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};
use parking_lot::Mutex;

use super::processor::finish_span;
use crate::config::SpanLimits;

/// Spans that have ended. A clone shares them.
#[derive(Debug, Clone, Default)]
pub(crate) struct SpanCapture {
    spans: Arc<Mutex<Vec<SpanData>>>,
    limits: SpanLimits,
}

impl SpanCapture {
    pub(crate) fn get(&self) -> Vec<SpanData> {
        self.spans.lock().clone()
    }

    pub(super) fn with_limits(mut self, limits: SpanLimits) -> Self {
        self.limits = limits;
        self
    }
}

impl SpanProcessor for SpanCapture {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, mut span: SpanData) {
        finish_span(&mut span, &self.limits);
        self.spans.lock().push(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}
