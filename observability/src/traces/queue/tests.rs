use std::time::UNIX_EPOCH;

use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{SpanEvents, SpanLinks};

use super::*;

const MIB: usize = 1024 * 1024;

fn new_queue() -> SpanQueue {
    SpanQueue::new(BatchConfig::default(), Arc::new(Metrics::new("test", "0", "0", 99, false)))
}

fn enqueue(queue: &SpanQueue, id: u64, bytes: usize) {
    queue.start();
    let (trace, span) = (TraceId::from(7), SpanId::from(id));
    let state = TraceState::default();
    queue.enqueue(SpanData {
        span_context: SpanContext::new(trace, span, TraceFlags::SAMPLED, false, state),
        parent_span_id: SpanId::INVALID,
        parent_span_is_remote: false,
        span_kind: SpanKind::Internal,
        name: "span".into(),
        start_time: UNIX_EPOCH,
        end_time: UNIX_EPOCH,
        attributes: vec![KeyValue::new("text", "x".repeat(bytes))],
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: Status::Unset,
        instrumentation_scope: InstrumentationScope::default(),
    });
}

fn ids(batch: Option<Vec<SpanData>>) -> Vec<SpanId> {
    batch.into_iter().flatten().map(|span| span.span_context.span_id()).collect()
}

#[test]
fn large_spans_fill_queue() {
    let queue = new_queue();
    for id in 1..=40 {
        enqueue(&queue, id, MIB);
    }
    let state = queue.state.lock();
    assert!(state.bytes <= MAX_QUEUE_BYTES, "{}", state.bytes);
    assert_eq!((state.spans.len(), state.dropped), (31, 9));
    assert_eq!(queue.metrics.spans.dropped(), 9);
}

#[test]
fn batch_is_split_by_size() {
    let queue = new_queue();
    for (id, size) in [(1, 2 * MIB), (2, MIB), (3, 5 * MIB), (4, 1)] {
        enqueue(&queue, id, size);
    }
    let batches = [(); 4].map(|()| ids(queue.dequeue(false)));
    let expected = [vec![1, 2], vec![3], vec![4], vec![]];
    assert_eq!(batches, expected.map(|ids| ids.into_iter().map(SpanId::from).collect::<Vec<_>>()));
    assert_eq!(queue.state.lock().bytes, 0);
}

#[test]
fn requeued_batch_is_next() {
    let queue = new_queue();
    (1..=3).for_each(|id| enqueue(&queue, id, 1));
    let bytes = queue.state.lock().bytes;
    let batch = queue.dequeue(false).unwrap();
    let expected = ids(Some(batch.clone()));
    enqueue(&queue, 4, 1);
    queue.requeue(batch);
    assert_eq!(queue.state.lock().bytes, bytes / 3 * 4);
    assert_eq!(ids(queue.dequeue(false))[..3], expected);
    assert!(queue.dequeue(true).is_none());
}
