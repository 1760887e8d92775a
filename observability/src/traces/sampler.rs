//! Sampler that counts the spans it drops. The processor counts the others.

use opentelemetry::trace::{Link, SpanKind, TraceId};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{Sampler, SamplingDecision, SamplingResult, ShouldSample};

use crate::metrics::{ParentOrigin, UnsampledSpans};

#[derive(Debug, Clone)]
pub(super) struct CountingSampler {
    pub(super) sampler: Sampler,
    pub(super) unsampled: UnsampledSpans,
}

impl ShouldSample for CountingSampler {
    fn should_sample(
        &self,
        parent_context: Option<&Context>,
        trace_id: TraceId,
        name: &str,
        span_kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let result = self.sampler.should_sample(
            parent_context,
            trace_id,
            name,
            span_kind,
            attributes,
            links,
        );
        if result.decision == SamplingDecision::Drop {
            self.unsampled.started(parent_context.map_or(ParentOrigin::None, ParentOrigin::of));
        }
        result
    }
}
